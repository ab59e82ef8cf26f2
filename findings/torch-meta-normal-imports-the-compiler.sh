#!/usr/bin/env bash
# PyTorch 2.13.0: `normal_` on the meta device, which computes nothing, imports torch._dynamo and sympy on its first call:
# 822 modules and 1.2 CPU seconds, as long as importing torch itself. `uniform_` does not. So building a module with an
# embedding under torch.device("meta"), the usual way to load weights without initialising them twice, pays for the
# compiler, while a module of linear layers and convolutions does not.
# Seen: "uniform_ False", "normal_ True", "Linear False", "Embedding True". This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.2.6"

imports_compiler() { # name, statement
    "$folder/venv/bin/python" - "$1" "$2" <<'PY'
import sys

import torch

name, statement = sys.argv[1:]
weight = torch.empty(4, 4, device="meta")
before = set(sys.modules)
exec(statement)
new = set(sys.modules) - before
print(name, "torch._dynamo" in new and "sympy" in new)
PY
}

{
    imports_compiler uniform_ 'weight.uniform_()'
    imports_compiler normal_ 'weight.normal_()'
    imports_compiler Linear 'torch.nn.Linear(4, 4, device="meta")'
    imports_compiler Embedding 'torch.nn.Embedding(4, 4, device="meta")'
} | tee "$folder/seen"
diff "$folder/seen" - <<'EXPECTED'
uniform_ False
normal_ True
Linear False
Embedding True
EXPECTED
