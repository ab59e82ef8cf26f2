"""Configs: frozen dataclasses to and from plain dicts, JSON and YAML, with errors that name the key and the slip.

A config file holds only what differs from the defaults in code; `base:` names the file it builds on, `None` in place of
a part (as in `merging: null`) says that the part is absent, and `!replace` before a part that it is to be of another
kind, with nothing left of the base's.
"""

import copy
import dataclasses
import difflib
import math
import os
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")
CLOSE = 0.5  # similarity (difflib's ratio) from which a key counts as a slip for another


class Replacement(dict[str, Any]):
    """A mapping (`!replace` in YAML) that an overlay puts in the place of what was there, instead of merging."""


def from_dict(cls: type[Config], mapping: Mapping[str, Any], path: str = "") -> Config:
    """Build a (nested, frozen) dataclass from plain data, checking every key and type.

    Lists become tuples where the field is one, whole numbers floats where the field is a float; nothing else is
    converted. Fields may be bool, int, float, str, `Literal`, tuples, lists and dicts of these, other dataclasses,
    unions such as `X | None`, and `Any`.

    Args:
        cls: The dataclass.
        mapping: Its fields; those left out keep their defaults.
        path: Where in the whole config this part sits (`"merging"`), for messages.

    Raises:
        ValueError: An unknown key (naming the nearest known one), a missing key, a wrong type, or a value that the
            dataclass itself refuses; each with its path, as in `merging.max_duration`.
    """
    if not isinstance(mapping, Mapping):
        raise ValueError(
            f"{path or cls.__name__} is {_show(mapping)}; expected a mapping with the keys of {cls.__name__}"
        )
    hints = get_type_hints(cls)
    fields = {field.name: field for field in _init_fields(cls)}
    for key in mapping:
        if key not in fields:
            raise ValueError(f"unknown key {_join(path, key)!r} ({cls.__name__}){_did_you_mean(key, fields)}")
    values = {key: _convert(hints[key], value, _join(path, key)) for key, value in mapping.items()}
    for name, field in fields.items():
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in values and not has_default:
            raise ValueError(f"missing required key {_join(path, name)!r} of {cls.__name__}")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}" if path else str(error)) from error


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a dataclass into dicts, lists and scalars that JSON can hold; `from_dict` undoes it.

    Raises:
        ValueError: A field holds something that JSON cannot, naming its path.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ValueError(f"to_dict takes a config dataclass; got {_show(config)}")
    return _fields_to_plain(config, "")


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML (or JSON) config and lay it over the file its `base:` key names, if any.

    `base` is relative to the file that names it and may have a base of its own. Nested mappings are merged key by key;
    everything else, lists and null included, replaces what the base had, and so does a mapping tagged `!replace`:

        semantic_encoder: !replace
          model_type: hubert
          layer: 9

    Raises:
        FileNotFoundError: The file or a base is missing.
        ValueError: Not YAML, no mapping, a key given twice, or a file that is its own base.
    """
    return _load_with_bases(Path(path), ())


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `top`: mappings merge key by key unless tagged, everything else replaces."""
    result = copy.deepcopy(dict(base))
    for key, value in top.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping) and not isinstance(value, Replacement)
        result[key] = overlay(below, value) if both else copy.deepcopy(value)  # type: ignore[arg-type]
    return result


