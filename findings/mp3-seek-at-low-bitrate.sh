#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2 with libmpg123), MP3: after a seek, the first frames are decoded without the bits that
# earlier frames left for them. At 320 kbit/s, the samples behind a seek are those of the whole file; at 32 kbit/s and
# 48 kHz, as at 8 kbit/s and 16 kHz, they are off by half of full scale for up to half a second, without an error. Decoding
# from 1 s before the wanted sample, and dropping that, gives the whole file's samples.
# Seen: "low 0 s before: wrong", "low 1 s before: right", "high 0 s before: right", "high 1 s before: right".
# This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "soundfile==0.14.0" "numpy==2.2.6"

"$folder/venv/bin/python" - "$folder" 2>/dev/null <<'PY' | tee "$folder/seen"
import sys

import numpy as np
import soundfile

rate = 48_000
t = np.arange(30 * rate) / rate
voice = 0.2 * np.sin(2 * np.pi * 3 * t) * sum(np.sin(2 * np.pi * 180 * k * t + k) / k for k in range(1, 9))
# Syllables with pauses: the encoder saves bits in the pauses.
audio = voice * (np.floor(2 * t) % 2) + 0.003 * np.random.default_rng(0).standard_normal(len(t))
for name, level in (("low", 0.999), ("high", 0.0)):
    path = f"{sys.argv[1]}/{name}.mp3"
    with soundfile.SoundFile(
        path, "w", rate, 1, "MPEG_LAYER_III", format="MP3", bitrate_mode="CONSTANT", compression_level=level
    ) as file:
        file.write(audio)
    whole, _ = soundfile.read(path)
    for before in (0, 1):
        worst = 0.0
        for begin in range(10 * rate, 28 * rate, rate // 3):
            with soundfile.SoundFile(path) as file:
                file.seek(begin - before * rate)
                part = file.read(before * rate + 500)[before * rate :]
            worst = max(worst, np.abs(part - whole[begin : begin + 500]).max())
        print(f"{name} {before} s before: {'right' if worst < 1e-5 else 'wrong' if worst > 0.1 else worst}")
PY
diff "$folder/seen" - <<'EXPECTED'
low 0 s before: wrong
low 1 s before: right
high 0 s before: right
high 1 s before: right
EXPECTED
