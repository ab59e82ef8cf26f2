#!/usr/bin/env bash
# PyTorch 2.13.0: len(x) and x.shape[0] are the same number, but under torch.export only the second stays symbolic. Python
# turns the result of len into a plain integer, which fixes the size, and with it the sizes it was computed from. With
# Dim.DYNAMIC the export fails; with Dim.AUTO, which torch.onnx suggests for many inputs, it succeeds without a word, and
# the exported module refuses any other size when it runs. So a graph that is only tried at the traced size looks fine.
# Seen: "shape dynamic" and "len fixed", refused with DYNAMIC, accepted and wrong with AUTO. Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.2.6"

"$folder/venv/bin/python" - > "$folder/seen" 2> "$folder/log" <<'PY'
import torch


class Len(torch.nn.Module):
    def forward(self, x):
        steps = x.flatten(0, 1)
        return steps * torch.arange(len(steps))[:, None]


class Shape(torch.nn.Module):
    def forward(self, x):
        steps = x.flatten(0, 1)
        return steps * torch.arange(steps.shape[0])[:, None]


example, other = torch.ones(2, 5, 3), torch.ones(2, 9, 3)
print("equal", torch.equal(Len()(example), Shape()(example)))
for name, module in (("shape", Shape()), ("len", Len())):
    for kind in ("DYNAMIC", "AUTO"):
        try:
            exported = torch.export.export(module, (example,), dynamic_shapes={"x": {1: getattr(torch.export.Dim, kind)}})
        except Exception as error:
            print(name, kind, "refused" if "specialized it to be a constant" in str(error) else repr(error))
            continue
        try:
            exported.module()(other)
            print(name, kind, "dynamic")
        except Exception as error:
            print(name, kind, "fixed" if "Guard failed" in str(error) else repr(error))
PY
cat "$folder/seen"
diff "$folder/seen" - <<'EXPECTED'
equal True
shape DYNAMIC dynamic
shape AUTO dynamic
len DYNAMIC refused
len AUTO fixed
EXPECTED
