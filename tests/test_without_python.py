"""A C program on TensorFlow's own library gets the same answers from an export as Python does.

Its sources are in serving_client.c; it fails by itself when a library of Python is in its process, or ScaNN
where that was not asked for.
"""

import itertools
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from tensorflow.core.protobuf import saved_model_pb2
from thorough import left_out

from csmf_tf._keras import keras, tf
from csmf_tf.serving import export
from csmf_tf.serving.index import INDICES

SOURCE = Path(__file__).with_name("serving_client.c")
LIBRARIES = Path(tf.sysconfig.get_lib())
USERS = ["u0", "ünï çødé", "用户 7", "nobody"]
OWNER = np.array([1, 1, 1, 2, 2, 2, 3, 3])
WEIGHTS = [[1, 1, 1], [1, 0, 0], [0, 0.5, 3], [0, 0, 0]]
RNG = np.random.default_rng(3)
K = 20
# Real partitions in a small catalogue.
SETTINGS = {
    "exact": {},
    "portable": {"cells": 70, "candidates": 300},
    "scann": {"leaves": 70, "leaves_to_search": 12},
}


class EmbedUser(tf.Module):
    def __init__(self):
        super().__init__()
        self.lookup = keras.layers.StringLookup(vocabulary=USERS[:3])
        self.table = tf.Variable(RNG.normal(size=(4, len(OWNER))), dtype=tf.float32)

    def __call__(self, features):
        return tf.gather(self.table, self.lookup(features["user_id"]))


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """The compiled C program."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, cc")
    program = tmp_path_factory.mktemp("client") / "serving_client"
    warnings = ["-std=gnu11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
    headers = ["-isystem", tf.sysconfig.get_include()]
    names = ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", "-pthread"]
    libraries = [f"-L{LIBRARIES}", f"-Wl,-rpath,{LIBRARIES}", *names]
    command = [compiler, *warnings, *headers, "-o", program, SOURCE, *libraries]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return program


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """A version with each kind of index, moved after its export."""
    folder, versions = tmp_path_factory.mktemp("versions"), {}
    signature = {"user_id": tf.TensorSpec([None], tf.string)}
    items, vectors = [f"škoda 靴 {i}" for i in range(5000)], RNG.normal(size=(5000, len(OWNER)))
    objectives, here = ["view", "cart", "buy"], folder / "here"
    for kind in INDICES:
        options = {"index": kind, "k": K, "settings": SETTINGS[kind]}
        path = export(EmbedUser(), signature, items, vectors, OWNER, objectives, here, **options)
        versions[kind] = shutil.move(path, folder / f"moved {kind}")
    return versions


def scann_library():
    """ScaNN's ops, found without importing them."""
    return Path(sysconfig.get_path("platlib"), "scann", "scann_ops", "cc", "_scann_ops.so")


def tensors(version, signature):
    """Names of the graph's tensors by those of the signature's inputs and outputs."""
    saved = saved_model_pb2.SavedModel.FromString((Path(version) / "saved_model.pb").read_bytes())
    definition = saved.meta_graphs[0].signature_def[signature]
    return {
        name: info.name for part in (definition.inputs, definition.outputs) for name, info in part.items()
    }


def arguments(version, kind, signature, inputs, threads=1):
    """The command line of the C program for a query."""
    names = tensors(version, signature)
    ops = scann_library() if kind == "scann" else "-"
    line = [version, ops, threads, names["ids"], names["scores"]]
    for name, values in inputs.items():
        array = np.asarray(values)
        kind_of_values = "strings" if array.dtype.kind == "U" else "floats"
        rows, columns = array.shape if array.ndim == 2 else (len(array), 0)
        line += [kind_of_values, names[name], rows, columns, *array.ravel()]
    return [str(argument) for argument in line]


def run(client, line, **environment):
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_"))}
    return subprocess.run([client, *line], env=keep | environment, capture_output=True, text=True, cwd="/")


def answer_without_python(client, *request, **options):
    """Ids and scores of each row."""
    result = run(client, arguments(*request, **options))
    assert result.returncode == 0, result.stderr
    rows = [block.split("\n") for block in result.stdout.strip("\n").split("\n\n")]
    pairs = [[line.split("\t") for line in row] for row in rows]
    return [[item for item, _ in row] for row in pairs], [[float(score) for _, score in row] for row in pairs]


def answer_of_python(version, signature, inputs):
    served = tf.saved_model.load(str(version)).signatures[signature]
    given = {
        name: tf.constant(value, tf.string if np.asarray(value).dtype.kind == "U" else tf.float32)
        for name, value in inputs.items()
    }
    answer = served(**given)
    ids = [[item.decode() for item in row] for row in answer["ids"].numpy()]
    return ids, answer["scores"].numpy()


REQUESTS = {
    "serving_default": {"user_id": USERS},
    "retrieve": {"user_id": USERS, "weights": WEIGHTS},
    "retrieve_excluding": {
        "user_id": USERS[:1],
        "weights": WEIGHTS[2:3],
        "exclude": [["škoda 靴 1", "škoda 靴 2", "?"]],
    },
    "retrieve_among": {
        "user_id": USERS[:1],
        "weights": WEIGHTS[:1],
        "among": [["škoda 靴 5", "", "škoda 靴 9"]],
    },
}
PAIRS = [*itertools.product(REQUESTS, INDICES)]
# What is run either way has each signature and each index.
ONE_EACH = [*zip(REQUESTS, itertools.cycle(INDICES), strict=False)]
FURTHER = [pair for pair in PAIRS if pair not in ONE_EACH]


@pytest.mark.parametrize(("signature", "kind"), left_out(PAIRS, FURTHER))
def test_same_answer_as_python_with_eight_threads_at_once(client, versions, kind, signature):
    version, inputs = versions[kind], REQUESTS[signature]
    ids, scores = answer_without_python(client, version, kind, signature, inputs, threads=8)
    expected_ids, expected_scores = answer_of_python(version, signature, inputs)
    assert ids == expected_ids
    assert np.shape(ids) == (len(inputs["user_id"]), K)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)
    assert all(item.startswith("škoda 靴") for row in ids for item in row if item)


@pytest.mark.parametrize("kind", INDICES)
def test_unfit_weights_are_an_error_for_a_c_program_too(client, versions, kind):
    inputs = {"user_id": USERS[:1], "weights": [[1, -1, 0]]}
    result = run(client, arguments(versions[kind], kind, "retrieve", inputs))
    assert result.returncode == 1
    assert "`weights` should be finite and not negative" in result.stderr


def test_an_index_of_scann_needs_its_ops(client, versions):
    line = arguments(versions["scann"], "scann", "serving_default", {"user_id": USERS})
    line[1] = "-"
    result = run(client, line)
    assert result.returncode == 1
    assert "Op type not registered 'Scann>" in result.stderr


def test_the_program_tells_when_python_is_in_its_process(client, versions):
    library = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDLIBRARY"))
    if library.suffix != ".so":
        pytest.skip("needs a Python built as a shared library")
    line = arguments(versions["exact"], "exact", "serving_default", {"user_id": USERS})
    result = run(client, line, LD_PRELOAD=str(library))
    assert result.returncode == 1
    assert "has a library of Python in it" in result.stderr
