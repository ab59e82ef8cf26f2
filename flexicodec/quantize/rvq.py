"""Residual vector quantization: each stage codes the residual of those before.

`ResidualVectorQuantizer` has factorized codebooks, as in DAC: codes are looked up in a few dimensions by cosine
similarity (Yu et al., arXiv 2110.04627), which keeps large codebooks in use; FlexiCodec (arXiv 2510.00981) codes the
acoustic residual this way. `EuclideanRVQ` has rows as wide as the latents, compared by distance, as in EnCodec.
"""

from abc import abstractmethod
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
FRESH_SHRINK = 0.8  # size of a stage's random rows over those of the stage before


@dataclass(frozen=True)
class RVQConfig:
    """Settings of a `ResidualVectorQuantizer`; the defaults are the released model's."""

    num_codebooks: int = 24  # stages, not counting the semantic codebook
    codebook_size: int = 4096  # entries per stage
    # Dimensions in which entries are compared by cosine; None compares by distance, in all dimensions of the latents.
    codebook_dim: int | None = 8

    def __post_init__(self) -> None:
        if min(self.num_codebooks, self.codebook_size, self.codebook_dim or 1) < 1:
            raise ValueError(f"every number in {self} must be at least 1; codebook_dim may be null")

    def build(self, dim: int) -> "ResidualVectorQuantizer | EuclideanRVQ":
        """Make a quantizer for latents of width `dim`."""
        return EuclideanRVQ(dim, self) if self.codebook_dim is None else ResidualVectorQuantizer(dim, self)


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


class StagedQuantizer(Quantizer):
    """A quantizer whose latents are the sum of its stages'."""

    @abstractmethod
    def dequantize_stage(self, stage: int, codes: Int[Tensor, " tokens"]) -> Float[Tensor, "tokens dim"]:
        """Return what one stage adds to the latents."""

    def dequantize_tokens(self, codes: Int[Tensor, "tokens codebooks"]) -> Float[Tensor, "tokens dim"]:
        latents = torch.zeros(codes.shape[0], self.dim, dtype=torch.float32, device=codes.device)
        for k, column in enumerate(codes.unbind(dim=1)):
            latents = latents + self.dequantize_stage(k, column)
        return latents


class ResidualVectorQuantizer(StagedQuantizer):
    """A sequence of `VectorQuantizer` stages; latents are the sum of theirs, losses have a column per stage."""

    def __init__(self, dim: int, config: RVQConfig) -> None:
        assert config.codebook_dim is not None, config
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

    def dequantize_stage(self, stage: int, codes: Int[Tensor, " tokens"]) -> Float[Tensor, "tokens dim"]:
        """Return what one stage adds to the latents."""
        return self.stages[stage].dequantize_tokens(codes[:, None])

    @property
    def stages(self) -> list[VectorQuantizer]:
        """The stages in order."""
        return cast(list[VectorQuantizer], list(self.quantizers))


class EuclideanRVQ(StagedQuantizer):
    """Stages of whole codebook rows, each the nearest to what is left; latents are their sum.

    No gradient reaches the rows: training starts them by k-means and makes them running means of what they code
    (`training.codebook_means`). The commitment loss of a token is the distance to the sum of the rows it uses.
    """

    codebooks: Tensor  # [K, size, dim]

    def __init__(self, dim: int, config: RVQConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = dim
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        # Random rows for random models: each stage somewhat finer, as trained ones are.
        shrink = FRESH_SHRINK ** torch.arange(config.num_codebooks)
        rows = torch.randn(config.num_codebooks, config.codebook_size, dim) * shrink[:, None, None]
        self.register_buffer("codebooks", rows)

    def quantize_tokens(
        self, features: Float[Tensor, "tokens dim"], active: Bool[Tensor, "tokens codebooks"]
    ) -> FlatQuantized:
        residual = features.detach()
        latents = torch.zeros_like(residual)
        codes = torch.zeros(active.shape, dtype=torch.long, device=active.device)
        for k in range(active.shape[1]):
            rows = self.codebooks[k].float()
            codes[:, k] = nearest_by_distance(residual, rows)[1][:, 0]
            step = self.dequantize_stage(k, codes[:, k])
            residual = residual - step
            latents = latents + step.masked_fill(~active[:, k : k + 1], 0.0)
        # One distance for all stages, entered in the first column.
        commitment = (features - latents).square().mean(dim=-1, keepdim=True)
        losses = {"commitment": F.pad(commitment, (0, active.shape[1] - 1))}
        latents = straight_through(features, latents).masked_fill(~active.any(dim=1, keepdim=True), 0.0)
        return FlatQuantized(latents, codes, losses)

    def token_margins(
        self, features: Float[Tensor, "tokens dim"], codes: Int[Tensor, "tokens codebooks"]
    ) -> Float[Tensor, "tokens codebooks"]:
        """See `Quantizer.token_margins`; in squared distances, each stage given the codes before."""
        margins, residual = [], features
        for k, column in enumerate(codes.unbind(dim=1)):
            rows = self.codebooks[k].float()
            gaps = residual.new_full(residual.shape[:1], torch.inf)
            if self.codebook_size > 1:
                distances, _ = nearest_by_distance(residual, rows, 2)
                gaps = distances[:, 1] - distances[:, 0]
            margins.append(gaps)
            residual = residual - self.dequantize_stage(k, column)
        return torch.stack(margins, dim=1)

    def dequantize_stage(self, stage: int, codes: Int[Tensor, " tokens"]) -> Float[Tensor, "tokens dim"]:
        """Return what one stage adds to the latents."""
        return F.embedding(codes, self.codebooks[stage].float())


@torch.no_grad()
def nearest_by_distance(
    features: Float[Tensor, "tokens dim"], rows: Float[Tensor, "codes dim"], count: int = 1
) -> tuple[Float[Tensor, "tokens count"], Int[Tensor, "tokens count"]]:
    """Return the smallest squared distances of each token to codebook rows, less its own square, and these rows."""
    # |x - c|^2 = |x|^2 - 2 x c + |c|^2, of which the first does not matter
    sizes = rows.square().sum(dim=1)
    nearest = []
    codes = []
    for block in _blocks(features, len(rows)):
        every = torch.addmm(sizes, block, rows.T, alpha=-2)
        best = every.min(dim=1, keepdim=True) if count == 1 else every.topk(count, dim=1, largest=False)
        nearest.append(best.values)
        codes.append(best.indices)
    return torch.cat(nearest), torch.cat(codes)


def _blocks(features: Float[Tensor, "tokens width"], codes: int) -> Sequence[Tensor]:
    """Split tokens, so that the memory of a search does not grow with tokens times codes."""
    if torch.compiler.is_exporting():  # a graph has no loop over a free number of blocks
        return [features]
    entries = _SEARCH_ENTRIES.get(features.device.type, _SEARCH_ENTRIES_ELSEWHERE)
    return features.split(max(1, entries // codes))


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
    cosines = []
    rows = []
    for block in _blocks(features, codebook.shape[0]):
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
