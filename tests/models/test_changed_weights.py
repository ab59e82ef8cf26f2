"""However and whenever weights change, tokens, audio and names are those of the weights as they are."""

import copy
import os
import pickle
import weakref

import joblib
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector, parametrizations, parametrize, prune, vector_to_parameters

import flexicodec
from flexicodec.models import fingerprint
from flexicodec.models.fingerprint import current_weights
from flexicodec.nn import onednn, snake
from flexicodec.tokens import Tokens
from flexicodec.weights import save_tensors

TOKEN_PARTS = ("encoder", "semantic_encoder", "acoustic_aggregator", "semantic_quantizer", "acoustic_quantizer")
OTHER_PARTS = ("bottleneck", "decoder")


# ------------------------------------------------------------------- every way of changing a part that PyTorch offers


def changed(parameter):
    return 1.05 * parameter.detach() + 0.003


def each(write):
    """Write to one parameter after another."""

    def prepare(part):
        parameters = list(part.parameters())
        return lambda: [write(parameter) for parameter in parameters]

    return prepare


def owners(part):
    for module in part.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            yield module, name, parameter


def state(part):
    return {name: changed(value) for name, value in part.state_dict().items()}


def replace(part):
    for module, name, parameter in owners(part):
        setattr(module, name, nn.Parameter(changed(parameter)))


def register(part):
    for module, name, parameter in owners(part):
        module.register_parameter(name, nn.Parameter(changed(parameter)))


def into_dictionary(part):
    for module, name, parameter in owners(part):
        module._parameters[name] = nn.Parameter(changed(parameter))


def through_numpy(part):
    arrays = [parameter.detach().numpy() for parameter in part.parameters()]

    def write():
        for array in arrays:
            array *= 1.05
            array += 0.003

    return write


def through_views(part):
    views = [parameter.detach().view(-1) for parameter in part.parameters()]
    return lambda: [view.mul_(1.05).add_(0.003) for view in views]


def shared(part):
    part.share_memory()
    return each(lambda p: p.data.copy_(changed(p)))(part)


def fuse(part):
    """One vector for all parameters, as optimisers and data parallelism do."""
    vector_to_parameters(1.05 * parameters_to_vector(part.parameters()) + 0.003, part.parameters())


def step(optimizer, **choices):
    def prepare(part):
        def write():
            trained = [parameter for parameter in part.parameters() if parameter.numel()]
            before = [parameter.requires_grad for parameter in trained]
            for parameter in trained:
                parameter.requires_grad_().grad = torch.ones_like(parameter)
            optimizer(trained, lr=0.01, **choices).step()
            for parameter, requires_grad in zip(trained, before, strict=True):
                parameter.grad = None
                parameter.requires_grad_(requires_grad)

        return write

    return prepare


def normed(part):
    """Weight norm, whose directions and norms are written to, and back to plain weights."""
    for module, name, parameter in list(owners(part)):
        if name == "weight" and parameter.ndim > 1:
            parametrizations.weight_norm(module, "weight")
            module.parametrizations.weight.original0.data.mul_(1.05)
    return lambda: [
        parametrize.remove_parametrizations(module, "weight")
        for module in list(part.modules())
        if parametrize.is_parametrized(module, "weight")
    ]


def reversed_memory(part):
    """Other strides over the same memory, which changes square matrices."""
    for parameter in part.parameters():
        if parameter.ndim >= 2 and parameter.shape[0] == parameter.shape[1]:
            parameter.data = parameter.data.transpose(0, 1)
        else:
            parameter.data.add_(0.003)


def foreach(part):
    parameters = list(part.parameters())
    torch._foreach_mul_(parameters, 1.05)
    torch._foreach_add_(parameters, 0.003)


@torch.inference_mode()
def in_inference_mode(part):
    for parameter in part.parameters():
        parameter.mul_(1.05).add_(0.003)


def now(change):
    return lambda part: lambda: change(part)


