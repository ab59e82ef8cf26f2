"""Plain VQ and residual FSQ from vector-quantize-pytorch, behind the same interface, for ablations.

The numbering of their codes is the library's.
"""

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.quantize.base import FlatQuantized, Quantizer, linear_or_identity, project, straight_through
from flexicodec.quantize.rvq import cosine_gaps, nearest_by_cosine

# Entries of the distance table per search; the library keeps about four arrays of this size.
_SEARCH_ENTRIES = 2**22


@dataclass(frozen=True)
class VQConfig:
    """Settings of a `PlainVQ`; as many codes as the default FSQ has, to compare with it."""

    codebook_size: int = 32768
    codebook_dim: int = 8  # dimensions in which entries are compared, by cosine similarity
    decay: float = 0.99  # of the running means that are the codebook; nearer 1 is slower
    # In training, entries with a smaller running count of tokens per batch are replaced by tokens of the batch, chosen
    # by torch's random state; 0 never replaces.
    dead_code_threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.codebook_size < 1 or self.codebook_dim < 2:
            raise ValueError(f"{self} needs a codebook_size of at least 1 and a codebook_dim of at least 2")
        if not 0.0 <= self.decay < 1.0 or self.dead_code_threshold < 0:
            raise ValueError(f"{self} needs a decay from 0 to below 1 and a dead_code_threshold of 0 or more")

    @property
    def num_codebooks(self) -> int:
        """Codes per token, always 1."""
        return 1

    def build(self, dim: int) -> "PlainVQ":
        """Make a quantizer for latents of width `dim`."""
        return PlainVQ(dim, self)


@dataclass(frozen=True)
class ResidualFSQConfig:
    """Settings of a `ResidualFSQ`.

    Each stage divides the step of the one before by the number of levels. Float32 ends at 24 bits per dimension,
    max(levels) ** num_codebooks = 2^24; near it, the last codes depend on rounding noise.
    """

    levels: tuple[int, ...] = (8, 8, 8, 8)  # values each dimension can take in one stage, 2 or more
    num_codebooks: int = 6  # stages

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        if not self.levels or min(self.levels) < 2 or self.codebook_size > 2**24:
            raise ValueError(f"levels are {self.levels}, expected integers of at least 2 with a product up to 2^24")
        if self.num_codebooks < 1 or max(self.levels) ** self.num_codebooks > 2**24:
            raise ValueError(
                f"{self.num_codebooks} stages of up to {max(self.levels)} levels are less than 1 or finer than "
                "float32; use fewer stages, or more dimensions with fewer levels"
            )

    @property
    def codebook_size(self) -> int:
        """Number of codes per stage, the product of the levels."""
        return prod(self.levels)

    def build(self, dim: int) -> "ResidualFSQ":
        """Make a quantizer for latents of width `dim`."""
        return ResidualFSQ(dim, self)


