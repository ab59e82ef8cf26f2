"""Conversion of upstream's files: every weight is loaded by name, and nothing is skipped silently."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import flexicodec
from flexicodec.config import dump_yaml
from flexicodec.hub import parameter_counts
from flexicodec.models.flexicodec.config import FlexiCodecConfig
from flexicodec.models.flexicodec.convert_upstream import convert, from_upstream, read_cmvn, sensevoice_cmvn

DATA = Path(__file__).parent.parent / "data"
GOLDEN = DATA / "goldens" / "small_b"
SOUND = 0.1 * torch.randn(1, 20_000, generator=torch.Generator().manual_seed(0))

# What the yaml of the released model says of its architecture.
RELEASED = {
    "sample_rate": 16000,
    "encoder_dim": 32,
    "encoder_rates": [4, 4, 5, 8, 2],
    "decoder_rates": [2, 8, 5, 4, 4],
    "n_codebooks": 24,
    "quantizer_dropout": 1.0,
    "codebook_size": 4096,
    "semantic_codebook_size": 32768,
    "is_causal": False,
    "use_similarity_alignment": True,
    "similarity_threshold": 0.91,
    "semantic_downsample_factor": 1.33333,
    "skip_normalize": True,
    "semantic_model_type": "sensevoice",
    "latent_dim": 512,
    "ssl_dim": 512,
    "use_bottleneck_transformer": True,
    "transformer_num_layers": 32,
    "transformer_dim_feedforward": 2048,
    "transformer_num_heads": 8,
    "transformer_causal": False,
    "transformer_context_frames": 16,
    "max_tokens_per_group": 8,
    "semantic_model_path": None,
    "use_query_token_aggregator": True,
    "use_dynamic_similarity_threshold": True,
    "similarity_threshold_lower": 0.8,
    "similarity_threshold_upper": 1.0,
}

# Parameters of the released file by upstream's names, weight_g included, and our name for each part.
PARTS = {
    "bottleneck_transformer.": ("bottleneck", 100_761_600),
    "semantic_aggregator.": ("semantic_aggregator", 18_893_312),
    "acoustic_aggregator.": ("acoustic_aggregator", 18_893_312),
    "dac.encoder.": ("encoder", 14_582_336),
    "dac.quantizer.": ("acoustic_quantizer", 1_008_000),
    "dac.decoder.": ("decoder", 34_757_426),
    "convnext_encoder.": ("semantic_encoder_stack", 13_019_648),
    "semantic_vq.": ("semantic_quantizer", 8_453),
    "convnext_decoder.": ("semantic_decoder_stack", 13_019_136),
}


def full_size_state():
    """The released file's tensors, without the memory for their values."""
    state = {}
    for name, held in json.loads((DATA / "state_dict_12hz_v1.json").read_text()).items():
        shape, layers = (held["shape"], held["layers"]) if isinstance(held, dict) else (held, 1)
        state |= {name.replace("*", str(layer)): torch.empty(shape, device="meta") for layer in range(layers)}
    return state


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def weights():
    """Upstream's state dict of a small model, float16."""
    return load_file(f"{GOLDEN}.weights.safetensors")


@pytest.fixture
def build(golden, weights):
    """Convert the small model, with other weights, settings or arguments."""

    def convert(state_dict=weights, settings=None, **arguments):
        arguments.setdefault("sensevoice_encoder_conf", golden["sensevoice_encoder_conf"])
        return from_upstream(golden["codec_config"] | (settings or {}), state_dict, **arguments)

    return convert


def split(weights):
    """The codec's weights, and SenseVoice's by SenseVoice's own names."""
    semantic = {k.removeprefix("semantic_model."): v for k, v in weights.items() if k.startswith("semantic_model.")}
    return {k: v for k, v in weights.items() if not k.startswith("semantic_model.")}, semantic


def same(codec, other):
    theirs = other.state_dict()
    return codec.state_dict().keys() == theirs.keys() and all(
        torch.equal(value, theirs[key]) for key, value in codec.state_dict().items()
    )


# ---------------------------------------------------------------------------------------------------------- full size


