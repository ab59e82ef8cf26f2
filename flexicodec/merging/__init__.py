"""Merging: which neighbouring frames share a token, and the way from frames to tokens and back.

`durations` has similarities, merging and unmerging as pure functions, `policies` and `rate_control` the rules that
choose durations, `aggregators` what makes one vector of a token's frames, and `positions` the same and its reverse with
regard to the frames' order.
"""

from flexicodec.merging.durations import (
    cosine_similarities,
    durations_from_starts,
    merge,
    token_index,
    unmerge,
    validate_durations,
)
from flexicodec.merging.policies import (
    POLICIES,
    ExactRate,
    MergingPolicy,
    MinimumVariance,
    Threshold,
    Uniform,
    check_frame_rate,
    target_tokens,
)
from flexicodec.merging.rate_control import CausalPolicy, RateController

__all__ = [
    "POLICIES",
    "CausalPolicy",
    "ExactRate",
    "MergingPolicy",
    "MinimumVariance",
    "RateController",
    "Threshold",
    "Uniform",
    "check_frame_rate",
    "cosine_similarities",
    "durations_from_starts",
    "merge",
    "target_tokens",
    "token_index",
    "unmerge",
    "validate_durations",
]
