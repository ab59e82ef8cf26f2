"""Codecs of transformers, tiny and with random weights: their results equal those of transformers itself."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flexicodec.evaluation.systems import Setting, Sweep, open_system
from flexicodec.evaluation.transformers_codecs import open_transformers_codec

RATE = 16_000


def tiny(kind):
    import transformers as tr

    torch.manual_seed(0)
    if kind == "encodec":
        return tr.EncodecModel(
            tr.EncodecConfig(
                target_bandwidths=[1.0, 2.0, 4.0],
                sampling_rate=RATE,
                hidden_size=8,
                num_filters=2,
                upsampling_ratios=[8, 5, 4, 2],
                codebook_size=1024,
                num_lstm_layers=1,
            )
        )
    if kind == "dac":
        sizes = {"encoder_hidden_size": 2, "decoder_hidden_size": 32, "downsampling_ratios": [2, 4, 8, 8]}
        return tr.DacModel(tr.DacConfig(**sizes, n_codebooks=4, codebook_size=64, codebook_dim=4, sampling_rate=RATE))
    if kind == "mimi":
        return tr.MimiModel(
            tr.MimiConfig(
                sampling_rate=RATE,
                hidden_size=16,
                num_filters=2,
                upsampling_ratios=[8, 5, 4, 4],
                codebook_size=64,
                codebook_dim=8,
                vector_quantization_hidden_dimension=8,
                num_quantizers=5,
                num_hidden_layers=1,
                intermediate_size=16,
                num_attention_heads=2,
                num_key_value_heads=2,
                upsample_groups=16,
            )
        )
    acoustic = {"model_type": "dac", "encoder_hidden_size": 2, "decoder_hidden_size": 32}
    acoustic |= {"downsampling_ratios": [8, 5, 4, 2], "hidden_size": 32, "codebook_dim": 4}
    semantic = {"model_type": "hubert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    semantic |= {"intermediate_size": 16, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 16}
    semantic |= {"num_conv_pos_embedding_groups": 2}
    return tr.XcodecModel(
        tr.XcodecConfig(
            target_bandwidths=[0.5, 1, 2],
            sample_rate=RATE,
            codebook_size=1024,
            acoustic_model_config=acoustic,
            semantic_model_config=semantic,
        )
    )


@torch.no_grad()
def enliven(model):
    """Give codebooks entries that matter; freshly made, EnCodec's and Mimi's are all zeros."""
    generator = torch.Generator().manual_seed(1)
    for name, table in model.state_dict().items():
        if name.endswith((".embed", ".embed_sum")):
            table.copy_(torch.randn(table.shape, generator=generator) * 0.1)
    return model.eval()


ACOUSTIC = {"encodec": 8, "dac": 4, "mimi": 4, "xcodec": 4}  # codebooks of the tiny ones, a semantic one not counted
BITS = {"encodec": 10, "dac": 6, "mimi": 6, "xcodec": 10}
FRAME = {"encodec": 320, "dac": 512, "mimi": 1280, "xcodec": 320}


@pytest.fixture(scope="module", params=ACOUSTIC)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline") / f"tiny-{request.param}"
    model = enliven(tiny(request.param))
    model.save_pretrained(folder)
    return request.param, folder, model


@pytest.fixture(scope="module")
def clips():
    random = np.random.default_rng(0)
    return [(0.1 * random.standard_normal(samples)).astype(np.float32) for samples in (6400, 8000, 9001)]


def native(kind, model, clip, codebooks):
    """Return transformers' output for a clip in whole frames."""
    audio = torch.from_numpy(np.pad(clip, (0, -len(clip) % FRAME[kind])))[None, None]
    with torch.no_grad():
        if kind == "encodec":
            return model(audio, bandwidth={2: 1.0, 4: 2.0, 8: 4.0}[codebooks]).audio_values
        if kind == "dac":
            return model(audio, n_quantizers=codebooks).audio_values
        if kind == "mimi":
            return model(audio, num_quantizers=codebooks + 1).audio_values
        return model(audio, bandwidth={1: 0.5, 2: 1, 4: 2}[codebooks]).audio_values


