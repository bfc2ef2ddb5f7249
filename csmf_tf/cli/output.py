"""What commands say: text for people, JSON for machines, and errors; and the arguments that ask for JSON."""

import json
import math
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What a command answers.

    Attributes:
        document: plain values, for JSON.
        text: the same for people.
        code: the exit code.
    """

    document: Any
    text: str
    code: int = 0


def show(answer: Answer, target: str | None) -> None:
    """Prints the text, and writes the document as JSON to a file; if that is "-", prints JSON alone.

    The text comes first: a file that cannot be written costs nobody the answer.
    """
    whole = json.dumps(_finite(answer.document), indent=1)
    if target == "-":
        print(whole, flush=True)
        return
    if answer.text:
        print(answer.text, flush=True)
    if target:
        path = pathlib.Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp")
        beside.write_text(whole + "\n")
        beside.replace(path)


def _finite(value: Any) -> Any:
    """The same with null where numbers are none: JSON has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def named_json(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--json` and its file in one, so that it never takes another argument for one.

    What follows it is a file if it is `-` or ends in `.json`; else there is none, and JSON goes to standard
    output.

    Example:

    >>> named_json(["compare", "--json", "a", "b"]), named_json(["evaluate", "a", "--json", "m.json"])
    (['compare', '--json=-', 'a', 'b'], ['evaluate', 'a', '--json=m.json'])
    """
    found: list[str] = []
    left = list(arguments)
    while left:
        one = left.pop(0)
        if one == "--":
            return [*found, one, *left]
        # argparse takes the beginning of an option for the option.
        if len(one) > 2 and "--json".startswith(one):
            has_file = bool(left) and (left[0] == "-" or left[0].endswith(".json"))
            one = f"--json={left.pop(0) if has_file else '-'}"
        found.append(one)
    return found


def is_of_input(error: Exception) -> bool:
    """Whether what was given, or the machine, may be at fault, so that a message is enough."""
    # Without TensorFlow there is none of its errors.
    op_error = getattr(getattr(sys.modules.get("tensorflow"), "errors", None), "OpError", ())
    return isinstance(error, (ValueError, OSError, ImportError, MemoryError, op_error))


def error_text(error: Exception) -> str:
    """What an error says, in a line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = str(error) or type(error).__name__
    if isinstance(error, ImportError):
        return f"{text}; `csmf-tf doctor` tells what the installation lacks"
    if not is_of_input(error):
        name = type(error).__name__
        return f"{name}: {text}; a damaged file or a fault of csmf_tf, --debug shows where"
    # TensorFlow puts where an op was made before the reason, and the op's name behind it.
    reason = re.split(r"\n\s*\[\[", getattr(error, "message", ""))[0].splitlines()
    return reason[-1] if reason else text
