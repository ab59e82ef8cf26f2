"""Collect the data of an analysis: clips with their tokens at several rate settings, and their phones.

The encoders run once for each clip. Features are stored in a temporary folder until all clips are encoded, since a
threshold for a corpus rate depends on the similarities of all of them; then every setting makes its tokens. A clip
that cannot be read, or has no phones, is listed with the reason.
"""

import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from flexicodec.analysis.token_timeline import TokenTimeline, token_tiers
from flexicodec.asr import Recognizer
from flexicodec.calibration import fit_threshold
from flexicodec.corpus import Utterance, check_ids, read_utterance
from flexicodec.corpus.alignments.alignment import Alignment, Segment, read_alignment, write_textgrid
from flexicodec.corpus.alignments.formats import file_suffix, utterance_ids
from flexicodec.corpus.alignments.lines import TIMIT_RATE
from flexicodec.corpus.alignments.phones import without_silence
from flexicodec.corpus.audio_reading import UNREADABLE, read_duration
from flexicodec.merging import (
    ExactRate,
    MergingPolicy,
    MinimumVariance,
    Threshold,
    Uniform,
    check_frame_rate,
    make_policy,
    merge,
    unmerge,
)
from flexicodec.models.flexicodec.network import Features
from flexicodec.models.streaming.state import Windows
from flexicodec.parallel import bar_settings, check_processes, share
from flexicodec.statistics import speaker_clusters
from flexicodec.token_format import TokenFormat
from flexicodec.tokens import Tokens

PhoneSource = Literal["alignment", "counts", "recogniser"]
PHONE_SOURCES: tuple[PhoneSource, ...] = ("alignment", "counts", "recogniser")
"""Sources of phones: a time alignment; the manifest's canonical count; or the text aligned by a CTC recogniser, which
gives the symbols of its vocabulary."""

Transcribe = Callable[[Float[np.ndarray, " samples"]], str]

DISTORTION_RATES = (2.0, 3.0, 4.0, 5.0, 6.25, 8.33, 10.0, 12.0)  # Hz, at which the distortion of merging is measured
RECOGNISER_UNITS = {"character": "letters", "sentencepiece": "pieces", "phone": "phones"}
SHIPPED_RECOGNISER = "recognizer-mini"
MISALIGNED = 0.25  # seconds by which phones may outlast their clip, or an alignment end before it


@dataclass(frozen=True)
class RateSetting:
    """One way to choose the tokens of all clips: by a threshold, or by a frame rate that every clip meets exactly."""

    name: str
    threshold: float | None = None  # the same for all clips; None where each clip meets the frame rate by itself
    frame_rate: float | None = None  # Hz: of the corpus with a fitted threshold, else of every clip

    def __post_init__(self) -> None:
        if self.threshold is None and self.frame_rate is None:
            raise ValueError(f"setting {self.name!r} has neither a threshold nor a frame rate")

    @property
    def is_exact(self) -> bool:
        """Whether every clip meets the frame rate by itself, so that the rates of clips do not vary."""
        return self.threshold is None


@dataclass(frozen=True, eq=False)
class AnalysisClip:
    """One encoded clip. Which of the last fields are filled depends on the source of phones."""

    id: str
    speaker: str | None
    corpus: str | None
    seconds: float
    audio: Float[np.ndarray, " samples"]  # at the codec's rate
    similarities: Float[np.ndarray, " pairs"]
    tokens: Mapping[str, Tokens]  # by the name of their setting
    alignment: Alignment | None = None
    num_phones: int | None = None  # canonical phones by the manifest
    symbols: tuple[Segment, ...] | None = None  # letters, pieces or phones aligned by a recogniser
    transcript: str | None = None  # of a recogniser
    sentence: str | None = None  # name of the text, where several speakers read the same

    def timeline(self, setting: RateSetting) -> TokenTimeline:
        """Return the clip's tokens at a setting in time."""
        return TokenTimeline.of(self.tokens[setting.name], self.audio)

    @property
    def has_phones(self) -> bool:
        """Whether phones are known, from any source."""
        return not (self.alignment is None and self.num_phones is None and self.symbols is None)


