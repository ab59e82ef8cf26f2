"""The packaged model meets its requirements; its results on all held-out speech are in experiments/mini."""

from pathlib import Path

import pytest
import torch
from pystoi import stoi
from safetensors.torch import load_file

import flexicodec
from flexicodec.models.margins import compare_codes
from flexicodec.nn import onednn
from flexicodec.nn.dac import ConvStack

FOLDER = Path(flexicodec.__file__).parent / "assets" / "flexicodec-mini"
EXAMPLE = FOLDER.parent / "example.flac"
SPEECH = [EXAMPLE, *sorted((Path(__file__).parent / "data" / "speech").glob("*.flac"))]


@pytest.fixture(scope="module")
def mini():
    return flexicodec.load("flexicodec-mini")


@pytest.fixture(scope="module")
def clips_and_features(mini):
    """Every clip with its features."""
    clips = [flexicodec.read_audio(path, sample_rate=mini.sample_rate) for path in SPEECH]
    return [(clip, mini.features(clip)) for clip in clips]


def mean_stoi(mini, clips_and_features, **choice):
    scores = []
    for clip, features in clips_and_features:
        decoded = mini.decode(mini.tokenize(features, **choice))
        scores.append(stoi(clip[0].numpy(), decoded[0].numpy(), mini.sample_rate))
    return sum(scores) / len(scores)


def test_it_is_small_and_has_a_card():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 40e6
    card = (FOLDER / "README.md").read_text()
    for word in ("test-clean", "CC BY 4.0", "speechocean762", "kathleen"):
        assert word in card


def test_its_fingerprint_is_that_of_its_weights(mini):
    assert mini.fingerprint == mini.compute_fingerprint()


def test_it_covers_whole_clips_and_depends_on_no_more_than_its_window(mini):
    assert mini.config.geometry == "whole"
    assert max(mini.semantic_encoder.reach) < 20 * mini.sample_rate
    assert mini.semantic_encoder.reach[1] < mini.sample_rate  # of look-ahead
    assert mini.config.bottleneck is None


def test_speech_stays_intelligible_and_less_so_at_lower_rates(mini, clips_and_features):
    scores = [mean_stoi(mini, clips_and_features, frame_rate=rate) for rate in (12.5, 6.25, 3.5)]
    assert scores[0] >= 0.90
    assert scores == sorted(scores, reverse=True)


def test_acoustic_codes_help(mini, clips_and_features):
    none, some, all_ = (
        mean_stoi(mini, clips_and_features, frame_rate=12.5, num_codebooks=n) for n in (0, 4, mini.num_codebooks)
    )
    assert none < some
    assert all_ > some - 0.01


def test_silence_gets_longer_tokens_than_speech(mini, clips_and_features):
    silent, spoken = [], []
    for clip, features in clips_and_features:
        durations = mini.tokenize(features, frame_rate=6.25, num_codebooks=0).durations[0]
        frames = torch.nn.functional.pad(clip[0], (0, -clip.shape[1] % mini.frame_size)).view(-1, mini.frame_size)
        level = 10 * torch.log10(frames.square().mean(1) + 1e-10)
        quiet = level < torch.quantile(level, 0.95) - 35
        for start, end in zip((durations.cumsum(0) - durations).tolist(), durations.cumsum(0).tolist(), strict=True):
            (silent if quiet[start:end].float().mean() > 0.5 else spoken).append(end - start)
    assert len(silent) > 3
    assert sum(silent) / len(silent) > 1.5 * sum(spoken) / len(spoken)


def test_thirty_seconds_in_a_batch_are_the_same_as_alone(mini, clips_and_features):
    clips = [clip for clip, _ in clips_and_features]
    audio, lengths = flexicodec.collate(clips)
    together = mini.encode(audio, lengths, frame_rate=6.25)
    for index, clip in enumerate(clips):
        alone = mini.encode(clip, frame_rate=6.25)
        assert torch.equal(together[index].durations, alone.durations)
        assert torch.equal(together[index].semantic, alone.semantic)
        assert (together[index].acoustic == alone.acoustic).float().mean() >= 0.995


def test_chunks_and_fast_operators_flip_nothing_that_is_not_close(mini, clips_and_features, monkeypatch):
    """Against clips at once by PyTorch's own operators; on two threads, whose sines are others than one thread's."""
    clip, reach = clips_and_features[0][0], mini.semantic_decoder_stack.reach
    with monkeypatch.context() as patch:
        patch.setattr(onednn, "_supported_dtypes", lambda: ())
        patch.setattr(ConvStack, "chunked", lambda self, x, *rest: self(x, *rest))
        plain = mini.encode(clip, frame_rate=6.25, margins=True)
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            found = compare_codes(plain, mini.encode(clip, frame_rate=6.25), reach)
        finally:
            torch.set_num_threads(before)
        for decisions in (found.boundaries, found.semantic, found.acoustic):
            assert len(decisions) > 10
            assert decisions.flips(above=1e-4) == 0


def test_half_precision_is_thirty_decibels_away(mini, clips_and_features):
    for clip, features in clips_and_features:
        tokens = mini.tokenize(features, frame_rate=8.33)
        exact, near = mini.decode(tokens), mini.decode(tokens, precision="bfloat16")
        ratio = 10 * torch.log10(exact.square().sum() / (exact - near).square().sum())
        assert 30 < ratio < 100, len(clip)


def test_the_encoder_inside_is_the_one_that_ships(mini):
    assert mini.shipped_parts() == {"semantic_encoder": "moonshine-tiny-en"}
    assert not any(name.startswith("semantic_encoder.") for name in load_file(FOLDER / "model.safetensors"))
