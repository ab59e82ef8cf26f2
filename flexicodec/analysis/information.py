"""What token boundaries tell about phone boundaries, without a tolerance: mutual information in bits.

A hit within 40 ms or not is a coarse measure. Here every instant between two frames either starts a token or does not,
and lies at some distance from the nearest reference boundary; how much the one tells about the other is counted in
bits per frame. Counts overstate information, the more so the fewer they are: hold it against shuffled tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from flexicodec.analysis.boundaries import Times
from flexicodec.analysis.coded import Coded
from flexicodec.analysis.nulls import NULLS
from flexicodec.statistics.entropy import counts_entropy, table_information

BINS = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12)  # seconds, upper edges; what lies further is in a bin of its own


@dataclass(frozen=True)
class BoundaryInformation:
    """What tokens tell about reference boundaries.

    Attributes:
        bits: Mutual information of the start of a token and the distance to the nearest reference, per frame.
        chance: The same for tokens of the same durations in another order, averaged over draws.
        entropy: Of the start of a token, in bits: the most that it could tell.
        instants: Between frames, that were counted.
    """

    bits: float
    chance: float
    entropy: float
    instants: int

    @property
    def share(self) -> float:
        """Information beyond chance, as a share of what there could be; 0 where tokens could tell nothing."""
        return (self.bits - self.chance) / self.entropy if self.entropy > 0 else 0.0


def boundary_information(
    references: Sequence[Times], clips: Sequence[Coded], *, offset: float = 0.0, draws: int = 10, seed: int = 0
) -> BoundaryInformation:
    """Measure the mutual information of token boundaries and distances to reference boundaries.

    Clips without any reference boundary do not count.

    Args:
        references: Seconds of the reference boundaries of each clip.
        clips: Tokens of each.
        offset: Seconds by which frames are moved.
        draws: Of shuffled tokens.
        seed: Of the drawing.

    Raises:
        ValueError: Not one reference for each clip.
    """
    if len(references) != len(clips):
        raise ValueError(f"{len(references)} references for {len(clips)} clips; expected one for each")
    kept = [(np.asarray(times), clip) for times, clip in zip(references, clips, strict=True) if len(times)]
    random = np.random.default_rng(seed)

    def counted(shuffle: bool) -> Int[np.ndarray, "2 bins"]:
        table = np.zeros((2, len(BINS) + 1), dtype=np.int64)
        for times, clip in kept:
            tokens = clip.with_durations(NULLS["shuffled"](clip, random)) if shuffle else clip
            table += _counts(times, tokens, offset)
        return table

    table = counted(shuffle=False)
    chance = [table_information(counted(shuffle=True)) for _ in range(draws)]
    return BoundaryInformation(
        table_information(table), float(np.mean(chance)), counts_entropy(table.sum(1)), int(table.sum())
    )


def _counts(reference: Times, clip: Coded, offset: float) -> Int[np.ndarray, "2 bins"]:
    """Count the instants between frames by whether a token starts there, and by distance."""
    starts = np.zeros(clip.num_frames + 1, dtype=np.int64)
    starts[np.cumsum(clip.durations)] = 1
    instants = np.arange(1, clip.num_frames) * clip.frame_seconds + offset
    after = np.searchsorted(reference, instants)
    padded = np.concatenate([[-np.inf], reference, [np.inf]])
    distance = np.minimum(instants - padded[after], padded[after + 1] - instants)
    table = np.zeros((2, len(BINS) + 1), dtype=np.int64)
    np.add.at(table, (starts[1:-1], np.searchsorted(BINS, distance)), 1)
    return table
