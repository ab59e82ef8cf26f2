"""Exported codecs equal their originals: any batch, any length, the same codes, the same audio."""

import copy
import io
import json
import pickle
import re
import shutil
from contextlib import redirect_stdout
from dataclasses import replace

import pytest
import torch

import flexicodec
from flexicodec.cli import main
from flexicodec.encoders.base import MoonshineConfig, SSLConfig, SSLSettings
from flexicodec.export.compare import compare
from flexicodec.export.graphs import DecoderGraph, graphs
from flexicodec.export.onnx import FRONT_END_NAME, MANIFEST_NAME, block_products, export, write_graph
from flexicodec.export.runtime import Graphs, OnnxSemanticEncoder, load_exported
from flexicodec.models.flexicodec.config import AcousticConfig, FlexiCodecConfig, SemanticConfig
from flexicodec.models.nanocodec.config import DecoderConfig, EncoderConfig, NanoCodecConfig
from flexicodec.quantize import GroupedFSQConfig, ResidualFSQConfig, VQConfig

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SAMPLES = [1, 400, 1279, 1281, 5000, 16000, 40001]  # none of them the length that was traced
SHORT = {"kernel_sizes": (3,), "dilations": (1,)}
TINY = NanoCodecConfig(
    encoder=EncoderConfig((6,), 2, padding_mode="reflect", **SHORT),
    decoder=DecoderConfig((6,), 4, False, "replicate", "half_snake", "tanh", **SHORT),
    quantizer=GroupedFSQConfig(2, (8, 7)),
)
FEW_LAYERS = AcousticConfig(strides=(32, 40), width=2, latent_dim=12, decoder_width=64)


def noise(lengths, seed=0):
    """Clips of noise side by side, each as loud as speech and as long as it says."""
    generator = torch.Generator().manual_seed(seed)
    audio = 0.1 * torch.randn(len(lengths), max(lengths), generator=generator)
    return audio, torch.tensor(lengths)


def operators(folder):
    """Every operator in every graph of a folder."""
    models = [onnx.load(path) for path in sorted(folder.glob("*.onnx"))]
    return {node.op_type for model in models for node in model.graph.node}


# ------------------------------------------------------------------------------------------- NanoCodec, quick enough


@pytest.fixture(scope="module")
def verb(make_nanocodec, tmp_path_factory):
    """A codec of two layers that reflects one end and repeats the other, exported by the command, and its words."""
    codec, folder = make_nanocodec(TINY), tmp_path_factory.mktemp("nano")
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setitem(vars(flexicodec), "load", lambda *_, **__: codec)
        assert main(["export", "tiny", "-o", str(folder)]) == 0
    return codec, folder, said.getvalue()


@pytest.fixture
def nano(verb):
    """The codec and the folder of its export."""
    return verb[:2]


