"""The ASR probe: learnable and unlearnable tasks, left-out clips, reproducibility."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flexicodec.asr.ctc import forced_path
from flexicodec.evaluation.probes import ASRProbeConfig, FitConfig, Representation, probe_asr
from flexicodec.evaluation.probes.asr import ASRProbe, outputs_needed

BOUND = Representation(codebooks=0, continuous=True)
FIT = FitConfig(epochs=30, batch_seconds=4.0, learning_rate=0.01)
SMALL = ASRProbeConfig(dim=32, num_layers=1, fit=FIT, resamples=200)
BRIEF = replace(SMALL, dim=8, fit=replace(FIT, epochs=2), resamples=50)


@pytest.fixture(scope="module")
def sides(tone_clips):
    """Forty training and twenty test clips."""
    return tone_clips[:40], tone_clips[100:]


def test_a_bilstm_learns_to_transcribe(tone_codec, sides):
    (result,) = probe_asr(tone_codec, *sides, [BOUND], SMALL)
    assert result.cer.value < 0.25
    assert result.cer.low <= result.cer.value <= result.cer.high
    assert result.cer.clusters == 3
    assert result.wer.value < 0.75
    assert (result.fitted, result.held_out, result.too_short, result.unspelt) == (38, 2, 0, (0, 0))
    assert [row.reference for row in result.transcripts] == [clip.text for clip in sides[1]]
    errors, length = (sum(getattr(row.characters, n) for row in result.transcripts) for n in ("errors", "length"))
    assert result.cer.value == errors / length


@pytest.mark.slow
def test_a_transformer_learns_to_transcribe(tone_codec, tone_clips):
    config = replace(SMALL, network="transformer", num_layers=2, num_heads=2)
    config = replace(config, fit=replace(FIT, epochs=60, learning_rate=3e-3))
    (result,) = probe_asr(tone_codec, tone_clips[:100], tone_clips[100:], [BOUND], config)
    assert result.cer.value < 0.3


def test_clips_with_other_texts_leave_it_at_chance(tone_codec, sides):
    texts = [clip.text for clip in sides[0]]
    strangers = [replace(clip, text=text) for clip, text in zip(sides[0], texts[7:] + texts[:7], strict=True)]
    (result,) = probe_asr(tone_codec, strangers, sides[1], [BOUND], SMALL)
    assert result.cer.value > 0.6


def test_a_seed_repeats_and_the_callers_random_state_stays(tone_codec, sides, tmp_path):
    state = torch.get_rng_state()
    first, again = (probe_asr(tone_codec, *sides, [BOUND], BRIEF, cache=tmp_path)[0] for _ in range(2))
    assert first == again
    other = replace(BRIEF, fit=replace(BRIEF.fit, seed=1))
    assert probe_asr(tone_codec, *sides, [BOUND], other, cache=tmp_path)[0].log.losses != first.log.losses
    assert torch.equal(torch.get_rng_state(), state)


def test_representations_have_a_probe_each(tone_codec, sides):
    slow = Representation(frame_rate=6.25, codebooks=0)
    results = probe_asr(tone_codec, *sides, [BOUND, slow], BRIEF)
    assert [result.representation for result in results] == [BOUND, slow]
    assert results[1] == probe_asr(tone_codec, *sides, [slow], BRIEF)[0]
    assert results[0].frame_rate > 12 > 7 > results[1].frame_rate


@pytest.mark.parametrize("network", ["bilstm", "transformer"])
def test_a_padded_batch_is_each_clip_alone(network):
    config = ASRProbeConfig(network, dim=16, num_heads=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        probe = ASRProbe(5, 30, config).eval()
        values, lengths = torch.randn(3, 5, 9), torch.tensor([9, 4, 1])
    batch, outputs = probe(values, lengths)
    assert outputs.tolist() == [36, 16, 4]
    for row, length in enumerate(lengths.tolist()):
        alone, _ = probe(values[row : row + 1, :, :length], lengths[row : row + 1])
        assert torch.allclose(batch[row, : 4 * length], alone[0], atol=1e-5)
    assert torch.allclose(batch.exp().sum(-1), torch.ones(()), atol=1e-5)


def test_vectors_far_from_zero_are_standardised(tone_codec):
    probe = ASRProbe(3, 4, SMALL)
    values = torch.randn(4, 3, 50) * torch.tensor([1e-2, 1.0, 0.0])[:, None] + torch.tensor([5.0, -3.0, 7.0])[:, None]
    lengths = torch.tensor([50, 20, 1, 30])
    values[1, :, 20:] = 1e6  # padding does not count
    probe.fit_scale([(values[:2], lengths[:2]), (values[2:], lengths[2:])])
    steps = torch.cat(
        [((values - probe.mean[:, None]) / probe.deviation[:, None])[i, :, :n] for i, n in enumerate(lengths)], dim=-1
    )
    assert torch.allclose(steps.mean(1), torch.zeros(3), atol=1e-3)
    assert torch.allclose(steps[:2].std(1), torch.ones(2), atol=1e-2)
    assert steps[2].abs().max() < 1


@pytest.mark.parametrize("codes", [[3], [3, 3], [3, 3, 3, 1, 1], [1, 2, 1], list(range(1, 9))])
def test_the_outputs_that_a_text_needs(codes):
    needed = outputs_needed(codes)
    uniform = torch.zeros(1, needed, 9).log_softmax(-1)
    assert forced_path(uniform, torch.tensor([needed]), [codes])[0] is not None
    assert needed == 1 or forced_path(uniform, torch.tensor([needed - 1]), [codes])[0] is None


def test_what_cannot_be_used_is_counted(tone_codec, sides):
    train, test = sides
    train = [*train, replace(train[0], text=None), replace(train[1], text="ß")]
    train = [*train, replace(train[2], text="a long text for so short a clip " * 9)]
    test = [*test, replace(test[0], text="")]
    (result,) = probe_asr(tone_codec, train, test, [BOUND], BRIEF)
    assert (result.too_short, result.unspelt) == (1, (2, 1))
    assert result.fitted + result.held_out == 40
    assert len(result.transcripts) == 20


def test_texts_of_any_script_can_be_probed(tone_codec, sides):
    """Spaces make no difference: the letters become Han characters, spaced in the test clips."""
    han = str.maketrans("abcdefghijklmnopqrstuvwxyz", "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余")
    train = [replace(clip, text=clip.text.translate(han), language="zh") for clip in sides[0]]
    test = [replace(clip, text=" ".join(clip.text.translate(han)), language="zh") for clip in sides[1]]
    with pytest.raises(ValueError, match="a to z, spaces and apostrophes; alphabet=texts takes"):
        probe_asr(tone_codec, train, test, [BOUND], BRIEF)
    (result,) = probe_asr(tone_codec, train, test, [BOUND], replace(BRIEF, alphabet="texts"))
    assert result.unspelt == (0, 0)
    for row, clip in zip(result.transcripts, test, strict=True):
        assert row.words == row.characters
        assert row.words.length == len(clip.text.replace(" ", ""))


def test_without_usable_texts_there_is_an_error(tone_codec, sides):
    mute = [replace(clip, text=None) for clip in sides[1]]
    with pytest.raises(ValueError, match="none of 20 test clips has a text of a to z"):
        probe_asr(tone_codec, sides[0], mute, [BOUND], BRIEF)
    wordy = [replace(clip, text="more than anybody can say " * 20) for clip in sides[0]]
    with pytest.raises(ValueError, match=r"0 of 40 texts fit .* raise outputs_per_step \(4\)"):
        probe_asr(tone_codec, wordy, sides[1], [BOUND], BRIEF)


def test_one_output_a_token_is_too_few_at_a_low_rate(tone_codec, sides):
    """Two frames a letter at 6.25 Hz leave a token a letter at most: some texts do not fit."""
    config = replace(BRIEF, spread="tokens", outputs_per_step=1)
    slow = Representation(frame_rate=4.0, codebooks=0)
    (few,) = probe_asr(tone_codec, *sides, [slow], config)
    (enough,) = probe_asr(tone_codec, *sides, [slow], replace(config, outputs_per_step=4))
    assert few.too_short > 20
    assert enough.too_short == 0


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="outputs_per_step is 0; expected 1 or more"):
        ASRProbeConfig(outputs_per_step=0)
    with pytest.raises(ValueError, match=r"validation_share is 5; expected a share between 0 and 1 \(not percent\)"):
        FitConfig(validation_share=5)
    with pytest.raises(ValueError, match="epochs is 0"):
        FitConfig(epochs=0)


def test_an_infinite_loss_is_an_error(tone_codec, sides):
    wild = replace(BRIEF, fit=replace(BRIEF.fit, learning_rate=np.inf))
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        probe_asr(tone_codec, *sides, [BOUND], wild)