@dataclass(frozen=True, eq=False)
class Distortion:
    """Distortion of merging before quantisation, which needs no decoding (NMSE, as in arXiv 2609.36951).

    It is the squared distance of frames from their token's mean over the squared norm of the frames.
    """

    policies: tuple[str, ...]
    frame_rates: tuple[float, ...]  # Hz, asked for
    lost: Float[np.ndarray, "policies rates clips"]  # squared distance, summed over each clip
    whole: Float[np.ndarray, " clips"]  # squared norm, likewise
    tokens: Float[np.ndarray, "policies rates clips"]
    seconds: Float[np.ndarray, " clips"]


@dataclass(frozen=True, eq=False)
class AnalysisData:
    """All clips of an analysis, and those that are missing."""

    clips: tuple[AnalysisClip, ...]
    settings: tuple[RateSetting, ...]
    source: PhoneSource
    unit: str  # "phones", or the recogniser's "letters" or "pieces"
    format: TokenFormat
    levels: tuple[int, ...] | None  # of the semantic FSQ's digits, least significant first; None for other quantisers
    distortion: Distortion
    listed: int  # clips of the manifest, after `limit`
    unread: tuple[tuple[str, str], ...] = ()  # id and reason
    without_phones: tuple[tuple[str, str], ...] = ()  # id and reason; these count in what needs tokens only

    @property
    def with_phones(self) -> tuple[AnalysisClip, ...]:
        """Clips whose phones are known."""
        return tuple(clip for clip in self.clips if clip.has_phones)

    @property
    def seconds(self) -> float:
        """Seconds of all clips."""
        return sum(clip.seconds for clip in self.clips)

    @property
    def speakers(self) -> int:
        """Number of known speakers."""
        return len({clip.speaker for clip in self.clips} - {None})

    def clusters(self, clips: tuple[AnalysisClip, ...] | None = None) -> list[str] | None:
        """Return the bootstrap cluster of each clip, its speaker; None where fewer than two speakers are known."""
        clips = self.clips if clips is None else clips
        return speaker_clusters([clip.speaker for clip in clips], [clip.id for clip in clips])

    @property
    def alignment_changes(self) -> dict[str, tuple[int, int]]:
        """Count what was cut or left out in reading alignments: by what it is, how often and in how many clips."""
        counts: dict[str, tuple[int, int]] = {}
        for clip in self.clips:
            for what, count in clip.alignment.changes.items() if clip.alignment else ():
                sums, clips = counts.get(what, (0, 0))
                counts[what] = (sums + count, clips + 1)
        return counts

    @property
    def reasons(self) -> dict[str, int]:
        """Count the reasons why clips are missing, by the part before the colon."""
        counts = Counter(reason.split(":")[0] for _, reason in (*self.unread, *self.without_phones))
        return dict(counts.most_common())