def test_the_released_file_fits_strictly():
    state = full_size_state()
    assert len(state) == 1897
    report = from_upstream({"model": RELEASED}, state).load_report
    assert report.unexpected_extras == ()
    unread = {".".join(key.split(".")[:3]) for key in report.expected_extras}
    assert unread == {
        "semantic_mean",
        "semantic_std",
        "semantic_model.encoder.tp_encoders",
        "semantic_model.encoder.tp_norm",
        "semantic_model.ctc.ctc_lo",
    }
    assert set(report.ignored_settings) <= RELEASED.keys()


def test_the_default_config_is_the_released_one():
    converted = from_upstream(RELEASED, full_size_state())
    assert converted.config == FlexiCodecConfig()


def test_parameters_are_those_of_the_released_file():
    """A folded weight norm is no parameter of ours: the 35,681 values of `weight_g` are counted in the file alone."""
    state = full_size_state()
    counts = parameter_counts(from_upstream(RELEASED, state))
    all_norms = 0
    for prefix, (part, expected) in PARTS.items():
        held = {key: value.numel() for key, value in state.items() if key.startswith(prefix)}
        assert sum(held.values()) == expected, prefix
        norms = sum(count for key, count in held.items() if key.endswith("weight_g"))
        assert counts[part] == expected - norms, part
        all_norms += norms
    assert all_norms == 35_681
    assert sum(expected for _, expected in PARTS.values()) == 214_943_223
    assert counts["semantic_encoder"] == 157_984_608
    assert counts["total"] == 214_943_223 - 35_681 + 157_984_608


def test_blocks_that_nothing_reads_may_be_absent():
    unread = re.compile(r"semantic_(mean|std|model\.(ctc|encoder\.tp_).*)")
    needed = {key: value for key, value in full_size_state().items() if not unread.match(key)}
    assert len(needed) == 1897 - 2 - 20 * 13 - 2 - 2
    assert from_upstream(RELEASED, needed).load_report.expected_extras == ()


def test_a_sensevoice_that_was_cut_short_is_refused():
    state = {key: value for key, value in full_size_state().items() if ".encoders.48." not in key}
    with pytest.raises(ValueError, match=r"semantic_model\.encoder\.encoders\.48\.\S+ is missing"):
        from_upstream(RELEASED, state)


# ------------------------------------------------------------------------------------------------------ one key wrong

UNREAD = ("semantic_mean", "semantic_std")


@pytest.fixture(scope="module")
def wanted(golden, weights):
    """Shapes of our weights by our names, but for the front end's, which come with the CMVN."""
    codec = from_upstream(golden["codec_config"], weights, sensevoice_encoder_conf=golden["sensevoice_encoder_conf"])
    shapes = {key: tuple(value.shape) for key, value in codec.state_dict().items()}
    return {key: shape for key, shape in shapes.items() if ".front_end." not in key}


def test_every_key_is_missed(wanted, weights, golden):
    for key in weights.keys() - set(UNREAD):
        rest = {name: value for name, value in weights.items() if name != key}
        with pytest.raises(ValueError, match=rf"config: {re.escape(key)} is missing; is this another model's file\?"):
            convert(wanted, rest, golden["codec_config"]["convnext_layers"])


def test_every_shape_is_checked(wanted, weights, golden):
    for key in weights.keys() - set(UNREAD):
        shape = tuple(weights[key].shape)
        wider = torch.cat([weights[key], weights[key][-1:]])
        with pytest.raises(ValueError, match=re.escape(f"config: {key} is {tuple(wider.shape)} instead of {shape};")):
            convert(wanted, weights | {key: wider}, golden["codec_config"]["convnext_layers"])


def test_load_checks_as_well(build, weights):
    for key in sorted(weights.keys() - set(UNREAD))[::17]:
        with pytest.raises(ValueError, match=rf"{re.escape(key)} is missing"):
            build({name: value for name, value in weights.items() if name != key})
        with pytest.raises(ValueError, match=rf"{re.escape(key)} is \(.*\) instead of"):
            build(weights | {key: torch.cat([weights[key], weights[key][-1:]])})


