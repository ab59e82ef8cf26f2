"""Opinion scores of decoded speech, predicted without a reference: UTMOS and DNSMOS.

Scores lie on the scale from 1 (bad) to 5 (excellent), NaN for clips that are too short. Models are ONNX files, run by
onnxruntime on the CPU, a clip at a time. The predictors were made for human and synthesised speech; on codecs they rank
systems better than they score single clips.
"""

import hashlib
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flexicodec.evaluation.metrics.loading import Waveform, check_clips, fetch, loading_errors, parse_spec

UTMOS_FILE = "utmos22_strong.onnx"
DNSMOS_FILE = "sig_bak_ovr.onnx"
SPEECHMOS_FOLDER = "dnsmos_models"  # of the package speechmos on PyPI (MIT)
UTMOS_MIN_SAMPLES = 400  # the first frame of UTMOS' wav2vec 2.0


def open_mos(spec: str) -> "MOSPredictor":
    """Open a predictor.

    Args:
        spec: "utmos:SOURCE", UTMOS22's strong learner (T. Saeki et al., 2022) as an ONNX file from samples [1, S] to
            one score: the file, or a folder or hub id with `utmos22_strong.onnx` (TigreGotico/utmos-onnx, MIT).
            "dnsmos:SOURCE", DNSMOS P.835 (C. Reddy et al., 2022): Microsoft's `sig_bak_ovr.onnx`, or a folder or hub id
            with it; "dnsmos" alone takes the copy in the package speechmos, if that is installed (MIT).
    """
    if spec == "dnsmos":
        spec = f"dnsmos:{_speechmos_folder()}"
    kind, source = parse_spec(spec, ("utmos", "dnsmos"), "predictor of opinion scores")
    return UTMOS(spec, source) if kind == "utmos" else DNSMOS(spec, source)


class MOSPredictor:
    """A predictor of opinion scores in an ONNX file with one input, samples [batch, time]."""

    metrics: tuple[str, ...]  # names of its scores
    sample_rate = 16_000  # Hz of the clips it takes

    def __init__(self, name: str, what: str, source: str, file: str):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("predicted opinion scores need onnxruntime: pip install flexicodec-lab[eval]") from error
        path = fetch(what, source, [file])
        if path.is_dir():
            path = path / file
        with loading_errors(what, source):
            data = path.read_bytes()
            self.session: Any = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
            inputs = self.session.get_inputs()
            if len(inputs) != 1 or len(inputs[0].shape) != 2:
                shapes = ", ".join(f"{each.name} {each.shape}" for each in inputs)
                raise ValueError(f"{path.name} takes {shapes}; expected samples [batch, time]; is it another model?")
        self.name = name
        self.fingerprint = hashlib.sha256(data).hexdigest()[:12]

    def run(self, wave: Waveform) -> np.ndarray:
        """Run the network on one clip."""
        inputs = {self.session.get_inputs()[0].name: wave[None].astype(np.float32)}
        return self.session.run(None, inputs)[0]

    def predict(self, clips: Sequence[np.ndarray]) -> dict[str, Float[np.ndarray, " clips"]]:
        """Score each clip (checked by `check_clips`) by each of `metrics`."""
        raise NotImplementedError


class UTMOS(MOSPredictor):
    """UTMOS22's strong learner. Padding would change its scores, so each clip is scored alone."""

    metrics = ("utmos",)

    def __init__(self, name: str, source: str):
        super().__init__(name, "UTMOS22 (ONNX)", source, UTMOS_FILE)

    def predict(self, clips: Sequence[np.ndarray]) -> dict[str, Float[np.ndarray, " clips"]]:
        """Score each clip by `utmos`."""
        waves = check_clips(clips)
        scores = np.full(len(waves), math.nan)
        for index, wave in enumerate(waves):
            if len(wave) >= UTMOS_MIN_SAMPLES:
                scores[index] = float(self.run(wave).item())
        return {"utmos": scores}


class DNSMOS(MOSPredictor):
    """DNSMOS P.835: overall, signal and background, averaged over windows of 9.01 s every second.

    Shorter clips are repeated until they fill a window, as in Microsoft's script. That script rounds in a way that
    skips the windows from 7 to 23 s of clips longer than 16 s; here they count.
    """

    metrics = ("dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak")
    window = 144_160  # samples
    hop = 16_000
    # Polynomials from the network's outputs, in this order, to the P.835 scale (microsoft/DNS-Challenge).
    curves = {
        "dnsmos_sig": (-0.08397278, 1.22083953, 0.0052439),
        "dnsmos_bak": (-0.13166888, 1.60915514, -0.39604546),
        "dnsmos_ovrl": (-0.06766283, 1.11546468, 0.04602535),
    }

    def __init__(self, name: str, source: str):
        super().__init__(name, "DNSMOS P.835 (ONNX)", source, DNSMOS_FILE)

    def predict(self, clips: Sequence[np.ndarray]) -> dict[str, Float[np.ndarray, " clips"]]:
        """Score each clip by the mean over its windows."""
        waves = check_clips(clips)
        scores = {name: np.empty(len(waves)) for name in self.metrics}
        for index, wave in enumerate(waves):
            outputs = np.concatenate([self.run(window) for window in self.windows(wave)])
            for column, (name, curve) in enumerate(self.curves.items()):
                scores[name][index] = np.polyval(curve, outputs[:, column]).mean()
        return scores

    def windows(self, wave: Waveform) -> list[Waveform]:
        """Split a clip into the windows that are scored."""
        while len(wave) < self.window:
            wave = np.concatenate([wave, wave])
        # Whole seconds less 9.01, as the original counts: the last second or two may be left out.
        count = max(0, len(wave) // self.hop - 10) + 1
        return [wave[start : start + self.window] for start in range(0, count * self.hop, self.hop)]


def _speechmos_folder() -> Path:
    package = importlib.util.find_spec("speechmos")
    locations = package.submodule_search_locations if package else None
    for location in locations or []:
        folder = Path(location) / SPEECHMOS_FOLDER
        if (folder / DNSMOS_FILE).is_file():
            return folder
    raise ValueError(
        f"dnsmos needs {DNSMOS_FILE}: install the package speechmos, or pass dnsmos:SOURCE with the file, or a folder "
        "or hub id that contains it"
    )
