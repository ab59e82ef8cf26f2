"""Windows: how much of a long recording is taken at once where attention would span all of it.

Attention without a window of its own costs with the square of a clip's length and, on the recordings of an hour that
people tokenize, all the memory there is. Models whose attention has windows need none of this: they carry what they
still need from piece to piece, and give what the whole clip gives.
"""

from dataclasses import dataclass

from flexicodec.blocks.states import known


@known
@dataclass(frozen=True)
class Windows:
    """How clips longer than `seconds` are encoded and decoded; shorter ones are taken whole.

    Global attention sees windows of `seconds`. Neighbouring ones share `overlap_seconds` on either side, of which each
    gives out what lies farther from its ends:

        window 1     [ given out        | overlap ]
        window 2            [ overlap | given out | overlap ]

    That is near the whole clip, not equal to it, and `Tokens.info` then says so. Where all attention has windows of its
    own, nothing changes but the memory that it takes.

    Attributes:
        seconds: Of a window, and the longest clip that is taken whole.
        overlap_seconds: That a window sees beyond what it gives out, on either side.
    """

    seconds: float = 120.0
    overlap_seconds: float = 15.0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_seconds <= 0.45 * self.seconds or self.seconds < 1:
            raise ValueError(
                f"windows of {self.seconds:g} s that overlap by {self.overlap_seconds:g} s; expected windows of at "
                "least 1 s, and at most 45 % of that for the overlap on either side"
            )

    def steps(self, rate: float) -> tuple[int, int, int]:
        """Count steps at a rate in Hz: those before what a window gives out, behind it, and given out."""
        overlap = round(self.overlap_seconds * rate)
        return overlap, overlap, max(1, round(self.seconds * rate) - 2 * overlap)
