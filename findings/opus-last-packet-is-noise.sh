#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2), Opus: a file is ended with a packet as short as it can be, 2.5 to 10 ms, and where
# that is one of 6 bytes, it decodes to noise: two sines below half of full scale, read back, are off by 0.7 to 1.1 of full
# scale in their last 10 ms, at lengths as ordinary as 1 s. A length that fills the last packet of 20 ms (counted with the
# encoder's delay of 312 samples at 48 kHz) is right to its end.
# Seen: "full packets: right", "others: noise" (0.1 s, 1 s and two odd lengths). This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "soundfile==0.14.0" "numpy==2.2.6"

"$folder/venv/bin/python" - <<'PY' | tee "$folder/seen"
import io

import numpy as np
import soundfile

rate = 48_000


def worst_at_end(samples):
    t = np.arange(samples) / rate
    audio = 0.4 * np.sin(2 * np.pi * 200 * t) + 0.1 * np.sin(2 * np.pi * 1234 * t)
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, format="OGG", subtype="OPUS")
    again, _ = soundfile.read(io.BytesIO(buffer.getvalue()))
    assert len(again) == samples
    return np.abs(again - audio)[-rate // 100 :].max()


full = max(worst_at_end(packets * 960 - 312) for packets in range(50, 60))
others = min(worst_at_end(samples) for samples in (4_800, 4_920, 48_000, 48_137))
print("full packets:", "right" if full < 0.2 else full)
print("others:", "noise" if others > 0.7 else others)
PY
diff "$folder/seen" - <<'EXPECTED'
full packets: right
others: noise
EXPECTED
