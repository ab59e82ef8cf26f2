"""What can be told of a whole clip from frozen tokens: its speaker, or any other label, by a linear probe on a mean.

The mean is plain, or weighted by attention. A linear probe says what lies in the vectors on the surface and cannot work
it out itself (G. Alain and Y. Bengio, arXiv 1610.01644).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from flexicodec.corpus import Utterance
from flexicodec.evaluation.probes.features import ClipFeatures, Representation, extract
from flexicodec.evaluation.probes.fitting import Fit, FitConfig, Inputs, Spread, Standardise, fit, hold_out
from flexicodec.models.codec import Codec
from flexicodec.statistics import Interval, bootstrap, clusters

Pooling = Literal["mean", "attention"]
Labelled: TypeAlias = tuple[Sequence[Utterance], Sequence[str | None]]
DEFAULT_FIT = FitConfig(epochs=60, batch_seconds=240.0, learning_rate=3e-3, validation_share=0.1)


@dataclass(frozen=True)
class ClassifyProbeConfig:
    """Probes that name a clip's label.

    Attributes:
        poolings: A probe each: "mean", or "attention", which weighs steps by a learnt query.
        spread: "frames" weighs each vector by its duration, "tokens" all alike.
        log_durations: Whether the logarithm of the duration is one more value of each vector.
        dropout: On the pooled vector.
        fit: How they are fitted.
        resamples: Of the bootstrap.
    """

    poolings: tuple[Pooling, ...] = ("mean", "attention")
    spread: Spread = "frames"
    log_durations: bool = True
    dropout: float = 0.2
    fit: FitConfig = field(default_factory=lambda: DEFAULT_FIT)
    resamples: int = 10_000


@dataclass(frozen=True)
class Guess:
    """What a probe took a test clip for.

    Attributes:
        id: Of the clip.
        speaker: Of the clip.
        label: What it is.
        guess: What it was taken for.
    """

    id: str
    speaker: str | None
    label: str
    guess: str


@dataclass(frozen=True)
class ClassifyProbeResult:
    """How well a probe names the labels of one representation.

    Attributes:
        representation: What it saw.
        pooling: How steps became one vector.
        frame_rate: Vectors per second over the test clips.
        accuracy: Share of test clips named rightly; the interval draws speakers, then their clips.
        balanced: The same, every label of the test clips counting alike.
        chance: Accuracy of always giving the commonest label of the fit.
        classes: Labels there are; one guess in so many is right by luck where all are as common.
        fitted: Clips of the fit; `held_out` chose the epoch.
        held_out: See `fitted`.
        unlabelled: Clips of the fit and of the test without a label.
        unseen: Test clips left out because the fit has no clip of their label.
        log: How the fit went.
        guesses: On the test clips.
    """

    representation: Representation
    pooling: Pooling
    frame_rate: float
    accuracy: Interval
    balanced: Interval
    chance: float
    classes: int
    fitted: int
    held_out: int
    unlabelled: tuple[int, int]
    unseen: int
    log: Fit
    guesses: tuple[Guess, ...]


class ClassifyProbe(nn.Module):
    """Vectors in, scores of the labels out; what stands at padding changes nothing.

    Args:
        dim: Values of a step.
        num_labels: Labels there are.
        pooling: "mean" or "attention", whose query starts at zero, which is the mean.
        dropout: On the pooled vector.
    """

    def __init__(self, dim: int, num_labels: int, pooling: Pooling, dropout: float = 0.0):
        super().__init__()
        self.standardise = Standardise(dim)
        self.query = nn.Parameter(torch.zeros(dim)) if pooling == "attention" else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, num_labels)

    def forward(
        self, values: Float[Tensor, "batch dim steps"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch labels"]:
        """Return a score for each label."""
        steps = self.standardise(values)
        padding = torch.arange(steps.shape[-1], device=steps.device) >= lengths[:, None]
        scores = steps.new_zeros(padding.shape) if self.query is None else torch.einsum("bdt,d->bt", steps, self.query)
        weights = scores.masked_fill(padding, -torch.inf).softmax(dim=-1)
        return self.head(self.dropout(torch.einsum("bdt,bt->bd", steps, weights)))


def probe_classify(
    codec: Codec,
    train: Sequence[Utterance],
    train_labels: Sequence[str | None],
    test: Sequence[Utterance],
    test_labels: Sequence[str | None],
    representations: Sequence[Representation],
    config: ClassifyProbeConfig | None = None,
    *,
    cache: str | Path | None = None,
    progress: bool = False,
) -> list[ClassifyProbeResult]:
    """Fit a probe of each pooling to each representation of the training clips, and test it.

    Args:
        codec: The codec, frozen.
        train: Clips to fit.
        train_labels: Of these clips; None leaves one out.
        test: Clips to test; `split_clips` takes them out of one list.
        test_labels: Of these.
        representations: What probes see.
        config: Sizes and settings.
        cache: See `extract`.
        progress: Show bars.

    Raises:
        ValueError: Not a label for every clip, fewer than two different ones, no test clip whose label the fit knows;
            or see `extract`.
    """
    naming = _Naming(
        (train, train_labels), (test, test_labels), config or ClassifyProbeConfig(), codec.device, progress
    )
    seen = [
        extract(codec, [clip for clip, _ in side], representations, cache=cache, progress=progress)
        for side in naming.sides
    ]
    return [
        naming.probe(wanted, pooling, *features)
        for wanted, *features in zip(representations, *seen, strict=True)
        for pooling in naming.config.poolings
    ]


class _Naming:
    """What all probes of a call share: the clips with labels, on both sides, and the settings."""

    def __init__(
        self, train: Labelled, test: Labelled, config: ClassifyProbeConfig, device: torch.device, progress: bool
    ):
        self.config, self.device, self.progress = config, device, progress
        for clips, labels in (train, test):
            if len(clips) != len(labels):
                raise ValueError(f"{len(labels)} labels for {len(clips)} clips; expected one each, None where unknown")
        fitted, tested = ([(u, str(v)) for u, v in zip(*each, strict=True) if v is not None] for each in (train, test))
        self.unlabelled = len(train[0]) - len(fitted), len(test[0]) - len(tested)
        self.names = sorted({label for _, label in fitted})
        self.sides = fitted, [pair for pair in tested if pair[1] in self.names]
        self.unseen = len(tested) - len(self.sides[1])
        if len(self.names) < 2:
            raise ValueError(
                f"{len(fitted)} training clips have {len(self.names)} different labels; expected 2 or more"
            )
        if not self.sides[1]:
            raise ValueError(
                f"no label of the {len(tested)} test clips is among the {len(self.names)} of the fit, such as "
                f"{self.names[0]!r}; speakers, for one, must be on both sides: split one manifest"
            )

    def probe(
        self, representation: Representation, pooling: Pooling, train: ClipFeatures, test: ClipFeatures
    ) -> ClassifyProbeResult:
        """Fit one probe and test it."""
        config = self.config
        inputs, tested = (Inputs(each, config.spread, config.log_durations, self.device) for each in (train, test))
        fitted, held_out = hold_out(len(inputs), config.fit)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(config.fit.seed)
            probe, log = self._fit(inputs, fitted, held_out, pooling)
        rows = guess(probe, tested, self.sides[1], self.names, config.fit.batch_seconds)
        accuracy, balanced = accuracies(rows, config.resamples, config.fit.seed)
        commonest = Counter(self.sides[0][i][1] for i in fitted).most_common(1)[0][0]
        return ClassifyProbeResult(
            representation=representation,
            pooling=pooling,
            frame_rate=test.frame_rate,
            accuracy=accuracy,
            balanced=balanced,
            chance=float(np.mean([row.label == commonest for row in rows])),
            classes=len(self.names),
            fitted=len(fitted),
            held_out=len(held_out),
            unlabelled=self.unlabelled,
            unseen=self.unseen,
            log=log,
            guesses=rows,
        )

    def _fit(
        self, inputs: Inputs, fitted: list[int], held_out: list[int], pooling: Pooling
    ) -> tuple[ClassifyProbe, Fit]:
        """Make a probe and find its weights."""
        seconds = self.config.fit.batch_seconds
        labels = torch.tensor([self.names.index(label) for _, label in self.sides[0]], device=self.device)
        probe = ClassifyProbe(inputs.dim, len(self.names), pooling, self.config.dropout).to(self.device)
        probe.standardise.fit(inputs.batch(group) for group in inputs.groups(fitted, seconds))

        def loss(group: list[int]) -> Tensor:
            return F.cross_entropy(probe(*inputs.batch(group)), labels[group])

        def error() -> float:
            return sum(loss(group).item() * len(group) for group in inputs.groups(held_out, seconds)) / len(held_out)

        def groups(random: np.random.Generator) -> list[list[int]]:
            return inputs.groups(fitted, seconds, random)

        return probe, fit(probe, loss, error, groups, self.config.fit, progress=self.progress)


@torch.no_grad()
def guess(
    probe: ClassifyProbe,
    inputs: Inputs,
    clips: Sequence[tuple[Utterance, str]],
    names: Sequence[str],
    batch_seconds: float,
) -> tuple[Guess, ...]:
    """Name the label of every clip."""
    found: dict[int, str] = {}
    for group in inputs.groups(range(len(inputs)), batch_seconds):
        best = probe(*inputs.batch(group)).argmax(dim=-1).tolist()
        found |= {i: names[number] for i, number in zip(group, best, strict=True)}
    return tuple(Guess(clip.id, clip.speaker, label, found[i]) for i, (clip, label) in enumerate(clips))


def accuracies(guesses: Sequence[Guess], resamples: int, seed: int) -> tuple[Interval, Interval]:
    """Share of right guesses, over clips and over labels; for intervals see `clusters`."""
    right = np.array([row.guess == row.label for row in guesses], float)
    labels = np.unique([row.label for row in guesses], return_inverse=True)[1]

    def balanced(right: np.ndarray, labels: np.ndarray) -> float:
        counts = np.bincount(labels)
        there = counts > 0
        return float((np.bincount(labels, right)[there] / counts[there]).mean())

    def interval(statistic: Callable[..., float], *arrays: np.ndarray) -> Interval:
        drawn = clusters([row.speaker for row in guesses], [row.id for row in guesses])
        return bootstrap(statistic, *arrays, clusters=drawn, resamples=resamples, seed=seed)

    return interval(lambda each: each.mean(), right), interval(balanced, right, labels)
