"""`Quantizer`, the interface of all quantizers, and `Quantized`, their result.

Checks, padding, precision and the number of codebooks are handled here; FSQ, RVQ and the others quantize single tokens.
"""

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Quantized:
    """Quantized latents, their codes and the losses of training.

    Attributes:
        latents: Float32, as `dequantize` returns for the codes; zero past the lengths. Gradients pass straight through
            to the quantizer's input.
        codes: Int64; zero past the lengths and in codebooks that an item does not use.
        losses: By name, mean over an item's valid tokens, summed over codebooks. Empty for quantizers without losses.
        inputs: [B, D, N] what was quantized; see `Quantizer.margins`. None from exported graphs.
    """

    latents: Float[Tensor, "batch dim tokens"]
    codes: Int[Tensor, "batch codebooks tokens"]
    losses: dict[str, Float[Tensor, " batch"]]
    inputs: Float[Tensor, "batch dim tokens"] | None = None


class FlatQuantized(NamedTuple):
    """`Quantized` of the tokens of all clips in one sequence; losses are per token and codebook."""

    latents: Float[Tensor, "tokens dim"]
    codes: Int[Tensor, "tokens codebooks"]
    losses: dict[str, Float[Tensor, "tokens codebooks"]]


class Quantizer(nn.Module, ABC):
    """Turn latents into codes, and codes back into latents.

    The same call returns the same codes in train and eval mode, and everything runs in float32 with autocast disabled:
    half precision cannot hold an index of 15 bits and changes about one code in fifty.
    Subclasses set the attributes and implement `quantize_tokens`, `dequantize_tokens` and `token_margins`.
    """

    dim: int  # channels D of the latents
    num_codebooks: int  # codebooks K: codes per token when all are in use
    codebook_size: int  # entries of each codebook

    @abstractmethod
    def quantize_tokens(
        self, features: Float[Tensor, "tokens dim"], active: Bool[Tensor, "tokens codebooks"]
    ) -> FlatQuantized:
        """Quantize the tokens of all clips, concatenated.

        `active` says which codebooks each token uses (none in padding) and how many columns of codes to return. A
        codebook that is not active adds nothing to the latents; its codes and losses are ignored.
        """

    @abstractmethod
    def dequantize_tokens(self, codes: Int[Tensor, "tokens codebooks"]) -> Float[Tensor, "tokens dim"]:
        """Map codes of one or more codebooks, all in range, to latents."""

    @abstractmethod
    def token_margins(
        self, features: Float[Tensor, "tokens dim"], codes: Int[Tensor, "tokens codebooks"]
    ) -> Float[Tensor, "tokens codebooks"]:
        """Tell how far the codes that `quantize_tokens` chose for features were from being others."""

    def forward(
        self,
        latents: Float[Tensor, "batch dim tokens"],
        lengths: Int[Tensor, " batch"] | None = None,
        num_codebooks: int | Int[Tensor, " batch"] | None = None,
    ) -> Quantized:
        """Quantize a padded batch.

        Args:
            latents: Any float type; float32 inside.
            lengths: Valid tokens per item; None means all. Values beyond do not matter.
            num_codebooks: None uses all. An int keeps the first n rows of codes (0: codes [B, 0, N] and zero latents).
                A tensor of one count per item is quantizer dropout: codes keep all K rows, an item's latents are the
                sum of its first n codebooks, and the losses of the others count as 0.
        """
        if latents.ndim != 3 or latents.shape[1] != self.dim:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}, expected [batch, {self.dim}, tokens]; "
                "are they channel-last?"
            )
        batch, _, tokens = latents.shape
        valid = _valid_tokens(lengths, batch, tokens, latents.device)
        # The codebooks that each token uses, in as many columns as the codes get rows.
        if isinstance(num_codebooks, Tensor):
            active = self._codebooks_per_item(valid, num_codebooks)
        else:
            rows = self.num_codebooks if num_codebooks is None else operator.index(num_codebooks)
            if not 0 <= rows <= self.num_codebooks:
                raise ValueError(self._wrong_count(rows))
            active = valid.unsqueeze(-1).expand(*valid.shape, rows)
        with torch.autocast(latents.device.type, enabled=False):
            # Each token is quantized by itself, so all clips are one sequence of tokens.
            features = latents.float().transpose(1, 2).masked_fill(~valid.unsqueeze(-1), 0.0)
            flat = self.quantize_tokens(features.flatten(0, 1), active.flatten(0, 1))
            # A loss is the mean over the valid tokens, and the sum over the codebooks in use.
            weights = active / valid.sum(dim=1).clamp(min=1)[:, None, None]
            losses = {}
            for name, loss in flat.losses.items():
                losses[name] = (loss.unflatten(0, valid.shape) * weights).sum(dim=(1, 2))
        # Back to clips, channels first.
        codes = rearrange(flat.codes, "(b n) k -> b k n", b=batch, n=tokens).masked_fill(~active.mT, 0)
        return Quantized(
            latents=rearrange(flat.latents, "(b n) d -> b d n", b=batch, n=tokens).contiguous(),
            codes=codes.contiguous(),
            losses=losses,
            inputs=latents,
        )

    def dequantize(
        self, codes: Int[Tensor, "batch codebooks tokens"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch dim tokens"]:
        """Return the latents of codes of the first K or fewer codebooks; zero past the lengths."""
        if codes.ndim != 3 or codes.is_floating_point() or codes.shape[1] > self.num_codebooks:
            raise ValueError(
                f"codes are {codes.dtype} of shape {tuple(codes.shape)}, expected integers "
                f"[batch, at most {self.num_codebooks} codebooks, tokens]; "
                "are the axes swapped, or do the tokens come from a model with more codebooks?"
            )
        batch, num_codebooks, tokens = codes.shape
        valid = _valid_tokens(lengths, batch, tokens, codes.device)
        codes = codes.long().masked_fill(~valid.unsqueeze(1), 0)
        outside = (codes < 0) | (codes >= self.codebook_size)
        if not torch.compiler.is_exporting() and outside.any():  # a graph cannot raise
            item, layer, token = outside.nonzero()[0].tolist()
            raise ValueError(
                f"code {int(codes[item, layer, token])} in codebook layer {layer} (item {item}, token {token}) "
                f"is outside 0..{self.codebook_size - 1}; do the tokens come from another model, or carry an offset "
                "or a padding mark?"
            )
        if num_codebooks == 0:
            return torch.zeros(batch, self.dim, tokens, dtype=torch.float32, device=codes.device)
        with torch.autocast(codes.device.type, enabled=False):
            latents = self.dequantize_tokens(rearrange(codes, "b k n -> (b n) k"))
        latents = rearrange(latents, "(b n) d -> b d n", b=batch, n=tokens)
        return latents.masked_fill(~valid[:, None], 0.0).contiguous()

    def dequantize_each(
        self, codes: Int[Tensor, "batch codebooks tokens"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch codebooks dim tokens"]:
        """Return what each codebook adds to `dequantize` of all; their sum is that, up to rounding."""
        sums = [self.dequantize(codes[:, :count], lengths) for count in range(codes.shape[1] + 1)]
        return torch.stack(sums, dim=1).diff(dim=1)

    def codebook_vectors(self) -> Float[Tensor, "codebooks codes dim"]:
        """Return the vector that each code of each codebook adds to the latents."""
        device = next((weight.device for weight in self.parameters()), None)
        codes = torch.arange(self.codebook_size, device=device).expand(1, self.num_codebooks, -1)
        return self.dequantize_each(codes)[0].mT

    @torch.no_grad()
    def margins(
        self,
        latents: Float[Tensor, "batch dim tokens"],
        codes: Int[Tensor, "batch codebooks tokens"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch codebooks tokens"]:
        """Tell how far codes were from being others, in the unit in which the quantizer chooses.

        Args:
            latents: What was quantized.
            codes: What came out, for the first K or fewer codebooks.
            lengths: Valid tokens per item; None means all.

        Returns:
            Margins in float32: 0 where two codes were equally good, inf past the lengths and where there is no other.
        """
        batch, _, tokens = latents.shape
        valid = _valid_tokens(lengths, batch, tokens, latents.device)
        if codes.shape[1] == 0:
            return latents.new_zeros(codes.shape, dtype=torch.float32)
        with torch.autocast(latents.device.type, enabled=False):
            features = latents.float().transpose(1, 2).masked_fill(~valid.unsqueeze(-1), 0.0)
            margins = self.token_margins(features.flatten(0, 1), rearrange(codes, "b k n -> (b n) k"))
        margins = rearrange(margins, "(b n) k -> b k n", b=batch, n=tokens)
        return margins.masked_fill(~valid[:, None], torch.inf).contiguous()

    def _codebooks_per_item(
        self, valid: Bool[Tensor, "batch tokens"], counts: Int[Tensor, " batch"]
    ) -> Bool[Tensor, "batch tokens codebooks"]:
        """Mark the first `counts` codebooks of each item."""
        if counts.shape != valid.shape[:1]:
            raise ValueError(
                f"num_codebooks has shape {tuple(counts.shape)}, expected one count for each of "
                f"the {valid.shape[0]} items; for one count for all pass an int"
            )
        outside = counts[(counts < 0) | (counts > self.num_codebooks)]
        if len(outside):
            raise ValueError(self._wrong_count(int(outside[0])))
        # counts 2    codebooks 0 1 2 3    active 1 1 0 0
        codebooks = torch.arange(self.num_codebooks, device=valid.device)
        return valid.unsqueeze(-1) & (codebooks < counts.to(valid.device)[:, None, None])

    def _wrong_count(self, count: int) -> str:
        return (
            f"num_codebooks is {count}, this quantizer has {self.num_codebooks} (0..{self.num_codebooks} can be used); "
            "the semantic codebook is not counted among acoustic ones"
        )


def straight_through(features: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return exactly `target`, with gradients going to `features`.

    The usual `features + (target - features).detach()` rounds, so that codes would differ between training and
    inference; `features - features.detach()` is an exact zero.
    """
    return (features - features.detach()) + target.detach()


def project(layer: Tensor | nn.Module, features: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens out"]:
    """Apply a Linear (or Identity) in float32, also when the model's weights are kept in half precision."""
    if isinstance(layer, nn.Linear):
        bias = None if layer.bias is None else layer.bias.float()
        return F.linear(features, layer.weight.float(), bias)
    assert isinstance(layer, nn.Identity)
    return features


def linear_or_identity(width: int, out: int) -> nn.Module:
    """Return a Linear where widths differ, else an Identity."""
    return nn.Identity() if width == out else nn.Linear(width, out)


def _valid_tokens(
    lengths: Int[Tensor, " batch"] | None, batch: int, tokens: int, device: torch.device
) -> Bool[Tensor, "batch tokens"]:
    # A mask even without padding: it also says how many tokens a mean is over.
    if lengths is None:
        return torch.ones(batch, tokens, dtype=torch.bool, device=device)
    if lengths.shape != (batch,):
        raise ValueError(f"lengths have shape {tuple(lengths.shape)}, expected one for each of the {batch} items")
    return torch.arange(tokens, device=device) < lengths.to(device).unsqueeze(-1)
