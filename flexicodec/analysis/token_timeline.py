"""Tokens in time: their boundaries in seconds, their tiers for Praat, and the threshold they correspond to."""

import os
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.corpus.alignments.alignment import Segment, write_ctm, write_textgrid
from flexicodec.merging import MergingPolicy, Threshold
from flexicodec.tokens import Tokens


@dataclass(frozen=True, eq=False)
class TokenTimeline:
    """The tokens of one clip on the frame grid, with the clip's audio where an analysis needs it."""

    durations: Int[np.ndarray, " tokens"]  # frames, all above 0
    frame_seconds: float
    seconds: float  # of the clip; the last frame may end after it, or before
    max_duration: int | None = 8  # frames; None for no cap
    audio: Float[np.ndarray, " samples"] | None = None
    sample_rate: int = 16_000  # Hz, of `audio`

    def __post_init__(self) -> None:
        durations = np.asarray(self.durations)
        if durations.ndim != 1 or not len(durations) or durations.dtype.kind not in "iu" or durations.min() < 1:
            raise ValueError(
                f"durations are {durations.dtype} of shape {durations.shape}; expected one token or more, each a whole "
                "number of frames above 0 (was padding left in, or are they in seconds?)"
            )
        if self.max_duration is not None and durations.max() > self.max_duration:
            raise ValueError(f"a token has {durations.max()} frames, more than max_duration={self.max_duration}")
        object.__setattr__(self, "durations", durations.astype(np.int64))
        if not (self.frame_seconds > 0 and self.seconds > 0):
            raise ValueError(
                f"a frame lasts {self.frame_seconds} s and the clip {self.seconds} s; expected seconds above 0"
            )
        if abs(self.num_frames * self.frame_seconds - self.seconds) > max(2 * self.frame_seconds, 0.1):
            raise ValueError(
                f"durations sum to {self.num_frames} frames, {self.num_frames * self.frame_seconds:g} s, but the clip "
                f"lasts {self.seconds:g} s; are they of another clip?"
            )

    @classmethod
    def of(cls, tokens: Tokens, audio: Float[np.ndarray, " samples"] | None = None) -> "TokenTimeline":
        """Take the tokens of one clip, and its audio at the codec's rate."""
        if len(tokens) != 1:
            raise ValueError(f"tokens are of {len(tokens)} clips; expected those of one: tokens[i]")
        rate = tokens.format.sample_rate
        seconds = float(tokens.seconds[0])
        if audio is not None and abs(len(audio) / rate - seconds) > 0.5 / rate:
            raise ValueError(
                f"audio lasts {len(audio) / rate:g} s at {rate} Hz, the tokens {seconds:g} s; "
                "is it at another rate, or of another clip?"
            )
        durations = tokens.durations[0, : int(tokens.token_lengths[0])].cpu().numpy()
        frame_seconds = tokens.format.frame_size / rate
        return cls(durations, frame_seconds, seconds, tokens.format.max_duration, audio, rate)

    @property
    def num_frames(self) -> int:
        """Frames of the clip."""
        return int(self.durations.sum())

    @property
    def num_tokens(self) -> int:
        """Tokens of the clip."""
        return len(self.durations)

    def with_durations(self, durations: Int[np.ndarray, " tokens"]) -> "TokenTimeline":
        """Return the same clip with other tokens, which have to cover the same frames."""
        if int(np.sum(durations)) != self.num_frames:
            raise ValueError(f"durations sum to {int(np.sum(durations))} frames, but the clip has {self.num_frames}")
        return replace(self, durations=durations)

    def cut(self, policy: MergingPolicy, similarities: Float[np.ndarray, " pairs"]) -> Int[np.ndarray, " tokens"]:
        """Return the durations that a policy gives the clip, by the similarity of each frame with the next."""
        values = torch.as_tensor(np.asarray(similarities))[None]
        lengths = torch.tensor([self.num_frames])
        # In a clip of one second, a rate of N Hz is N tokens.
        return policy(values, lengths, seconds=[1.0], max_duration=self.max_duration)[0].numpy()

    def boundaries(self, offset: float = 0.0) -> Float[np.ndarray, " boundaries"]:
        """Return the seconds at which tokens after the first start, shifted by `offset`; those inside the clip."""
        times = np.cumsum(self.durations)[:-1] * self.frame_seconds + offset
        return times[(times > 0) & (times < self.seconds)]

    def middles(self, offset: float = 0.0) -> Float[np.ndarray, " tokens"]:
        """Return the midpoint of each token in seconds; the last token ends with the clip, if not before."""
        last_frames = np.cumsum(self.durations)
        ends = np.minimum(last_frames * self.frame_seconds, self.seconds)
        starts = np.minimum((last_frames - self.durations) * self.frame_seconds, self.seconds)
        return (starts + ends) / 2 + offset


