"""Opinion scores that listeners would perhaps have given, predicted from decoded speech alone.

Conventions: clips are float arrays [S] at 16 kHz, full scale at 1; scores lie on the scale of 1 (bad) to 5 (excellent),
NaN for clips too short to be heard. Models are ONNX files, run by onnxruntime on the CPU, a clip at a time. Predictors
were made for speech of humans and of synthesisers; on codecs they rank systems better than they score clips.
"""

import hashlib
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from flexicodec.evaluation.sources import check_clips, fetch, opening, split_spec

Samples = Float[np.ndarray, " samples"]

HIGHER_IS_BETTER = dict.fromkeys(("utmos", "dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak"), True)
UTMOS_FILE, DNSMOS_FILE = "utmos22_strong.onnx", "sig_bak_ovr.onnx"
SPEECHMOS_FOLDER = "dnsmos_models"  # of the package speechmos on PyPI (MIT)
LEAST_SAMPLES = 400  # the first frame of UTMOS' wav2vec 2.0


class MOSPredictor(Protocol):
    """Whatever predicts opinion scores.

    Attributes:
        name: The spec it was opened by; belongs beside every score.
        fingerprint: First 12 digits of the SHA-256 of its weights.
        sample_rate: Hz of the clips it takes.
        metrics: Names of its scores.
    """

    name: str
    fingerprint: str
    sample_rate: int
    metrics: tuple[str, ...]

    def predict(self, clips: Sequence[np.ndarray]) -> dict[str, Float[np.ndarray, " clips"]]:
        """Score each clip by each metric.

        Raises:
            ValueError: See `flexicodec.evaluation.sources.check_clips`.
        """
        ...


def open_mos(spec: str) -> MOSPredictor:
    """Open a predictor.

    Args:
        spec: "utmos:SOURCE", UTMOS22's strong learner (T. Saeki et al., 2022) as an ONNX file that takes `[1, S]` and
            gives one score: the file, or a folder or hub id with `utmos22_strong.onnx` (TigreGotico/utmos-onnx, MIT).
            "dnsmos:SOURCE", DNSMOS P.835 (C. Reddy et al., 2022): Microsoft's `sig_bak_ovr.onnx`, or a folder or hub id
            with it; "dnsmos" alone takes the copy in the package speechmos, if that is installed (MIT).

    Raises:
        ValueError: No such kind, or a file that cannot be had or is another model; says where was looked.
        ImportError: onnxruntime is not installed.
    """
    if spec == "dnsmos":
        spec = f"dnsmos:{_speechmos_folder()}"
    kind, source = split_spec(spec, ("utmos", "dnsmos"), "predictor of opinion scores")
    return UTMOS(spec, source) if kind == "utmos" else DNSMOS(spec, source)


class _ONNXModel:
    """An ONNX file with one input."""

    def __init__(self, name: str, what: str, source: str, file: str, input_axes: int):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("predicted opinion scores need onnxruntime: pip install flexicodec-lab[eval]") from error
        path = fetch(what, source, [file])
        path = path / file if path.is_dir() else path
        with opening(what, source):
            data = path.read_bytes()
            self.session: Any = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
            inputs = self.session.get_inputs()
            if len(inputs) != 1 or len(inputs[0].shape) != input_axes:
                shapes = ", ".join(f"{each.name} {each.shape}" for each in inputs)
                raise ValueError(f"{path.name} takes {shapes}; expected samples [batch, time]; is it another model?")
        self.name = name
        self.fingerprint = hashlib.sha256(data).hexdigest()[:12]
        self.sample_rate = 16_000

    def run(self, samples: Float[np.ndarray, "batch samples"]) -> np.ndarray:
        """Run the model on samples."""
        return self.session.run(None, {self.session.get_inputs()[0].name: samples.astype(np.float32)})[0]


class UTMOS(_ONNXModel):
    """UTMOS22's strong learner; padding would change its scores, so clips are heard as they are, one by one."""

    metrics: tuple[str, ...] = ("utmos",)

    def __init__(self, name: str, source: str):
        super().__init__(name, "UTMOS22 (ONNX)", source, UTMOS_FILE, input_axes=2)

    def predict(self, clips: Sequence[np.ndarray]) -> dict[str, Float[np.ndarray, " clips"]]:
        """See `MOSPredictor`."""
        waves = check_clips(clips)
        scores = [float(self.run(wave[None]).item()) if len(wave) >= LEAST_SAMPLES else math.nan for wave in waves]
        return {"utmos": np.array(scores)}


class DNSMOS(_ONNXModel):
    """DNSMOS P.835: overall, signal and background, averaged over windows of 9.01 s every second.

    Shorter clips are repeated until they fill a window, as in Microsoft's own script. That script rounds in a way that
    skips the windows from 7 to 23 s of clips beyond 16 s; here they count.
    """

    metrics: tuple[str, ...] = ("dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak")
    window, hop = 144_160, 16_000  # samples
    # From what the model says to the scale of P.835, highest power first (microsoft/DNS-Challenge).
    curves = {
        "dnsmos_sig": (-0.08397278, 1.22083953, 0.0052439),
        "dnsmos_bak": (-0.13166888, 1.60915514, -0.39604546),
        "dnsmos_ovrl": (-0.06766283, 1.11546468, 0.04602535),
    }

    def __init__(self, name: str, source: str):
        super().__init__(name, "DNSMOS P.835 (ONNX)", source, DNSMOS_FILE, input_axes=2)

    def predict(self, clips: Sequence[np.ndarray]) -> dict[str, Float[np.ndarray, " clips"]]:
        """See `MOSPredictor`."""
        raw = [np.concatenate([self.run(each[None]) for each in self.windows(wave)]) for wave in check_clips(clips)]
        columns = dict(zip(self.curves, range(3), strict=True))
        return {
            name: np.array([np.polyval(self.curves[name], scores[:, columns[name]]).mean() for scores in raw])
            for name in self.metrics
        }

    def windows(self, wave: Samples) -> list[Samples]:
        """Cut a clip into what the model hears at a time."""
        while len(wave) < self.window:
            wave = np.concatenate([wave, wave])
        # Whole seconds less 9.01: so the original counts, and the last second or two may go unheard.
        count = max(0, len(wave) // self.hop - 10) + 1
        return [wave[start : start + self.window] for start in range(0, count * self.hop, self.hop)]


def _speechmos_folder() -> Path:
    found = importlib.util.find_spec("speechmos")
    for folder in (found.submodule_search_locations or []) if found else []:
        if (Path(folder) / SPEECHMOS_FOLDER / DNSMOS_FILE).is_file():
            return Path(folder) / SPEECHMOS_FOLDER
    raise ValueError(
        f"dnsmos needs {DNSMOS_FILE}: install the package speechmos, which holds it, or pass dnsmos:SOURCE with the "
        "file, or a folder or hub id that holds it"
    )
