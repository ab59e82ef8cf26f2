"""`MetricSuite`: all metrics of an evaluation, their models loaded once and applied to batches of clips.

Everything is mono at 16 kHz (resampled by soxr). The output of a codec is cut, or padded with zeros, to the length of
the reference; loudness is not changed, and nothing is clipped.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from flexicodec.asr.text import primary_language
from flexicodec.audio import resample
from flexicodec.encoders.moonshine_weights import ENCODER
from flexicodec.evaluation.metrics import asr, mos, signal, speaker
from flexicodec.evaluation.metrics.loading import Waveform

Model = TypeVar("Model")

SAMPLE_RATE = 16_000
# Kept in run.json, and compared when a run is continued: a new wording would refuse the rows of older runs.
RULES = "mono, 16 kHz (soxr HQ); cut or filled up with silence to the reference's length; loudness as it comes"
DEFAULT_TRANSCRIBER = "ctc:recognizer-mini"  # needs no download and no extra


@dataclass(frozen=True)
class MetricConfig:
    """Which metrics are computed, and by which models."""

    metrics: tuple[str, ...] = signal.METRICS  # of the signal
    transcribers: tuple[str, ...] = (DEFAULT_TRANSCRIBER,)  # for error rates, see `asr.open_transcriber`
    normaliser: str = "basic"  # of texts before they are compared, see `asr.open_normaliser`
    language: str | None = "en"  # ISO 639; clips in another language are not transcribed. None: all with a text are
    speaker_encoders: tuple[str, ...] = ()  # for speaker similarity, see `speaker.open_speaker_encoder`
    mos: tuple[str, ...] = ()  # predictors of opinion scores, see `mos.open_mos`


def default_measures() -> MetricConfig:
    """Choose the instruments that this installation has, as `flexicodec evaluate` does by default."""
    config = MetricConfig(speaker_encoders=(speaker.GE2E,), mos=("distillmos",))
    if mos.P835.is_installed():
        config = replace(config, mos=(*config.mos, "dnsmos"))
    if ENCODER.is_installed():
        config = replace(config, transcribers=(asr.MOONSHINE,), normaliser="english")
    return config


@dataclass(frozen=True)
class ReferenceData:
    """The original clips, with what is computed on them once for all systems."""

    audio: list[Waveform]  # at `SAMPLE_RATE`
    texts: list[str | None]  # None where it is unknown or not to be transcribed
    languages: list[str | None]  # of the texts, ISO 639; None where it is unknown
    embeddings: dict[str, np.ndarray]  # of speakers, by encoder


class MetricSuite:
    """All metrics that a `MetricConfig` names, with their models loaded.

    Raises:
        ValueError: An unknown metric or normaliser, or weights that could not be loaded; names all of them at once.
        ImportError: A library is missing; the extra `eval` has them.
    """

    def __init__(self, config: MetricConfig, device: str | None = None):
        signal.check_metric_names(config.metrics)
        self.config = config
        self.seconds: dict[str, float] = {}  # that each instrument took so far; the caller may clear it
        errors: dict[str, Exception] = {}
        options: dict[str, None] = {}

        def load(open_model: Callable[[str], Model], specs: Sequence[str], option: str) -> dict[str, Model]:
            models: dict[str, Model] = {}
            for spec in specs:
                try:
                    models[spec] = open_model(spec)
                except (ValueError, OSError, ImportError) as error:
                    errors[spec] = error
                    options[option] = None
            return models

        # Counting an empty text finds a missing jiwer as well as an unknown normaliser.
        load(partial(asr.word_errors, "", ""), (config.normaliser,), "--normaliser basic")
        open_transcriber = partial(asr.open_transcriber, device=device, language=config.language)
        open_encoder = partial(speaker.open_speaker_encoder, device=device)
        self.transcribers = load(open_transcriber, config.transcribers, "--transcriber none")
        self.encoders = load(open_encoder, config.speaker_encoders, "--speaker-encoder none")
        self.predictors = load(mos.open_mos, config.mos, "--mos none")
        for error in errors.values():
            if len(errors) == 1 and isinstance(error, ImportError):
                raise error
        if errors:
            reasons = "; ".join(f"{spec}: {error}" for spec, error in errors.items())
            raise ValueError(f"could not load {reasons}. To skip what is missing, pass {' '.join(options)}")

    @property
    def names(self) -> list[str]:
        """Names of all metrics, as in rows and summaries: KIND or KIND.SPEC."""
        names = list(self.config.metrics)
        for spec in self.transcribers:
            names += [f"wer.{spec}", f"cer.{spec}"]
        names += [f"similarity.{spec}" for spec in self.encoders]
        for spec, predictor in self.predictors.items():
            names += [f"{metric}.{spec}" for metric in predictor.metrics]
        return names

    @property
    def identity(self) -> dict[str, str]:
        """Fingerprint of every model's weights, since files may change under the same name."""
        models: dict[str, Any] = {**self.transcribers, **self.encoders, **self.predictors}
        return {spec: model.fingerprint for spec, model in models.items()}

    def prepare(
        self,
        audio: Sequence[Waveform],
        texts: Sequence[str | None],
        languages: Sequence[str | None] | None = None,
    ) -> ReferenceData:
        """Compute once what the reconstructions of every system are compared with.

        Args:
            audio: The recordings.
            texts: What is said; None leaves a clip out of the error rates.
            languages: ISO 639 codes of the texts, where they are known; None: those of the recognisers.
        """
        default = self.config.language
        known = [language or default for language in languages or [None] * len(texts)]
        embeddings = {}
        for name, encoder in self.encoders.items():
            with self._timed(name):
                embeddings[name] = encoder.embed(_resampled(audio, encoder.sample_rate))
        return ReferenceData(list(audio), list(texts), known, embeddings)

    def measure(self, references: ReferenceData, estimates: Sequence[Waveform]) -> list[dict[str, Any]]:
        """Measure reconstructions that have the length and sample rate of their references.

        Returns:
            For each clip the metrics by name (NaN where one is not defined), and under `transcripts` by recogniser the
            transcript with its error counts.
        """
        rows: list[dict[str, Any]] = []
        with self._timed("signal metrics"):
            for reference, estimate in zip(references.audio, estimates, strict=True):
                rows.append({**signal.signal_metrics(reference, estimate, SAMPLE_RATE, self.config.metrics)})
        # Models take clips at their own sample rate.
        for name, encoder in self.encoders.items():
            with self._timed(name):
                embeddings = encoder.embed(_resampled(estimates, encoder.sample_rate))
            _add(rows, f"similarity.{name}", speaker.similarity(references.embeddings[name], embeddings))
        for name, predictor in self.predictors.items():
            with self._timed(name):
                scores = predictor.predict(_resampled(estimates, predictor.sample_rate))
            for metric, values in scores.items():
                _add(rows, f"{metric}.{name}", values)
        for name, transcriber in self.transcribers.items():
            with self._timed(name):
                self._add_transcripts(rows, name, transcriber, references, estimates)
        return rows

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to that of an instrument."""
        before = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - before

    def _add_transcripts(
        self,
        rows: list[dict[str, Any]],
        name: str,
        transcriber: asr.Transcriber,
        references: ReferenceData,
        estimates: Sequence[Waveform],
    ) -> None:
        """Transcribe the clips that have a text in the recogniser's language, and count the errors."""
        indices = []
        for index, text in enumerate(references.texts):
            language = primary_language(references.languages[index])
            if text is not None and (transcriber.languages is None or language in (None, *transcriber.languages)):
                indices.append(index)
        if not indices:
            return
        clips = _resampled([estimates[index] for index in indices], transcriber.sample_rate)
        for index, hypothesis in zip(indices, transcriber.transcribe(clips), strict=True):
            compared = (references.texts[index] or "", hypothesis, self.config.normaliser, references.languages[index])
            words = asr.word_errors(*compared)
            characters = asr.character_errors(*compared)
            rows[index].setdefault("transcripts", {})[name] = {
                "text": hypothesis,
                "word_errors": words.errors,
                "words": words.length,
                "character_errors": characters.errors,
                "characters": characters.length,
            }


def fit_to_reference(audio: Waveform, sample_rate: int, samples: int) -> Waveform:
    """Resample a codec's output to `SAMPLE_RATE`, and cut or pad it to the samples of its reference."""
    if not np.isfinite(audio).all():
        raise ValueError("the codec's output contains NaN or Inf")
    contiguous = torch.from_numpy(np.ascontiguousarray(audio, np.float32))
    wave = resample(contiguous, sample_rate, SAMPLE_RATE).numpy()
    return np.pad(wave[:samples], (0, max(0, samples - len(wave))))


def _resampled(clips: Sequence[Waveform], sample_rate: int) -> list[Waveform]:
    """Resample clips to the rate of a model."""
    return [resample(torch.from_numpy(clip), SAMPLE_RATE, sample_rate).numpy() for clip in clips]


def _add(rows: list[dict[str, Any]], name: str, values: np.ndarray) -> None:
    for row, value in zip(rows, values, strict=True):
        row[name] = float(value)
