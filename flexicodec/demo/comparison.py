"""What the page shows of a clip: tokens, decoded audio and measures at a choice of rate, codebooks and policy.

The encoders run once per clip, in `Comparer.open`; every further choice costs merging, quantizers and the decoder.
"""

import importlib.util
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor

from flexicodec.audio import OpenedAudio, read_audio, resample
from flexicodec.corpus.alignments.alignment import Segment
from flexicodec.corpus.alignments.phone_aligner import SAMPLE_RATE as ALIGNED_RATE
from flexicodec.corpus.alignments.phone_aligner import NotAligned
from flexicodec.merging.recognition_cost import DIM as MOONSHINE_DIM
from flexicodec.merging.registry import KINDS, needed_setting
from flexicodec.models.codec import Codec
from flexicodec.tokens import Tokens

if TYPE_CHECKING:
    from flexicodec.evaluation.metrics.asr import Transcriber

LOWEST_RATE = 2.5  # tokens per second that the page offers, where the model's longest token allows them
RATE_STEP = 0.25
SHARES = (1.0, 2 / 3, 0.5, 0.32)  # of the grid's rate: 12.5, 8.33, 6.25 and 4 Hz
SILENCE_DBFS = -60.0  # peak of a clip that is not worth encoding
PLAYED_DBFS = -26.0  # RMS at which everything is played
HEADROOM = 0.7  # highest peak of the original at that level, so that decoded peaks have room


@dataclass(frozen=True)
class Setting:
    """What is asked of the codec; None leaves the model its own choice."""

    frame_rate: float
    num_codebooks: int | None = None
    policy: str | None = None


@dataclass(eq=False)
class Clip:
    """A recording and its features; texts and segments are found later, by `Comparer.describe`."""

    name: str
    audio: Float[Tensor, "1 samples"]  # at the codec's rate
    features: Any
    transcript: str | None = None
    tiers: dict[str, tuple[Segment, ...]] | None = None  # words and phones; None: not looked for yet
    note: str = ""  # why there are none


@dataclass(eq=False)
class Coded:
    """What the codec made of a clip, or what a token file holds."""

    tokens: Tokens
    audio: Float[Tensor, "1 samples"]  # at the codec's output rate
    stoi: float | None = None  # None: not measured, or not defined for this clip
    transcript: str | None = None

    @property
    def numbers(self) -> dict[str, str]:
        """Return what a reader compares, by its name."""
        tokens = self.tokens
        shown = {
            "tokens": str(int(tokens.token_lengths[0])),
            "realised rate": f"{float(tokens.frame_rates[0]):.2f} Hz",
            "bitrate": f"{float(tokens.bitrates_kbps[0]):.3f} kbit/s",
            "codebooks": f"{int(tokens.semantic is not None)} + {tokens.num_codebooks}",
        }
        if self.stoi is not None:
            shown["STOI"] = f"{self.stoi:.3f}"
        return shown


