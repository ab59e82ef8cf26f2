"""Waveforms: resampling, and batches of clips of different length.

`as_batch` validates the audio of every encode call: after it, audio is float32 `[B, S]` at the codec's rate, finite,
and zero beyond each item's length.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

Channels: TypeAlias = Literal["mix", "error"]
Lengths: TypeAlias = Tensor | np.ndarray | Sequence[int]

# The value that stands for 1.0. 8-bit (offset binary in WAV) and 64-bit samples have no scale that all tools agree on.
FULL_SCALE = {"int16": 2**15, "int32": 2**31, "float16": 1, "bfloat16": 1, "float32": 1, "float64": 1}
HIGHEST_RATE = 1_000_000  # Hz
LOUDEST = 100.0  # far above any float recording, far below int16 samples that were only cast to float
MOST_CHANNELS = 64
_TRANSPOSED = (
    "Time is the last axis: transpose what soundfile or scipy returned, and pass channels= if there are several"
)


def resampled_length(samples: int, from_rate: int, to_rate: int) -> int:
    """Count the samples that `resample` returns: ceil(samples * to_rate / from_rate)."""
    return -(-samples * to_rate // from_rate)


def resample(audio: Float[Tensor, "*batch samples"], from_rate: int, to_rate: int) -> Float[Tensor, "*batch resampled"]:
    """Change the sample rate along the last axis with soxr's HQ setting (about 20 bits).

    Linear phase and deterministic, on the CPU whatever the device; the result has the device and dtype of the input.
    soxr continues both ends with zeros, so resample clips before padding them. No gradient passes through.

    Args:
        audio: Float audio; equal rates return it as it is, sharing its memory.
        from_rate: Hz of `audio`.
        to_rate: Hz of the result.

    Returns:
        Exactly ceil(samples * to_rate / from_rate) samples.
    """
    import soxr

    from_rate = check_sample_rate(from_rate, "from_rate")
    to_rate = check_sample_rate(to_rate, "to_rate")
    if not audio.is_floating_point() or audio.ndim == 0:
        raise ValueError(f"resample takes float audio [..., S]; got {_dtype_name(audio)} of shape {list(audio.shape)}")
    audio = audio.detach()
    if from_rate == to_rate:
        return audio
    wanted = resampled_length(audio.shape[-1], from_rate, to_rate)
    if audio.numel() == 0:
        return audio.new_zeros(*audio.shape[:-1], wanted)
    working_dtype = torch.float64 if audio.dtype == torch.float64 else torch.float32
    flat = audio.to("cpu", working_dtype).reshape(-1, audio.shape[-1])
    # soxr rounds the length: with some of the zeros behind the end made explicit, the last sample is there too.
    padded = pad(flat, (0, math.ceil(from_rate / to_rate)))
    resampled = soxr.resample(np.ascontiguousarray(padded.T.numpy()), from_rate, to_rate, quality="HQ")
    assert len(resampled) >= wanted
    flat = torch.from_numpy(np.ascontiguousarray(resampled[:wanted].T))
    return flat.reshape(*audio.shape[:-1], wanted).to(audio.device, audio.dtype)


def collate(
    clips: Sequence[Shaped[Tensor, " samples"] | Shaped[Tensor, "1 samples"]],
) -> tuple[Shaped[Tensor, "batch samples"], Int[Tensor, " batch"]]:
    """Pad clips of different length with zeros to a batch; `split` undoes it.

    Returns:
        Audio [B, S] in the clips' own dtype and device, S being the longest clip, and lengths [B].
    """
    waves = [as_tensor(clip) for clip in clips]
    if not waves:
        raise ValueError("collate got no clips; expected at least one")
    for index, wave in enumerate(waves):
        if wave.ndim not in (1, 2) or (wave.ndim == 2 and len(wave) != 1) or wave.numel() == 0:
            raise ValueError(
                f"clip {index} has shape {list(wave.shape)}; expected [S] or [1, S] with at least 1 sample "
                "(mix channels first)"
            )
        if (wave.dtype, wave.device) != (waves[0].dtype, waves[0].device):
            raise ValueError(
                f"clip {index} is {_dtype_name(wave)} on {wave.device} but clip 0 is {_dtype_name(waves[0])} on "
                f"{waves[0].device}; were some read as integers?"
            )
    waves = [wave.flatten() for wave in waves]
    lengths = torch.tensor([len(wave) for wave in waves], device=waves[0].device)
    return pad_sequence(waves, batch_first=True), lengths


def split(audio: Shaped[Tensor, "batch samples"], lengths: Lengths | None = None) -> list[Shaped[Tensor, "1 samples"]]:
    """Split a batch into its clips, [1, S_i] each, without the padding; the reverse of `collate`.

    The clips are views of `audio`. `lengths` None (where tokens have no `audio_lengths`) keeps every item whole.
    """
    if audio.ndim != 2:
        raise ValueError(f"audio has shape {list(audio.shape)}; expected [B, S]")
    batch, samples = audio.shape
    if lengths is None:
        return list(audio.split(1))
    valid = check_lengths(lengths, batch, samples, minimum=0)
    return [audio[index : index + 1, :length] for index, length in enumerate(valid.tolist())]


def as_batch(
    audio: Tensor | np.ndarray,
    lengths: Lengths | None = None,
    *,
    sample_rate: int | None,
    target_sample_rate: int,
    channels: Channels | None = None,
    device: torch.device | str | None = None,
    minimum: int = 1,
) -> tuple[Float[Tensor, "batch resampled"], Int[Tensor, " batch"]]:
    """Convert any audio to a float32 batch at the codec's rate: the only place where input audio is validated.

    Args:
        audio: `[S]`, `[B, S]` or `[B, C, S]`, a tensor or numpy array, which is not modified. Floats have full scale 1;
            int16 is divided by 2^15, int32 by 2^31. Or what torchcodec returns, which has a rate of its own.
        lengths: Valid samples per item, counted in `audio` as passed (before resampling); None means all. Values
            behind them, NaN included, change nothing.
        sample_rate: Hz of `audio`; None means `target_sample_rate`.
        target_sample_rate: Hz of the result. Each item is resampled from its own valid part.
        channels: `"mix"` averages the C of `[B, C, S]`, `"error"` (or None) refuses C other than 1. Two dimensions are
            always a batch `[B, S]`; pass one stereo clip as `[1, 2, S]`.
        device: Of the result; None keeps the audio's own.
        minimum: Least valid samples of an item; 0 for chunks of a stream.

    Returns:
        Audio [B, S'], S' = `resampled_length(S)`, detached, zero beyond each length and never sharing memory with the
        input; and lengths [B] at the target rate, on the same device.

    Raises:
        ValueError: Besides wrong types, shapes and rates: NaN or Inf among the valid samples, or values beyond 100, as
            of int16 samples that were only cast to float.
    """
    # Check everything before the audio is copied.
    audio, sample_rate = _samples_and_rate(audio, sample_rate)
    if channels is not None:
        check_channels(channels)
    sample_rate = target_sample_rate if sample_rate is None else check_sample_rate(sample_rate)
    waves = _with_channels(as_tensor(audio), channels, minimum)
    batch, _, samples = waves.shape
    if lengths is None:
        valid = torch.full((batch,), samples, device="cpu")
    else:
        valid = check_lengths(lengths, batch, samples, minimum)
    padding = torch.arange(waves.shape[-1], device=waves.device) >= valid.to(waves.device)[:, None]
    waves = waves.masked_fill(padding[:, None], 0)  # a copy, so that nothing below touches the input
    mono = to_float32(waves, "item, channel, sample").mean(dim=1)
    if sample_rate != target_sample_rate:
        mono, valid = _resample_items(mono, valid, sample_rate, target_sample_rate)
    target_device = mono.device if device is None else device
    return mono.to(target_device), valid.to(target_device)


def _samples_and_rate(audio: Any, sample_rate: int | None) -> tuple[Any, int | None]:
    """Return the data [1, C, S] and the rate of torchcodec's samples or decoder; other audio as it is.

    They are known by their attributes, as importing torchcodec fails beside many versions of torch.
    """
    if isinstance(audio, Tensor | np.ndarray):
        return audio, sample_rate
    if hasattr(audio, "get_all_samples"):  # a decoder, as in an audio column of datasets
        audio = audio.get_all_samples()
    if not hasattr(audio, "sample_rate") or not isinstance(getattr(audio, "data", None), Tensor):
        return audio, sample_rate
    if sample_rate not in (None, audio.sample_rate):
        raise ValueError(f"sample_rate is {sample_rate}, but the samples say {audio.sample_rate}; leave it out")
    data = audio.data
    return data[None] if data.ndim == 2 else data, int(audio.sample_rate)


def check_sample_rate(value: int, name: str = "sample_rate") -> int:
    """Return a sample rate as int; it has to be a whole number of Hz from 1000 to `HIGHEST_RATE`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} is {value!r}; expected Hz as an int, such as 44100 (kHz, or a float?)")
    if value < 1000:
        slip = f"; is it in kHz? Then pass {value * 1000}" if value > 0 else ""
        raise ValueError(f"{name} is {value}; expected at least 1000 Hz{slip}")
    if value > HIGHEST_RATE:
        raise ValueError(f"{name} is {value}; expected at most {HIGHEST_RATE} Hz; is it a number of samples?")
    return int(value)