class PlainVQ(Quantizer):
    """One learnt codebook, for comparison with FSQ; entries are running means of the tokens coded by them.

    The codebook is updated only in train mode with gradients enabled, and not by padding or items with a count of 0.
    """

    def __init__(self, dim: int, config: VQConfig) -> None:
        import vector_quantize_pytorch  # a second to import

        super().__init__()
        self.config = config
        self.dim = dim
        self.num_codebooks = 1
        self.codebook_size = config.codebook_size
        self.project_in = linear_or_identity(dim, config.codebook_dim)
        self.project_out = linear_or_identity(config.codebook_dim, dim)
        # Projections and losses are ours: the library's masked loss compares before and after projecting.
        self.vq = vector_quantize_pytorch.VectorQuantize(
            dim=config.codebook_dim,
            codebook_size=config.codebook_size,
            decay=config.decay,
            threshold_ema_dead_code=config.dead_code_threshold,
            use_cosine_sim=True,
            commitment_weight=0.0,
            rotation_trick=False,
            route_gradients_to_input=False,
        )

    def quantize_tokens(
        self, features: Float[Tensor, "tokens dim"], active: Bool[Tensor, "tokens codebooks"]
    ) -> FlatQuantized:
        used = active.any(dim=1) & features.detach().isfinite().all(dim=1)  # a NaN would stay in the running means
        encoded = F.normalize(project(self.project_in, features), dim=-1)
        rows, codes = self._search(encoded.detach().masked_fill(~used.unsqueeze(1), 0.0), used)
        latents = project(self.project_out, straight_through(encoded, rows)).masked_fill(~used.unsqueeze(1), 0.0)
        losses = {"commitment": (encoded - rows).square().mean(dim=-1, keepdim=True)}
        return FlatQuantized(latents, codes.unsqueeze(1)[:, : active.shape[1]], losses)

    def token_margins(
        self, features: Float[Tensor, "tokens dim"], codes: Int[Tensor, "tokens codebooks"]
    ) -> Float[Tensor, "tokens codebooks"]:
        """See `Quantizer.token_margins`; in cosines."""
        return cosine_gaps(project(self.project_in, features), self.vq.codebook)[:, None]

    def dequantize_tokens(self, codes: Int[Tensor, "tokens codebooks"]) -> Float[Tensor, "tokens dim"]:
        return project(self.project_out, F.embedding(codes[:, 0], self.vq.codebook).float())

    def _search(self, encoded: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codebook rows nearest to tokens and their codes; update the codebook in training."""
        if torch.compiler.is_exporting():
            codes = nearest_by_cosine(encoded, self.vq.codebook)[1][:, 0]
            return F.embedding(codes, self.vq.codebook), codes
        learn = self.training and torch.is_grad_enabled() and len(encoded) > 0
        with torch.no_grad():
            if learn:
                rows, codes, _ = self.vq(encoded.unsqueeze(0), mask=used.unsqueeze(0))
                return rows.squeeze(0), codes.squeeze(0)
            # A block of tokens at a time, for memory.
            found = []
            for block in encoded.split(max(1, _SEARCH_ENTRIES // self.codebook_size)):
                rows, codes, _ = self.vq(block.unsqueeze(0), freeze_codebook=True)
                found.append((rows.squeeze(0), codes.squeeze(0)))
        return torch.cat([rows for rows, _ in found]), torch.cat([codes for _, codes in found])


class ResidualFSQ(Quantizer):
    """FSQ stages on ever finer grids, as a quantizer of the acoustic residual without codebooks.

    The stages, their grids and the soft clamp before them are the library's. Its forward pass applies the
    straight-through gradient once per stage; ours once in all.
    """

    def __init__(self, dim: int, config: ResidualFSQConfig) -> None:
        import vector_quantize_pytorch  # a second to import

        super().__init__()
        self.config = config
        self.dim = dim
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        self.project_in = linear_or_identity(dim, len(config.levels))
        self.project_out = linear_or_identity(len(config.levels), dim)
        self.rfsq = vector_quantize_pytorch.ResidualFSQ(
            dim=len(config.levels), levels=list(config.levels), num_quantizers=config.num_codebooks
        )

    def quantize_tokens(
        self, features: Float[Tensor, "tokens dim"], active: Bool[Tensor, "tokens codebooks"]
    ) -> FlatQuantized:
        encoded = self._encoded(features)
        codes = torch.zeros(active.shape, dtype=torch.long, device=active.device)
        values = torch.zeros_like(encoded)
        with torch.no_grad():
            residual = encoded.detach()
            for k in range(active.shape[1]):
                scaled = (residual / self.rfsq.scales[k]).unsqueeze(0)
                codes[:, k] = self.rfsq.layers[k](scaled)[1].squeeze(0)
                step = self._stage_values(k, codes[:, k])
                residual = residual - step
                values = values + step.masked_fill(~active[:, k : k + 1], 0.0)
        latents = project(self.project_out, straight_through(encoded, values))
        return FlatQuantized(latents.masked_fill(~active.any(dim=1, keepdim=True), 0.0), codes, {})

    def token_margins(
        self, features: Float[Tensor, "tokens dim"], codes: Int[Tensor, "tokens codebooks"]
    ) -> Float[Tensor, "tokens codebooks"]:
        """See `Quantizer.token_margins`; in the latents' own unit, in which later stages are finer."""
        margins, residual = [], self._encoded(features)
        steps = torch.tensor(self.config.levels, device=features.device) - 1
        for k, column in enumerate(codes.unbind(dim=1)):
            # a stage splits [-1, 1] into its levels, those at the ends half as wide
            place = (residual / self.rfsq.scales[k] + 1) / 2 * steps
            level = ((self._stage_values(k, column) / self.rfsq.scales[k] + 1) / 2 * steps).round()
            above = (level + 0.5 - place).masked_fill(level >= steps, torch.inf)
            below = (place - level + 0.5).masked_fill(level <= 0, torch.inf)
            margins.append((torch.minimum(above, below) * 2 / steps * self.rfsq.scales[k]).amin(dim=-1))
            residual = residual - self._stage_values(k, column)
        return torch.stack(margins, dim=1)

    def _encoded(self, features: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens digits"]:
        """Project and clamp softly, once before all stages."""
        clamp = self.rfsq.soft_clamp_input_value
        return torch.tanh(project(self.project_in, features) / clamp) * clamp

    def dequantize_tokens(self, codes: Int[Tensor, "tokens codebooks"]) -> Float[Tensor, "tokens dim"]:
        values = sum(self._stage_values(k, column) for k, column in enumerate(codes.unbind(dim=1)))
        assert isinstance(values, Tensor)
        return project(self.project_out, values)

    def _stage_values(self, stage: int, codes: Int[Tensor, " tokens"]) -> Float[Tensor, "tokens digits"]:
        return self.rfsq.layers[stage].indices_to_codes(codes) * self.rfsq.scales[stage]
