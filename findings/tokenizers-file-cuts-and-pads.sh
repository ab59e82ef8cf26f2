#!/usr/bin/env bash
# tokenizers 0.23.3, transformers 5.23.0: a tokenizer.json keeps the truncation and padding that were set when it was saved.
# `Tokenizer.from_file(...).encode_batch(texts)` applies both: texts come back cut to the saved length and filled up to
# the longest, without a word, also with add_special_tokens=False. `PreTrainedTokenizerFast` reads the same file and does
# neither unless it is asked, and after such a call it has changed the settings of its `backend_tokenizer` for the next
# user. `get_vocab_size()` counts ids: where those of the model have a gap, it is no upper limit of them, and a table with
# that many rows is too small. So: `no_truncation()`, `no_padding()`, and one above the largest of `get_vocab().values()`.
# Seen: the lines at the end. This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "tokenizers==0.23.3" "transformers==5.23.0"

"$folder/venv/bin/python" - "$folder" 2>/dev/null <<'PY' | tee "$folder/seen"
import sys

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

made = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "[PAD]": 3, "[UNK]": 9}, unk_token="[UNK]"))
made.pre_tokenizer = pre_tokenizers.Whitespace()
made.enable_truncation(4)
made.enable_padding(pad_id=3, pad_token="[PAD]")
path = sys.argv[1] + "/tokenizer.json"
made.save(path)

texts = ["a b c a b c a", "c"]


def ids(tokenizer):
    return [each.ids for each in tokenizer.encode_batch(texts, add_special_tokens=False)]


loaded = Tokenizer.from_file(path)
print("tokenizers:", ids(loaded))
loaded.no_truncation()
loaded.no_padding()
print("tokenizers, told not to:", ids(loaded))
fast = PreTrainedTokenizerFast(tokenizer_file=path, pad_token="[PAD]")
print("transformers, its backend before a call:", ids(fast.backend_tokenizer))
print("transformers:", fast(texts, add_special_tokens=False)["input_ids"])
print("transformers, its backend after it:", ids(fast.backend_tokenizer))
print("ids counted:", loaded.get_vocab_size(), "largest id:", max(loaded.get_vocab().values()))
PY
diff "$folder/seen" - <<'EXPECTED'
tokenizers: [[0, 1, 2, 0], [2, 3, 3, 3]]
tokenizers, told not to: [[0, 1, 2, 0, 1, 2, 0], [2]]
transformers, its backend before a call: [[0, 1, 2, 0], [2, 3, 3, 3]]
transformers: [[0, 1, 2, 0, 1, 2, 0], [2]]
transformers, its backend after it: [[0, 1, 2, 0, 1, 2, 0], [2]]
ids counted: 5 largest id: 9
EXPECTED
