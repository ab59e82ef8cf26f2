"""Conversion of NeMo's archives: both namings of weight norms, every weight by name, nothing unpickled."""

import io
import pickle
import tarfile
from dataclasses import replace

import pytest
import torch

import flexicodec
from flexicodec.cli import main
from flexicodec.config import dump_yaml
from flexicodec.models.nanocodec.convert_nemo import from_nemo, load_nemo, nemo_name, read_archive
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.quantize import GroupedFSQConfig

MODULES = "nemo.collections.tts.modules.audio_codec_modules."
NORMS = {
    "new": (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
    "old": (".weight_g", ".weight_v"),
}
EXTRAS = ("discriminator.x", "mel_loss_fn.fb", "stft_loss_fn.w", "speaker_encoder.a", "slm_model.b", "semantic_codec.c")
SOUND = 0.1 * torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))


def nemo_config(codec):
    """Return NeMo's config for one of our models."""
    sections = {}
    for part, rates, dim in (
        ("encoder", "down_sample_rates", "encoded_dim"),
        ("decoder", "up_sample_rates", "input_dim"),
    ):
        config = getattr(codec.config, part)
        sections[f"audio_{part}"] = {
            "_target_": MODULES + ("Causal" if config.causal else "") + "HiFiGAN" + part.capitalize(),
            rates: list(config.strides),
            dim: codec.quantizer.dim,
            "base_channels": config.width,
            "activation": config.activation,
            "pad_mode": config.padding_mode,
            "resblock_dilation_sizes": list(config.dilations),
        }
    decoder, quantizer = codec.config.decoder, codec.config.quantizer
    sections["audio_decoder"]["output_activation"] = decoder.output_activation
    return {
        "sample_rate": codec.sample_rate,
        "samples_per_frame": codec.frame_size,
        **sections,
        "vector_quantizer": {
            "_target_": MODULES + "GroupFiniteScalarQuantizer",
            "num_groups": quantizer.num_groups,
            "num_levels_per_group": list(quantizer.levels),
        },
        "optim": {"lr": 2e-4},
        "target": "nemo.collections.tts.models.audio_codec.AudioCodecModel",
    }


def nemo_state(codec, naming="new"):
    """Our weights in NeMo's layout, with its weight norms and its additional entries."""
    state = {}
    for ours, weight in codec.state_dict().items():
        theirs = nemo_name(ours, codec.config)
        if theirs.endswith(".weight"):
            base, (size, direction) = theirs.removesuffix(".weight"), NORMS[naming]
            norm = weight.flatten(1).norm(dim=1).view(-1, 1, 1)
            state[base + size], state[base + direction] = norm, 3.0 * weight
        else:
            state[theirs] = weight
    levels = torch.tensor(codec.config.quantizer.levels, dtype=torch.int32).view(1, -1, 1)
    bases = torch.tensor([1, *levels.flatten().cumprod(0)[:-1]], dtype=torch.int32).view(1, -1, 1)
    for group in range(codec.num_codebooks):
        state[f"vector_quantizer.fsqs.{group}.num_levels"] = levels
        state[f"vector_quantizer.fsqs.{group}.dim_base_index"] = bases
    return state | dict.fromkeys(EXTRAS, torch.zeros(2))


def write(path, members, mode="w:"):
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
            else:
                info.type, info.linkname = tarfile.SYMTYPE, data
            archive.addfile(info, io.BytesIO(data if isinstance(data, bytes) else b""))
    return path


def as_bytes(state, **options):
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


def archive_of(codec, path, naming="new", prefix="./", mode="w:", **options):
    config = dump_yaml(nemo_config(codec)).encode()
    weights = as_bytes(nemo_state(codec, naming), **options)
    return write(path, [(prefix + "model_config.yaml", config), (prefix + "model_weights.ckpt", weights)], mode)


# ---------------------------------------------------------------------------------------------------------- conversion


@pytest.mark.parametrize("naming", NORMS)
def test_nemos_weights_are_ours(nanocodec, naming):
    converted = from_nemo(nemo_config(nanocodec), nemo_state(nanocodec, naming), "again")
    assert converted.config == nanocodec.config
    ours = nanocodec.state_dict()
    for name, weight in converted.state_dict().items():
        torch.testing.assert_close(weight, ours[name], atol=1e-6, rtol=1e-6)
    assert converted.encode(SOUND).acoustic.equal(nanocodec.encode(SOUND).acoustic)
    assert converted.load_report.expected_extras == tuple(sorted(EXTRAS))
    assert converted.load_report.unexpected_extras == ()
    assert converted.load_report.ignored_settings == ("optim", "target")
    assert not converted.training
    assert converted.format.model == "again"


