"""Audio samples of a run, pictures of their tokens and histograms of durations.

Files are in the run's `samples` folder; trackers get the kinds they support.
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
from flexicodec.audio import resample, write_audio
from flexicodec.tokens import Tokens
from flexicodec.training.logging.trackers import JSONL

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
    """Write clips and pictures to `folder/samples/step-XXXXXXX` and send them to the trackers, the originals once only.

    A picture is the spectrogram with the tokens' boundaries and durations; without matplotlib there are none. `label`
    is part of file names and tags and tells samples of one step apart ("6.25hz", say). Only the main process does
    anything.
    """
    if not accelerator.is_main_process:
        return
    # The originals are the same at every step: trackers get them at the first.
    samples = Path(folder) / "samples"
    step_folder = samples / f"step-{step:07d}"
    is_first = not any(other.name < step_folder.name for other in samples.glob("step-*"))
    step_folder.mkdir(parents=True, exist_ok=True)
    for number, (original, copy, clip_tokens) in enumerate(zip(originals, decoded, tokens, strict=True)):
        for kind, audio in (("original", original), (label, copy)):
            audio = audio.detach().cpu().float().flatten().nan_to_num().clamp(-1, 1)
            path = step_folder / f"clip-{number:02d}-{kind}.flac"
            write_audio(path, audio, sample_rate)
            if kind != label and not is_first:
                continue
            name = f"clip-{number:02d}/{kind}"
            heard = resample(audio, sample_rate, clip_tokens.format.sample_rate)
            picture = _save_picture(heard, clip_tokens, path.with_suffix(".png"))
            for tracker in accelerator.trackers:
                _send_audio(tracker, f"samples/{name}", audio, sample_rate, step)
                if picture is not None:
                    _send_picture(tracker, f"tokens/{name}", picture, step)


def log_histogram(accelerator: Accelerator, step: int, name: str, counts: Int[Tensor, " values"]) -> None:
    """Send a histogram of the numbers 1, 2, ... to trackers that support it, from how often each occurred."""
    if not accelerator.is_main_process or not counts.any():
        return
    values = np.arange(1, len(counts) + 1)  # bins are centred on them
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


def _save_picture(audio: Float[Tensor, " samples"], tokens: Tokens, path: Path) -> np.ndarray | None:
    """Plot a clip's tokens into a file and return the pixels, [height, width, 3]."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image
    except ImportError as error:
        _warn_once(f"no pictures of tokens: {error}")
        return None
    canvas = FigureCanvasAgg(plot_tokens(audio, tokens.to("cpu")))
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    Image.fromarray(pixels).save(path)
    return pixels


def _send_audio(
    tracker: GeneralTracker, name: str, audio: Float[Tensor, " samples"], sample_rate: int, step: int
) -> None:
    if tracker.name == "tensorboard":
        tracker.writer.add_audio(name, audio, step, sample_rate)
    elif tracker.name == "wandb":
        import wandb

        tracker.log({name: wandb.Audio(audio.numpy(), sample_rate=sample_rate)}, step=step)
    elif tracker.name != JSONL:
        _warn_once(f"the tracker {tracker.name} takes no audio; samples are in the run's folder")


def _send_picture(tracker: GeneralTracker, name: str, picture: np.ndarray, step: int) -> None:
    if tracker.name == "tensorboard":
        tracker.writer.add_image(name, picture, step, dataformats="HWC")
    elif hasattr(tracker, "log_images"):
        tracker.log_images({name: [picture]}, step=step)


@cache
def _warn_once(text: str) -> None:
    logging.getLogger(__name__).warning(text)