WAYS = {
    "mul_": each(lambda p: p.mul_(1.05)),
    "copy_": each(lambda p: p.copy_(changed(p))),
    "load_state_dict": now(lambda part: part.load_state_dict(state(part))),
    "load_state_dict, assign": now(lambda part: part.load_state_dict(state(part), assign=True)),
    "bfloat16 and back": now(lambda part: part.bfloat16().float()),
    "data =": each(lambda p: setattr(p, "data", changed(p))),
    "data.mul_": each(lambda p: p.data.mul_(1.05)),
    "data.copy_": each(lambda p: p.data.copy_(changed(p))),
    "data.lerp_": each(lambda p: p.data.lerp_(torch.ones_like(p), 0.02)),
    "data, rows": each(lambda p: [p.data[row].mul_(1.05).add_(0.003) for row in range(0, len(p), 3)]),
    "set_": each(lambda p: p.set_(changed(p))),
    "untyped_storage().copy_": each(lambda p: p.untyped_storage().copy_(changed(p).contiguous().untyped_storage())),
    "swap_tensors": each(
        lambda p: torch.utils.swap_tensors(p, nn.Parameter(changed(p), requires_grad=p.requires_grad))
    ),
    "vector_to_parameters": now(fuse),
    "setattr": now(replace),
    "register_parameter": now(register),
    "_parameters": now(into_dictionary),
    "numpy": through_numpy,
    "views made before": through_views,
    "shared memory": shared,
    "_foreach": now(foreach),
    "inference mode": now(in_inference_mode),
    "strides": now(reversed_memory),
    "SGD": step(torch.optim.SGD, foreach=False),
    "SGD, fused": step(torch.optim.SGD, fused=True),
    "AdamW, foreach": step(torch.optim.AdamW, foreach=True),
    "AdamW, fused": step(torch.optim.AdamW, fused=True),
    "weight norm, then off": normed,
}


# ------------------------------------------------------------------------------------------------------------ the law


def embed(codec, audio):
    codec.embed(codec.encode(audio))


def stream(codec, audio):
    """Tokens and audio of streams."""
    with codec.streaming_encoder() as encoder, codec.streaming_decoder() as decoder:
        parts = [encoder.encode(chunk) for chunk in audio.split(5000, dim=-1)] + [encoder.flush()]
        tokens = Tokens.concat([part for part in parts if part is not None])
        return tokens, torch.cat([decoder.decode(tokens), decoder.flush()], dim=-1)


USES = {
    "nothing": lambda codec, audio: None,
    "fingerprint": lambda codec, audio: codec.decoder_fingerprint,
    "encode": lambda codec, audio: codec.encode(audio),
    "decode": lambda codec, audio: codec.decode(codec.encode(audio)),
    "bfloat16": lambda codec, audio: codec.decode(codec.encode(audio, precision="bfloat16"), precision="bfloat16"),
    "streams": stream,
    "embed": embed,
    "copy": lambda codec, audio: copy.deepcopy(codec).encode(audio),
    "layers": lambda codec, audio: codec.encoder.chunked(audio[:, None, :6400]),
}


@pytest.fixture(scope="module")
def audio(speech):
    return speech[0][:, 12000:20000]


def results(codec, audio):
    """All that weights decide."""
    tokens = codec.encode(audio, threshold=0.8)
    half = codec.encode(audio, precision="bfloat16")
    streamed, streamed_audio = stream(codec, audio)
    kept = [tokens.semantic, tokens.acoustic, tokens.durations, codec.decode(tokens), half.acoustic, streamed.acoustic]
    kept.append(streamed_audio)
    assert {each.format.fingerprint for each in (tokens, half, streamed)} == {codec.fingerprint}
    return kept, codec.fingerprint, codec.decoder_fingerprint


def same(one, other):
    assert one[1:] == other[1:]
    for here, there in zip(one[0], other[0], strict=True):
        assert torch.equal(here, there)


@torch.no_grad()
def change(codec, audio, way, part, uses):
    write = WAYS[way](getattr(codec, part))
    for use in uses:
        USES[use](codec, audio)
    write()


