"""What a run shows while it goes: a bar on a terminal, a line per row in a log file; on the main process only."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

import torch
from accelerate import Accelerator
from tqdm import tqdm

from flexicodec.training.monitor.balance import BalanceAlarm

SPEED = "speed/audio_seconds_per_second"


class Progress:
    """Counts steps and audio, shows them, and passes rows on to the trackers.

    Args:
        accelerator: With its trackers.
        steps: Of the whole run.
        done: Steps done before this start.
        file: Where to show; None for standard error.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        steps: int,
        done: int = 0,
        *,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.accelerator, self.steps, self.done = accelerator, steps, done
        self._file, self._clock, self._alarm = file or sys.stderr, clock, BalanceAlarm()
        self._bar = tqdm(
            total=steps,
            initial=done,
            unit="step",
            dynamic_ncols=True,
            file=self._file,
            disable=None if accelerator.is_main_process else True,  # None: only a terminal gets a bar
        )
        self._first, self._started = done, clock()
        self._mark, self._steps, self._seconds = clock(), 0, 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, audio_seconds: float) -> None:
        """Count a step, and the audio that this process trained on in it."""
        self.done += 1
        self._steps += 1
        self._seconds += audio_seconds
        self._bar.update()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of what is done inside (validation, checkpoints) out of the speed."""
        start = self._clock()
        try:
            yield
        finally:
            self._mark += self._clock() - start

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Give a row to the trackers, and show it; all processes have to call this together.

        The first row after a step gets the speed since the last row, by audio of all processes.
        """
        if self._steps:
            row = {**row, **self._speeds()}
        self.accelerator.log(dict(row), step=step)
        values = {name.removeprefix("loss/"): each for name, each in row.items() if name.startswith("loss/")}
        values = values or {name: each for name, each in row.items() if "validation/" in name}
        texts = [f"{name} {value:.4g}" for name, value in values.items()]
        if SPEED in row:
            texts.append(f"{row[SPEED]:.1f} s of audio per s")
        if SPEED in row and not self._bar.disable:
            loss = [f"loss {values['total']:.4g}"] if "total" in values else texts[:-1]
            self._bar.set_postfix_str("  ".join([*loss, texts[-1]]))
        else:
            self.say("  ".join([f"step {step}/{self.steps}", *texts, *self._remaining()]))
        if (alarm := self._alarm(row)) is not None:
            self.say(f"step {step}: {alarm}")

    def say(self, text: str) -> None:
        """Print a line, past the bar if there is one."""
        if self.accelerator.is_main_process:
            tqdm.write(text, file=self._file)
            self._file.flush()

    def _speeds(self) -> dict[str, float]:
        """Return audio and steps per second since the last row, and start anew."""
        elapsed = max(self._clock() - self._mark, 1e-9)
        mine = torch.tensor(self._seconds, dtype=torch.float64, device=self.accelerator.device)
        seconds = float(self.accelerator.reduce(mine, reduction="sum"))
        speeds = {SPEED: seconds / elapsed, "speed/steps_per_second": self._steps / elapsed}
        self._mark, self._steps, self._seconds = self._clock(), 0, 0.0
        return speeds

    def _remaining(self) -> list[str]:
        if self.done == self._first:
            return []
        pace = (self._clock() - self._started) / (self.done - self._first)
        return [f"{tqdm.format_interval(pace * (self.steps - self.done))} to go"]
