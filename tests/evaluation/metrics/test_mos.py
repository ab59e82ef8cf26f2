"""Predicted opinion scores: ONNX files with the interface of the real ones, and Microsoft's if installed."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from flexicodec.evaluation.metrics.mos import DNSMOS, open_mos
from flexicodec.evaluation.summary import METRICS

DATA = Path(__file__).parent / "data"


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
        windows = [steps[start : start + 144_160] for start in (0, 16_000, 32_000)]
        raw = [(window.mean(), window.max(), window.mean())[column] for window in windows]
        assert found[name][1] == pytest.approx(np.mean([curve(value) for value in raw]), abs=1e-4)


@pytest.mark.parametrize(
    ("seconds", "windows"), [(0.1, 3), (3.04, 3), (9.01, 1), (9.5, 1), (10.9, 1), (11.0, 2), (30.0, 21)]
)
def test_windows_are_counted_as_in_the_original(seconds, windows):
    """Clips are doubled until they fill 9.01 s; then there is one for each whole second less 10, and one more."""
    cut = open_mos(f"dnsmos:{DATA}").windows(np.zeros(round(seconds * 16_000), np.float32))
    assert {len(window) for window in cut} == {144_160}
    assert len(cut) == windows


@pytest.mark.weights
@pytest.mark.skipif(importlib.util.find_spec("speechmos") is None, reason="needs the package speechmos")
def test_scores_are_microsofts(clips, speech_folder):
    held = json.loads((DATA / "scores.json").read_text())["opinions"]
    found = open_mos("dnsmos").predict(clips)
    for index, path in enumerate(sorted(speech_folder.glob("*.flac"))):
        assert {name: scores[index] for name, scores in found.items()} == pytest.approx(held[path.stem], abs=1e-3)


def test_dnsmos_says_where_its_weights_come_from(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="install the package speechmos"):
        open_mos("dnsmos")


def test_what_is_no_predictor_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="'nisqa:x' is no predictor of opinion scores; expected utmos:SOURCE"):
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
