"""Residual vector quantization with factorized codebooks, as in DAC: each stage codes the residual of those before.

Codes are looked up in a few dimensions by cosine similarity (Yu et al., arXiv 2110.04627), which keeps large codebooks
in use; FlexiCodec (arXiv 2510.00981) codes the acoustic residual this way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexicodec.quantize.base import FlatQuantized, Quantizer, project, straight_through

# Similarities held at once by the search: 2^20 floats are 4 MB, small enough for a CPU's cache.
_SEARCH_ENTRIES = {"cpu": 2**20}
_SEARCH_ENTRIES_ELSEWHERE = 2**24


@dataclass(frozen=True)
class RVQConfig:
    """Settings of a `ResidualVectorQuantizer`; the defaults are the released model's."""

    num_codebooks: int = 24  # stages, not counting the semantic codebook
    codebook_size: int = 4096  # entries per stage
    codebook_dim: int = 8  # dimensions in which entries are compared

    def __post_init__(self) -> None:
        if min(self.num_codebooks, self.codebook_size, self.codebook_dim) < 1:
            raise ValueError(f"every number in {self} must be at least 1")

    def build(self, dim: int) -> "ResidualVectorQuantizer":
        """Make a quantizer for latents of width `dim`."""
        return ResidualVectorQuantizer(dim, self)


class VectorQuantizer(Quantizer):
    """One stage: project down, take the codebook row of highest cosine similarity, project the row up.

    Projections are plain Linear layers, into which the weight norm of released weights (1x1 convolutions) is folded.
    """

    def __init__(self, dim: int, codebook_size: int = 4096, codebook_dim: int = 8) -> None:
        super().__init__()
        self.dim = dim
        self.num_codebooks = 1
        self.codebook_size = codebook_size
        self.in_proj = nn.Linear(dim, codebook_dim)
        self.out_proj = nn.Linear(codebook_dim, dim)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)

    def quantize_tokens(
        self, features: Float[Tensor, "tokens dim"], active: Bool[Tensor, "tokens codebooks"]
    ) -> FlatQuantized:
        encoded = project(self.in_proj, features)
        codes = nearest_by_cosine(encoded, self.codebook.weight)[1][:, 0]
        rows = F.embedding(codes, self.codebook.weight).float()  # the rows themselves, not their normalised copies
        latents = project(self.out_proj, straight_through(encoded, rows))
        latents = latents.masked_fill(~active.any(dim=1, keepdim=True), 0.0)
        losses = {  # the first moves features to their rows, the second rows to their features
            "commitment": (encoded - rows.detach()).square().mean(dim=-1, keepdim=True),
            "codebook": (rows - encoded.detach()).square().mean(dim=-1, keepdim=True),
        }
        return FlatQuantized(latents, codes.unsqueeze(1)[:, : active.shape[1]], losses)

    def token_margins(
        self, features: Float[Tensor, "tokens dim"], codes: Int[Tensor, "tokens codebooks"]
    ) -> Float[Tensor, "tokens codebooks"]:
        """See `Quantizer.token_margins`; in cosines."""
        return cosine_gaps(project(self.in_proj, features), self.codebook.weight)[:, None]

    def dequantize_tokens(self, codes: Int[Tensor, "tokens codebooks"]) -> Float[Tensor, "tokens dim"]:
        return project(self.out_proj, F.embedding(codes[:, 0], self.codebook.weight).float())


class ResidualVectorQuantizer(Quantizer):
    """A sequence of `VectorQuantizer` stages; latents are the sum of theirs, losses have a column per stage."""

    def __init__(self, dim: int, config: RVQConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = dim
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        self.quantizers = nn.ModuleList(
            VectorQuantizer(dim, config.codebook_size, config.codebook_dim) for _ in range(config.num_codebooks)
        )

    def quantize_tokens(
        self, features: Float[Tensor, "tokens dim"], active: Bool[Tensor, "tokens codebooks"]
    ) -> FlatQuantized:
        residual = features
        latents = torch.zeros_like(features)
        nothing = torch.zeros(features.shape[0], 0, dtype=torch.float32, device=features.device)
        codes = [nothing.long()]
        commitment = [nothing]
        codebook = [nothing]
        # Stages that an item does not use still run (and add nothing): every parameter has a gradient, if a zero one.
        for k, quantizer in enumerate(list(self.quantizers)[: active.shape[1]]):
            stage = cast(VectorQuantizer, quantizer).quantize_tokens(residual, active[:, k : k + 1])
            residual = residual - stage.latents
            latents = latents + stage.latents
            codes.append(stage.codes)
            commitment.append(stage.losses["commitment"])
            codebook.append(stage.losses["codebook"])
        losses = {"commitment": torch.cat(commitment, dim=1), "codebook": torch.cat(codebook, dim=1)}
        return FlatQuantized(latents, torch.cat(codes, dim=1), losses)

    def token_margins(
        self, features: Float[Tensor, "tokens dim"], codes: Int[Tensor, "tokens codebooks"]
    ) -> Float[Tensor, "tokens codebooks"]:
        """See `Quantizer.token_margins`; in cosines, each stage given the codes before."""
        margins, residual = [], features
        for quantizer, column in zip(self.stages, codes.split(1, dim=1), strict=False):
            margins.append(quantizer.token_margins(residual, column))
            residual = residual - quantizer.dequantize_tokens(column)
        return torch.cat(margins, dim=1)

    def dequantize_tokens(self, codes: Int[Tensor, "tokens codebooks"]) -> Float[Tensor, "tokens dim"]:
        latents = torch.zeros(codes.shape[0], self.dim, dtype=torch.float32, device=codes.device)
        for k, quantizer in enumerate(list(self.quantizers)[: codes.shape[1]]):
            latents = latents + cast(VectorQuantizer, quantizer).dequantize_tokens(codes[:, k : k + 1])
        return latents

    @property
    def stages(self) -> list[VectorQuantizer]:
        """The stages in order."""
        return cast(list[VectorQuantizer], list(self.quantizers))


@torch.no_grad()
def nearest_by_cosine(
    features: Float[Tensor, "tokens width"], codebook: Float[Tensor, "codes width"], count: int = 1
) -> tuple[Float[Tensor, "tokens count"], Int[Tensor, "tokens count"]]:
    """Return the highest cosine similarities of each token with codebook rows, and these rows.

    Of equal rows the first one is nearest. A block of tokens at a time is compared with every row, so that memory does
    not grow with tokens times codes.
    """
    features = F.normalize(features, dim=-1)
    codebook = F.normalize(codebook.float(), dim=-1)
    entries = _SEARCH_ENTRIES.get(features.device.type, _SEARCH_ENTRIES_ELSEWHERE)
    blocks: Sequence[Tensor] = [features]  # a graph has no loop over a free number of blocks
    if not torch.compiler.is_exporting():
        blocks = features.split(max(1, entries // codebook.shape[0]))
    cosines = []
    rows = []
    for block in blocks:
        every = block @ codebook.T
        best = every.max(dim=-1, keepdim=True) if count == 1 else every.topk(count, dim=-1)
        cosines.append(best.values)
        rows.append(best.indices)
    return torch.cat(cosines), torch.cat(rows)


def cosine_gaps(
    features: Float[Tensor, "tokens width"], codebook: Float[Tensor, "codes width"]
) -> Float[Tensor, " tokens"]:
    """Return how much higher the best row's cosine is than the second best's; inf where there is but one row."""
    if codebook.shape[0] < 2:
        return features.new_full(features.shape[:1], torch.inf)
    best, _ = nearest_by_cosine(features, codebook, 2)
    return best[:, 0] - best[:, 1]