@pytest.mark.parametrize("way", WAYS)
def test_every_change_after_use_is_the_change_before_it(whole, audio, way):
    before, after = copy.deepcopy(whole), copy.deepcopy(whole)
    for part, uses in {"decoder": ["bfloat16", "streams", "fingerprint"], "encoder": ["decode"]}.items():
        change(before, audio, way, part, [])
        change(after, audio, way, part, uses)
        # The name follows: that of tokens for what tokens depend on, that of the decoder in any case.
        assert (after.fingerprint == whole.fingerprint) == (part == "decoder")
        assert after.decoder_fingerprint == before.decoder_fingerprint != whole.decoder_fingerprint
    same(results(after, audio), results(before, audio))
    assert after.fingerprint == after.compute_fingerprint()


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(sorted(WAYS)),
        st.sampled_from(TOKEN_PARTS + OTHER_PARTS),
        st.lists(st.sampled_from(sorted(USES)), max_size=3),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES)
def test_any_changes_at_any_moments(whole, audio, changes):
    unused, used = copy.deepcopy(whole), copy.deepcopy(whole)
    for way, part, uses in changes:
        change(unused, audio, way, part, [])
        change(used, audio, way, part, uses)
    found = results(used, audio)
    same(found, results(unused, audio))
    if {part for _, part, _ in changes}.isdisjoint(TOKEN_PARTS):
        assert found[1] == whole.fingerprint
    assert used.fingerprint == used.compute_fingerprint()


@pytest.mark.parametrize("way", ["data.mul_", "swap_tensors", "numpy", "AdamW, fused", "weight norm, then off"])
def test_a_family_of_convolutions_alone_follows_too(nanocodecs, way):
    audio = torch.sin(torch.arange(3000) / 9)[None] * 0.3
    before, after = (copy.deepcopy(nanocodecs["nano"]) for _ in range(2))
    for part in ("encoder", "decoder"):
        change(before, audio, way, part, [])
        change(after, audio, way, part, ["decode", "streams"])
    here, there = before.encode(audio), after.encode(audio)
    assert here == there
    assert here.format.fingerprint == there.format.fingerprint != nanocodecs["nano"].fingerprint
    assert torch.equal(before.decode(here), after.decode(there))


@pytest.mark.parametrize("write", [torch.Tensor.add_, lambda shift, by: shift.data.add_(by)])
def test_buffers_are_weights(whole, audio, write):
    before, after = copy.deepcopy(whole), copy.deepcopy(whole)
    after.encode(audio)
    for codec in (before, after):
        write(codec.semantic_encoder.front_end.shift, 0.5)
    same(results(after, audio), results(before, audio))
    assert after.fingerprint != whole.fingerprint


@pytest.mark.parametrize("shape", [(300,), (4096, 8), (2, 3), (), (5, 1, 7), (1, 40, 1)])
def test_what_a_sample_covers(shape):
    """Each value of a vector, and each row of a matrix with short rows; of larger tensors 64 values."""
    tensor = torch.zeros(shape)
    sample = fingerprint._sample(tensor, True)
    for row in tensor if tensor.ndim else [tensor]:
        row.fill_(1)
        assert sample.any()
        row.fill_(0)


@pytest.mark.parametrize("fine", [False, True])
def test_a_sample_is_spread_over_a_tensor(fine):
    for layout in (torch.zeros(512, 700), torch.zeros(700, 512).T, torch.zeros(3, 512, 70).transpose(0, 2)):
        rows, columns = 8 if not fine else 64, 7 if not fine else 60
        marks = torch.arange(layout.numel()).view(layout.shape)
        places = fingerprint._sample(layout.copy_(marks), fine).long()
        assert len(places) >= rows
        assert len((places % layout[0].numel()).unique()) >= columns  # not one column


def test_what_is_not_dense_is_compared_whole():
    held = torch.zeros(900, 40)
    sample = fingerprint._sample(held[:, 3], False)
    held[711, 3] = 1
    assert sample.any()
    assert fingerprint._sample(torch.zeros(1).expand(5, 9), True).tolist() == [0.0]
    assert not len(fingerprint._sample(torch.zeros(0, 4), True))