def test_a_callers_settings_do_not_matter(nanocodecs, tmp_path, other_settings):
    path = archive_of(nanocodecs["nano"], tmp_path / "a.nemo")
    expected = flexicodec.load(path)
    with other_settings:
        codec = flexicodec.load(path)
        tokens = codec.encode(SOUND)
    assert tokens == expected.encode(SOUND)
    assert codec.fingerprint == expected.fingerprint


def test_names_are_nemos(nanocodecs):
    names = set(nemo_state(nanocodecs["nano"], "old"))
    for expected in (
        "audio_encoder.pre_conv.conv.weight_g",
        "audio_encoder.res_layers.2.res_blocks.1.res_blocks.0.skip_conv.conv.weight_v",
        "audio_encoder.down_sample_conv_layers.0.conv.bias",
        "audio_encoder.post_conv.conv.bias",
        "audio_decoder.pre_conv.conv.bias",
        "audio_decoder.activations.1.activation.snake_act.alpha",
        "audio_decoder.up_sample_conv_layers.2.conv.weight_g",
        "audio_decoder.res_layers.0.res_blocks.2.res_blocks.2.input_activation.activation.snake_act.alpha",
        "audio_decoder.res_layers.0.res_blocks.2.res_blocks.2.input_conv.conv.weight_v",
        "audio_decoder.post_activation.activation.snake_act.alpha",
        "audio_decoder.post_conv.conv.weight_v",
    ):
        assert expected in names


def test_snakes_have_names_everywhere(nanocodecs):
    config = nanocodecs["causal"].config
    config = replace(
        config, encoder=replace(config.encoder, activation="snake"), decoder=replace(config.decoder, activation="snake")
    )
    codec = NanoCodec(config)
    state = nemo_state(codec)
    assert {"audio_encoder.activations.0.activation.alpha", "audio_decoder.post_activation.activation.alpha"} <= set(
        state
    )
    assert "audio_encoder.res_layers.0.res_blocks.0.res_blocks.0.input_activation.activation.alpha" in state
    assert from_nemo(nemo_config(codec), state).config == config


def test_every_weight_of_the_generator_is_required_and_none_may_be_left_over(nanocodecs):
    codec = nanocodecs["lfsc"]
    config, state = nemo_config(codec), nemo_state(codec)
    for key in sorted(set(state) - set(EXTRAS))[::11]:
        with pytest.raises(ValueError, match=rf"do not fit the config: {key} is missing"):
            from_nemo(config, {name: value for name, value in state.items() if name != key})
    key = "audio_decoder.post_conv.conv.bias"
    with pytest.raises(ValueError, match=rf"{key} is \(2,\) instead of \(1,\)"):
        from_nemo(config, state | {key: torch.zeros(2)})
    deeper = "audio_encoder.res_layers.0.res_blocks.0.res_blocks.7.input_conv.conv.bias"
    with pytest.raises(ValueError, match=f"smaller model than the file holds: {deeper}"):
        from_nemo(config, state | {deeper: torch.zeros(4)})
    tables = "vector_quantizer.fsqs.0.num_levels"
    with pytest.raises(ValueError, match=rf"{tables} is \[8, 8, 6, 6\], but levels \[8, 7, 6, 6\] make it"):
        from_nemo(config, state | {tables: torch.tensor([[[8], [8], [6], [6]]])})
    assert from_nemo(config, state | {"flow.w": torch.zeros(1)}).load_report.unexpected_extras == ("flow.w",)


def test_weights_in_half_precision_are_folded_in_float32(nanocodecs):
    halves = {
        name: value.half() if value.is_floating_point() else value
        for name, value in nemo_state(nanocodecs["nano"]).items()
    }
    codec = from_nemo(nemo_config(nanocodecs["nano"]), halves)
    assert {weight.dtype for weight in codec.state_dict().values()} == {torch.float32}


