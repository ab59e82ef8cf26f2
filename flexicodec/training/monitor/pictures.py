"""What can be heard and seen of a run: audio samples, pictures of their tokens, histograms of durations.

Files lie under the run's `samples`; trackers get what they can show.
"""

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.analysis.plots import plot_tokens
from flexicodec.audio import write_audio
from flexicodec.tokens import Tokens
from flexicodec.training.monitor.trackers import JSONL

Clip = Float[Tensor, " samples"] | Float[Tensor, "1 samples"]


def log_samples(
    accelerator: Accelerator,
    step: int,
    sample_rate: int,
    originals: Sequence[Clip],
    decoded: Sequence[Clip],
    tokens: Sequence[Tokens],
    folder: str | Path,
    label: str = "decoded",
) -> None:
    """Write clips and pictures to `folder/samples/step-XXXXXXX`, and give them to the trackers.

    Trackers get the originals once only. A picture is the spectrogram with the tokens' boundaries, and their durations.
    Only the main process does anything; without matplotlib there are no pictures.

    Args:
        accelerator: With its trackers started.
        step: Optimiser steps done.
        sample_rate: Hz.
        originals: Clips.
        decoded: What the codec made of them, as long as they are.
        tokens: A clip's tokens each.
        folder: The run's output.
        label: What sets these apart from others of the same step ("6.25hz", say); part of files' and tags' names.
    """
    if not accelerator.is_main_process:
        return
    samples = Path(folder) / "samples"
    place = samples / f"step-{step:07d}"
    first = not any(other.name < place.name for other in samples.glob("step-*"))
    place.mkdir(parents=True, exist_ok=True)
    for number, (original, copy, made) in enumerate(zip(originals, decoded, tokens, strict=True)):
        for kind, audio in (("original", original), (label, copy)):
            path = place / f"clip-{number:02d}-{kind}.flac"
            audio = audio.detach().cpu().float().flatten().nan_to_num().clamp(-1, 1)
            write_audio(path, audio, sample_rate)
            if kind == label or first:
                _show(accelerator, step, f"clip-{number:02d}/{kind}", audio, made, path.with_suffix(".png"))


def _show(
    accelerator: Accelerator, step: int, name: str, audio: Float[Tensor, " samples"], tokens: Tokens, path: Path
) -> None:
    picture = _picture(audio, tokens, path)
    for tracker in accelerator.trackers:
        _give_audio(tracker, f"samples/{name}", audio, tokens.format.sample_rate, step)
        if picture is not None:
            _give_picture(tracker, f"tokens/{name}", picture, step)


def log_histogram(accelerator: Accelerator, step: int, name: str, counts: Int[Tensor, " values"]) -> None:
    """Give the trackers that know histograms one of the numbers 1, 2, ..., from how often each occurred."""
    if not accelerator.is_main_process or not counts.any():
        return
    values = np.arange(1, len(counts) + 1)
    often = counts.cpu().numpy()
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.writer.add_histogram_raw(
                name,
                min=0.5,
                max=len(counts) + 0.5,
                num=int(often.sum()),
                sum=float(often @ values),
                sum_squares=float(often @ values**2),
                bucket_limits=(values + 0.5).tolist(),
                bucket_counts=often.tolist(),
                global_step=step,
            )
        elif tracker.name == "wandb":
            import wandb

            edges = np.arange(len(counts) + 1) + 0.5
            tracker.log({name: wandb.Histogram(np_histogram=(often, edges))}, step=step)


def _picture(audio: Float[Tensor, " samples"], tokens: Tokens, path: Path) -> np.ndarray | None:
    """Draw a clip's tokens into a file and return the pixels, [height, width, 3]."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image
    except ImportError:
        _say_once("matplotlib is not installed: no pictures of tokens")
        return None
    canvas = FigureCanvasAgg(plot_tokens(audio, tokens.to("cpu")))
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    Image.fromarray(pixels).save(path)
    return pixels


def _give_audio(
    tracker: GeneralTracker, name: str, audio: Float[Tensor, " samples"], sample_rate: int, step: int
) -> None:
    if tracker.name == "tensorboard":
        tracker.writer.add_audio(name, audio, step, sample_rate)
    elif tracker.name == "wandb":
        import wandb

        tracker.log({name: wandb.Audio(audio.numpy(), sample_rate=sample_rate)}, step=step)
    elif tracker.name != JSONL:
        _say_once(f"the tracker {tracker.name} takes no audio; samples are in the run's folder")


def _give_picture(tracker: GeneralTracker, name: str, picture: np.ndarray, step: int) -> None:
    if tracker.name == "tensorboard":
        tracker.writer.add_image(name, picture, step, dataformats="HWC")
    elif hasattr(tracker, "log_images"):
        tracker.log_images({name: [picture]}, step=step)


@cache
def _say_once(text: str) -> None:
    logging.getLogger(__name__).warning(text)