def test_values_are_compared_bit_by_bit(whole):
    codec = copy.deepcopy(whole)
    codec.decoder.layers[0].weight.data.fill_(torch.nan)
    known = current_weights(codec)
    assert current_weights(codec) == known  # NaN is what it was
    codec.decoder.layers[0].bias.data.zero_()
    zero = current_weights(codec)
    codec.decoder.layers[0].bias.data.neg_()
    assert current_weights(codec) != zero


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("part", ["semantic_encoder", "decoder"])
def test_a_part_in_another_precision_is_refused(whole, audio, dtype, part):
    codec = copy.deepcopy(whole)
    tokens = codec.encode(audio)
    getattr(codec, part).to(dtype)
    with pytest.raises(ValueError, match=f"weights are {dtype}.*float32"):
        codec.decode(tokens)
    with pytest.raises(ValueError, match=f"weights are {dtype}.*float32"):
        codec.streaming_decoder().decode(tokens)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("use", ["nothing", "decode"])
def test_weights_that_older_utilities_compute_are_computed(whole, audio, use):
    expected, codec = copy.deepcopy(whole), copy.deepcopy(whole)
    with torch.no_grad():
        expected.decoder.layers[0].weight.mul_(1.5)
        expected.encoder.layers[0].weight[0].zero_()
    nn.utils.weight_norm(codec.decoder.layers[0])
    prune.identity(codec.encoder.layers[0], "weight")
    USES[use](codec, audio)
    codec.decoder.layers[0].weight_g.data.mul_(1.5)
    codec.encoder.layers[0].weight_mask[0] = 0
    found, wanted = results(codec, audio), results(expected, audio)
    torch.testing.assert_close(found[0][3], wanted[0][3], rtol=1e-4, atol=1e-5)
    assert torch.equal(found[0][1], wanted[0][1])


def test_settings_are_named_too(make_codec, whole):
    codec = copy.deepcopy(whole)
    assert codec.fingerprint == whole.fingerprint
    codec.config = make_codec("whole", dither=0.0).config
    assert codec.fingerprint == make_codec("whole", dither=0.0).fingerprint != whole.fingerprint


# ------------------------------------------------------------------------------------------ streams, parts and copies


@pytest.mark.parametrize("way", ["mul_", "data.mul_", "setattr"])
def test_a_stream_does_not_mix_weights(whole, audio, way):
    codec = copy.deepcopy(whole)
    tokens = codec.encode(audio)
    encoder, decoder = codec.streaming_encoder(), codec.streaming_decoder()
    encoder.encode(audio[:, :4000])
    decoder.decode(tokens)
    change(codec, audio, way, "decoder", [])
    encoder.encode(audio[:, 4000:])  # its tokens do not depend on the decoder
    with pytest.raises(ValueError, match=r"weights changed: .*these streams began with .*reset\(\)"):
        decoder.flush()
    change(codec, audio, way, "encoder", [])
    with pytest.raises(ValueError, match=r"weights changed"):
        encoder.flush()
    encoder.reset()
    decoder.reset()
    encoder.encode(audio)
    assert encoder.flush().format.fingerprint == codec.fingerprint
    decoder.decode(codec.encode(audio), last=True)


def test_a_part_whose_weights_changed_has_no_name(whole, audio, tmp_path):
    folder = whole.save_pretrained(tmp_path)
    tokens = whole.encode(audio)
    # What makes tokens is all there, and is hashed.
    encoder = flexicodec.load(folder, parts="encode")
    encoder.encoder.layers[0].weight.data.mul_(1.05)
    assert encoder.fingerprint == encoder.encode(audio).format.fingerprint != whole.fingerprint
    # Half of it cannot be; what tokens do not depend on may change.
    decoder = flexicodec.load(folder, parts="decode")
    decoder.decoder.layers[0].weight.data.mul_(1.05)
    assert not torch.equal(decoder.decode(tokens), whole.decode(tokens))
    decoder.acoustic_quantizer.quantizers[0].codebook.weight.data.mul_(1.05)
    with pytest.raises(ValueError, match="without its .*encoder.* cannot be named by its weights"):
        decoder.decode(tokens)


