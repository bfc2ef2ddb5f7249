"""What commands say: text for people, JSON for machines."""

import json
import pathlib
from typing import Any


def show(results: Any, text: str, target: str | None) -> None:
    """Prints the text, and writes the results as JSON to a file; if that is "-", prints JSON alone."""
    whole = json.dumps(results, indent=1)
    if target == "-":
        print(whole)
        return
    if target:
        path = pathlib.Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp")
        beside.write_text(whole + "\n")
        beside.replace(path)
    print(text)
