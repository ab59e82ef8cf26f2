"""Systems under evaluation: a codec of this package, one of transformers' codecs, or the recordings themselves.

A `System` takes clips and returns their reconstructions at each of its settings. Codebooks are acoustic codebooks
everywhere: 0 is the paper's q1 and 7 its q1:8.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float

from flexicodec import hub
from flexicodec.audio import collate, resample
from flexicodec.evaluation.metrics.loading import Waveform
from flexicodec.merging.registry import needed_setting
from flexicodec.models.codec import Codec
from flexicodec.models.fingerprint import hash_weights
from flexicodec.quantize import FSQConfig
from flexicodec.tokens import Tokens

GROUND_TRUTH = "ground truth"
TRANSFORMERS = "transformers:"  # before a folder or hub id of transformers
RATE_TOLERANCE = 0.005  # as a share: 8.33 Hz asked of 25/3 Hz is the same rate


@dataclass(frozen=True)
class Setting:
    """One operating point of a codec; None where it has no choice or keeps its default."""

    frame_rate: float | None = None  # tokens per second of every clip
    threshold: float | None = None  # tau, the alternative to a frame rate
    policy: str | None = None  # merging policy for the frame rate, see `FlexiCodec.tokenize`
    codebooks: int | None = None  # acoustic codebooks; 0 for semantic codes only

    def __post_init__(self) -> None:
        if self.frame_rate is not None and self.threshold is not None:
            raise ValueError(
                f"frame_rate={self.frame_rate!r} and threshold={self.threshold!r} both choose a rate; give one of them"
            )

    @property
    def label(self) -> str:
        """Name of the setting in rows and tables, unique within a system."""
        parts = [self.rate] if self.rate else []
        if self.codebooks is not None:
            parts.append(f"{self.codebooks} codebook{'s' * (self.codebooks != 1)}")
        return ", ".join(parts)

    @property
    def rate(self) -> str:
        """Name of the rate alone; empty where the codec keeps its default."""
        policy = self.policy or ""
        if self.threshold is not None:
            return f"tau {self.threshold:g} {policy}".rstrip()
        if self.frame_rate is None:
            return policy
        return f"{self.frame_rate:g} Hz {policy}".rstrip()

    @property
    def choices(self) -> dict[str, Any]:
        """The rate as keyword arguments of `Codec.encode` and `tokenize`, defaults left out."""
        named = {"frame_rate": self.frame_rate, "threshold": self.threshold, "policy": self.policy}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class Sweep:
    """The operating points to measure, all combinations; each system takes those that it has."""

    frame_rates: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    policies: tuple[str | None, ...] = (None,)  # for each frame rate, or as they are; None is the model's default
    codebooks: tuple[int | None, ...] = (None,)  # None is all of them

    def rates(self) -> list[Setting]:
        """List the rates alone; without any, the model's default."""
        # What has to be given beside each policy; None: it decides the rate by itself.
        needed = {each: "frame_rate" if each is None else needed_setting(each) for each in self.policies}
        by_rate = [each for each in self.policies if needed[each] == "frame_rate"]
        by_threshold = [each for each in self.policies if needed[each] == "threshold" and each != "threshold"]
        settings = [Setting(rate, policy=policy) for rate in self.frame_rates for policy in by_rate]
        settings += [
            Setting(threshold=tau, policy=policy) for tau in self.thresholds for policy in (None, *by_threshold)
        ]
        settings += [Setting(policy=policy) for policy in self.policies if needed[policy] is None]
        for policy in self.policies:
            given = {"frame_rate": self.frame_rates, "threshold": self.thresholds, None: (policy,)}[needed[policy]]
            if policy is not None and not given:
                raise ValueError(f"policy {policy!r} needs a {needed[policy]} beside it, and there is none")
        return settings or [Setting()]


@dataclass(frozen=True)
class Reconstruction:
    """Output of a system for one clip."""

    audio: Waveform  # at the system's sample rate
    tokens: Tokens | None = None  # of this clip alone; None where nothing was coded


