"""The settings of a folder of tokens: fields of `dataset.json` for a codec, checked by encoding a second of silence."""

from dataclasses import asdict
from typing import Any

import soxr
import torch

import flexicodec
from flexicodec.corpus.token_dataset import Choice
from flexicodec.models.batch_encode import default_batch_seconds
from flexicodec.models.codec import Codec
from flexicodec.tokens import Tokens


def settings_of(
    codec: Codec,
    choices: list[dict[str, Any]],
    *,
    precision: str = "float32",
    batch_seconds: float | None = None,
    unit_hours: float | None = None,
    margins: bool = False,
    ids: str = "id",
) -> dict[str, Any]:
    """Return the fields of `dataset.json` for a codec; wrong values are found by encoding a second of silence.

    Args:
        codec: Any of this package's.
        choices: `frame_rate` or `threshold`, `policy` and `num_codebooks` of each; an empty one is the model's own.
        precision: As for `encode`.
        batch_seconds: As for `encode_files`; the default is that of the codec's device.
        unit_hours: Hours of audio of a unit; the default is 4, and 0.25 on a CPU.
        margins: Count the tokens with a decision that noise could turn.
        ids: "id", or "path" to name clips by path and start.
    """
    on_cpu = codec.device.type == "cpu"
    if unit_hours is None:
        unit_hours = 0.25 if on_cpu else 4.0
    if batch_seconds is None:
        batch_seconds = default_batch_seconds(codec.device)
    if not 0 < unit_hours < float("inf"):
        raise ValueError(f"unit_hours is {unit_hours}; expected hours of audio, above 0")
    if not 0 <= batch_seconds < float("inf"):
        raise ValueError(f"batch_seconds is {batch_seconds}; expected seconds of audio, or 0 for one clip at a time")
    silence = torch.zeros(1, codec.sample_rate, dtype=torch.float32, device="cpu")
    features = None
    if len(choices) > 1:
        try:
            features = codec.features(silence, precision=precision)
        except NotImplementedError as error:
            raise ValueError(f"{len(choices)} rates were asked for, but {error}") from error
    made = []
    for options in choices:
        given = {name: value for name, value in options.items() if value is not None}
        if features is None:
            tokens = codec.encode(silence, precision=precision, **given)
        else:
            tokens = codec.tokenize(features, **given)
        made.append(_named_choice(codec, given, tokens))
    names = [choice.name for choice in made]
    if len(set(names)) < len(names):
        raise ValueError(f"the choices {', '.join(names)} are not all different; each is the name of a folder")
    form = asdict(codec.format)
    return {
        "package": flexicodec.__version__,
        "model": codec.format.model,
        "fingerprint": codec.fingerprint,
        "format": form,
        "choices": [asdict(choice) for choice in made],
        "precision": precision,
        "batch_seconds": float(batch_seconds),
        "unit_hours": float(unit_hours),
        "margins": margins,
        "ids": ids,
        "resampler": f"soxr {soxr.__version__}",
    }


def _named_choice(codec: Codec, given: dict[str, Any], tokens: Tokens) -> Choice:
    """Name a choice by what was asked, or by what the model does where nothing was."""
    policy = given.get("policy")
    if given.get("frame_rate") is None and given.get("threshold") is None:
        given = {**given, "threshold": tokens.info.get("threshold")}
        if given["threshold"] is None:
            given["frame_rate"] = codec.base_frame_rate
    if given.get("frame_rate") is not None:
        name = f"{given['frame_rate']:.10g}hz"
    else:
        name = f"threshold-{given['threshold']:.10g}"
    if policy is not None:
        name += f"-{policy}"
    return Choice(name, tokens.num_codebooks, given.get("frame_rate"), given.get("threshold"), policy)
