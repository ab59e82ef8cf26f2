"""From a manifest and a codec to clips with tokens at several settings and their phones.

The encoders run once for each clip. Their features wait in a temporary folder until all clips have been heard, since a
threshold for the corpus needs the similarities of all of them; then every setting makes its tokens. A clip that cannot
be read, or whose phones cannot be had, is counted with its reason and never dropped in silence.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from flexicodec.analysis.clips import SOURCES, Clip, Gathered, Setting, Source
from flexicodec.analysis.losses import PolicyAt, clip_losses, join_losses, loss_policies
from flexicodec.analysis.segments import Alignment, Segment, read_alignment
from flexicodec.analysis.spoken import MISALIGNED, fits
from flexicodec.asr import Recognizer
from flexicodec.calibration import fit_threshold
from flexicodec.corpus import Utterance, check_ids, read_utterance
from flexicodec.corpus.audio_reading import UNREADABLE
from flexicodec.merging import Threshold, check_frame_rate
from flexicodec.models.flexicodec.model import Features
from flexicodec.parallel import check_processes, share

Transcribe = Callable[[Float[np.ndarray, " samples"]], str]

CURVE_RATES = (2.0, 3.0, 4.0, 5.0, 6.25, 8.33, 10.0, 12.0)  # Hz, at which what merging loses is measured
UNITS = {"character": "letters", "sentencepiece": "pieces", "phone": "phones"}
SHIPPED_RECOGNISER = "recognizer-mini"


def gather(
    codec: Any,
    utterances: Sequence[Utterance],
    *,
    frame_rates: Sequence[float] = (),
    thresholds: Sequence[float] = (),
    per_clip: bool = False,
    num_codebooks: int | None = None,
    source: Source | None = None,
    recognizer: Recognizer | None = None,
    transcribe: Transcribe | None = None,
    limit: int | None = None,
    processes: int = 1,
    progress: bool = False,
) -> Gathered:
    """Encode clips at every setting and find their phones.

    Args:
        codec: A codec with a dynamic frame rate.
        utterances: Of a manifest.
        frame_rates: Tokens per second of the whole corpus; tau is fitted to these very clips.
        thresholds: Values of tau to use as they are.
        per_clip: Also meet each frame rate exactly in every clip.
        num_codebooks: Acoustic codebooks; None for all.
        source: Where phones come from; None takes the first of `SOURCES` that any utterance has.
        recognizer: Lays texts along the sound where that is the source; None takes the one that ships.
        transcribe: Writes down what it hears in audio at the codec's rate; None leaves transcripts out.
        limit: Use so many utterances at most, spread evenly over the manifest.
        processes: Side by side, each with its own models and one thread; what comes out does not depend on it.
        progress: Show bars.

    Raises:
        ValueError: No settings, a codec with a fixed rate, a rate or source that there is not, two clips of one id, or
            no clip to be read.
    """
    settings, cap = _check(codec, frame_rates, thresholds, source), codec.max_duration
    chosen = spread(utterances, limit)
    check_ids(chosen)
    source = source or choose_source(chosen)
    if source == "recogniser":
        recognizer = recognizer or Recognizer.load(SHIPPED_RECOGNISER)
    check_processes(processes)
    with tempfile.TemporaryDirectory(prefix="flexicodec-analysis-") as folder:
        heard, unread = _listen(codec, chosen, Path(folder), processes, progress)
        if not heard:
            raise ValueError(
                f"none of {len(chosen)} clips can be read; the first: {unread[0][1] if unread else 'none'}"
            )
        settings = [_fit(each, heard, cap, codec.base_frame_rate) for each in settings]
        if per_clip:  # at the grid's own rate this is the same as tau 1
            below = [float(rate) for rate in dict.fromkeys(frame_rates) if rate < codec.base_frame_rate]
            settings += [Setting(f"{rate:g} Hz, every clip", None, rate) for rate in below]
        rates = tuple(r for r in CURVE_RATES if codec.base_frame_rate / (cap or math.inf) <= r < codec.base_frame_rate)
        policies = loss_policies(partial(_threshold, heard, cap), rates)
        work = _Tokenizing(codec, tuple(settings), num_codebooks, source, recognizer, transcribe, policies, rates, cap)
        found = _in_order(heard, work, processes, "tokens", progress)
    clips, missing = [clip for clip, _, _ in found], [(clip.id, reason) for clip, reason, _ in found if reason]
    losses = [lost for _, _, lost in found]
    return Gathered(
        clips=tuple(clips),
        settings=tuple(settings),
        source=source,
        unit=UNITS[recognizer.config.vocabulary.kind] if source == "recogniser" and recognizer else "phones",
        format=codec.format,
        levels=getattr(codec.semantic_quantizer.config, "levels", None),
        distortion=join_losses(tuple(policies), rates, losses, [clip.seconds for clip in clips]),
        listed=len(chosen),
        unread=tuple(unread),
        without_phones=tuple(missing),
    )


def _check(
    codec: Any, frame_rates: Sequence[float], thresholds: Sequence[float], source: Source | None
) -> list[Setting]:
    """Refuse what cannot be done before the work; returns the settings that are the same for all clips."""
    if codec.format.max_duration == 1:
        raise ValueError(f"this model has a fixed rate of {codec.base_frame_rate:g} Hz; there is nothing to compare")
    if source is not None and source not in SOURCES:
        raise ValueError(f"source is {source!r}; expected one of {', '.join(SOURCES)}")
    if not frame_rates and not thresholds:
        raise ValueError("neither frame rates nor thresholds; expected one setting or more")
    for rate in frame_rates:
        if isinstance(check_frame_rate(rate, codec.base_frame_rate, codec.max_duration), tuple):
            raise ValueError(f"frame rate is {rate!r}; expected one number each, that of the corpus")
    for threshold in thresholds:
        Threshold(threshold)
    fitted = [Setting(f"{rate:g} Hz", None, float(rate)) for rate in dict.fromkeys(frame_rates)]
    return fitted + [Setting(f"tau {each:g}", float(each)) for each in dict.fromkeys(thresholds)]


def spread(utterances: Sequence[Utterance], limit: int | None) -> list[Utterance]:
    """Take `limit` utterances at most, at even distances.

    Raises:
        ValueError: A limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected 1 clip or more")
    if limit is None or limit >= len(utterances):
        return list(utterances)
    return [utterances[i * len(utterances) // limit] for i in range(limit)]


def choose_source(utterances: Iterable[Utterance]) -> Source:
    """Take alignments if there are any, else counts, else the recogniser if there is a text."""
    utterances = list(utterances)
    if any(u.alignment is not None for u in utterances):
        return "alignment"
    if any(u.num_phones is not None for u in utterances) or not any(u.text for u in utterances):
        return "counts"
    return "recogniser"


# ---------------------------------------------------------------------------------------------------------- listening


@dataclass(frozen=True, eq=False)
class _Heard:
    """A clip whose features wait in a file."""

    utterance: Utterance
    audio: Float[np.ndarray, " samples"]
    similarities: Float[torch.Tensor, " pairs"]
    frames: int
    seconds: float
    path: Path  # of the features' tensors,
    plain: Mapping[str, Any]  # and what else they hold

    def load(self, device: torch.device) -> Features:
        return Features(**torch.load(self.path, map_location=device, weights_only=True), **self.plain)

    def clip(self, tokens: Mapping[str, Any], found: dict[str, Any], transcript: str | None) -> Clip:
        utterance = self.utterance
        return Clip(
            id=utterance.id,
            speaker=utterance.speaker,
            corpus=utterance.corpus,
            seconds=self.seconds,
            audio=self.audio,
            similarities=self.similarities.numpy(),
            tokens=tokens,
            transcript=transcript,
            sentence=utterance.sentence,
            **found,
        )


@dataclass(frozen=True, eq=False)
class _Listening:
    """Runs the encoders over a clip and leaves its features in a file; gives the reason where it cannot be read."""

    codec: Any
    folder: Path

    def __call__(self, job: tuple[int, Utterance]) -> _Heard | str:
        index, utterance = job
        try:
            audio = read_utterance(utterance, self.codec.sample_rate)
            features = self.codec.features(audio)
        except UNREADABLE as error:
            return f"audio cannot be read: {error}"
        path = self.folder / f"{index}.pt"
        tensors = {name: value.cpu() for name, value in vars(features).items() if isinstance(value, torch.Tensor)}
        plain = {name: value for name, value in vars(features).items() if name not in tensors}
        torch.save(tensors, path)
        similarities, frames = features.similarities[0].cpu(), int(features.lengths[0])
        return _Heard(utterance, audio, similarities, frames, len(audio) / self.codec.sample_rate, path, plain)


@dataclass(frozen=True, eq=False)
class _Tokenizing:
    """Makes a clip's tokens at every setting, finds its phones, and measures what merging loses."""

    codec: Any
    settings: tuple[Setting, ...]
    num_codebooks: int | None
    source: Source
    recognizer: Recognizer | None
    transcribe: Transcribe | None
    policies: Mapping[str, PolicyAt]
    rates: tuple[float, ...]
    cap: int | None

    def __call__(self, item: _Heard) -> tuple[Clip, str | None, Any]:
        codec, features = self.codec, item.load(self.codec.device)
        tokens = {s.name: tokenize(codec, features, s, self.num_codebooks) for s in self.settings}
        found, reason = find_phones(item.utterance, item.audio, codec.sample_rate, self.source, self.recognizer)
        said = None if self.transcribe is None else self.transcribe(item.audio)
        lost = clip_losses(features, self.policies, self.rates, self.cap, codec.sample_rate)
        return item.clip(tokens, found, said), reason, lost


def _same(worker: Any) -> Any:
    return worker


def _in_order(jobs: Sequence[Any], worker: Callable[[Any], Any], processes: int, what: str, progress: bool) -> list:
    """Do jobs and give their results in their order, whoever was first."""
    shared = share(jobs, worker, processes, partial(_same, worker))
    return [found for _, found in sorted(tqdm(shared, what, len(jobs), disable=not progress), key=lambda pair: pair[0])]


def _listen(
    codec: Any, utterances: Sequence[Utterance], folder: Path, processes: int, progress: bool
) -> tuple[list[_Heard], list[tuple[str, str]]]:
    """Run the encoders over every clip; returns the clips, and id and reason of those that could not be read."""
    found = _in_order(list(enumerate(utterances)), _Listening(codec, folder), processes, "features", progress)
    unread = [(u.id, each) for u, each in zip(utterances, found, strict=True) if isinstance(each, str)]
    return [each for each in found if isinstance(each, _Heard)], unread


def _fit(setting: Setting, heard: Sequence[_Heard], cap: int | None, base_frame_rate: float) -> Setting:
    """Find tau for a setting that asks for a corpus rate; the grid's own rate needs no search."""
    if setting.threshold is not None or setting.frame_rate is None:
        return setting
    if setting.frame_rate >= base_frame_rate:
        return replace(setting, threshold=1.0)
    return replace(setting, threshold=_threshold(heard, cap, setting.frame_rate))


def _threshold(heard: Sequence[_Heard], cap: int | None, frame_rate: float) -> float:
    similarities, frames = [each.similarities for each in heard], [each.frames for each in heard]
    return fit_threshold(similarities, frames, [each.seconds for each in heard], frame_rate, cap).threshold


def tokenize(codec: Any, features: Features, setting: Setting, num_codebooks: int | None) -> Any:
    """Make the tokens of a setting, on the CPU."""
    choice = {"frame_rate": setting.frame_rate} if setting.is_exact else {"threshold": setting.threshold}
    return codec.tokenize(features, num_codebooks=num_codebooks, **choice).to("cpu")


# ------------------------------------------------------------------------------------------------------------- phones


def find_phones(
    utterance: Utterance,
    audio: Float[np.ndarray, " samples"],
    sample_rate: int,
    source: Source,
    recognizer: Recognizer | None = None,
) -> tuple[dict[str, Any], str | None]:
    """Find the phones of a clip.

    Returns:
        What `Clip` takes, and None; or nothing and the reason why there are none.
    """
    if source == "counts":
        return ({}, "no phone count") if utterance.num_phones is None else ({"num_phones": utterance.num_phones}, None)
    if source == "alignment":
        try:
            return {"alignment": clip_alignment(utterance, len(audio) / sample_rate)}, None
        except (ValueError, OSError, LookupError) as error:
            return {}, str(error) if isinstance(error, LookupError) else f"alignment cannot be used: {error}"
    assert recognizer is not None
    if not utterance.text:
        return {}, "no text"
    (symbols,) = recognizer.align(audio, None, [utterance.text], sample_rate=sample_rate)
    if symbols is None:
        return {}, "the recogniser cannot spell the text, or the clip is too short for it"
    spoken = [Segment(s.start_seconds, s.end_seconds, s.symbol) for s in symbols if any(c.isalnum() for c in s.symbol)]
    return {"symbols": tuple(spoken)}, None


def clip_alignment(utterance: Utterance, seconds: float) -> Alignment:
    """Read the alignment of a clip; where the clip is a stretch of a file, and the alignment the file's, that stretch.

    Raises:
        LookupError: The utterance names no alignment.
        OSError: The file is missing.
        ValueError: It cannot be read, holds no phones, has some after the clip's end, or ends long before it (a CTM,
            which has no lines for silence, may).
    """
    if utterance.alignment is None:
        raise LookupError("no alignment")
    sparse = utterance.alignment.suffix.lower() == ".ctm"  # holds many clips, and no silence
    alignment = read_alignment(utterance.alignment, utterance=utterance.id if sparse else None)
    if utterance.start > 0 and not fits(alignment, seconds):
        alignment = alignment.within(utterance.start, utterance.start + seconds)
    if not alignment.phones:
        raise ValueError(f"{utterance.alignment} holds no phones")
    if not fits(alignment, seconds) or not (sparse or alignment.end > seconds - MISALIGNED):
        raise ValueError(
            f"{utterance.alignment} lasts {alignment.end:.2f} s, but the clip {seconds:.2f} s; is it of another clip?"
        )
    return alignment
