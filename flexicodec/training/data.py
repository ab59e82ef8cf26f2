"""Speech for training: manifests, audio held in memory, whole utterances in duration buckets and random crops.

Everything random is a function of (seed, step, item), so that a run can be repeated or resumed exactly.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from flexicodec.audio import read_audio
from flexicodec.files import replacing

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest: where the audio lies, how long it is, who speaks and what is said."""

    path: Path
    seconds: float
    text: str | None = None
    speaker: str | None = None
    corpus: str | None = None


def read_manifest(path: str | Path) -> list[Utterance]:
    """Read a JSONL manifest with `path` (relative to it), `duration_s` and optionally text_norm, speaker, corpus.

    Raises:
        ValueError: A line is not JSON or lacks `path` or `duration_s`; the message names file and line.
    """
    path = Path(path)
    utterances = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            utterances.append(
                Utterance(
                    path=path.parent / row["path"],
                    seconds=float(row["duration_s"]),
                    text=row.get("text_norm"),
                    speaker=row.get("speaker"),
                    corpus=row.get("corpus"),
                )
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: expected a JSON object with path and duration_s ({error!r})") from error
    if not utterances:
        raise ValueError(f"{path} lists no utterances")
    return utterances


class AudioStore:
    """All audio of a manifest, decoded once to 16-bit and 16 kHz and held in one memory-mapped file.

    Args:
        utterances: What to hold.
        cache: File to keep the decoded samples in between runs; None decodes into memory only.
    """

    def __init__(self, utterances: list[Utterance], cache: str | Path | None = None):
        self.utterances = utterances
        cache = Path(cache) if cache is not None else None
        if cache is None or not cache.exists():
            samples, offsets = _decode(utterances)
            if cache is not None:
                cache.parent.mkdir(parents=True, exist_ok=True)
                with replacing(cache) as part, part.open("wb") as file:
                    np.savez(file, samples=samples, offsets=offsets)
        else:
            with np.load(cache) as held:
                samples, offsets = held["samples"], held["offsets"]
            if len(offsets) != len(utterances) + 1:
                raise ValueError(f"{cache} holds {len(offsets) - 1} clips, the manifest {len(utterances)}: delete it")
        self._samples, self._offsets = samples, offsets

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def lengths(self) -> np.ndarray:
        """Samples of every clip."""
        return np.diff(self._offsets)

    def __getitem__(self, index: int) -> np.ndarray:
        """The samples of one clip, float32 in [-1, 1]."""
        return self._samples[self._offsets[index] : self._offsets[index + 1]].astype(np.float32) / 32768.0


def _decode(utterances: list[Utterance]) -> tuple[np.ndarray, np.ndarray]:
    clips = []
    for utterance in tqdm(utterances, desc="decode", disable=None):
        audio = read_audio(utterance.path, sample_rate=SAMPLE_RATE, channels="mix")[0].numpy()
        clips.append((audio * 32768.0).round().clip(-32768, 32767).astype(np.int16))
    return np.concatenate(clips), np.concatenate([[0], np.cumsum([len(c) for c in clips])])


@dataclass(frozen=True)
class Batch:
    """Padded audio, valid samples per item, and the texts where there are any."""

    audio: Float[Tensor, "batch samples"]
    lengths: Int[Tensor, " batch"]
    texts: list[str | None]

    def to(self, device: torch.device) -> "Batch":
        """Move the tensors."""
        return Batch(self.audio.to(device), self.lengths.to(device), self.texts)


def collate_arrays(clips: list[np.ndarray], texts: list[str | None]) -> Batch:
    """Pad clips with zeros to the longest."""
    audio = torch.zeros(len(clips), max(len(c) for c in clips))
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    return Batch(audio, torch.tensor([len(c) for c in clips]), texts)


class BucketedUtterances:
    """Whole utterances in batches of similar length, holding about `batch_seconds` of audio each.

    Args:
        store: The audio.
        batch_seconds: Upper bound of audio per batch, padding included.
        seed: Of the order and of the speed changes.
        speeds: Factors to change speed (and pitch) by, drawn per utterance; () for none.
    """

    def __init__(self, store: AudioStore, batch_seconds: float, seed: int, speeds: tuple[float, ...] = ()):
        self.store, self.batch_seconds, self.seed, self.speeds = store, batch_seconds, seed, speeds

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield every utterance once, in an order that depends on (seed, epoch) alone."""
        random = np.random.default_rng([self.seed, epoch])
        lengths = self.store.lengths / SAMPLE_RATE
        order = np.argsort(lengths * random.uniform(0.9, 1.1, len(lengths)))
        batches: list[list[int]] = []
        batch: list[int] = []
        for index in order:
            longest = max(lengths[index], max((lengths[i] for i in batch), default=0.0))
            if batch and longest * (len(batch) + 1) > self.batch_seconds:
                batches.append(batch)
                batch = []
            batch.append(int(index))
        batches.append(batch)
        for position in random.permutation(len(batches)):
            clips = [self._clip(index, random) for index in batches[position]]
            yield collate_arrays(clips, [self.store.utterances[i].text for i in batches[position]])

    def _clip(self, index: int, random: np.random.Generator) -> np.ndarray:
        clip = self.store[index]
        speed = float(random.choice(self.speeds)) if self.speeds else 1.0
        return clip if speed == 1.0 else soxr.resample(clip, SAMPLE_RATE * speed, SAMPLE_RATE, quality="LQ")


class RandomCrops:
    """Endless batches of random crops, every second of speech equally likely.

    Args:
        store: The audio.
        batch_size: Crops per batch.
        crop_seconds: Length of a crop; shorter clips are padded with zeros and keep their true length.
        seed: Batch number `step` is a function of (seed, step) alone.
    """

    def __init__(self, store: AudioStore, batch_size: int, crop_seconds: float, seed: int):
        self.store, self.batch_size, self.seed = store, batch_size, seed
        self.crop = round(crop_seconds * SAMPLE_RATE)
        self._weights = np.cumsum(store.lengths) / store.lengths.sum()

    def batch(self, step: int) -> Batch:
        """Make batch number `step`, always the same for the same seed."""
        clips = []
        for item in range(self.batch_size):
            random = np.random.default_rng([self.seed, step, item])
            clip = self.store[int(np.searchsorted(self._weights, random.random(), side="right"))]
            start = int(random.integers(0, max(1, len(clip) - self.crop + 1)))
            clips.append(clip[start : start + self.crop])
        return collate_arrays(clips, [None] * len(clips))
