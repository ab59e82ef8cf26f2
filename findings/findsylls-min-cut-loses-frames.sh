#!/usr/bin/env bash
# findsylls 3.3.0: both min-cut segmenters (SyllableLM's) lose frames without a word, although they promise boundaries from 0 to
# the end. `min_cut` ends at N - 1, so that the last frame is in no syllable. `min_cut_optimized(max_hop=50)` allows hops of 49
# at most, and where so many frames cannot be cut into K - 1 hops, "impossible" is a cost of 100,000 like any other: two
# syllables of 50 frames come back as 2 ... 51 ... 100, of 60 frames as 22 ... 71 ... 120. And the scorer pairs only mutual
# nearest neighbours: two found boundaries that lie 40 ms before two true ones count as one hit at a tolerance of 50 ms, where a
# matching one to one has two. So: check that boundaries begin at 0, raise max_hop by one, and do not compare its F1 with others.
# Seen: the lines at the end. This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
pip "torch==2.13.0" "numpy==2.2.6" "tqdm==4.67.1"
pip --no-deps "findsylls==3.3.0"

"$folder/venv/bin/python" - <<'PY' | tee "$folder/seen"
# `import findsylls` imports plotting and much else; here only the two modules are.
import sys
import types
from importlib.metadata import distribution

for name in ("findsylls", "findsylls.segmentation", "findsylls.evaluation"):
    package = types.ModuleType(name)
    package.__path__ = [str(distribution("findsylls").locate_file(name.replace(".", "/")))]
    sys.modules[name] = package

import numpy as np
from findsylls.evaluation.boundaries import evaluate_syllable_boundaries
from findsylls.segmentation.mincut import min_cut, min_cut_optimized


def syllables(*frames):
    """Similarities of syllables whose frames are equal, and unlike those of the others."""
    features = np.repeat(np.eye(len(frames)), frames, axis=0)
    return features @ features.T + 1e-7


def show(title, boundaries):
    print(title, [int(each) for each in boundaries])


show("10 10 10", min_cut(syllables(10, 10, 10), 4))
show("10 10 10, optimized", min_cut_optimized(syllables(10, 10, 10), 4))
show("49 49, optimized", min_cut_optimized(syllables(49, 49), 3))
show("50 50, optimized", min_cut_optimized(syllables(50, 50), 3))
show("60 60, optimized", min_cut_optimized(syllables(60, 60), 3))
scores = evaluate_syllable_boundaries([(1.0, 1.05)], {"intervals": [(1.04, 1.09)]}, 0.05)
print("hits", scores["TP"], "missed", scores["deletions"], "false", scores["insertions"])
PY
diff "$folder/seen" - <<'EXPECTED'
10 10 10 [0, 10, 20, 29]
10 10 10, optimized [0, 10, 20, 30]
49 49, optimized [0, 49, 98]
50 50, optimized [2, 51, 100]
60 60, optimized [22, 71, 120]
hits 1 missed [1.09] false [1.0]
EXPECTED
