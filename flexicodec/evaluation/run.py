"""Runs an evaluation: every clip of a manifest through every system at every setting, measured once, a row for each.

Work is split into batches of clips of similar length, the same for any number of processes and wherever a run was
stopped, so the rows are the same too. Another device or batch length may change their last digits.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

import flexicodec
from flexicodec.asr.text import primary_language
from flexicodec.corpus import Utterance, check_ids, read_utterance
from flexicodec.evaluation import perturbations
from flexicodec.evaluation.metrics import suite
from flexicodec.evaluation.metrics.bitrate import clip_rates
from flexicodec.evaluation.metrics.loading import Waveform
from flexicodec.evaluation.metrics.suite import SAMPLE_RATE, MetricConfig, MetricSuite, ReferenceData
from flexicodec.evaluation.perturbations import Perturbation
from flexicodec.evaluation.results_store import Key, ResultsWriter, Row, row_key, token_path
from flexicodec.evaluation.systems import GROUND_TRUTH, GroundTruth, Reconstruction, Setting, Sweep, System, open_system
from flexicodec.parallel import BrokenProcessPool, default_settings, share


@dataclass(frozen=True)
class EvaluationConfig:
    """How a corpus is evaluated."""

    measures: MetricConfig = field(default_factory=MetricConfig)
    sweep: Sweep = field(default_factory=Sweep)
    batch_seconds: float = 60.0  # audio in one batch of a codec, padding included
    processes: int = 1  # each with its own models and one thread
    device: str | None = None  # of all models; None means the CPU
    sensevoice: str | None = None  # see `flexicodec.load`
    perturbations: tuple[str, ...] = ()  # whose effect on tokens is measured, see `Perturbation`
    keep_tokens: bool = False  # below `tokens/` of the results; clips measured without them are measured again


@dataclass(frozen=True)
class Results:
    """Results of a run."""

    folder: Path
    rows: list[Row]  # all rows of the folder, including those of earlier runs
    measured: int  # number of rows that this run added
    notes: list[str]  # settings that a system does not have
    seconds: dict[str, float] = field(default_factory=dict)  # that each instrument took in this run, over all processes

    @property
    def failed(self) -> list[Row]:
        """Rows of clips that could not be measured; `error` has the reason."""
        return [row for row in self.rows if "error" in row]


@default_settings()
def evaluate_corpus(
    utterances: Sequence[Utterance],
    models: Sequence[str | System],
    folder: str | Path,
    config: EvaluationConfig | None = None,
    progress: bool = False,
) -> Results:
    """Measure models on clips and keep a row for each; rows that are there already are not measured again.

    The recordings themselves are measured first, as the system "ground truth".

    Args:
        utterances: The clips, with unique ids.
        models: What `open_system` takes, or systems (picklable, if there are several processes).
        folder: Results folder; it may hold an earlier run of the same metrics, on some of these clips.
        config: By default all signal metrics and our own recogniser, one process.
        progress: Show a bar.

    Raises:
        ValueError: A model, metric, setting or clip that cannot be used, or a folder with results of others.
        OSError: A process died; finished rows are kept.
    """
    config = config or EvaluationConfig()
    if not utterances:
        raise ValueError("there are no clips to evaluate")
    check_ids(utterances)
    if config.processes < 1 or not config.batch_seconds > 0:
        raise ValueError(
            f"processes is {config.processes} and batch_seconds {config.batch_seconds}; expected 1 or more, and above 0"
        )
    # What each system can do of the sweep.
    worker = Worker(models, config, folder)
    settings = {}
    notes = []
    for name, system in worker.systems.items():
        settings[name], left_out = system.settings(config.sweep)
        if config.perturbations and name != GROUND_TRUTH and not hasattr(system, "tokenize"):
            notes.append(f"{name}: token stability left out; it does not give its tokens")
        notes += left_out
    # The rows that are not there yet, written batch by batch.
    batches = length_batches(utterances, config.batch_seconds)
    with ResultsWriter(folder, describe_run(utterances, worker, settings), worker.is_done(settings)) as results:
        jobs = list(_remaining_jobs(settings, batches, results.done))
        bar = tqdm(total=sum(len(job.wanted) for job in jobs), unit="row", disable=not progress)
        measured = 0
        seconds: dict[str, float] = {}
        try:
            make_worker = partial(Worker, list(models), config, str(folder))
            for _, (rows, spent) in share(jobs, worker, config.processes, make_worker):
                results.append(rows)
                for name, value in spent.items():
                    seconds[name] = seconds.get(name, 0.0) + value
                measured += len(rows)
                bar.update(len(rows))
        except BrokenProcessPool as error:
            raise OSError(
                "a process died, perhaps out of memory; its finished rows are kept, and the same command goes on (with "
                "fewer processes, or fewer seconds a batch)"
            ) from error
        bar.close()
        results.sort(utterance.id for utterance in utterances)
        return Results(Path(folder), results.rows, measured, notes, seconds)


def length_batches(utterances: Sequence[Utterance], batch_seconds: float) -> list[tuple[Utterance, ...]]:
    """Batch clips of similar length, longest first, up to so many seconds with padding, and at least one clip."""
    batches: list[list[Utterance]] = []
    for utterance in sorted(utterances, key=lambda u: (-u.duration, u.id)):
        if not batches or batches[-1][0].duration * (len(batches[-1]) + 1) > batch_seconds:
            batches.append([])
        batches[-1].append(utterance)
    return [tuple(batch) for batch in batches]


def describe_run(utterances: Sequence[Utterance], worker: "Worker", settings: dict[str, list[Setting]]) -> Row:
    """Describe what is measured and how (`run.json`): what all rows of one table must have in common."""
    digests = {}
    for utterance in utterances:
        content = [utterance.id, round(utterance.start, 6), round(utterance.duration, 6), utterance.text]
        if utterance.channel is not None:  # rows of earlier versions have none
            content.append(utterance.channel)
        digests[utterance.id] = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    return {
        **asdict(worker.config.measures),
        "names": worker.names,
        "instruments": worker.suite.identity,  # the key of older runs
        "rules": suite.RULES,
        "clips": len(digests),
        "seconds": round(sum(utterance.duration for utterance in utterances), 3),
        "clip_digests": digests,
        "version": flexicodec.__version__,
        "systems": {name: system.identity for name, system in worker.systems.items()},
        "settings": {name: [setting.label for setting in chosen] for name, chosen in settings.items()},
    }


@dataclass(frozen=True)
class Job:
    """A batch of clips for one system, and which rows of it are wanted."""

    system: str
    utterances: tuple[Utterance, ...]
    settings: tuple[Setting, ...]
    wanted: frozenset[Key]


def _remaining_jobs(
    settings: dict[str, list[Setting]], batches: Sequence[tuple[Utterance, ...]], done: set[Key]
) -> Iterator[Job]:
    """List the jobs with rows that are not done. Batches stay whole, so a codec's input is that of an unbroken run."""
    for name, system_settings in settings.items():
        for batch in batches:
            remaining = []
            wanted: set[Key] = set()
            for setting in system_settings:
                keys = {(name, setting.label, utterance.id) for utterance in batch} - done
                if keys:
                    remaining.append(setting)
                    wanted |= keys
            if wanted:
                yield Job(name, batch, tuple(remaining), frozenset(wanted))


