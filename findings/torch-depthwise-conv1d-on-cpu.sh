#!/usr/bin/env bash
# PyTorch 2.13.0, CPU: `F.conv1d` with as many groups as channels (depthwise, as in ConvNeXt) takes several times as long as
# `F.conv2d` of the same numbers as an image of height 1 with channels last in memory: 8 to 20 times on one core of an AMD
# EPYC (Zen 5), float32, 448 channels, kernel 7, 512 steps; whether conv1d's input is contiguous makes no difference. With
# gradients it was 2.9 times for a batch of 8 x 52 steps. Between linear layers on [batch, time, channels] the image needs no
# copies, and conv1d two. Under autocast to bfloat16 the image takes longer than in float32.
# Seen: "equal True", "forward more than twice as fast True". This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.2.6"

"$folder/venv/bin/python" - <<'PY' | tee "$folder/seen"
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(0)
channels, steps, kernel = 448, 512, 7
x = torch.randn(1, steps + kernel - 1, channels)  # channels last, as linear layers take it
weight = torch.randn(channels, 1, kernel)
bias = torch.randn(channels)


def as_line():
    return F.conv1d(x.mT, weight, bias, groups=channels).mT.contiguous()


def as_image():
    image = x.mT.unsqueeze(2).contiguous(memory_format=torch.channels_last)  # no copy: it is in this order already
    filters = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    return F.conv2d(image, filters, bias, groups=channels).squeeze(2).mT.contiguous()


def seconds(function):
    times = []
    for _ in range(100):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


line, image = seconds(as_line), seconds(as_image)
print(f"conv1d {1000 * line:.2f} ms, conv2d {1000 * image:.2f} ms", file=sys.stderr)
print("equal", torch.allclose(as_line(), as_image(), atol=1e-5))
print("forward more than twice as fast", line > 2 * image)
PY
diff "$folder/seen" - <<'EXPECTED'
equal True
forward more than twice as fast True
EXPECTED