def collect(
    codec: Any,
    utterances: Sequence[Utterance],
    *,
    frame_rates: Sequence[float] = (),
    thresholds: Sequence[float] = (),
    per_clip: bool = False,
    policies: Sequence[str] = (),
    num_codebooks: int | None = None,
    source: PhoneSource | None = None,
    recognizer: Recognizer | None = None,
    transcribe: Transcribe | None = None,
    limit: int | None = None,
    processes: int = 1,
    progress: bool = False,
) -> AnalysisData:
    """Encode clips at every setting and find their phones.

    Args:
        codec: Codec with a dynamic frame rate.
        utterances: Clips of a manifest.
        frame_rates: Tokens per second of the whole corpus, each at one threshold that is fitted to these clips.
        thresholds: Thresholds to use as they are.
        per_clip: Also meet each frame rate exactly in every clip.
        policies: Further merging policies, by name, whose distortion is measured; each meets frame rates.
        num_codebooks: Acoustic codebooks; None for all.
        source: Source of phones; None takes the first of `PHONE_SOURCES` that any utterance has.
        recognizer: Aligns texts where that is the source; None loads the one that ships.
        transcribe: Transcribes audio at the codec's rate; None leaves transcripts out.
        limit: Most utterances to use, evenly spaced over the manifest.
        processes: Processes, each with its own models and one thread; results do not depend on their number.
        progress: Show progress bars.
    """
    settings = _requested_settings(codec, frame_rates, thresholds)
    for name in policies:
        make_policy(name, frame_rate=codec.base_frame_rate)  # refuses a wrong one before any clip is read
    if source is not None and source not in PHONE_SOURCES:
        raise ValueError(f"source is {source!r}; expected one of {', '.join(PHONE_SOURCES)}")
    chosen = evenly_spaced(utterances, limit)
    check_ids(chosen)
    check_processes(processes)
    source = source or choose_source(chosen)
    unit = "phones"
    if source == "recogniser":
        recognizer = recognizer or Recognizer.load(SHIPPED_RECOGNISER)
        unit = RECOGNISER_UNITS[recognizer.config.vocabulary.kind]

    with tempfile.TemporaryDirectory(prefix="flexicodec-analysis-") as folder:
        extract = partial(_extract_features, codec=codec, folder=Path(folder))
        extracted = _run(list(enumerate(chosen)), extract, processes, "features", progress)
        encoded = [each for each in extracted if isinstance(each, _EncodedClip)]
        unread = [(u.id, each) for u, each in zip(chosen, extracted, strict=True) if isinstance(each, str)]
        if not encoded:
            first = unread[0][1] if unread else "none"
            raise ValueError(f"none of {len(chosen)} clips can be read; the first: {first}")

        threshold_of = partial(_corpus_threshold, encoded, codec)
        settings = _fitted_settings(settings, threshold_of, codec.base_frame_rate, per_clip)
        rates, compared = _distortion_policies(threshold_of, codec, policies)
        tokenize = partial(
            _tokenize_clip,
            codec=codec,
            settings=settings,
            num_codebooks=num_codebooks,
            phones_of=partial(find_phones, sample_rate=codec.sample_rate, source=source, recognizer=recognizer),
            transcribe=transcribe,
            policies=compared,
        )
        results = _run(encoded, tokenize, processes, "tokens", progress)
    clips = tuple(clip for clip, _, _ in results)
    losses = np.stack([each for _, _, each in results], axis=-1)  # [policies, rates, 2, clips]
    whole = np.array([each.whole for each in encoded])
    seconds = np.array([clip.seconds for clip in clips])
    return AnalysisData(
        clips=clips,
        settings=tuple(settings),
        source=source,
        unit=unit,
        format=codec.format,
        levels=getattr(codec.semantic_quantizer.config, "levels", None),
        distortion=Distortion(tuple(compared), rates, losses[:, :, 0], whole, losses[:, :, 1], seconds),
        listed=len(chosen),
        unread=tuple(unread),
        without_phones=tuple((clip.id, reason) for clip, reason, _ in results if reason),
    )


def _requested_settings(codec: Any, frame_rates: Sequence[float], thresholds: Sequence[float]) -> list[RateSetting]:
    """Check rates and thresholds; return their settings, of which those by rate lack a threshold yet."""
    if codec.format.max_duration == 1:
        raise ValueError(f"this model has a fixed rate of {codec.base_frame_rate:g} Hz; there is nothing to compare")
    if not frame_rates and not thresholds:
        raise ValueError("neither frame rates nor thresholds; expected one setting or more")
    settings = []
    for rate in dict.fromkeys(frame_rates):
        if isinstance(check_frame_rate(rate, codec.base_frame_rate, codec.max_duration), tuple):
            raise ValueError(f"frame rate is {rate!r}; expected one number each, that of the corpus")
        settings.append(RateSetting(f"{rate:g} Hz", None, float(rate)))
    for threshold in dict.fromkeys(thresholds):
        Threshold(threshold)  # checks the range
        settings.append(RateSetting(f"tau {threshold:g}", float(threshold)))
    return settings