def test_nanocodec_of_any_length_is_the_model(nano):
    codec, folder = nano
    exported = load_exported(folder, threads=1)
    for samples in (1, 7, 300, 1000):
        found = compare(codec, exported, *noise([samples]))
        assert found.holds, (samples, found)
        assert found.codes == 2 * -(-samples // codec.frame_size)


def test_nanocodec_in_a_padded_batch_is_each_clip_alone(nano):
    codec, folder = nano
    exported = load_exported(folder, threads=1)
    audio, lengths = noise([700, 41, 6, 333])
    tokens, decoded = exported.encode(audio, lengths), None
    assert tokens == codec.encode(audio, lengths)
    decoded = exported.decode(tokens)
    torch.testing.assert_close(decoded, codec.decode(tokens), rtol=0, atol=1e-4)
    for row, length in enumerate(lengths.tolist()):
        alone = exported.encode(audio[row : row + 1, :length])
        assert tokens[row] == alone
        torch.testing.assert_close(decoded[row : row + 1, :length], exported.decode(alone), rtol=0, atol=1e-5)


def test_tokens_go_from_one_to_the_other(nano, tmp_path):
    codec, folder = nano
    exported = load_exported(folder)
    assert exported.fingerprint == codec.fingerprint
    assert exported.format == codec.format
    exported.encode(*noise([500])).save(tmp_path / "a.flxc")
    decoded = codec.decode(type(codec.encode(*noise([500]))).load(tmp_path / "a.flxc"))
    assert decoded.shape == (1, 500)


def test_the_folder_says_what_is_in_it(nano):
    codec, folder = nano
    held = json.loads((folder / MANIFEST_NAME).read_text())
    assert {path.name for path in folder.iterdir()} == {MANIFEST_NAME, "encoder.onnx", "quantizer.onnx", "decoder.onnx"}
    assert held["fingerprint"] == codec.fingerprint
    model = onnx.load(folder / "decoder.onnx")
    codes, lengths = model.graph.input
    shape = [dim.dim_value or dim.dim_param for dim in codes.type.tensor_type.shape.dim]
    assert (codes.name, shape, lengths.name) == ("codes", ["batch", 2, "frames"], "lengths")


def test_an_export_pickles_as_its_folder(nano, tmp_path, monkeypatch):
    _, folder = nano
    exported = load_exported(folder, threads=1)
    audio, _ = noise([700])
    before = pickle.dumps(exported)
    tokens = exported.encode(audio)
    assert pickle.dumps(exported) == before  # sessions are no part of it
    assert len(before) < 20_000
    monkeypatch.chdir(tmp_path)
    for again in (pickle.loads(before), copy.deepcopy(exported)):
        assert again.encode(audio) == tokens
        assert again.fingerprint == exported.fingerprint
        assert torch.equal(again.decode(tokens), exported.decode(tokens))


def test_errors_of_graphs_name_their_folder(nano, tmp_path):
    _, folder = nano
    copied = shutil.copytree(folder, tmp_path / "copy")
    (copied / "encoder.onnx").unlink()
    (copied / "decoder.onnx").write_bytes(b"no graph")
    exported = load_exported(copied)
    with pytest.raises(ValueError, match=r"copy/encoder.onnx cannot be run .*export the model again"):
        exported.encode(noise([700])[0])
    tokens = load_exported(folder).encode(noise([700])[0])
    with pytest.raises(ValueError, match="copy/decoder.onnx cannot be run"):
        exported.decode(tokens)
    (copied / "export.json").write_text("{")
    with pytest.raises(ValueError, match=r"copy/export.json is not JSON"):
        load_exported(copied)


def test_what_needs_the_networks_is_refused(nano):
    codec, folder = nano
    exported = load_exported(folder)
    audio, lengths = noise([100])
    with pytest.raises(ValueError, match="flexicodec.load opens"):
        exported.streaming_decoder().decode(codec.encode(audio, lengths))
    with pytest.raises(ValueError, match="its own end"):
        exported.decode(codec.encode(audio), compatible=True)
    for call, argument in ((exported.encode, audio), (exported.decode, codec.encode(audio))):
        with pytest.raises(ValueError, match="precision is 'bfloat16', but graphs"):
            call(argument, precision="bfloat16")


def test_no_export_is_taken_for_one(nano, tmp_path):
    with pytest.raises(ValueError, match="no export.json"):
        load_exported(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text('{"layout": 99}')
    with pytest.raises(ValueError, match="layout 99"):
        load_exported(tmp_path)


def test_what_cannot_be_exported_says_why(nano, make_codec, make_nanocodec, fake_encoder, tmp_path):
    codec, _ = nano
    with pytest.raises(ValueError, match="has none"):
        export(codec, tmp_path / "a", int8=True)
    with pytest.raises(ValueError, match="FakeSemanticEncoder that was passed in"):
        export(make_codec(semantic_encoder=fake_encoder()), tmp_path / "b")
    part = make_nanocodec(TINY)
    part.keep("decode")
    with pytest.raises(ValueError, match="without its encoder"):
        export(part, tmp_path / "c")
    with pytest.raises(ValueError, match="train mode"):
        export(make_nanocodec(TINY).train(), tmp_path / "d")
    assert not any(tmp_path.iterdir())


def test_the_verb_lists_the_files_and_compares(verb):
    codec, folder, said = verb
    assert all(path.name in said for path in folder.iterdir())
    codes = 2 * -(-5 * codec.sample_rate // codec.frame_size)
    assert re.search(rf"of {codes} codes differ .*audio by at most \d", said)


# ---------------------------------------------------------------------------------------------------- FlexiCodec, slow


@pytest.fixture(scope="module", params=["whole", "released"])
def flexi(request, make_codec, tmp_path_factory):
    """A codec of either geometry with every part, few layers, and the folder of its export."""
    codec = make_codec(request.param, acoustic=FEW_LAYERS)
    return codec, export(codec, tmp_path_factory.mktemp("flexi"))


@pytest.mark.slow
def test_flexicodec_of_any_length_is_the_model(flexi):
    codec, folder = flexi
    exported = load_exported(folder, threads=1)
    for samples in SAMPLES:
        for choices in ({}, {"threshold": 1.0}, {"frame_rate": 5.0, "num_codebooks": 2}):
            found = compare(codec, exported, *noise([samples], seed=samples), **choices)
            assert found.holds, (samples, choices, found)
            assert found.codes > 0


@pytest.mark.slow
def test_flexicodec_in_a_padded_batch_is_each_clip_alone(flexi):
    codec, folder = flexi
    exported = load_exported(folder, threads=1)
    lengths = [30000, 28001, 29999]  # near enough that none is taken alone
    audio, counts = noise(lengths)
    tokens = exported.encode(audio, counts)
    decoded = exported.decode(tokens)
    for row, length in enumerate(lengths):
        alone = exported.encode(audio[row : row + 1, :length])
        assert tokens[row] == alone
        torch.testing.assert_close(decoded[row : row + 1, :length], exported.decode(alone), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_graphs_hold_for_padding_whatever_is_in_it(flexi):
    codec, folder = flexi
    exported = load_exported(folder, threads=1)
    parts = {graph.name: graph for graph in graphs(codec)}
    generator = torch.Generator().manual_seed(5)
    for name, inputs in {
        "semantic_encoder": (torch.randn(3, 41, 140, generator=generator), torch.tensor([41, 1, 17])),
        "acoustic_encoder": (torch.randn(3, 9 * 1280, generator=generator), 1280 * torch.tensor([9, 1, 4])),
    }.items():
        with torch.no_grad():
            ours = parts[name].module(*inputs)
            loud = inputs[0].clone()
            for row, length in enumerate(inputs[1].tolist()):
                loud[row, length:] = 100.0
        (theirs,) = exported.graphs.run(name, loud, inputs[1])
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_fewer_codebooks_and_semantic_tokens_alone(flexi):
    codec, folder = flexi
    exported = load_exported(folder, threads=1)
    audio, _ = noise([20000])
    tokens = codec.encode(audio)
    for count in range(codec.num_codebooks + 1):
        kept = tokens.keep(count)
        torch.testing.assert_close(exported.decode(kept), codec.decode(kept), rtol=0, atol=1e-4)
        assert exported.encode(audio, num_codebooks=count) == kept


@pytest.mark.slow
def test_tokens_may_be_as_long_as_they_like(flexi):
    codec, folder = flexi
    exported = load_exported(folder, threads=1)
    audio, _ = noise([60 * 1280])
    choices = {"durations": [[int(codec.num_frames(60 * 1280))]], "max_duration": None}
    assert exported.encode(audio, **choices) == codec.encode(audio, windows=None, **choices)


@pytest.mark.slow
def test_graphs_have_no_loops_and_no_complex_numbers(flexi):
    assert not {"Loop", "Scan", "If", "SequenceConstruct", "DFT", "STFT"} & operators(flexi[1])


@pytest.mark.slow
def test_the_front_end_travels(flexi):
    codec, folder = flexi
    assert (folder / FRONT_END_NAME).is_file()
    encoder = load_exported(folder).semantic_encoder
    assert torch.equal(encoder.front_end.shift, codec.semantic_encoder.front_end.shift)
    assert encoder.front_end.config == codec.config.semantic_encoder.front_end


@pytest.mark.slow
def test_what_graphs_do_not_give_is_refused(flexi):
    codec, folder = flexi
    exported = load_exported(folder)
    audio, _ = noise([4000])
    tokens = codec.encode(audio)
    with pytest.raises(ValueError, match="no margins"):
        exported.encode(audio, margins=True)
    with pytest.raises(ValueError, match="precision"):
        exported.encode(audio, precision="bfloat16")
    with pytest.raises(ValueError, match="cannot be called by itself"):
        exported.embed(tokens)
    with pytest.raises(ValueError, match="another model"):
        exported.decode(replace(tokens, format=replace(tokens.format, fingerprint="0" * 16)))


@pytest.mark.slow
def test_other_quantizers_and_a_fixed_rate(make_codec, tmp_path):
    settings = {
        "merging": None,
        "bottleneck": None,
        "semantic": SemanticConfig(VQConfig(32, 4), dim=24, hidden_dim=32, num_layers=1),
        "acoustic_quantizer": ResidualFSQConfig((5, 5), 3),
    }
    codec = make_codec("whole", acoustic=FEW_LAYERS, **settings)
    exported = load_exported(export(codec, tmp_path), threads=1)
    assert compare(codec, exported, *noise([20000])).holds
    kept = codec.encode(*noise([9000])).keep(1)
    torch.testing.assert_close(exported.decode(kept), codec.decode(kept), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_int8_is_near_and_smaller(make_codec, tmp_path):
    codec = make_codec("whole", acoustic=FEW_LAYERS)
    exported = load_exported(export(codec, tmp_path, int8=True), threads=1)
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= operators(tmp_path)
    assert json.loads((tmp_path / MANIFEST_NAME).read_text())["int8"] is True
    audio, _ = noise([30000])
    tokens = codec.encode(audio)
    ours, theirs = codec.decode(tokens), exported.decode(tokens)
    assert not torch.equal(ours, theirs)
    assert (ours - theirs).square().mean() < 0.05 * ours.square().mean()
    assert exported.encode(audio).frame_lengths.tolist() == tokens.frame_lengths.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hubert", "wavlm"])
def test_self_supervised_encoders(kind, make_codec, tmp_path):
    settings = SSLSettings(
        hidden_size=24,
        num_attention_heads=4,
        intermediate_size=40,
        conv_dim=(12,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    codec = make_codec("whole", SSLConfig(kind, 1, True, settings), acoustic=FEW_LAYERS)
    encoder, path = graphs(codec)[0], tmp_path / "encoder.onnx"
    write_graph(encoder, codec.frame_size, path)
    # query, key, value, out, two of the feed-forward half, and WavLM's gate of relative positions
    assert len(block_products(onnx.load(path))) == (7 if kind == "wavlm" else 6)
    audio, lengths = noise([20000, 1280, 7001])
    given = {"audio": audio.numpy(), "lengths": lengths.numpy()}
    (theirs,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, given)
    with torch.no_grad():
        ours, _ = codec.semantic_encoder(audio, lengths)
    torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"windows": (7, (5, 2)), "norm_window": (9, 4), "left_padding": 256}], ids=["global", "windows"]
)
def test_moonshine(settings, make_codec, tmp_path):
    config = MoonshineConfig(num_layers=2, dim=24, num_heads=2, feedforward_dim=40, rotary_dim=10, **settings)
    codec = make_codec("whole", config, acoustic=FEW_LAYERS)
    encoder, path = graphs(codec)[0], tmp_path / "encoder.onnx"
    write_graph(encoder, codec.frame_size, path)
    assert len(block_products(onnx.load(path))) == 2 * 6
    described = {"file": path.name, "inputs": [{"name": spec.name} for spec in encoder.inputs]}
    exported = OnnxSemanticEncoder(codec.semantic_encoder, Graphs(tmp_path, {"semantic_encoder": described}, 1))
    for lengths in ([20_000, 1280, 7001], [1280], [60_001, 60_001]):
        audio, counts = noise(lengths)
        theirs, their_frames = exported(audio, counts)
        with torch.no_grad():
            ours, frames = codec.semantic_encoder(audio, counts)
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
        assert torch.equal(their_frames, frames)


@pytest.mark.slow
def test_a_decoder_that_attends_to_the_whole_clip_is_traced_for_any_length(make_codec):
    """The bottleneck of the released architecture, one layer of it."""
    codec = make_codec("released", acoustic=FEW_LAYERS, bottleneck=replace(FlexiCodecConfig().bottleneck, num_layers=1))
    decoder, free = DecoderGraph(codec), torch.export.Dim.AUTO
    shapes = ({0: free, 1: free}, {0: free, 2: free}, {0: free, 1: free})

    def tokens(durations):
        codes = torch.zeros(*durations.shape, dtype=torch.long)
        return codes, codes[:, None].expand(-1, 4, -1).clone(), durations

    with torch.no_grad():
        traced = torch.export.export(
            decoder, tokens(torch.tensor([[2, 3, 1], [4, 0, 0]])), dynamic_shapes=shapes, strict=False
        ).module()
        for durations in ([[8, 1], [2, 0], [1, 1]], [[3, 4, 5, 6], [7, 0, 0, 0]]):
            given = tokens(torch.tensor(durations))
            torch.testing.assert_close(traced(*given), decoder(*given), atol=1e-5, rtol=0)
