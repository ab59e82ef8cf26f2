"""Make scores.json: scores of two recordings and their degraded versions by the reference libraries.

Uses pystoi, pesq, pysptk, pyworld, librosa, soxr, jiwer, torchmetrics and speechmos (with Microsoft's weights) as they
are, and nothing of flexicodec; `made_by` in the file has their versions:

    python tests/evaluation/metrics/data/make_scores.py
"""

import importlib.metadata
import json
import sys
import types
from pathlib import Path

import librosa
import numpy as np
import soundfile
import soxr
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[3]))
from tests.evaluation.treatments import degraded  # noqa: E402

SPEECH = HERE.parents[2] / "data" / "speech"
RATE = 16_000

if "pkg_resources" not in sys.modules:  # which pyworld and pysptk want and setuptools no longer has
    stub = types.ModuleType("pkg_resources")
    stub.get_distribution = importlib.metadata.distribution
    stub.resource_filename = lambda *parts: ""
    sys.modules["pkg_resources"] = stub

import pesq  # noqa: E402
import pysptk  # noqa: E402
import pystoi  # noqa: E402
import pyworld  # noqa: E402


def mel_cepstra(audio):
    """Analyse by WORLD, and warp by SPTK."""
    pitch, times = pyworld.dio(audio, RATE, frame_period=5.0)
    pitch = pyworld.stonemask(audio, pitch, times, RATE)
    envelope = pyworld.cheaptrick(audio, pitch, times, RATE)
    return pitch, np.stack([pysptk.sp2mc(frame, 24, 0.42) for frame in envelope])[:, 1:14]


def world_scores(reference, estimate):
    """Measure cepstra and pitch."""
    (pitch, cepstra), (pitch_found, cepstra_found) = mel_cepstra(reference), mel_cepstra(estimate)
    scale = 10 / np.log(10) * np.sqrt(2)
    total, path = librosa.sequence.dtw(cepstra.T, cepstra_found.T)
    both = (pitch > 0) & (pitch_found > 0)
    return {
        "mcd_db": scale * np.sqrt(((cepstra - cepstra_found) ** 2).sum(1)).mean(),
        "mcd_dtw_db": scale * total[-1, -1] / len(path),
        "f0_cents": np.sqrt(np.mean((1200 * np.log2(pitch_found[both] / pitch[both])) ** 2)),
        "vuv_error": np.mean((pitch > 0) != (pitch_found > 0)),
    }


def log_mel(audio):
    """Take log10 mel magnitudes."""
    mel = librosa.feature.melspectrogram(
        y=audio, sr=RATE, n_fft=1024, hop_length=256, window="hann", pad_mode="constant", power=1.0, n_mels=80
    )
    return np.log10(np.maximum(mel, 1e-5))


def scores(reference, estimate):
    """Measure by every metric."""
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

    ratio = scale_invariant_signal_distortion_ratio(torch.tensor(estimate), torch.tensor(reference), zero_mean=True)
    narrow = [soxr.resample(np.append(x, [0, 0]), RATE, 8000)[: -(-len(x) // 2)] for x in (reference, estimate)]
    return {
        "stoi": pystoi.stoi(reference, estimate, RATE),
        "estoi": pystoi.stoi(reference, estimate, RATE, extended=True),
        "pesq_wb": pesq.pesq(RATE, reference.astype(np.float32), estimate.astype(np.float32), "wb"),
        "pesq_nb": pesq.pesq(8000, *(x.astype(np.float32) for x in narrow), "nb"),
        "si_sdr_db": np.clip(float(ratio), -100, 100),
        "mel_distance": np.abs(log_mel(reference) - log_mel(estimate)).mean(),
        **world_scores(reference, estimate),
    }


TEXTS = [
    ["so it is and so it was", "so is it and so it was"],
    ["the ground floor cells were nine feet by six", "the ground floor sells were mine feet six"],
    ["eight the press yard", "eight the press yard"],
    ["one", "one two three"],
    ["never mind", ""],
    ["", "who said that"],
    ["", ""],
]


def error_rates():
    """Count errors of a corpus of texts, some of them empty, by two libraries."""
    import jiwer
    from torchmetrics.functional.text import char_error_rate, word_error_rate

    said, recognised = (list(side) for side in zip(*TEXTS, strict=True))
    found = {"wer": float(word_error_rate(recognised, said)), "cer": float(char_error_rate(recognised, said))}
    assert np.allclose([jiwer.wer(said, recognised), jiwer.cer(said, recognised)], list(found.values()))
    counts = [jiwer.process_words(*pair) for pair in TEXTS]
    kinds = [[each.insertions, each.deletions, each.substitutions] for each in counts]
    return {"pairs": TEXTS, "words": kinds, **{name: round(value, 6) for name, value in found.items()}}


def opinions(audio):
    """Predict opinion scores by Microsoft's script and weights."""
    from speechmos import dnsmos

    found = dnsmos.run(np.clip(audio, -1, 1), RATE)
    return {f"dnsmos_{name}": found[f"{name}_mos"] for name in ("ovrl", "sig", "bak")}


def main():
    """Write scores.json beside this file."""
    libraries = ("pystoi", "pesq", "pysptk", "pyworld", "librosa", "soxr", "jiwer", "torchmetrics", "speechmos")
    held = {"made_by": {name: importlib.metadata.version(name) for name in libraries}, "signal": {}, "opinions": {}}
    for path in sorted(SPEECH.glob("*.flac")):
        audio, rate = soundfile.read(path)
        assert rate == RATE
        for name, copy in degraded(audio).items():
            found = scores(audio, copy)
            held["signal"][f"{path.stem} {name}"] = {key: round(float(value), 6) for key, value in found.items()}
        held["opinions"][path.stem] = {key: round(float(value), 5) for key, value in opinions(audio).items()}
    held["texts"] = error_rates()
    (HERE / "scores.json").write_text(json.dumps(held, indent=2) + "\n")


if __name__ == "__main__":
    main()