def check_lengths(lengths: Lengths, batch: int, samples: int, minimum: int = 1) -> Int[Tensor, " batch"]:
    """Return the valid samples per item, `minimum` to `samples`, as int64 [B] on the CPU."""
    try:
        if isinstance(lengths, Tensor):
            values = lengths.detach().cpu()
        else:
            values = torch.from_numpy(np.array(lengths))
    except (TypeError, ValueError) as error:
        raise ValueError(f"lengths is {lengths!r}; expected one int per item") from error
    if values.ndim != 1 or len(values) != batch:
        raise ValueError(f"lengths has shape {list(values.shape)}; expected [{batch}], one per item of the audio")
    if values.dtype == torch.bool or values.is_floating_point() or values.is_complex():
        raise ValueError(
            f"lengths is {_dtype_name(values)}; expected whole samples (not a mask, seconds or a fraction)"
        )
    for item, value in enumerate(values.tolist()):
        if value > samples:
            raise ValueError(
                f"lengths[{item}] = {value} lies beyond the tensor, which has {samples} samples; "
                "lengths count samples of the audio passed, at its own rate"
            )
        if value < minimum:
            raise ValueError(f"lengths[{item}] = {value}; expected {minimum} to {samples} samples")
    return values.to(torch.int64, copy=True)


