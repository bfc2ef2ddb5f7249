"""The card of a version, `assets.extra/csmf.json`: what it is, for those who query or refresh it."""

import json
import os
from typing import Any

FORMAT = 3
"""Version of the layout of `assets.extra`; only its own is read."""

_FILE = os.path.join("assets.extra", "csmf.json")


def read_card(version_dir: str | os.PathLike) -> dict[str, Any]:
    """Returns the card of a version.

    Raises:
        ValueError: when it is of another format.
    """
    with open(os.path.join(version_dir, _FILE), encoding="utf-8") as file:
        card = json.load(file)
    if card["format"] != FORMAT:
        raise ValueError(
            f"{os.fspath(version_dir)} should be of format {FORMAT}. Received: format {card['format']}; "
            "export it again"
        )
    return card


def write_card(version_dir: str | os.PathLike, card: dict[str, Any]) -> None:
    """Writes the card of a version.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_card(folder, {"format": FORMAT, "k": 10})
    ...     read_card(folder)["k"]
    10
    """
    path = os.path.join(version_dir, _FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(card, file, indent=1)