def evenly_spaced(utterances: Sequence[Utterance], limit: int | None) -> list[Utterance]:
    """Take at most `limit` utterances, at even distances."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected 1 clip or more")
    if limit is None or limit >= len(utterances):
        return list(utterances)
    return [utterances[i * len(utterances) // limit] for i in range(limit)]


def choose_source(utterances: Iterable[Utterance]) -> PhoneSource:
    """Choose alignments if there are any, else counts, else the recogniser if there is a text."""
    utterances = list(utterances)
    if any(u.alignment is not None for u in utterances):
        return "alignment"
    if any(u.num_phones is not None for u in utterances) or not any(u.text for u in utterances):
        return "counts"
    return "recogniser"


# ------------------------------------------------------------------------------------------------ features, tokens


@dataclass(frozen=True, eq=False)
class _EncodedClip:
    """A clip without tokens and phones yet, whose features are stored in a file."""

    utterance: Utterance
    clip: AnalysisClip
    whole: float  # squared norm of the semantic frames
    features: Path


def _extract_features(job: tuple[int, Utterance], codec: Any, folder: Path) -> _EncodedClip | str:
    """Run the encoders on a clip and store its features; returns the reason where it cannot be read."""
    index, utterance = job
    try:
        audio = read_utterance(utterance, codec.sample_rate)
        features = codec.features(audio)
    except UNREADABLE as error:
        return f"audio cannot be read: {error}"
    path = folder / f"{index}.pt"
    torch.save(features, path)
    clip = AnalysisClip(
        id=utterance.id,
        speaker=utterance.known_speaker,
        corpus=utterance.corpus,
        seconds=len(audio) / codec.sample_rate,
        audio=audio,
        similarities=features.similarities[0].cpu().numpy(),
        tokens={},
        sentence=utterance.sentence,
    )
    whole = float(features.semantic.double().square().sum())
    return _EncodedClip(utterance, clip, whole, path)


def _tokenize_clip(
    job: _EncodedClip,
    codec: Any,
    settings: Sequence[RateSetting],
    num_codebooks: int | None,
    phones_of: Callable[[Utterance, Float[np.ndarray, " samples"]], tuple[dict[str, Any], str | None]],
    transcribe: Transcribe | None,
    policies: Mapping[str, Sequence[MergingPolicy]],
) -> tuple[AnalysisClip, str | None, Float[np.ndarray, "policies rates 2"]]:
    """Tokenize a clip at every setting, find its phones, and measure the distortion of merging.

    Returns:
        The clip, the reason where it has no phones, and squared distance and tokens by policy and rate.
    """
    with torch.serialization.safe_globals([Features, Windows]):
        features = torch.load(job.features, map_location=codec.device, weights_only=True)
    tokens = {}
    for setting in settings:
        choice = {"frame_rate": setting.frame_rate} if setting.is_exact else {"threshold": setting.threshold}
        tokens[setting.name] = codec.tokenize(features, num_codebooks=num_codebooks, **choice).to("cpu")
    phones, reason = phones_of(job.utterance, job.clip.audio)
    transcript = None if transcribe is None else transcribe(job.clip.audio)
    losses = []
    for by_rate in policies.values():
        losses += [_merging_loss(features, policy, job.clip.seconds, codec.max_duration) for policy in by_rate]
    clip = replace(job.clip, tokens=tokens, transcript=transcript, **phones)
    return clip, reason, np.array(losses, dtype=float).reshape(len(policies), -1, 2)


def _run(jobs: Sequence[Any], worker: Callable[[Any], Any], processes: int, what: str, progress: bool) -> list[Any]:
    """Run jobs in several processes and return their results in order."""
    results: dict[int, Any] = {}
    shared = share(jobs, worker, processes, partial(_identity, worker))
    for index, result in tqdm(shared, what, len(jobs), **bar_settings(progress)):
        results[index] = result
    return [results[index] for index in range(len(jobs))]


def _identity(worker: Any) -> Any:
    return worker


def _corpus_threshold(encoded: Sequence[_EncodedClip], codec: Any, frame_rate: float) -> float:
    """Fit the threshold at which the clips together have a frame rate; at the grid's own rate nothing is merged."""
    if frame_rate >= codec.base_frame_rate:
        return 1.0
    similarities = [torch.as_tensor(each.clip.similarities) for each in encoded]
    frames = [len(each) + 1 for each in similarities]
    seconds = [each.clip.seconds for each in encoded]
    return fit_threshold(similarities, frames, seconds, frame_rate, codec.max_duration).threshold


def _fitted_settings(
    settings: Sequence[RateSetting], threshold_of: Callable[[float], float], base: float, per_clip: bool
) -> list[RateSetting]:
    """Fit the thresholds of settings by rate; `per_clip` adds settings by the same rates in every clip."""
    fitted = []
    exact = []
    for setting in settings:
        rate = setting.frame_rate
        if setting.threshold is not None or rate is None:
            fitted.append(setting)
            continue
        fitted.append(replace(setting, threshold=threshold_of(rate)))
        if per_clip and rate < base:  # at the grid's own rate nothing is merged, exactly or not
            exact.append(RateSetting(f"{rate:g} Hz, every clip", None, rate))
    return fitted + exact