class System(Protocol):
    """A codec, or anything else that reconstructs clips."""

    @property
    def name(self) -> str:
        """Name in rows and tables."""

    @property
    def sample_rate(self) -> int:
        """Hz of the clips it takes and returns."""

    @property
    def identity(self) -> dict[str, Any]:
        """JSON-able values that must stay equal while results are added to: its weights above all."""

    def settings(self, sweep: Sweep) -> tuple[list[Setting], list[str]]:
        """List its settings out of a sweep, and a line of text for each that it does not have."""

    def reconstruct(self, clips: Sequence[Waveform], settings: Sequence[Setting]) -> Iterator[list[Reconstruction]]:
        """Yield the reconstructions of all clips, setting by setting."""


class GroundTruth:
    """The recordings as they are: the score of a perfect codec."""

    name = GROUND_TRUTH
    identity: dict[str, Any] = {}  # noqa: RUF012  (read only)

    def __init__(self, sample_rate: int):
        self.sample_rate = sample_rate

    def settings(self, sweep: Sweep) -> tuple[list[Setting], list[str]]:
        """Recordings have one setting."""
        return [Setting()], []

    def reconstruct(self, clips: Sequence[Waveform], settings: Sequence[Setting]) -> Iterator[list[Reconstruction]]:
        """Yield the clips unchanged."""
        for _ in settings:
            yield [Reconstruction(clip) for clip in clips]


class CodecSystem:
    """A codec of this package; its encoders run once for all settings."""

    def __init__(self, codec: Codec, name: str):
        self.codec = codec
        self.name = name
        self.sample_rate = codec.sample_rate

    @property
    def identity(self) -> dict[str, Any]:
        """Fingerprint of what decides tokens, digest of all weights, and FSQ levels for an entropy coder."""
        semantic = getattr(getattr(self.codec.config, "semantic", None), "quantizer", None)
        levels = list(semantic.levels) if isinstance(semantic, FSQConfig) else None
        return {
            "fingerprint": self.codec.fingerprint,
            "weights": hash_weights(self.codec.state_dict()),
            "levels": levels,
        }

    @property
    def has_fixed_rate(self) -> bool:
        """Whether frames are never merged."""
        return self.codec.format.max_duration == 1 or getattr(self.codec.config, "merging", True) is None

    def settings(self, sweep: Sweep) -> tuple[list[Setting], list[str]]:
        """See `System.settings`; raises ValueError for a frame rate, threshold or policy that is not possible."""
        most = self.codec.num_codebooks
        fewest = most if self.codec.format.parallel_codebooks else 0
        counts, notes = choose_codebooks(self.name, sweep, range(fewest, most + 1))
        if self.has_fixed_rate:
            rates, rate_notes = choose_fixed_rate(self.name, sweep, self.codec.base_frame_rate)
            notes += rate_notes
        else:
            rates = sweep.rates()
            # One second of silence refuses an impossible rate here, and not on every clip.
            second = self.codec.features(torch.zeros(1, self.sample_rate, dtype=torch.float32, device="cpu"))
            for rate in rates:
                self.codec.tokenize(second, **rate.choices, num_codebooks=0)
        return [replace(rate, codebooks=count) for rate in rates for count in counts], notes

    def tokenize(
        self, clips: Sequence[Waveform], settings: Sequence[Setting], margins: bool = False
    ) -> Iterator[list[Tokens]]:
        """Yield the tokens of all clips, setting by setting, without decoding them; with their margins if wanted."""
        audio, lengths = collate([torch.from_numpy(np.ascontiguousarray(clip)) for clip in clips])
        features = None if self.has_fixed_rate else self.codec.features(audio, lengths)
        for setting in settings:
            if features is None:
                tokens = self.codec.encode(audio, lengths, margins=margins)
            else:
                tokens = self.codec.tokenize(features, **setting.choices, margins=margins)
            tokens = keep_codebooks(tokens, setting).to("cpu")
            yield [tokens[i] for i in range(len(clips))]

    def reconstruct(self, clips: Sequence[Waveform], settings: Sequence[Setting]) -> Iterator[list[Reconstruction]]:
        """See `System.reconstruct`; consecutive settings of one rate share their tokens."""
        audio, lengths = collate([torch.from_numpy(np.ascontiguousarray(clip)) for clip in clips])
        features = None if self.has_fixed_rate else self.codec.features(audio, lengths)
        for rate, group in groupby(settings, key=lambda setting: replace(setting, codebooks=None)):
            if features is None:
                all_tokens = self.codec.encode(audio, lengths)
            else:
                all_tokens = self.codec.tokenize(features, **rate.choices)
            for setting in group:
                tokens = keep_codebooks(all_tokens, setting)
                decoded = self.codec.decode(tokens).cpu()
                waves = [self._fit(wave, len(clip)) for wave, clip in zip(decoded, clips, strict=True)]
                yield [Reconstruction(wave, tokens[i]) for i, wave in enumerate(waves)]

    def _fit(self, decoded: Float[torch.Tensor, " samples"], samples: int) -> Waveform:
        """Return a decoded clip at the rate of the audio that codecs take, without padding."""
        codec = self.codec
        wave = decoded[: codec.output_lengths(samples)]
        return resample(wave, codec.output_sample_rate, codec.sample_rate)[:samples].numpy()


