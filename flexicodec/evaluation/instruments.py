"""The instruments of an evaluation, opened once and held against clip after clip.

The rules: everything is mono at 16 kHz (resampled by soxr); what a codec gives is cut or filled up with silence to the
length of the reference; loudness is not changed, and nothing is clipped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from flexicodec.audio import resample
from flexicodec.evaluation import intelligibility, mos, signal, speaker
from flexicodec.evaluation.systems import Clip
from flexicodec.evaluation.transcribers import Transcriber, open_transcriber

Opened = TypeVar("Opened")

SAMPLE_RATE = 16_000
RULES = "mono, 16 kHz (soxr HQ); cut or filled up with silence to the reference's length; loudness as it comes"
OWN_RECOGNIZER = "ctc:recognizer-mini"  # needs no download


@dataclass(frozen=True)
class Measures:
    """What is measured.

    Attributes:
        metrics: Of the signal, names of `signal.METRICS`.
        transcribers: Recognisers for word and character error rates, see `open_transcriber`.
        normaliser: What is done to texts before they are compared, see `intelligibility`.
        language: ISO 639 code that the recognisers know; clips said to be in another are not transcribed. None
            transcribes all that have a text.
        speaker_encoders: For the similarity of voices, see `open_speaker_encoder`.
        mos: Predictors of opinion scores, see `open_mos`.
    """

    metrics: tuple[str, ...] = signal.METRICS
    transcribers: tuple[str, ...] = (OWN_RECOGNIZER,)
    normaliser: str = "basic"
    language: str | None = "en"
    speaker_encoders: tuple[str, ...] = ()
    mos: tuple[str, ...] = ()


@dataclass(frozen=True)
class References:
    """Recordings that reconstructions are held against, and what is known of them before any codec.

    Attributes:
        audio: Of each clip, at `SAMPLE_RATE`.
        texts: What is said, None where it is not known or not to be transcribed.
        voices: Embeddings by speaker encoder.
    """

    audio: list[Clip]
    texts: list[str | None]
    voices: dict[str, np.ndarray]


class Instruments:
    """Everything that `Measures` names, ready.

    Raises:
        ValueError: A metric or normaliser that there is not, or weights that cannot be had; names all of them at once.
        ImportError: A library is missing; the extra `eval` brings them.
    """

    def __init__(self, measures: Measures, device: str | None = None):
        if unknown := [name for name in measures.metrics if name not in signal.METRICS]:
            raise ValueError(f"there is no metric {unknown[0]!r}; expected some of {', '.join(signal.METRICS)}")
        self.measures = measures
        lost: list[_Lost] = []
        _open(
            lambda name: intelligibility.word_errors("", "", name), (measures.normaliser,), "--normaliser basic", lost
        )
        self.transcribers: dict[str, Transcriber] = _open(
            lambda spec: open_transcriber(spec, device), measures.transcribers, "--transcriber none", lost
        )
        self.encoders = _open(
            lambda spec: speaker.open_speaker_encoder(spec, device),
            *(measures.speaker_encoders, "--speaker-encoder none", lost),
        )
        self.predictors = _open(mos.open_mos, measures.mos, "--mos none", lost)
        _refuse(lost)

    @property
    def names(self) -> list[str]:
        """The metrics by name, as `metrics` has them."""
        transcribed = [f"{kind}.{spec}" for spec in self.transcribers for kind in ("wer", "cer")]
        predicted = [f"{name}.{spec}" for spec, predictor in self.predictors.items() for name in predictor.metrics]
        return [*self.measures.metrics, *transcribed, *(f"similarity.{spec}" for spec in self.encoders), *predicted]

    @property
    def identity(self) -> dict[str, str]:
        """What names the weights of every model, whose files might change under the same name."""
        models: dict[str, Any] = {**self.transcribers, **self.encoders, **self.predictors}
        return {spec: model.fingerprint for spec, model in models.items()}

    def prepare(self, audio: Sequence[Clip], texts: Sequence[str | None]) -> References:
        """Do once what every system's reconstructions are compared with."""
        voices = {name: encoder.embed(_at(audio, encoder.sample_rate)) for name, encoder in self.encoders.items()}
        return References(list(audio), list(texts), voices)

    def measure(self, references: References, estimates: Sequence[Clip]) -> list[dict[str, Any]]:
        """Measure reconstructions, which have the length and rate of their references.

        Returns:
            For each clip the metrics by name (NaN where one is not defined), and under `transcripts` by recogniser the
            text it heard with counts of errors.
        """
        found: list[dict[str, Any]] = [
            signal.evaluate(reference, estimate, SAMPLE_RATE, self.measures.metrics)
            for reference, estimate in zip(references.audio, estimates, strict=True)
        ]
        for name, encoder in self.encoders.items():
            voices = encoder.embed(_at(estimates, encoder.sample_rate))
            for row, value in zip(found, speaker.similarity(references.voices[name], voices), strict=True):
                row[f"similarity.{name}"] = float(value)
        for name, predictor in self.predictors.items():
            for metric, values in predictor.predict(_at(estimates, predictor.sample_rate)).items():
                for row, value in zip(found, values, strict=True):
                    row[f"{metric}.{name}"] = float(value)
        self._transcribe(references, estimates, found)
        return found

    def _transcribe(self, references: References, estimates: Sequence[Clip], found: list[dict[str, Any]]) -> None:
        spoken = [index for index, text in enumerate(references.texts) if text is not None]
        for name, transcriber in self.transcribers.items():
            clips = _at([estimates[index] for index in spoken], transcriber.sample_rate)
            heard = transcriber.transcribe(clips) if spoken else []
            for index, hypothesis in zip(spoken, heard, strict=True):
                text, normaliser = references.texts[index] or "", self.measures.normaliser
                words = intelligibility.word_errors(text, hypothesis, normaliser)
                characters = intelligibility.character_errors(text, hypothesis, normaliser)
                found[index].setdefault("transcripts", {})[name] = {
                    "text": hypothesis,
                    "word_errors": words.errors,
                    "words": words.length,
                    "character_errors": characters.errors,
                    "characters": characters.length,
                }


