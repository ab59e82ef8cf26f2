#!/usr/bin/env bash
# lhotse 1.33.0: `load_kaldi_data_dir` gives every supervision channel 0. In a Kaldi directory of a two-channel call, where
# wav.scp lists the file once a side and reco2file_and_channel names the sides A and B, the text and the speaker of side B
# land on channel 0, which is side A: no error, no warning, and a cut of either side returns both channels. The fifth
# column of segments, Kaldi's way to name a channel (extract-segments), is an error about "values to unpack".
# Seen: "c-A 0 left", "c-B 0 right", and twice "MonoCut 2 channels: 0.1 0.3"; then "ValueError". This script fails if that
# changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# lhotse imports urllib3 and does not require it.
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "lhotse==1.33.0" "soundfile==0.13.1" \
    "numpy==2.2.6" "urllib3==2.8.0"

"$folder/venv/bin/python" -W ignore - "$folder" >"$folder/seen" <<'PY'
import sys
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet
from lhotse.kaldi import load_kaldi_data_dir

data = Path(sys.argv[1]) / "data"
data.mkdir()
sides = [0.1, 0.3]  # the level of each side tells which is read
soundfile.write(data / "call.wav", np.tile(sides, (16_000, 1)), 8000)
(data / "wav.scp").write_text(f"c-A {data}/call.wav\nc-B {data}/call.wav\n")
(data / "text").write_text("c-A left\nc-B right\n")
(data / "utt2spk").write_text("c-A ann\nc-B bob\n")
(data / "reco2file_and_channel").write_text("c-A c A\nc-B c B\n")

recordings, supervisions, _ = load_kaldi_data_dir(data, 8000)
for supervision in supervisions:
    print(supervision.id, supervision.channel, supervision.text)
for cut in CutSet.from_manifests(recordings, supervisions).trim_to_supervisions():
    audio = cut.load_audio()
    print(type(cut).__name__, len(audio), "channels:", *(f"{level:.1f}" for level in audio.mean(axis=1)))

(data / "segments").write_text("u1 c-A 0 1 0\nu2 c-A 0 1 1\n")  # channels from 0
try:
    load_kaldi_data_dir(data, 8000)
except ValueError:
    print("ValueError")
PY
cat "$folder/seen"
diff "$folder/seen" - <<'EXPECTED'
c-A 0 left
c-B 0 right
MonoCut 2 channels: 0.1 0.3
MonoCut 2 channels: 0.1 0.3
ValueError
EXPECTED
