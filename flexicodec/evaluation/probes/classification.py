"""Classification probes: a clip's speaker, or any other label, by a linear classifier on its mean token vector.

A linear probe measures what the vectors hold explicitly, and cannot compute it itself (G. Alain and Y. Bengio, arXiv
1610.01644).
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flexicodec.corpus import Utterance
from flexicodec.evaluation.probes.features import ClipFeatures, Representation, Spread, extract
from flexicodec.models.codec import Codec
from flexicodec.statistics import Interval, bootstrap, cluster_rows, speaker_clusters

FOLDS = 5  # of which one is tested
MAX_ITERATIONS = 1000  # of L-BFGS; scikit-learn's 100 are too few for hundreds of labels


@dataclass(frozen=True)
class ClassifyProbeConfig:
    """A linear probe that predicts a clip's label from the mean of its vectors.

    Attributes:
        spread: "frames" weights each vector by its duration, "tokens" all alike.
        log_durations: Append the logarithm of the duration to each vector.
        l2: Strength of the penalty on the weights (scikit-learn's 1 / C).
        seed: Of sampled clips, of the split into clips to fit and to test, and of the bootstrap.
        resamples: Of the bootstrap.
    """

    spread: Spread = "frames"
    log_durations: bool = True
    l2: float = 1.0
    seed: int = 0
    resamples: int = 10_000


@dataclass(frozen=True)
class Prediction:
    """Label and predicted label of a test clip."""

    id: str
    speaker: str | None
    label: str
    guess: str


@dataclass(frozen=True)
class ClassifyProbeResult:
    """Accuracy of a probe on one representation.

    Attributes:
        frame_rate: Vectors per second over the test clips.
        accuracy: Share of test clips with the right label; the interval resamples speakers, then their clips.
        balanced: Mean of the accuracies of each label.
        chance: Accuracy of always predicting the most common training label.
        classes: Number of labels.
        fitted: Training clips.
        unlabelled: Training and test clips without a label.
        unseen: Test clips left out because no training clip has their label.
        guesses: One per test clip.
    """

    representation: Representation
    frame_rate: float
    accuracy: Interval
    balanced: Interval
    chance: float
    classes: int
    fitted: int
    unlabelled: tuple[int, int]
    unseen: int
    guesses: tuple[Prediction, ...]


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
    """Fit a probe to each representation of the training clips, and measure its accuracy on the test clips.

    Clips whose label is None are left out. `split_clips` makes training and test clips of one list; for `cache` see
    `extract`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    config = config or ClassifyProbeConfig()
    fitted, labels = _labelled(train, train_labels)
    labelled, truth = _labelled(test, test_labels)
    names = set(labels)
    if len(names) < 2:
        raise ValueError(f"{len(labels)} training clips have {len(names)} different labels; expected 2 or more")
    # Test clips of a label that the classifier does not know are counted, not tested.
    known = [i for i, label in enumerate(truth) if label in names]
    if not known:
        raise ValueError(
            f"no label of the {len(labelled)} test clips is among the {len(names)} training labels, such as "
            f"{min(names)!r}; for speakers to be on both sides, split one manifest (give no EVAL)"
        )
    tested = [labelled[i] for i in known]
    truth = [truth[i] for i in known]

    # Encode once for all representations, then a classifier each.
    train_features = extract(codec, fitted, representations, cache=cache, progress=progress)
    test_features = extract(codec, tested, representations, cache=cache, progress=progress)
    commonest = Counter(labels).most_common(1)[0][0]
    results = []
    for representation, seen, held_out in zip(representations, train_features, test_features, strict=True):
        regression = LogisticRegression(C=1 / config.l2, max_iter=MAX_ITERATIONS)
        classifier = make_pipeline(StandardScaler(), regression)
        classifier.fit(_means(seen, config), labels)
        predicted = classifier.predict(_means(held_out, config)).tolist()
        guesses = []
        for clip, label, guess in zip(tested, truth, predicted, strict=True):
            guesses.append(Prediction(clip.id, clip.known_speaker, label, guess))
        accuracy, balanced = _accuracies(guesses, config)
        results.append(
            ClassifyProbeResult(
                representation=representation,
                frame_rate=held_out.frame_rate,
                accuracy=accuracy,
                balanced=balanced,
                chance=truth.count(commonest) / len(truth),
                classes=len(names),
                fitted=len(fitted),
                unlabelled=(len(train) - len(fitted), len(test) - len(labelled)),
                unseen=len(labelled) - len(tested),
                guesses=tuple(guesses),
            )
        )
    return results


def choose_clips(
    labels: Sequence[Hashable | None], min_clips: int = 1, max_clips: int | None = None, seed: int = 0
) -> list[int]:
    """Choose the clips of known labels with at least `min_clips`, at random `max_clips` of each; return indices."""
    # At random within each label, so that a long recording's first clips are not preferred.
    random = np.random.default_rng([seed, 3])
    chosen: list[int] = []
    for clips in cluster_rows(labels, len(labels)):
        if labels[clips[0]] is not None and len(clips) >= min_clips:
            chosen += random.permutation(clips)[:max_clips].tolist()
    return sorted(chosen)


def split_clips(
    labels: Sequence[Hashable], speakers: Sequence[Hashable | None] | None = None, seed: int = 0
) -> tuple[list[int], list[int]]:
    """Split clips into training and test clips, a fifth or what speakers allow, with every label on both sides.

    With `speakers`, none is on both sides, else a probe may recognise the speaker instead of the label; a clip whose
    speaker is None counts as a speaker. Without (where the label is the speaker), clips are split one by one. Returns
    indices in order.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    # A group per speaker, or per clip: the index of its first clip.
    groups = np.arange(len(labels))
    if speakers is not None:
        for clips in cluster_rows(speakers, len(labels)):
            if speakers[clips[0]] is not None:
                groups[clips] = clips[0]
    unit = "clip" if speakers is None else "speaker"
    # Speakers (or clips) of each label: one alone cannot be split.
    num_groups = Counter(label for label, _ in set(zip(labels, groups.tolist(), strict=True)))
    if single := sorted(repr(label) for label, count in num_groups.items() if count < 2):
        raise ValueError(
            f"clips labelled {', '.join(single[:3])} cannot be on both sides: each comes from one {unit}; leave them "
            "out (min_clips), or give a manifest to test on"
        )
    # Of GroupShuffleSplit's fifths many would miss a label; stratified folds share out the labels.
    most = min(FOLDS, len(set(groups.tolist())), *Counter(labels).values())
    for folds in range(most, 1, -1):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        for train, test in splitter.split(labels, labels, groups):
            if {labels[i] for i in train} == {labels[i] for i in test} == set(labels):
                return train.tolist(), test.tolist()
    raise ValueError(
        f"no split of {len(set(groups.tolist()))} {unit}s found with every label on both sides; leave out rare labels "
        "(min_clips), or give a manifest to test on"
    )


def _labelled(clips: Sequence[Utterance], labels: Sequence[str | None]) -> tuple[list[Utterance], list[str]]:
    """Return the clips that have a label, and their labels."""
    if len(clips) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(clips)} clips; expected one each, None where unknown")
    pairs = [(clip, str(label)) for clip, label in zip(clips, labels, strict=True) if label is not None]
    return [clip for clip, _ in pairs], [label for _, label in pairs]


def _means(features: ClipFeatures, config: ClassifyProbeConfig) -> Float[np.ndarray, "clips dim"]:
    """Average the vectors of each clip."""
    # Frames: sum(durations * values) / sum(durations), as if each vector were repeated for its duration.
    means = []
    for values, durations in zip(features.values, features.durations, strict=True):
        values = values.astype(np.float64)
        if config.log_durations:
            values = np.column_stack([values, np.log(durations)])
        means.append(np.average(values, axis=0, weights=durations if config.spread == "frames" else None))
    return np.stack(means)


def _accuracies(guesses: Sequence[Prediction], config: ClassifyProbeConfig) -> tuple[Interval, Interval]:
    """Estimate the accuracy over clips, and its mean over labels."""
    # Both statistics on the same resamples of speakers, or of clips where fewer than two speakers are known.
    right = np.array([row.guess == row.label for row in guesses], dtype=float)
    labels = np.unique([row.label for row in guesses], return_inverse=True)[1]
    clusters = speaker_clusters([row.speaker for row in guesses], [row.id for row in guesses])

    def balanced(right: np.ndarray, labels: np.ndarray) -> float:
        # A resample may lack a label; scikit-learn's balanced_accuracy_score takes 4 ms a call, this 6 us.
        counts = np.bincount(labels)
        present = counts > 0
        return float((np.bincount(labels, right)[present] / counts[present]).mean())

    def interval(statistic: Callable[..., float], *arrays: np.ndarray) -> Interval:
        return bootstrap(statistic, *arrays, clusters=clusters, resamples=config.resamples, seed=config.seed)

    return interval(np.mean, right), interval(balanced, right, labels)
