"""What is evaluated: anything that takes clips and gives them back, at one operating point or many.

A `System` is our own codec (`CodecSystem`), one of transformers' (`baselines`), or no codec at all (`GroundTruth`).
Codebooks are the acoustic ones everywhere: 0 is what the paper calls q1 and 7 its q1:8.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from flexicodec import hub
from flexicodec.audio import collate, split
from flexicodec.models.codec import Codec
from flexicodec.quantize import FSQConfig
from flexicodec.tokens import Tokens

Clip: TypeAlias = Float[np.ndarray, " samples"]

GROUND_TRUTH = "ground truth"
TRANSFORMERS = "transformers:"  # before a folder or hub id of theirs
RATE_TOLERANCE = 0.005  # as a share: 8.33 Hz is 25/3, and 12.5 is what a model of 12.5 Hz has


@dataclass(frozen=True)
class Setting:
    """One operating point of a codec; what it has no choice in, or what is left to it, is None.

    Attributes:
        frame_rate: Tokens per second asked of every clip.
        threshold: tau, the alternative to a frame rate.
        policy: How to spend the frame rate, see `FlexiCodec.tokenize`; None is its default.
        codebooks: Acoustic codebooks; 0 for semantic codes only.

    Raises:
        ValueError: Both a frame rate and a threshold.
    """

    frame_rate: float | None = None
    threshold: float | None = None
    policy: str | None = None
    codebooks: int | None = None

    def __post_init__(self) -> None:
        if self.frame_rate is not None and self.threshold is not None:
            raise ValueError(
                f"frame_rate={self.frame_rate!r} and threshold={self.threshold!r} both choose a rate; give one of them"
            )

    @property
    def label(self) -> str:
        """Name it among the settings of its system."""
        parts = [self.rate]
        if self.codebooks is not None:
            parts.append(f"{self.codebooks} codebook{'s' * (self.codebooks != 1)}")
        return ", ".join(filter(None, parts))

    @property
    def rate(self) -> str:
        """Name the choice of rate alone; empty where it is left to the codec."""
        if self.frame_rate is not None:
            return f"{self.frame_rate:g} Hz" + (f" {self.policy}" if self.policy else "")
        return "" if self.threshold is None else f"tau {self.threshold:g}"

    @property
    def choices(self) -> dict[str, Any]:
        """The rate as keyword arguments of `Codec.encode` and `tokenize`, without what is left to the codec."""
        named = {"frame_rate": self.frame_rate, "threshold": self.threshold, "policy": self.policy}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class Sweep:
    """The operating points that are wanted; each system takes those that it has.

    Attributes:
        frame_rates: Tokens per second.
        thresholds: tau.
        policies: How to spend a frame rate; None is the model's default.
        codebooks: Acoustic codebooks; None is all of them.
    """

    frame_rates: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    policies: tuple[str | None, ...] = (None,)
    codebooks: tuple[int | None, ...] = (None,)

    def rates(self) -> list[Setting]:
        """List the choices of rate alone; one without any is the model's own."""
        by_rate = [Setting(rate, policy=policy) for rate in self.frame_rates for policy in self.policies]
        return [*by_rate, *(Setting(threshold=tau) for tau in self.thresholds)] or [Setting()]


@dataclass(frozen=True)
class Reconstruction:
    """A clip after a codec.

    Attributes:
        audio: At the system's rate.
        tokens: What lay between, of this clip alone; None where nothing was coded.
    """

    audio: Clip
    tokens: Tokens | None = None


class System(Protocol):
    """Takes clips and gives them back."""

    @property
    def name(self) -> str:
        """What rows call it."""

    @property
    def sample_rate(self) -> int:
        """Hz of the clips it takes and gives."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change while its results are added to: its weights above all."""

    def settings(self, sweep: Sweep) -> tuple[list[Setting], list[str]]:
        """Choose what it can do of a sweep, and say in a line each what it cannot."""

    def reconstruct(self, clips: Sequence[Clip], settings: Sequence[Setting]) -> Iterator[list[Reconstruction]]:
        """Yield, setting by setting, the clips as it gives them back."""


class GroundTruth:
    """The recordings as they are: what a perfect codec would score."""

    name = GROUND_TRUTH

    def __init__(self, sample_rate: int):
        self.sample_rate = sample_rate

    @property
    def identity(self) -> dict[str, Any]:
        """There is nothing that could change."""
        return {}

    def settings(self, sweep: Sweep) -> tuple[list[Setting], list[str]]:
        """Recordings have no choices."""
        return [Setting()], []

    def reconstruct(self, clips: Sequence[Clip], settings: Sequence[Setting]) -> Iterator[list[Reconstruction]]:
        """Yield the clips."""
        for _ in settings:
            yield [Reconstruction(clip) for clip in clips]


