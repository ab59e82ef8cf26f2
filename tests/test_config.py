"""Laws of flexicodec.config: configs survive conversion to plain data, and every error names the path."""

import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest

from flexicodec.config import apply_overrides, from_dict, load_yaml, overlay, to_dict


@dataclass(frozen=True)
class Merging:
    max_duration: int | None = 8
    threshold: float | tuple[float, float] = 0.9
    policy: Literal["threshold", "uniform"] = "threshold"

    def __post_init__(self):
        if self.max_duration is not None and self.max_duration < 1:
            raise ValueError(f"max_duration is {self.max_duration}; expected at least 1")


@dataclass(frozen=True)
class Model:
    name: str
    strides: tuple[int, ...] = (4, 4, 5, 8, 2)
    band: tuple[float, float] = (0.0, 8000.0)
    merging: Merging | None = Merging()
    causal: bool = False
    weights: dict[str, float] = field(default_factory=dict)
    stages: tuple[Merging, ...] = ()
    choices: list[str] = field(default_factory=list)
    count: float | int = 1
    extra: Any = None
    derived: int = field(init=False, default=0)


FULL = Model(
    name="tiny",
    strides=(2, 4),
    band=(20.0, 4000.5),
    merging=Merging(None, (0.8, 1.0), "uniform"),
    causal=True,
    weights={"mel": 15.0},
    stages=(Merging(), Merging(4)),
    choices=["a", "b"],
    count=3,
)


@pytest.mark.parametrize("config", [Model("plain"), FULL, replace(FULL, merging=None, count=0.5, extra=[1, None, "x"])])
def test_configs_survive_dicts_and_json(config):
    plain = to_dict(config)
    assert from_dict(Model, plain) == config
    assert from_dict(Model, json.loads(json.dumps(plain, allow_nan=False))) == config


def test_defaults_fill_what_is_left_out():
    assert from_dict(Model, {"name": "x"}) == Model("x")
    assert from_dict(Model, {"name": "x", "merging": {}}) == Model("x")
    assert from_dict(Model, {"name": "x", "merging": {"max_duration": 3}}).merging == Merging(3)
    assert from_dict(Model, {"name": "x", "merging": None}).merging is None
    assert from_dict(Model, {"name": "x", "merging": Merging(3)}).merging == Merging(3)


def test_whole_numbers_become_floats_only_where_needed():
    band = from_dict(Model, {"name": "x", "band": [0, 4000]}).band
    assert [type(edge) for edge in band] == [float, float]
    assert type(from_dict(Model, {"name": "x", "count": 3}).count) is int


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "x", "mergin": {}}, r"unknown key 'mergin' \(Model\); did you mean 'merging'\?"),
        ({"name": "x", "merging": {"max_durations": 3}}, "unknown key 'merging.max_durations' .*'max_duration'"),
        ({"name": "x", "qqq": 1}, "unknown key 'qqq' .*known: name, strides"),
        ({"name": "x", "derived": 1}, "unknown key 'derived'"),
        ({"name": "x", True: 1}, "unknown key 'True'"),
        ({}, "missing required key 'name' of Model"),
        ({"name": 5}, "name is 5 .*expected str.*quotes"),
        (
            {"name": "x", "merging": {"max_duration": "8"}},
            r"merging\.max_duration is '8' \(str\); expected int.*quoted",
        ),
        ({"name": "x", "merging": {"max_duration": 8.0}}, r"merging\.max_duration is 8\.0 .*\(write 8\)"),
        ({"name": "x", "merging": {"max_duration": True}}, r"merging\.max_duration is True"),
        ({"name": "x", "merging": {"max_duration": 0}}, "merging: max_duration is 0; expected at least 1"),
        ({"name": "x", "merging": {"policy": "unifrom"}}, "expected one of 'threshold', 'uniform'; did you mean 'unif"),
        ({"name": "x", "merging": {"threshold": "high"}}, r"merging\.threshold is 'high' .*float or tuple\[float, fl"),
        ({"name": "x", "merging": {"threshold": None}}, r"merging\.threshold is null; expected float or tuple"),
        ({"name": "x", "merging": 0.9}, r"merging is 0\.9 \(float\); expected a mapping with the keys of Merging"),
        ({"name": "x", "strides": [4, "4"]}, r"strides\[1\] is '4'"),
        ({"name": "x", "strides": 4}, r"strides is 4 .*tuple\[int, \.\.\.\]"),
        ({"name": "x", "band": [1.0]}, r"band has 1 values \[1\.0\]; expected 2"),
        ({"name": "x", "stages": [{}, {"max_duration": 0}]}, r"stages\[1\]: max_duration is 0"),
        ({"name": "x", "weights": {"mel": "loud"}}, r"weights\.mel is 'loud'"),
        ({"name": "x", "causal": 1}, "causal is 1 .*expected bool"),
        ({"name": None}, "name is null; expected str"),
        ([], r"Model is \[\] .*expected a mapping"),
    ],
)
def test_slips_are_named_with_their_path(mapping, message):
    with pytest.raises(ValueError, match=message):
        from_dict(Model, mapping)


