"""Configs: frozen dataclasses to and from dicts, JSON and YAML; errors name the key and the nearest known one.

A config file holds only what differs from the defaults in code. `base:` names the file it builds on, `null` in place of
a part (`merging: null`) removes it, and `!replace` before a part discards all the base has of it.
"""

import copy
import dataclasses
import difflib
import io
import math
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")
CLOSE = 0.5  # similarity (difflib's ratio) from which a key counts as a misspelling of another


class Replacement(dict[str, Any]):
    """A mapping tagged `!replace` in YAML, which an overlay puts in place of the base's instead of merging the two."""


# --------------------------------------------------------------------------------------- dataclasses from plain values


def from_dict(cls: type[Config], mapping: Mapping[str, Any], path: str = "") -> Config:
    """Build a (nested, frozen) dataclass from plain data, checking every key and type.

    Lists become tuples where the field is one, whole numbers floats where the field is a float; nothing else is
    converted. Fields may be bool, int, float, str, `Literal`, tuples, lists and dicts of these, other dataclasses,
    unions such as `X | None`, and `Any`.

    Args:
        cls: The dataclass.
        mapping: Its fields; missing ones keep their defaults.
        path: Where in the whole config this part sits (`"merging"`), for messages.

    Raises:
        ValueError: An unknown key (naming the nearest known one), a missing key, a wrong type, or a value that the
            dataclass refuses; each with its path, as in `merging.max_duration`.
    """
    if not isinstance(mapping, Mapping):
        raise ValueError(
            f"{path or cls.__name__} is {_show(mapping)}; expected a mapping with the keys of {cls.__name__}"
        )
    hints = get_type_hints(cls)
    fields = {field.name: field for field in _init_fields(cls)}
    values = {}
    for key, value in mapping.items():
        if key not in fields:
            raise ValueError(f"unknown key {_join(path, key)!r} ({cls.__name__}){_did_you_mean(key, fields)}")
        values[key] = _convert(hints[key], value, _join(path, key))
    for name, field in fields.items():
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in values and not has_default:
            raise ValueError(f"missing required key {_join(path, name)!r} of {cls.__name__}")
    try:
        return cls(**values)
    except ValueError as error:
        if not path:
            raise
        raise ValueError(f"{path}: {error}") from error


