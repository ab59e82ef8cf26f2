"""SAN-M as a stream: samples in, features out as soon as their windows are full.

With a window every block carries what it still needs and the stream equals the whole clip to float noise; without one
the blocks run on windows of the stream, which is near the whole and never equal to it.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.encoders.fbank import DITHER_PERIOD, KaldiFbank
from flexicodec.encoders.sanm import SanmEncoder
from flexicodec.nn.attention import sdpa
from flexicodec.nn.stages import WindowStage, WindowState
from flexicodec.nn.streaming import register_state
from flexicodec.nn.transformer import STREAM_BLOCK, LayerState


@register_state
@dataclass(frozen=True)
class FrontEndState:
    """Where a front end stands in a stream.

    Attributes:
        position: Which fbank frame comes next, modulo the dither's period.
        samples: That it still needs.
        fbank: Frames that coming outputs need; None before the first.
    """

    position: Int[Tensor, " batch"]
    samples: Float[Tensor, "batch kept"]
    fbank: Float[Tensor, "batch kept mels"] | None = None


class FrontEndStage:
    """Samples [B, 1, S] in, stacked filterbanks [B, dim, frames] out."""

    exact, per_item, channels = True, False, 1

    def __init__(self, front_end: KaldiFbank) -> None:
        self.front_end, config = front_end, front_end.config
        assert config.stack >= config.stride, "no frame is left out, so that all that is needed is there"
        self.before = (config.stack - 1) // 2
        self.behind = config.stack - 1 - self.before
        self.lookahead = self.inputs_needed(1) - 1

    def inputs_needed(self, frames: int) -> int:
        """Count the samples that have to be there before so many frames are out."""
        fbank = (frames - 1) * self.front_end.config.stride + self.behind + 1
        return (fbank - 1) * self.front_end.frame_shift + self.front_end.frame_length

    def initial_state(self) -> FrontEndState:
        """See `Stage`."""
        device = self.front_end.shift.device
        return FrontEndState(torch.zeros(1, dtype=torch.long, device=device), torch.zeros(1, 0, device=device))

    def step(self, x: Tensor, state: FrontEndState, last: bool) -> tuple[Tensor, FrontEndState]:
        """See `Stage`."""
        front_end, config = self.front_end, self.front_end.config
        samples = torch.cat([state.samples.expand(len(x), -1), x[:, 0]], dim=-1)
        count = max(0, (samples.shape[-1] - front_end.frame_length) // front_end.frame_shift + 1)
        fbank, position = state.fbank, state.position
        if count:
            end = (count - 1) * front_end.frame_shift + front_end.frame_length
            new = front_end.fbank(samples[:, :end], position)
            fbank = torch.cat([new[:, :1].expand(-1, self.before, -1) if fbank is None else fbank, new], dim=1)
            position = (position + count) % DITHER_PERIOD
        samples = samples[:, count * front_end.frame_shift :].clone()
        if fbank is None:
            return x.new_zeros(len(x), config.dim, 0), FrontEndState(position, samples)
        if last:
            fbank = torch.cat([fbank, fbank[:, -1:].expand(-1, self.behind, -1)], dim=1)
        ready = max(0, (fbank.shape[1] - config.stack) // config.stride + 1)
        if not ready:
            return x.new_zeros(len(x), config.dim, 0), FrontEndState(position, samples, fbank)
        stacked = fbank.unfold(1, config.stack, config.stride).transpose(2, 3).flatten(2)
        features = (stacked + front_end.shift) * front_end.scale
        return features.transpose(1, 2), FrontEndState(position, samples, fbank[:, ready * config.stride :].clone())


@register_state
@dataclass(frozen=True)
class SanmState:
    """Where the blocks stand in a stream.

    Attributes:
        inner: Of the blocks, or of the windows.
        position: Of the next frame, counted from one; None where positions do not matter.
        skip: Outputs to come that are the prompt's; None before the first step.
    """

    inner: tuple[LayerState, ...] | WindowState
    position: Int[Tensor, " batch"] | None
    skip: int | None = None


class SanmStage:
    """The blocks of a SAN-M encoder, stacked filterbanks [B, in_dim, T] in and features [B, dim, T] out.

    Args:
        encoder: Whose blocks.
        context: Where attention is global: frames that it sees before those that come out,
        ahead: behind them,
        stride: and that come out at a time.
    """

    per_item = False

    def __init__(self, encoder: SanmEncoder, context: int, ahead: int, stride: int) -> None:
        self.encoder, self.dim = encoder, encoder.dim
        self.channels = encoder.config.front_end.dim
        self.exact = encoder.config.window is not None
        self.windows = WindowStage(self._on_window, self.channels, context, ahead, stride, encoder.dim)
        self.layers = [SanmLayer(layer, encoder.config.window or 0) for layer in encoder.encoder.layers]
        self.lookahead = sum(layer.ahead for layer in self.layers) if self.exact else self.windows.lookahead

    def initial_state(self) -> SanmState:
        """See `Stage`."""
        config = self.encoder.config
        first = 1 + len(config.prompt)
        device = self.encoder.front_end.shift.device
        position = torch.full((1,), first, device=device) if config.positions else None
        return SanmState((LayerState(),) * len(self.layers) if self.exact else self.windows.initial_state(), position)

    def step(self, x: Tensor, state: SanmState, last: bool) -> tuple[Tensor, SanmState]:
        """See `Stage`."""
        first = torch.ones(1, dtype=torch.long, device=x.device) if state.position is None else state.position
        placed = self.encoder.place(x.transpose(1, 2), first)
        position = None if state.position is None else state.position + x.shape[-1]
        if isinstance(state.inner, WindowState):
            y, inner = self.windows.step(placed.transpose(1, 2), state.inner, last)
            return y, SanmState(inner, position)
        skip = state.skip
        if skip is None:
            placed, skip = torch.cat([self._prompt(len(x)), placed], dim=1), len(self.encoder.config.prompt)
        y, layers = self._through(placed, state.inner, last)
        dropped = min(skip, y.shape[1])
        return y[:, dropped:].transpose(1, 2), SanmState(layers, position, skip - dropped)

    def _through(self, x: Tensor, states: tuple[LayerState, ...], last: bool) -> tuple[Tensor, tuple[LayerState, ...]]:
        """Take the blocks piece by piece, for memory that does not grow with the chunk."""
        pieces, outputs = x.split(max(self.encoder.config.window or 0, STREAM_BLOCK), dim=1), []
        for index, piece in enumerate(pieces):
            after = []
            for layer, state in zip(self.layers, states, strict=True):
                piece, state = layer.step(piece, state, last and index == len(pieces) - 1)
                after.append(state)
            states = tuple(after)
            outputs.append(piece)
        return torch.cat(outputs, dim=1), states

    def _on_window(self, placed: Float[Tensor, "batch in_dim steps"]) -> Float[Tensor, "batch dim steps"]:
        """Hear a window as if it were the clip, after the prompt."""
        batch, count = len(placed), len(self.encoder.config.prompt)
        steps = torch.cat([self._prompt(batch), placed.transpose(1, 2)], dim=1)
        lengths = torch.full((batch,), steps.shape[1], device=placed.device)
        return self.encoder.walk(steps, lengths)[:, count:].transpose(1, 2)

    def _prompt(self, batch: int) -> Float[Tensor, "batch prompt in_dim"]:
        config, device = self.encoder.config, self.encoder.front_end.shift.device
        if not config.prompt:
            return torch.zeros(batch, 0, self.channels, device=device)
        rows = self.encoder.prompt(torch.tensor(config.prompt, device=device)).expand(batch, -1, -1)
        return self.encoder.place(rows, torch.ones(1, dtype=torch.long, device=device))


class SanmLayer:
    """One block with a window: attention within it, and the FSMN memory over the values.

    Args:
        layer: transformers' block, whose weights are used.
        window: Frames to either side that attention sees.
    """

    def __init__(self, layer: Any, window: int) -> None:
        self.layer, self.window = layer, window
        self.memory: nn.Conv1d = layer.self_attn.fsmn.conv
        width = self.memory.kernel_size[0]
        self.left, self.right = (width - 1) // 2, width - 1 - (width - 1) // 2
        self.back, self.ahead = max(window, self.left), max(window, self.right)

    def step(
        self, x: Float[Tensor, "batch new in_dim"], state: LayerState, last: bool
    ) -> tuple[Float[Tensor, "batch ready dim"], LayerState]:
        """Run the next steps of a stream; those whose window is not all there yet wait (as in `TransformerLayer`)."""
        attention = self.layer.self_attn
        normed = self.layer.input_layernorm(x)
        seen = torch.cat([attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)], dim=-1)
        waiting = x
        if state.seen is not None and state.waiting is not None:
            seen, waiting = torch.cat([state.seen, seen], dim=1), torch.cat([state.waiting, x], dim=1)
        answered = seen.shape[1] - waiting.shape[1]
        ready = waiting.shape[1] if last else max(0, waiting.shape[1] - self.ahead)
        if ready:
            y = self._attend(seen[:, : answered + ready + self.ahead], answered, ready)
            if waiting.shape[-1] == y.shape[-1]:  # the first block changes the width, and has nothing to add to
                y = waiting[:, :ready] + y
            y = self.layer.final_layernorm(y + self.layer.mlp(self.layer.post_attention_layernorm(y)))
        else:
            y = x.new_zeros(len(x), 0, attention.o_proj.out_features)
        done = max(0, answered + ready - self.back)
        return y, LayerState(seen[:, done:].clone(), waiting[:, ready:].clone())

    def _attend(self, seen: Tensor, first: int, count: int) -> Float[Tensor, "batch count dim"]:
        """Answer `count` steps from `first` on."""
        attention = self.layer.self_attn
        query, key, value = seen.chunk(3, dim=-1)
        steps = torch.arange(seen.shape[1], device=seen.device)
        mask = (steps - steps[first : first + count, None]).abs() <= self.window
        queries, keys, values = (x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for x in (query, key, value))
        queries = queries[:, :, first : first + count]
        out = sdpa(queries, keys, values, mask, attention.scaling)
        return attention.o_proj(out.transpose(1, 2).flatten(2)) + self._remember(value, first, count)

    def _remember(self, value: Tensor, first: int, count: int) -> Float[Tensor, "batch count dim"]:
        """Convolve the values, zeros beyond the clip's ends, and add them."""
        begin, end = first - self.left, first + count + self.right
        near = value[:, max(0, begin) : end].transpose(1, 2)
        near = F.pad(near, (max(0, -begin), max(0, end - value.shape[1])))
        memory = F.conv1d(near, self.memory.weight, self.memory.bias, groups=self.memory.groups)
        return memory.transpose(1, 2) + value[:, first : first + count]
