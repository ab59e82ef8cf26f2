#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0): LlamaModel reads `position_ids` whose steps are not 1 as packed documents, if neither a
# mask nor a cache is given, as in training with `use_cache=False`: attention then stops at every jump. Positions in units of
# time (frames of tokens that last 2 frames each: 0, 2, 4, ...) so leave every token alone, in training only; a mask of
# ones, or a cache, restores attention. Beside a cache, a mask of the new positions alone is taken without complaint and gives
# another result. So: always pass a mask, of all positions up to now.
# Seen: the lines at the end. This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "torch==2.13.0" "transformers==5.23.0" "numpy==2.2.6"

HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY' | tee "$folder/seen"
import torch
from transformers import DynamicCache, LlamaConfig, LlamaModel

torch.set_grad_enabled(False)
torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
model = LlamaModel(LlamaConfig(vocab_size=8, bos_token_id=None, eos_token_id=None, initializer_range=0.2, **sizes)).eval()
x = torch.randn(1, 6, 32)
changed = x.clone()
changed[:, 0] += 1
steady = torch.arange(6)[None]
ones = torch.ones(1, 6, dtype=torch.long)


def sees_the_first(**options):
    difference = model(inputs_embeds=x, **options)[0] - model(inputs_embeds=changed, **options)[0]
    return bool(difference[0, -1].abs().max() > 1e-3)


print("positions 0 1 2 ...: the last position sees the first", sees_the_first(position_ids=steady, use_cache=False))
print("positions 0 2 4 ...", sees_the_first(position_ids=2 * steady, use_cache=False))
print("and a mask of ones", sees_the_first(position_ids=2 * steady, use_cache=False, attention_mask=ones))
print("and a cache", sees_the_first(position_ids=2 * steady, use_cache=True))

whole = model(inputs_embeds=x)[0][0, -1]


def step_equals_whole(mask):
    cache = DynamicCache(config=model.config)
    model(inputs_embeds=x[:, :5], attention_mask=ones[:, :5], past_key_values=cache, use_cache=True)
    step = model(inputs_embeds=x[:, 5:], attention_mask=mask, past_key_values=cache, use_cache=True)[0][0, -1]
    return torch.allclose(step, whole, atol=1e-4)


print("a step with a mask of all positions equals the whole", step_equals_whole(ones))
print("with a mask of the new one", step_equals_whole(ones[:, :1]))
PY
diff "$folder/seen" - <<'EXPECTED'
positions 0 1 2 ...: the last position sees the first True
positions 0 2 4 ... False
and a mask of ones True
and a cache True
a step with a mask of all positions equals the whole True
with a mask of the new one False
EXPECTED
