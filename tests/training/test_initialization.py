"""Weights to start from: each kind of source fills exactly its parts, and missing weights are reported."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import flexicodec
from flexicodec.asr import encoder_state
from flexicodec.config import from_dict, load_yaml
from flexicodec.encoders import moonshine_weights
from flexicodec.encoders.base import MoonshineConfig, SSLConfig
from flexicodec.encoders.ssl import ssl_state
from flexicodec.models.flexicodec.convert_upstream import from_upstream, sensevoice_cmvn
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.training.config import InitConfig, LossWeights, TrainingConfig
from flexicodec.training.initialization import init_from
from flexicodec.training.trainer import train
from tests.training.recipes import MODEL, SANM, make_hubert, make_recogniser, recipe

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "goldens" / "small_b"
SANM_ONE = MODEL.semantic_encoder
MERGING = ("semantic_aggregator.*", "acoustic_aggregator.*", "bottleneck.*")


def fresh(config=MODEL, seed=1, noise=0.0):
    """A new model, optionally with noise on every weight, so that no two share one."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        codec = FlexiCodec(config)
        for value in codec.state_dict().values():
            if noise and value.is_floating_point():
                value.add_(noise * torch.randn_like(value))
    return codec


def part(name):
    return name.split(".")[0]


def parts_of(codec):
    return {part(name) for name in codec.state_dict()}


def assert_filled(codec, expected, parts, before=None):
    """Check that these parts have the expected weights, and the others are unchanged."""
    before = before or fresh(codec.config).state_dict()
    for name, value in codec.state_dict().items():
        assert torch.equal(value, (expected if part(name) in parts else before)[name]), name


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    return make_recogniser(tmp_path_factory.mktemp("recogniser"))


@pytest.fixture(scope="module")
def trained():
    """A model to start from, and its folder's weights."""
    return fresh(seed=2, noise=0.3)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    return trained.save_pretrained(tmp_path_factory.mktemp("trained"))


# ---------------------------------------------------------------------------------------------------------------- ours


def test_a_saved_model_fills_everything(trained, folder, caplog):
    caplog.set_level(logging.INFO)
    codec = fresh()
    init_from(codec, [InitConfig(str(folder))])
    assert_filled(codec, trained.state_dict(), parts_of(codec))
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert f"took {len(codec.state_dict())} tensors from {folder}" in caplog.text


def test_a_model_in_half_precision_becomes_single(trained, tmp_path):
    codec = fresh()
    init_from(codec, [InitConfig(str(trained.save_pretrained(tmp_path, dtype=torch.float16)))])
    assert {value.dtype for value in codec.state_dict().values()} == {torch.float32}
    half = {name: value.half().float() for name, value in trained.state_dict().items()}
    assert_filled(codec, half, parts_of(codec))


def test_parts_come_alone(trained, folder, recogniser, caplog):
    codec = fresh()
    init_from(codec, [InitConfig(str(folder), ("encoder", "decoder", "semantic_encoder"))])
    assert_filled(codec, trained.state_dict(), {"encoder", "decoder", "semantic_encoder"})
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_later_sources_go_over_earlier_ones(trained, folder, recogniser, tmp_path):
    other = fresh(seed=3, noise=0.3)
    sources = [InitConfig(str(folder)), InitConfig(str(other.save_pretrained(tmp_path)), ("decoder", "bottleneck"))]
    sources.append(InitConfig(str(recogniser)))
    codec = fresh()
    init_from(codec, sources)
    encoder_weights = {f"semantic_encoder.{key}": value for key, value in encoder_state(recogniser, SANM_ONE).items()}
    assert_filled(codec, encoder_weights, {"semantic_encoder"}, trained.state_dict() | decoder_of(other))
    codec = fresh()
    init_from(codec, sources[::-1])
    assert_filled(codec, trained.state_dict(), parts_of(codec))


def decoder_of(codec):
    return {name: value for name, value in codec.state_dict().items() if part(name) in ("decoder", "bottleneck")}


