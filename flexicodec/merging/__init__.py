"""Which neighbouring frames share a token, and the way from frames to tokens and back.

`similarity` and `durations` are pure functions, `policies` the replaceable rules that choose the durations.
"""

from flexicodec.merging.durations import (
    durations_from_starts,
    merge,
    token_index,
    unmerge,
    validate_durations,
)
from flexicodec.merging.margins import boundary_margins
from flexicodec.merging.policies import POLICIES, ExactRate, MergingPolicy, MinimumVariance, Threshold, Uniform
from flexicodec.merging.rates import check_frame_rate, target_tokens
from flexicodec.merging.running import CausalPolicy, RunningRate
from flexicodec.merging.similarity import cosine_similarities

__all__ = [
    "POLICIES",
    "CausalPolicy",
    "ExactRate",
    "MergingPolicy",
    "MinimumVariance",
    "RunningRate",
    "Threshold",
    "Uniform",
    "boundary_margins",
    "check_frame_rate",
    "cosine_similarities",
    "durations_from_starts",
    "merge",
    "target_tokens",
    "token_index",
    "unmerge",
    "validate_durations",
]