def test_a_missing_axis_is_a_wrong_shape(build, weights):
    for key in (
        "semantic_model.encoder.encoders0.0.feed_forward.w_1.weight",
        "semantic_model.encoder.encoders0.0.self_attn.fsmn_block.weight",
        "dac.quantizer.quantizers.0.in_proj.weight_v",
    ):
        with pytest.raises(ValueError, match=re.escape(key)):
            build(weights | {key: weights[key].flatten()})


def test_many_faults_are_cut_short(build, weights):
    semantic = split(weights)[1]
    with pytest.raises(ValueError, match=r"norm2\.bias is missing and \d+ more; is this another"):
        build({f"semantic_model.{key}": value for key, value in semantic.items()})


def test_extras_are_reported(build, weights, golden):
    extras = {
        "repa_mlp.0.weight": torch.zeros(3, 2),
        "semantic_model.ctc.ctc_lo.weight": torch.zeros(5, 512),
        "semantic_model.encoder.tp_encoders.0.norm1.weight": torch.zeros(512),
        "flow_matching_decoder.layers.0.weight": torch.zeros(1),
        "nobody.knows.me": torch.zeros(1),
        "dac.encoder.gain": torch.zeros(1),
    }
    codec = build(weights | extras, {"made_up_setting": 3})
    report = codec.load_report
    assert report.unexpected_extras == ("dac.encoder.gain", "nobody.knows.me")
    assert set(report.expected_extras) == {*extras, *UNREAD} - set(report.unexpected_extras)
    assert "made_up_setting" in report.ignored_settings
    assert same(codec, build())


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"n_codebooks": 5}, "dac.quantizer.quantizers.5.codebook.weight"),
        ({"transformer_num_layers": 2}, "bottleneck_transformer.transformer.layers.2.linear1.weight"),
    ],
)
def test_a_file_with_more_layers_than_its_config_is_refused(build, settings, key):
    with pytest.raises(ValueError, match=rf"fewer layers than the file holds: .*{re.escape(key)}"):
        build(settings=settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"is_causal": True}, "is_causal=True; only False was ever released"),
        ({"semantic_model_type": "w2vbert"}, "semantic_model_type='w2vbert'"),
        ({"semantic_downsample_factor": 2}, "semantic_downsample_factor=2; only 1.33333"),
        ({"decoder_rates": [4, 4, 5, 8, 2]}, "expected the same strides in reverse"),
        ({"fsq_config": {"levels": [8, 8], "num_codebooks": 2}}, "fsq_config=.*only levels"),
        ({"convnext_dim": 21}, r"convnext_decoder\.0\.dwconv\.bias is \(20,\) instead of \(21,\)"),
        ({"convnext_layers": 2}, r"convnext_decoder\.1\.dwconv\.bias is missing"),
    ],
)
def test_settings_that_do_not_fit_are_refused(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(settings=settings)


def test_encoder_conf_is_held_against_the_weights(build, golden):
    conf = golden["sensevoice_encoder_conf"]
    with pytest.raises(ValueError, match=r"encoders\.0\.\S+ is missing"):
        build(sensevoice_encoder_conf=conf | {"num_blocks": 2})
    with pytest.raises(ValueError, match="heads that divide the size"):
        build(sensevoice_encoder_conf=conf | {"attention_heads": 7})
    assert build(sensevoice_encoder_conf={"attention_heads": 8}).config == build().config
    assert build(sensevoice_encoder_conf=None).config.semantic_encoder.num_heads == 4


def test_semantic_statistics_must_be_neutral(build, weights):
    with pytest.raises(ValueError, match=r"semantic_mean is \[0.5\], expected 0"):
        build(weights | {"semantic_mean": torch.tensor([0.5])})


# ------------------------------------------------------------------------------------------------- the same in disguise


def test_half_and_single_precision_are_one_model(build, weights):
    single = build({key: value.float() for key, value in weights.items()})
    assert same(single, build())
    assert single.fingerprint == build().fingerprint
    assert {value.dtype for value in single.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("prefix", ["flexicodec_model.", "module.", "module.flexicodec_model."])
def test_prefixes_are_dropped(build, weights, prefix):
    assert same(build({prefix + key: value for key, value in weights.items()}), build())


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_training_wrappers_are_opened(build, weights, wrapper):
    assert same(build({wrapper: weights, "epoch": 3}), build())


def test_sensevoice_may_come_from_its_own_file(build, weights):
    codec_part, semantic = split(weights)
    with pytest.raises(ValueError, match=r"no semantic_model\.\* weights.*sensevoice=.*model\.pt"):
        build(codec_part)
    wrapped = {"state_dict": {f"module.{key}": value for key, value in semantic.items()}}
    codec = build(codec_part, sensevoice_state_dict=wrapped)
    assert same(codec, build())
    assert codec.load_report.semantic_source == "SenseVoiceSmall"
    with pytest.raises(ValueError, match=r"embed\.weight is missing"):
        build(codec_part, sensevoice_state_dict={k: v for k, v in semantic.items() if k != "embed.weight"})


def test_weights_in_the_file_come_before_sensevoice(build, weights):
    _, semantic = split(weights)
    others = {key: torch.zeros_like(value) for key, value in semantic.items()}
    codec = build(sensevoice_state_dict=others)
    assert same(codec, build())
    assert codec.load_report.semantic_source == "checkpoint"


def test_the_callers_weights_are_left_alone(build, weights):
    single = {key: value.float() for key, value in weights.items()}
    before = {key: value.clone() for key, value in single.items()}
    build(single).encode(SOUND)
    assert single.keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in single.items())


# ----------------------------------------------------------------------------------------------------------- fixed rate

FIXED = {"use_similarity_alignment": False}
IDLE = ("semantic_aggregator.", "acoustic_aggregator.", "bottleneck_transformer.")


def test_the_fixed_rate_file_has_one_frame_per_token(build, weights):
    fewer = {key: value for key, value in weights.items() if not key.startswith(IDLE)}
    settings = FIXED | {"use_query_token_aggregator": False, "use_bottleneck_transformer": False}
    codec = build(fewer, settings)
    assert codec.load_report.unexpected_extras == ()
    tokens = codec.encode(SOUND)
    assert tokens.durations.tolist() == [[1] * codec.num_frames(20_000)]
    assert codec.decode(tokens).shape == SOUND.shape
    with pytest.raises(ValueError, match="fixed rate of 12.5 Hz"):
        codec.encode(SOUND, threshold=0.9)


def test_parts_unused_at_a_fixed_rate_are_known(build, weights):
    codec = build(settings=FIXED)
    report = codec.load_report
    assert report.unexpected_extras == ()
    assert set(report.expected_extras) == {key for key in weights if key.startswith(IDLE)} | set(UNREAD)
    assert codec.bottleneck is None


def test_no_duration_cap(build):
    for absent in (None, 0, -1):
        assert build(settings={"max_tokens_per_group": absent}).max_duration is None
    tokens = build(settings={"max_tokens_per_group": None}).encode(SOUND, threshold=-1.0)
    assert tokens.durations.tolist() == [[build().num_frames(20_000)]]


# ---------------------------------------------------------------------------------------------------------------- CMVN


def write_cmvn(path, rows):
    tags = ("<AddShift>", "<Rescale>")
    lines = [
        f"{tag} {len(row)} {len(row)}\n<LearnRateCoef> 0 [ {' '.join(map(str, row))} ]"
        for tag, row in zip(tags, rows, strict=True)
    ]
    path.write_text("\n".join(["<Nnet>", "<Splice> 560 560", "[ 0 ]", *lines, "</Nnet>"]) + "\n")


def test_cmvn_is_sensevoices_by_default(build):
    front_end = build().semantic_encoder.front_end
    assert front_end.shift[:3].tolist() == pytest.approx([-8.311879, -8.600912, -9.615928])
    assert front_end.scale[:3].tolist() == pytest.approx([0.155775, 0.154484, 0.1527379])
    assert torch.equal(torch.stack([front_end.shift, front_end.scale]), sensevoice_cmvn())


def test_cmvn_comes_from_outside(build, tmp_path):
    cmvn = torch.stack([torch.arange(560.0), torch.ones(560)])
    assert torch.equal(build(cmvn=cmvn).semantic_encoder.front_end.shift, cmvn[0])
    with pytest.raises(ValueError, match=r"cmvn has shape \(2, 80\), expected \(2, 560\)"):
        build(cmvn=cmvn[:, :80])
    write_cmvn(tmp_path / "am.mvn", cmvn.tolist())
    assert torch.equal(read_cmvn(tmp_path / "am.mvn"), cmvn)
    (tmp_path / "am.mvn").write_text("<Nnet>\n<AddShift> 560 560\n")
    with pytest.raises(ValueError, match="no <AddShift> line"):
        read_cmvn(tmp_path / "am.mvn")
    write_cmvn(tmp_path / "am.mvn", [[0.0, 1.0], [1.0]])
    with pytest.raises(ValueError, match="2 shifts but 1 scales"):
        read_cmvn(tmp_path / "am.mvn")


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def released(tmp_path, golden, weights):
    """The released layout: the codec alone in half precision, its yaml, and SenseVoiceSmall in a folder of its own."""
    codec_part, semantic = split(weights)
    folder, sensevoice = tmp_path / "flexicodec", tmp_path / "SenseVoiceSmall"
    folder.mkdir()
    sensevoice.mkdir()
    save_file(codec_part, folder / "12hz_v1_half.safetensors")
    (folder / "12hz_v1_half_config.yaml").write_text(dump_yaml({"model": golden["codec_config"]}))
    torch.save({"state_dict": {key: value.float() for key, value in semantic.items()}}, sensevoice / "model.pt")
    write_cmvn(sensevoice / "am.mvn", (2.0 * sensevoice_cmvn()).tolist())
    return folder, sensevoice


def test_the_released_layout_loads(released, build, golden):
    folder, sensevoice = released
    codec = flexicodec.load(folder, sensevoice=sensevoice)
    expected = build(cmvn=2.0 * sensevoice_cmvn(), sensevoice_encoder_conf=None)
    assert same(codec, expected)
    assert codec.config.semantic_encoder.front_end.dither == 1.0
    assert not codec.training
    assert codec.name == "flexicodec"
    assert codec.encode(SOUND) == expected.encode(SOUND)
    assert same(flexicodec.load(str(folder), sensevoice=sensevoice / "model.pt"), codec)


def test_a_callers_settings_do_not_matter(released, other_settings):
    folder, sensevoice = released
    expected = flexicodec.load(folder, sensevoice=sensevoice)
    with other_settings:
        codec = flexicodec.load(folder, sensevoice=sensevoice)
        tokens = codec.encode(SOUND)
    assert same(codec, expected)
    assert tokens == expected.encode(SOUND)


def test_torch_files_load_too(released, weights, build):
    folder, _ = released
    (folder / "12hz_v1_half.safetensors").unlink()
    torch.save(weights, folder / "mine.pt")
    codec = flexicodec.load(folder)
    assert same(codec, build(sensevoice_encoder_conf=None))
    save_file(weights, folder / "another.safetensors")
    with pytest.raises(ValueError, match=r"found: another\.safetensors, mine\.pt\); choose one with filename="):
        flexicodec.load(folder)
    assert same(flexicodec.load(folder, filename="another.safetensors"), codec)


def test_what_a_folder_lacks_is_named(released, tmp_path, weights):
    folder, sensevoice = released
    with pytest.raises(ValueError, match=r"pass sensevoice= with the folder"):
        flexicodec.load(folder)
    with pytest.raises(ValueError, match=r"sensevoice='.*flexicodec' holds no model\.pt"):
        flexicodec.load(folder, sensevoice=folder)
    with pytest.raises(ValueError, match=r"has no file 'nartts\.safetensors'"):
        flexicodec.load(folder, filename="nartts.safetensors")
    with pytest.raises(ValueError, match=r"is a file; give its folder, and filename='12hz_v1_half\.safetensors'"):
        flexicodec.load(folder / "12hz_v1_half.safetensors")
    with pytest.raises(ValueError, match="there is no model 'flexicodec-midi': expected flexicodec-mini, an existing"):
        flexicodec.load("flexicodec-midi")
    with pytest.raises(ValueError, match=r"found: none\); choose one"):
        flexicodec.load(sensevoice.parent / "SenseVoiceSmall" / "..")
    (folder / "12hz_v1_half_config.yaml").unlink()
    with pytest.raises(ValueError, match=r"no yaml config beside 12hz_v1_half\.safetensors"):
        flexicodec.load(folder, sensevoice=sensevoice)


def test_a_damaged_file_is_named(released):
    folder, sensevoice = released
    for path in (sensevoice / "model.pt", folder / "12hz_v1_half.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ValueError, match=rf"{path.name} cannot be read as weights"):
            flexicodec.load(folder, sensevoice=sensevoice)


def test_code_in_a_torch_file_is_not_run(released, tmp_path):
    folder, _ = released
    (folder / "12hz_v1_half.safetensors").unlink()

    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"weight": Payload()}, folder / "mine.pt")
    with pytest.raises(ValueError, match=r"mine\.pt cannot be read as weights"):
        flexicodec.load(folder)
    assert not (tmp_path / "ran").exists()


