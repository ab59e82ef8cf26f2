"""Batches of speech: the door through which the trainers take their data."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from flexicodec.corpus.buckets import buckets
from flexicodec.corpus.manifest import Filter, Keep, Utterance, read_manifest
from flexicodec.corpus.reading import UNREADABLE, read_utterance
from flexicodec.training.config import DataConfig
from flexicodec.training.data.items import Item, ItemMaker
from flexicodec.training.data.order import Source, Unit, bucket_units, crop_units
from flexicodec.training.data.shards import ShardSource
from flexicodec.training.data.sources import ManifestClips

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """One process's share of a global batch.

    Attributes:
        audio: Zero beyond each item's length. Crops are as wide as a crop, whole utterances as the longest here.
        lengths: Valid samples.
        items: Numbers of the items over the whole run, whatever the number of processes.
        texts: What is said, where that is known and the whole utterance is there.
        global_items: Items of the global batch, those of the other processes included.
        skipped: Clips that could not be read while making it, and were replaced by others.
    """

    audio: Float[Tensor, "batch samples"]
    lengths: Int[Tensor, " batch"]
    items: Int[Tensor, " batch"]
    texts: list[str | None]
    global_items: int
    skipped: int = 0

    def to(self, device: torch.device | str) -> "Batch":
        """Move the tensors."""
        audio, lengths, items = (t.to(device) for t in (self.audio, self.lengths, self.items))
        return Batch(audio, lengths, items, self.texts, self.global_items, self.skipped)


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
) -> Iterator[Batch]:
    """Make batches without end: this process's share of the global batches number `start`, `start` + 1, ...

    Manifests are read, and a cache is made where one is asked for but not there, before this returns (so let the main
    process go first); audio is read batch by batch, by worker processes if the config has any. Every clip is heard once
    an epoch, whatever the number of processes, and batch number k is the same wherever a run starts and however many
    workers there are; see `order`. A clip that cannot be read is replaced by another one, counted and logged.

    Args:
        config: The speech.
        sample_rate: Hz to read it at.
        seed: All that is drawn depends on it and on the number of the item, and on no global random state.
        rank: Which process this is.
        world: How many there are.
        start: Number of the first global batch.
        keep: Which utterances to use; None for all. With workers that are not forked it has to be picklable.
        speeds: Factors to change speed and pitch of whole utterances by, one drawn for each; () for none.

    Raises:
        ValueError: Settings that cannot be, a manifest that does not hold what it should, or too many clips in a row
            that cannot be read.
    """
    if not 0 <= rank < world or start < 0:
        raise ValueError(f"rank {rank} of {world} processes from batch {start} on cannot be")
    _check(config, speeds)
    stretch = 1 / min(speeds, default=1.0)
    longest = math.inf if config.crop_seconds is not None else min(config.max_seconds, config.batch_seconds / stretch)
    wanted = Filter(config.min_seconds, longest, keep)
    source: Source
    if config.shards:
        source = ShardSource(config.shards, sample_rate, seed, config.shuffle_buffer, wanted)
    else:
        source = ManifestClips(read_manifests(config.manifest), sample_rate, wanted, config.audio_cache)
    make = ItemMaker(seed, sample_rate, config.crop_seconds, tuple(speeds), config.augmentation)
    feed = _Feed(config, source, make, stretch, rank, world, start)
    if config.workers == 0:
        return iter(feed)
    # Its own generator, or else torch would draw the workers' seeds (which nothing here uses) from the global one.
    loader = DataLoader(
        feed, batch_size=None, num_workers=config.workers, collate_fn=_as_is, generator=torch.Generator()
    )
    return iter(loader)


@dataclass(frozen=True)
class _Feed(IterableDataset[Batch]):
    """The batches of one process; in a worker, those that are its turn."""

    config: DataConfig
    source: Source
    make: ItemMaker
    stretch: float
    rank: int
    world: int
    start: int

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        units = self._units()
        for batch in count():
            parts = list(islice(units, self.world))
            if batch % workers == number:
                items = [self.make(slot) for slot in parts[self.rank]]
                yield collate_items(items, sum(map(len, parts)), self.make.crop)

    def _units(self) -> Iterator[Unit]:
        config, seed, first = self.config, self.make.seed, self.start * self.world
        if config.crop_seconds is not None:
            return crop_units(self.source, seed, config.crop_seconds, config.batch_size, first)
        return bucket_units(self.source, seed, config.batch_seconds, self.stretch, first)


def collate_items(items: Sequence[Item], global_items: int, samples: int | None = None) -> Batch:
    """Lay items side by side, padded with zeros to `samples`, or to the longest where that is None."""
    audio = torch.zeros(len(items), max(len(item.audio) for item in items) if samples is None else samples)
    for row, item in zip(audio, items, strict=True):
        row[: len(item.audio)] = torch.from_numpy(item.audio)
    return Batch(
        audio,
        lengths=torch.tensor([len(item.audio) for item in items]),
        items=torch.tensor([item.number for item in items]),
        texts=[item.text for item in items],
        global_items=global_items,
        skipped=sum(item.skipped for item in items),
    )


def utterance_batches(utterances: Sequence[Utterance], sample_rate: int, batch_seconds: float) -> Iterator[Batch]:
    """Read whole utterances once, in batches of similar length from the shortest on; `items` are their indices.

    Raises:
        ValueError, OSError: One that cannot be read, for measurements are on all of their clips or none.
    """
    for group in buckets(np.array([u.duration for u in utterances]), batch_seconds):
        clips = [(index, utterances[index]) for index in group]
        yield collate_items([Item(i, read_utterance(u, sample_rate), u.text) for i, u in clips], len(group))


def validation_clips(config: DataConfig, sample_rate: int) -> list[Float[Tensor, " samples"]]:
    """Read the beginnings of some clips of the validation manifest, spread evenly over it; none without a manifest.

    A clip that cannot be read is left out with a warning.

    Raises:
        ValueError: None of them can be read.
    """
    if config.validation is None:
        return []
    utterances = read_manifest(config.validation)
    kept = Filter(config.min_seconds).select(utterances, config.validation)
    chosen = dict.fromkeys(np.linspace(0, len(kept), config.validation_clips, endpoint=False).astype(int).tolist())
    samples = round(config.validation_seconds * sample_rate)
    clips = []
    for index in chosen if kept else ():
        try:
            clips.append(torch.from_numpy(read_utterance(utterances[kept[index]], sample_rate, samples=samples)))
        except UNREADABLE as error:
            _log.warning("left out of the validation: %s", error)
    if not clips:
        raise ValueError(f"no clip of {config.validation} can be validated on")
    return clips


def read_manifests(paths: Sequence[str | Path]) -> list[Utterance]:
    """Read several manifests as one."""
    return [utterance for path in paths for utterance in read_manifest(path)]


def _as_is(batch: Any) -> Any:
    return batch


def _check(config: DataConfig, speeds: Sequence[float]) -> None:
    if bool(config.manifest) == bool(config.shards):
        raise ValueError(f"manifest is {config.manifest} and shards is {config.shards}; expected one of the two")
    if config.shards and config.audio_cache:
        raise ValueError("audio_cache keeps the clips of manifests; leave it out for shards")
    if config.crop_seconds is None and not config.batch_seconds > 0:
        raise ValueError(f"batch_seconds is {config.batch_seconds}, expected seconds above 0")
    if config.crop_seconds is not None and (not config.crop_seconds > 0 or config.batch_size < 1):
        raise ValueError(
            f"crop_seconds is {config.crop_seconds} and batch_size {config.batch_size}, expected both above 0"
        )
    if config.crop_seconds is not None and speeds:
        raise ValueError(f"speeds {speeds} are for whole utterances; leave crop_seconds out (null)")
    if speeds and not min(speeds) > 0:
        raise ValueError(f"speeds is {speeds}, expected factors above 0")
