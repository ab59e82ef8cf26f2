#!/usr/bin/env bash
# PyTorch 2.13.0, CPU: `F.linear` of a single row, as a language model computes it at every step, is limited by reading the
# weights; in bfloat16 these are half as many bytes, and yet it takes some 85 % of the time of float32 (one core of an AMD
# EPYC, Zen 5, with AVX512-BF16: 15 GB/s in float32, 9 GB/s in bfloat16; 1024 x 5376, 1024 x 1024 and 1024 x 32769 alike).
# The same weights in the layout that `torch.ops.mkldnn._reorder_linear_weight` gives take two thirds of that, whatever the
# number of rows they were packed for. From some hundred rows on, packing makes no difference. So half precision
# gives little to generation on a CPU unless the weights are packed.
# Seen: "bfloat16 in more than 0.65 of float32's time True", "packed in less than 0.9 of bfloat16's True". This script
# fails if that changes; on a CPU without bfloat16 instructions it says so and does nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.2.6"

"$folder/venv/bin/python" - <<'PY' | tee "$folder/seen"
import sys
import time

import torch

if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
    print("no bfloat16 on this CPU", file=sys.stderr)
    print("bfloat16 in more than 0.65 of float32's time True")
    print("packed in less than 0.9 of bfloat16's True")
    sys.exit()
torch.set_num_threads(1)
torch.set_grad_enabled(False)
torch.manual_seed(0)
# More weights than caches hold, as a language model has.
single = [torch.randn(5376, 1024) for _ in range(12)]
half = [weight.bfloat16() for weight in single]
packed = [torch.ops.mkldnn._reorder_linear_weight(weight, 128) for weight in half]
row = torch.randn(1, 1024)
half_row = row.bfloat16()


def plain(x, weights):
    return [torch.nn.functional.linear(x, weight) for weight in weights]


def from_packed():
    return [torch.ops.mkldnn._linear_pointwise(half_row, weight, None, "none", [], "") for weight in packed]


def cpu_seconds(call):
    call()
    times = []
    for _ in range(20):
        before = time.process_time()
        call()
        times.append(time.process_time() - before)
    return min(times)


for one, other in zip(plain(half_row, half), from_packed()):
    torch.testing.assert_close(one, other, atol=0.5, rtol=0.02)
float32, bfloat16 = cpu_seconds(lambda: plain(row, single)), cpu_seconds(lambda: plain(half_row, half))
fast = cpu_seconds(from_packed)
print(f"float32 {1000 * float32:.1f} ms, bfloat16 {1000 * bfloat16:.1f} ms, packed {1000 * fast:.1f} ms", file=sys.stderr)
print("bfloat16 in more than 0.65 of float32's time", bfloat16 > 0.65 * float32)
print("packed in less than 0.9 of bfloat16's", fast < 0.9 * bfloat16)
PY
diff "$folder/seen" - <<'EXPECTED'
bfloat16 in more than 0.65 of float32's time True
packed in less than 0.9 of bfloat16's True
EXPECTED
