#!/usr/bin/env bash
# safetensors 0.8.0: `safetensors.numpy.save` and `save_file` write the memory of an array and the shape of its view. A
# transposed, reversed or strided array comes back with its values in other places; nothing is raised or warned about.
# (safetensors.torch refuses tensors that are not contiguous.) The result of `np.concatenate` or `.astype` on transposed
# arrays keeps their layout, so that also new arrays are affected. So: `np.ascontiguousarray` before saving.
# `safetensors.torch.save_file` moreover makes files of mode 0600 whatever the umask, and puts a file in the place of a
# link. Seen: the lines at the end. This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "safetensors==0.8.0" "torch==2.13.0" "numpy==2.2.6"

"$folder/venv/bin/python" - "$folder" <<'PY' | tee "$folder/seen"
import os
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load, save
from safetensors.torch import save_file

plain = np.arange(6).reshape(2, 3)
views = {
    "plain": plain,
    "transposed": plain.T,
    "every second": plain[:, ::2],
    "concatenated": np.concatenate([plain.T, plain.T], axis=1),
    "transposed, made contiguous": np.ascontiguousarray(plain.T),
}
for name, view in views.items():
    print(f"{name}: {view.tolist()} is read as {load(save({name: view}))[name].tolist()}")

os.umask(0o022)
folder = Path(sys.argv[1])
(folder / "held").write_bytes(b"")
(folder / "link").symlink_to(folder / "held")
save_file({"x": torch.zeros(2)}, folder / "link")
print(f"mode {(folder / 'link').stat().st_mode & 0o777:o}, still a link: {(folder / 'link').is_symlink()}")
PY
diff "$folder/seen" - <<'EXPECTED'
plain: [[0, 1, 2], [3, 4, 5]] is read as [[0, 1, 2], [3, 4, 5]]
transposed: [[0, 3], [1, 4], [2, 5]] is read as [[0, 1], [2, 3], [4, 5]]
every second: [[0, 2], [3, 5]] is read as [[0, 1], [2, 3]]
concatenated: [[0, 3, 0, 3], [1, 4, 1, 4], [2, 5, 2, 5]] is read as [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]]
transposed, made contiguous: [[0, 3], [1, 4], [2, 5]] is read as [[0, 3], [1, 4], [2, 5]]
mode 600, still a link: False
EXPECTED
