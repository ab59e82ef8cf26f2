"""Names and settings of merging policies as text, and the choice of a call.

    policy="variance"                         the frame rate is given beside it
    policy="joint:acoustic=0.3,price=0.05"    one price instead
    policy="centroid:threshold=0.9,cap=6"     one threshold instead, and settings
    policy="ple", threshold=0.4               a threshold beside it

A name stands for a class and settings; the setting that decides the rate (`frame_rate`, `threshold` or `price`) selects
which class, where there are several.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

from flexicodec.merging.policies import MergingPolicy, Selector, check_frame_rate
from flexicodec.merging.rate_control import RateController
from flexicodec.merging.recognition_cost import LONGEST
from flexicodec.merging.selectors.centroid import CentroidRate
from flexicodec.merging.selectors.clustering import DensityPeaks, GreedyPrediction, Pairs
from flexicodec.merging.selectors.least_cost import LeastCost, MinimumVariance
from flexicodec.merging.selectors.path import PathLength, PathThreshold
from flexicodec.merging.selectors.running import Centroid, RunningCost, SteeredCost
from flexicodec.merging.selectors.similarity import ExactRate, Shuffled, Threshold, TopCuts, Uniform

CONTROLS = ("frame_rate", "threshold", "price")  # settings that decide the rate
RUNNING = "running"  # a controller of adjacent similarities, made of the model's threshold and grid
STEERED = "running-"  # before the name of a policy whose causal form a controller holds at a rate


@dataclass(frozen=True)
class PolicyKind:
    """What a name stands for.

    Attributes:
        forms: The class for each setting that may decide the rate.
        settings: What differs from the defaults of these classes.
    """

    forms: Mapping[str, Callable[..., MergingPolicy]]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, value: Any, **settings: Any) -> MergingPolicy:
        """Make the policy with a value for the first of its settings in `forms`."""
        return self.make({next(iter(self.forms)): value, **settings})

    def make(self, settings: Mapping[str, Any]) -> MergingPolicy:
        """Make the policy; `settings` have one of `forms`."""
        (control,) = (name for name in settings if name in self.forms)
        form = self.forms[control]
        own = {name: value for name, value in self.settings.items() if name in setting_names(form)}
        return form(**{**own, **settings})


LEAST_COST = {"frame_rate": LeastCost, "price": LeastCost}
# Relative to their energies, acoustic features (of a spectral encoder) vary ten times as much within tokens as
# semantic ones (of Moonshine): with this share neither stream loses much.
JOINT = {"cost": "joint", "acoustic": 0.2, "length_power": 1.0}
POLICIES: dict[str, PolicyKind] = {  # that every model takes
    "rate": PolicyKind({"frame_rate": ExactRate}),
    "uniform": PolicyKind({"frame_rate": Uniform}),
    "shuffled": PolicyKind({"frame_rate": Shuffled}),  # the control
    "variance": PolicyKind({"frame_rate": MinimumVariance, "price": MinimumVariance, "threshold": RunningCost}),
    # by the similarities of neighbours
    "threshold": PolicyKind({"threshold": Threshold}),  # FlexiCodec
    "top-k": PolicyKind({"frame_rate": TopCuts}),  # FlexiSLM
    "cheapest-cuts": PolicyKind(LEAST_COST, {"cost": "cuts"}),
    "ple": PolicyKind({"frame_rate": PathLength, "threshold": PathThreshold}),  # DTM-Codec
    "equal-mass": PolicyKind(LEAST_COST, {"cost": "path"}),
    # by distances from the token's mean
    "variance-length": PolicyKind({**LEAST_COST, "threshold": RunningCost}, {"length_power": 1.0}),
    "joint": PolicyKind({**LEAST_COST, "threshold": RunningCost}, JOINT),
    "norm": PolicyKind(LEAST_COST, {"cost": "norm"}),  # CodecSlime as re-implemented
    "centroid": PolicyKind({"frame_rate": CentroidRate, "threshold": Centroid}),  # Sylber
    # by other rules
    "elastic": PolicyKind(LEAST_COST, {"cost": "prediction"}),  # Elastic-Time
    "elastic-greedy": PolicyKind({"frame_rate": GreedyPrediction}),
    "a-tome": PolicyKind({"frame_rate": Pairs}),
    "density-peaks": PolicyKind({"threshold": DensityPeaks}),  # VARSTok, as its paper has it
    "density-peaks-released": PolicyKind({"threshold": DensityPeaks}, {"released": True}),  # and as its code has it
}
KINDS = {
    **POLICIES,
    "recognition": PolicyKind(LEAST_COST, {"cost": "recognition", "cap": LONGEST}),  # of Moonshine's features
    RUNNING: PolicyKind({"frame_rate": RateController}),
}
for _name, _kind in POLICIES.items():
    if _kind.forms.get("threshold") is RunningCost:
        KINDS[STEERED + _name] = PolicyKind({"frame_rate": SteeredCost}, _kind.settings)


def setting_names(form: Any) -> list[str]:
    """List the settings of a policy's class."""
    return [each.name for each in fields(form)]


