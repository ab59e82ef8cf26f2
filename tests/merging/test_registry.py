"""Names and settings of policies as text."""

import pytest

from flexicodec.merging import (
    POLICIES,
    Centroid,
    ExactRate,
    LeastCost,
    MinimumVariance,
    RateController,
    RunningCost,
    Threshold,
    make_policy,
)
from flexicodec.merging.registry import parse_policy, policy_text, resolve_policy, streaming_form

NAMED = [
    ("rate", {"frame_rate": 5.0}, ExactRate(5.0), "rate"),
    ("threshold", {"threshold": 0.5}, Threshold(0.5), "threshold"),
    ("threshold:threshold=0.5,cap=4", {}, Threshold(0.5, cap=4), "threshold:cap=4"),
    ("variance", {"frame_rate": [5.0, 6.0]}, MinimumVariance([5.0, 6.0]), "variance"),
    ("variance:cap=6", {"frame_rate": 5.0}, MinimumVariance(5.0, cap=6), "variance:cap=6"),
    ("variance:price=0.5", {}, MinimumVariance(price=0.5), "variance"),
    ("centroid", {"threshold": 0.9}, Centroid(0.9), "centroid"),
    (" joint : acoustic = 0.3 ", {"frame_rate": 5}, LeastCost(5.0, None, "joint", 0.3, 1.0), "joint:acoustic=0.3"),
    ("joint:threshold=.4", {}, RunningCost(0.4, 0.2, 1.0), "joint"),
    ("joint:length_power=0", {"threshold": 0.4}, RunningCost(0.4, 0.2, 0.0), "joint:length_power=0"),
]


@pytest.mark.parametrize(("text", "control", "policy", "shown"), NAMED)
def test_text_to_policy_and_back(text, control, policy, shown):
    assert make_policy(text, **control) == policy
    assert policy_text(policy) == shown
    setting = next(name for name in ("frame_rate", "price", "threshold") if getattr(policy, name, None) is not None)
    assert make_policy(shown, **{setting: getattr(policy, setting)}) == policy


@pytest.mark.parametrize(
    ("text", "control", "message"),
    [
        ("centriod", {"threshold": 0.9}, "policy is 'centriod'; expected one of .*; did you mean 'centroid'"),
        ("joint:acoustc=1", {"frame_rate": 5}, "setting 'acoustc'; expected one of .*; did you mean 'acoustic'"),
        ("joint:acoustic", {"frame_rate": 5}, "each setting once and with a value, as in acoustic=1"),
        ("joint:cap=3,cap=4", {"frame_rate": 5}, "each setting once"),
        ("joint:", {"frame_rate": 5}, "has a setting ''"),
        ("joint:price=1,threshold=2", {}, "has price and threshold; choose one"),
        ("joint:price=1", {"frame_rate": 5}, "was given price and frame_rate; expected one of frame_rate=, price="),
        ("joint", {}, "was given no rate; expected one of"),
        ("uniform", {"threshold": 0.5}, "'uniform' takes frame_rate, and not threshold"),
        ("threshold", {"frame_rate": 5}, "'threshold' takes threshold, and not frame_rate"),
        ("joint:cost=norm,threshold=1", {}, "setting 'cost', which it does not use with threshold"),
        ("joint:acoustic=half", {"frame_rate": 5}, "acoustic is 'half'"),
        ("variance:cap=2.5", {"frame_rate": 5}, "max_duration is 2.5"),
    ],
)
def test_text_that_cannot_be_read(text, control, message):
    with pytest.raises(ValueError, match=message):
        make_policy(text, **control)


def resolve(**choice):
    return resolve_policy(0.9, 12.5, 8, **choice)


def test_the_choice_of_a_call_and_its_note():
    assert resolve() == (Threshold(0.9), {"policy": "threshold", "threshold": 0.9})
    assert resolve(frame_rate=5) == (ExactRate(5.0), {"policy": "rate", "frame_rate": 5.0})
    assert resolve(frame_rate=5, default_policy="joint:acoustic=0.4") == (
        LeastCost(5.0, None, "joint", 0.4, 1.0),
        {"policy": "joint:acoustic=0.4", "frame_rate": 5.0},
    )
    assert resolve(threshold=0.5, default_policy="joint")[0] == Threshold(0.5)
    assert resolve(policy="centroid", threshold=0.5)[1] == {"policy": "centroid", "threshold": 0.5}
    assert resolve(policy="joint:price=0.25")[1] == {"policy": "joint", "price": 0.25}
    assert resolve(policy=MinimumVariance([5.0, 6.0], cap=3))[1] == {"policy": "variance:cap=3", "frame_rate": [5, 6]}
    running, note = resolve(policy="running", frame_rate=5)
    assert running == RateController(5.0, 0.9, 12.5)
    assert note == {"policy": "running", "frame_rate": 5.0}


def test_choices_that_contradict_each_other():
    for choice, message in (
        ({"frame_rate": 5, "threshold": 0.9}, "frame_rate were both given"),
        ({"policy": "joint", "durations": [1]}, "policy 'joint' and durations were both given"),
        ({"policy": "joint"}, "policy is 'joint'; expected one of .* with frame_rate=, or a MergingPolicy"),
        ({"policy": "joint:cap=4", "frame_rate": 2.0}, "at most 4 frames per token allows 3.125 to 12.5"),
        ({"policy": "joint", "frame_rate": 16_000}, "allows 1.5625 to 12.5 Hz"),
    ):
        with pytest.raises(ValueError, match=message):
            resolve(**choice)


def test_every_name_makes_a_policy_of_its_first_setting():
    for name, kind in POLICIES.items():
        assert policy_text(kind(0.5)) == name


@pytest.mark.parametrize(
    ("own", "of_streams"),
    [
        ("rate", "running"),
        ("recognition", "running"),
        ("variance:min_duration=2", "running"),  # no causal form takes that
        ("variance", "running-variance"),
        ("joint:acoustic=0.5", "running-joint:acoustic=0.5"),
        ("variance-length:length_power=0.5,cap=6", "running-variance-length:length_power=0.5,cap=6"),
        ("running-joint", "running-joint"),
    ],
)
def test_streams_hold_the_causal_form_of_a_models_policy(own, of_streams):
    assert streaming_form(own) == of_streams
    policy, note = resolve(policy=of_streams, frame_rate=5)
    assert note["frame_rate"] == 5.0
    assert parse_policy(note["policy"]) == parse_policy(of_streams)
    assert getattr(policy, "length_power", 1.0) == {"variance": 0.0, "variance-length:length_power=0.5,cap=6": 0.5}.get(
        own, 1.0
    )
