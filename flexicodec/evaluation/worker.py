"""One process of an evaluation: models and instruments, and the way from clips to rows.

A clip that fails gets a row that says why, and takes no other with it; nothing is left out in silence.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flexicodec.corpus import Utterance, read_utterance
from flexicodec.evaluation import rate
from flexicodec.evaluation.instruments import SAMPLE_RATE, Instruments, Measures, References, fit
from flexicodec.evaluation.rows import Key, Row, key
from flexicodec.evaluation.systems import (
    GROUND_TRUTH,
    Clip,
    GroundTruth,
    Reconstruction,
    Setting,
    Sweep,
    System,
    open_system,
)
from flexicodec.evaluation.token_files import token_path
from flexicodec.tokens import Tokens

FAILURES = Exception  # bad audio, an unreadable disk, torch's out-of-memory, and whatever a library stumbles over


@dataclass(frozen=True)
class Plan:
    """How a corpus is evaluated.

    Attributes:
        measures: What is measured.
        sweep: At which operating points.
        batch_seconds: Audio that goes through a codec at once.
        processes: Side by side, each with its own models; each uses one thread.
        device: For the models; None means the CPU.
        sensevoice: See `flexicodec.load`.
        keep_tokens: Save the tokens of every clip below `tokens/` of the results; clips that were measured without are
            measured again.
    """

    measures: Measures = field(default_factory=Measures)
    sweep: Sweep = field(default_factory=Sweep)
    batch_seconds: float = 60.0
    processes: int = 1
    device: str | None = None
    sensevoice: str | None = None
    keep_tokens: bool = False


@dataclass(frozen=True)
class Job:
    """Clips that go through one system together, and which rows are wanted of them."""

    system: str
    utterances: tuple[Utterance, ...]
    settings: tuple[Setting, ...]
    wanted: frozenset[Key]


class Worker:
    """Models and instruments of one process, opened when they are needed; turns jobs into rows."""

    def __init__(self, models: Sequence[str | System], plan: Plan, folder: str | Path):
        self.plan, self.folder = plan, Path(folder)
        opened = [open_system(m, plan.device, plan.sensevoice) if isinstance(m, str) else m for m in models]
        self.systems: dict[str, System] = {GROUND_TRUTH: GroundTruth(SAMPLE_RATE)}
        for system in opened:
            if system.name in self.systems:
                raise ValueError(f"two models are called {system.name!r}; name them: a=MODEL b=MODEL")
            self.systems[system.name] = system
        self.instruments = Instruments(plan.measures, plan.device)

    def is_done(self, chosen: dict[str, list[Setting]]) -> Callable[[Row], bool]:
        """Return what tells whether a row can stay: not where its tokens are wanted and their file is missing."""
        labels = {(name, setting.label) for name, settings in chosen.items() for setting in settings}

        def is_done(row: Row) -> bool:
            wanted = self.plan.keep_tokens and "tokens" in row and (row["system"], row["setting"]) in labels
            return not wanted or token_path(self.folder, *key(row)).is_file()

        return is_done

    def __call__(self, job: Job) -> list[Row]:
        """Measure the clips of a job; those that cannot be read or reconstructed get a row with the reason."""
        system, rows = self.systems[job.system], []
        read: dict[int, tuple[Clip, Clip]] = {}
        for index, utterance in enumerate(job.utterances):
            try:
                reference = read_utterance(utterance, SAMPLE_RATE)
                own = system.sample_rate == SAMPLE_RATE
                read[index] = reference, reference if own else read_utterance(utterance, system.sample_rate)
            except FAILURES as error:
                rows += [_failure(system.name, setting, utterance, error) for setting in job.settings]
        if read:
            clips = [job.utterances[index] for index in read]
            rows += self._measure(system, job.settings, clips, list(read.values()))
        return [row for row in rows if (row["system"], row["setting"], row["id"]) in job.wanted]

    def _measure(
        self, system: System, settings: Sequence[Setting], clips: list[Utterance], read: list[tuple[Clip, Clip]]
    ) -> list[Row]:
        """Measure clips side by side, or one by one where that fails, so that a bad clip takes no other with it."""
        rows: list[Row] = []
        try:
            prepared = self.instruments.prepare([reference for reference, _ in read], [self._text(c) for c in clips])
            rounds = system.reconstruct([heard for _, heard in read], settings)
        except FAILURES as error:
            rounds, failed = iter(()), error
        for setting in settings:
            try:
                back = next(rounds, None)
                if back is None:  # nothing comes after an error
                    raise failed
                rows += self._rows(system, setting, clips, back, prepared)
            except FAILURES as error:
                if len(clips) > 1:
                    alone = (self._measure(system, settings, [c], [r]) for c, r in zip(clips, read, strict=True))
                    return [row for rows in alone for row in rows]
                failed = error
                rows.append(_failure(system.name, setting, clips[0], error))
        return rows

    def _rows(
        self,
        system: System,
        setting: Setting,
        clips: list[Utterance],
        back: list[Reconstruction],
        references: References,
    ) -> list[Row]:
        """Measure what came back at one setting."""
        pairs = zip(back, references.audio, strict=True)
        estimates = [fit(one.audio, system.sample_rate, len(reference)) for one, reference in pairs]
        found = self.instruments.measure(references, estimates)
        return [
            {**_about(system.name, setting, clip), **self._rates(system, setting, clip, one), **measured}
            for clip, one, measured in zip(clips, back, found, strict=True)
        ]

    def _rates(self, system: System, setting: Setting, clip: Utterance, back: Reconstruction) -> Row:
        """Measure what a clip costs, and save its tokens if they are wanted."""
        if back.tokens is None:
            return {}
        kept = self._keep(token_path(self.folder, system.name, setting.label, clip.id), back.tokens)
        seconds = float(back.tokens.seconds[0])
        return {
            "tokens": int(back.tokens.token_lengths[0]),
            "coded_seconds": seconds,
            **rate.measured(back.tokens)[0],
            **kept,
        }

    def _keep(self, path: Path, tokens: Tokens) -> Row:
        """Save tokens if they are wanted; where that fails, the row says why and is no worse for it."""
        if not self.plan.keep_tokens:
            return {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tokens.save(path)
        except OSError as error:
            return {"tokens_error": _told(error)}
        return {}

    def _text(self, clip: Utterance) -> str | None:
        """What is said, where the recognisers are to hear it."""
        wanted, spoken = self.plan.measures.language, clip.language
        foreign = wanted is not None and spoken is not None and spoken.replace("-", " ").split()[:1] != [wanted]
        return None if foreign else clip.text


def _about(system: str, setting: Setting, clip: Utterance) -> Row:
    """What a row is about."""
    return {
        "id": clip.id,
        "speaker": clip.speaker,
        "corpus": clip.corpus,
        "seconds": clip.duration,
        "system": system,
        "setting": setting.label,
        "asked": asdict(setting),
    }


def _failure(system: str, setting: Setting, clip: Utterance, error: BaseException) -> Row:
    return {**_about(system, setting, clip), "error": _told(error)}


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or type(error).__name__}"