def test_the_shipped_model_goes_into_its_own_config():
    """As the guide's example of fine-tuning has it."""
    config = from_dict(TrainingConfig, load_yaml(ROOT / "configs" / "flexicodec" / "finetune_mini.yaml")).model
    codec = fresh(config)
    init_from(codec, [InitConfig("flexicodec-mini")])
    assert_filled(codec, flexicodec.load("flexicodec-mini").state_dict(), parts_of(codec), {})


def test_what_is_missing_is_printed_and_must_be_allowed(tmp_path, caplog):
    fixed = fresh(replace(MODEL, merging=None, bottleneck=None), seed=2, noise=0.3)
    source = str(fixed.save_pretrained(tmp_path))
    for allowed in ((), MERGING[:2], ("bottleneck.*", "semantic_aggregator.transformer.*")):
        with pytest.raises(ValueError, match=r"lacks \S+_aggregator|lacks bottleneck"):
            init_from(fresh(), [InitConfig(source, allow_missing=allowed)])
    with pytest.raises(
        ValueError, match=r"lacks acoustic_aggregator\.\S+, .* and \d+ more; .*list them in allow_missing"
    ):
        init_from(fresh(), [InitConfig(source)])
    caplog.clear()
    codec = fresh()
    init_from(codec, [InitConfig(source, allow_missing=MERGING)])
    assert_filled(codec, fixed.state_dict(), parts_of(fixed))
    new = len(codec.state_dict()) - len(fixed.state_dict())
    assert f"{source} lacks {new} keys: acoustic_aggregator." in caplog.text
    assert caplog.records[0].levelname == "WARNING"


def test_what_is_left_over_is_printed_and_must_be_allowed(trained, folder, caplog):
    fixed = replace(MODEL, merging=None, bottleneck=None)
    with pytest.raises(ValueError, match=r"has unused acoustic_aggregator\.\S+.* list them in allow_extra"):
        init_from(fresh(fixed), [InitConfig(str(folder))])
    caplog.clear()
    codec = fresh(fixed)
    init_from(codec, [InitConfig(str(folder), allow_extra=MERGING)])
    assert_filled(codec, trained.state_dict(), parts_of(codec))
    assert "has unused " in caplog.text
    assert " keys: acoustic_aggregator." in caplog.text


def test_what_is_left_over_of_the_parts_asked_for_must_be_allowed_too(folder):
    shallow = replace(MODEL, acoustic_quantizer=replace(MODEL.acoustic_quantizer, num_codebooks=2))
    parts = ("semantic_encoder", "acoustic_quantizer")
    with pytest.raises(ValueError, match=r"has unused acoustic_quantizer\.quantizers\.2\.codebook\.weight"):
        init_from(fresh(shallow), [InitConfig(str(folder), parts)])
    init_from(fresh(shallow), [InitConfig(str(folder), parts, allow_extra=("acoustic_quantizer.quantizers.2.*",))])


def test_a_wrong_shape_is_named_whatever_is_allowed(folder):
    wider = replace(MODEL, acoustic=replace(MODEL.acoustic, decoder_width=64))
    source = InitConfig(str(folder), allow_missing=("*",), allow_extra=("*",))
    codec = fresh(wider)
    with pytest.raises(ValueError, match=r"decoder\.layers\.0\.bias is \(32,\) instead of \(64,\)"):
        init_from(codec, [source])
    assert_filled(codec, {}, set())
    others = tuple(sorted(parts_of(codec) - {"decoder"}))
    init_from(codec, [replace(source, parts=others)])


def test_a_frozen_encoder_of_other_settings_is_refused(folder):
    """The number of heads is in no shape, and a frozen encoder cannot adapt to another one."""
    other = replace(MODEL, semantic_encoder=replace(SANM_ONE, num_heads=4))
    with pytest.raises(ValueError, match=r"frozen encoder in .*num_heads=2.*num_heads=4.*make model\.semantic_encoder"):
        init_from(fresh(other), [InitConfig(str(folder))])
    window = replace(MODEL, semantic_encoder=replace(SANM_ONE, window=9))
    init_from(fresh(window), [InitConfig(str(folder))])


