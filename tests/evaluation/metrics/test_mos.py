"""Predicted opinion scores: ONNX files with the interface of the real ones, and Microsoft's if installed."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch

from flexicodec.evaluation.metrics import distillmos
from flexicodec.evaluation.metrics.mos import DNSMOS, P835, open_mos
from flexicodec.evaluation.summary import METRICS
from tests.evaluation.stand_ins import assert_fingerprint_of_weights

DATA = Path(__file__).parent / "data"
installed = pytest.mark.skipif(not P835.is_installed(), reason="needs the extra instruments")


@pytest.fixture(scope="module")
def clips(speech):
    return [clip[0].numpy() for clip in speech]


def test_utmos_scores_clips_one_by_one(clips):
    """The stand-in returns 1 + 4 times the mean magnitude of the samples: padding would lower it."""
    predictor = open_mos(f"utmos:{DATA}")
    found = predictor.predict([clips[0][:9000], clips[1], clips[1][:399]])
    assert tuple(found) == predictor.metrics == ("utmos",)
    expected = [1 + 4 * np.abs(clip).mean() for clip in (clips[0][:9000], clips[1])]
    assert found["utmos"][:2] == pytest.approx(expected, abs=1e-5)
    assert np.isnan(found["utmos"][2])
    assert predictor.predict([])["utmos"].shape == (0,)


def test_a_file_is_as_good_as_its_folder(clips):
    folder, file = (open_mos(f"utmos:{source}") for source in (DATA, DATA / "utmos22_strong.onnx"))
    assert folder.fingerprint == file.fingerprint
    assert len(file.fingerprint) == 12
    assert folder.predict(clips)["utmos"].tolist() == file.predict(clips)["utmos"].tolist()


def test_dnsmos_repeats_short_clips_and_averages_windows():
    """The stand-in's three numbers are the mean size, the peak and the mean of the samples."""
    predictor = open_mos(f"dnsmos:{DATA}")
    steps = np.repeat(np.linspace(0.1, 0.5, 13), 16_000).astype(np.float32)[: int(12.5 * 16_000)]
    found = predictor.predict([np.full(100, 0.25, np.float32), steps])
    assert set(found) == set(predictor.metrics) < set(METRICS)
    for name, column in (("dnsmos_sig", 0), ("dnsmos_bak", 1), ("dnsmos_ovrl", 2)):
        curve = np.poly1d(DNSMOS.curves[name])
        assert found[name][0] == pytest.approx(curve(0.25), abs=1e-5)
        windows = [steps[start : start + 144_160] for start in (0, 16_000, 32_000, len(steps) - 144_160)]
        raw = [(window.mean(), window.max(), window.mean())[column] for window in windows]
        assert found[name][1] == pytest.approx(np.mean([curve(value) for value in raw]), abs=1e-4)


@pytest.mark.parametrize(
    ("seconds", "windows"), [(0.1, 3), (3.04, 3), (9.01, 1), (9.5, 2), (10.9, 2), (11.0, 3), (16.5, 8), (30.0, 22)]
)
def test_windows_reach_the_end(seconds, windows):
    """Clips are doubled until they fill 9.01 s; longer ones are covered from the first sample to the last."""
    samples = round(seconds * 16_000)
    clip = np.arange(samples, dtype=np.float32)
    cut = open_mos(f"dnsmos:{DATA}").windows(clip)
    assert {len(window) for window in cut} == {144_160}
    assert len(cut) == windows
    assert set(np.unique(np.concatenate(cut))) == set(clip)


@installed
def test_scores_are_microsofts(clips, speech_folder):
    held = json.loads((DATA / "scores.json").read_text())["opinions"]
    found = open_mos("dnsmos").predict(clips)
    for index, path in enumerate(sorted(speech_folder.glob("*.flac"))):
        assert {name: scores[index] for name, scores in found.items()} == pytest.approx(held[path.stem], abs=1e-3)


