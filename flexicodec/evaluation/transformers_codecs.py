"""Codecs of transformers as systems: EnCodec, DAC, Mimi and X-Codec, from a local folder or a hub id.

Clips are coded one by one, padded with zeros to whole frames, since these models do not mask padding. All codebooks are
encoded and the first ones decoded: in residual quantisation the first do not depend on how many follow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flexicodec.evaluation import systems
from flexicodec.evaluation.metrics.loading import Waveform
from flexicodec.evaluation.systems import Reconstruction, Setting, Sweep
from flexicodec.models.fingerprint import hash_weights
from flexicodec.token_format import TokenFormat
from flexicodec.tokens import Tokens

FAMILIES = ("encodec", "dac", "mimi", "xcodec")  # `model_type` of their configs


class TransformersCodec:
    """An EnCodec (24 kHz), DAC, Mimi or X-Codec, in eval mode, with any number of its codebooks."""

    def __init__(self, model: Any, name: str):
        config = model.config
        if config.model_type not in FAMILIES:
            raise ValueError(f"{name} is a {config.model_type!r}; known are {', '.join(FAMILIES)}")
        if getattr(config, "audio_channels", 1) != 1 or getattr(config, "chunk_length_s", None) is not None:
            raise ValueError(f"{name} codes stereo or in chunks; speech is measured in mono, by facebook/encodec_24khz")
        self.kind: str = config.model_type
        self.num_semantic = 1 if self.kind == "mimi" else 0  # the first of its codebooks
        if getattr(config, "num_semantic_quantizers", self.num_semantic) != self.num_semantic:
            raise ValueError(f"{name} has {config.num_semantic_quantizers} semantic codebooks; tokens hold one at most")
        self.model = model
        self.name = name
        self.sample_rate: int = config.sample_rate if self.kind == "xcodec" else config.sampling_rate
        num_codebooks: int = config.n_codebooks if self.kind == "dac" else config.num_quantizers
        self.num_acoustic = num_codebooks - self.num_semantic
        self.identity: dict[str, Any] = {"weights": hash_weights(model.state_dict())}
        self.format = TokenFormat(
            sample_rate=self.sample_rate,
            frame_size=round(self.sample_rate / config.frame_rate) if self.kind == "mimi" else config.hop_length,
            semantic_codebook_size=config.codebook_size if self.num_semantic else None,
            acoustic_codebook_size=config.codebook_size,
            max_duration=1,
            fingerprint=self.identity["weights"],
            model=name,
        )

    def settings(self, sweep: Sweep) -> tuple[list[Setting], list[str]]:
        """See `System.settings`."""
        counts, notes = systems.choose_codebooks(self.name, sweep, range(1 - self.num_semantic, self.num_acoustic + 1))
        rates, rate_notes = systems.choose_fixed_rate(self.name, sweep, self.format.base_frame_rate)
        return [replace(rate, codebooks=count) for rate in rates for count in counts], notes + rate_notes

    @torch.no_grad()
    def reconstruct(self, clips: Sequence[Waveform], settings: Sequence[Setting]) -> Iterator[list[Reconstruction]]:
        """See `System.reconstruct`."""
        all_tokens = [self._encode(clip) for clip in clips]
        for setting in settings:
            kept = [systems.keep_codebooks(tokens, setting) for tokens in all_tokens]
            yield [Reconstruction(self._decode(tokens), tokens) for tokens in kept]

    def _encode(self, clip: Waveform) -> Tokens:
        padding = -len(clip) % self.format.frame_size
        audio = torch.from_numpy(np.pad(clip, (0, padding)).astype(np.float32))[None, None].to(self.model.device)
        if self.kind in ("encodec", "xcodec"):  # the bandwidth decides how many codebooks are encoded
            codes = self.model.encode(audio, bandwidth=self.model.config.target_bandwidths[-1]).audio_codes
        else:
            codes = self.model.encode(audio).audio_codes
        if self.kind == "encodec":
            codes = codes[0]  # an axis of chunks comes before the batch
        codes = codes.cpu()
        semantic = codes[:, 0] if self.num_semantic else None
        return Tokens(semantic, codes[:, self.num_semantic :], audio_lengths=[len(clip)], format=self.format)

    def _decode(self, tokens: Tokens) -> Waveform:
        codes = tokens.acoustic
        if tokens.semantic is not None:
            codes = torch.cat([tokens.semantic[:, None], codes], 1)
        codes = codes.to(self.model.device)
        if self.kind == "encodec":
            audio = self.model.decode(codes[None], [None], return_dict=True).audio_values
        else:
            audio = self.model.decode(audio_codes=codes).audio_values
        return audio.reshape(-1).float().cpu().numpy()


def open_transformers_codec(model: str, name: str | None = None, device: str | None = None) -> TransformersCodec:
    """Open a codec of transformers.

    Args:
        model: A folder that `save_pretrained` wrote, or a hub id such as facebook/encodec_24khz.
        name: Name in rows and tables; the last part of `model` by default.
        device: Where to put it; None means the CPU.
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
    return TransformersCodec(loaded.to(device or "cpu").eval(), name or Path(model).name)