def parse_policy(text: str) -> tuple[str, dict[str, Any]]:
    """Read NAME or NAME:setting=value,setting=value.

    Raises:
        ValueError: An unknown name or setting, naming the nearest known one, or a setting without a value.
    """
    name, colon, listed = text.partition(":")
    name = name.strip()
    if name not in KINDS:
        raise ValueError(f"policy is {text!r}; {_known(name, list(KINDS))}")
    known = {key for form in KINDS[name].forms.values() for key in setting_names(form)}
    settings: dict[str, Any] = {}
    for item in listed.split(",") if colon else ():
        key, _, value = (each.strip() for each in item.partition("="))
        if key not in known:
            raise ValueError(f"policy {text!r} has a setting {key!r}; {_known(key, sorted(known))}")
        if not value or key in settings:
            raise ValueError(f"policy {text!r}; expected each setting once and with a value, as in {key}=1")
        settings[key] = _plain(value)
    controls = [key for key in settings if key in KINDS[name].forms]
    if len(controls) > 1:
        raise ValueError(f"policy {text!r} has {' and '.join(controls)}; choose one, each decides the rate by itself")
    return name, settings


def make_policy(text: str, **control: Any) -> MergingPolicy:
    """Make the policy that a text names, with `frame_rate=` or `threshold=` where the text decides no rate itself.

    Raises:
        ValueError: A text that cannot be read, a value out of range, or no or several settings for the rate.
    """
    name, settings = parse_policy(text)
    kind = KINDS[name]
    given = [key for key in (*settings, *control) if key in kind.forms]
    foreign = [key for key in control if key not in kind.forms]
    if foreign:
        raise ValueError(f"policy {text!r} takes {' or '.join(kind.forms)}, and not {foreign[0]}")
    if len(given) != 1:
        raise ValueError(
            f"policy {text!r} was given {' and '.join(given) or 'no rate'}; expected one of {_forms(kind)}"
        )
    form = kind.forms[given[0]]
    unused = [key for key in settings if key not in setting_names(form)]
    if unused:
        raise ValueError(f"policy {text!r} has a setting {unused[0]!r}, which it does not use with {given[0]}")
    return kind.make({**settings, **control})


def needed_setting(text: str) -> str | None:
    """Return what has to be given beside a policy's text: "frame_rate", where it takes one, else "threshold".

    None where the text decides the rate itself; ValueError for a text that cannot be read.
    """
    name, settings = parse_policy(text)
    if settings.keys() & KINDS[name].forms:
        make_policy(text)
        return None
    control = "frame_rate" if "frame_rate" in KINDS[name].forms else "threshold"
    make_policy(text, **{control: 1.0})
    return control


def streaming_form(text: str) -> str:
    """Name the causal policy by which a stream comes nearest to a policy at a frame rate.

    "running-" and the same text where a controller can hold it, and else "running".
    """
    name, settings = parse_policy(text)
    if name.startswith(RUNNING):
        return text
    kind = KINDS.get(STEERED + name)
    if kind is None or settings.keys() - setting_names(SteeredCost):
        return RUNNING
    return STEERED + text


def fitted_setting(text: str) -> str:
    """Return which setting of a policy can be found for a corpus: its threshold, or else its price.

    Raises:
        ValueError: It has neither, or the text decides the rate already.
    """
    name, settings = parse_policy(text)
    forms = KINDS[name].forms
    decided = [key for key in settings if key in forms]
    if decided:
        raise ValueError(f"policy {text!r} has a {decided[0]} already; leave it out, so that one is found")
    fitted = [key for key in ("threshold", "price") if key in forms]
    if not fitted:
        raise ValueError(f"policy {text!r} meets a frame rate in every clip; it has no threshold and no price to find")
    return fitted[0]


def rate_setting(policy: MergingPolicy) -> str:
    """Name the setting that decides a policy's rate; "" for a policy without one."""
    return next((name for name in CONTROLS if getattr(policy, name, None) is not None), "")


def with_rates(policy: MergingPolicy, values: float | list[float]) -> MergingPolicy:
    """Copy a policy with other values of the setting that decides its rate."""
    changed: Any = replace(policy, **{rate_setting(policy): values})  # type: ignore[type-var]
    return changed


