"""YAML as a configuration wants it: 1e-3 is a number, a repeated key an error, a.b=value changes a key."""

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which by itself takes 1e-3 for a string and drops the first of two equal keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key `{key.value}` stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse(text: str, source: str) -> Any:
    """The plain value that a YAML text holds.

    Args:
        text: the YAML text.
        source: what the text is, for the error message.

    Returns:
        Dicts, lists, strings, numbers, booleans, None.

    Raises:
        ValueError: if it is not YAML, or a mapping has the same key twice.

    Example:
        >>> parse("{learning_rate: 1e-3, ks: [10, 50]}", "example")
        {'learning_rate': 0.001, 'ks': [10, 50]}
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} should be valid YAML. Received: {error}") from None


def override(raw: dict[str, Any], assignment: str) -> None:
    """Changes one key of nested mappings in place, making the sections on the way.

    Args:
        raw: the nested mappings.
        assignment: `"a.b=value"`; the value is read as YAML.

    Raises:
        ValueError: if it is not of this form, or a section on the way is not a mapping.

    Example:
        >>> raw = {"model": {"embedding_dim": 64}}
        >>> override(raw, "model.embedding_dim=32")
        >>> override(raw, "training.epochs=5")
        >>> raw
        {'model': {'embedding_dim': 32}, 'training': {'epochs': 5}}
    """
    key, equals, text = assignment.partition("=")
    *sections, leaf = key.strip().split(".")
    if not (equals and leaf and all(sections)):
        raise ValueError(
            f"`--set` should be key=value, e.g. model.embedding_dim=64. Received: {assignment!r}."
        )
    place = raw
    for name in sections:
        if place.get(name) is None:
            place[name] = {}
        place = place[name]
        if type(place) is not dict:
            raise ValueError(
                f"`--set {assignment}`: `{name}` has no keys of its own. Received: {name}={place!r}."
            )
    place[leaf] = parse(text, f"--set {assignment}")