# --------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("decay", [0.5, None], ids=["average", "generator"])
def test_a_checkpoint_gives_the_weights_that_would_be_exported(manifest, tmp_path, recogniser, decay):
    config = recipe(manifest, tmp_path / "run", recogniser, steps=2, adversarial=None)
    config = replace(config, optim=replace(config.optim, ema_decay=decay))
    exported = flexicodec.load(train(config)).state_dict()
    checkpoint = tmp_path / "run" / "checkpoints" / "step-0000002"
    assert (checkpoint / "average.safetensors").is_file() == (decay is not None)
    codec = fresh(seed=5, noise=0.1)
    init_from(codec, [InitConfig(str(checkpoint))])
    assert_filled(codec, exported, parts_of(codec))

    other = replace(MODEL, semantic_encoder=replace(SANM_ONE, num_heads=4))
    with pytest.raises(ValueError, match="frozen encoder"):
        init_from(fresh(other), [InitConfig(str(checkpoint))])
    weights = checkpoint / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"the checkpoint .*step-0000002 is damaged"):
        init_from(fresh(), [InitConfig(str(checkpoint))])


# ----------------------------------------------------------------------------------------------- other frozen encoders


def test_a_recogniser_gives_its_first_blocks(recogniser, caplog):
    codec = fresh()
    init_from(codec, [InitConfig(str(recogniser))])
    encoder_weights = encoder_state(recogniser, SANM_ONE)
    assert_filled(
        codec, {f"semantic_encoder.{key}": value for key, value in encoder_weights.items()}, {"semantic_encoder"}
    )
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    held = load_file(recogniser / "model.safetensors")
    assert torch.equal(
        codec.state_dict()["semantic_encoder.encoder.layers.0.mlp.fc1.weight"],
        held["encoder.encoder.layers.0.mlp.fc1.weight"],
    )
    assert any(name.startswith("encoder.encoder.layers.1.") for name in held)


def test_a_recogniser_that_does_not_fit_is_refused(recogniser):
    deeper = replace(MODEL, semantic_encoder=replace(SANM, num_layers=3))
    with pytest.raises(ValueError, match="has 2 blocks, asked for 3"):
        init_from(fresh(deeper), [InitConfig(str(recogniser))])
    wider = replace(MODEL, semantic_encoder=replace(SANM, num_heads=4))
    with pytest.raises(ValueError, match="num_heads is 2, not 4"):
        init_from(fresh(wider), [InitConfig(str(recogniser))])
    with pytest.raises(ValueError, match=r"recogniser lacks decoder\.|lacks decoder\.layers"):
        init_from(fresh(), [InitConfig(str(recogniser), ("decoder",))])


@pytest.fixture(scope="module")
def hubert(tmp_path_factory):
    """A HuBERT with random weights, as transformers saves it, and the config of its first blocks."""
    folder = make_hubert(tmp_path_factory.mktemp("hubert"), 3)
    return folder, SSLConfig.from_folder(folder, 2)


def test_an_ssl_folder_gives_its_first_blocks(hubert, recogniser, tmp_path):
    folder, encoder = hubert
    model = replace(MODEL, semantic_encoder=encoder)
    codec = fresh(model)
    init_from(codec, [InitConfig(str(folder))])
    encoder_weights = {f"semantic_encoder.{key}": value for key, value in ssl_state(folder, encoder).items()}
    assert_filled(codec, encoder_weights, {"semantic_encoder"})
    again = fresh(model, seed=7, noise=0.1)
    init_from(again, [InitConfig(str(codec.save_pretrained(tmp_path)))])
    assert_filled(again, codec.state_dict(), parts_of(codec))

    with pytest.raises(ValueError, match="is a SAN-M recogniser, but the model's semantic encoder is SSLConfig"):
        init_from(fresh(model), [InitConfig(str(recogniser))])
    with pytest.raises(ValueError, match="knows no source .*hubert.* SSL or SenseVoice folder that suits the model"):
        init_from(fresh(), [InitConfig(str(folder))])


