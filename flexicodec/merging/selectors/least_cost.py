"""Policies that minimise a sum of costs of tokens by dynamic programming, at a frame rate or at a price per token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.merging.policies import (
    Clips,
    FloatOrPerItem,
    Selector,
    as_floats,
    broadcast_per_item,
    check_positive,
    check_within,
)
from flexicodec.merging.recognition_cost import recognition_costs
from flexicodec.merging.segmentation import durations_by_counts, durations_by_price
from flexicodec.merging.window_costs import (
    CostTable,
    Windows,
    cost_table,
    cut_costs,
    frame_products,
    hold_errors,
    mass_costs,
    norm_costs,
    rollout_costs,
    round_costs,
    squared_costs,
)

COSTS = ("squared", "norm", "joint", "prediction", "cuts", "path", "recognition")

# Maps features [B, D, T] and a number of steps n to [n, B, D, T]: entry k - 1, t is the prediction of frame t + k from
# frame t and those before it. What it says of an item must not depend on the others, or on padding.
Predictor = Callable[[Float[Tensor, "batch dim frames"], int], Float[Tensor, "steps batch dim frames"]]


@dataclass(frozen=True)
class LeastCost(Selector):
    """Cut where the sum over tokens of a cost is least: over all cuts that have the count, and keep to the cap.

    Costs of a token:

        squared     squared distance of its frames from their mean; the least is `MinimumVariance`, CodecSlime's aim
        norm        the distances, not squared, as published re-implementations of CodecSlime have it
        prediction  squared error of predicting its frames from the first one; without a predictor, that they are equal
        joint       squared distance over the clip's mean ||x||^2, (1 - acoustic) x of the semantic features +
                    acoustic x of the acoustic ones
        cuts        cosine similarity across the token's start: ExactRate's aim, with the cap taken into account
        path        how far the sum of 1 - similarity over its frames is from even: path-length equalisation
        recognition what a recogniser loses in nats, estimated from Moonshine's features (`recognition_cost`)

    The first four are multiplied by the token's duration ** `length_power`: 1 spares long tokens. Among equals the
    longest last token wins. Every feasible count is reached exactly. A price is in the unit of the cost (of "joint":
    1 is the error of a frame that is lost); one price for a corpus spends its tokens where they save most, but some
    counts are best at no price.

    Attributes:
        frame_rate: Tokens per second, one number or one per item; None with a price.
        price: Added to the cost of every token, instead of a frame rate; one number or one per item.
        cost: See above.
        acoustic: Share of the acoustic features in "joint"; a call without them uses the semantic ones alone.
        length_power: See above.
        min_duration: Fewest frames per token; a clip that is shorter becomes one token.
        predictor: For "prediction"; see `prediction_errors`.
    """

    frame_rate: FloatOrPerItem | None = None
    price: FloatOrPerItem | None = None
    cost: str = "squared"
    acoustic: float = 0.0
    length_power: float = 0.0
    min_duration: int = 1
    predictor: Predictor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.frame_rate is None) == (self.price is None):
            raise ValueError(f"frame_rate is {self.frame_rate!r} and price {self.price!r}; expected one of them")
        if self.frame_rate is not None:
            object.__setattr__(self, "frame_rate", check_positive(self.frame_rate, "frame_rate"))
        else:
            assert self.price is not None
            prices = as_floats(self.price, "price")
            if np.min(prices) < 0:
                raise ValueError(f"price is {np.min(prices):g}; expected 0 or more, in the unit of the cost")
            object.__setattr__(self, "price", prices)
        if self.cost not in COSTS:
            raise ValueError(f"cost is {self.cost!r}; expected one of {', '.join(COSTS)}")
        check_within(self.acoustic, "acoustic", 0, 1)
        check_within(self.length_power, "length_power", 0, 4)
        if self.predictor is not None and self.cost != "prediction":
            raise ValueError(f"a predictor was given, but the cost is {self.cost!r}; set cost='prediction'")
        if isinstance(self.min_duration, bool) or not isinstance(self.min_duration, int) or self.min_duration < 1:
            raise ValueError(f"min_duration is {self.min_duration!r}; expected a whole number of frames, 1 or more")

    @property
    def uses_acoustic(self) -> bool:  # type: ignore[override]
        """Whether the acoustic features count."""
        return self.cost == "joint" and self.acoustic > 0

    def choose(self, clips: Clips) -> Int[Tensor, "batch tokens"]:
        """Choose durations; see `MergingPolicy`. `seconds` are needed for a rate, `features` for costs of frames."""
        if self.frame_rate is not None:
            return self.at_rates(clips, [self.frame_rate])[0]
        assert self.price is not None
        self.check_min_duration(clips.max_duration)
        prices = broadcast_per_item(self.price, "price", len(clips.lengths))
        longest_clip = max(1, int(clips.lengths.max()))
        table = self.table(clips, min(clips.max_duration or longest_clip, longest_clip))
        found = durations_by_price(table, np.array(prices), clips.lengths.cpu().numpy())
        return torch.from_numpy(found).to(clips.lengths.device)

    def at_rates(self, clips: Clips, frame_rates: Sequence[FloatOrPerItem]) -> list[Int[Tensor, "batch tokens"]]:
        """Choose durations at several rates; the costs of all tokens are computed and compared once."""
        self.check_min_duration(clips.max_duration)
        counts = torch.stack([clips.target_tokens(rate) for rate in frame_rates])
        if self.min_duration > 1:
            most = (clips.lengths // self.min_duration).maximum((clips.lengths > 0).long())
            counts = counts.minimum(most)
        longest = int((clips.lengths - counts).max()) + 1  # one token can take up all the slack
        table = self.table(clips, min(clips.max_duration or longest, longest))
        every = durations_by_counts(table, counts.cpu().numpy(), clips.lengths.cpu().numpy())
        found = []
        for durations, of_rate in zip(every, counts, strict=True):
            found.append(torch.from_numpy(durations[:, : int(of_rate.max())]).to(clips.lengths.device))
        return found

    def check_min_duration(self, max_duration: int | None) -> None:
        """Raise a ValueError where a cap leaves clips of some lengths that cannot be cut."""
        needed = 2 * self.min_duration - 1
        if max_duration is not None and max_duration < needed:
            raise ValueError(
                f"min_duration is {self.min_duration} and max_duration {max_duration}, but clips of every length can "
                f"only be cut from a max_duration of {needed} on"
            )

    def table(self, clips: Clips, longest: int) -> CostTable:
        """Tabulate the costs of all tokens of at most `longest` frames."""
        if self.cost in ("cuts", "path"):
            windows = self.similarity_costs(clips, longest)
            scale = np.ones(len(clips.lengths))
        else:
            windows, scale = self.feature_costs(clips, longest)
            if self.length_power:
                windows = [costs * duration**self.length_power for duration, costs in enumerate(windows, start=1)]
        table = round_costs(cost_table(windows, int(clips.lengths.max())), scale)
        for row, length in enumerate(clips.lengths.tolist()):
            shortest = min(length, self.min_duration)
            table[longest - shortest + 1 :, row] = np.inf
        return table

    def feature_costs(self, clips: Clips, longest: int) -> tuple[Windows, Float[np.ndarray, " batch"]]:
        """List the costs of features, and their scale."""
        features = clips.semantic_features(self)
        if self.cost == "recognition":
            windows = recognition_costs(features, clips.lengths.tolist(), longest)
            return windows, np.max([np.abs(each).max(axis=1, initial=0.0) for each in windows], axis=0)
        if self.cost == "prediction":
            errors = prediction_errors(features, clips.lengths, longest, self.predictor)
            return rollout_costs(errors), np.max([each.max(axis=1, initial=0.0) for each in errors], axis=0)
        products, energy = frame_products(features, clips.lengths, longest)
        if self.cost == "joint":
            # The squared errors of both streams add up, and so do these.
            share = self.acoustic if clips.acoustic is not None else 0.0
            products = products * ((1 - share) / energy)[:, None]
            if share:
                assert clips.acoustic is not None
                acoustic, energy = frame_products(clips.acoustic, clips.lengths, longest)
                products += acoustic * (share / energy)[:, None]
        costs = norm_costs if self.cost == "norm" else squared_costs
        return costs(products), products[0].max(axis=1, initial=0.0)

    def similarity_costs(self, clips: Clips, longest: int) -> Windows:
        """List the costs that follow from the similarities alone."""
        num_frames = int(clips.lengths.max())
        inside = torch.arange(1, num_frames) < clips.lengths.cpu()[:, None]
        similarities = clips.similarities.detach().to("cpu", torch.float64)[:, : max(num_frames - 1, 0)]
        if self.cost == "cuts":
            return cut_costs(torch.where(inside, similarities, 0.0).numpy(), longest)
        change = torch.where(inside, 1 - similarities, 0.0)
        return mass_costs(F.pad(change, (1, 0)).numpy(), longest)


def prediction_errors(
    features: Float[Tensor, "batch dim frames"],
    lengths: Int[Tensor, " batch"],
    longest: int,
    predictor: Predictor | None,
) -> Windows:
    """Return the squared errors of predicting the frames 0, 1, ... `longest - 1` behind each frame.

    Args:
        features: Of the batch.
        lengths: Frames per item.
        longest: Frames of the longest token, its first one included.
        predictor: See `Predictor`; None predicts that frames do not change.
    """
    if predictor is None:
        return hold_errors(frame_products(features, lengths, longest)[0])
    num_frames = int(lengths.max())
    inside = torch.arange(num_frames, device=features.device) < lengths[:, None]
    frames = torch.where(inside[:, None], features[..., :num_frames].detach(), 0.0)
    predicted = predictor(frames, longest - 1).detach()
    wanted = (longest - 1, *frames.shape)
    if predicted.shape != wanted:
        raise ValueError(f"the predictor returned {tuple(predicted.shape)}; expected [steps, B, D, T], {wanted}")
    errors = [np.zeros((len(frames), num_frames))]
    for ahead in range(1, longest):
        difference = predicted[ahead - 1, ..., : num_frames - ahead] - frames[..., ahead:]
        error = difference.to("cpu", torch.float64).square().sum(dim=1)
        errors.append(torch.where(inside[:, ahead:].cpu(), error, 0.0).numpy())
    return errors


def equal_mass(
    masses: Float[Tensor, "batch frames"],
    num_tokens: Int[Tensor, " batch"],
    lengths: Int[Tensor, " batch"],
    max_duration: int | None = None,
) -> Int[Tensor, "batch tokens"]:
    """Split every clip into so many tokens whose masses are as equal as can be: least sum of (mass - mean mass)^2.

    For any amount per frame, such as the entropy of its samples or of a model's posteriors; with equal masses durations
    differ by 1 at most. Among equals the longest last token wins.

    Args:
        masses: Of frames, not negative.
        num_tokens: Tokens per clip, feasible.
        lengths: Frames per clip.
        max_duration: Largest number of frames per token; None for no limit.
    """
    num_frames = int(lengths.max())
    inside = torch.arange(num_frames) < lengths.cpu()[:, None]
    amounts = torch.where(inside, masses[:, :num_frames].detach().to("cpu", torch.float64), 0.0).numpy()
    longest = int((lengths - num_tokens).max()) + 1
    windows = mass_costs(amounts, min(max_duration or longest, longest))
    table = round_costs(cost_table(windows, num_frames), amounts.sum(axis=1) ** 2)
    found = durations_by_counts(table, num_tokens[None].cpu().numpy(), lengths.cpu().numpy())[0]
    return torch.from_numpy(found).to(lengths.device)


class MinimumVariance(LeastCost):
    """`LeastCost` with its default cost: the squared deviation of features from their token's mean."""
