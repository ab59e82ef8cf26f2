#!/usr/bin/env bash
# PyTorch 2.13.0: torch.load (weights_only=True, its default) opens a dictionary that holds bytes, unless one of them is
# empty. torch.save pickles by protocol 2, which has no opcode for bytes: full ones are a call of _codecs.encode, which is
# allowed, and empty ones a call of bytes, which is not. So a format that stores bytes beside tensors passes its tests and
# fails on the first empty field: "Unsupported global: GLOBAL bytes was not an allowed global by default".
# Seen: "b'x' opens", "b'' refused", "str '' opens". This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.2.6"

"$folder/venv/bin/python" - > "$folder/seen" 2> "$folder/log" <<'PY'
import io

import torch

for name, value in (("b'x'", b"x"), ("b''", b""), ("str ''", "")):
    file = io.BytesIO()
    torch.save({"weight": torch.ones(1), "note": value}, file)
    file.seek(0)
    try:
        assert torch.load(file)["note"] == value
        print(name, "opens")
    except Exception as error:
        print(name, "refused" if "GLOBAL bytes" in str(error) else repr(error))
PY
cat "$folder/seen"
diff "$folder/seen" - <<'EXPECTED'
b'x' opens
b'' refused
str '' opens
EXPECTED
