"""Graphs of codecs that work on spectra and merge by position equal their originals."""

import pytest
import torch
from torch import nn

from flexicodec.export.compare import compare
from flexicodec.export.graphs import SAMPLES, AcousticEncoderGraph, Graph, TensorSpec, graphs
from flexicodec.export.onnx import export, write_graph
from flexicodec.export.runtime import load_exported
from flexicodec.merging.positions import PositionAggregator, PositionConfig, PositionUnmerger
from flexicodec.nn.conv import PaddedLengths
from flexicodec.nn.spectral import SpectralConfig, TwoRateConfig

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

TINY = SpectralConfig(
    num_mels=7,
    latent_dim=4,
    hop=20,
    hops_per_frame=3,
    mel_window=50,
    encoder=TwoRateConfig(6, 1, 5, 0),
    decoder=TwoRateConfig(5, 0, 6, 0),
    istft_window=20,
    istft_hop=5,
)


class EncodedDecoded(nn.Module):
    """An encoder and the decoder behind it, as graphs call them."""

    def __init__(self):
        super().__init__()
        self.encoder = AcousticEncoderGraph(TINY.build_encoder(16_000))
        self.decoder = TINY.build_decoder()

    def forward(self, audio, lengths):
        frames = PaddedLengths(lengths // TINY.frame_size, shortest=0)
        return self.decoder.layers(self.encoder(audio, lengths), frames)[:, 0]


class MergedUnmerged(nn.Module):
    """An aggregator and the unmerger behind it."""

    def __init__(self):
        super().__init__()
        self.aggregator = PositionAggregator(4, PositionConfig(3, hidden_dim=8))
        self.unmerger = PositionUnmerger(4, 8, 3)
        nn.init.normal_(self.unmerger.embedding)

    def forward(self, features, durations):
        return self.unmerger(self.aggregator(features, durations), durations, features.shape[-1])


def operators(path):
    return {node.op_type for node in onnx.load(path).graph.node}


def check(graph, path, *batches):
    """Trace a graph and compare it with its module on other batches."""
    write_graph(graph, TINY.frame_size, path)
    assert not {"Loop", "Scan", "If", "DFT", "STFT"} & operators(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in batches:
        (theirs,) = session.run(None, {spec.name: x.numpy() for spec, x in zip(graph.inputs, batch, strict=True)})
        with torch.no_grad():
            ours = graph.module(*batch)
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_spectra_of_any_length_without_fourier_operators(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, frame = EncodedDecoded().eval(), TINY.frame_size
        batches = [
            (0.3 * torch.randn(rows, frames * frame), rows, frames) for rows, frames in ((2, 7), (1, 1), (3, 12))
        ]
    given = TensorSpec("audio", ("batch", SAMPLES)), TensorSpec("lengths", ("batch",), "int64")
    out = (TensorSpec("decoded", ("batch", "samples")),)
    inputs = [(audio, frame * torch.arange(frames, frames - rows, -1)) for audio, rows, frames in batches]
    check(Graph("spectra", module, given, out, inputs[0]), tmp_path / "spectra.onnx", *inputs)


@pytest.mark.slow
def test_tokens_of_any_duration(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = MergedUnmerged().eval()
        features, few = torch.randn(2, 4, 40), torch.randn(2, 4, 12)
    given = TensorSpec("features", ("batch", 4, "frames")), TensorSpec("durations", ("batch", "tokens"), "int64")
    out = (TensorSpec("unmerged", ("batch", 4, "frames")),)
    traced = few, torch.tensor([[3, 1, 2, 4, 1], [2, 2, 3, 0, 0]])
    others = (features, torch.tensor([[20, 1, 7], [1, 3, 0]])), (few[:1, :, :1], torch.tensor([[1]]))
    check(Graph("merged", module, given, out, traced), tmp_path / "merged.onnx", traced, *others)


@pytest.fixture(scope="module")
def exported(spectral, tmp_path_factory):
    """All graphs of a codec."""
    folder = export(spectral, tmp_path_factory.mktemp("spectral"))
    assert not any({"Loop", "Scan", "If", "DFT", "STFT"} & operators(path) for path in folder.glob("*.onnx"))
    return load_exported(folder, threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [[1], [20_000], [30_000, 28_001, 29_999]])
def test_graphs_are_the_model(spectral, exported, samples, speech):
    audio = torch.stack([speech[0][0].roll(7919 * i)[: max(samples)] for i in range(len(samples))])
    for choice in ({}, {"threshold": 0.0, "max_duration": 12}):
        found = compare(spectral, exported, audio, torch.tensor(samples), **choice)
        assert found.holds, found
        assert found.codes > 0


def test_int8_is_for_transformers_alone(spectral):
    assert [graph.name for graph in graphs(spectral) if graph.has_blocks] == ["semantic_encoder", "decoder"]