def _distortion_policies(
    threshold_of: Callable[[float], float], codec: Any, names: Sequence[str]
) -> tuple[tuple[float, ...], dict[str, list[MergingPolicy]]]:
    """Return the frame rates at which distortion is measured, and the merging policies by name, one for each rate."""
    lowest = codec.base_frame_rate / (codec.max_duration or math.inf)
    rates = tuple(rate for rate in DISTORTION_RATES if lowest <= rate < codec.base_frame_rate)
    policies: dict[str, list[MergingPolicy]] = {
        "one tau for all clips": [Threshold(threshold_of(rate)) for rate in rates],
        "lowest similarities, every clip": [ExactRate(rate) for rate in rates],
        "least variance, every clip": [MinimumVariance(rate) for rate in rates],
        "uniform": [Uniform(rate) for rate in rates],
    }
    for name in names:
        policies[name] = [make_policy(name, frame_rate=rate) for rate in rates]
    return rates, policies


def _merging_loss(features: Features, policy: MergingPolicy, seconds: float, cap: int | None) -> tuple[float, int]:
    """Return the squared distance of one clip's semantic frames from their token's mean, and the tokens."""
    frames = features.semantic
    durations = policy(
        features.similarities,
        features.lengths,
        seconds=torch.tensor([seconds], dtype=torch.float64),
        max_duration=cap,
        **features.for_policy(policy),
    )
    lost = frames - unmerge(merge(frames, durations), durations, frames.shape[2])
    return float(lost.double().square().sum()), durations.shape[1]


# ----------------------------------------------------------------------------------------------------------- phones


def find_phones(
    utterance: Utterance,
    audio: Float[np.ndarray, " samples"],
    sample_rate: int,
    source: PhoneSource,
    recognizer: Recognizer | None = None,
) -> tuple[dict[str, Any], str | None]:
    """Find the phones of a clip.

    Returns:
        The field of `AnalysisClip` by name, and None; or nothing, and the reason why there are no phones.
    """
    if source == "counts":
        if utterance.num_phones is None:
            return {}, "no phone count"
        return {"num_phones": utterance.num_phones}, None
    if source == "alignment":
        if utterance.alignment is None:
            return {}, "no alignment"
        try:
            return {"alignment": clip_alignment(utterance, len(audio) / sample_rate)}, None
        except (ValueError, OSError) as error:
            return {}, f"alignment cannot be used: {error}"
        except Exception as error:  # one file of many must not end the analysis
            return {}, f"alignment cannot be used: {utterance.alignment}: {type(error).__name__}: {error}"
    assert recognizer is not None
    if not utterance.text:
        return {}, "no text"
    (aligned,) = recognizer.align(audio, None, [utterance.text], sample_rate=sample_rate)
    if aligned is None:
        return {}, "the recogniser cannot spell the text, or the clip is too short for it"
    # Spaces and punctuation are symbols too, but not what is counted.
    spelled = [each for each in aligned if any(char.isalnum() for char in each.symbol)]
    return {"symbols": tuple(Segment(s.start_seconds, s.end_seconds, s.symbol) for s in spelled)}, None