def test_what_is_measured_is_what_transformers_gives(saved, clips):
    kind, folder, model = saved
    system = open_system(f"transformers:{folder}")
    settings, notes = system.settings(Sweep(codebooks=(2, 4, None)))
    every = ACOUSTIC[kind]
    assert [setting.codebooks for setting in settings] == sorted({2, 4, every})
    assert not notes
    assert system.name == f"tiny-{kind}"
    rounds = list(system.reconstruct(clips, settings))
    assert len(rounds) == len(settings)
    for setting, back in zip(settings, rounds, strict=True):
        for clip, one in zip(clips, back, strict=True):
            wanted = native(kind, model, clip, setting.codebooks).reshape(-1).numpy()
            assert len(one.audio) >= len(clip)
            samples = min(len(wanted), len(one.audio))
            assert np.abs(wanted).max() > 1e-4
            np.testing.assert_allclose(one.audio[:samples], wanted[:samples], atol=1e-5)


def test_tokens_say_the_rate(saved, clips):
    kind, folder, _ = saved
    system = open_transformers_codec(str(folder))
    for back in system.reconstruct(clips, [Setting(codebooks=2)]):
        for clip, one in zip(clips, back, strict=True):
            frames = -(-len(clip) // FRAME[kind])
            codebooks = 2 + (kind == "mimi")
            seconds = len(clip) / RATE
            assert float(one.tokens.frame_rates[0]) == pytest.approx(frames / seconds)
            assert float(one.tokens.bitrates_kbps[0]) == pytest.approx(frames * codebooks * BITS[kind] / seconds / 1000)


def test_only_mimi_has_tokens_without_acoustic_codebooks(saved):
    kind, folder, _ = saved
    settings, notes = open_transformers_codec(str(folder)).settings(Sweep(codebooks=(0,)))
    if kind == "mimi":
        assert (settings[0].codebooks, notes) == (0, [])
    else:
        assert settings[0].codebooks == ACOUSTIC[kind]
        assert notes == [f"tiny-{kind}: 0 codebooks left out; it has 1 to {ACOUSTIC[kind]} acoustic ones"]


def test_another_frame_rate_is_left_out_and_said(saved):
    kind, folder, _ = saved
    own = RATE / FRAME[kind]
    settings, notes = open_transformers_codec(str(folder)).settings(Sweep(frame_rates=(6.25, own), thresholds=(0.9,)))
    assert [setting.frame_rate for setting in settings] == [pytest.approx(own)]
    assert notes[0] == f"tiny-{kind}: 6.25 Hz left out; it has a fixed frame rate of {own:g} Hz"
    assert "tau 0.9 left out" in notes[1]


def test_what_is_no_codec_here_is_refused(saved, tmp_path):
    import transformers as tr

    tr.BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="it is a 'bert', known are encodec, dac, mimi, xcodec"):
        open_transformers_codec(str(tmp_path / "bert"))
    with pytest.raises(ValueError, match="cannot open .*nowhere as a codec .*pass the folder"):
        open_transformers_codec(str(tmp_path / "nowhere"))
    stereo = tr.EncodecConfig(audio_channels=2, chunk_length_s=1.0, overlap=0.01, num_filters=2, hidden_size=8)
    tr.EncodecModel(stereo).save_pretrained(tmp_path / "stereo")
    with pytest.raises(ValueError, match="codes stereo or in chunks"):
        open_transformers_codec(str(tmp_path / "stereo"))


def test_missing_weights_are_refused(tmp_path):
    model = tiny("dac")
    model.config.save_pretrained(tmp_path)
    state = {name: tensor for name, tensor in model.state_dict().items() if "decoder" not in name}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks weights: decoder"):
        open_transformers_codec(str(tmp_path))
