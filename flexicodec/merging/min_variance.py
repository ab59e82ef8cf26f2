"""Minimum-variance segmentation by dynamic programming.

For a given number of tokens it finds the boundaries with the least squared distance of frames from their token's mean:
a bound on what any cheaper policy can reach.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def min_variance_durations(
    features: Float[Tensor, "batch dim frames"],
    num_tokens: Int[Tensor, " batch"],
    lengths: Int[Tensor, " batch"],
    max_duration: int | None,
) -> Int[Tensor, "batch tokens"]:
    """Split every item into exactly `num_tokens` tokens with the least squared deviation from their means.

    The cost of a segmentation is the sum over tokens of sum_t ||x_t - mean||^2, in float64. With best(n, t) the least
    cost of the first t frames in n tokens,

        best(n, t) = min over d <= max_duration of best(n - 1, t - d) + cost of frames t - d ... t - 1,

    and since n tokens hold at least n frames it is enough to know it for the slack k = t - n, up to the largest slack
    T - N of the batch. Time is O(max_duration * (D * T + N * (T - N))), memory a byte for each of N * (T - N) choices.
    Among equals the longest last token wins.

    Args:
        features: semantic features; frames past the length do not matter.
        num_tokens: the count for every item, which has to be feasible.
        lengths: frames of every item.
        max_duration: most frames per token; None for no cap.
    """
    longest_item, most_tokens = int(lengths.max()), int(num_tokens.max())
    slacks = int((lengths - num_tokens).max()) + 1  # the values that k takes
    longest = slacks if max_duration is None else min(max_duration, slacks)  # one token can take up all the slack
    costs = _token_costs(features[..., :longest_item], longest, most_tokens + slacks)

    best = costs.new_full((len(features), slacks), torch.inf)  # [batch, slack], for n tokens
    best[:, 0] = 0.0
    # For every n and k the last token's duration, as `longest - duration`.
    shape = (most_tokens, len(features), slacks)
    choices = torch.empty(shape, dtype=torch.uint8 if longest <= 256 else torch.int32, device=features.device)
    for n in range(1, most_tokens + 1):
        earlier = F.pad(best, (longest - 1, 0), value=torch.inf).unfold(1, longest, 1)  # k - (longest - 1) ... k
        best, choice = (earlier + costs[:, n : n + slacks]).min(-1)
        choices[n - 1] = choice

    slack = lengths - num_tokens
    durations = []
    for n in range(most_tokens, 0, -1):
        duration = longest - choices[n - 1].gather(1, slack[:, None])[:, 0].long()
        duration = torch.where(n <= num_tokens, duration, 0)
        slack = slack - (duration - 1).clamp(min=0)
        durations.append(duration)
    return torch.stack(durations[::-1], dim=1)


def _token_costs(
    features: Float[Tensor, "batch dim frames"], longest: int, num_ends: int
) -> Float[Tensor, "batch ends durations"]:
    """Tabulate every token's cost by its end (the first frame after it) and by `longest - duration`; inf where none.

    Tokens grow to the left by one frame at a time and mean and cost follow (Welford's update). That costs no more than
    differences of prefix sums, and frames that are equal cost exactly nothing, so that ties are true ties.
    """
    frames = features.detach().double().mT.contiguous()
    batch, num_frames, _ = frames.shape
    table = frames.new_full((batch, max(num_ends, num_frames + 1), longest), torch.inf)
    mean, cost = frames, frames.new_zeros(batch, num_frames)
    table[:, 1 : num_frames + 1, longest - 1] = cost
    for duration in range(2, longest + 1):
        deviation = frames[:, : num_frames - duration + 1] - mean[:, 1:]
        cost = cost[:, 1:] + deviation.square().sum(-1) * ((duration - 1) / duration)
        mean = mean[:, 1:] + deviation / duration
        table[:, duration : num_frames + 1, longest - duration] = cost
    return table
