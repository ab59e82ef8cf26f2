"""Policies that merge from the bottom up: pairs of tokens (A-ToMe), frames by prediction error, density peaks."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexicodec.merging.durations import durations_from_starts
from flexicodec.merging.policies import (
    Clips,
    FloatOrPerItem,
    RatePolicy,
    Selector,
    as_floats,
    broadcast_per_item,
    check_within,
)
from flexicodec.merging.selectors.least_cost import Predictor, prediction_errors
from flexicodec.merging.selectors.path import pad_durations


class Pairs(RatePolicy):
    """Merge disjoint pairs of neighbours, those of greatest total cosine, in as many rounds as the rate needs (A-ToMe).

    Adjacent token merging (arXiv 2306.16009) as the study of dynamic codecs has it, on features instead of attention
    keys. Each round merges at most every second token and takes the plain average of the two vectors; all rounds but
    the last merge as many as they can. Half as many tokens as frames, with an even number of frames, is uniform.

    After S rounds tokens have up to 2^S frames, and every count from ceil(T / 2^S) on is reached. So a cap that is no
    power of two keeps some counts out of reach, and the fewest possible tokens are returned: 3 for 12 frames at a cap
    of 6, where 2 would do.
    """

    uses_features = True

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `seconds` and `features` are needed."""
        counts = clips.target_tokens(self.frame_rate).tolist()
        features = clips.semantic_features(self)
        rows = []
        for i, (count, length) in enumerate(zip(counts, clips.lengths.tolist(), strict=True)):
            vectors = features[i, :, :length].detach().to("cpu", torch.float64).mT
            durations = torch.ones(length, dtype=torch.long)
            rounds = length.bit_length() if clips.max_duration is None else clips.max_duration.bit_length() - 1
            for _ in range(rounds):
                pairs = min(len(vectors) - count, len(vectors) // 2)
                if pairs < 1:
                    break
                seconds = best_pairs(F.cosine_similarity(vectors[:-1], vectors[1:]).numpy(), pairs)
                starts = torch.from_numpy(~seconds)
                token = starts.cumsum(0) - 1
                sizes = torch.bincount(token)
                vectors = torch.zeros(len(sizes), vectors.shape[1], dtype=torch.float64).index_add_(0, token, vectors)
                vectors = vectors / sizes[:, None]
                durations = torch.zeros_like(sizes).index_add_(0, token, durations)
            rows.append(durations.tolist())
        return pad_durations(rows, clips.lengths.device)


def best_pairs(similarities: Float[np.ndarray, " pairs"], count: int) -> Bool[np.ndarray, " tokens"]:
    """Choose `count` disjoint pairs of neighbours of greatest total similarity; returns which tokens are a second one.

    With W(i, c) the greatest total of c pairs among the first i tokens,

        W(i, c) = max(W(i - 1, c), W(i - 2, c - 1) + similarity of tokens i - 2 and i - 1).
    """
    num_tokens = len(similarities) + 1
    totals = np.full((num_tokens + 1, count + 1), -np.inf)
    totals[:, 0] = 0.0
    for i in range(2, num_tokens + 1):
        totals[i, 1:] = np.maximum(totals[i - 1, 1:], totals[i - 2, :-1] + similarities[i - 2])

    # Backwards: a pair is taken only where it is better than none.
    second = np.zeros(num_tokens, dtype=bool)
    i = num_tokens
    left = count
    while left:
        taken = totals[i, left] > totals[i - 1, left] + 1e-12
        if taken:
            second[i - 1] = True
            left -= 1
        i -= 2 if taken else 1
    return second


@dataclass(frozen=True)
class GreedyPrediction(RatePolicy):
    """Merge the frame that is predicted best from its token's first frame, until the count is met (Elastic-Time).

    The greedy form of `LeastCost` with cost "prediction" (arXiv 2606.27320): a token grows to the right by one frame at
    a time, and its first frame never joins another token. So it can get stuck above the count: of four frames at a cap
    of 2, the two in the middle may merge first, and three tokens are left where two were asked for. Without a cap, too.

    Attributes:
        predictor: See `least_cost.Predictor`; None predicts that frames do not change.
    """

    predictor: Predictor | None = None
    uses_features = True

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `seconds` and `features` are needed."""
        counts = clips.target_tokens(self.frame_rate)
        longest = int((clips.lengths - counts).max()) + 1
        longest = min(clips.max_duration or longest, longest)
        errors = prediction_errors(clips.semantic_features(self), clips.lengths, longest, self.predictor)
        rows = []
        for i, (count, length) in enumerate(zip(counts.tolist(), clips.lengths.tolist(), strict=True)):
            of_clip = [each[i, : max(length - ahead, 0)] for ahead, each in enumerate(errors)]
            rows.append(drop_frames(of_clip, length, length - count))
        starts = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return durations_from_starts(starts.to(clips.lengths.device), clips.lengths)


def drop_frames(errors: list[Float[np.ndarray, " frames"]], num_frames: int, count: int) -> Bool[Tensor, " frames"]:
    """Merge `count` frames with the tokens before them, or as many as can be; returns which frames start a token.

    Args:
        errors: Entry k, t is the error of predicting frame t + k from frame t, the first one of its token.
        num_frames: Of the clip.
        count: Frames to merge.
    """
    starts = np.ones(num_frames, dtype=bool)
    first = np.arange(num_frames)  # of the token that the frame before a frame is in
    open_errors = np.full(num_frames, np.inf)
    if len(errors) > 1:
        open_errors[1:] = errors[1]
        first[1:] -= 1
    for _ in range(count):
        frame = int(open_errors.argmin())
        if open_errors[frame] == np.inf:
            break
        starts[frame] = False
        # Neither this frame nor the one before it can join another token any more.
        open_errors[frame - 1 : frame + 1] = np.inf
        following = frame + 1
        if following < num_frames and open_errors[following] < np.inf:
            first[following] = first[frame]
            ahead = following - first[following]
            open_errors[following] = errors[ahead][first[following]] if ahead < len(errors) else np.inf
    return torch.from_numpy(starts)


@dataclass(frozen=True)
class DensityPeaks(Selector):
    """Grow tokens around frames that many others are like (density peaks along time, VARSTok, arXiv 2509.04685).

    With S the cosines of all pairs mapped to [0, 1], a frame's density is exp of the mean of its `neighbours` largest
    S, its distance the least 1 - S to a denser frame (to the farthest, if there is none), and its peak value their
    product g. The free frame of greatest g is next: its token grows to the right, then to the left, over free frames t
    while S to it exceeds `threshold` + `penalty` * g_t.

    Neither the count nor its changes with the threshold can be foreseen: the count is not monotone, skips values, and
    gaps between tokens keep it above ceil(T / cap) even where everything may merge. Time is O(T^2 D).

    Attributes:
        threshold: One number or one per item; the paper's is 0.7, with a cap of 4. Above 1 nothing merges.
        neighbours: Largest similarities that make the density; all others of a shorter clip.
        penalty: Of other peaks.
        released: As in the code that the published weights were trained with: density exp(-mean), and the least S to a
            denser frame (1, if there is none) for a distance. Tokens then begin at isolated frames.
    """

    setting_range = (-1.0, 1.0)
    threshold: FloatOrPerItem
    neighbours: int = 10
    penalty: float = 0.2
    released: bool = False
    uses_features = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "threshold", as_floats(self.threshold, "threshold"))
        check_within(self.neighbours, "neighbours", 1, 1_000_000)
        check_within(self.penalty, "penalty", 0, 100)

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `features` are needed."""
        thresholds = broadcast_per_item(self.threshold, "threshold", len(clips.lengths))
        features = clips.semantic_features(self)
        rows = []
        for i, length in enumerate(clips.lengths.tolist()):
            frames = F.normalize(features[i, :, :length].detach().to("cpu", torch.float64).mT, dim=1)
            similar = (1 + (frames @ frames.mT).clamp(-1, 1)) / 2
            peaks = self.peaks(similar).numpy()
            joins = similar.numpy() - self.penalty * peaks > thresholds[i]
            rows.append(grow_tokens(peaks, joins, clips.max_duration))
        return pad_durations(rows, clips.lengths.device)

    def peaks(self, similar: Float[Tensor, "frames frames"]) -> Float[Tensor, " frames"]:
        """Compute each frame's density times its distance from denser frames."""
        num_frames = len(similar)
        if num_frames < 2:
            return torch.ones(num_frames, dtype=similar.dtype)
        others = similar.clone().fill_diagonal_(-1.0)
        mean = others.topk(min(self.neighbours, num_frames - 1), dim=1).values.mean(dim=1)
        density = torch.exp(-mean if self.released else mean)
        denser = density > density[:, None]
        distance = similar if self.released else 1 - similar
        to_denser = distance.masked_fill(~denser, torch.inf).amin(dim=1)
        return density * torch.where(denser.any(dim=1), to_denser, distance.amax(dim=1))


def grow_tokens(
    peaks: Float[np.ndarray, " frames"], joins: Bool[np.ndarray, "frames frames"], max_duration: int | None
) -> list[int]:
    """Grow tokens from the highest peak on; frame t may join seed s where entry s, t of `joins` is true."""
    num_frames = len(peaks)
    cap = num_frames if max_duration is None else max_duration
    token = np.full(num_frames + 1, -1)  # and one that is never free, at either end: index -1 is the last
    token[num_frames] = num_frames
    for seed in np.argsort(-peaks, kind="stable").tolist():
        if token[seed] >= 0:
            continue
        token[seed] = seed
        size = 1
        for step in (1, -1):
            frame = seed + step
            while size < cap and token[frame] < 0 and joins[seed, frame]:
                token[frame] = seed
                size += 1
                frame += step
    edges = np.flatnonzero(np.diff(token))  # the frame past the end differs from all
    return np.diff(np.append(-1, edges)).tolist() if num_frames else []
