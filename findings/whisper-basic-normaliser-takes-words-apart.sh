#!/usr/bin/env bash
# whisper_normalizer 0.1.15 and transformers 5.23.0: BasicTextNormalizer, Whisper's normaliser for all languages but English,
# promises to keep diacritics (remove_diacritics=False) and yet replaces every combining mark without a composed form by a
# space. French is untouched; Hindi, Tamil and Thai lose their vowel signs and a word becomes several, so a WER after it
# counts other words than the language has, and words that differ by a vowel sign alone are equal.
# split_letters=True, which is for languages without spaces, splits only what is left.
# Seen: 1 word of 1 in French, 3 in Hindi, 2 in Tamil and Thai; two Hindi words equal; 4 of 6 letters left. This script
# fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "whisper_normalizer==0.1.15" "transformers==5.23.0"

"$folder/venv/bin/python" - <<'PY' | tee "$folder/seen"
from transformers.models.whisper.english_normalizer import BasicTextNormalizer as Transformers
from whisper_normalizer.basic import BasicTextNormalizer as Whisper

WORDS = {"French": "élève", "Hindi": "हिन्दी", "Tamil": "தமிழ்", "Thai": "สวัสดี"}
for package, normaliser in (("whisper_normalizer", Whisper()), ("transformers", Transformers())):
    for language, word in WORDS.items():
        print(package, language, len(normaliser(word).split()), "words of 1", normaliser(word).split() == [word])
    # "father" and "yellow": pita and pīta.
    print(package, "पिता = पीता", normaliser("पिता") == normaliser("पीता"))
print("letters of the Thai word", len(WORDS["Thai"]), "left", len(Whisper(split_letters=True)(WORDS["Thai"]).split()))
PY
diff "$folder/seen" - <<'EXPECTED'
whisper_normalizer French 1 words of 1 True
whisper_normalizer Hindi 3 words of 1 False
whisper_normalizer Tamil 2 words of 1 False
whisper_normalizer Thai 2 words of 1 False
whisper_normalizer पिता = पीता True
transformers French 1 words of 1 True
transformers Hindi 3 words of 1 False
transformers Tamil 2 words of 1 False
transformers Thai 2 words of 1 False
transformers पिता = पीता True
letters of the Thai word 6 left 4
EXPECTED