_Lost = tuple[str, str, Exception]  # what cannot be had, the option that does without, and why


def _open(how: Callable[[str], Opened], specs: Sequence[str], without: str, lost: list[_Lost]) -> dict[str, Opened]:
    """Open instruments of a kind; what cannot be had is noted."""
    found: dict[str, Opened] = {}
    for spec in specs:
        try:
            found[spec] = how(spec)
        except (ValueError, OSError, ImportError) as error:
            lost.append((spec, without, error))
    return found


def _refuse(lost: Sequence[_Lost]) -> None:
    """Say all at once what cannot be had, and what leaves each out."""
    if not lost:
        return
    if len(lost) == 1 and isinstance(lost[0][2], ImportError):
        raise lost[0][2]
    told = "; ".join(f"[{number}] {without}: {error}" for number, (_, without, error) in enumerate(lost, start=1))
    options = " ".join(dict.fromkeys(without for _, without, _ in lost))
    names = ", ".join(spec for spec, _, _ in lost)
    raise ValueError(f"cannot be had: {names}; to do without: {options}; why: {told}")


def _at(clips: Sequence[Clip], sample_rate: int) -> list[Clip]:
    """Bring clips to the rate that a model takes."""
    return [resample(torch.from_numpy(clip), SAMPLE_RATE, sample_rate).numpy() for clip in clips]


def fit(audio: Clip, sample_rate: int, samples: int) -> Clip:
    """Bring a codec's output to the rate and length of its reference.

    Raises:
        ValueError: It holds NaN or Inf.
    """
    if not np.isfinite(audio).all():
        raise ValueError("the codec gave NaN or Inf")
    wave = resample(torch.from_numpy(np.ascontiguousarray(audio, np.float32)), sample_rate, SAMPLE_RATE).numpy()
    return np.pad(wave[:samples], (0, max(0, samples - len(wave))))
