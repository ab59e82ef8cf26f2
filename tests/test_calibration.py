"""From a corpus rate to a threshold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flexicodec
from flexicodec.calibration import fit_threshold
from flexicodec.io_utils import find
from flexicodec.merging import Threshold

RATES = [2.0, 4.0, 6.25, 8.33, 12.5]


@pytest.fixture(scope="module")
def corpus(speech, tmp_path_factory):
    """A folder with a few clips, at different depths and rates, and a file that is no audio."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "deep" / "er").mkdir(parents=True)
    flexicodec.write_audio(folder / "a.wav", speech[0], 16000)
    flexicodec.write_audio(folder / "deep" / "b.flac", speech[1][:, :30001], 16000)
    flexicodec.write_audio(folder / "deep" / "er" / "C.WAV", speech[1][:, 20000:40000], 44100)
    flexicodec.write_audio(folder / "short.wav", speech[1][:, :500], 16000)
    (folder / "readme.txt").write_text("not audio, and not called so")
    return folder


@pytest.fixture(scope="module")
def found(whole, corpus):
    """A calibration for each of the rates."""
    return {rate: flexicodec.calibrate(whole, corpus, rate) for rate in RATES}


def test_the_corpus_comes_as_near_to_the_rate_as_whole_tokens_allow(found):
    for rate, calibration in found.items():
        assert calibration.frame_rate == rate
        assert abs(calibration.mean - rate) * calibration.seconds <= 0.5
        assert calibration.n == 4
        assert calibration.skipped == ()


def test_higher_rates_take_higher_thresholds(found):
    thresholds = [found[rate].threshold for rate in RATES]
    assert thresholds == sorted(thresholds)
    assert len(set(thresholds)) == len(RATES)


def test_encoding_with_the_threshold_gives_the_rates_promised(whole, corpus, found):
    calibration = found[6.25]
    clips = [flexicodec.read_audio(path, sample_rate=16000) for path in find(corpus)]
    # A few digits are enough: no pair of frames lies that near to the threshold.
    tokens = [whole.encode(clip, threshold=float(f"{calibration.threshold:.6g}"), num_codebooks=0) for clip in clips]
    seconds = sum(clip.shape[1] for clip in clips) / 16000
    assert calibration.seconds == pytest.approx(seconds)
    assert calibration.mean == pytest.approx(sum(int(each.token_lengths) for each in tokens) / seconds)
    rates = torch.cat([each.frame_rates for each in tokens])
    assert calibration.std == pytest.approx(rates.std().item())
    assert calibration.std > 0


def test_the_cap_is_kept(whole, corpus):
    capped = flexicodec.calibrate(whole, corpus, 6.25, max_duration=2)
    assert abs(capped.mean - 6.25) * capped.seconds <= 3  # there are odd clips, whose last token is half empty
    with pytest.raises(ValueError, match="frame_rate is 4 Hz, .* at most 2 frames per token allows 6.25 to 12.5 Hz"):
        flexicodec.calibrate(whole, corpus, 4, max_duration=2)


def test_bad_files_are_listed_and_left_out(whole, corpus, speech_folder, tmp_path):
    broken, missing = tmp_path / "broken.flac", tmp_path / "missing.wav"
    broken.write_bytes(b"fLaC and nothing")
    clips = sorted(speech_folder.glob("*.flac"))
    calibration = flexicodec.calibrate(whole, [broken, *clips, missing, corpus / "a.wav"], 5)
    assert calibration.n == 3
    assert len(calibration.skipped) == 2
    assert "broken.flac: cannot read" in calibration.skipped[0]
    assert "missing.wav: no such audio file" in calibration.skipped[1]
    assert calibration == flexicodec.calibrate(whole, [*clips, corpus / "a.wav", broken, missing], 5)
    with pytest.raises(ValueError, match="none of 2 files could be read; first: .*broken.flac"):
        flexicodec.calibrate(whole, [broken, missing], 5)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (1.0, "frame_rate is 1 Hz, .* allows 1.5625 to 12.5 Hz"),
        (13, "frame_rate is 13 Hz"),
        (float("nan"), "finite number"),
        ("6", "frame_rate is '6'; expected a number"),
        ([4.0, 5.0], r"frame_rate is \[4.0, 5.0\]; expected one number"),
    ],
)
def test_rates_out_of_range_are_refused_before_the_work(whole, corpus, monkeypatch, rate, message):
    monkeypatch.setattr(type(whole), "features", None)
    with pytest.raises(ValueError, match=message):
        flexicodec.calibrate(whole, corpus, rate)


def test_folders_without_speech_are_named(whole, tmp_path):
    with pytest.raises(ValueError, match=f"no files to read in {tmp_path}"):
        flexicodec.calibrate(whole, tmp_path, 5)
    with pytest.raises(ValueError, match="none of 0 files could be read; .* no files"):
        flexicodec.calibrate(whole, [], 5)


values = st.sampled_from([-1.0, -0.5, 0.0, 0.2, 0.20000002, 0.5, 0.9, 0.99, 1.0])


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    clips=st.lists(st.lists(values, max_size=12), min_size=1, max_size=4),
    rate=st.floats(1.6, 12.5),
    cap=st.sampled_from([None, 2, 8]),
)
def test_no_threshold_comes_nearer(clips, rate, cap):
    similarities = [torch.tensor(clip) for clip in clips]
    lengths = [len(clip) + 1 for clip in clips]
    seconds = [length / 12.5 for length in lengths]

    def distance(threshold):
        counts = (
            (Threshold(threshold)(each[None], torch.tensor([length]), max_duration=cap) > 0).sum()
            for each, length in zip(similarities, lengths, strict=True)
        )
        return abs(int(sum(counts)) - rate * sum(seconds))

    calibration = fit_threshold(similarities, lengths, seconds, rate, cap)
    thresholds = {-1.0, 1.0, *(value for clip in similarities for value in clip.tolist())}
    assert distance(calibration.threshold) == pytest.approx(min(map(distance, thresholds)))
    missed = abs(calibration.mean - rate) * sum(seconds)
    assert missed == pytest.approx(distance(calibration.threshold), abs=1e-6)


@pytest.mark.parametrize("policy", ["centroid", "joint:acoustic=0.3", "ple:cap=6", "equal-mass", "norm"])
def test_other_policies_are_calibrated_too(whole, corpus, policy):
    found = flexicodec.calibrate(whole, corpus, 6.25, policy=policy)
    assert found.policy.startswith(policy)
    assert abs(found.mean - 6.25) * found.seconds <= 3
    clips = [flexicodec.read_audio(path, sample_rate=16000) for path in find(corpus)]
    tokens = [whole.encode(clip, policy=found.policy, num_codebooks=0) for clip in clips]
    seconds = sum(clip.shape[1] for clip in clips) / 16000
    assert found.mean == pytest.approx(sum(int(each.token_lengths) for each in tokens) / seconds)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("uniform", "'uniform' meets a frame rate in every clip; it has no threshold and no price"),
        ("centroid:threshold=0.5", "has a threshold already"),
        ("centriod", "did you mean 'centroid'"),
    ],
)
def test_policies_without_anything_to_find(whole, corpus, policy, message):
    with pytest.raises(ValueError, match=message):
        flexicodec.calibrate(whole, corpus, 6.25, policy=policy)
