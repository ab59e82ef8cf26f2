"""What a call may say about the rate and the codebooks, turned into one merging policy and a count, or refused."""

from numbers import Integral
from typing import Any

from flexicodec.merging import POLICIES, ExactRate, MergingPolicy, RateController, Threshold, check_frame_rate
from flexicodec.models.flexicodec.config import MergingConfig

RUNNING = "running"
NAMED = (*(name for name in POLICIES if name != "threshold"), RUNNING)  # what `policy=` may say beside `frame_rate=`


def choose_policy(
    merging: MergingConfig | None,
    base_frame_rate: float,
    max_duration: int | None,
    *,
    threshold: Any = None,
    frame_rate: Any = None,
    durations: Any = None,
    policy: str | MergingPolicy | None = None,
) -> tuple[MergingPolicy | None, dict[str, Any]]:
    """Turn the choices of one call into a policy and a note on it for `Tokens.info`.

    Args:
        merging: The model's own settings; None for a fixed-rate model.
        base_frame_rate: Frames per second of the grid.
        max_duration: Most frames per token; None for no cap.
        threshold: See `FlexiCodec.tokenize`, as for all that follow.
        frame_rate: Tokens per second.
        durations: Frames per token, decided elsewhere.
        policy: A name, or a policy that stands alone.

    Returns:
        The policy (None: `durations` are given), and how tokens will have been made.

    Raises:
        ValueError: More than one choice, one that the model does not have, or a value outside its range.
    """
    name = policy if isinstance(policy, str) else None
    own = None if isinstance(policy, str) else policy
    chosen = {"threshold": threshold, "frame_rate": frame_rate, "durations": durations, "policy": own}
    given = [choice for choice, value in chosen.items() if value is not None]
    if len(given) > 1:
        every = "both" if len(given) == 2 else "all"
        raise ValueError(f"{' and '.join(given)} were {every} given; choose one, each decides the rate by itself")
    if merging is None and given not in ([], ["durations"]):
        if not _means_unmerged(threshold, 1.0) and not _means_unmerged(frame_rate, base_frame_rate):
            raise ValueError(
                f"{given[0]} was given, but this model has a fixed rate of {base_frame_rate:g} Hz: threshold=1, "
                f"frame_rate={base_frame_rate:g} or neither"
            )
        threshold, frame_rate, name = 1.0, None, None
    fits = callable(own) and not isinstance(own, type)
    if (name is not None and (name not in NAMED or frame_rate is None)) or (own is not None and not fits):
        names = ", ".join(NAMED)
        raise ValueError(f"policy is {policy!r}; expected one of {names} with frame_rate=, or a MergingPolicy")
    if durations is not None:
        return None, {"policy": "durations"}
    if own is not None:
        return own, _describe(own, base_frame_rate, max_duration)
    if frame_rate is not None:
        rate = check_frame_rate(frame_rate, base_frame_rate, max_duration)
        if name == RUNNING:
            assert merging is not None
            running = RateController(rate, merging.threshold, base_frame_rate)
            return running, {"policy": name, "frame_rate": _plain(rate)}
        kind = POLICIES[name] if name else ExactRate
        return kind(rate), {"policy": name or "rate", "frame_rate": _plain(rate)}
    if threshold is None:
        threshold = merging.threshold if merging else 1.0
    rule = Threshold(threshold)
    return rule, {"policy": "threshold", "threshold": _plain(rule.threshold)}


def choose_codebooks(num_codebooks: Any, available: int) -> int:
    """Settle how many acoustic codebooks to use; None means all there are.

    Raises:
        ValueError: No count, or more than there are.
    """
    if num_codebooks is None:
        return available
    whole = isinstance(num_codebooks, Integral) and not isinstance(num_codebooks, bool)
    if not whole or not 0 <= num_codebooks <= available:
        raise ValueError(
            f"num_codebooks is {num_codebooks!r}, but this model has {available} acoustic codebooks, of which 0 to "
            f"{available} can be used; the semantic codebook is not counted"
        )
    return int(num_codebooks)


def _means_unmerged(value: Any, unmerged: float) -> bool:
    return isinstance(value, (int, float)) and value == unmerged


def _describe(policy: MergingPolicy, base_frame_rate: float, max_duration: int | None) -> dict[str, Any]:
    """Note a policy object as its name would be noted, and hold its rate to the same range."""
    names: dict[type, str] = {kind: name for name, kind in POLICIES.items()} | {RateController: RUNNING}
    info: dict[str, Any] = {"policy": names.get(type(policy), type(policy).__name__)}
    if hasattr(policy, "frame_rate"):
        info["frame_rate"] = _plain(check_frame_rate(policy.frame_rate, base_frame_rate, max_duration))
    if hasattr(policy, "threshold"):
        info["threshold"] = _plain(policy.threshold)
    return info


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
