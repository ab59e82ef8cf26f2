"""Durations from wished boundaries: of syllables or words, of a language model's output, of any rule."""

from collections.abc import Sequence
from math import ceil, isfinite

from flexicodec.merging.durations import check_max_duration

TIE = 1e-9  # frames by which a time may miss the middle between two frames and still be on it


def fit_durations(
    wished: Sequence[int], num_tokens: int, num_frames: int, max_duration: int | None = None
) -> list[int]:
    """Split a clip into exactly `num_tokens` tokens whose starts are near wished ones, in O(N).

    With R frames left for n tokens, n <= R <= n * max_duration is all it takes to go on, and the next duration keeps
    that true iff it is at least max(1, R - (n - 1) * max_duration) and at most min(max_duration, R - (n - 1)). So each
    wished start, from left to right, is moved into that window and no further.

    Args:
        wished: First frames of the second, third, ... token; further ones are ignored, and where some are missing
            tokens are as long as they may be.
        num_tokens: Tokens, feasible.
        num_frames: Frames of the clip.
        max_duration: Largest number of frames per token; None for no limit.

    Raises:
        ValueError: No split has so many tokens.
    """
    cap = num_frames if check_max_duration(max_duration) is None else int(max_duration or 0)
    if not num_tokens <= num_frames <= num_tokens * cap:
        raise ValueError(f"{num_frames} frames cannot be split into {num_tokens} tokens of 1 to {cap} frames")
    durations = []
    start = 0
    for left in range(num_tokens - 1, 0, -1):
        index = num_tokens - 1 - left
        lowest = max(start + 1, num_frames - left * cap)
        highest = min(start + cap, num_frames - left)
        wish = int(wished[index]) if index < len(wished) else highest
        following = min(max(wish, lowest), highest)
        durations.append(following - start)
        start = following
    if num_tokens:
        durations.append(num_frames - start)
    return durations


def snap(
    times: Sequence[float], num_frames: int, seconds: float, max_duration: int | None = None
) -> tuple[list[int], int]:
    """Split a clip at the frame boundaries nearest to times, such as the onsets of syllables.

    Boundary i lies at i * seconds / num_frames. Times at or outside the clip's ends are ignored, two at one boundary
    are one, a time in the middle between two boundaries goes to the earlier one; tokens that are longer than
    `max_duration` are chopped from the left.

    Args:
        times: In seconds, in any order.
        num_frames: Frames of the clip.
        seconds: Length of the clip; of its frames, where the last one may be partly filled.
        max_duration: Largest number of frames per token; None for no limit.

    Returns:
        Durations, and how many boundaries were added by chopping.

    Raises:
        ValueError: A time or a length that is not finite.
    """
    cap = check_max_duration(max_duration)
    if not isfinite(seconds) or seconds <= 0:
        raise ValueError(f"seconds is {seconds!r}; expected the clip's length")
    starts = set()
    for time in times:
        if not isfinite(time):
            raise ValueError(f"times hold {time!r}; expected seconds")
        if 0 < time < seconds and num_frames > 1:
            nearest = ceil(time * num_frames / seconds - 0.5 - TIE)
            starts.add(min(max(nearest, 1), num_frames - 1))
    edges = [0, *sorted(starts), num_frames]
    durations = []
    added = 0
    for start, end in zip(edges, edges[1:], strict=False):
        length = end - start
        pieces = 1 if cap is None else max(1, ceil(length / cap))
        durations += [cap or length] * (pieces - 1)
        durations.append(length - (pieces - 1) * (cap or length))
        added += pieces - 1
    return durations, added
