"""What a probe sees of a clip: a codec's vectors and how long each lasts, at one choice of rate and codebooks.

The bound that tokens are held against is the same codec's encoders before anything is merged or quantised.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from flexicodec.audio import as_batch, collate
from flexicodec.corpus import Utterance, read_utterance
from flexicodec.corpus.bucketing import bucket_by_length
from flexicodec.evaluation.probes import store
from flexicodec.evaluation.systems import Setting
from flexicodec.models.codec import Codec
from flexicodec.models.flexicodec.model import Features, FlexiCodec
from flexicodec.models.nanocodec.model import NanoCodec

ENCODED_SECONDS = 60.0  # of audio in a batch, padding included


@dataclass(frozen=True)
class Representation(Setting):
    """Which of a codec's vectors to look at: those of the tokens at a setting, or what lies before all settings.

    Attributes:
        frame_rate: See `Setting`, as for the next three.
        threshold: See there.
        policy: See there.
        codebooks: See there; None for all.
        continuous: Take the encoders' features on the frame grid, neither merged nor quantised: the semantic ones
            alone where `codebooks` is 0, else both streams (FlexiCodec), or the one there is (NanoCodec).
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
    """The vectors of some clips, one clip after another.

    Attributes:
        values: In half precision.
        durations: Frames that each vector stands for.
        counts: Vectors of each clip.
        seconds: Duration of each clip.
    """

    values: Float[np.ndarray, "tokens dim"]
    durations: Int[np.ndarray, " tokens"]
    counts: Int[np.ndarray, " clips"]
    seconds: Float[np.ndarray, " clips"]

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.values.shape[1]

    @property
    def frame_rate(self) -> float:
        """Tokens per second over all clips."""
        return float(self.counts.sum() / self.seconds.sum())

    def clip(self, i: int) -> tuple[Float[np.ndarray, "tokens dim"], Int[np.ndarray, " tokens"]]:
        """Return the vectors and durations of a clip."""
        rows = slice(self._starts[i], self._starts[i + 1])
        return self.values[rows], self.durations[rows]

    @cached_property
    def _starts(self) -> Int[np.ndarray, " clips_and_end"]:
        return np.concatenate([[0], np.cumsum(self.counts)])


def extract(
    codec: Codec,
    utterances: Sequence[Utterance],
    representations: Sequence[Representation],
    *,
    cache: str | Path | None = None,
    progress: bool = False,
) -> list[ClipFeatures]:
    """Encode clips once and look up their vectors for each representation.

    Args:
        codec: The codec, which stays as it is.
        utterances: The clips.
        representations: What to look at.
        cache: Folder that keeps the vectors, each set in a file named after the codec's fingerprint, the
            representation, and the clips' files as they are; None keeps nothing.
        progress: Show a bar.

    Returns:
        The vectors, in the order of the representations; the same whether they come from the cache or not.

    Raises:
        ValueError, OSError: A clip cannot be read (probes hear all of their clips or none), the codec has no such
            rate, or no vectors to show.
    """
    if not utterances:
        raise ValueError("there are no clips to encode; is the manifest without text, or without labels?")
    paths = [cache and Path(cache) / store.name(codec, utterances, each) for each in representations]
    found = {i: ClipFeatures(**store.read(path)) for i, path in enumerate(paths) if path and path.is_file()}
    missing = [i for i in range(len(representations)) if i not in found]
    if missing:
        made = _encode(codec, utterances, [representations[i] for i in missing], progress)
        for i, features in zip(missing, made, strict=True):
            found[i] = features
            if path := paths[i]:
                store.write(path, {field.name: getattr(features, field.name) for field in fields(features)})
    return [found[i] for i in range(len(representations))]


def _encode(
    codec: Codec, utterances: Sequence[Utterance], representations: Sequence[Representation], progress: bool
) -> list[ClipFeatures]:
    """Encode clips in batches of similar length."""
    seconds = np.array([utterance.duration for utterance in utterances])
    parts: list[dict[int, tuple[np.ndarray, np.ndarray]]] = [{} for _ in representations]
    with tqdm(total=len(utterances), desc="encode", unit="clip", disable=not progress) as bar:
        for group in bucket_by_length(seconds, ENCODED_SECONDS):
            clips = [torch.from_numpy(read_utterance(utterances[i], codec.sample_rate)) for i in group]
            for held, (vectors, durations) in zip(
                parts, represent(codec, *collate(clips), representations), strict=True
            ):
                for row, i in enumerate(group):
                    valid = durations[row] > 0
                    values = vectors[row].T[valid].half().cpu().numpy()
                    held[i] = values, durations[row][valid].cpu().numpy()
            bar.update(len(group))
    return [_joined([held[i] for i in range(len(utterances))], seconds) for held in parts]


def _joined(clips: Sequence[tuple[np.ndarray, np.ndarray]], seconds: np.ndarray) -> ClipFeatures:
    return ClipFeatures(
        values=np.concatenate([values for values, _ in clips]),
        durations=np.concatenate([durations for _, durations in clips]),
        counts=np.array([len(durations) for _, durations in clips]),
        seconds=seconds,
    )


def represent(
    codec: Codec,
    audio: Float[Tensor, "batch samples"],
    lengths: Int[Tensor, " batch"],
    representations: Sequence[Representation],
) -> Iterator[tuple[Float[Tensor, "batch dim tokens"], Int[Tensor, "batch tokens"]]]:
    """Yield the vectors of a batch and the frames that each stands for, 0 at padding, for each representation.

    Raises:
        ValueError: The codec has no such rate, or does not show its features.
        NotImplementedError: The codec has no vectors per token.
    """
    features = codec.features(audio, lengths) if isinstance(codec, FlexiCodec) else None
    for wanted in representations:
        if wanted.continuous:
            yield _continuous(codec, audio, lengths, features, wanted.codebooks)
        else:
            choices = wanted.choices | ({} if wanted.codebooks is None else {"num_codebooks": wanted.codebooks})
            tokens = (
                codec.encode(audio, lengths, **choices) if features is None else codec.tokenize(features, **choices)
            )
            yield codec.embed(tokens), tokens.durations


def _continuous(
    codec: Codec,
    audio: Float[Tensor, "batch samples"],
    lengths: Int[Tensor, " batch"],
    features: Features | None,
    num_codebooks: int | None,
) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, "batch frames"]]:
    """Return the encoders' features, every frame standing for itself."""
    if features is not None:
        streams = [features.semantic]
        if num_codebooks != 0 and features.acoustic is not None:
            streams.append(features.acoustic)
        values, frames = torch.cat(streams, dim=1), features.lengths
    elif isinstance(codec, NanoCodec):
        batch, valid = as_batch(
            audio, lengths, sample_rate=None, target_sample_rate=codec.sample_rate, device=codec.device
        )
        with torch.no_grad():
            values, frames = codec.encode_latents(batch, valid), torch.as_tensor(codec.num_frames(valid))
    else:
        raise ValueError(f"{type(codec).__name__} does not show its features before they are quantised: no bound")
    return values, (torch.arange(values.shape[-1], device=values.device) < frames[:, None]).long()
