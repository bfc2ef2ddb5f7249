"""The notebooks run from top to bottom with tiny counts, and what they store is theirs, current and small."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]
COLAB = "https://colab.research.google.com/github/csmf-tf/csmf_tf/blob/main/colab"
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))

spec = importlib.util.spec_from_file_location("execute", ROOT / "colab" / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def made(*sources):
    """A notebook of a title and these code cells."""
    cells = [nbformat.v4.new_markdown_cell("# Title"), *map(nbformat.v4.new_code_cell, sources)]
    return nbformat.v4.new_notebook(cells=cells)


@every_notebook
def test_runs_with_tiny_counts(path, tmp_path):
    execute.run(read(path), tmp_path, tiny=True)


@every_notebook
def test_stored_outputs_are_current_and_small(path):
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    # The hash does not cover prose, which no output depends on.
    assert notebook.metadata.get("csmf_tf", {}).get("code_sha256") == execute.code_hash(notebook), (
        f"The outputs of {path.name} are those of other code; run `make notebooks`"
    )
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)
    assert path.stat().st_size <= 400 * 1024


@every_notebook
def test_begins_with_a_badge_and_the_installation(path):
    title, install = read(path).cells[:2]
    assert title.source.startswith("# ")
    assert (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({COLAB}/{path.name})"
        in title.source
    )
    assert '%pip install -q "csmf_tf @ git+https://github.com/csmf-tf/csmf_tf"' in install.source


@every_notebook
def test_asserts_on_its_results(path):
    asserting = [cell for cell in code_cells(read(path)) if "assert " in cell.source]
    assert len(asserting) >= 3


def test_the_list_of_notebooks_has_each_with_its_badge():
    text = (ROOT / "colab" / "README.md").read_text()
    names = [path.name for path in NOTEBOOKS]
    assert re.findall(r"\]\((\d_\w+\.ipynb)\)", text) == names
    assert re.findall(rf"^\[\d\]: {re.escape(COLAB)}/(\S+)$", text, flags=re.MULTILINE) == names


def test_a_changed_cell_makes_the_stored_outputs_stale():
    notebook = execute.slim(made("1 + 1", "print(2)"))
    stored = notebook.metadata.csmf_tf.code_sha256
    notebook.cells[0].source = "# Other prose"
    assert execute.code_hash(notebook) == stored
    notebook.cells[2].source = "print(3)"
    assert execute.code_hash(notebook) != stored


def test_outputs_are_kept_small_and_a_figure_without_labels_is_an_error(tmp_path):
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.xlabel('x')\n{}\nplt.show()"
    noise = (
        "import sys\nfrom IPython.display import display\nimport ipywidgets\n"
        "print('10 %\\r100 %')\nprint('late', file=sys.stderr)\ndisplay(ipywidgets.IntSlider())\n6 * 7"
    )
    notebook = execute.slim(execute.run(made("pass", noise, plot.format("plt.ylabel('y')")), tmp_path))
    nbformat.validate(notebook)
    silent, noisy, drawn = code_cells(notebook)
    assert silent.outputs == []
    assert [output.output_type for output in noisy.outputs] == ["stream", "execute_result"]
    assert noisy.outputs[0].text == "100 %\n"
    assert noisy.outputs[1].data == {"text/plain": "42"}
    assert noisy.outputs[1].execution_count == noisy.execution_count == 2
    assert [set(output.data) for output in drawn.outputs] == [{"image/png", "text/plain"}]
    assert len(notebook.cells) == 4
    assert "widgets" not in notebook.metadata

    with pytest.raises(CellExecutionError, match="no label on y"):
        execute.run(made("pass", plot.format("")), tmp_path)