class _ReadClip(NamedTuple):
    utterance: Utterance
    reference: Waveform  # at the rate of the metrics
    codec_input: Waveform  # at the rate of the system


class Worker:
    """Systems and metrics of one process; computes the rows of jobs.

    Any error of a clip (bad audio, out of memory, a bug of a library) becomes a row with `error` and affects no other
    clip.
    """

    def __init__(self, models: Sequence[str | System], config: EvaluationConfig, folder: str | Path):
        self.config = config
        self.folder = Path(folder)
        self.systems: dict[str, System] = {GROUND_TRUTH: GroundTruth(SAMPLE_RATE)}
        for model in models:
            system = open_system(model, config.device, config.sensevoice) if isinstance(model, str) else model
            if system.name in self.systems:
                raise ValueError(f"two models are called {system.name!r}; name them: a=MODEL b=MODEL")
            self.systems[system.name] = system
        self.perturbations = [Perturbation.parse(name) for name in config.perturbations]
        self.suite = MetricSuite(config.measures, config.device)

    @property
    def names(self) -> list[str]:
        """Names of all metrics; those of token stability are KIND.PERTURBATION."""
        names = self.suite.names
        if self.perturbations:
            names += perturbations.MARGINS
        for each in self.perturbations:
            names += [f"{metric}.{each.name}" for metric in perturbations.METRICS]
        return names

    def is_done(self, settings: dict[str, list[Setting]]) -> Callable[[Row], bool]:
        """Return a test whether a row can stay: not where its tokens are wanted and their file is missing."""
        labels = {(name, setting.label) for name, chosen in settings.items() for setting in chosen}

        def is_done(row: Row) -> bool:
            needs_tokens = self.config.keep_tokens and "tokens" in row and row_key(row)[:2] in labels
            return not needs_tokens or token_path(self.folder, *row_key(row)).is_file()

        return is_done

    def __call__(self, job: Job) -> tuple[list[Row], dict[str, float]]:
        """Measure the clips of a job; also returns the seconds that each instrument took."""
        self.suite.seconds.clear()
        system = self.systems[job.system]
        rows: list[Row] = []
        clips: list[_ReadClip] = []
        for utterance in job.utterances:
            try:
                reference = read_utterance(utterance, SAMPLE_RATE)
                same_rate = system.sample_rate == SAMPLE_RATE
                codec_input = reference if same_rate else read_utterance(utterance, system.sample_rate)
                clips.append(_ReadClip(utterance, reference, codec_input))
            except Exception as error:
                rows += [
                    {**_row(system.name, setting, utterance), "error": _error_text(error)} for setting in job.settings
                ]
        if clips:
            rows += self._measure(system, job.settings, clips)
        return [row for row in rows if row_key(row) in job.wanted], dict(self.suite.seconds)

    def _measure(self, system: System, settings: Sequence[Setting], clips: Sequence[_ReadClip]) -> list[Row]:
        """Measure clips as a batch; if that fails anywhere, all of them one by one."""
        rows: list[Row] = []
        failure: Exception | None = None
        try:
            texts = [self._text(clip.utterance) for clip in clips]
            languages = [clip.utterance.language for clip in clips]
            references = self.suite.prepare([clip.reference for clip in clips], texts, languages)
            outputs = system.reconstruct([clip.codec_input for clip in clips], settings)
            stability = self._stability(system, settings, clips)
        except Exception as error:
            failure = error
            outputs = iter(())
            stability = iter(())
        for setting in settings:
            try:
                reconstructions = next(outputs, None)
                if reconstructions is None:  # nothing follows an error of the system
                    raise failure or RuntimeError(f"{system.name} returned too few settings")
                measured = self._rows(system, setting, clips, reconstructions, references)
                for row, values in zip(measured, next(stability, [{}] * len(clips)), strict=True):
                    row.update(values)
                rows += measured
            except Exception as error:
                if len(clips) > 1:  # so that only the clip with the error fails
                    return [row for clip in clips for row in self._measure(system, settings, [clip])]
                failure = error
                rows.append({**_row(system.name, setting, clips[0].utterance), "error": _error_text(error)})
        return rows

    def _rows(
        self,
        system: System,
        setting: Setting,
        clips: Sequence[_ReadClip],
        reconstructions: Sequence[Reconstruction],
        references: ReferenceData,
    ) -> list[Row]:
        """Measure the reconstructions of one setting."""
        estimates = [
            suite.fit_to_reference(reconstruction.audio, system.sample_rate, len(clip.reference))
            for clip, reconstruction in zip(clips, reconstructions, strict=True)
        ]
        metrics = self.suite.measure(references, estimates)
        rows = []
        for clip, reconstruction, values in zip(clips, reconstructions, metrics, strict=True):
            row = _row(system.name, setting, clip.utterance)
            rows.append({**row, **self._rates(row, reconstruction), **values})
        return rows

    def _stability(
        self, system: System, settings: Sequence[Setting], clips: Sequence[_ReadClip]
    ) -> Iterator[list[dict[str, float]]]:
        """Yield for each setting the stability of every clip's tokens; nothing for systems that only reconstruct."""
        tokenize = getattr(system, "tokenize", None)
        if not self.perturbations or tokenize is None:
            return
        waves = [clip.codec_input for clip in clips]
        changed = []
        for each in self.perturbations:
            copies = [each.apply(wave, system.sample_rate) for wave in waves]
            changed.append(tokenize(copies, settings))
        for clean in tokenize(waves, settings, margins=True):
            values = [perturbations.median_margins(tokens) for tokens in clean]
            for each, outputs in zip(self.perturbations, changed, strict=True):
                for index, other in enumerate(next(outputs)):
                    found = perturbations.token_stability(clean[index], other, each.delay_seconds)
                    values[index].update({f"{name}.{each.name}": value for name, value in found.items()})
            yield values

    def _rates(self, row: Row, reconstruction: Reconstruction) -> Row:
        """Measure the rates of a clip's tokens, and save the tokens if they are wanted."""
        tokens = reconstruction.tokens
        if tokens is None:
            return {}
        rates: Row = {"tokens": int(tokens.token_lengths[0]), "coded_seconds": float(tokens.seconds[0])}
        rates.update(clip_rates(tokens)[0])
        if self.config.keep_tokens:
            path = token_path(self.folder, *row_key(row))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                tokens.save(path)
            except OSError as error:  # the row is valid without its tokens
                rates["tokens_error"] = _error_text(error)
        return rates

    def _text(self, clip: Utterance) -> str | None:
        """Return the text of a clip if it is in the recognisers' language."""
        wanted = self.config.measures.language
        if wanted is None or clip.language is None:
            return clip.text
        # "en-GB" and "en (Welsh)" are English.
        return clip.text if primary_language(clip.language) == primary_language(wanted) else None


def _row(system: str, setting: Setting, clip: Utterance) -> Row:
    return {
        "id": clip.id,
        "speaker": clip.known_speaker,
        "corpus": clip.corpus,
        "seconds": clip.duration,
        "system": system,
        "setting": setting.label,
        "asked": asdict(setting),
    }


def _error_text(error: Exception) -> str:
    name = type(error).__name__
    return f"{name}: {' '.join(str(error).split()) or name}"