@dataclass(frozen=True)
class Learned:
    rate: float
    horizon: int = 1


@dataclass(frozen=True)
class Choice:
    part: Merging | Learned = Merging()
    span: tuple[float, float] | Learned | None = None


@pytest.mark.parametrize(
    ("mapping", "part"),
    [({"part": {}}, Merging()), ({"part": {"rate": 1}}, Learned(1.0)), ({"part": {"max_duration": 3}}, Merging(3))],
)
def test_the_keys_tell_which_part_is_meant(mapping, part):
    assert from_dict(Choice, mapping).part == part
    assert from_dict(Choice, to_dict(Choice(part))) == Choice(part)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"part": {"max_durations": 3}}, r"unknown key 'part.max_durations' \(Merging\); did you mean 'max_duration'"),
        ({"part": {"rates": 3}}, r"unknown key 'part.rates' \(Learned\); did you mean 'rate'"),
        ({"part": {"rate": 3, "policy": "uniform", "horison": 2}}, "unknown key 'part.policy'"),
        ({"part": {"horizon": 3}}, "missing required key 'part.rate' of Learned"),
        ({"part": {"rate": "3"}}, r"part\.rate is '3' .*expected float \(quoted\?\)"),
        ({"part": {"max_duration": 0}}, "part: max_duration is 0; expected at least 1"),
        ({"part": {"qqq": 1}}, r"part is \{'qqq': 1\} \(dict\); expected Merging or Learned"),
        ({"part": 3}, r"part is 3 \(int\); expected Merging or Learned"),
        ({"span": {"rats": 3}}, r"unknown key 'span.rats' \(Learned\); did you mean 'rate'"),
        ({"span": [3]}, r"span is \[3\] \(list\); expected tuple\[float, float\] or Learned"),
    ],
)
def test_slips_in_the_part_that_is_meant_are_named(mapping, message):
    with pytest.raises(ValueError, match=message):
        from_dict(Choice, mapping)


@pytest.mark.parametrize(
    ("extra", "message"),
    [({"a": {1, 2}}, r"extra\.a is .*JSON cannot hold"), ([float("nan")], r"extra\[0\] is nan"), (Model, "extra is")],
)
def test_only_json_can_be_saved(extra, message):
    with pytest.raises(ValueError, match=message):
        to_dict(Model("x", extra=extra))
    with pytest.raises(ValueError, match="takes a config dataclass"):
        to_dict({"a": 1})


# Files


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".yaml").write_text(text)


def test_overlays_merge_parts_and_replace_the_rest(tmp_path):
    write(
        tmp_path,
        base="name: big\nstrides: [4, 4]\nmerging: {max_duration: 8, threshold: 0.9}\nextra: {a: 1}",
        mid__mid="base: ../base.yaml\nname: mid\nmerging: {max_duration: 4}\nextra: null",
        top="base: mid/mid.yaml\nstrides: [2]\nmerging: {policy: uniform}\nextra: {b: 2}",
    )
    merging = {"max_duration": 4, "threshold": 0.9, "policy": "uniform"}
    assert load_yaml(tmp_path / "top.yaml") == {"name": "mid", "strides": [2], "merging": merging, "extra": {"b": 2}}
    assert load_yaml(tmp_path / "mid" / "mid.yaml")["extra"] is None


def test_a_part_may_be_replaced_by_one_of_another_kind(tmp_path):
    write(
        tmp_path,
        base="part: {max_duration: 8, policy: uniform}\nother: {a: {b: 1}}",
        mid="base: base.yaml\npart: !replace\n  rate: 2.0\nother: {a: !replace {c: 2}}",
        top="base: mid.yaml\npart: {horizon: 3}",
    )
    assert load_yaml(tmp_path / "mid.yaml") == {"part": {"rate": 2.0}, "other": {"a": {"c": 2}}}
    assert load_yaml(tmp_path / "top.yaml")["part"] == {"rate": 2.0, "horizon": 3}
    assert from_dict(Choice, {"part": load_yaml(tmp_path / "top.yaml")["part"]}).part == Learned(2.0, 3)


def test_overlay_leaves_both_alone():
    base, top = {"a": {"b": [1]}, "c": 1}, {"a": {"d": 2}, "c": None}
    result = overlay(base, top)
    assert result == {"a": {"b": [1], "d": 2}, "c": None}
    result["a"]["b"].append(2)
    result["a"]["d"] = 3
    assert (base, top) == ({"a": {"b": [1]}, "c": 1}, {"a": {"d": 2}, "c": None})


