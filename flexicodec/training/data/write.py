"""Writing tar shards in WebDataset's layout, with the index that makes them quick to open; see `tar` for the layout."""

import io
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from flexicodec.corpus.manifest import Utterance, spoken
from flexicodec.corpus.reading import UNREADABLE, header, read_utterance
from flexicodec.io_utils import AUDIO_SUFFIXES, replacing
from flexicodec.training.data.tar import Member, index_path, walk


@dataclass(frozen=True)
class WrittenShards:
    """What `write_shards` did.

    Attributes:
        shards: The files.
        clips: Clips in them.
        unreadable: Utterances that could not be read, with the reason.
    """

    shards: list[Path]
    clips: int
    unreadable: list[tuple[Utterance, str]]


def write_shards(
    utterances: Sequence[Utterance], folder: str | os.PathLike[str], clips_per_shard: int = 500, seed: int = 0
) -> WrittenShards:
    """Write utterances to `shard-000000.tar` and so on, in random order, as streams are shuffled only nearby.

    Whole files are copied as they are; stretches of files become 16-bit FLAC at the file's rate, channels mixed.

    Args:
        utterances: What to write.
        folder: Where to; made if need be.
        clips_per_shard: Clips per file.
        seed: Of the order.

    Raises:
        ValueError: There are shards in the folder already, or no utterance can be read.
    """
    folder = Path(folder)
    if clips_per_shard < 1:
        raise ValueError(f"clips_per_shard is {clips_per_shard}, expected at least 1")
    if any(folder.glob("shard-*.tar")):
        raise ValueError(f"{folder} holds shards already; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(seed).permutation(len(utterances)).tolist()
    shards: list[Path] = []
    unreadable: list[tuple[Utterance, str]] = []
    clips = 0
    with tqdm(total=len(order), unit="clip", disable=None) as bar:
        for begin in range(0, len(order), clips_per_shard):
            shard = folder / f"shard-{begin // clips_per_shard:06d}.tar"
            with replacing(shard) as part:
                with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
                    for number in order[begin : begin + clips_per_shard]:
                        bar.update()
                        try:
                            suffix, audio, seconds = _audio(utterances[number])
                        except UNREADABLE as error:
                            unreadable.append((utterances[number], str(error)))
                            continue
                        _add(tar, f"{number:09d}{suffix}", audio)
                        known = {"duration": seconds, **spoken(utterances[number])}
                        _add(tar, f"{number:09d}.json", json.dumps(known, ensure_ascii=False).encode())
                found = list(walk(part))
            clips += len(found)
            shards.append(shard)
            _write_index(shard, found)
    if not clips:
        raise ValueError(f"none of {len(utterances)} utterances can be read; the first: {unreadable[0][1]}")
    return WrittenShards(shards, clips, unreadable)


def _audio(utterance: Utterance) -> tuple[str, bytes, float]:
    """A clip's suffix, bytes and seconds: its file where it is one, else a FLAC file of its stretch."""
    rate, frames = header(utterance.path)
    seconds = frames / rate
    suffix = utterance.path.suffix.lower()
    if utterance.start == 0 and abs(utterance.duration - seconds) < 0.002 and suffix in AUDIO_SUFFIXES:
        return suffix, utterance.path.read_bytes(), seconds
    audio = read_utterance(utterance, rate)
    held = io.BytesIO()
    soundfile.write(held, (audio * 2**15).round().clip(-(2**15), 2**15 - 1).astype(np.int16), rate, format="FLAC")
    return ".flac", held.getvalue(), len(audio) / rate


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _write_index(shard: Path, found: Sequence[Member]) -> None:
    rows: list[dict[str, Any]] = [{"tar_bytes": shard.stat().st_size}]
    for member in found:
        place = {"name": member.utterance.path.name, "offset": member.offset, "size": member.size}
        rows.append({**place, "duration": member.utterance.duration, **spoken(member.utterance)})
    with replacing(index_path(shard)) as part:
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
