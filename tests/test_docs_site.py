"""The site builds without a warning, fetches nothing, has every public name and shows no code untried."""

import ast
import logging
import re

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from snippets import ROOT, shell_lines

import csmf_tf

PACKAGE = ROOT / "csmf_tf"
PAGES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))
OTHERS = sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob("savedmodels/**/*.md"), *ROOT.glob("colab/*.md")]
)
DOCUMENTS = ["README.md", *PAGES, *OTHERS]
ALL = {"yaml", "sh", "python"}
# The test that takes all blocks of these languages from a document, in their order.
RUN_BY = {
    "README.md": ("test_readme.py", ALL),
    "docs/datasets.md": ("test_datasets_doc.py", {"sh", "python"}),
    "docs/evaluation.md": ("test_evaluation_doc.py", {"sh", "python"}),
    "docs/heterrec.md": ("test_heterrec_doc.py", ALL),
    "docs/negatives.md": ("test_negatives_doc.py", {"sh", "yaml"}),
    "docs/serving.md": ("test_serving_doc.py", {"json", "proto", "python", "sh"}),
    "savedmodels/README.md": ("test_savedmodels.py", {"sh", "python"}),
    "savedmodels/portable/README.md": ("test_savedmodels.py", {"sh", "python", "json", "yaml"}),
    "savedmodels/scann/README.md": ("test_savedmodels.py", {"sh", "python", "json", "yaml"}),
}
RUN_BY |= {
    f"docs/{page}.md": ("test_pages.py", ALL)
    for page in (
        "add_objective",
        "by_hand",
        "cli",
        "concepts",
        "own_data",
        "own_towers",
        "reliability",
        "scale",
    )
}
# What no test runs: output and layouts, sessions of somebody else's programs, formulas.
SHOWN = {"text", "console", "math"}
NOT_RUN = {
    "make": "its targets are what runs the tests",
    "source": "the tests are in the environment already",
    "mkdir": "the tests have a folder of their own",
    "docker": "there is no container runtime where the tests run",
    "curl": "there is no server; test_serving_doc.py asks its body of the signatures",
    "pip": "nothing is installed by a test",
    "python": "test_savedmodels.py runs savedmodels/build.py on little data",
}
# Run by bash, whole: `serving_client.c` in test_serving_doc.py.
BY_BASH = {"TF=$(python", "cc", "./client"}
# What overrides a method of Keras has its docstring.
OF_KERAS = {"build", "call", "get_config", "on_epoch_begin", "on_epoch_end"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; anything that strict mode takes for a fault aborts the build."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder)))
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {str(path.relative_to(site)): path.read_text() for path in site.rglob("*.html")}


def test_a_fault_would_abort_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(
        "# Home\n\n[no](such.md), [none](../nothing.py), [deep](#where)"
    )
    text = (ROOT / "mkdocs.yml").read_text()
    kept = re.sub(r"(?s)\nnav:.*?\n\n", "\n", text).replace("docs/hooks.py", str(ROOT / "docs" / "hooks.py"))
    (tmp_path / "mkdocs.yml").write_text(kept)
    seen = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: seen.append(record.getMessage())
    logger = logging.getLogger("mkdocs")
    logger.addHandler(handler)
    try:
        with pytest.raises(SystemExit):
            build(load_config(str(tmp_path / "mkdocs.yml"), site_dir=str(tmp_path / "site")))
    finally:
        logger.removeHandler(handler)
    assert [any(word in text for text in seen) for word in ("such.md", "nothing.py", "#where")] == [True] * 3


def test_every_page_is_in_the_navigation_and_drawn(pages):
    for document in PAGES:
        assert document.removeprefix("docs/").replace(".md", ".html") in pages
    assert "Keep a Changelog" in pages["changelog.html"]


def test_nothing_is_fetched_from_elsewhere(pages, site):
    for name, text in pages.items():
        # Links of a page are followed by people only.
        loaded = re.findall(r"<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)=\"?([^\"\s>]+)", text)
        assert [url for url in loaded if re.match(r"(https?:)?//", url)] == [], name
        assert 'data-md-component="source"' not in text, name  # it asks GitHub for stars
    for path in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\"?(https?:)?//", path.read_text()), path


def test_formulas_are_drawn(pages):
    written = (ROOT / "docs" / "concepts.md").read_text()
    drawn = pages["concepts.html"]
    assert written.count("```math") == drawn.count('display="block"') >= 10
    assert len(re.findall(r"\$`", written)) == drawn.count('display="inline"') > 10
    assert "$`" not in drawn
    # LaTeX that the converter does not know comes out as it went in.
    assert not re.search(r"<m[ion]>[^<]*[\\&](?!#)[^<]*</m", drawn)


def test_links_to_the_repository_go_to_github(pages):
    assert (
        'href="https://github.com/csmf-tf/csmf_tf/blob/main/tests/serving_client.c"' in pages["serving.html"]
    )
    assert not [
        name for name, text in pages.items() if re.search(r'href="[./]+/(README\.md|tests|csmf_tf)', text)
    ]


def test_every_public_name_is_in_the_reference(pages):
    reference = "".join(text for name, text in pages.items() if name.startswith("api/"))
    ids = set(re.findall(r'id="(csmf_tf[\w.]*)"', reference))
    assert {f"csmf_tf.{name}" for name in csmf_tf.__all__ if name != "__version__"} <= ids
    # Examples are code, not quotations of quotations.
    assert "<blockquote>" not in reference


def public_definitions():
    """(where, name, docstring or None) of every public module, class, function and method."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree, where = ast.parse(path.read_text()), str(path.relative_to(ROOT))
        yield where, "", ast.get_docstring(tree)
        yield from inside(tree, where, "")


def inside(node, where, prefix):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            yield where, f"{prefix}{child.name}", ast.get_docstring(child)
            if isinstance(child, ast.ClassDef):
                yield from inside(child, where, f"{prefix}{child.name}.")


def test_no_public_name_is_without_a_docstring():
    found = list(public_definitions())
    assert len(found) > 500
    bare = [
        (where, name) for where, name, text in found if not text and name.rpartition(".")[2] not in OF_KERAS
    ]
    assert bare == []


def fences(document):
    """(language, code) of every fenced block."""
    text = (ROOT / document).read_text()
    return re.findall(r"^```(.*?)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_code_block_of_a_document_is_run(document):
    test, run = RUN_BY.get(document, (None, set()))
    assert test is None or document.rpartition("/")[2] in (ROOT / "tests" / test).read_text()
    for language, code in fences(document):
        if language == "sh":
            commands = {words[0] for words in shell_lines(code)} - NOT_RUN.keys()
            assert commands <= {"csmf-tf", *BY_BASH}, code
            assert not commands or "sh" in run, code
        else:
            assert language in SHOWN | run, f"```{language}\n{code}"