def policy_text(policy: MergingPolicy) -> str:
    """Name a policy and the settings that differ from that name's, without what decides the rate."""
    best = None
    for name, kind in KINDS.items():
        if kind.forms.get(rate_setting(policy)) is not type(policy):
            continue
        differing = []
        for each in fields(policy):
            value = getattr(policy, each.name)
            if each.name not in CONTROLS and value != kind.settings.get(each.name, each.default):
                shown = f"{value:g}" if isinstance(value, float) else getattr(value, "__name__", value)
                differing.append(f"{each.name}={shown}")
        if best is None or len(differing) <= len(best[1]):
            best = name, differing
    if best is None:
        return type(policy).__name__
    name, differing = best
    return f"{name}:{','.join(differing)}" if differing else name


def _plain(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _forms(kind: PolicyKind) -> str:
    return ", ".join(f"{each}=" for each in kind.forms)


def _known(name: str, known: list[str]) -> str:
    nearest = get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"expected one of {', '.join(known)}{meant}"


def resolve_policy(
    default_threshold: float | None,
    base_frame_rate: float,
    max_duration: int | None,
    *,
    threshold: Any = None,
    frame_rate: Any = None,
    durations: Any = None,
    policy: str | MergingPolicy | None = None,
    default_policy: str = "rate",
) -> tuple[MergingPolicy | None, dict[str, Any]]:
    """Turn the choice of rate of one call into a policy and a note on it for `Tokens.info`.

    Args:
        default_threshold: The model's own; None for a fixed-rate model.
        base_frame_rate: Frames per second of the grid.
        max_duration: Most frames per token; None for no cap.
        threshold: See `Codec.encode`, and so for the others.
        default_policy: Name of what meets a `frame_rate`, where `policy` is None.

    Returns:
        The policy, None where `durations` are given.

    Raises:
        ValueError: More than one choice, one that the model does not have, or a value outside its range.
    """
    # One choice at most
    text = policy if isinstance(policy, str) else None
    own = None if isinstance(policy, str) else policy
    choices = {"threshold": threshold, "frame_rate": frame_rate, "durations": durations, "policy": own}
    given = [choice for choice, value in choices.items() if value is not None]
    if len(given) > 1:
        every = "both" if len(given) == 2 else "all"
        raise ValueError(f"{' and '.join(given)} were {every} given; choose one, each decides the rate by itself")
    if text is not None and durations is not None:
        raise ValueError(f"policy {text!r} and durations were both given; durations decide by themselves")

    # Fixed-rate models take the settings that merge nothing.
    if default_threshold is None and given not in ([], ["durations"]):
        if not _equals(threshold, 1.0) and not _equals(frame_rate, base_frame_rate):
            raise ValueError(
                f"{given[0]} was given, but this model has a fixed rate of {base_frame_rate:g} Hz: threshold=1, "
                f"frame_rate={base_frame_rate:g} or neither"
            )
        return Threshold(1.0), {"policy": "threshold", "threshold": 1.0}
    if durations is not None:
        return None, {"policy": "durations"}

    # From the name to the policy
    control = {
        name: value for name, value in (("threshold", threshold), ("frame_rate", frame_rate)) if value is not None
    }
    if text is None and own is None:
        if frame_rate is not None:
            text = default_policy
        else:
            text = "threshold"
            control = control or {"threshold": 1.0 if default_threshold is None else default_threshold}
    if frame_rate is not None:
        check_frame_rate(frame_rate, base_frame_rate, max_duration)
    if text is not None:
        name, settings = parse_policy(text)
        decides = {**settings, **control}.keys() & KINDS[name].forms
        if name.startswith(RUNNING) and decides:
            model: dict[str, Any] = {"base_frame_rate": base_frame_rate}
            if name == RUNNING:
                model["threshold"] = default_threshold
            own = KINDS[name].make({**model, **settings, **control})
        elif decides or control:
            own = make_policy(text, **control)
    if not callable(own) or isinstance(own, type):
        raise ValueError(
            f"policy is {policy!r}; expected one of {', '.join(KINDS)} with frame_rate=, or a MergingPolicy"
        )

    # The note, in what JSON has
    info: dict[str, Any] = {"policy": policy_text(own)}
    for name in CONTROLS:
        value = getattr(own, name, None)
        if value is None or (name == "threshold" and isinstance(own, (RateController, SteeredCost))):
            continue
        if name == "frame_rate":
            limit = own.limit(max_duration) if isinstance(own, Selector) else max_duration
            value = check_frame_rate(value, base_frame_rate, limit)
        info[name] = list(value) if isinstance(value, tuple) else value
    return own, info


def _equals(value: Any, wanted: float) -> bool:
    return isinstance(value, (int, float)) and value == wanted
