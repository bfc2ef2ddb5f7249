"""What the site needs beyond mkdocs: formulas, links out of docs/, the changelog, Keras's docstrings."""

import html
import inspect
import posixpath
import re
from pathlib import Path
from urllib.parse import quote

import griffe
from latex2mathml.converter import convert
from markdown import Extension
from markdown.inlinepatterns import InlineProcessor
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
log = get_plugin_logger("hooks")


def on_config(config):
    """Formulas are written as GitHub reads them, and become MathML, which browsers draw without a script."""
    fence = {"name": "math", "class": "math", "format": block_formula}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    config.markdown_extensions.append(InlineFormulas())
    return config


def block_formula(source, language, css_class, options, md, **kwargs):
    """The MathML of a fence ```math."""
    return mathml(" ".join(source.split()), "block")


def mathml(latex, display="inline"):
    """What the browser draws; names of functions get the space that TeX sets after them."""
    drawn = re.sub(r"<mo>([a-z]+)</mo>", r"<mi>\1</mi>", convert(latex, display=display))
    return re.sub(r"(<mi>(?:log|erf)</mi>)(?!<mo stretchy)", r'\1<mspace width="0.167em"/>', drawn)


class InlineFormulas(Extension):
    """$`x`$ within text."""

    def extendMarkdown(self, md):
        # Before code spans, which have 190.
        md.inlinePatterns.register(_InlineFormula(r"\$`([^`]+)`\$", md), "formula", 195)


class _InlineFormula(InlineProcessor):
    def handleMatch(self, match, data):
        formula = mathml(html.unescape(match[1]))
        return self.md.htmlStash.store(formula), match.start(0), match.end(0)


def on_files(files, config):
    """The changelog is a page, though it stands at the root of the repository."""
    files.append(File.generated(config, "changelog.md", abs_src_path=str(ROOT / "CHANGELOG.md")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files of the repository outside of docs/ go to GitHub; they have to be there."""

    def outside(match):
        target, anchor = match[1], match[2] or ""
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        if path.startswith("docs/"):
            return match[0]
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which is not in the repository", page.file.src_uri, path)
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"]({config.extra['repository']}/{kind}/main/{quote(path)}{anchor})"

    return re.sub(r"\]\((\.\./[^)#\s]+)(#[^)\s]+)?\)", outside, markdown)


class Docstrings(griffe.Extension):
    """Keras's docstring sections as Google's, which mkdocstrings reads."""

    def on_object(self, *, obj, **kwargs):
        """Rewrites the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = google_style(obj.docstring.value)


def google_style(docstring):
    """A docstring with its call arguments and its example, the last part of it, as sections."""
    lines = inspect.cleandoc(docstring).splitlines()
    lines = ["Other parameters: Call arguments" if line == "Call arguments:" else line for line in lines]
    starts = [n for n, line in enumerate(lines) if line == "Example:" or line.startswith(">>> ")]
    if not starts:
        return "\n".join(lines)
    text, example = lines[: starts[0]], lines[starts[0] :]
    example = inspect.cleandoc("\n".join(example).removeprefix("Example:").strip("\n")).splitlines()
    return "\n".join([*text, "Examples:", *(f"    {line}".rstrip() for line in example)])