def test_a_hub_id_without_a_connection_says_what_to_do(monkeypatch, tmp_path, released):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"jiaqili3/flexicodec .*could not be fetched.*pass the folder"):
        flexicodec.load("jiaqili3/flexicodec")
    with pytest.raises(ValueError, match=r"FunAudioLLM/SenseVoiceSmall .*could not be fetched"):
        flexicodec.load(released[0], sensevoice="FunAudioLLM/SenseVoiceSmall")


# --------------------------------------------------------------------------------------------- saved by us, fingerprint


def test_a_saved_model_is_the_same_model(build, tmp_path):
    codec = build(dither=0.5)
    loaded = flexicodec.load(codec.save_pretrained(tmp_path / "ours"))
    assert same(loaded, codec)
    assert loaded.config == codec.config
    assert loaded.fingerprint == codec.fingerprint == loaded.compute_fingerprint()
    tokens = codec.encode(SOUND, threshold=0.9)
    assert loaded.encode(SOUND, threshold=0.9) == tokens
    assert torch.equal(loaded.decode(tokens), codec.decode(tokens))


def test_half_precision_keeps_the_fingerprint(build, tmp_path):
    codec = build()
    half = flexicodec.load(codec.save_pretrained(tmp_path / "half", dtype=torch.float16))
    assert half.fingerprint == codec.fingerprint == half.compute_fingerprint()
    assert {value.dtype for value in half.state_dict().values()} == {torch.float32}
    single = codec.save_pretrained(tmp_path / "single") / "model.safetensors"
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.55 * single.stat().st_size
    half.decode(codec.encode(SOUND))


