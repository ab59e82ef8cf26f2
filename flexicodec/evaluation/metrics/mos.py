"""Opinion scores of decoded speech, predicted without a reference: Distill-MOS, DNSMOS and UTMOS.

Scores lie on the scale from 1 (bad) to 5 (excellent), NaN for clips that are too short. Models run on the CPU, a clip
at a time; all but Distill-MOS are ONNX files. The predictors were made for human and synthesised speech; on codecs they
rank systems better than they score single clips. Scores also depend on a clip's length, and those of DNSMOS on its
level, so compare clips with their references and not means over other clips.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from flexicodec.evaluation.metrics import distillmos
from flexicodec.evaluation.metrics.loading import (
    TorchModel,
    Waveform,
    check_clips,
    fetch,
    loading_errors,
    parse_spec,
)
from flexicodec.installed_files import PinnedFile
from flexicodec.io_utils import needed_for
from flexicodec.nn.mel_filters import slaney_mel_filters

UTMOS_FILE = "utmos22_strong.onnx"
DNSMOS_FILE = "sig_bak_ovr.onnx"
SPEECHMOS = "speechmos==0.0.1.1"  # on PyPI (MIT)
P835 = PinnedFile(
    SPEECHMOS,
    f"speechmos/dnsmos_models/{DNSMOS_FILE}",
    "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
)
P808 = PinnedFile(
    SPEECHMOS,
    "speechmos/dnsmos_models/model_v8.onnx",
    "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
)
UTMOS_MIN_SAMPLES = 400  # the first frame of UTMOS' wav2vec 2.0


def open_mos(spec: str) -> "MOSPredictor | DistillMOSPredictor":
    """Open a predictor.

    Args:
        spec: "distillmos", Distill-MOS (B. Stahl and H. Gamper, 2025), which ships.
            "dnsmos" and "dnsmos-p808", DNSMOS P.835 and P.808 of the package speechmos (the extra `instruments`).
            "utmos:SOURCE", UTMOS22's strong learner (T. Saeki et al., 2022) as an ONNX file from samples [1, S] to
            one score: the file, or a folder or hub id with `utmos22_strong.onnx` (TigreGotico/utmos-onnx, MIT).
            "dnsmos:SOURCE", DNSMOS P.835 (C. Reddy et al., 2022): Microsoft's `sig_bak_ovr.onnx`, or a folder or hub id
            with it.
    """
    if spec == "distillmos":
        return DistillMOSPredictor(spec)
    if spec == "dnsmos":
        return DNSMOS(spec, str(P835.find()))
    if spec == "dnsmos-p808":
        return DNSMOSP808(spec, str(P808.find()))
    names = ("distillmos", "dnsmos", "dnsmos-p808")
    kind, source = parse_spec(spec, ("utmos", "dnsmos"), "predictor of opinion scores", names)
    return UTMOS(spec, source) if kind == "utmos" else DNSMOS(spec, source)


class DistillMOSPredictor(TorchModel):
    """Distill-MOS with the weights that ship."""

    metrics = ("distillmos",)
    sample_rate = distillmos.SAMPLE_RATE

    def __init__(self, name: str):
        self.name = name
        self.module: distillmos.DistillMOS = distillmos.DistillMOS.load()

    def predict(self, clips: Sequence[np.ndarray]) -> dict[str, Float[np.ndarray, " clips"]]:
        """Score each clip by `distillmos`; NaN for clips shorter than 1 s, and for silence."""
        scores = [self.module.score(torch.from_numpy(wave)) for wave in check_clips(clips)]
        return {"distillmos": np.array(scores, dtype=np.float64)}


class MOSPredictor:
    """A predictor of opinion scores in an ONNX file with one input, by default samples [batch, time]."""

    input_axes = 2
    metrics: tuple[str, ...]  # names of its scores
    sample_rate = 16_000  # Hz of the clips it takes

    def __init__(self, name: str, what: str, source: str, file: str):
        with needed_for("the prediction of opinion scores", "onnxruntime", "flexicodec-lab[eval]"):
            import onnxruntime
        path = fetch(what, source, [file])
        if path.is_dir():
            path = path / file
        with loading_errors(what, source):
            data = path.read_bytes()
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1  # an evaluation runs a process for each core
            self.session: Any = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            inputs = self.session.get_inputs()
            if len(inputs) != 1 or len(inputs[0].shape) != self.input_axes:
                shapes = ", ".join(f"{each.name} {each.shape}" for each in inputs)
                raise ValueError(f"{path.name} takes {shapes}, not what {what} takes; is it another model?")
        self.name = name
        self.fingerprint = hashlib.sha256(data).hexdigest()[:12]

    def run(self, values: np.ndarray) -> np.ndarray:
        """Run the network on one clip, or on its features."""
        inputs = {self.session.get_inputs()[0].name: values[None].astype(np.float32)}
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
    skips the windows from 7 to 23 s of clips longer than 16 s, and leaves out up to two seconds at the end; here all of
    a clip counts.
    """

    metrics: tuple[str, ...] = ("dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak")
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
        is_short = len(wave) < self.window
        while len(wave) < self.window:
            wave = np.concatenate([wave, wave])
        # Whole seconds less 9.01, as the original counts.
        count = max(0, len(wave) // self.hop - 10) + 1
        starts = [index * self.hop for index in range(count)]
        if starts[-1] + self.window < len(wave) and not is_short:
            starts.append(len(wave) - self.window)
        return [wave[start : start + self.window] for start in starts]


class DNSMOSP808(DNSMOS):
    """DNSMOS P.808 (C. Reddy et al., 2021): one score, of log mel energies of the same windows."""

    input_axes = 3
    metrics = ("dnsmos_p808",)
    fft = 321
    mel_hop = 160

    def predict(self, clips: Sequence[np.ndarray]) -> dict[str, Float[np.ndarray, " clips"]]:
        """Score each clip by the mean over its windows."""
        scores = []
        for wave in check_clips(clips):
            outputs = [self.run(self.energies(window[: -self.mel_hop])) for window in self.windows(wave)]
            scores.append(np.mean(outputs))
        return {"dnsmos_p808": np.array(scores, dtype=np.float64)}

    def energies(self, wave: Waveform) -> Float[np.ndarray, "frames 120"]:
        """Compute mel energies in units of 40 dB, from -1 to 1 for the 80 dB below the loudest."""
        audio = torch.from_numpy(np.ascontiguousarray(wave))
        hann = torch.hann_window(self.fft)
        spectrum = torch.stft(audio, self.fft, self.mel_hop, window=hann, pad_mode="constant", return_complex=True)
        power = torch.from_numpy(slaney_mel_filters(self.sample_rate, self.fft, 120)) @ spectrum.abs().square()
        decibels = 10 * torch.log10(power.clamp(min=1e-10))
        decibels = (decibels - decibels.max()).clamp(min=-80)
        return ((decibels + 40) / 40).T.numpy()
