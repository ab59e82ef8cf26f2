"""Grouped finite scalar quantization: latents cut into groups of channels, each an FSQ codebook of its own.

LFSC (arXiv 2409.12117) and NanoCodec (arXiv 2508.05835) code a frame so. The groups stand side by side and none refines
another: leaving some out, which zeroes their channels, is of use in training at most.
"""

from dataclasses import dataclass
from math import prod

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.quantize.fsq import FSQConfig, fsq_decode, fsq_encode, fsq_margins
from flexicodec.quantize.result import FlatQuantized, Quantizer


@dataclass(frozen=True)
class GroupedFSQConfig:
    """Settings of a `GroupedFSQ`; the defaults are those of NanoCodec at 1.78 kbps.

    Attributes:
        num_groups: Groups of channels, i.e. codes per frame.
        levels: Values each channel of a group can take, 3 or more.
    """

    num_groups: int = 13
    levels: tuple[int, ...] = (8, 7, 6, 6)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", FSQConfig(self.levels).levels)
        if self.num_groups < 1:
            raise ValueError(f"num_groups is {self.num_groups}, expected 1 or more")

    @property
    def num_codebooks(self) -> int:
        """Codes per frame, one a group."""
        return self.num_groups

    @property
    def codebook_size(self) -> int:
        """Number of codes of a group, the product of the levels."""
        return prod(self.levels)

    @property
    def dim(self) -> int:
        """Channels of the latents: nothing is projected, so it follows from the groups."""
        return self.num_groups * len(self.levels)

    def build(self, dim: int | None = None) -> "GroupedFSQ":
        """Make the quantizer.

        Raises:
            ValueError: `dim`, the width of the latents, is not what groups and levels make it.
        """
        if dim not in (None, self.dim):
            raise ValueError(
                f"latents of {dim} channels, but {self.num_groups} groups of levels {self.levels} need {self.dim}"
            )
        return GroupedFSQ(self)


class GroupedFSQ(Quantizer):
    """FSQ of each group of channels, with NanoCodec's bound ("tan"); there is nothing to learn in it.

    Group g owns channels g n to (g + 1) n - 1, for n levels, and is row g of the codes.

    Args:
        config: groups and levels.
    """

    def __init__(self, config: GroupedFSQConfig) -> None:
        super().__init__()
        self.config = config
        self.dim, self.num_codebooks, self.codebook_size = config.dim, config.num_codebooks, config.codebook_size

    def quantize_tokens(
        self, features: Float[Tensor, "tokens dim"], active: Bool[Tensor, "tokens codebooks"]
    ) -> FlatQuantized:
        """See `Quantizer.quantize_tokens`; FSQ has no losses."""
        groups = features.unflatten(1, (self.num_codebooks, -1))[:, : active.shape[1]]
        values, codes = fsq_encode(groups, self.config.levels)
        return FlatQuantized(self._side_by_side(values.masked_fill(~active.unsqueeze(-1), 0.0)), codes, {})

    def token_margins(
        self, features: Float[Tensor, "tokens dim"], codes: Int[Tensor, "tokens codebooks"]
    ) -> Float[Tensor, "tokens codebooks"]:
        """See `Quantizer.token_margins`; in levels."""
        groups = features.unflatten(1, (self.num_codebooks, -1))[:, : codes.shape[1]]
        return fsq_margins(groups, self.config.levels)

    def lookup_tokens(self, codes: Int[Tensor, "tokens codebooks"]) -> Float[Tensor, "tokens dim"]:
        """See `Quantizer.lookup_tokens`."""
        return self._side_by_side(fsq_decode(codes, self.config.levels))

    def _side_by_side(self, values: Float[Tensor, "tokens codebooks digits"]) -> Float[Tensor, "tokens dim"]:
        flat = values.flatten(1)
        return F.pad(flat, (0, self.dim - flat.shape[1]))
