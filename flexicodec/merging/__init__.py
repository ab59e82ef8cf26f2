"""Merging: which neighbouring frames share a token, and the way from frames to tokens and back.

`durations` has similarities, merging and unmerging as pure functions, `policies` the interface of the rules that choose
durations, `selectors` and `rate_control` these rules, `registry` their names, `aggregators` what makes one vector of a
token's frames, and `positions` the same and its reverse with regard to the frames' order.
"""

from flexicodec.merging.durations import (
    cosine_similarities,
    durations_from_starts,
    merge,
    token_index,
    unmerge,
    validate_durations,
)
from flexicodec.merging.policies import CausalPolicy, MergingPolicy, check_frame_rate, target_tokens
from flexicodec.merging.rate_control import RateController
from flexicodec.merging.registry import POLICIES, make_policy
from flexicodec.merging.selectors.centroid import CentroidRate
from flexicodec.merging.selectors.clustering import DensityPeaks, GreedyPrediction, Pairs
from flexicodec.merging.selectors.least_cost import LeastCost, MinimumVariance, equal_mass
from flexicodec.merging.selectors.path import PathLength, PathThreshold
from flexicodec.merging.selectors.running import Centroid, RunningCost
from flexicodec.merging.selectors.similarity import ExactRate, Shuffled, Threshold, TopCuts, Uniform
from flexicodec.merging.wished import fit_durations, snap

__all__ = [
    "POLICIES",
    "CausalPolicy",
    "Centroid",
    "CentroidRate",
    "DensityPeaks",
    "ExactRate",
    "GreedyPrediction",
    "LeastCost",
    "MergingPolicy",
    "MinimumVariance",
    "Pairs",
    "PathLength",
    "PathThreshold",
    "RateController",
    "RunningCost",
    "Shuffled",
    "Threshold",
    "TopCuts",
    "Uniform",
    "check_frame_rate",
    "cosine_similarities",
    "durations_from_starts",
    "equal_mass",
    "fit_durations",
    "make_policy",
    "merge",
    "snap",
    "target_tokens",
    "token_index",
    "unmerge",
    "validate_durations",
]