def test_a_saved_model_must_be_whole(build, tmp_path):
    folder = build().save_pretrained(tmp_path / "ours")
    state = load_file(folder / "model.safetensors")
    held = state.pop("decoder.layers.0.weight")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: decoder\.layers\.0\.weight"):
        flexicodec.load(folder)
    save_file(state | {"decoder.layers.0.weight": held[1:].clone(), "more": held.clone()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"unknown: more; misshapen: decoder\.layers\.0\.weight \(95, 48, 7\) instead"):
        flexicodec.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has a config\.json but no model\.safetensors"):
        flexicodec.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        flexicodec.load(folder)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("semantic_model.encoder.encoders0.0.norm1.bias", True),
        ("dac.encoder.block.0.bias", True),
        ("semantic_aggregator.query_embedding", True),
        ("semantic_vq.fsq.project_in.bias", True),
        ("dac.quantizer.quantizers.3.codebook.weight", True),
        ("convnext_decoder.1.bias", True),
        ("dac.decoder.model.0.bias", False),
        ("bottleneck_transformer.transformer.layers.0.linear1.weight", False),
        ("semantic_mean", False),
    ],
)
def test_the_fingerprint_follows_what_makes_tokens(build, weights, key, changes):
    changed = weights | {key: weights[key] + (0 if key == "semantic_mean" else 0.25)}
    assert (build(changed).fingerprint != build().fingerprint) == changes


def test_tokens_of_a_changed_encoder_are_refused(build, weights):
    key = "dac.encoder.block.0.bias"
    tokens = build(weights | {key: weights[key] + 0.25}).encode(SOUND)
    with pytest.raises(ValueError, match="made by another model"):
        build().decode(tokens)
