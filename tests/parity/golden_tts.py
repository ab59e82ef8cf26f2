"""Golden cases of FlexiCodec-TTS: `NAME.json`, whose content says what it is, and the tensors beside it.

Everything is read from the files: sizes, rates, runs and seeds, so that other cases of the same form run without a
change.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file

from flexicodec.models.tts.convert_upstream import (
    alignment_from_upstream,
    ar_from_upstream,
    flow_from_upstream,
    vocos_from_upstream,
)

WEIGHTS, GOLDEN = ".weights.safetensors", ".golden.safetensors"
ALIGNMENT = "repa_projection."
# A key of upstream's arguments, or of the file itself, that only one kind of case has.
KINDS = {"text_encoder_input_size": "ar", "cond_codebook_size": "flow", "n_fft": "vocos"}
OTHER_KINDS = {"n_timesteps": "end_to_end", "mel_filterbank": "mel", "rewrite_table_measured": "text"}
WITHOUT_WEIGHTS = ("end_to_end", "mel", "text")


@dataclass(frozen=True, eq=False)
class TTSCase:
    """One network, or one function, and its outputs."""

    path: Path
    name: str
    kind: str

    @cached_property
    def held(self):
        return json.loads(self.path.read_text())

    @cached_property
    def tensors(self):
        return load_file(self.path.with_suffix(GOLDEN))

    @cached_property
    def weights(self):
        held = load_file(self.path.with_suffix(WEIGHTS))
        return {name: value for name, value in held.items() if not name.startswith(ALIGNMENT)}

    @cached_property
    def model(self):
        build = {"ar": ar_from_upstream, "flow": flow_from_upstream, "vocos": vocos_from_upstream}[self.kind]
        return build(self.held["config"], self.weights)

    @cached_property
    def alignment(self):
        held = load_file(self.path.with_suffix(WEIGHTS))
        return alignment_from_upstream({name: value for name, value in held.items() if name.startswith(ALIGNMENT)})

    def beside(self, name, kind):
        """Another case of the same folder."""
        return TTSCase(self.path.with_name(name + ".json"), name, kind)

    def recorded(self, prefix):
        """Tensors below a prefix, by the rest of their names."""
        return {name.removeprefix(prefix): each for name, each in self.tensors.items() if name.startswith(prefix)}

    @property
    def training_runs(self):
        """Names of the recorded training steps."""
        runs = self.held["training"]
        return [name for name, run in runs.items() if isinstance(run, dict) and "torch_seed" in run]


def kind_of(held):
    """Return the kind of case a json describes, None for none of TTS."""
    if not isinstance(held, dict):
        return None
    config = held.get("config")
    if isinstance(config, dict):
        return next((kind for key, kind in KINDS.items() if key in config), None)
    return next((kind for key, kind in OTHER_KINDS.items() if key in held), None)


def read_tts_case(path, held, name):
    """Return a case and the files that belong to it; None and no files for a json of another family."""
    kind = kind_of(held)
    if kind is None:
        return None, set()
    endings = {"text": ()}.get(kind, (GOLDEN,) if kind in WITHOUT_WEIGHTS else (WEIGHTS, GOLDEN))
    parts = [path.with_suffix(ending) for ending in endings]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ValueError(f"{path} has no {' and no '.join(missing)} beside it")
    return TTSCase(path, name, kind), set(parts)
