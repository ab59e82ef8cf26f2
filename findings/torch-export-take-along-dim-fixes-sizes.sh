#!/usr/bin/env bash
# PyTorch 2.13.0: torch.take_along_dim and Tensor.gather pick the same values, but torch.export cannot keep the sizes of
# take_along_dim dynamic. It broadcasts its two arguments, compares their sizes, and so fixes the batch and the indexed
# axis to those of the example inputs; the export fails with "specialized it to be a constant". gather with an expanded
# index keeps all of them dynamic. So a refactoring from gather to the shorter call breaks export alone, and no eager test.
# Seen: "gather dynamic", "take_along_dim fixed", and equal values. This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.2.6"

"$folder/venv/bin/python" - > "$folder/seen" 2> "$folder/log" <<'PY'
import torch


class Gather(torch.nn.Module):
    def forward(self, x, index):
        return x.gather(2, index[:, None].expand(-1, x.shape[1], -1))


class Take(torch.nn.Module):
    def forward(self, x, index):
        return torch.take_along_dim(x, index[:, None], dim=2)


x = torch.randn(2, 3, 5)
index = torch.tensor([[4, 0, 2, 2], [1, 1, 3, 0]])
dynamic = torch.export.Dim.DYNAMIC
print("equal", torch.equal(Gather()(x, index), Take()(x, index)))
for name, module in (("gather", Gather()), ("take_along_dim", Take())):
    try:
        torch.export.export(module, (x, index), dynamic_shapes=({0: dynamic, 2: dynamic}, {0: dynamic, 1: dynamic}))
        print(name, "dynamic")
    except Exception as error:
        print(name, "fixed" if "specialized it to be a constant" in str(error) else repr(error))
PY
cat "$folder/seen"
diff "$folder/seen" - <<'EXPECTED'
equal True
gather dynamic
take_along_dim fixed
EXPECTED