def test_a_part_moves_and_travels_with_its_name(whole, tmp_path):
    decoder = flexicodec.load(whole.save_pretrained(tmp_path), parts="decode")
    for codec in (decoder.double().float(), decoder.share_memory(), copy.deepcopy(decoder)):
        assert codec.fingerprint == whole.fingerprint
    assert pickle.loads(pickle.dumps(decoder)).fingerprint == whole.fingerprint
    cut = copy.deepcopy(whole)
    cut.keep("decode")
    assert cut.fingerprint == whole.fingerprint


def test_use_leaves_nothing_in_what_is_pickled(whole, audio):
    codec = copy.deepcopy(whole)
    for name in ("num_codebooks", "max_duration", "base_frame_rate"):
        getattr(codec, name)
    codec.encode(audio)
    codec.decode(codec.encode(audio))
    before = joblib.hash(codec)
    results(codec, audio)
    assert joblib.hash(codec) == before
    assert copy.deepcopy(codec).fingerprint == codec.fingerprint


def test_moving_a_codec_hashes_nothing(whole, monkeypatch):
    codec = copy.deepcopy(whole)
    named = codec.fingerprint, codec.decoder_fingerprint
    monkeypatch.setattr("flexicodec.models.codec.hash_weights", None)
    assert (codec.to("cpu").fingerprint, codec.share_memory().decoder_fingerprint) == named


def test_nothing_is_kept_for_codecs_that_are_gone(whole, audio):
    known, packed = len(fingerprint._known), len(onednn._cache)
    codec = copy.deepcopy(whole)
    codec.decode(codec.encode(audio, precision="bfloat16"))
    memory = weakref.ref(codec.encoder.layers[0].weight.untyped_storage())
    assert len(onednn._cache) > packed
    del codec
    assert memory() is None
    assert (len(fingerprint._known), len(onednn._cache)) == (known, packed)


# --------------------------------------------------------------------------------------------- calls, and saved files


def test_a_codec_is_not_called(whole, audio):
    with pytest.raises(ValueError, match=r"FlexiCodec is not called itself: encode\(audio\)"):
        whole(audio)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # the compiler's own imports
def test_compile_takes_the_arguments_of_torch(whole, audio, monkeypatch):
    monkeypatch.setattr(snake, "MIN_COMPILED", 64)
    calls = []

    def backend(graph, inputs, options):
        calls.append(options)
        return graph.forward

    codec = copy.deepcopy(whole)
    codec.compile(backend=backend, options={"b": 1, "a": 2}, mode=None)
    assert calls == [{"a": 2, "b": 1}] * 2  # in float32 and in bfloat16
    tokens = whole.encode(audio)
    assert codec.encode(audio) == tokens
    torch.testing.assert_close(codec.decode(tokens), whole.decode(tokens), rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="beckend"):
        codec.compile(beckend="eager")


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_files_have_the_mode_of_the_umask_and_keep_links(whole, tmp_path, mask):
    elsewhere = tmp_path / "elsewhere.safetensors"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(elsewhere)
    before = os.umask(mask)
    try:
        whole.save_pretrained(folder)
        (tmp_path / "plain").write_text("")
    finally:
        os.umask(before)
    assert (folder / "model.safetensors").is_symlink()
    modes = {path.stat().st_mode for path in (elsewhere, folder / "config.json", tmp_path / "plain")}
    assert len(modes) == 1
    assert flexicodec.load(folder).fingerprint == whole.fingerprint


def test_every_layout_is_saved_as_it_reads(tmp_path):
    from safetensors.numpy import load_file

    values = torch.arange(24.0).view(4, 6)
    given_ = {
        "plain": values,
        "transposed": values.T,
        "slice": values[::2, 1:],
        "expanded": values[:1].expand(3, 6),
        "array": values.numpy().T,
        "backwards": values.numpy()[::-1, ::2],
    }
    save_tensors(given_, tmp_path / "a.safetensors")
    held = load_file(tmp_path / "a.safetensors")
    for name, value in given_.items():
        assert (held[name] == torch.as_tensor(value.copy() if name == "backwards" else value).numpy()).all(), name