class CodecSystem:
    """A codec of this package; its encoders hear a clip once for all settings."""

    def __init__(self, codec: Codec, name: str):
        self.codec, self.name = codec, name
        self.sample_rate = codec.sample_rate

    @property
    def identity(self) -> dict[str, Any]:
        """The fingerprint covers what decides tokens; a decoder that was trained on has other weights of its own."""
        semantic = getattr(getattr(self.codec.config, "semantic", None), "quantizer", None)
        levels = list(semantic.levels) if isinstance(semantic, FSQConfig) else None  # digits for an entropy coder
        return {"fingerprint": self.codec.fingerprint, "weights": weights_digest(self.codec), "levels": levels}

    @property
    def fixed(self) -> bool:
        """Whether no frames are ever merged."""
        return self.codec.format.max_duration == 1 or getattr(self.codec.config, "merging", True) is None

    def settings(self, sweep: Sweep) -> tuple[list[Setting], list[str]]:
        """See `System.settings`.

        Raises:
            ValueError: A frame rate, threshold or policy that is none.
        """
        count, parallel = self.codec.num_codebooks, self.codec.format.parallel_codebooks
        counts, notes = choose_codebooks(self.name, sweep, range(count if parallel else 0, count + 1))
        if self.fixed:
            rates, left_out = choose_fixed_rate(self.name, sweep, self.codec.base_frame_rate)
            return [with_codebooks(rate, count) for rate in rates for count in counts], notes + left_out
        second = self.codec.features(torch.zeros(1, self.sample_rate))
        for rate in sweep.rates():  # refused here, and not clip by clip
            self.codec.tokenize(second, **rate.choices, num_codebooks=0)
        return [with_codebooks(rate, count) for rate in sweep.rates() for count in counts], notes

    def reconstruct(self, clips: Sequence[Clip], settings: Sequence[Setting]) -> Iterator[list[Reconstruction]]:
        """See `System.reconstruct`; settings of one rate that follow each other share their tokens."""
        audio, lengths = collate([torch.from_numpy(np.ascontiguousarray(clip)) for clip in clips])
        features = None if self.fixed else self.codec.features(audio, lengths)
        for rate, group in groupby(settings, key=lambda setting: with_codebooks(setting, None)):
            if features is None:
                whole = self.codec.encode(audio, lengths)
            else:
                whole = self.codec.tokenize(features, **rate.choices)
            for setting in group:
                tokens = whole if setting.codebooks is None else whole.keep(acoustic=setting.codebooks)
                decoded = split(self.codec.decode(tokens).cpu(), lengths)
                yield [Reconstruction(wave.reshape(-1).numpy(), tokens[i]) for i, wave in enumerate(decoded)]


def open_system(spec: str, device: str | None = None, sensevoice: str | Path | None = None) -> System:
    """Open a system by what a command line calls it.

    Args:
        spec: What `flexicodec.load` takes, or "transformers:" and a folder or hub id of an EnCodec, DAC, Mimi or
            X-Codec; with "NAME=" before it where it is to be called so.
        device: Where to put it; None means the CPU.
        sensevoice: See `flexicodec.load`.

    Raises:
        ValueError: There is no such model.
    """
    name, model = split_name(spec)
    if model.startswith(TRANSFORMERS):
        from flexicodec.evaluation.baselines import open_baseline

        return open_baseline(model.removeprefix(TRANSFORMERS), name, device)
    return CodecSystem(hub.load(model, sensevoice=sensevoice, device=device), name)


def split_name(spec: str) -> tuple[str, str]:
    """Take "NAME=MODEL" apart; by default a model is called what its folder or file is.

    Raises:
        ValueError: The name is empty or that of the recordings.
    """
    name, given, model = spec.partition("=")
    if not given:
        model, name = spec, Path(spec.removeprefix(TRANSFORMERS)).name
    if not name or not model or name == GROUND_TRUTH:
        raise ValueError(f"model is {spec!r}; expected a model, or NAME=MODEL with a name of its own")
    return name, model


def with_codebooks(setting: Setting, codebooks: int | None) -> Setting:
    """Return a setting with another number of codebooks."""
    return replace(setting, codebooks=codebooks)


def choose_codebooks(name: str, sweep: Sweep, possible: range) -> tuple[list[int], list[str]]:
    """Take the wanted numbers of codebooks that a system has; all of its codebooks where it has none of them."""
    every = possible[-1]
    wanted = [every if count is None else count for count in sweep.codebooks]
    chosen = list(dict.fromkeys(count for count in wanted if count in possible)) or [every]
    left_out = [count for count in wanted if count not in possible]
    if not left_out:
        return chosen, []
    has = f"{possible[0]} to {every}" if len(possible) > 1 else f"{every}, all or none,"
    return chosen, [f"{name}: {_list(left_out)} codebooks left out; it has {has} acoustic ones"]


def choose_fixed_rate(name: str, sweep: Sweep, own: float) -> tuple[list[Setting], list[str]]:
    """A system of one frame rate is measured at that, whatever is wanted; others are named as left out."""
    left_out = [rate for rate in sweep.frame_rates if abs(rate / own - 1) > RATE_TOLERANCE]
    notes = [f"{name}: {_list(left_out)} Hz left out; it has a fixed frame rate of {own:g} Hz"] if left_out else []
    if taus := [tau for tau in sweep.thresholds if tau != 1]:
        notes.append(f"{name}: tau {_list(taus)} left out; it has a fixed frame rate of {own:g} Hz")
    return [Setting(round(own, 2))], notes


def weights_digest(module: torch.nn.Module) -> str:
    """Hash all weights of a model; 16 hexadecimal digits."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()[:16]


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
