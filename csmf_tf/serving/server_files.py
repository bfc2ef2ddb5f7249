"""Configuration files of TF Serving, written beside the versions of an export.

All are meant to be edited: a file that is not as csmf_tf wrote it stays as it is.
"""

import os
import pathlib
import re
from collections.abc import Sequence

from csmf_tf.serving.versions import latest_version

STOCK_IMAGE = "tensorflow/serving:2.20.0"
"""Runs the exact and the portable index."""

SCANN_IMAGE = "tf-serving-scann:2.20.0"
"""Your own build, for the ScaNN index: docs/serving.md says how; no public image has these ops."""

_MODELS = """\
# Written by csmf_tf with version {version}. As long as you leave it so, each export moves `stable` on to its
# version; once edited it is yours, and exports leave it alone. Roll-back and canaries: docs/serving.md.
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    # The newest two, so that a roll-back finds its version loaded. Both are in memory.
    model_version_policy {{ latest {{ num_versions: 2 }} }}
    version_labels {{ key: "stable" value: {version} }}
  }}
}}
"""

_BATCHING = """\
# Off unless the server is started with --enable_batching: docs/serving.md says when it pays.
max_batch_size { value: 64 }
# How long the first request of a batch waits for others.
batch_timeout_micros { value: 1000 }
# Requests beyond are refused, which a client can see, instead of waiting ever longer.
max_enqueued_batches { value: 100 }
# Never pad_variable_length_inputs: it pads with a request's first entry, which changes lists of ids.
"""

_MONITORING = """\
prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }
"""

_COMPOSE = """\
# `docker compose up` in this folder. TF Serving asks for no password: its ports are open to this machine.
services:
  serving:
    image: {image}
    ports:
      - "127.0.0.1:8500:8500"  # gRPC
      - "127.0.0.1:8501:8501"  # REST
    volumes:
      - ".:/models/{name}:ro"
    command:
      - --model_config_file=/models/{name}/models.config
      - --model_config_file_poll_wait_seconds=30
      - --allow_version_labels_for_unavailable_models=true
      - --monitoring_config_file=/models/{name}/monitoring.config
      # - --enable_batching=true
      # - --batching_parameters_file=/models/{name}/batching_parameters.txt
    restart: unless-stopped
"""


def write_server_files(
    directory: str | os.PathLike, model_name: str | None = None, image: str = STOCK_IMAGE
) -> list[str]:
    """Writes what TF Serving needs to serve an export, where it is missing or as csmf_tf last wrote it.

    - `models.config`: the model, the newest two versions, and the label `stable` at the newest.
    - `batching_parameters.txt`: for servers started with `--enable_batching`.
    - `monitoring.config`: metrics for Prometheus.
    - `docker-compose.yaml`: starts a server of this export.

    Args:
        directory: as given to `export`; holds at least one version.
        model_name: letters, digits, `.`, `_` and `-`; default `served_name(directory)`.
        image: the Docker image, `SCANN_IMAGE` for a ScaNN index.

    Returns:
        The names of the files that were written.

    Raises:
        FileNotFoundError: when there is no version.
        ValueError: when `model_name` holds other characters.

    Example:

    >>> import tempfile
    >>> directory = os.path.join(tempfile.mkdtemp(), "shop")
    >>> os.makedirs(os.path.join(directory, "1"))
    >>> write_server_files(directory)
    ['models.config', 'batching_parameters.txt', 'monitoring.config', 'docker-compose.yaml']
    >>> write_server_files(directory)
    []
    """
    name = served_name(directory) if model_name is None else model_name
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise ValueError(
            "`model_name` should hold letters, digits, `.`, `_` and `-` only, as it stands in URLs. "
            f"Received: model_name={model_name!r}"
        )
    folder = pathlib.Path(directory)
    models = _MODELS.format(name=name, version=latest_version(directory))
    compose = _COMPOSE.format(name=name, image=image)
    known = [_COMPOSE.format(name=name, image=image) for image in (STOCK_IMAGE, SCANN_IMAGE)]
    files: dict[str, tuple[str, Sequence[str | None]]] = {
        "models.config": (models, [_as_written(folder / "models.config", name)]),
        "batching_parameters.txt": (_BATCHING, []),
        "monitoring.config": (_MONITORING, []),
        "docker-compose.yaml": (compose, known),
    }
    return [file for file, (text, own) in files.items() if _write(folder / file, text, own)]


def served_name(directory: str | os.PathLike) -> str:
    """Returns the name to serve an export under: that of its folder, with `_` for what URLs do not take.

    The name of a shard starts with that of the folder which holds the shards.

    Example:

    >>> served_name("/data/my shop/"), served_name("/data/my shop/shard-2")
    ('my_shop', 'my_shop-shard-2')
    """
    path = pathlib.Path(directory).resolve()
    name = f"{path.parent.name}-{path.name}" if re.fullmatch(r"shard-\d+", path.name) else path.name
    return re.sub(r"[^A-Za-z0-9._-]", "_", name) or "model"


def _as_written(path: pathlib.Path, name: str) -> str | None:
    """What csmf_tf wrote to `path`, judged by the version that its first line names."""
    first = re.match(r"# Written by csmf_tf with version (\d+)\.", path.read_text() if path.exists() else "")
    return _MODELS.format(name=name, version=first[1]) if first else None


def _write(path: pathlib.Path, text: str, own: Sequence[str | None]) -> bool:
    if path.exists():
        present = path.read_text()
        if present == text or present not in own:
            return False
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text)
    beside.replace(path)
    return True
