"""Null codecs: chance baselines that make as many tokens as the codec, from little or no knowledge of the speech.

`NULLS` keep the number of tokens of every clip: baselines for boundaries, and for what happens inside clips.
`RATE_NULLS` keep the number of tokens of the corpus and let clips differ: baselines for rates of clips, which a null
of the first kind would copy. All keep to the cap on a token's frames.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from flexicodec.analysis.acoustic_features import frame_energies_db, frame_mels, speech_activity
from flexicodec.analysis.token_timeline import TokenTimeline
from flexicodec.merging import ExactRate, Threshold

Durations = Int[np.ndarray, " tokens"]
Similarities = Float[np.ndarray, " pairs"]
Null = Callable[[TokenTimeline, np.random.Generator], Durations]
RateNull = Callable[[Sequence[TokenTimeline], np.random.Generator], list[Durations]]

# ------------------------------------------------------------------------------------------- acoustic information


def active_frames(clip: TokenTimeline) -> Bool[np.ndarray, " frames"]:
    """Return for each frame whether it is loud enough for speech."""
    return speech_activity(_energies(clip))


def random_similarities(clip: TokenTimeline, random: np.random.Generator) -> Similarities:
    """Sample similarities that depend on nothing: boundaries fall anywhere."""
    return random.random(clip.num_frames - 1)


def energy_similarities(clip: TokenTimeline) -> Similarities:
    """Return minus the change in dB from each frame to the next."""
    return -np.abs(np.diff(_energies(clip)))


def mel_similarities(clip: TokenTimeline) -> Similarities:
    """Return the cosine of each frame's log-mel spectrum, less the clip's mean, with the next one's."""
    mels = frame_mels(_audio(clip), clip.sample_rate, clip.frame_seconds, clip.num_frames)
    unit = mels / np.maximum(np.linalg.norm(mels, axis=1, keepdims=True), 1e-12)
    return (unit[:-1] * unit[1:]).sum(1)


def _energies(clip: TokenTimeline) -> Float[np.ndarray, " frames"]:
    return frame_energies_db(_audio(clip), clip.sample_rate, clip.frame_seconds, clip.num_frames)


def _audio(clip: TokenTimeline) -> Float[np.ndarray, " samples"]:
    if clip.audio is None:
        raise ValueError(
            "this null needs the audio of the clip: make it with audio=, as in TokenTimeline.of(tokens, audio)"
        )
    return clip.audio


# --------------------------------------------------------------------------------------------- segmentation rules


