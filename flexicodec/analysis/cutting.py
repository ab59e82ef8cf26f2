"""Rules that cut clips into tokens without a codec: evenly, by any similarity, or by speech and silence.

Null codecs are made of them (see `nulls`). Each keeps to the cap on a token's frames.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from flexicodec.analysis.coded import Coded
from flexicodec.merging import ExactRate, Threshold

Durations = Int[np.ndarray, " tokens"]


def even(num_frames: int, num_tokens: int) -> Durations:
    """Spread frames over tokens; boundary i lies at frame floor(i * frames / tokens)."""
    return np.diff(np.arange(num_tokens + 1) * num_frames // num_tokens)


def by_similarity(clip: Coded, similarities: Float[np.ndarray, " pairs"]) -> Durations:
    """Cut a clip into as many tokens as it has, where neighbouring frames are least alike by any measure.

    Raises:
        ValueError: Not one similarity for each pair of neighbouring frames.
    """
    if len(similarities) != clip.num_frames - 1:
        raise ValueError(
            f"{len(similarities)} similarities; expected {clip.num_frames - 1}, one for each two neighbours"
        )
    rule = ExactRate(float(clip.num_tokens))  # in a clip of one second
    values, lengths = torch.as_tensor(np.asarray(similarities, dtype=np.float64))[None], torch.tensor([clip.num_frames])
    return rule(values, lengths, seconds=[1.0], max_duration=clip.max_duration)[0].numpy()


def by_threshold(clips: Sequence[Coded], similarities: Sequence[Float[np.ndarray, " pairs"]]) -> list[Durations]:
    """Cut clips wherever neighbouring frames are no more alike than a threshold, which is fitted to the token count.

    The count never falls as the threshold rises, so the threshold is found by bisection over the similarities' ranks.
    """
    every = np.concatenate(similarities)
    ranks = np.searchsorted(np.unique(every), every)
    highest = int(ranks.max(initial=0)) + 1
    parts = np.split(ranks / highest, np.cumsum([len(each) for each in similarities])[:-1])

    def cut(rank: int) -> list[Durations]:
        return [
            Threshold(rank / highest - 0.5 / highest)(
                torch.as_tensor(part)[None], torch.tensor([clip.num_frames]), max_duration=clip.max_duration
            )[0].numpy()
            for part, clip in zip(parts, clips, strict=True)
        ]

    low, high = 0, highest
    while high - low > 1:
        middle = (low + high) // 2
        fits = sum(len(durations) for durations in cut(middle)) <= total_tokens(clips)
        low, high = (middle, high) if fits else (low, middle)
    return min((cut(low), cut(high)), key=lambda made: abs(sum(map(len, made)) - total_tokens(clips)))


def pace_speech(active: Bool[np.ndarray, " frames"], num_tokens: int, max_duration: int | None) -> Durations:
    """Spend as few tokens on silence as the cap allows, and spread the others over speech."""
    runs = stretches(active)
    while least(runs, max_duration).sum() > num_tokens:
        runs = absorb_shortest(runs)
    tokens = least(runs, max_duration)
    for speech in (True, False):
        mine = [i for i, (_, kind) in enumerate(runs) if kind == speech]
        while tokens.sum() < num_tokens and (open_ := [i for i in mine if tokens[i] < runs[i][0]]):
            tokens[max(open_, key=lambda i: runs[i][0] / tokens[i])] += 1
    return np.concatenate([even(frames, int(count)) for (frames, _), count in zip(runs, tokens, strict=True)])


def paced_tokens(active: Bool[np.ndarray, " frames"], pace: float, max_duration: int | None) -> int:
    """Count the tokens of a clip with `pace` tokens per frame of speech, and as few as can be in silence."""
    runs = stretches(active)
    needed = least(runs, max_duration)
    in_speech = np.array([speech for _, speech in runs])
    return int(needed[~in_speech].sum() + max(needed[in_speech].sum(), round(pace * int(active.sum()))))


def stretches(active: Bool[np.ndarray, " frames"]) -> list[tuple[int, bool]]:
    """List the stretches of speech and of silence: how many frames each has, and whether it is speech."""
    changes = np.flatnonzero(np.diff(active)) + 1
    starts = np.concatenate([[0], changes])
    return [(int(n), bool(active[s])) for n, s in zip(np.diff([*starts, len(active)]), starts, strict=True)]


def least(runs: Sequence[tuple[int, bool]], max_duration: int | None) -> Int[np.ndarray, " runs"]:
    """Count the tokens that each stretch needs under the cap."""
    return np.array([1 if max_duration is None else -(-frames // max_duration) for frames, _ in runs])


def absorb_shortest(runs: list[tuple[int, bool]]) -> list[tuple[int, bool]]:
    """Make one stretch of the shortest and its neighbours."""
    at = min(range(len(runs)), key=lambda i: runs[i][0])
    first, last = max(0, at - 1), min(len(runs), at + 2)
    joined = runs[first:last]
    kind = max(joined, key=lambda run: run[0])[1]
    return [*runs[:first], (sum(frames for frames, _ in joined), kind), *runs[last:]]


def total_tokens(clips: Sequence[Coded]) -> int:
    """Count the tokens of a corpus."""
    return sum(clip.num_tokens for clip in clips)


def fewest(clip: Coded) -> int:
    """Count the tokens that a clip needs under its cap."""
    return 1 if clip.max_duration is None else -(-clip.num_frames // clip.max_duration)
