"""Cut the full golden set of FlexiCodec down to what lies beside this script: `python trim.py FULL_SET`."""

import json
import re
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

full, here = Path(sys.argv[1]), Path(__file__).parent

KEEP = re.compile(
    r"cmvn|./audio|b/(semantic_ds|dac_enc|sim)|./thr.*/(token_lengths|semantic_codes|acoustic_codes)"
    r"|b/thr0.91/(?!n\d).*"
)
held = load_file(full / "small_b.golden.safetensors")
save_file({name: held[name] for name in held if KEEP.fullmatch(name)}, here / "small_b.golden.safetensors")
save_file(load_file(full / "small_b.weights.safetensors"), here / "small_b.weights.safetensors")
config = json.loads((full / "small_b.json").read_text())
config = {name: value for name, value in config.items() if name not in ("meta", "tensors")}
(here / "small_b.json").write_text(json.dumps(config, indent=1) + "\n")

SIGNALS = re.compile(r"lfr_toy/.*|(silence|noise|n399|n400|n559|n560|clip)/(audio|fbank|features)")
held = load_file(full / "frontend.safetensors")
save_file({name: held[name] for name in held if SIGNALS.fullmatch(name)}, here / "frontend.safetensors")
