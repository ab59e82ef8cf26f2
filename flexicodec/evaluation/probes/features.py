"""Token vectors that probes are fitted to: a codec's embeddings of clips at one setting, cached on disk.

The upper bound is the output of the same codec's encoders before merging and quantisation.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor
from tqdm import tqdm

from flexicodec.audio import as_batch, collate
from flexicodec.corpus import Utterance, read_utterance
from flexicodec.corpus.bucketing import bucket_by_length
from flexicodec.evaluation.systems import Setting
from flexicodec.models.codec import Codec
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.flexicodec.network import Features
from flexicodec.models.nanocodec.model import NanoCodec
from flexicodec.weights import save_tensors

Spread = Literal["frames", "tokens"]  # a vector counts as many frames as it lasts, or once

BATCH_SECONDS = 60.0  # of audio, padding included
CACHE_VERSION = 2  # rises when the cached arrays change


@dataclass(frozen=True)
class Representation(Setting):
    """The vectors of a codec that a probe is fitted to: token embeddings at a setting, or encoder features.

    Attributes:
        continuous: Encoder features on the frame grid, neither merged nor quantised: the semantic ones alone where
            `codebooks` is 0, else both streams (FlexiCodec), or the only one (NanoCodec).
    """

    continuous: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.continuous and self.choices:
            given = ", ".join(f"{name}={value!r}" for name, value in self.choices.items())
            raise ValueError(f"continuous features lie on the frame grid and take no {given}")

    def __str__(self) -> str:
        return "continuous" if self.continuous else self.rate or "own rate"


@dataclass(frozen=True, eq=False)
class ClipFeatures:
    """Vectors of clips in half precision, the frames that each vector lasts, and the seconds of each clip."""

    values: list[Float[np.ndarray, "tokens dim"]]
    durations: list[Int[np.ndarray, " tokens"]]
    seconds: Float[np.ndarray, " clips"]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def frame_rate(self) -> float:
        """Tokens per second over all clips."""
        return sum(map(len, self.durations)) / float(self.seconds.sum())

    @classmethod
    def load(cls, path: Path) -> "ClipFeatures":
        """Read a file of `save`."""
        try:
            arrays = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); remove it to encode the clips again") from error
        # values  a a b b b c    counts  2 3 1    cut at 2 5
        starts = np.cumsum(arrays["counts"])[:-1]
        return cls(np.split(arrays["values"], starts), np.split(arrays["durations"], starts), arrays["seconds"])

    def save(self, path: Path) -> None:
        """Write all vectors one after another, the number of each clip's (`counts`), and the rest."""
        counts = np.array([len(each) for each in self.values])
        arrays = {
            "values": np.concatenate(self.values),
            "durations": np.concatenate(self.durations),
            "counts": counts,
            "seconds": self.seconds,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(arrays, path)


def sample_hours(seconds: Sequence[float], hours: float | None, seed: int = 0) -> list[int]:
    """Sample clips at random until they last `hours`, the last one included; return their indices in order."""
    if hours is None:
        return list(range(len(seconds)))
    if not hours > 0:
        raise ValueError(f"hours is {hours}; expected more than 0")
    order = np.random.default_rng([seed, 5]).permutation(len(seconds))
    # Clips in random order; those that begin before the hours are over.
    ends = np.cumsum(np.asarray(seconds)[order])
    begins = np.concatenate([[0.0], ends[:-1]])
    return sorted(order[begins < 3600 * hours].tolist())


def extract(
    codec: Codec,
    utterances: Sequence[Utterance],
    representations: Sequence[Representation],
    *,
    cache: str | Path | None = None,
    progress: bool = False,
) -> list[ClipFeatures]:
    """Encode clips once and return their vectors for each representation; a clip that cannot be read is an error.

    `cache` is a folder for the vectors, with a file per representation, named after the codec's fingerprint, the
    representation, and the state of the clips' files; None caches nothing.
    """
    if not utterances:
        raise ValueError("there are no clips to encode; is the manifest without text, or without labels?")
    # What the cache has already.
    found: dict[Representation, ClipFeatures] = {}
    paths: dict[Representation, Path] = {}
    for wanted in representations:
        if cache is not None:
            paths[wanted] = Path(cache) / _cache_name(codec, utterances, wanted)
            if paths[wanted].is_file():
                found[wanted] = ClipFeatures.load(paths[wanted])
    # All missing ones at once, since the encoders are the costly part.
    missing = [wanted for wanted in representations if wanted not in found]
    found |= _encode(codec, utterances, missing, progress)
    for wanted in missing:
        if wanted in paths:
            found[wanted].save(paths[wanted])
    return [found[wanted] for wanted in representations]


def _encode(
    codec: Codec, utterances: Sequence[Utterance], representations: Sequence[Representation], progress: bool
) -> dict[Representation, ClipFeatures]:
    """Encode clips in batches of similar length."""
    if not representations:
        return {}
    seconds = np.array([utterance.duration for utterance in utterances])
    nothing = [np.zeros(0)] * len(utterances)
    found = {wanted: ClipFeatures(nothing.copy(), nothing.copy(), seconds) for wanted in representations}
    with tqdm(total=len(utterances), desc="encode", unit="clip", disable=not progress) as bar:
        for group in bucket_by_length(seconds, BATCH_SECONDS):
            clips = [torch.from_numpy(read_utterance(utterances[i], codec.sample_rate)) for i in group]
            vectors_of = _represent(codec, *collate(clips), representations)
            for features, (vectors, durations) in zip(found.values(), vectors_of, strict=True):
                # Back from the batch's rows to the order of the clips, without padding.
                for row, i in enumerate(group):
                    valid = durations[row] > 0
                    features.values[i] = vectors[row].T[valid].half().cpu().numpy()
                    features.durations[i] = durations[row][valid].cpu().numpy()
            bar.update(len(group))
    return found


def _represent(
    codec: Codec,
    audio: Float[Tensor, "batch samples"],
    lengths: Int[Tensor, " batch"],
    representations: Sequence[Representation],
) -> Iterator[tuple[Float[Tensor, "batch dim tokens"], Int[Tensor, "batch tokens"]]]:
    """Yield vectors and durations (0 at padding) of a batch for each representation."""
    # FlexiCodec's encoders run once for all settings; other codecs encode anew for each.
    features = codec.features(audio, lengths) if isinstance(codec, FlexiCodec) else None
    for wanted in representations:
        if wanted.continuous:
            yield _continuous(codec, audio, lengths, features, wanted.codebooks)
            continue
        choices = wanted.choices
        if wanted.codebooks is not None:
            choices["num_codebooks"] = wanted.codebooks
        if features is None:
            tokens = codec.encode(audio, lengths, **choices)
        else:
            tokens = codec.tokenize(features, **choices)
        yield codec.embed(tokens), tokens.durations


def _continuous(
    codec: Codec,
    audio: Float[Tensor, "batch samples"],
    lengths: Int[Tensor, " batch"],
    features: Features | None,
    num_codebooks: int | None,
) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, "batch frames"]]:
    """Return encoder features, with a duration of 1 for each valid frame."""
    if features is not None:
        frames = features.lengths
        values = features.semantic
        if num_codebooks != 0 and features.acoustic is not None:
            values = torch.cat([values, features.acoustic], dim=1)
    elif isinstance(codec, NanoCodec):
        rate = codec.sample_rate
        # NanoCodec has no `features`; its encoder takes audio at its own rate.
        batch, valid = as_batch(audio, lengths, sample_rate=None, target_sample_rate=rate, device=codec.device)
        with torch.no_grad():
            values = codec.encode_latents(batch, valid)
        frames = torch.as_tensor(codec.num_frames(valid))
    else:
        raise ValueError(f"{type(codec).__name__} does not offer its features before quantisation; use --no-bound")
    return values, (torch.arange(values.shape[-1], device=values.device) < frames[:, None]).long()


def _cache_name(codec: Codec, utterances: Sequence[Utterance], representation: Representation) -> str:
    """Name the cache file after everything that its content depends on."""
    files = {}
    for path in {utterance.path for utterance in utterances}:
        state = os.stat(path)
        files[path] = [state.st_size, state.st_mtime_ns]
    # Size and time of change stand for the content of a file.
    clips = [[str(u.path.resolve()), u.start, u.duration, *files[u.path]] for u in utterances]
    content = json.dumps([CACHE_VERSION, codec.fingerprint, asdict(representation), clips])
    return hashlib.sha256(content.encode()).hexdigest()[:24] + ".safetensors"