def open_system(spec: str, device: str | None = None, sensevoice: str | Path | None = None) -> System:
    """Open a system by its name on the command line.

    Args:
        spec: What `flexicodec.load` takes, or "transformers:" and a folder or hub id of an EnCodec, DAC, Mimi or
            X-Codec; with "NAME=" before it to name it in rows and tables.
        device: Where to put it; None means the CPU.
        sensevoice: See `flexicodec.load`.
    """
    name, model = split_name(spec)
    if model.startswith(TRANSFORMERS):
        from flexicodec.evaluation.transformers_codecs import open_transformers_codec

        return open_transformers_codec(model.removeprefix(TRANSFORMERS), name, device)
    return CodecSystem(hub.load(model, sensevoice=sensevoice, device=device), name)


def split_name(spec: str) -> tuple[str, str]:
    """Split "NAME=MODEL"; by default the name is that of the folder or file."""
    name, equals, model = spec.partition("=")
    if not equals:
        model = spec
        name = Path(spec.removeprefix(TRANSFORMERS)).name
    if not name or not model or name == GROUND_TRUTH:
        raise ValueError(f"model is {spec!r}; expected a model, or NAME=MODEL with a name of its own")
    return name, model


def keep_codebooks(tokens: Tokens, setting: Setting) -> Tokens:
    """Keep the acoustic codebooks of a setting."""
    return tokens if setting.codebooks is None else tokens.keep(acoustic=setting.codebooks)


def choose_codebooks(name: str, sweep: Sweep, possible: range) -> tuple[list[int], list[str]]:
    """Choose the wanted numbers of codebooks that a system has, or all its codebooks where it has none of them."""
    most = possible[-1]
    wanted = [most if count is None else count for count in sweep.codebooks]
    chosen = list(dict.fromkeys(count for count in wanted if count in possible)) or [most]
    left_out = [count for count in wanted if count not in possible]
    if not left_out:
        return chosen, []
    counts = f"{possible[0]} to {most}" if len(possible) > 1 else f"{most}, all or none,"
    return chosen, [f"{name}: {_listed(left_out)} codebooks left out; it has {counts} acoustic ones"]


def choose_fixed_rate(name: str, sweep: Sweep, frame_rate: float) -> tuple[list[Setting], list[str]]:
    """Choose the only frame rate of a system, and note every other rate of the sweep as left out."""
    fixed = f"left out; it has a fixed frame rate of {frame_rate:g} Hz"
    notes = []
    if rates := [rate for rate in sweep.frame_rates if abs(rate / frame_rate - 1) > RATE_TOLERANCE]:
        notes.append(f"{name}: {_listed(rates)} Hz {fixed}")
    if taus := [tau for tau in sweep.thresholds if tau != 1]:
        notes.append(f"{name}: tau {_listed(taus)} {fixed}")
    return [Setting(round(frame_rate, 2))], notes


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
