"""Codecs of transformers as systems: EnCodec, DAC, Mimi and X-Codec, from a local folder or a hub id.

Clips go through one by one, filled up with silence to whole frames, since these models do not mask padding. All
codebooks are encoded and the first ones decoded: residual quantisation makes the first the same however many follow.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.evaluation.systems import (
    Clip,
    Reconstruction,
    Setting,
    Sweep,
    choose_codebooks,
    choose_fixed_rate,
    weights_digest,
    with_codebooks,
)
from flexicodec.tokens import TokenFormat, Tokens


@dataclass(frozen=True)
class Family:
    """How to speak to one of transformers' codecs.

    Attributes:
        encode: Model and audio [1, 1, S] to codes [1, K, T].
        decode: Model and codes [1, K, T] to audio of shape [..., S'].
        sample_rate: Hz, from the config.
        frame_size: Samples in a frame, from the config.
        num_codebooks: All of them, from the config.
        semantic: How many of these are semantic and come first.
    """

    encode: Callable[[Any, Float[Tensor, "1 1 samples"]], Int[Tensor, "1 codebooks frames"]]
    decode: Callable[[Any, Int[Tensor, "1 codebooks frames"]], Float[Tensor, "*one samples"]]
    sample_rate: Callable[[Any], int]
    frame_size: Callable[[Any], int]
    num_codebooks: Callable[[Any], int]
    semantic: int = 0


def _decode_encodec(model: Any, codes: Int[Tensor, "1 codebooks frames"]) -> Float[Tensor, "1 1 samples"]:
    return model.decode(codes[None], [None], return_dict=True).audio_values


FAMILIES: dict[str, Family] = {
    "encodec": Family(
        lambda model, audio: model.encode(audio, bandwidth=model.config.target_bandwidths[-1]).audio_codes[0],
        _decode_encodec,
        lambda config: config.sampling_rate,
        lambda config: config.hop_length,
        lambda config: config.num_quantizers,
    ),
    "dac": Family(
        lambda model, audio: model.encode(audio).audio_codes,
        lambda model, codes: model.decode(audio_codes=codes).audio_values,
        lambda config: config.sampling_rate,
        lambda config: config.hop_length,
        lambda config: config.n_codebooks,
    ),
    "mimi": Family(
        lambda model, audio: model.encode(audio).audio_codes,
        lambda model, codes: model.decode(codes).audio_values,
        lambda config: config.sampling_rate,
        lambda config: round(config.sampling_rate / config.frame_rate),
        lambda config: config.num_quantizers,
        semantic=1,
    ),
    "xcodec": Family(
        lambda model, audio: model.encode(audio, bandwidth=model.config.target_bandwidths[-1]).audio_codes,
        lambda model, codes: model.decode(codes).audio_values,
        lambda config: config.sample_rate,
        lambda config: config.hop_length,
        lambda config: config.num_quantizers,
    ),
}


class TransformersSystem:
    """A codec of transformers with a fixed frame rate, measured with any number of its codebooks.

    Args:
        model: An EnCodec (24 kHz), DAC, Mimi or X-Codec, in eval mode.
        name: What rows call it.

    Raises:
        ValueError: Another model, or one that is not mono or cuts audio into chunks.
    """

    def __init__(self, model: Any, name: str):
        config = model.config
        if config.model_type not in FAMILIES:
            raise ValueError(f"{name} is a {config.model_type!r}; known are {', '.join(FAMILIES)}")
        if getattr(config, "audio_channels", 1) != 1 or getattr(config, "chunk_length_s", None) is not None:
            raise ValueError(f"{name} codes stereo or in chunks; speech is measured in mono, by facebook/encodec_24khz")
        self.model, self.name, self.family = model, name, FAMILIES[config.model_type]
        if getattr(config, "num_semantic_quantizers", self.family.semantic) != self.family.semantic:
            raise ValueError(f"{name} has {config.num_semantic_quantizers} semantic codebooks; tokens hold one at most")
        self.sample_rate = self.family.sample_rate(config)
        self.digest = weights_digest(model)
        self.format = TokenFormat(
            sample_rate=self.sample_rate,
            frame_size=self.family.frame_size(config),
            semantic_codebook_size=config.codebook_size if self.family.semantic else None,
            acoustic_codebook_size=config.codebook_size,
            max_duration=1,
            fingerprint=self.digest,
            model=name,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """All of the weights."""
        return {"weights": self.digest}

    def settings(self, sweep: Sweep) -> tuple[list[Setting], list[str]]:
        """See `System.settings`."""
        most = self.family.num_codebooks(self.model.config) - self.family.semantic
        counts, notes = choose_codebooks(self.name, sweep, range(1 - self.family.semantic, most + 1))
        rates, left_out = choose_fixed_rate(self.name, sweep, self.format.base_frame_rate)
        return [with_codebooks(rate, count) for rate in rates for count in counts], notes + left_out

    @torch.no_grad()
    def reconstruct(self, clips: Sequence[Clip], settings: Sequence[Setting]) -> Iterator[list[Reconstruction]]:
        """See `System.reconstruct`."""
        coded = [self._encode(clip) for clip in clips]
        for setting in settings:
            kept = [
                tokens if setting.codebooks is None else tokens.keep(acoustic=setting.codebooks) for tokens in coded
            ]
            yield [Reconstruction(self._decode(tokens), tokens) for tokens in kept]

    def _encode(self, clip: Clip) -> Tokens:
        frame = self.format.frame_size
        audio = torch.from_numpy(np.pad(clip, (0, -len(clip) % frame)).astype(np.float32))
        codes = self.family.encode(self.model, audio[None, None].to(self.model.device)).cpu()
        semantic = codes[:, 0] if self.family.semantic else None
        return Tokens(semantic, codes[:, self.family.semantic :], audio_lengths=[len(clip)], format=self.format)

    def _decode(self, tokens: Tokens) -> Clip:
        codes = (
            tokens.acoustic if tokens.semantic is None else torch.cat([tokens.semantic[:, None], tokens.acoustic], 1)
        )
        return self.family.decode(self.model, codes.to(self.model.device)).reshape(-1).float().cpu().numpy()


def open_baseline(model: str, name: str | None = None, device: str | None = None) -> TransformersSystem:
    """Open a codec of transformers.

    Args:
        model: A folder that `save_pretrained` wrote, or a hub id such as facebook/encodec_24khz.
        name: What to call it; the last part of `model` by default.
        device: Where to put it; None means the CPU.

    Raises:
        ValueError: It cannot be had, lacks weights, or is no codec that is known here.
    """
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(model)
        if config.model_type not in FAMILIES:
            raise ValueError(f"it is a {config.model_type!r}, known are {', '.join(FAMILIES)}")
        loaded, report = AutoModel.from_pretrained(model, output_loading_info=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"transformers cannot open {model} as a codec ({error}); without a network, fetch it elsewhere "
            f"(hf download {Path(model).as_posix()} --local-dir FOLDER) and pass the folder"
        ) from error
    if report["missing_keys"]:
        raise ValueError(f"{model} lacks weights: {', '.join(sorted(report['missing_keys'])[:5])} ...")
    return TransformersSystem(loaded.to(device or "cpu").eval(), name or Path(model).name)