def apply_overrides(mapping: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of `mapping` with `["optim.lr=5e-5", "merging=null", ...]` set, later ones last.

    Values are YAML (`3`, `true`, `null`, `[4, 4, 5]`, `{size: 8}`) and replace what was there; parts that are absent or
    null on the way are created. Whether a key exists at all is for `from_dict` to say.

    Raises:
        ValueError: No `=`, an empty key or value, a value that is not YAML, or a path that goes through a scalar.
    """
    if isinstance(overrides, str):
        raise ValueError(f"overrides is the string {overrides!r}; expected a list of them")
    result = copy.deepcopy(dict(mapping))
    for override in overrides:
        key, equals, text = override.partition("=")
        parents = key.strip().split(".")
        last = parents.pop()
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
        part[last] = _parse_yaml(text, f"override {override!r}")
    return result


def _convert(hint: Any, value: Any, path: str) -> Any:
    """Return `value` as the type `hint` asks for, or raise ValueError."""
    origin, arguments = get_origin(hint), get_args(hint)
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
    members = [member for member in members if member is not type(None)]
    if len(members) > 1:  # first the one that needs no conversion: 3 stays an int in `float | int`
        members = [member for member in members if member is type(value)] or members
    for member in members:
        try:
            return _convert(member, value, path)
        except ValueError:
            continue
    if (meant := members[0] if len(members) == 1 else _most_alike(members, value)) is not None:
        return _convert(meant, value, path)  # once more, for what it says about the slip
    raise ValueError(f"{path} is {_show(value)}; expected {' or '.join(map(_name, members))}")


def _most_alike(members: Sequence[Any], value: Any) -> Any:
    """Choose the dataclass that a mapping was meant for: it knows most of the keys, or has the most similar ones.

    None where the value is no mapping, or like none of them.
    """
    if not isinstance(value, Mapping) or not value:
        return None

    def likeness(member: Any) -> tuple[int, float]:
        names = [field.name for field in _init_fields(member)]
        nearest = [max(difflib.SequenceMatcher(None, str(key), name).ratio() for name in names) for key in value]
        return sum(key in names for key in value), sum(nearest) / len(nearest)

    best = max(filter(dataclasses.is_dataclass, members), key=likeness, default=None)
    return best if best is not None and likeness(best)[1] >= CLOSE else None


def _convert_items(origin: type, arguments: Sequence[Any], values: Sequence[Any], path: str) -> list[Any]:
    if origin is tuple and Ellipsis not in arguments:
        if len(values) != len(arguments):
            raise ValueError(f"{path} has {len(values)} values {values!r}; expected {len(arguments)}")
        hints = list(arguments)
    else:
        hints = [arguments[0]] * len(values)
    return [_convert(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(hints, values, strict=True))]


def _fields_to_plain(config: Any, path: str) -> dict[str, Any]:
    names = [field.name for field in _init_fields(type(config))]
    return {name: _to_plain(getattr(config, name), _join(path, name)) for name in names}


def _to_plain(value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields_to_plain(value, path)
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item, _join(path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    raise ValueError(f"{path} is {_show(value)}, which JSON cannot hold")


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
    content = _parse_yaml(text, str(path))
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {_show(content)}; expected a mapping of keys to values")
    if "base" not in content:
        return content
    base = content.pop("base")
    if not isinstance(base, str):
        raise ValueError(f"base in {path} is {_show(base)}; expected one file name, relative to this file")
    return overlay(_load_with_bases(path.parent / base, (*above, resolved)), content)


def _parse_yaml(text: str, source: str) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=_yaml_loader())
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not YAML: {error}") from error


@cache
def _yaml_loader() -> Any:
    """Return PyYAML's safe loader, with numbers and booleans as YAML 1.2 has them and without silently doubled keys."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [
                self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"
            ]
            for index, key in enumerate(keys):
                if key in keys[:index]:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
            return super().construct_mapping(node, deep)

    def construct_replacement(loader: Any, node: Any) -> Replacement:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "!replace stands before a mapping", node.start_mark)
        return Replacement(loader.construct_mapping(node, deep=True))

    Loader.add_constructor("!replace", construct_replacement)
    # YAML 1.1, which PyYAML reads, takes `no` and `on` for booleans, and 5e-5 and 1e6 for strings.
    boolean = "tag:yaml.org,2002:bool"
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != boolean]
        for first, resolvers in Loader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(boolean, re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    number = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def _init_fields(cls: type) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cls) if field.init]


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _did_you_mean(key: object, known: Iterable[object]) -> str:
    names = [str(name) for name in known]
    nearest = difflib.get_close_matches(str(key), names, n=1, cutoff=CLOSE)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; known: {', '.join(names)}"


def _slip(hint: Any, value: Any) -> str:
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


def non_defaults(config: Any) -> dict[str, Any]:
    """List the fields of a dataclass that differ from its class's defaults, parts by their own classes' defaults.

    Parts are named with their class, so that a part's absence or another kind of part shows.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = {"kind": type(value).__name__} | non_defaults(value)
        elif value != (field.default_factory() if callable(field.default_factory) else field.default):
            found[field.name] = value
    return found