def _resample_items(
    audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"], from_rate: int, to_rate: int
) -> tuple[Float[Tensor, "batch resampled"], Int[Tensor, " batch"]]:
    """Resample every item from its valid part alone, as if it were the only one."""
    resampled = audio.new_zeros(len(audio), resampled_length(audio.shape[-1], from_rate, to_rate))
    new_lengths = torch.zeros_like(lengths)
    for item, length in enumerate(lengths.tolist()):
        new_length = resampled_length(length, from_rate, to_rate)
        resampled[item, :new_length] = resample(audio[item, :length], from_rate, to_rate)
        new_lengths[item] = new_length
    return resampled, new_lengths


def as_tensor(audio: Tensor | np.ndarray) -> Tensor:
    """Return a detached tensor; its dtype has to have a known full scale."""
    if not isinstance(audio, Tensor | np.ndarray):
        raise ValueError(
            f"audio is a {type(audio).__name__}; expected a torch tensor or numpy array "
            "(several clips go through flexicodec.collate, files through flexicodec.read_audio)"
        )
    name = str(audio.dtype).removeprefix("torch.") if isinstance(audio, Tensor) else audio.dtype.name
    if name not in FULL_SCALE:
        raise ValueError(f"audio is {name}, which has no agreed full scale; expected one of {', '.join(FULL_SCALE)}")
    if isinstance(audio, Tensor):
        return audio.detach()
    # A copy, for arrays that torch cannot share: read-only, reversed, big-endian.
    return torch.from_numpy(audio.astype(audio.dtype.newbyteorder("="), order="C", copy=True))


def _with_channels(
    waves: Tensor, channels: Channels | None, minimum: int = 1
) -> Shaped[Tensor, "batch channels samples"]:
    """View [S], [B, S] or [B, C, S] as [B, C, S]."""
    shape = list(waves.shape)
    if waves.ndim not in (1, 2, 3):
        raise ValueError(f"audio has shape {shape}; expected [S], [B, S] or [B, C, S]")
    if 0 in shape[:-1] or shape[-1] < minimum:
        raise ValueError(f"audio has shape {shape}, no samples; expected at least 1 item of at least 1 sample")
    # Thousands of clips of a few samples: time is the first axis, and channels the last.
    if waves.ndim == 2 and len(waves) >= 1000 and waves.shape[1] <= 8:
        raise ValueError(f"audio has shape {shape}: {len(waves)} clips of {waves.shape[1]} samples? {_TRANSPOSED}")
    if waves.ndim == 3:
        check_channel_count(waves)
        if channels != "mix" and waves.shape[1] != 1:
            raise ValueError(f'audio has shape {shape}: {waves.shape[1]} channels; pass channels="mix" to average them')
        return waves
    if channels is not None and waves.ndim == 2 and len(waves) > 1:
        raise ValueError(
            f"audio has shape {shape}, {len(waves)} clips without channels, but channels={channels!r} was given; give "
            f"one clip of {len(waves)} channels as [1, {len(waves)}, {shape[1]}], or leave channels= out"
        )
    return torch.atleast_2d(waves)[:, None]


def to_float32(waves: Tensor, axes: str) -> Tensor:
    """Scale to full scale 1 in float32; refuse NaN, Inf and values beyond `LOUDEST`. `axes` names them in errors."""
    if waves.is_floating_point() and waves.numel():
        # NaN and Inf survive min and max; a single .item() waits for a GPU once.
        peak = torch.stack(torch.aminmax(waves)).abs().max().item()
        if not math.isfinite(peak):
            bad = (~waves.isfinite()).nonzero()
            raise ValueError(
                f"audio holds {len(bad)} NaN or Inf among {waves.numel()} values, the first at "
                f"[{axes}] = {bad[0].tolist()}"
            )
        if peak > LOUDEST:
            raise ValueError(
                f"audio reaches {peak:g} where 1 is full scale; were int16 samples cast to float without dividing "
                "by 32768? (pass them as int16, or divide)"
            )
    return waves.to(torch.float32) / FULL_SCALE[str(waves.dtype).removeprefix("torch.")]


def check_channels(channels: str) -> None:
    if channels not in ("mix", "error"):
        raise ValueError(f'channels is {channels!r}; expected "mix" (average them) or "error" (allow one only)')


def check_channel_count(waves: Tensor) -> None:
    if waves.shape[-2] > MOST_CHANNELS:
        raise ValueError(f"audio has shape {list(waves.shape)}: {waves.shape[-2]} channels? {_TRANSPOSED}")


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
