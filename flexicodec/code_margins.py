"""`Margins`: how far every token boundary and code was from the next-best outcome.

Float noise differs between machines, batch shapes and precisions. It can change a decision only where the margin is
about as small as the noise. Margins are computed when asked for, follow their tokens, and are not saved.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec import token_columns

NOISE = 1e-4  # far above the float32 noise between batch shapes, threads and chunks


@dataclass(frozen=True, eq=False)
class Margins:
    """Distances from flipping of a batch of clips: 0 is a coin's toss, inf what nothing can flip, NaN not known.

    A margin says how far this one decision was from another, given all those before it: a boundary or an earlier
    codebook that flips gives the decisions behind it other numbers to decide on.

    Attributes:
        boundaries: [B, T] Whether a token ends with a frame: the distance of its similarity with the next frame from
            the threshold, or for an exact rate from the similarity at which the ranks are cut. inf for a clip's last
            frame, past the clip, and where durations do not depend on similarities.
        acoustic: [B, K, N] Acoustic codes: how much higher the cosine of the code's row is than that of the second
            best (RVQ), or the distance from the rounding edge, in levels (FSQ). inf in the padding.
        semantic: [B, N] Semantic codes, the same.
    """

    boundaries: Float[Tensor, "batch frames"]
    acoustic: Float[Tensor, "batch codebooks tokens"]
    semantic: Float[Tensor, "batch tokens"] | None = None

    def check(self, durations: Int[Tensor, "batch tokens"], acoustic: Int[Tensor, "batch codebooks tokens"]) -> None:
        """See that there is a margin for every frame, token and code.

        Raises:
            ValueError: There is not.
        """
        wanted = {
            "boundaries": (len(durations), int(durations.sum(-1).max())),
            "acoustic": tuple(acoustic.shape),
            "semantic": tuple(durations.shape),
        }
        for name, shape in wanted.items():
            margin = getattr(self, name)
            if margin is not None and tuple(margin.shape) != shape:
                raise ValueError(
                    f"margins of {name} have shape {tuple(margin.shape)}, but the tokens need {shape}; "
                    "do they belong to other tokens?"
                )

    def fragile(self, durations: Int[Tensor, "batch tokens"], below: float = NOISE) -> Bool[Tensor, "batch tokens"]:
        """Mark the tokens of which some code, an end, or a pair of frames inside has a smaller margin, or none known.

        Args:
            durations: Of the tokens.
            below: The margin from which on a token is safe.
        """
        codes = [] if self.semantic is None else [self.semantic[:, None]]
        smallest = torch.cat([*codes, self.acoustic], dim=1).nan_to_num(nan=-1.0).amin(1)
        # shaky[t] is the pair before frame t; a token from `start` to `end` is touched by those from start to end
        shaky = F.pad(self.boundaries.nan_to_num(nan=-1.0) < below, (1, 0))
        counted = F.pad(shaky.long().cumsum(-1), (1, 0))
        ends = durations.cumsum(-1)
        touched = counted.gather(1, ends + 1) - counted.gather(1, ends - durations)
        return ((smallest < below) | (touched > 0)) & (durations > 0)

    def keep(self, acoustic: int) -> "Margins":
        """Keep those of the first acoustic codebooks."""
        return replace(self, acoustic=self.acoustic[:, :acoustic])

    def select(self, rows: Int[Tensor, " chosen"], num_tokens: int, num_frames: int) -> "Margins":
        """Take those of some clips, without the padding that none of them needs."""
        return Margins(
            self.boundaries[rows, :num_frames],
            self.acoustic[rows, :, :num_tokens],
            None if self.semantic is None else self.semantic[rows, :num_tokens],
        )

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Margins":
        """Apply a function that keeps values to every tensor."""
        semantic = None if self.semantic is None else function(self.semantic)
        return Margins(function(self.boundaries), function(self.acoustic), semantic)

    def to(self, device: torch.device | str | int) -> "Margins":
        """Copy to a device."""
        return self.mapped(lambda tensor: tensor.to(device))

    def __reduce__(self) -> tuple[Any, ...]:
        return token_columns.reduce(self)

    @staticmethod
    def cat(parts: Sequence["Margins | None"]) -> "Margins | None":
        """Join batches of clips, padded to the longest; None where one does not know its own."""
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None

        def joined(tensors: Sequence[Tensor]) -> Tensor:
            longest = max(each.shape[-1] for each in tensors)
            device = known[0].boundaries.device
            return torch.cat(
                [F.pad(each.to(device), (0, longest - each.shape[-1]), value=torch.inf) for each in tensors]
            )

        semantic = [part.semantic for part in known if part.semantic is not None]
        return Margins(
            joined([part.boundaries for part in known]),
            joined([part.acoustic for part in known]),
            joined(semantic) if semantic else None,
        )

    @staticmethod
    def concat(parts: Sequence["Margins | None"]) -> "Margins | None":
        """Put pieces of one clip one behind the other; None where one does not know its own."""
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        semantic = [part.semantic for part in known if part.semantic is not None]
        return Margins(
            torch.cat([part.boundaries for part in known], dim=-1),
            torch.cat([part.acoustic for part in known], dim=-1),
            torch.cat(semantic, dim=-1) if semantic else None,
        )
