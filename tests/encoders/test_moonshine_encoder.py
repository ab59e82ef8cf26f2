"""Moonshine's encoder with random weights: the features of transformers, padding, windows and short clips."""

import pytest
import torch
import transformers

from flexicodec import collate
from flexicodec.encoders.base import MoonshineConfig, SemanticEncoder
from flexicodec.encoders.moonshine import FIRST_FRAME, FRAME_SIZE, num_frames
from flexicodec.weights import load_exactly

TINY = MoonshineConfig(num_layers=2, dim=24, num_heads=2, feedforward_dim=40, rotary_dim=10)
LENGTHS = [FIRST_FRAME, 9000, 16_000, 16_127]


def original(config=TINY):
    """Make transformers' model of the same sizes, with random weights of a useful size."""
    settings = transformers.MoonshineConfig(
        vocab_size=50,
        hidden_size=config.dim,
        intermediate_size=config.feedforward_dim,
        encoder_num_hidden_layers=config.num_layers,
        decoder_num_hidden_layers=config.num_layers,
        encoder_num_attention_heads=config.num_heads,
        decoder_num_attention_heads=config.num_heads,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.9},
        pad_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.MoonshineForConditionalGeneration(settings).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
    return model


def encoder_of(model, config=TINY):
    with torch.device("meta"):
        encoder = config.build()
    load_exactly(encoder, {k: v for k, v in model.model.encoder.state_dict().items()})
    return encoder.eval()


@pytest.fixture(scope="module")
def model():
    return original()


@pytest.fixture(scope="module")
def encoder(model):
    return encoder_of(model)


@pytest.fixture(scope="module")
def clips():
    """Clips of noise whose level rises, each with an offset and a level of its own."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for level, samples in enumerate(LENGTHS, start=1):
        made.append(0.05 * level * torch.randn(samples, generator=generator) * torch.linspace(0.2, 2, samples) + 0.02)
    return made


def close(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_features_equal_those_of_transformers(model, encoder, clips):
    assert isinstance(encoder, SemanticEncoder)
    for clip in clips:
        with torch.no_grad():
            expected = model.model.encoder(clip[None]).last_hidden_state
            features, frames = encoder(clip[None], torch.tensor([len(clip)]))
        assert frames.tolist() == [expected.shape[1]]
        close(features, expected.mT)


@pytest.mark.parametrize("windows", [(), (5, None)])
@pytest.mark.parametrize("fill", [0.0, 1.0, float("nan")])
def test_padding_changes_nothing(model, clips, windows, fill):
    encoder = encoder_of(model, MoonshineConfig(**{**vars(TINY), "windows": windows}))
    audio, lengths = collate(clips)
    for row, length in enumerate(lengths.tolist()):
        audio[row, length:] = fill
    with torch.no_grad():
        together, frames = encoder(torch.nn.functional.pad(audio, (0, 5000), value=fill), lengths)
        for row, clip in enumerate(clips):
            alone, count = encoder(clip[None], lengths[row : row + 1])
            assert frames[row] == count
            close(together[row, :, :count], alone[0])
            assert not together[row, :, count:].any()


def test_transformers_lets_padding_in(model, clips):
    """The two leaks that are closed here: remove this test, and the words in the module, when they are closed there."""
    clip = clips[2][None]
    mask = torch.ones(1, 16_000)
    padded = torch.nn.functional.pad(clip, (0, 24_000))
    with torch.no_grad():
        alone = model.model.encoder(clip).last_hidden_state[0]
        both = model.model.encoder(padded, attention_mask=torch.nn.functional.pad(mask, (0, 24_000)))
    assert both.attention_mask.sum() > len(alone)
    assert (both.last_hidden_state[0, : len(alone)] - alone).abs().max() > 0.05


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (894, 0), (895, 1), (1278, 1), (1279, 2), (16_000, 40), (16_127, 40), (48_000, 123)]
)
def test_frames_are_those_the_convolutions_make(samples, frames, encoder):
    assert num_frames(torch.tensor([samples])).tolist() == [frames]
    with torch.no_grad():
        features, found = encoder(torch.zeros(2, samples), torch.tensor([samples, samples]))
    assert found.tolist() == [frames, frames]
    assert torch.isfinite(features).all()


def test_an_item_without_frames_spoils_no_other(encoder, clips):
    with torch.no_grad():
        alone, count = encoder(clips[1][None], torch.tensor([9000]))
        together, frames = encoder(*collate([clips[1], clips[0][:500]]))
    assert frames.tolist() == [int(count), 0]
    close(together[0], alone[0])


def test_left_padding_centres_the_frames(model, clips):
    """A click in the middle of a frame's samples moves no frame but those that see it, evenly to both sides."""
    centred = encoder_of(model, MoonshineConfig(**{**vars(TINY), "left_padding": 256, "windows": (0, 0)}))
    plain = encoder_of(model, MoonshineConfig(**{**vars(TINY), "windows": (0, 0)}))
    clip = clips[1]
    with torch.no_grad():
        found, frames = centred(clip[None], torch.tensor([len(clip)]))
        zeros, _ = plain(torch.nn.functional.pad(clip, (256, 0))[None], torch.tensor([len(clip) + 256]))
    close(found, zeros)
    first = (FIRST_FRAME - 1) / 2 - 256  # centre of frame 0, in samples of the clip
    assert abs(first + 0.5 - FRAME_SIZE / 2) <= 1


def test_windows_limit_the_reach(model, clips):
    """With windows of 3 and 2 frames, a change at frame 30 reaches 5 frames; the group norm alone reaches further."""
    config = MoonshineConfig(**{**vars(TINY), "windows": (3, 2)})
    encoder = encoder_of(model, config)
    frames = torch.randn(1, 60, TINY.dim, generator=torch.Generator().manual_seed(1))
    changed = frames.clone()
    changed[0, 30] = -frames[0, 30]
    outputs = []
    for each in (frames, changed):
        encoder._convolve = lambda audio, lengths, each=each: each.mT
        with torch.no_grad():
            outputs.append(encoder(torch.zeros(1, 24_000), torch.tensor([60 * FRAME_SIZE + 600]))[0])
    moved = ((outputs[0] - outputs[1]).abs().amax(1)[0] > 1e-5).nonzero().flatten().tolist()
    assert moved == list(range(25, 36))


def test_windows_are_one_for_each_block():
    with pytest.raises(ValueError, match="windows has 1 entries for 6 blocks"):
        MoonshineConfig(windows=(3,))
