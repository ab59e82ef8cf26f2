"""Finite scalar quantization (FSQ): a code is a few rounded numbers, read as the digits of one integer.

The released FlexiCodec (arXiv 2510.00981) bounds values by another formula than today's vector-quantize-pytorch. About
one code in a hundred differs between the two, so that the bound is part of a model's config. `GroupedFSQ` of LFSC
(arXiv 2409.12117) and NanoCodec (arXiv 2508.05835) splits the channels into groups with a codebook each; groups do not
refine each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.quantize.base import FlatQuantized, Quantizer, linear_or_identity, project, straight_through

Bound = Literal["tan", "atanh"]


@dataclass(frozen=True)
class FSQConfig:
    """Settings of an `FSQ`; the defaults are the released model's 32768 codes."""

    levels: tuple[int, ...] = (8, 8, 8, 8, 8)  # values each dimension can take, 3 or more
    bound: Bound = "tan"  # "tan": released weights, also NanoCodec's; "atanh": vector-quantize-pytorch's own

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        if not self.levels or min(self.levels) < 3 or self.codebook_size > 2**31 - 1:
            raise ValueError(f"FSQ levels are {self.levels}, expected integers of at least 3 with a product below 2^31")
        if self.bound not in get_args(Bound):
            raise ValueError(f"FSQ bound is {self.bound!r}, expected one of {', '.join(get_args(Bound))}")

    @property
    def num_codebooks(self) -> int:
        """Codes per token, always 1."""
        return 1

    @property
    def codebook_size(self) -> int:
        """Number of codes, the product of the levels."""
        return prod(self.levels)

    def build(self, dim: int) -> "FSQ":
        """Make a quantizer for latents of width `dim`."""
        return FSQ(dim, self)