def _convert(hint: Any, value: Any, path: str) -> Any:
    """Return `value` as the type `hint` asks for."""
    origin = get_origin(hint)
    arguments = get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, path)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        choices = ", ".join(map(repr, arguments))
        raise ValueError(f"{path} is {value!r}; expected one of {choices}{_did_you_mean(value, arguments)}")
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value, path)  # type: ignore[arg-type]
    if origin in (tuple, list) and isinstance(value, list | tuple):
        return origin(_convert_items(origin, arguments, value, path))
    if origin is dict and isinstance(value, Mapping):
        return {key: _convert(arguments[1], item, _join(path, key)) for key, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if hint in (bool, int, float, str, type(None)) and type(value) is hint:
        return value
    raise ValueError(f"{path} is {_show(value)}; expected {_name(hint)}{_slip(hint, value)}")


def _convert_union(members: Sequence[Any], value: Any, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    candidates = [member for member in members if member is not type(None)]
    # A member that needs no conversion comes first: 3 stays an int in `float | int`.
    for member in sorted(candidates, key=lambda member: member is not type(value)):
        try:
            return _convert(member, value, path)
        except ValueError:
            continue
    # None fits. The member that was meant names the mistake.
    meant = candidates[0] if len(candidates) == 1 else _nearest_dataclass(candidates, value)
    if meant is None:
        raise ValueError(f"{path} is {_show(value)}; expected {' or '.join(map(_name, candidates))}")
    return _convert(meant, value, path)


def _nearest_dataclass(members: Sequence[Any], value: Any) -> Any:
    """Choose the dataclass a mapping was meant for: most known keys, then most similar ones; None if like none."""
    if not isinstance(value, Mapping) or not value:
        return None

    def score(member: Any) -> tuple[int, float]:
        names = [field.name for field in _init_fields(member)]
        hints = get_type_hints(member)
        known = 0
        likeness = 0.0
        for key, given in value.items():
            choices = get_args(hints[key]) if get_origin(hints.get(key)) is Literal else (given,)
            if key in names and given not in choices:  # the tag of another member, or misspelt
                likeness += CLOSE
                continue
            known += key in names
            likeness += max(_similarity(key, name) for name in names)
        return known, likeness / len(value)

    best = max(filter(dataclasses.is_dataclass, members), key=score, default=None)
    if best is None or score(best)[1] < CLOSE:
        return None
    return best


def _convert_items(origin: type, arguments: Sequence[Any], values: Sequence[Any], path: str) -> list[Any]:
    hints = list(arguments)
    if origin is list or Ellipsis in hints:
        hints = hints[:1] * len(values)
    if len(values) != len(hints):
        raise ValueError(f"{path} has {len(values)} values {values!r}; expected {len(hints)}")
    return [_convert(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(hints, values, strict=True))]


# ----------------------------------------------------------------------------------------- dataclasses to plain values


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a dataclass into dicts, lists and scalars that JSON can hold; `from_dict` undoes it."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ValueError(f"to_dict takes a config dataclass; got {_show(config)}")
    return _to_plain(config, "")


def _to_plain(value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in _init_fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item, _join(path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    raise ValueError(f"{path} is {_show(value)}, which JSON cannot hold")


def non_defaults(config: Any) -> dict[str, Any]:
    """List the fields of a dataclass that differ from its class's defaults.

    Parts are always listed, by the name of their class, and compared with their own class's defaults.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if dataclasses.is_dataclass(value):
            found[field.name] = {"kind": type(value).__name__} | non_defaults(value)
        elif value != default:
            found[field.name] = value
    return found


# ------------------------------------------------------------------------------------------------- files and overrides


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML (or JSON) config and lay it over the file that its `base:` key names, if any.

    `base` is relative to the file that names it and may have a base of its own. Nested mappings are merged key by key;
    everything else, lists and null included, replaces what the base had, and so does a mapping tagged `!replace`:

        semantic_encoder: !replace
          model_type: hubert
          layer: 9

    Raises:
        FileNotFoundError: The file or a base is missing.
        ValueError: Not YAML, no mapping, a repeated key, or a file that is its own base.
    """
    return _load_with_bases(Path(path), ())


def _load_with_bases(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in above:
        raise ValueError(f"{path} is its own base: {' -> '.join(p.name for p in (*above, resolved))}")
    if not path.is_file():
        named_by = f" (the base of {above[-1]})" if above else ""
        raise FileNotFoundError(f"no such config file: {path}{named_by}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; is it a config file?") from error
    content = parse_yaml(text, str(path))
    if content is None:  # an empty file
        content = {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {_show(content)}; expected a mapping of keys to values")
    if "base" not in content:
        return content
    base = content.pop("base")
    if not isinstance(base, str):
        raise ValueError(f"base in {path} is {_show(base)}; expected one file name, relative to this file")
    return overlay(_load_with_bases(path.parent / base, (*above, resolved)), content)


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `top`: mappings merge key by key unless tagged, everything else replaces."""
    result = copy.deepcopy(dict(base))
    for key, value in top.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping) and not isinstance(value, Replacement):
            result[key] = overlay(below, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def apply_overrides(mapping: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `mapping` with `["optim.lr=5e-5", "merging=null", ...]` set; later ones win.

    Values are YAML (`3`, `true`, `null`, `[4, 4, 5]`, `{size: 8}`) and replace the old ones; missing parts on the way
    are created. Whether a key exists at all is checked by `from_dict`.
    """
    if isinstance(overrides, str):
        raise ValueError(f"overrides is the string {overrides!r}; expected a list of them")
    result = copy.deepcopy(dict(mapping))
    for override in overrides:
        key, equals, text = override.partition("=")
        *parents, last = key.strip().split(".")
        if not equals or not last or not all(parents):
            raise ValueError(f"override {override!r} is not of the form part.key=value")
        if not text.strip():
            raise ValueError(f"override {override!r} has no value; write null for None, '' for an empty string")
        part = result
        for depth, parent in enumerate(parents, 1):
            if part.get(parent) is None:
                part[parent] = {}
            part = part[parent]
            if not isinstance(part, dict):
                raise ValueError(f"override {override!r}: {'.'.join(parents[:depth])} is {_show(part)}, not a mapping")
        part[last] = parse_yaml(text, f"override {override!r}")
    return result


def parse_yaml(text: str | bytes, source: str) -> Any:
    """Read YAML 1.2 into plain values, `Replacement` for `!replace`; `source` names the text in errors."""
    from ruamel.yaml import YAML, YAMLError
    from ruamel.yaml.constructor import ConstructorError, SafeConstructor
    from ruamel.yaml.nodes import MappingNode

    class Constructor(SafeConstructor):
        pass

    def construct_replacement(constructor: Any, node: Any) -> Replacement:
        if not isinstance(node, MappingNode):
            raise ConstructorError(None, None, "!replace must precede a mapping", node.start_mark)
        return Replacement(constructor.construct_mapping(node, deep=True))

    Constructor.add_constructor("!replace", construct_replacement)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Constructor
    try:
        return yaml.load(text)
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{source} is not YAML: {error}") from error


def dump_yaml(values: Mapping[str, Any], width: int = 80, flow: bool | None = False) -> str:
    """Write plain values as YAML in the order of their keys; `flow` None puts the innermost lists on one line."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = flow
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = width
    text = io.StringIO()
    yaml.dump(dict(values), text)
    return text.getvalue()


# ------------------------------------------------------------------------------------------------------------ messages


def _init_fields(cls: type) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cls) if field.init]


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _similarity(key: object, name: str) -> float:
    return difflib.SequenceMatcher(None, str(key), name).ratio()


def _did_you_mean(key: object, known: Iterable[object]) -> str:
    names = list(map(str, known))
    nearest = difflib.get_close_matches(str(key), names, n=1, cutoff=CLOSE)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; known: {', '.join(names)}"


def _slip(hint: Any, value: Any) -> str:
    """Name the likely mistake behind a value of the wrong type."""
    if hint is int and type(value) is float and value.is_integer():
        return f" (write {int(value)})"
    if hint in (int, float, bool) and isinstance(value, str):
        return " (quoted?)"
    if hint is str and isinstance(value, bool | int | float):
        return " (YAML needs quotes around it)"
    return ""


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def _show(value: object) -> str:
    return "null" if value is None else f"{value!r} ({type(value).__name__})"