class Comparer:
    """A codec with the instruments that this installation has, and the limits of a page.

    Args:
        codec: Of a dynamic rate.
        max_seconds: Of a clip.

    Raises:
        ValueError: A codec with one rate only, or a limit that is no length.
    """

    def __init__(self, codec: Codec, max_seconds: float = 60.0) -> None:
        merging = getattr(getattr(codec, "config", None), "merging", None)
        if merging is None:
            raise ValueError(
                f"a {type(codec).__name__} with one rate only has nothing to choose from; the page needs a FlexiCodec "
                "with merging, such as flexicodec-mini"
            )
        if not 0 < max_seconds < math.inf:
            raise ValueError(f"max_seconds is {max_seconds:g}; expected seconds above 0")
        self.codec = codec
        self.max_seconds = max_seconds
        self.own_policy: str = merging.policy

    # ----------------------------------------------------------------------------------------------- what can be asked

    @property
    def rates(self) -> tuple[float, float]:
        """Lowest and highest frame rate to ask for, Hz, the lowest a multiple of `RATE_STEP`."""
        highest = self.codec.base_frame_rate
        longest = self.codec.format.max_duration
        lowest = LOWEST_RATE if longest is None else max(LOWEST_RATE, highest / longest)
        return min(math.ceil(lowest / RATE_STEP) * RATE_STEP, highest), highest

    @property
    def policies(self) -> list[str]:
        """Names of policies that meet a frame rate, the model's own first."""
        names = [self.own_policy]
        names += [name for name in KINDS if name != self.own_policy and needed_setting(name) == "frame_rate"]
        if self.codec.semantic_encoder.dim != MOONSHINE_DIM and "recognition" in names:
            names.remove("recognition")
        return names

    @property
    def four_rates(self) -> list[float]:
        """Four frame rates to show side by side, Hz."""
        lowest, highest = self.rates
        return [max(round(share * highest, 2), lowest) for share in SHARES]

    # -------------------------------------------------------------------------------------------------- clips and codes

    def open(self, path: str | Path) -> Clip:
        """Read a recording and run the encoders.

        Raises:
            ValueError: No audio, silence, or a recording that is too long; the message names the file without its
                folder.
        """
        path = Path(path)
        try:
            self._check_length(path)
            audio = read_audio(path, self.codec.sample_rate, channels="mix")
        except (ValueError, OSError) as error:
            raise ValueError(str(error).replace(str(path), path.name)) from error
        peak = float(audio.abs().max())
        if peak <= 10 ** (SILENCE_DBFS / 20):
            shown = f"{20 * math.log10(peak):.0f} dBFS" if peak > 0 else "digital silence"
            raise ValueError(f"{path.name} is silent ({shown} at its peak); is the microphone muted?")
        try:
            return Clip(path.name, audio, self.codec.features(audio))
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error

    def _check_length(self, path: Path) -> None:
        """Refuse a long recording by its header, before its samples take memory."""
        try:
            with OpenedAudio(path) as opened:
                seconds = opened.frames / opened.rate
        except ValueError:
            return  # `read_audio` says what is wrong, with the file's name
        self._check_seconds(path.name, seconds)

    def _check_seconds(self, name: str, seconds: float) -> None:
        if seconds > self.max_seconds:
            raise ValueError(
                f"{name} lasts {seconds / 60:.1f} min ({seconds:.1f} s), and this page takes {self.max_seconds:g} s; "
                "cut it, or start the page with a higher --max-seconds"
            )

    def encode(self, clip: Clip, setting: Setting) -> Coded:
        """Make tokens of a clip's features, decode them, and measure.

        Raises:
            ValueError: A rate, policy or number of codebooks that the codec does not have.
        """
        tokens = self.codec.tokenize(
            clip.features,
            frame_rate=setting.frame_rate,
            policy=None if setting.policy == self.own_policy else setting.policy,
            num_codebooks=setting.num_codebooks,
        )
        audio = self.codec.decode(tokens).cpu()
        return Coded(tokens.to("cpu"), audio, self._stoi(clip.audio, audio))

    def open_tokens(self, path: str | Path) -> Coded:
        """Read and decode a `.flxc` file of this model.

        Raises:
            ValueError: Not such a file, of another model, or too long.
        """
        path = Path(path)
        try:
            tokens = Tokens.load(path)
            self._check_seconds(path.name, float(tokens.seconds[0]))
            return Coded(tokens, self.codec.decode(tokens).cpu())
        except (ValueError, OSError) as error:
            reason = str(error).replace(str(path), path.name)
            raise ValueError(reason if path.name in reason else f"{path.name}: {reason}") from error

    # ------------------------------------------------------------------------------------------------------ instruments

    def _stoi(self, original: Float[Tensor, "1 samples"], decoded: Float[Tensor, "1 samples"]) -> float | None:
        """Measure STOI, where pystoi is installed and the clip has enough speech."""
        if importlib.util.find_spec("pystoi") is None:
            return None
        from flexicodec.evaluation.metrics.signal import signal_metrics

        decoded = resample(decoded, self.codec.output_sample_rate, self.codec.sample_rate)
        samples = min(original.shape[1], decoded.shape[1])  # released weights leave the last frames out
        pair = [audio[0, :samples].numpy() for audio in (original, decoded)]
        value = signal_metrics(pair[0], pair[1], self.codec.sample_rate, ("stoi",))["stoi"]
        return None if math.isnan(value) else value

    @cached_property
    def transcriber(self) -> "Transcriber":
        """Moonshine with the extra `instruments`, else the small recogniser that ships."""
        from flexicodec.encoders.moonshine_weights import ENCODER
        from flexicodec.evaluation.metrics import asr

        return asr.open_transcriber(asr.MOONSHINE if ENCODER.is_installed() else asr.SHIPPED)

    def transcribe(self, audio: Float[Tensor, "1 samples"], sample_rate: int) -> str:
        """Return what a recogniser of English understands."""
        wave = resample(audio, sample_rate, self.transcriber.sample_rate)
        return self.transcriber.transcribe([wave[0].numpy()])[0]

    @cached_property
    def _aligners(self) -> list[Any]:
        """Find words and phones of a text, else phones without a text; those that are installed."""
        from flexicodec.corpus.alignments.phone_aligner import PhoneAligner
        from flexicodec.corpus.alignments.phone_recogniser import PhoneRecogniser

        found: list[Any] = []
        for aligner in (PhoneAligner, PhoneRecogniser):
            try:
                found.append(aligner())
            except ImportError:
                continue
        return found

    def describe(self, clip: Clip) -> None:
        """Find out once what is said in a clip, and when: its transcript, words and phones."""
        if clip.tiers is not None:
            return
        clip.transcript = self.transcribe(clip.audio, self.codec.sample_rate)
        clip.tiers = {}
        wave = resample(clip.audio, self.codec.sample_rate, ALIGNED_RATE)[0].numpy()
        reasons = []
        for aligner in self._aligners:
            try:
                alignment = aligner.align(wave, clip.transcript)
            except NotAligned as error:
                reasons.append(str(error))
                continue
            if alignment.words:
                clip.tiers["words"] = alignment.words
            clip.tiers["phones"] = alignment.phones
            return
        clip.note = f"No words and phones: {'; '.join(reasons) or 'the extra instruments is not installed'}."


def played(
    audio: Float[Tensor, "1 samples"], original: Float[Tensor, "1 samples"] | None = None
) -> Int16[np.ndarray, " samples"]:
    """Return audio as 16-bit samples at one loudness for all (RMS), a little lower where its peaks would be cut.

    16 bits, because gradio scales float arrays to full scale.

    Args:
        audio: What is played.
        original: The clip it is compared with, which decides the level; None: itself.
    """
    reference = audio if original is None else original
    level = _rms(reference)
    peak = max(float(reference.abs().max()), 1e-9)
    target = min(10 ** (PLAYED_DBFS / 20), HEADROOM * level / peak)
    samples = audio[0] * (target / _rms(audio))
    samples = samples / max(1.0, float(samples.abs().max()))
    return (samples * 32767).round().to(torch.int16).numpy()


def _rms(audio: Float[Tensor, "1 samples"]) -> float:
    return max(float(audio.double().square().mean().sqrt()), 1e-9)