def test_what_a_config_leaves_out_is_nemos_default(nanocodecs):
    """Reflection where nothing is causal; grouped upsampling, and zeros whatever is written, where it is."""
    for kind, grouped in (("lfsc", False), ("causal", True)):
        codec = nanocodecs[kind]
        config = nemo_config(codec)
        for part in ("audio_encoder", "audio_decoder"):
            del config[part]["pad_mode"]
        converted = from_nemo(config, nemo_state(codec))
        assert converted.config == codec.config
        assert converted.config.decoder.grouped_upsampling == grouped
        config["audio_decoder"]["pad_mode"] = "replicate"
        same = converted.config.decoder.padding_mode == from_nemo(config, nemo_state(codec)).config.decoder.padding_mode
        assert same == codec.config.decoder.causal


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sample_rate", None, "the config has no sample_rate; is it that of a NeMo AudioCodecModel"),
        ("vector_quantizer", None, "no vector_quantizer"),
        ("vector_quantizer", "fsq", "vector_quantizer is 'fsq', expected settings by name"),
        ("samples_per_frame", 31, "samples_per_frame=31, but its strides"),
        (
            "audio_encoder._target_",
            "a.b.MultiBandMelEncoder",
            "a MultiBandMelEncoder; built here are HiFiGANEncoder and",
        ),
        ("audio_decoder._target_", "a.b.HiFiGANEncoder", "a HiFiGANEncoder; built here are HiFiGANDecoder and"),
        ("vector_quantizer._target_", "a.b.ResidualVectorQuantizer", "only GroupFiniteScalarQuantizer is built here"),
        ("vector_quantizer.eps", 0.1, "eps=0.1; only 0.001"),
        ("vector_quantizer.num_groups", None, "no num_groups"),
        ("vector_quantizer.num_levels_per_group", 8, r"vector_quantizer\.levels is 8"),
        ("audio_encoder.encoded_dim", 10, "encoded_dim=10, but its groups need 16"),
        ("audio_encoder.activation", "elu", "encoder.activation is 'elu'"),
        ("audio_decoder.up_sample_rates", [5, 3, 3], "expected the same strides in reverse"),
        ("audio_decoder.gain", 2.0, "audio_decoder has settings that are not known here: gain"),
    ],
)
def test_what_is_not_built_is_refused(nanocodecs, path, value, message):
    config = nemo_config(nanocodecs["nano"])
    *sections, key = path.split(".")
    part = config[sections[0]] if sections else config
    part[key] = value
    with pytest.raises(ValueError, match=message):
        from_nemo(config, nemo_state(nanocodecs["nano"]))


# ------------------------------------------------------------------------------------------------------------ archives


def test_an_archive_a_folder_and_our_own_layout_hold_the_same_model(nanocodec, tmp_path):
    path = archive_of(nanocodec, tmp_path / "nemo_nano.nemo", naming="old")
    loaded = flexicodec.load(path)
    tokens = loaded.encode(SOUND)
    assert tokens.acoustic.equal(nanocodec.encode(SOUND).acoustic)
    assert tokens.format.model == "nemo_nano"
    by_folder = flexicodec.load(tmp_path)
    assert by_folder.encode(SOUND) == flexicodec.load(tmp_path, filename=path.name).encode(SOUND) == tokens
    loaded.save_pretrained(tmp_path / "ours")
    again = flexicodec.load(tmp_path / "ours")
    assert again.encode(SOUND) == tokens
    assert torch.equal(again.decode(tokens), loaded.decode(tokens))


@pytest.mark.parametrize(
    "options", [{"prefix": ""}, {"mode": "w:gz"}, {"_use_new_zipfile_serialization": False}, {"naming": "new"}]
)
def test_archives_of_any_age_are_read(nanocodecs, tmp_path, options):
    codec = nanocodecs["lfsc"]
    config, state = read_archive(archive_of(codec, tmp_path / "a.nemo", **options))
    assert config == nemo_config(codec)
    assert state.keys() == nemo_state(codec, options.get("naming", "new")).keys()


def test_an_archive_names_its_own_levels(make_nanocodec, nanocodecs, tmp_path):
    """Also one of 65536 codes, with unpublished levels."""
    config = replace(nanocodecs["nano"].config, quantizer=GroupedFSQConfig(4, (16, 16, 16, 16)))
    codec = make_nanocodec(config)
    path = archive_of(codec, tmp_path / "nemo-nano-codec-22khz-0.8kbps-12.5fps.nemo")
    for given in (path, tmp_path):
        loaded = flexicodec.load(given)
        assert loaded.format.acoustic_codebook_size == 65536
        assert loaded.encode(SOUND).acoustic.max() > 4096