def test_dnsmos_says_where_its_weights_come_from(monkeypatch):
    def not_found(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", not_found)
    with pytest.raises(ImportError, match=r"speechmos is not installed: pip install flexicodec-lab\[instruments\]"):
        open_mos("dnsmos")


@installed
def test_p808_is_microsofts(clips):
    """Recorded with speechmos 0.0.1.1 and librosa 0.11."""
    assert open_mos("dnsmos-p808").predict(clips)["dnsmos_p808"] == pytest.approx([3.4196, 3.4469], abs=1e-3)


@installed
def test_dnsmos_tells_good_from_bad(clips):
    predictor = open_mos("dnsmos")
    clean = predictor.predict(clips)["dnsmos_ovrl"]
    noise = 0.02 * np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    noisy = predictor.predict([clip + np.resize(noise, len(clip)) for clip in clips])
    assert (noisy["dnsmos_ovrl"] < clean - 0.5).all()


# ---------------------------------------------------------------------------------------------------- Distill-MOS


@pytest.fixture(scope="module")
def distill():
    return open_mos("distillmos")


def test_distill_mos_is_microsofts(distill, clips):
    """Recorded with distillmos 0.9.1, which fills these clips of 3 s with zeros."""
    windows = torch.stack([torch.nn.functional.pad(torch.from_numpy(c), (0, 122_880 - len(c))) for c in clips])
    with torch.no_grad():
        assert distill.module(windows).tolist() == pytest.approx([3.3324, 3.3776], abs=2e-3)


def test_distill_mos_tells_good_from_bad(distill, clips):
    clip = clips[0]
    noise = 0.02 * np.random.default_rng(0).standard_normal(len(clip)).astype(np.float32)
    spectrum = np.fft.rfft(clip)
    spectrum[len(spectrum) // 8 :] = 0
    low_passed = np.fft.irfft(spectrum, len(clip)).astype(np.float32)
    clean, noisy, muffled, quiet = distill.predict([clip, clip + noise, low_passed, clip / 10])["distillmos"]
    assert noisy < clean - 0.8
    assert muffled < clean - 0.8
    assert quiet == pytest.approx(clean, abs=0.02)


def test_distill_mos_has_a_name_a_fingerprint_and_limits(distill, clips):
    assert distill.metrics == ("distillmos",)
    assert set(distill.metrics) < set(METRICS)
    assert_fingerprint_of_weights(distill)
    found = distill.predict([np.zeros(32_000, np.float32), clips[0][:15_999]])["distillmos"]
    assert np.isnan(found).all()
    assert distill.predict([])["distillmos"].shape == (0,)


def test_windows_of_distill_mos_are_those_of_the_original():
    """Evenly spread from the first sample to the last, a second apart at most."""
    clip = torch.arange(122_880.0 + 40_000)
    starts = [int(window[0]) for window in distillmos.cut_windows(clip)]
    assert starts == [0, 13_333, 26_666, 40_000]
    assert [len(window) for window in distillmos.cut_windows(clip[:122_880])] == [122_880]


def test_short_clips_are_repeated_without_a_jump():
    clip = torch.sin(torch.arange(20_000) * 0.05)
    filled = distillmos.repeated(clip, 122_880)
    assert len(filled) == 122_880
    assert torch.equal(filled[:19_000], clip[:19_000])
    assert float(filled.diff().abs().max()) < 0.07
    assert float(filled.abs().max()) <= 1.0


def test_what_is_no_predictor_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match="'nisqa:x' is no predictor of opinion scores; expected utmos:SOURCE.*or distillmos, dnsmos"
    ):
        open_mos("nisqa:x")
    with pytest.raises(ValueError, match=r"cannot open .* as UTMOS22 \(ONNX\)"):
        open_mos(f"utmos:{tmp_path}")
    with pytest.raises(ValueError, match="cannot open 'nobody/nothing' as UTMOS22"):
        open_mos("utmos:nobody/nothing")
    (tmp_path / "utmos22_strong.onnx").write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"cannot open .* as UTMOS22 \(ONNX\)"):
        open_mos(f"utmos:{tmp_path}")
    with pytest.raises(ValueError, match="clip 0 is int16"):
        open_mos(f"utmos:{DATA}").predict([np.zeros(800, np.int16)])
