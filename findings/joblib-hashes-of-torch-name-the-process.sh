#!/usr/bin/env bash
# joblib 1.6.0 with PyTorch 2.13.0: joblib.hash of a tensor or module is the same all day in one process, and another one in
# the next. joblib hashes pickles, and PyTorch pickles the memory of a tensor by torch.save in its old format, whose key of it is
# its address. In one process an equal copy has another hash too. So joblib.Memory with a model or tensor among its arguments finds
# nothing again after a restart, and says nothing: the cache only grows. numpy arrays of the same values are alike everywhere.
# Seen: "array: equal", "tensor: differs", "module: differs", "copy of a tensor: differs". This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.2.6" "joblib==1.6.0"

cat > "$folder/hashes.py" <<'PY'
import sys

import joblib
import numpy as np
import torch

taken = [torch.empty(int(sys.argv[1]))]  # as if something else had run before
module = torch.nn.Linear(3, 3)
with torch.no_grad():
    module.weight.fill_(1.0)
    module.bias.fill_(0.0)
values = {"array": np.ones(1000, np.float32), "tensor": torch.ones(1000), "module": module}
for name, value in values.items():
    print(name, joblib.hash(value))
    assert joblib.hash(value) == joblib.hash(value)
print("copy", joblib.hash(torch.ones(1000)))
PY
"$folder/venv/bin/python" "$folder/hashes.py" 10 > "$folder/first" 2> "$folder/log"
"$folder/venv/bin/python" "$folder/hashes.py" 100000 > "$folder/second" 2>> "$folder/log"
of() { grep "^$2 " "$folder/$1" | cut -d" " -f2; }
compare() { if [ "$2" = "$3" ]; then echo "$1: equal"; else echo "$1: differs"; fi; }
{
    for name in array tensor module; do
        compare "$name" "$(of first "$name")" "$(of second "$name")"
    done
    compare "copy of a tensor" "$(of first tensor)" "$(of first copy)"
} > "$folder/seen"
cat "$folder/seen"
diff "$folder/seen" - <<'EXPECTED'
array: equal
tensor: differs
module: differs
copy of a tensor: differs
EXPECTED