class FSQ(Quantizer):
    """FSQ between two linear projections, as one codebook (Mentzer et al., arXiv 2309.15505).

    With bound "atanh" the codes are those of vector-quantize-pytorch's class, which costs a second to import.
    `project_in` and `project_out` are Linear layers, or Identity where `dim` equals the number of levels.
    """

    def __init__(self, dim: int, config: FSQConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = dim
        self.num_codebooks = 1
        self.codebook_size = config.codebook_size
        self.project_in = linear_or_identity(dim, len(config.levels))
        self.project_out = linear_or_identity(len(config.levels), dim)

    def quantize_tokens(
        self, features: Float[Tensor, "tokens dim"], active: Bool[Tensor, "tokens codebooks"]
    ) -> FlatQuantized:
        values, codes = fsq_encode(project(self.project_in, features), self.config.levels, self.config.bound)
        latents = project(self.project_out, values).masked_fill(~active.any(dim=1, keepdim=True), 0.0)
        return FlatQuantized(latents, codes.unsqueeze(1)[:, : active.shape[1]], {})

    def token_margins(
        self, features: Float[Tensor, "tokens dim"], codes: Int[Tensor, "tokens codebooks"]
    ) -> Float[Tensor, "tokens codebooks"]:
        """See `Quantizer.token_margins`; in levels."""
        return fsq_margins(project(self.project_in, features), self.config.levels, self.config.bound)[:, None]

    def dequantize_tokens(self, codes: Int[Tensor, "tokens codebooks"]) -> Float[Tensor, "tokens dim"]:
        return project(self.project_out, fsq_decode(codes[:, 0], self.config.levels))


def fsq_bound(
    z: Float[Tensor, "*tokens digits"], levels: Sequence[int], bound: Bound = "tan"
) -> Float[Tensor, "*tokens digits"]:
    """Squash each dimension so that rounding gives one of its levels.

    The range of level L is -(L // 2) .. (L - 1) // 2: with an even L it is shifted by half a step, and the shift is
    undone before the tanh so that z = 0 stays near value 0. "tan" keeps the range slightly inside its edges (factor
    1 - 1e-3); "atanh" slightly outside, and is the exact inverse of the tanh.
    """
    # levels 8  -4 -3 -2 -1  0  1  2  3      levels 5  -2 -1  0  1  2
    # In float32 whatever the default type is, since its rounding decides codes.
    sizes = torch.tensor(levels, device=z.device)
    half = (sizes - 1).float() * (1 - 1e-3 if bound == "tan" else 1 + 1e-3) / 2
    offset = 0.5 * (sizes % 2 == 0).float()
    shift = torch.tan(offset / half) if bound == "tan" else torch.atanh(offset / half)
    return torch.tanh(z + shift) * half - offset


def fsq_encode(
    z: Float[Tensor, "*tokens digits"], levels: Sequence[int], bound: Bound = "tan"
) -> tuple[Float[Tensor, "*tokens digits"], Int[Tensor, "*tokens"]]:
    """Bound, round half to even, and number the result.

    Returns:
        The rounded values divided by L // 2, with straight-through gradients, and the codes
        sum_j digit_j * prod(levels[:j]), digit 0 the least significant. Codes are summed as integers: a float sum
        is sometimes truncated to one less, and half precision cannot hold it.
    """
    # levels 8 8 8    basis 1 8 64    code = digit_0 + 8 digit_1 + 64 digit_2
    sizes = torch.tensor(levels, device=z.device)
    basis = torch.tensor([prod(levels[:j]) for j in range(len(levels))], device=z.device)
    bounded = fsq_bound(z, levels, bound)
    rounded = bounded.round()
    codes = ((rounded.long() + sizes // 2) * basis).sum(dim=-1)
    return straight_through(bounded, rounded) / (sizes // 2), codes


def fsq_margins(
    z: Float[Tensor, "*tokens digits"], levels: Sequence[int], bound: Bound = "tan"
) -> Float[Tensor, "*tokens"]:
    """Measure, in levels, how far the bounded values are from the nearest edge at which a digit rounds otherwise."""
    sizes = torch.tensor(levels, device=z.device)
    bounded = fsq_bound(z, levels, bound)
    offset = bounded - bounded.round()
    above = (0.5 - offset).masked_fill(bounded.round() >= (sizes - 1) // 2, torch.inf)  # the ends round no further
    below = (0.5 + offset).masked_fill(bounded.round() <= -(sizes // 2), torch.inf)
    return torch.minimum(above, below).amin(dim=-1)


def fsq_decode(codes: Int[Tensor, "*tokens"], levels: Sequence[int]) -> Float[Tensor, "*tokens digits"]:
    """Return the rounded values of codes, which must be in range."""
    sizes = torch.tensor(levels, device=codes.device)
    basis = torch.tensor([prod(levels[:j]) for j in range(len(levels))], device=codes.device)
    digits = codes.unsqueeze(-1) // basis % sizes  # from 0; values are from -(L // 2)
    return (digits - sizes // 2).float() / (sizes // 2)


@dataclass(frozen=True)
class GroupedFSQConfig:
    """Settings of a `GroupedFSQ`; the defaults are those of NanoCodec at 1.78 kbps."""

    num_groups: int = 13  # groups of channels, i.e. codes per frame
    levels: tuple[int, ...] = (8, 7, 6, 6)  # values each channel of a group can take, 3 or more

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
        """Channels of the latents, which are not projected: the groups determine them."""
        return self.num_groups * len(self.levels)

    def build(self, dim: int | None = None) -> "GroupedFSQ":
        """Make the quantizer; `dim`, if given, must be the width that groups and levels determine."""
        if dim not in (None, self.dim):
            raise ValueError(
                f"latents of {dim} channels, but {self.num_groups} groups of levels {self.levels} need {self.dim}"
            )
        return GroupedFSQ(self)


class GroupedFSQ(Quantizer):
    """FSQ of each group of channels, with NanoCodec's bound ("tan"), without weights.

    Group g has channels g n to (g + 1) n - 1, for n levels, and is row g of the codes.
    """

    def __init__(self, config: GroupedFSQConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size

    def quantize_tokens(
        self, features: Float[Tensor, "tokens dim"], active: Bool[Tensor, "tokens codebooks"]
    ) -> FlatQuantized:
        groups = features.unflatten(1, (self.num_codebooks, -1))[:, : active.shape[1]]
        values, codes = fsq_encode(groups, self.config.levels)
        latents = self._concatenated(values.masked_fill(~active.unsqueeze(-1), 0.0))
        return FlatQuantized(latents, codes, {})

    def token_margins(
        self, features: Float[Tensor, "tokens dim"], codes: Int[Tensor, "tokens codebooks"]
    ) -> Float[Tensor, "tokens codebooks"]:
        """See `Quantizer.token_margins`; in levels."""
        groups = features.unflatten(1, (self.num_codebooks, -1))[:, : codes.shape[1]]
        return fsq_margins(groups, self.config.levels)

    def dequantize_tokens(self, codes: Int[Tensor, "tokens codebooks"]) -> Float[Tensor, "tokens dim"]:
        return self._concatenated(fsq_decode(codes, self.config.levels))

    def _concatenated(self, values: Float[Tensor, "tokens codebooks digits"]) -> Float[Tensor, "tokens dim"]:
        flat = values.flatten(1)  # of the first groups only, where fewer codebooks are in use
        return F.pad(flat, (0, self.dim - flat.shape[1]))
