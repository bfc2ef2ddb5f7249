"""Reads plain nested values into dataclasses whose type hints are the checks.

Understood hints: nested dataclasses (sections), `int`, `float` (finite), `str` (not empty), `bool`, `None`,
unions, `Literal` of strings, `tuple[X, ...]` (a list), `dict[str, X]`, and `Annotated[X, Rule, ...]`.
"""

import ast
import difflib
import inspect
import itertools
import json
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints


class Rule(NamedTuple):
    """What a value must fulfil beyond its type: in words, appended to those of the type, and as a test."""

    says: str
    holds: Callable[[Any], bool]


class Key(NamedTuple):
    """What a reference says of a key.

    Attributes:
        name: its full dotted name.
        words: what it should be, as the errors say it.
        default: its default as YAML writes it, "" where it has to be given.
        text: the string below its field, on one line.
    """

    name: str
    words: str
    default: str
    text: str


class Section(NamedTuple):
    """The keys of one dataclass: its dotted name ("" for the root), its docstring and its own keys."""

    name: str
    text: str
    keys: list[Key]


def describe(cls: type, name: str = "") -> Iterator[Section]:
    """Yields every section of a dataclass, each before those within it.

    Args:
        cls: the dataclass, in a file that can be read. The string below a field is the field's text.
        name: what its keys stand under.

    Yields:
        `Section`: its keys in their order, without those of the sections within.

    Raises:
        ValueError: for a field without a string below it.

    Example:
        >>> from csmf_tf.config import Config
        >>> sections = {section.name: section for section in describe(Config)}
        >>> sections["split"].keys[-1]
        Key(name='split.seed', words='an integer in [0, 2^31)', default='0', text='Seed of the split.')
    """
    hints, texts, keys = get_type_hints(cls, include_extras=True), _texts(cls), []
    for one in fields(cls):
        if is_dataclass(hints[one.name]):
            continue
        key = _join(name, one.name)
        if one.name not in texts:
            raise ValueError(f"`{cls.__name__}.{one.name}` should have a string below it. Received: none")
        default = one.default if one.default_factory is MISSING else one.default_factory()
        written = "" if default is MISSING else json.dumps(default).replace('"', "")
        keys.append(Key(key, _words(hints[one.name]), written, texts[one.name]))
    yield Section(name, inspect.cleandoc(cls.__doc__ or ""), keys)
    for one in fields(cls):
        if is_dataclass(hints[one.name]):
            yield from describe(hints[one.name], _join(name, one.name))


