"""Synchronisations with a GPU: their number is fixed for any depth and size of the model.

Counted on the CPU, with the same code path; on a GPU each one stalls the queue.
"""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode

from flexicodec.encoders import fbank
from flexicodec.encoders.base import SSLConfig
from flexicodec.nn import dac, sequential
from flexicodec.nn.dac import DACDecoder, DACEncoder
from tests.encoders.self_supervised import PLAIN, TINY

QUESTIONS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "nonzero", "tensor"}


class Waits(TorchFunctionMode):
    """Counts calls that read a tensor's values in Python, or copy values from Python to a device."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if (name := getattr(func, "__name__", "")) in QUESTIONS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def waits(codec, batch=3, seconds=2.0):
    """Count those of encoding and of decoding a batch whose clips differ by little."""
    lengths = torch.full((batch,), int(16_000 * seconds))
    lengths[1:] -= 1600
    audio = 0.1 * torch.randn(batch, int(lengths.max()), generator=torch.Generator().manual_seed(0))
    with Waits() as encoding:
        tokens = codec.encode(audio, lengths, threshold=0.7)
    with Waits() as decoding:
        codec.decode(tokens)
    return encoding.counts, decoding.counts


@pytest.fixture
def deeper(make_codec, codec):
    """The same codec with more layers everywhere but in the convolutions."""
    config = codec.config

    def more(transformer):
        return replace(transformer, num_layers=transformer.num_layers + 3)

    merging = replace(
        config.merging,
        semantic_aggregator=more(config.merging.semantic_aggregator),
        acoustic_aggregator=more(config.merging.acoustic_aggregator),
    )
    return make_codec(
        config.geometry,
        semantic_encoder=more(config.semantic_encoder),
        merging=merging,
        semantic=replace(config.semantic, num_layers=5),
        bottleneck=more(config.bottleneck),
    )


def test_the_number_of_layers_adds_no_synchronisation(codec, deeper):
    assert waits(deeper) == waits(codec)


@pytest.mark.parametrize("kind", ["hubert", "wavlm"])
def test_layers_of_a_self_supervised_encoder_do_not_synchronise(kind):
    counts = []
    for layers in (1, 3):
        encoder = SSLConfig(kind, layers, False, TINY if kind == "wavlm" else PLAIN).build().eval()
        with torch.no_grad(), Waits() as counter:
            encoder(0.1 * torch.randn(2, 16_000), torch.tensor([16_000, 12_800]))
        counts.append(counter.counts)
    assert counts[0] == counts[1]


def test_the_number_of_clips_adds_no_synchronisation(codec):
    assert waits(codec, batch=9) == waits(codec, batch=2)


def test_there_are_no_more_than_there_were(codec):
    encoding, decoding = waits(codec)
    assert encoding.total() <= 53  # named in experiments/speed
    assert decoding.total() <= 21


def test_constants_of_the_front_end_are_made_once_for_a_device(whole, monkeypatch):
    front_end = whole.semantic_encoder.front_end
    audio = torch.randn(2, 16_000)
    before = front_end.fbank(audio)

    def made_again(*_):
        raise AssertionError("a constant was made again")

    monkeypatch.setattr(fbank.torch, "from_numpy", made_again)
    assert torch.equal(front_end.fbank(audio), before)


def test_large_batches_are_framed_a_little_at_a_time_with_the_same_result(whole, monkeypatch):
    front_end = whole.semantic_encoder.front_end
    audio = torch.randn(3, 40_000, generator=torch.Generator().manual_seed(1))
    at_once = front_end.fbank(audio)
    monkeypatch.setattr(fbank, "FRAMES_PER_BATCH", 3 * 70)
    torch.testing.assert_close(front_end.fbank(audio), at_once, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [DACEncoder, DACDecoder])
def test_elsewhere_than_on_the_cpu_chunks_are_large_and_in_one_piece(kind, monkeypatch):
    """Tiles fit a CPU's cache; on a device the cost of their launches would dominate."""
    stack = kind((2, 4), 16, 4) if kind is DACEncoder else kind((4, 2), 16, 4)
    wide = [module for module in stack.modules() if isinstance(module, sequential.Sequential) and module.tile]
    for module in wide:
        module.tile = 64
    stack = stack.to("meta")
    x = torch.empty(2, stack.in_channels, 200 * stack.inputs_per_frame, device="meta")
    calls = []
    conv = torch.nn.functional.conv1d
    monkeypatch.setattr(torch.nn.functional, "conv1d", lambda *a, **k: calls.append(a[0].shape) or conv(*a, **k))

    y = stack.chunked(x, torch.tensor([x.shape[-1], x.shape[-1] // 2]))
    assert y.shape == (2, stack.out_channels, stack.output_length(x.shape[-1]))
    once = len(calls)
    assert once == sum(isinstance(module, torch.nn.Conv1d) for module in stack.modules())

    calls.clear()
    monkeypatch.setattr(dac, "CHUNK_SAMPLES", 2 * 50 * stack.frame_size)
    assert stack.chunked(x).shape == y.shape
    assert len(calls) == 4 * once