def test_nothing_is_extracted_and_nothing_is_run(nanocodecs, tmp_path):
    codec, ran = nanocodecs["lfsc"], tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    config = dump_yaml(nemo_config(codec)).encode()
    weights = as_bytes(nemo_state(codec))
    evil_yaml = f"!!python/object/apply:builtins.open ['{ran}', w]".encode()
    for members, message in (
        ([("model_config.yaml", config), ("model_weights.ckpt", as_bytes({"a": Evil()}))], "cannot be read as weights"),
        ([("model_config.yaml", config), ("model_weights.ckpt", pickle.dumps(Evil()))], "cannot be read as weights"),
        ([("model_config.yaml", evil_yaml), ("model_weights.ckpt", weights)], "model_config.yaml is not YAML"),
        ([("model_config.yaml", config), ("model_weights.ckpt", "/etc/hostname")], "no plain file"),
        ([("model_config.yaml", config), ("../model_weights.ckpt", weights)], "0 members called model_weights"),
        ([("model_config.yaml", config), *2 * [("./model_weights.ckpt", weights)]], "2 members called"),
        ([("model_config.yaml", b"- a"), ("model_weights.ckpt", weights)], "holds a list"),
        ([("model_config.yaml", config), ("model_weights.ckpt", as_bytes([1]))], "other things than tensors"),
        ([("model_config.yaml", b"a" * 2**21), ("model_weights.ckpt", weights)], "claims 2097152 bytes"),
    ):
        path = write(tmp_path / "evil.nemo", [*members, ("../../escaped", b"x")])
        with pytest.raises(ValueError, match=message):
            load_nemo(path)
    assert not ran.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["evil.nemo"]


def test_damaged_archives_are_named(nanocodecs, tmp_path, capsys):
    path = archive_of(nanocodecs["lfsc"], tmp_path / "a.nemo")
    data = path.read_bytes()
    for cut in (data[: len(data) // 2], data[:100], b"", b"nothing like a tar" * 100):
        path.write_bytes(cut)
        with pytest.raises(ValueError, match=r"a\.nemo"):
            flexicodec.load(path)
    assert main(["info", str(path)]) == 2
    assert "a.nemo cannot be read as a .nemo archive" in capsys.readouterr().err
    with pytest.raises(ValueError, match="there is no model"):
        flexicodec.load(tmp_path / "b.nemo")


def test_arguments_that_cannot_apply_are_refused(nanocodecs, tmp_path):
    path = archive_of(nanocodecs["lfsc"], tmp_path / "a.nemo")
    with pytest.raises(ValueError, match="sensevoice='x' is of no use"):
        flexicodec.load(path, sensevoice="x")
    with pytest.raises(ValueError, match="revision='main' belongs to a hub id"):
        flexicodec.load(path, revision="main")
    archive_of(nanocodecs["nano"], tmp_path / "b.nemo")
    with pytest.raises(ValueError, match=r"several archives \(a\.nemo, b\.nemo\); choose with filename="):
        flexicodec.load(tmp_path)


def test_the_command_line_takes_archives(nanocodecs, speech_folder, tmp_path, capsys):
    codec = nanocodecs["nano"]
    model = ["--model", str(archive_of(codec, tmp_path / "nano.nemo"))]
    audio_file = tmp_path / "a.wav"
    flexicodec.write_audio(audio_file, 0.1 * SOUND, codec.sample_rate)

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, capsys.readouterr()

    assert run("encode", audio_file, "-o", tmp_path / "a.flxc", *model)[0] == 0
    assert run("decode", tmp_path / "a.flxc", "-o", tmp_path / "back.wav", *model)[0] == 0
    assert flexicodec.read_audio(tmp_path / "back.wav").shape == (1, 1000)
    assert run("reconstruct", audio_file, "-o", tmp_path / "again.wav", *model)[0] == 0
    code, printed = run("info", model[1])
    assert code == 0
    assert "6 (discriminator.x, mel_loss_fn.fb" in printed.out
    assert "num_groups: 4" in printed.out
    code, printed = run("info", tmp_path / "a.flxc")
    assert "34, of one frame each" in printed.out
    code, printed = run("encode", audio_file, "-o", tmp_path / "b.flxc", "--frame-rate", 6.25, *model)
    assert code == 2
    assert "fixed rate of 735 Hz; configs that have it: nano_1.1kbps_6.25fps" in printed.err
    assert run("decode", tmp_path / "a.flxc", "-o", tmp_path / "b.wav", "--codebooks", 2, *model)[0] == 1
    code, printed = run("verify", model[1], "--audio", min(speech_folder.glob("*.flac")))
    assert code == 0
    assert "reconstruction, 4 codebooks" in printed.out
    code, printed = run("calibrate", speech_folder, "--frame-rate", 12.5, *model)
    assert code == 2
    assert "no threshold to find" in printed.err