def _texts(cls: type) -> dict[str, str]:
    """The string below each field of a class that has one."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    return {
        above.target.id: " ".join(below.value.value.split())
        for above, below in itertools.pairwise(body)
        if isinstance(above, ast.AnnAssign)
        and isinstance(above.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def read(cls: type, raw: Any, examples: Mapping[str, Any]) -> Any:
    """Builds a dataclass from a mapping; lists become tuples, and integers floats where floats are asked for.

    Args:
        cls: the dataclass. Fields that are dataclasses are sections; those with defaults may be left out.
        raw: the mapping, of plain values as YAML or JSON give them.
        examples: dotted key -> what an error proposes to write there; the default where a key is not in it.

    Returns:
        An instance of `cls`.

    Raises:
        ValueError: for an unknown key (the nearest known one is named), a missing key, or a value that does
            not fit; the message holds the full dotted key.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Oven:
        ...     degrees: Annotated[int, Rule(" >= 0", lambda n: n >= 0)] = 180
        >>> read(Oven, {"degrees": 200}, {})
        Oven(degrees=200)
        >>> read(Oven, {"degrees": "hot"}, {})
        Traceback (most recent call last):
        ValueError: `degrees` should be an integer >= 0. Received: degrees='hot'; write e.g. `degrees: 180`.
    """
    return _read_section(cls, raw, "", root=cls, examples=examples)


def _read_section(cls: Any, raw: Any, key: str, root: type, examples: Mapping[str, Any]) -> Any:
    """Builds `cls` from what stands under the dotted `key`; None (nothing in YAML) is an empty mapping."""
    raw = {} if raw is None else raw
    hints = get_type_hints(cls, include_extras=True)
    if not isinstance(raw, Mapping):
        raise ValueError(
            f"`{key or 'config'}` should be a mapping (keys: {', '.join(hints)}). Received: {raw!r}."
        )
    for name in raw:
        if name not in hints:
            raise ValueError(f"Unknown key `{_join(key, name)}`. {_advice(str(name), key, root, hints)}")
    values = {}
    for field in fields(cls):
        full, hint = _join(key, field.name), hints[field.name]
        if is_dataclass(hint):
            values[field.name] = _read_section(hint, raw.get(field.name), full, root, examples)
        elif field.name in raw:
            try:
                values[field.name] = _convert(hint, raw[field.name])
            except TypeError:
                received = f"Received: {full}={raw[field.name]!r}"
                example = _example(full, examples.get(full, field.default))
                raise ValueError(f"`{full}` should be {_words(hint)}. {received}; {example}.") from None
        elif field.default is MISSING and field.default_factory is MISSING:
            example = _example(full, examples.get(full))
            raise ValueError(f"`{full}` is missing. It should be {_words(hint)}; {example}.")
    return cls(**values)


def _convert(hint: Any, value: Any) -> Any:
    """The value as the type hint asks for it; TypeError if it does not fit."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value = _convert(args[0], value)
        if all(rule.holds(value) for rule in args[1:]):
            return value
    elif origin in (Union, UnionType):
        for arg in args:
            try:
                return _convert(arg, value)
            except TypeError:
                continue
    elif origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(args[0], entry) for entry in value)
    elif origin is dict and isinstance(value, Mapping):
        return {_convert(args[0], name): _convert(args[1], entry) for name, entry in value.items()}
    elif hint is float:
        if type(value) in (int, float) and abs(value) < math.inf:
            return float(value)
    elif (origin is Literal and value in args) or (type(value) is hint and value != ""):
        return value
    raise TypeError


# Below it two keys have little more in common than some letters; 1.2 are equal ones of a section.
_ALIKE = 0.85

_NOUNS = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("a non-empty string", "non-empty strings"),
    bool: ("true or false", "booleans"),
    NoneType: ("null", "nulls"),
}


def _words(hint: Any, plural: bool = False) -> str:
    """The type hint in words, which follow 'should be'."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return "".join([_words(args[0], plural), *(rule.says for rule in args[1:])])
    if origin in (Union, UnionType):
        return " or ".join(_words(arg, plural) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(args)
    if origin is tuple:
        return f"a list of {_words(args[0], plural=True)}"
    if origin is dict:
        return f"a mapping with each value {_words(args[1])}"
    return _NOUNS[hint][plural]


def _example(key: str, value: Any) -> str:
    leaf, text = key.rpartition(".")[2], json.dumps(value).replace('"', "")
    return f"write e.g. `{leaf}: {text}`"


def _advice(name: str, section: str, root: type, own: Mapping[str, Any]) -> str:
    """The known key most like `name`, or all of its section if none is like it.

    A key of the same section wins over one as similar elsewhere.
    """

    def likeness(known: str) -> float:
        parent, _, leaf = known.rpartition(".")
        return difflib.SequenceMatcher(None, name, leaf).ratio() + 0.2 * (parent == section)

    nearest = max(_known_keys(root, ""), key=likeness)
    if likeness(nearest) < _ALIKE:
        return f"`{section or 'config'}` has the keys {', '.join(own)}."
    return f"Did you mean `{nearest}`?"


def _known_keys(cls: Any, key: str) -> Iterator[str]:
    for name, hint in get_type_hints(cls, include_extras=True).items():
        yield _join(key, name)
        if is_dataclass(hint):
            yield from _known_keys(hint, _join(key, name))


def _join(section: str, name: Any) -> str:
    return f"{section}.{name}" if section else str(name)