def uniform_durations(num_frames: int, num_tokens: int) -> Durations:
    """Spread frames evenly over tokens; boundary i lies at frame floor(i * frames / tokens)."""
    return np.diff(np.arange(num_tokens + 1) * num_frames // num_tokens)


def cut_by_similarity(clip: TokenTimeline, similarities: Similarities) -> Durations:
    """Cut a clip into as many tokens as it has, where neighbouring frames are least similar."""
    if len(similarities) != clip.num_frames - 1:
        raise ValueError(
            f"{len(similarities)} similarities; expected {clip.num_frames - 1}, one for each two neighbours"
        )
    return clip.cut(ExactRate(float(clip.num_tokens)), similarities)


def cut_by_threshold(clips: Sequence[TokenTimeline], similarities: Sequence[Similarities]) -> list[Durations]:
    """Cut clips at one similarity threshold for all, chosen so that the corpus keeps its number of tokens.

    The number of tokens never falls as the threshold rises: bisect over the ranks of the similarities.
    """
    values = np.concatenate(similarities)
    ranks = np.searchsorted(np.unique(values), values)
    highest = int(ranks.max(initial=0)) + 1
    clip_ends = np.cumsum([len(each) for each in similarities])
    relative_ranks = np.split(ranks / highest, clip_ends[:-1])
    wanted = sum(clip.num_tokens for clip in clips)

    def cut(rank: int) -> list[Durations]:
        policy = Threshold((rank - 0.5) / highest)
        return [clip.cut(policy, of_clip) for clip, of_clip in zip(clips, relative_ranks, strict=True)]

    def count(rank: int) -> int:
        return sum(map(len, cut(rank)))

    low = bisect_right(range(1, highest), wanted, key=count)  # the highest rank that makes no more tokens, or 0
    nearest = min((low, low + 1), key=lambda rank: abs(count(rank) - wanted))
    return cut(nearest)


def voice_activity_durations(
    active: Bool[np.ndarray, " frames"], num_tokens: int, max_duration: int | None
) -> Durations:
    """Spend as few tokens on silence as the cap allows, and spread the others over speech.

    Where there are too few tokens for every change between the two, the shortest runs are merged with their neighbours.
    """
    runs = speech_silence_runs(active)
    while min_tokens_per_run(runs, max_duration).sum() > num_tokens:
        runs = merge_shortest_run(runs)
    tokens = min_tokens_per_run(runs, max_duration)
    frames = np.array([frames for frames, _ in runs])
    speech = np.array([is_speech for _, is_speech in runs])
    while tokens.sum() < num_tokens:
        growable = tokens < frames
        # Silence gets more tokens only when every frame of speech has its own.
        if (growable & speech).any():
            growable &= speech
        tokens[np.argmax(np.where(growable, frames / tokens, 0.0))] += 1
    return np.concatenate(list(map(uniform_durations, frames.tolist(), tokens.tolist())))


def voice_activity_tokens(active: Bool[np.ndarray, " frames"], pace: float, max_duration: int | None) -> int:
    """Count the tokens of a clip with `pace` tokens per frame of speech, and as few as possible in silence."""
    runs = speech_silence_runs(active)
    needed = min_tokens_per_run(runs, max_duration)
    speech = np.array([is_speech for _, is_speech in runs])
    return int(needed[~speech].sum() + max(needed[speech].sum(), round(pace * int(active.sum()))))


def speech_silence_runs(active: Bool[np.ndarray, " frames"]) -> list[tuple[int, bool]]:
    """List runs of speech and of silence: frames of each, and whether it is speech."""
    parts = np.split(active, np.flatnonzero(np.diff(active)) + 1)
    return [(len(part), bool(part[0])) for part in parts]


def min_tokens_per_run(runs: Sequence[tuple[int, bool]], max_duration: int | None) -> Int[np.ndarray, " runs"]:
    """Return the tokens that each run needs under the cap."""
    frames = np.array([frames for frames, _ in runs])
    return np.ones_like(frames) if max_duration is None else -(-frames // max_duration)


def merge_shortest_run(runs: list[tuple[int, bool]]) -> list[tuple[int, bool]]:
    """Merge the shortest run with its neighbours into one of the longest run's kind."""
    at = min(range(len(runs)), key=lambda i: runs[i][0])
    first = max(0, at - 1)
    joined = runs[first : at + 2]
    longest = max(joined, key=lambda run: run[0])
    merged = (sum(frames for frames, _ in joined), longest[1])
    return [*runs[:first], merged, *runs[at + 2 :]]


# ---------------------------------------------------------------------------------- as many tokens in every clip


NULLS: Mapping[str, Null] = {
    "uniform": lambda clip, random: uniform_durations(clip.num_frames, clip.num_tokens),
    "random": lambda clip, random: cut_by_similarity(clip, random_similarities(clip, random)),
    "shuffled": lambda clip, random: random.permutation(clip.durations),
    "voice_activity": lambda clip, random: voice_activity_durations(
        active_frames(clip), clip.num_tokens, clip.max_duration
    ),
    "energy": lambda clip, random: cut_by_similarity(clip, energy_similarities(clip)),
    "mel_cosine": lambda clip, random: cut_by_similarity(clip, mel_similarities(clip)),
}
"""Nulls with as many tokens as the codec made of the clip, by name."""

RANDOM_NULLS = frozenset(("random", "shuffled"))
"""Nulls that depend on the random generator; the others give the same tokens each time."""


# ---------------------------------------------------------------------------------- as many tokens in the corpus


def uniform_rate(clips: Sequence[TokenTimeline], random: np.random.Generator) -> list[Durations]:
    """Give every clip the corpus's rate, in tokens of equal durations."""
    frames = np.array([clip.num_frames for clip in clips])
    needed = [1 if clip.max_duration is None else -(-clip.num_frames // clip.max_duration) for clip in clips]
    tokens = np.array([clip.num_tokens for clip in clips])
    ends = np.rint(np.cumsum(frames) * (tokens.sum() / frames.sum())).astype(int)
    counts = np.clip(np.diff(ends, prepend=0), needed, frames)
    return [uniform_durations(int(n), int(count)) for n, count in zip(frames, counts, strict=True)]


def shuffled_rate(clips: Sequence[TokenTimeline], random: np.random.Generator) -> list[Durations]:
    """Shuffle the tokens of the corpus, lay them end to end, and cut them where clips end."""
    ends = np.cumsum(random.permutation(np.concatenate([clip.durations for clip in clips])))
    clip_ends = np.cumsum([clip.num_frames for clip in clips])
    every_end = np.union1d(ends, clip_ends)
    last = np.searchsorted(every_end, clip_ends)
    return np.split(np.diff(every_end, prepend=0), last[:-1] + 1)


def voice_activity_rate(clips: Sequence[TokenTimeline], random: np.random.Generator) -> list[Durations]:
    """Spend as few tokens on silence as the cap allows, and the same number per frame of speech in all clips."""
    activity = [active_frames(clip) for clip in clips]
    caps = [clip.max_duration for clip in clips]

    def token_counts(pace: float) -> list[int]:
        return [voice_activity_tokens(active, pace, cap) for active, cap in zip(activity, caps, strict=True)]

    # Bisect the pace in tokens per frame of speech.
    wanted = sum(clip.num_tokens for clip in clips)
    low = 0.0
    high = 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if sum(token_counts(middle)) <= wanted:
            low = middle
        else:
            high = middle
    return list(map(voice_activity_durations, activity, token_counts(low), caps))


RATE_NULLS: Mapping[str, RateNull] = {
    "uniform": uniform_rate,
    "random": lambda clips, random: cut_by_threshold(clips, [random_similarities(clip, random) for clip in clips]),
    "shuffled": shuffled_rate,
    "voice_activity": voice_activity_rate,
    "energy": lambda clips, random: cut_by_threshold(clips, list(map(energy_similarities, clips))),
    "mel_cosine": lambda clips, random: cut_by_threshold(clips, list(map(mel_similarities, clips))),
}
"""Nulls with as many tokens as the codec made of the corpus, or as near as possible, by the same names."""


def null_timelines(
    name: str, clips: Sequence[TokenTimeline], random: np.random.Generator, *, per_clip: bool = True
) -> list[TokenTimeline]:
    """Replace the tokens of a corpus by those of a null that keeps their number, in each clip or in the corpus."""
    if name not in NULLS:
        raise ValueError(f"null is {name!r}; expected one of {', '.join(NULLS)}")
    if per_clip:
        made = [NULLS[name](clip, random) for clip in clips]
    else:
        made = RATE_NULLS[name](clips, random)
    return list(map(TokenTimeline.with_durations, clips, made))
