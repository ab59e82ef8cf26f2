"""What merging loses of a codec's features before anything is quantised: a proxy that needs no decoding.

The loss is the squared distance of frames from their token's mean over the frames' squared length (NMSE, as in arXiv
2609.36951), pooled over clips.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from flexicodec.merging import ExactRate, MergingPolicy, MinimumVariance, Threshold, Uniform, merge, unmerge
from flexicodec.models.flexicodec.model import Features

PolicyAt = Callable[[float], MergingPolicy]  # of a frame rate


@dataclass(frozen=True, eq=False)
class Distortion:
    """What merging loses before anything is quantised, clip by clip.

    Attributes:
        policies: Names of the rules that chose tokens.
        frame_rates: Tokens per second asked for.
        lost: Squared distance of frames from their token's mean, summed over each clip.
        whole: Squared length of the frames, likewise.
        tokens: Tokens made of each clip.
        seconds: Of each clip.
    """

    policies: tuple[str, ...]
    frame_rates: tuple[float, ...]
    lost: Float[np.ndarray, "policies rates clips"]
    whole: Float[np.ndarray, " clips"]
    tokens: Float[np.ndarray, "policies rates clips"]
    seconds: Float[np.ndarray, " clips"]


def loss_policies(threshold_of: Callable[[float], float], rates: Sequence[float]) -> dict[str, PolicyAt]:
    """List the rules whose loss is measured, each made from a frame rate.

    Args:
        threshold_of: Gives the tau at which the corpus has a rate.
        rates: For which it will be asked.
    """
    taus = {rate: threshold_of(rate) for rate in rates}
    return {
        "one tau for all clips": partial(_threshold_at, taus),
        "lowest similarities, every clip": ExactRate,
        "least variance, every clip": MinimumVariance,
        "uniform": Uniform,
    }


def _threshold_at(taus: Mapping[float, float], rate: float) -> Threshold:
    return Threshold(taus[rate])


def clip_losses(
    features: Features,
    policies: Mapping[str, PolicyAt],
    rates: Sequence[float],
    cap: int | None,
    sample_rate: int,
) -> tuple[list[list[tuple[float, int]]], float]:
    """Measure what merging loses of one clip's semantic features under each policy at each rate.

    Returns:
        Loss and tokens by policy and rate, and the squared length of all frames.
    """
    frames, seconds = features.semantic, features.audio_lengths.cpu().double() / sample_rate
    rows: list[list[tuple[float, int]]] = []
    for policy in policies.values():
        rows.append([])
        for rate in rates:
            durations = policy(rate)(
                features.similarities, features.lengths, seconds=seconds, features=frames, max_duration=cap
            )
            lost = frames - unmerge(merge(frames, durations), durations, frames.shape[2])
            rows[-1].append((float(lost.double().square().sum()), durations.shape[1]))
    return rows, float(frames.double().square().sum())


def join_losses(
    policies: tuple[str, ...],
    rates: tuple[float, ...],
    losses: Sequence[tuple[list[list[tuple[float, int]]], float]],
    seconds: Sequence[float],
) -> Distortion:
    """Lay the losses of clips side by side."""
    table = np.array([rows for rows, _ in losses], dtype=float).reshape(len(losses), len(policies), len(rates), 2)
    lost, tokens = np.moveaxis(table, (0, 3), (2, 3))[..., 0], np.moveaxis(table, (0, 3), (2, 3))[..., 1]
    return Distortion(policies, rates, lost, np.array([whole for _, whole in losses]), tokens, np.array(seconds))
