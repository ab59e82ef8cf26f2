"""Batches of speech for the trainers, read by worker processes or in the training process itself."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from flexicodec.corpus.audio_reading import UNREADABLE, read_utterance
from flexicodec.corpus.bucketing import bucket_by_length
from flexicodec.corpus.lists.read import read_manifest
from flexicodec.corpus.manifest import Filter, Keep, Utterance
from flexicodec.training.config import DataConfig
from flexicodec.training.data.clip_cache import FeatureCache, cache_file
from flexicodec.training.data.examples import Augmentation, Example, ExampleReader, Wave
from flexicodec.training.data.manifest_source import ManifestSource
from flexicodec.training.data.sampler import BatchPlan, ClipSource, plan_crop_batches, plan_utterance_batches
from flexicodec.training.data.shards import ShardSource, find_shards

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """One process's share of a global batch.

    Attributes:
        audio: Zero beyond each item's length; as wide as a crop, or as the longest utterance of the batch.
        lengths: Valid samples.
        items: Numbers of the examples over the whole run.
        texts: Transcripts of whole utterances, where known.
        global_items: Examples in the shares of all processes.
        skipped: Clips that could not be read and were replaced.
        features: Of the frozen encoder on the frame grid, zero beyond each item's frames, if they are cached.
        inputs: The audio at the rate that the encoders take, where that is another.
        input_lengths: Valid samples of these.
    """

    audio: Float[Tensor, "batch samples"]
    lengths: Int[Tensor, " batch"]
    items: Int[Tensor, " batch"]
    texts: list[str | None]
    global_items: int
    skipped: int = 0
    features: Float[Tensor, "batch dim frames"] | None = None
    inputs: Float[Tensor, "batch input_samples"] | None = None
    input_lengths: Int[Tensor, " batch"] | None = None

    @property
    def encoder_audio(self) -> tuple[Float[Tensor, "batch input_samples"], Int[Tensor, " batch"]]:
        """Audio for the encoders, and its lengths."""
        if self.inputs is None or self.input_lengths is None:
            return self.audio, self.lengths
        return self.inputs, self.input_lengths

    def to(self, device: torch.device | str) -> "Batch":
        """Move the tensors."""
        moved: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                moved[name] = value.to(device)
        return replace(self, **moved)


def training_batches(
    config: DataConfig,
    *,
    sample_rate: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
    keep: Keep | None = None,
    speeds: Sequence[float] = (),
    features: FeatureCache | None = None,
    input_rate: int | None = None,
) -> Iterator[Batch]:
    """Yield batches without end: this process's share of the global batches number `start`, `start` + 1, ...

    Manifests are read, and a missing cache is written, before this returns (so let the main process go first). Global
    batch k is the same wherever a run starts and however many workers there are; see `sampler`. A clip that cannot be
    read is replaced by another, counted and logged; too many in a row are a `ValueError`.

    Args:
        config: The speech.
        sample_rate: Hz.
        seed: Of all random choices; no global random state is used.
        rank: Number of this process among `world`.
        world: Number of processes.
        start: Number of the first global batch.
        keep: Utterances to use; None for all. It must be picklable where workers are not forked.
        speeds: Factors of speed and pitch of whole utterances, one sampled for each.
        features: Of all utterances of the manifests; crops then start with a frame.
        input_rate: Hz that the encoders take; where it is another than `sample_rate`, batches have `inputs`.
    """
    if not 0 <= rank < world or start < 0:
        raise ValueError(f"rank {rank} of {world} processes from batch {start} on is not possible")
    _check(config, speeds)

    # Clips that fit a batch even at the lowest speed; crops have no upper limit.
    stretch = 1 / min(speeds, default=1.0)
    longest = math.inf
    if config.crop_seconds is None:
        longest = min(config.max_seconds, config.batch_seconds / stretch)
    wanted = Filter(config.min_seconds, longest, keep)

    source: ClipSource
    if config.shards:
        source = ShardSource(find_shards(config.shards), sample_rate, seed, config.shuffle_buffer, wanted)
    else:
        utterances = read_manifests(config.manifest)
        cache = cache_file(config.audio_cache, config.manifest, f"{sample_rate}.pcm")
        source = ManifestSource(utterances, sample_rate, wanted, cache, features)

    # A function of the first plan's number, which a worker process calls for itself.
    plans: Callable[[int], Iterator[BatchPlan]]
    if config.crop_seconds is None:
        crop = None
        plans = partial(plan_utterance_batches, source, seed, config.batch_seconds, stretch)
    else:
        crop = round(config.crop_seconds * sample_rate)
        plans = partial(plan_crop_batches, source, seed, config.crop_seconds, config.batch_size)
    augment = Augmentation(config.augmentation, sample_rate)
    grid = 1 if features is None else features.frame_size
    other_rate = None if input_rate == sample_rate else input_rate
    reader = ExampleReader(seed, sample_rate, crop, tuple(speeds), augment, grid, other_rate)
    dataset = _BatchDataset(plans, reader, rank, world, start)
    if config.workers == 0:
        return iter(dataset)
    # With a generator of its own, because torch would take the workers' seeds (unused here) from the global one.
    return iter(DataLoader(dataset, batch_size=None, num_workers=config.workers, generator=torch.Generator()))


@dataclass(frozen=True)
class _BatchDataset(IterableDataset[Batch]):
    """The batches of one process; in a worker, every `num_workers`-th of them."""

    plans: Callable[[int], Iterator[BatchPlan]]
    reader: ExampleReader
    rank: int
    world: int
    start: int

    def __iter__(self) -> Iterator[Batch]:
        # Every process and worker follows all plans, which costs little, and reads the audio of its own only.
        worker = get_worker_info()
        plans = self.plans(self.start * self.world)
        for number in count():
            shares = list(islice(plans, self.world))
            if worker is None or number % worker.num_workers == worker.id:
                examples = [self.reader(place) for place in shares[self.rank]]
                yield collate_examples(examples, sum(map(len, shares)), self.reader.crop)


def collate_examples(examples: Sequence[Example], global_items: int, samples: int | None = None) -> Batch:
    """Batch examples, padded with zeros to `samples`, or to the longest if that is None."""
    audio, lengths = _padded([example.audio for example in examples], samples)
    inputs = input_lengths = None
    resampled = [example.inputs for example in examples if example.inputs is not None]
    if resampled:
        inputs, input_lengths = _padded(resampled)
    features = None
    cached = [torch.from_numpy(example.features.T) for example in examples if example.features is not None]
    if cached:
        features = torch.nn.utils.rnn.pad_sequence(cached, batch_first=True).mT
    return Batch(
        audio,
        lengths=lengths,
        items=torch.tensor([example.number for example in examples]),
        texts=[example.text for example in examples],
        global_items=global_items,
        skipped=sum(example.skipped for example in examples),
        features=features,
        inputs=inputs,
        input_lengths=input_lengths,
    )


def _padded(clips: Sequence[Wave], samples: int | None = None) -> tuple[Tensor, Tensor]:
    """Return a batch padded with zeros to `samples`, or to the longest, and its lengths."""
    lengths = [len(clip) for clip in clips]
    batch = torch.zeros(len(clips), max(lengths) if samples is None else samples)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    return batch, torch.tensor(lengths)


def utterance_batches(utterances: Sequence[Utterance], sample_rate: int, batch_seconds: float) -> Iterator[Batch]:
    """Read whole utterances once, in batches of similar length, shortest first; `items` are their indices.

    One that cannot be read is an error, because measurements cover all clips.
    """
    for group in bucket_by_length(np.array([utterance.duration for utterance in utterances]), batch_seconds):
        examples = []
        for index in group:
            utterance = utterances[index]
            examples.append(Example(index, read_utterance(utterance, sample_rate), utterance.text))
        yield collate_examples(examples, len(group))


def validation_clips(config: DataConfig, sample_rate: int) -> list[Float[Tensor, " samples"]]:
    """Read the beginnings of clips spread evenly over the validation manifest; none without a manifest.

    A clip that cannot be read is left out with a warning.
    """
    if config.validation is None:
        return []
    utterances = read_manifest(config.validation)
    kept = Filter(config.min_seconds).select(utterances, config.validation)
    spread = np.linspace(0, len(kept), config.validation_clips, endpoint=False).astype(int)
    samples = round(config.validation_seconds * sample_rate)
    clips = []
    for index in dict.fromkeys(spread.tolist()) if kept else ():
        try:
            clips.append(torch.from_numpy(read_utterance(utterances[kept[index]], sample_rate, samples=samples)))
        except UNREADABLE as error:
            _log.warning("left out of the validation: %s", error)
    if not clips:
        raise ValueError(f"no clip of {config.validation} can be used for validation")
    return clips


def read_manifests(paths: Sequence[str | Path]) -> list[Utterance]:
    """Read several manifests as one."""
    return [utterance for path in paths for utterance in read_manifest(path)]


def _check(config: DataConfig, speeds: Sequence[float]) -> None:
    crop = config.crop_seconds
    if bool(config.manifest) == bool(config.shards):
        raise ValueError(f"manifest is {config.manifest} and shards is {config.shards}; expected one of the two")
    if config.shards and (config.audio_cache or config.feature_cache):
        raise ValueError("audio_cache and feature_cache keep the clips of manifests; leave them out for shards")
    changed = config.augmentation.noise_share or config.augmentation.codec_share
    if config.feature_cache and (crop is None or changed):
        raise ValueError(
            "feature_cache holds features of clean clips, for crops; leave it out with noise or lossy codecs, and for "
            "whole utterances"
        )
    if crop is None and not config.batch_seconds > 0:
        raise ValueError(f"batch_seconds is {config.batch_seconds}, expected seconds above 0")
    if crop is not None and (not crop > 0 or config.batch_size < 1):
        raise ValueError(f"crop_seconds is {crop} and batch_size {config.batch_size}, expected both above 0")
    if crop is not None and speeds:
        raise ValueError(f"speeds {speeds} are for whole utterances; leave crop_seconds out (null)")
    if speeds and not min(speeds) > 0:
        raise ValueError(f"speeds is {speeds}, expected factors above 0")
