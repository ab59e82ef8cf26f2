"""Progress of a run on the terminal or in a log file, with a warning when the GAN is out of balance."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

import torch
from accelerate import Accelerator
from tqdm import tqdm

from flexicodec.training.gan_losses import LOSS_OVER_CHANCE

SPEED = "speed/audio_seconds_per_second"

TOO_STRONG = 0.1  # times chance
TOO_WEAK = 0.95
WARM_UP_ROWS = 10  # new discriminators are worse than chance at first

ALARMS = {
    "strong": "they are hardly ever wrong, and the codec learns little from them (docs/training.md)",
    "weak": "they cannot tell decoded audio from real, and the codec learns nothing from them (docs/training.md)",
    "balanced": "generator and discriminators are balanced again",
}


class Progress:
    """Counts steps and audio, sends rows to the trackers, and shows a bar on a terminal or a line per row in a file.

    The whole run has `steps`, of which `done` were done before this start. `file` is standard error by default, `clock`
    returns monotonic seconds. Only the main process shows anything.
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
        self.accelerator = accelerator
        self.steps = steps
        self.done = done
        self._file = file or sys.stderr
        self._clock = clock
        self._alarm = BalanceAlarm()
        self._bar = tqdm(
            total=steps,
            initial=done,
            unit="step",
            dynamic_ncols=True,
            file=self._file,
            disable=None if accelerator.is_main_process else True,  # None: only a terminal gets a bar
        )
        self._first_step = done
        self._started = clock()
        self._start_interval()

    def _start_interval(self) -> None:
        """Start counting for the next row."""
        self._interval_start = self._clock()
        self._interval_steps = 0
        self._interval_seconds = 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def advance(self, audio_seconds: float) -> None:
        """Count a step, and the audio that this process trained on in it."""
        self.done += 1
        self._interval_steps += 1
        self._interval_seconds += audio_seconds
        self._bar.update()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block (validation, checkpoints) out of the speed."""
        start = self._clock()
        try:
            yield
        finally:
            self._interval_start += self._clock() - start

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Send a row to the trackers and show it; all processes have to call this together.

        The first row after a step gets the speed since the last row, by audio of all processes.
        """
        if self._interval_steps:
            row = {**row, **self._speeds()}
        self.accelerator.log(dict(row), step=step)
        self._show(row, step)
        alarm = self._alarm(row)
        if alarm is not None:
            self.write_line(f"step {step}: {alarm}")

    def write_line(self, text: str) -> None:
        """Print a line above the bar."""
        if self.accelerator.is_main_process:
            tqdm.write(text, file=self._file)
            self._file.flush()

    def _show(self, row: Mapping[str, float], step: int) -> None:
        """Show losses and speed beside the bar, or everything in a line."""
        values = {name.removeprefix("loss/"): each for name, each in row.items() if name.startswith("loss/")}
        if not values:
            values = {name: each for name, each in row.items() if "validation/" in name}
        texts = [f"{name} {value:.4g}" for name, value in values.items()]
        if SPEED in row:
            speed = f"{row[SPEED]:.1f} s of audio per s"
            if not self._bar.disable:  # little fits beside the bar
                if "total" in values:
                    texts = [f"loss {values['total']:.4g}"]
                self._bar.set_postfix_str("  ".join([*texts, speed]))
                return
            texts.append(speed)
        if self.done > self._first_step:  # validation and checkpoints count as time to go
            pace = (self._clock() - self._started) / (self.done - self._first_step)
            texts.append(f"{tqdm.format_interval(pace * (self.steps - self.done))} to go")
        self.write_line("  ".join([f"step {step}/{self.steps}", *texts]))

    def _speeds(self) -> dict[str, float]:
        """Return audio and steps per second since the last row, and start again."""
        elapsed = max(self._clock() - self._interval_start, 1e-9)
        mine = torch.tensor(self._interval_seconds, dtype=torch.float64, device=self.accelerator.device)
        seconds = float(self.accelerator.reduce(mine, reduction="sum"))
        speeds = {SPEED: seconds / elapsed, "speed/steps_per_second": self._interval_steps / elapsed}
        self._start_interval()
        return speeds


class BalanceAlarm:
    """Reports once when one side wins in a row of metrics, and once when that is over.

    Weak discriminators are reported only after `WARM_UP_ROWS` rows of adversarial training.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._state = "balanced"

    def __call__(self, row: Mapping[str, float]) -> str | None:
        """Return a line for the user if the next row changes the state."""
        ratio = row.get(LOSS_OVER_CHANCE)
        if ratio is None:  # no discriminators in these steps
            return None
        self._rows += 1
        state = "balanced"
        if ratio < TOO_STRONG:
            state = "strong"
        elif ratio > TOO_WEAK and self._rows > WARM_UP_ROWS:
            state = "weak"
        if state == self._state:
            return None
        self._state = state
        return f"the discriminators' loss is {ratio:.2f} times that of guessing: {ALARMS[state]}"
