"""The reference of the configuration: `python -m csmf_tf.config_reference [docs/config.md]`.

Without a file it prints all keys; given one, it writes them there between two markers.
"""

import pathlib
import re
import sys
from collections.abc import Iterator, Sequence

from csmf_tf._schema import Section, describe
from csmf_tf.config import Config

BEGIN = "<!-- keys: written by `python -m csmf_tf.config_reference docs/config.md` -->"
END = "<!-- end of keys -->"


def tables() -> str:
    """The Markdown of all keys: a heading and a table for each section.

    Example:
        >>> next(line for line in tables().splitlines() if line.startswith("| `split.seed`"))
        '| `split.seed` | an integer in [0, 2^31) | `0` | Seed of the split. |'
    """
    return "\n\n".join("\n".join(_lines(section)) for section in describe(Config) if section.keys)


def rewrite(text: str) -> str:
    r"""The text with what stands between the markers replaced by the keys.

    Raises:
        ValueError: without the two markers, each on a line of its own and in order.

    Example:
        >>> rewrite(f"before\n{BEGIN}\nold\n{END}\nafter").splitlines()[-1]
        'after'
    """
    found = re.fullmatch(f"(.*^{re.escape(BEGIN)}\n).*(^{re.escape(END)}$.*)", text, re.DOTALL | re.MULTILINE)
    if not found:
        raise ValueError(
            f"The file should hold a line {BEGIN!r} and after it one {END!r}. Received: {text[:80]!r}..."
        )
    return f"{found[1]}\n{tables()}\n\n{found[2]}"


def main(arguments: Sequence[str]) -> None:
    """Prints the keys, or writes them into the file that is given."""
    if not arguments:
        print(tables())
        return
    path = pathlib.Path(arguments[0])
    text = rewrite(path.read_text(encoding="utf-8"))
    beside = path.with_suffix(".tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _lines(section: Section) -> Iterator[str]:
    yield from [f"### {section.name or 'top level'}", ""]
    yield from [section.text if section.name else "Keys beside the sections below.", ""]
    yield from ["| key | type | default | what |", "|---|---|---|---|"]
    for key in section.keys:
        default = f"`{key.default}`" if key.default else "required"
        yield f"| `{key.name}` | {key.words} | {default} | {_linked(key.text)} |"


def _linked(text: str) -> str:
    """Names of documents as links from within docs/."""
    return re.sub(r"docs/(\w+)\.md", r"[\1](\1.md)", text)


if __name__ == "__main__":
    main(sys.argv[1:])