@pytest.mark.parametrize("num_layers", [6, 2])
def test_moonshine_ships_and_gives_its_first_blocks(num_layers, recogniser, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    encoder = MoonshineConfig(num_layers=num_layers, windows=(62,), norm_window=62, left_padding=256)
    model = replace(MODEL, semantic_encoder=encoder)
    codec = fresh(model)
    init_from(codec, [InitConfig("moonshine-tiny-en")])
    shipped = {f"semantic_encoder.{key}": value for key, value in moonshine_weights.shipped_state().items()}
    assert_filled(codec, shipped, {"semantic_encoder"})
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    # A codec's folder names them, and may be the source of one with other windows.
    again = fresh(replace(model, semantic_encoder=replace(encoder, windows=((62, 4),))), seed=7, noise=0.1)
    init_from(again, [InitConfig(str(codec.save_pretrained(tmp_path)))])
    assert_filled(again, codec.state_dict(), parts_of(codec))

    with pytest.raises(ValueError, match="is Moonshine's encoder, but the model's semantic encoder is SanmConfig"):
        init_from(fresh(), [InitConfig("moonshine-tiny-en")])
    with pytest.raises(ValueError, match="is a SAN-M recogniser, but the model's semantic encoder is Moonshine"):
        init_from(fresh(model), [InitConfig(str(recogniser))])
    narrow = replace(model, semantic_encoder=MoonshineConfig(num_layers=1, dim=24, num_heads=2, rotary_dim=8))
    with pytest.raises(ValueError, match="moonshine-tiny-en does not fit the model: semantic_encoder.conv1.weight is"):
        init_from(fresh(narrow), [InitConfig("moonshine-tiny-en")])


# ---------------------------------------------------------------------------------------------------------- the peer's


@pytest.fixture(scope="module")
def peer():
    """Upstream's weights of a small model, as released (float16, legacy weight norm), and the same by our names."""
    settings = json.loads(GOLDEN.with_suffix(".json").read_text())
    weights = load_file(f"{GOLDEN}.weights.safetensors")
    return weights, from_upstream(
        settings["codec_config"], weights, sensevoice_encoder_conf=settings["sensevoice_encoder_conf"]
    )


@pytest.fixture
def peer_file(peer, tmp_path):
    """Writes a file with some of the peer's weights, and others."""

    def write(without=(), **others):
        path = tmp_path / "12hz_v1_half.safetensors"
        kept = {key: value for key, value in peer[0].items() if not key.startswith(tuple(without))}
        save_file(kept | {key.replace("__", "."): value for key, value in others.items()}, path)
        return path

    return write


def test_the_peers_file_fills_everything(peer, peer_file, caplog):
    codec = fresh(peer[1].config)
    path = peer_file(repa_mlp__0__weight=torch.zeros(3, 2))
    for source in (path, path.parent):  # the file, or the folder it lies in under its released name
        caplog.clear()
        init_from(codec, [InitConfig(str(source))])
        assert_filled(codec, peer[1].state_dict(), parts_of(codec))
        assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_torch_files_with_wrappers_are_opened(peer, tmp_path):
    torch.save({"state_dict": {f"module.{key}": value for key, value in peer[0].items()}}, tmp_path / "mine.pt")
    codec = fresh(peer[1].config)
    init_from(codec, [InitConfig(str(tmp_path / "mine.pt"))])
    assert_filled(codec, peer[1].state_dict(), parts_of(codec))


@pytest.mark.parametrize("encoder", ["sanm", "hubert"])
def test_the_peers_encoder_and_decoder_go_into_another_model(peer, peer_file, recogniser, hubert, caplog, encoder):
    """Everything else is unlike: geometry, widths, depths, codebooks, frozen encoder."""
    model, encoder_weights = replace(MODEL, acoustic=peer[1].config.acoustic), recogniser
    if encoder == "hubert":
        encoder_weights, settings = hubert
        model = replace(model, semantic_encoder=settings)
    codec, before = fresh(model), fresh(model)
    parts = ("encoder", "decoder")
    init_from(before, [InitConfig(str(encoder_weights))])
    init_from(codec, [InitConfig(str(encoder_weights)), InitConfig(str(peer_file()), parts)])
    assert_filled(codec, peer[1].state_dict(), parts, before.state_dict())
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    with pytest.raises(ValueError, match=r"has unused dac\.encoder\.gain; .*allow_extra"):
        init_from(codec, [InitConfig(str(peer_file(dac__encoder__gain=torch.zeros(1))), parts)])


def test_a_fixed_rate_file_of_the_peers_lacks_what_merges(peer, peer_file, caplog):
    path = str(peer_file(without=("semantic_aggregator.", "acoustic_aggregator.", "bottleneck_transformer.")))
    codec = fresh(peer[1].config)
    with pytest.raises(ValueError, match=r"lacks acoustic_aggregator\..*allow_missing"):
        init_from(codec, [InitConfig(path)])
    init_from(codec, [InitConfig(path, allow_missing=MERGING)])
    assert_filled(codec, peer[1].state_dict(), parts_of(codec) - {pattern[:-2] for pattern in MERGING})


def test_what_the_peers_file_holds_in_vain_must_be_allowed(peer, peer_file):
    fixed = replace(peer[1].config, merging=None, bottleneck=None)
    for more, model in (({}, fixed), ({"nobody__knows__me": torch.zeros(1)}, peer[1].config)):
        codec = fresh(model)
        path = str(peer_file(**more))
        with pytest.raises(ValueError, match="has unused (acoustic_aggregator|nobody.knows.me)"):
            init_from(codec, [InitConfig(path)])
        allowed = ("nobody.*", "semantic_aggregator.*", "acoustic_aggregator.*", "bottleneck_transformer.*")
        init_from(codec, [InitConfig(path, allow_extra=allowed)])
        assert_filled(codec, peer[1].state_dict(), parts_of(codec))


def test_the_peers_file_is_checked(peer, peer_file, tmp_path):
    config = peer[1].config
    wider = replace(config, acoustic=replace(config.acoustic, decoder_width=192))
    with pytest.raises(ValueError, match=r"12hz_v1_half.*dac\.decoder\.model\.0\.bias is \(96,\) instead of \(192,\)"):
        init_from(fresh(wider), [InitConfig(str(peer_file()))])
    shallow = replace(config, bottleneck=replace(config.bottleneck, num_layers=1))
    with pytest.raises(ValueError, match=r"fewer layers than the file holds: bottleneck_transformer"):
        init_from(fresh(shallow), [InitConfig(str(peer_file()))])
    half = peer_file(without=("dac.decoder.model.0.weight_g",))
    with pytest.raises(ValueError, match=r"dac\.decoder\.model\.0\.weight_g is missing"):
        init_from(fresh(config), [InitConfig(str(half))])
    with pytest.raises(ValueError, match=r"semantic_mean is \[0\.5\], expected 0"):
        init_from(fresh(config), [InitConfig(str(peer_file(semantic_mean=torch.tensor([0.5]))))])
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors holds nothing for the model by upstream's names"):
        init_from(fresh(config), [InitConfig(str(tmp_path / "other.safetensors"))])


@pytest.fixture
def sensevoice(peer, tmp_path):
    """SenseVoiceSmall's folder: its own names, unused blocks, and its own statistics."""
    semantic = {k.removeprefix("semantic_model."): v for k, v in peer[0].items() if k.startswith("semantic_model.")}
    unread = {"ctc.ctc_lo.weight": torch.zeros(5, 512), "encoder.tp_encoders.0.norm1.weight": torch.zeros(512)}
    folder = tmp_path / "SenseVoiceSmall"
    folder.mkdir()
    torch.save({"state_dict": {key: value.float() for key, value in (semantic | unread).items()}}, folder / "model.pt")
    rows = zip(("<AddShift>", "<Rescale>"), 2.0 * sensevoice_cmvn(), strict=True)
    lines = [f"{tag} 560 560\n<LearnRateCoef> 0 [ {' '.join(map(str, row.tolist()))} ]" for tag, row in rows]
    (folder / "am.mvn").write_text("\n".join(["<Nnet>", "<Splice> 560 560", "[ 0 ]", *lines, "</Nnet>"]) + "\n")
    return folder


def test_sensevoice_fills_the_frozen_encoder(peer, peer_file, sensevoice, caplog):
    expected = peer[1].state_dict()
    doubled = {name: 2.0 * value for name, value in expected.items() if ".front_end." in name}
    for source in (sensevoice, sensevoice / "model.pt"):
        codec = fresh(peer[1].config)
        init_from(codec, [InitConfig(str(source))])
        assert_filled(codec, expected | doubled, {"semantic_encoder"})
    codec = fresh(peer[1].config)
    codec_alone = InitConfig(str(peer_file(without=("semantic_model.",))), allow_missing=("semantic_encoder.*",))
    with pytest.raises(ValueError, match="no entry of init_from brings weights for the frozen semantic encoder"):
        init_from(codec, [codec_alone])
    init_from(codec, [InitConfig(str(sensevoice)), codec_alone])
    assert_filled(codec, expected | doubled, parts_of(codec))
    (sensevoice / "am.mvn").unlink()
    init_from(codec, [InitConfig(str(sensevoice), ("semantic_encoder",))])
    assert_filled(codec, expected, parts_of(codec))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert all("12hz_v1_half.safetensors lacks" in warning for warning in warnings)


def test_the_peers_file_is_finetuned(peer, peer_file, manifest, tmp_path):
    config = recipe(manifest, tmp_path / "run", peer_file(), model=peer[1].config, adversarial=None, steps=2)
    config = replace(config, losses=LossWeights(alignment=0.0), optim=replace(config.optim, ema_decay=None))
    codec = flexicodec.load(train(config))
    trained = replace(peer[1].config.merging, threshold_range=config.rates.threshold_range)
    assert codec.config == replace(peer[1].config, merging=trained)
    before = peer[1].state_dict()
    changed = {part(name) for name, value in codec.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == parts_of(codec) - {"semantic_encoder"}
    audio = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    tokens = codec.encode(audio, threshold=0.9)
    assert codec.decode(tokens).shape == audio.shape
    assert codec.fingerprint != peer[1].fingerprint


# --------------------------------------------------------------------------------------------------------------- slips


def test_slips_are_named(folder, recogniser, tmp_path):
    with pytest.raises(
        ValueError, match=r"no parts \['quantizer'\]; the model's are acoustic_aggregator, .*, encoder,"
    ):
        init_from(fresh(), [InitConfig(str(folder), ("encoder", "quantizer"))])
    for source in ("flexicodec-midi", str(tmp_path), str(tmp_path / "runs" / "missing")):
        with pytest.raises(ValueError, match=r"init_from knows no source '.*expected a model's name or folder"):
            init_from(fresh(), [InitConfig(source)])
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="knows no source"):
        init_from(fresh(), [InitConfig(str(tmp_path))])
    for sources in ([], [InitConfig(str(folder), ("encoder", "decoder"))]):
        with pytest.raises(ValueError, match="no entry of init_from brings weights for the frozen .*train-asr"):
            init_from(fresh(), sources)
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"broken\.safetensors cannot be read as weights"):
        init_from(fresh(), [InitConfig(str(tmp_path / "broken.safetensors"))])