def clip_alignment(utterance: Utterance, seconds: float) -> Alignment:
    """Read the alignment of a clip; where the clip is a part of a file that the alignment covers, that part of it.

    A CTM or MLF is searched for the utterance's id, whose times count from the start of the clip, and then for the name
    of its file, whose times count from the start of the file. Of several speakers or channels, those of the utterance
    are read; a speaker that is a guess is not used.

    Raises:
        LookupError: The utterance names no alignment.
        OSError: The file is missing.
        ValueError: It is malformed, has no phones or only those of others, or does not match the duration of the clip.
    """
    path = utterance.alignment
    if path is None:
        raise LookupError("no alignment")
    ids = utterance_ids(path)
    has_file = utterance.id not in ids and utterance.path.stem in ids
    name = utterance.path.stem if has_file else utterance.id
    speaker = None
    if utterance.speaker is not None and not utterance.speaker_guessed:
        speaker = str(utterance.speaker)  # manifests may have numbers
    alignment = read_alignment(path, utterance=name if ids else None, speaker=speaker, channel=utterance.channel)

    # CTM and CSV end with the last phone, and not with the clip.
    is_sparse = file_suffix(path) in (".ctm", ".csv")
    ends_late = not alignment_matches(alignment, seconds)
    is_part = utterance.start > 0 or has_file or (ends_late and _is_of_file(alignment, utterance.path))
    if is_part:
        if not is_sparse:
            ends_late = alignment.end > seconds + min(utterance.start / 2, MISALIGNED)
        if has_file or ends_late:
            alignment = alignment.within(utterance.start, utterance.start + seconds)
    if not alignment.phones:
        raise ValueError(f"{path} holds no phones within the clip, {seconds:.2f} s from {utterance.start:.2f} s")
    ends_early = alignment.end <= seconds - MISALIGNED and not is_sparse
    if ends_early or not alignment_matches(alignment, seconds):
        slip = _likely_slip(path, alignment.end / seconds)
        raise ValueError(f"{path} lasts {alignment.end:.2f} s, but the clip {seconds:.2f} s; {slip}")
    return alignment


def _is_of_file(alignment: Alignment, path: Path) -> bool:
    """Return whether an alignment that is too long for a clip is that of its whole file."""
    try:
        return alignment_matches(alignment, read_duration(path))
    except UNREADABLE:
        return False


UNITS = {
    1000.0: "are its times milliseconds?",
    100.0: "are its times frames of 10 ms?",
    16_000.0: "are its times samples?",
    1e-4: "are its times milliseconds, and not units of 100 ns?",
    1.6e-3: "are its times samples, and not units of 100 ns?",
}
"""Slips by the ratio of the duration of an alignment to that of its clip."""


def _likely_slip(path: Path, ratio: float) -> str:
    """Name the likely reason why an alignment lasts `ratio` times as long as its clip."""
    for factor, slip in UNITS.items():
        if 0.8 < ratio / factor < 1.05:
            return slip
    if file_suffix(path) == ".phn":
        return f"is it of another clip, or are its samples not counted at {TIMIT_RATE} Hz?"
    return "is it of another clip?"


def alignment_matches(alignment: Alignment, seconds: float) -> bool:
    """Return whether an alignment can belong to a clip of so many seconds: no phone ends after the clip."""
    return max((s.end for s in without_silence(alignment.phones)), default=0.0) <= seconds + MISALIGNED


# --------------------------------------------------------------------------------------------------------- TextGrids


def clip_tiers(clip: AnalysisClip, unit: str = "phones") -> dict[str, tuple[Segment, ...]]:
    """Return all tiers of a clip: phones and words, or a recogniser's `unit`, the transcript, and tokens by setting."""
    tiers: dict[str, tuple[Segment, ...]] = {}
    if clip.alignment is not None:
        tiers = {"phones": clip.alignment.phones, "words": clip.alignment.words}
    elif clip.symbols is not None:
        tiers = {unit: clip.symbols}
    if clip.transcript is not None:
        tiers["transcript"] = (Segment(0.0, clip.seconds, clip.transcript),)
    for name, tokens in clip.tokens.items():
        tiers[name] = token_tiers(tokens)["durations"]
    return {name: _clip_to(tier, clip.seconds) for name, tier in tiers.items() if tier}


def _clip_to(tier: tuple[Segment, ...], seconds: float) -> tuple[Segment, ...]:
    """Cut a tier off where the clip ends: aligners round up."""
    return tuple(Segment(s.start, min(s.end, seconds), s.label) for s in tier if s.start < seconds)


def save_textgrids(data: AnalysisData, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a TextGrid for every clip, named by its id, with the tiers of `clip_tiers`; returns the files."""
    folder = Path(folder)
    paths = [folder / f"{clip.id.strip('/').replace('/', '_')}.TextGrid" for clip in data.clips]
    doubled = sorted(path.name for path, times in Counter(paths).items() if times > 1)
    if doubled:
        raise ValueError(f"clips of one name: {', '.join(doubled[:3])}; give them different ids in the manifest")
    folder.mkdir(parents=True, exist_ok=True)
    for clip, path in zip(data.clips, paths, strict=True):
        write_textgrid(path, clip_tiers(clip, data.unit), clip.seconds)
    return paths