def token_tiers(tokens: Tokens, i: int = 0) -> dict[str, tuple[Segment, ...]]:
    """Return the tokens of clip i as tiers of segments.

    Returns:
        Tier "durations", labelled with the frames of each token; tier "codes", labelled with its semantic code or, for
        a codec without, with its first acoustic one.
    """
    clip = tokens[i]
    codes = clip.acoustic[0, 0] if clip.semantic is None else clip.semantic[0]
    times = clip.times(0).tolist()
    tiers: dict[str, tuple[Segment, ...]] = {}
    for name, labels in (("durations", clip.durations[0]), ("codes", codes)):
        spans = zip(times, labels.tolist(), strict=True)
        tiers[name] = tuple(Segment(start, end, str(label)) for (start, end), label in spans)
    return tiers


def save_textgrid(tokens: Tokens, path: str | os.PathLike[str]) -> None:
    """Write the tokens of one clip as a TextGrid with the tiers of `token_tiers`."""
    _check_single(tokens)
    write_textgrid(path, token_tiers(tokens), float(tokens.seconds[0]))


def save_ctm(tokens: Tokens, path: str | os.PathLike[str], utterance: str) -> None:
    """Write the tokens of one clip as CTM lines `utterance 1 start duration frames:code`."""
    _check_single(tokens)
    tiers = token_tiers(tokens)
    segments = []
    for token, code in zip(tiers["durations"], tiers["codes"], strict=True):
        segments.append(Segment(token.start, token.end, f"{token.label}:{code.label}"))
    write_ctm(path, {utterance: segments})


def _check_single(tokens: Tokens) -> None:
    if len(tokens) != 1:
        raise ValueError(f"tokens are of {len(tokens)} clips, but a file holds one; save each: tokens[i]")


def boundary_mask(tokens: Tokens) -> Bool[Tensor, " pairs"]:
    """Return for each pair of neighbouring frames of a clip whether a new token starts between them."""
    # frames     a a b b b c      durations 2 3 1      last frames 1 4 5
    # pairs       . x . . x       a boundary follows the last frame of a token
    mask = torch.zeros(int(tokens.frame_lengths[0]), dtype=torch.bool)
    mask[tokens[0].durations[0].cpu().cumsum(0) - 1] = True
    return mask[:-1]


def effective_threshold(tokens: Tokens, similarities: Float[Tensor, " pairs"]) -> float | None:
    """Return the threshold that gives the tokens of a clip, for tokens that were chosen by frame rate.

    It is the highest similarity at which frames were kept apart; boundaries that only keep a token within
    `max_duration` do not count.

    Args:
        tokens: One clip.
        similarities: Cosine of each frame with the next one.

    Returns:
        The threshold, -1 if all boundaries are due to `max_duration`; None where no threshold gives these tokens
        (uniform durations, say).
    """
    similarities = similarities.detach().cpu()
    is_boundary = boundary_mask(tokens)
    lowest_merged = 2.0  # above any cosine
    if not is_boundary.all():
        lowest_merged = float(similarities[~is_boundary].min())
    chosen = similarities[is_boundary & (similarities < lowest_merged)]
    threshold = float(chosen.max()) if len(chosen) else -1.0
    lengths = tokens.frame_lengths.cpu()
    durations = Threshold(threshold)(similarities[None], lengths, max_duration=tokens.format.max_duration)
    return threshold if torch.equal(durations, tokens[0].durations.cpu()) else None
