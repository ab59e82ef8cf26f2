"""What an interval over speakers draws: one rule for clips whose speaker is not known."""

from collections.abc import Hashable, Sequence


def clusters(speakers: Sequence[Hashable | None], ids: Sequence[Hashable]) -> list[str] | None:
    """Name the cluster of each clip: its speaker, or the clip itself where its speaker is not known.

    Args:
        speakers: Of each clip; None or "" where that is not known.
        ids: Of each clip.

    Returns:
        A name for each clip, or None where fewer than two speakers are known; clips are the clusters then.

    Raises:
        ValueError: Not an id for each speaker.
    """
    if len(speakers) != len(ids):
        raise ValueError(f"{len(speakers)} speakers and {len(ids)} ids; expected one of each per clip")
    if num_speakers(speakers) < 2:
        return None
    named = zip(speakers, ids, strict=True)
    return [f"clip {each}" if speaker in (None, "") else f"speaker {speaker}" for speaker, each in named]


def num_speakers(speakers: Sequence[Hashable | None]) -> int:
    """Count the speakers that are known."""
    return len(set(speakers) - {None, ""})