def test_saved_json_loads_as_yaml(tmp_path):
    config = replace(FULL, count=1e-7)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config), indent=2))
    assert from_dict(Model, load_yaml(tmp_path / "config.json")) == config


def test_an_empty_file_differs_in_nothing(tmp_path):
    write(tmp_path, empty="# all defaults\n")
    assert load_yaml(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("base: top.yaml", ValueError, "top.yaml is its own base: top.yaml -> top.yaml"),
        ("base: other.yaml", ValueError, "its own base: top.yaml -> other.yaml -> top.yaml"),
        ("base: missing.yaml", FileNotFoundError, r"missing\.yaml \(the base of .*top\.yaml\)"),
        ("base: [a.yaml, b.yaml]", ValueError, "base in .*top.yaml is .*expected one file name"),
        ("- a\n- b", ValueError, "top.yaml holds .*expected a mapping"),
        ("a: [1, 2", ValueError, "top.yaml is not YAML"),
        ("a: 1\nb: {c: 1, c: 2}", ValueError, 'found duplicate key "c"'),
        ("a: !!python/object:os.system {}", ValueError, "top.yaml is not YAML"),
    ],
)
def test_files_that_are_no_config_are_named(tmp_path, text, error, message):
    write(tmp_path, top=text, other="base: top.yaml")
    with pytest.raises(error, match=message):
        load_yaml(tmp_path / "top.yaml")


def test_files_that_are_not_there_or_no_text(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such config file: .*nope.yaml$"):
        load_yaml(tmp_path / "nope.yaml")
    (tmp_path / "weights.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        load_yaml(tmp_path / "weights.yaml")


# Overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("1E6", 1e6),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("3", 3),
        ("-3", -3),
        ("true", True),
        ("null", None),
        ("[4, 4e0, 5]", [4, 4.0, 5]),
        ("{size: 8}", {"size": 8}),
        ("talk.flac", "talk.flac"),
        ("''", ""),
        ("a=b", "a=b"),
        ("e5", "e5"),
    ],
)
def test_override_values_are_yaml_with_real_numbers(text, value):
    result = apply_overrides({}, [f"optim.lr={text}"])["optim"]["lr"]
    assert result == value
    assert type(result) is type(value)


def test_overrides_set_one_value_each_and_leave_the_mapping_alone():
    mapping = {"optim": {"lr": 1e-4, "betas": [0.8, 0.99]}, "merging": None}
    overrides = ["optim.lr=5e-5", "merging.max_duration=4", "new.part.key=1", "optim.lr=6e-5", "optim.betas=[0.9, 1]"]
    assert apply_overrides(mapping, overrides) == {
        "optim": {"lr": 6e-5, "betas": [0.9, 1]},
        "merging": {"max_duration": 4},
        "new": {"part": {"key": 1}},
    }
    assert mapping == {"optim": {"lr": 1e-4, "betas": [0.8, 0.99]}, "merging": None}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.lr"], "'optim.lr' is not of the form part.key=value"),
        (["=3"], "not of the form"),
        (["optim..lr=3"], "not of the form"),
        (["optim.lr="], "has no value; write null"),
        (["optim.lr=[1, 2"], r"override 'optim.lr=\[1, 2' is not YAML"),
        (["optim.lr.x=1"], "optim.lr is 0.1 .*not a mapping"),
        ("optim.lr=1", "expected a list"),
    ],
)
def test_overrides_that_make_no_sense(overrides, message):
    with pytest.raises(ValueError, match=message):
        apply_overrides({"optim": {"lr": 0.1}}, overrides)


def test_a_marked_mapping_replaces_what_the_base_had(tmp_path):
    (tmp_path / "base.yaml").write_text("part: {a: 1, b: {c: 2}}\n")
    (tmp_path / "top.yaml").write_text("base: base.yaml\npart: !replace {d: 3}\n")
    assert load_yaml(tmp_path / "top.yaml") == {"part": {"d": 3}}
    (tmp_path / "deep.yaml").write_text("base: base.yaml\npart: {b: !replace {d: 3}}\n")
    assert load_yaml(tmp_path / "deep.yaml") == {"part": {"a": 1, "b": {"d": 3}}}
    (tmp_path / "wrong.yaml").write_text("part: !replace 3\n")
    with pytest.raises(ValueError, match="mapping"):
        load_yaml(tmp_path / "wrong.yaml")


@pytest.mark.parametrize(
    ("text", "value"), [("no", "no"), ("on", "on"), ("yes", "yes"), ("true", True), ("False", False)]
)
def test_only_true_and_false_are_booleans(text, value):
    assert apply_overrides({}, [f"key={text}"]) == {"key": value}
