"""Runs the notebooks beside this file and stores what they print and draw.

`python colab/execute.py [NAME ...]` runs all of them, or those named (`1_quickstart`), at their full counts.
"""

import argparse
import base64
import hashlib
import io
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent
NOTEBOOKS = sorted(FOLDER.glob("[0-9]_*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

# Figures are checked as they are drawn, and judged at the end: IPython would swallow an error on the way.
WATCH = """\
from matplotlib.backend_bases import FigureCanvasBase as _Canvas

_unlabelled, _print_figure = [], _Canvas.print_figure


def _labelled(axes, side):
    siblings = getattr(axes, f"get_shared_{side}_axes")().get_siblings(axes)
    whole = getattr(axes.figure, f"get_sup{side}label")()
    return bool(whole) or any(getattr(one, f"get_{side}label")() for one in siblings)


def _watched(canvas, *args, **kwargs):
    for axes in canvas.figure.axes:
        if axes.axison and axes.get_label() != "<colorbar>":
            missing = [side for side in "xy" if not _labelled(axes, side)]
            _unlabelled.extend((axes.get_title(), f"no label on {side}") for side in missing)
    return _print_figure(canvas, *args, **kwargs)


_Canvas.print_figure = _watched
"""
JUDGE = "assert not _unlabelled, _unlabelled"


def run(notebook: Any, folder: str | os.PathLike[str], tiny: bool = False) -> Any:
    """A copy of a notebook with the outputs of a run from top to bottom in a new kernel.

    Args:
        notebook: the notebook; its second cell is the first of code.
        folder: the working directory, which should be empty.
        tiny: whether `CSMF_TF_TINY` asks the notebook for tiny counts.

    Raises:
        nbclient.exceptions.CellExecutionError: when a cell fails, or the axes of a figure lack a label.
    """
    notebook = nbformat.from_dict(json.loads(json.dumps(notebook)))
    watch, judge = (nbformat.v4.new_code_cell(source) for source in (WATCH, JUDGE))
    notebook.cells[2:2] = [watch]
    notebook.cells.append(judge)
    # The notebook picks Keras and the kernel its backend; nobody's IPython profile has a say.
    ours = ("CSMF_TF_TINY", "MPLBACKEND", "TF_USE_LEGACY_KERAS", "TF_CPP_MIN_LOG_LEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"IPYTHONDIR": os.path.join(folder, ".ipython"), "PYTHONPATH": str(FOLDER.parent)}
    if tiny:
        environment["CSMF_TF_TINY"] = "1"
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=900,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # not the warning that it runs over TCP, as kernels do
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=environment)
    notebook.cells = [cell for cell in notebook.cells if cell.id not in (watch.id, judge.id)]
    return notebook


def slim(notebook: Any) -> Any:
    """The same notebook with small outputs: no stderr, progress, live widgets, timings or large images."""
    number = 0
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        number += 1
        cell.execution_count = number
        cell.outputs = [kept for kept in map(_slim_output, cell.outputs) if kept is not None]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    notebook.metadata = nbformat.from_dict(
        {
            "colab": {"provenance": [], "toc_visible": True},
            "csmf_tf": {"code_sha256": code_hash(notebook)},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def _slim_output(output: Any) -> Any:
    """An output as it is stored, or None when nothing of it is."""
    if output.output_type == "stream":
        # Of a line that was overwritten, what stood there last.
        lines = [line.rstrip("\r").split("\r")[-1] for line in COLOURS.sub("", output.text).split("\n")]
        output.text = "\n".join(lines)
        return output if output.name == "stdout" and output.text.strip() else None
    if WIDGET in output.get("data", {}):
        return None
    if "image/png" in output.get("data", {}):
        output.data["image/png"] = _small_png(output.data["image/png"])
    output.metadata = {}
    return output


def _small_png(encoded: str) -> str:
    """A PNG, in base64, of at most 1,200 pixels across and 256 colours."""
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.convert("RGBA").getchannel("A"))
    flat.thumbnail((1200, flat.height), Image.Resampling.LANCZOS)
    small = io.BytesIO()
    flat.quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def code_hash(notebook: Any) -> str:
    """SHA-256 of the sources of all code cells: outputs with another one are out of date."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def main() -> None:
    """Runs the notebooks that the command line names, one after the other."""
    names = [path.stem for path in NOTEBOOKS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default all")
    chosen = parser.parse_args().names or names
    unknown = sorted({name.removesuffix(".ipynb") for name in chosen} - set(names))
    if unknown:
        parser.error(f"NAME should be one of {', '.join(names)}. Received: {', '.join(unknown)}")
    for path in NOTEBOOKS:
        if path.stem not in chosen and path.name not in chosen:
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            notebook = slim(run(nbformat.read(path, as_version=4), folder))
        beside = path.with_suffix(".tmp")
        nbformat.write(notebook, beside)
        beside.replace(path)
        took = time.monotonic() - started
        print(f"{path.name}: {took:.0f} s, {path.stat().st_size / 1024:.0f} KB", flush=True)


if __name__ == "__main__":
    main()
