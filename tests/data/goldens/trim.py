"""Reduce the full golden sets to the files next to this script.

python trim.py FLEXICODEC_SET NANOCODEC_SET TTS_SET
"""

import json
import re
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

full, losses, speech, here = Path(sys.argv[1]), Path(sys.argv[2]) / "losses", Path(sys.argv[3]), Path(__file__).parent

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

# Losses: all signals and numbers, but for the discriminator of whole spectrograms, which differs from that of bands in
# its windows and dilations.
LEFT_OUT = ("encodec_mrstft", "lfsc_combined")
held = load_file(losses / "losses_io.safetensors")
(here / "nano_losses").mkdir(exist_ok=True)
kept = {name: tensor for name, tensor in held.items() if not name.startswith(LEFT_OUT)}
save_file(kept, here / "nano_losses" / "losses_io.safetensors")
(here / "nano_losses" / "losses_io.safetensors").chmod(0o644)
numbers = json.loads((losses / "losses.json").read_text())
numbers = {name: value for name, value in numbers.items() if not name.startswith(LEFT_OUT)}
(here / "nano_losses" / "losses.json").write_text(json.dumps(numbers, indent=1) + "\n")

# TTS: the smaller network of each kind, without intermediate steps of the long sampling run, and the text.
(here / "tts").mkdir(exist_ok=True)
for name in ("ar_b", "nar_b", "vocos_b"):
    for ending in ("weights", "golden"):
        held = load_file(speech / f"{name}.{ending}.safetensors")
        kept = {key: tensor for key, tensor in held.items() if not key.startswith("smp/n15/step")}
        save_file(kept, here / "tts" / f"{name}.{ending}.safetensors")
        (here / "tts" / f"{name}.{ending}.safetensors").chmod(0o644)
for name in ("ar_b", "nar_b", "vocos_b", "text"):
    config = json.loads((speech / f"{name}.json").read_text())
    config = {key: value for key, value in config.items() if key not in ("state_dict", "tensors")}
    (here / "tts" / f"{name}.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n")
