"""Batches of packed rows, the attention masks that keep their clips apart, and the same without padding."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from flexicodec.lm.vocabulary import Kind

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

IGNORED = -100  # label of what is not predicted


@dataclass
class PackedBatch:
    """Rows of whole clips, one behind the other.

    Attributes:
        ids: [batch, steps] of the vocabulary, or [batch, streams, steps] of a delayed layout.
        document: Number of the clip in its row; -1 is padding.
        position: Step within the clip, from 0.
        kinds: `Kind` of every id, so that losses are chosen by it; shape of `ids`.
        frame_rate: Tokens per second of the clip, Hz; 0 in padding.
    """

    ids: Int[Tensor, "batch *streams steps"]
    document: Int[Tensor, "batch steps"]
    position: Int[Tensor, "batch steps"]
    kinds: UInt8[Tensor, "batch *streams steps"]
    frame_rate: Float[Tensor, "batch steps"]

    @staticmethod
    def collate(rows: Sequence[dict[str, np.ndarray]]) -> "PackedBatch":
        """Stack rows of a `PackedDataset`."""
        names = [entry.name for entry in fields(PackedBatch)]
        return PackedBatch(**{name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in names})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedBatch":
        """Copy to a device."""
        return self._each(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PackedBatch":
        """Copy to pinned memory; `DataLoader(pin_memory=True)` calls it."""
        return self._each(lambda value: value.pin_memory())

    def _each(self, change: Any) -> "PackedBatch":
        return PackedBatch(**{entry.name: change(getattr(self, entry.name)) for entry in fields(self)})

    def labels(self) -> Int[Tensor, "batch *streams steps"]:
        """Return the ids to be predicted at each step: those that stand there, by the steps before them.

        The first step of every clip is `IGNORED`, and so are padding and the holes of delayed streams. Models of
        transformers shift labels themselves; the logits of step t are for the label of step t + 1.
        """
        first = self.position == 0
        if self.ids.ndim == 3:
            first = first[:, None]
        return self.ids.masked_fill(first | (self.kinds == Kind.PAD), IGNORED)


def attention_mask(batch: PackedBatch, dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch 1 steps steps"]:
    """Return a mask to add to the scores of causal attention that keeps clips apart; for SDPA and eager attention.

    Padding attends to the padding before it, so that no row of scores is empty.
    """
    # Added, not boolean: transformers adds what it is given, and True would be 1.
    document = batch.document
    steps = document.shape[1]
    same = document[:, :, None] == document[:, None, :]
    past = torch.ones(steps, steps, dtype=torch.bool, device=document.device).tril()
    mask = torch.zeros(same.shape, dtype=dtype, device=document.device)
    return mask.masked_fill(~(same & past), torch.finfo(dtype).min)[:, None]


def block_mask(batch: PackedBatch, block_size: int = 128) -> "BlockMask":
    """Return the same mask for FlexAttention. Make it once for a batch and pass it to every layer.

    FlexAttention has no backward pass on CPUs (torch 2.13).
    """
    from torch.nn.attention.flex_attention import create_block_mask

    document = batch.document

    def same_clip_before(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (document[b, query] == document[b, key]) & (query >= key)

    rows, steps = document.shape
    device = document.device.type if document.device.index is None else str(document.device)
    return create_block_mask(same_clip_before, rows, None, steps, steps, device=device, BLOCK_SIZE=block_size)


def to_flattened(batch: PackedBatch) -> dict[str, Any]:
    """Return the clips of a batch as one row without padding, as `DataCollatorWithFlattening` of transformers does.

    Pass it on as `model(**to_flattened(batch))` with FlashAttention, which reads the boundaries from `cu_seq_lens_*`.
    Do not rely on `position_ids` alone: linear attention and convolutions ignore them.
    """
    if batch.ids.ndim != 2:
        raise ValueError("delayed streams have no input_ids; embed them with SpeechStreams and use attention_mask")
    valid = batch.document >= 0
    position = batch.position[valid]
    starts = (position == 0).nonzero()[:, 0]
    total = torch.tensor([len(position)], device=position.device)
    bounds = torch.cat([starts, total]).to(torch.int32)
    longest = int(bounds.diff().max()) if len(starts) else 0
    return {
        "input_ids": batch.ids[valid][None],
        "labels": batch.labels()[valid][None],
        "position_ids": position[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }
