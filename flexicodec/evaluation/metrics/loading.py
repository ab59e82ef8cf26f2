"""Loading the models that metrics use: specs "KIND:SOURCE", files from a folder or the hub, and clear errors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.models.fingerprint import hash_weights
from flexicodec.weights import abbreviated

Waveform: TypeAlias = Float[np.ndarray, " samples"]

TRAINING_ONLY_KEYS = ("masked_spec_embed",)  # absent from some checkpoints, and not used in inference


def parse_spec(spec: str, kinds: Sequence[str], what: str, names: Sequence[str] = ()) -> tuple[str, str]:
    """Split a spec "KIND:SOURCE" at its first colon.

    Args:
        spec: Of a model.
        kinds: Those known.
        what: The sort of model, for errors.
        names: Models without a source, for errors.
    """
    kind, _, source = str(spec).partition(":")
    if kind not in kinds or not source:
        examples = ", ".join(f"{known}:SOURCE" for known in kinds)
        alone = f"; or {', '.join(names)}" if names else ""
        raise ValueError(f"{spec!r} is no {what}; expected {examples}, the source being a folder or a hub id{alone}")
    return kind, source


@contextmanager
def loading_errors(what: str, source: str) -> Iterator[None]:
    """Turn any error while weights are fetched and read into one `ValueError` that says how to get them.

    An `ImportError` (a missing library) passes unchanged.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise ValueError(
            f"cannot open {source!r} as {what} ({type(error).__name__}: {lines[0]}). "
            "Expected a folder with its files, or a hub id that is in the local cache or can be downloaded; without a "
            f"network, run `hf download {source}` elsewhere, copy the folder here and pass its path"
        ) from error


def fetch(what: str, source: str, patterns: Sequence[str]) -> Path:
    """Return a local path as it is, or a folder with the matching files of a hub repository."""
    if Path(source).exists():
        return Path(source)
    with loading_errors(what, source):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(source, allow_patterns=list(patterns)))


def check_clips(clips: Sequence[np.ndarray]) -> list[Waveform]:
    """Return the clips as float32 arrays [S], after `check_waveform`."""
    if isinstance(clips, np.ndarray):
        raise ValueError(f"clips is one array of shape {list(clips.shape)}; expected a list with an array [S] per clip")
    for index, clip in enumerate(clips):
        check_waveform(f"clip {index}", clip)
    return [np.asarray(clip, dtype=np.float32) for clip in clips]


def check_waveform(name: str, audio: np.ndarray) -> None:
    """Raise ValueError for anything but a 1-D array of finite floats with at least one sample."""
    if not isinstance(audio, np.ndarray):
        raise ValueError(f"{name} is a {type(audio).__name__}; expected a NumPy array [S] (a tensor's .numpy()?)")
    if audio.ndim != 1 or not audio.size:
        raise ValueError(f"{name} has shape {list(audio.shape)}; expected one clip [S] with at least 1 sample")
    if audio.dtype.kind != "f":
        raise ValueError(f"{name} is {audio.dtype}; expected floats with full scale at 1 (int16 divided by 32768?)")
    if not np.isfinite(audio).all():
        raise ValueError(f"{name} contains NaN or Inf")


def load_exactly(model_class: Any, source: str) -> Any:
    """Load a transformers model in float32, and refuse to initialise weights that its files lack."""
    model, report = model_class.from_pretrained(source, output_loading_info=True, dtype=torch.float32)
    missing = sorted(key for key in report["missing_keys"] if not key.endswith(TRAINING_ONLY_KEYS))
    if missing:
        slip = f"is this a pretrained model, not fine-tuned as {model_class.__name__}?"
        raise ValueError(f"no weights for {abbreviated(missing, 3)}; {slip}")
    return model


class TorchModel:
    """A model that a metric uses."""

    name: str  # the spec it was loaded by; belongs beside every number it gives
    sample_rate: int  # Hz of the clips it takes
    languages: tuple[str, ...] | None = (
        None  # of a recogniser, those it knows; None for all, or for the one it was told
    )
    module: torch.nn.Module  # the network, in eval mode

    @property
    def fingerprint(self) -> str:
        """Hash of all weights."""
        return hash_weights(self.module.state_dict())


class AudioModel(TorchModel):
    """A transformers model on raw audio (HuBERT, WavLM, wav2vec 2.0 ...) with its feature extractor.

    Padding must not change the output, so clips are batched only for models that mask the padding everywhere. A first
    convolution normalised over time (`feat_extract_norm` "group", the base sizes) would normalise the padding too, so
    such models take clips one by one; so does WavLM, whose attention warns that torch will stop accepting its masks.
    """

    def __init__(self, name: str, what: str, source: str, model_class: str, device: torch.device):
        import transformers

        self.name = name
        with loading_errors(what, source):
            self.extractor = transformers.AutoFeatureExtractor.from_pretrained(source)
            self.module: Any = load_exactly(getattr(transformers, model_class), source).to(device).eval()
        self.sample_rate = int(self.extractor.sampling_rate)
        config = self.module.config
        self.clip_by_clip = config.feat_extract_norm == "group" or config.model_type == "wavlm"
        self.min_samples = receptive_field(config)

    def batches(
        self, clips: Sequence[Waveform]
    ) -> Iterator[tuple[list[int], Float[Tensor, "batch samples"], Int[Tensor, "batch samples"] | None]]:
        """Yield the indices of the clips of a batch, their prepared samples, and a mask if some samples are padding.

        Clips shorter than the model's first frame are left out.
        """
        # One batch of all clips, or one of each.
        indices = [index for index, clip in enumerate(clips) if len(clip) >= self.min_samples]
        if self.clip_by_clip:
            batches = [[index] for index in indices]
        else:
            batches = [indices] if indices else []
        # Normalised and padded by the extractor; without padding the model needs no mask.
        for batch in batches:
            waves = [clips[index] for index in batch]
            inputs = self.extractor(
                waves,
                sampling_rate=self.sample_rate,
                padding=True,
                return_attention_mask=True,
                return_tensors="pt",
            ).to(self.module.device)
            is_padded = len({len(wave) for wave in waves}) > 1
            yield batch, inputs["input_values"], inputs["attention_mask"] if is_padded else None

    def num_frames(self, samples: int) -> int:
        """Count the output frames of a clip."""
        return int(self.module._get_feat_extract_output_lengths(torch.tensor(samples)))


def receptive_field(config: Any) -> int:
    """Count the samples of the first output frame."""
    samples = 1
    for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
        samples = (samples - 1) * stride + kernel
    return samples
