#!/usr/bin/env bash
# lhotse 1.33.0: `SupervisionSet.with_alignment_from_ctm` takes a CTM's channel for lhotse's own channel number. NIST's CTMs
# (and so Kaldi's and sctk's) count channels from 1, lhotse from 0: in a call of two channels, match_channel=True gives
# the second speaker the words of the first, and the first speaker none; nothing is raised or logged. The default,
# match_channel=False, gives both speakers the words of both. Reading phones after words also drops the words: every call
# replaces the alignments of all types. So: map channels to 0 and 1 in the CTM first, and merge types by hand.
# (urllib3 is imported, but not among what lhotse requires.) Seen: the lines at the end. This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "lhotse==1.33.0" "torch==2.13.0" "numpy==2.2.6" "urllib3==2.5.0"

cat >"$folder/words.ctm" <<'CTM'
call 1 0.10 0.30 anna
call 1 1.10 0.30 asks
call 2 0.60 0.30 ben
call 2 1.60 0.30 answers
CTM
sed 's/anna/AA/; s/asks/S/; s/ben/B/; s/answers/N/' "$folder/words.ctm" >"$folder/phones.ctm"

"$folder/venv/bin/python" - "$folder" <<'PY' | tee "$folder/seen"
import sys

from lhotse import SupervisionSegment, SupervisionSet

folder = sys.argv[1]
calls = SupervisionSet.from_segments(
    SupervisionSegment(f"call-{channel}", "call", 0.0, 2.0, channel=channel, speaker=speaker)
    for channel, speaker in enumerate(("anna", "ben"))
)


def show(title, supervisions):
    for each in supervisions:
        words = {kind: " ".join(item.symbol for item in items) for kind, items in each.alignment.items()}
        print(title, "channel", each.channel, each.speaker, words)


show("default", calls.with_alignment_from_ctm(f"{folder}/words.ctm"))
matched = calls.with_alignment_from_ctm(f"{folder}/words.ctm", match_channel=True)
show("matched", matched)
show("phones too", matched.with_alignment_from_ctm(f"{folder}/phones.ctm", type="phone", match_channel=True))
PY
diff "$folder/seen" - <<'EXPECTED'
default channel 0 anna {'word': 'anna ben asks answers'}
default channel 1 ben {'word': 'anna ben asks answers'}
matched channel 0 anna {'word': ''}
matched channel 1 ben {'word': 'anna asks'}
phones too channel 0 anna {'phone': ''}
phones too channel 1 ben {'phone': 'AA S'}
EXPECTED
