#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: Moonshine's encoder with an attention mask still lets right padding into the frames of
# the clip. One leak is the group norm after the first convolution, whose statistics are over the padding too. The other is
# the mask: it is taken every 384 samples, which marks ceil(samples / 384) frames, where the convolutions of the clip alone
# make fewer (16000 samples: 42 for 40), so that real frames attend to frames of padding. One second alone, and padded to
# four with the mask, differ as much as two clips do; whoever batches clips for error rates gets other texts.
# Seen: "frames alone 40, marked 42", "differs True". This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "torch==2.13.0" "transformers==5.23.0" "numpy==2.2.6"

"$folder/venv/bin/python" - <<'PY' 2>/dev/null | tee "$folder/seen"
import torch
from transformers import MoonshineConfig, MoonshineModel

torch.manual_seed(0)
config = MoonshineConfig(
    hidden_size=48, intermediate_size=96, encoder_num_hidden_layers=2, decoder_num_hidden_layers=1,
    encoder_num_attention_heads=2, decoder_num_attention_heads=2, vocab_size=50,
)
model = MoonshineModel(config).eval()
for weight in model.parameters():
    if weight.ndim > 1:
        torch.nn.init.normal_(weight, std=2 * weight[0].numel() ** -0.5)
clip = 0.1 * torch.randn(1, 16_000)
padded = torch.nn.functional.pad(clip, (0, 48_000))
mask = torch.nn.functional.pad(torch.ones(1, 16_000), (0, 48_000))
with torch.no_grad():
    alone = model.encoder(clip).last_hidden_state[0]
    both = model.encoder(padded, attention_mask=mask)
print(f"frames alone {len(alone)}, marked {int(both.attention_mask.sum())}")
difference = (both.last_hidden_state[0, : len(alone)] - alone).abs().max() / alone.std()
print("differs", bool(difference > 0.1))
PY
diff "$folder/seen" - <<'EXPECTED'
frames alone 40, marked 42
differs True
EXPECTED
