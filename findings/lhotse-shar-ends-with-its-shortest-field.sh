#!/usr/bin/env bash
# lhotse 1.33.0: `CutSet.from_shar` reads cuts and recordings side by side and ends, without a word, where the shorter of
# the two does. It checks that names agree, so a clip that is missing at the start is an error ("Mismatched IDs"), but
# a valid tar that lacks its last clips gives fewer cuts: the corpus is smaller, and nothing says so. Count them against
# the lines of cuts.*.jsonl.gz.
# Seen: "whole 4 of 4", "first missing AssertionError", "last missing 3 of 4". This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "lhotse==1.33.0" "numpy==2.2.6" "soundfile==0.14.0" "torch==2.13.0" "urllib3==2.8.0"

"$folder/venv/bin/python" - "$folder" <<'PY' | tee "$folder/seen"
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, MonoCut, Recording

folder = Path(sys.argv[1])
shar = folder / "shar"
shar.mkdir()
soundfile.write(folder / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 32_000), 16_000)
recording = Recording.from_file(folder / "a.wav")
cuts = [MonoCut(f"c{i}", 0.5 * i, 0.5, 0, recording=recording) for i in range(4)]
CutSet.from_cuts(cuts).to_shar(shar, fields={"recording": "wav"}, shard_size=10)
with tarfile.open(shar / "recording.000000.tar") as tar:
    members = [(member, tar.extractfile(member).read()) for member in tar]


def read(name, kept):
    """Write a valid tar with some of the members, and count the cuts that come of it."""
    with tarfile.open(shar / "recording.000000.tar", "w") as tar:
        for member, content in kept:
            tar.addfile(member, io.BytesIO(content))
    try:
        print(name, len(list(CutSet.from_shar(in_dir=shar))), "of", len(cuts))
    except AssertionError:
        print(name, "AssertionError")


read("whole", members)
read("first missing", members[2:])  # each clip is audio and JSON
read("last missing", members[:-2])
PY
diff "$folder/seen" - <<'EXPECTED'
whole 4 of 4
first missing AssertionError
last missing 3 of 4
EXPECTED
