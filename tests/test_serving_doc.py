"""docs/serving.md holds: its JSON bodies, gRPC and C clients and model configurations work."""

import json
import os
import subprocess
import sys
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from snippets import ROOT, blocks
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from csmf_tf._keras import tf
from csmf_tf.serving import export
from csmf_tf.serving.server_files import STOCK_IMAGE
from csmf_tf.serving.warmup import signature_inputs

DOCUMENT = "docs/serving.md"
ITEMS = [f"i{i}" for i in range(60)]
OWNER = [1, 1, 2, 3]


def embed(features):
    """Some vector for each id, of users and items alike."""
    (ids,) = features.values()
    codes = tf.cast(tf.strings.to_hash_bucket_fast(ids, 997), tf.float32)
    return tf.sin(codes[:, tf.newaxis] * [1.0, 2.0, 3.0, 5.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the document's commands run: with an export, and the repository's tests."""
    folder = tmp_path_factory.mktemp("docs")
    vectors = embed({"item_id": tf.constant(ITEMS)}).numpy()
    features = {"user_id": tf.TensorSpec([None], tf.string)}
    of_items = {"item_id": tf.TensorSpec([None], tf.string)}
    objectives = ["view", "cart", "buy"]
    options = {"index": "portable", "k": 10, "embed_item": embed, "item_signature": of_items}
    export(embed, features, ITEMS, vectors, OWNER, objectives, folder / "shop", **options)
    (folder / "tests").symlink_to(ROOT / "tests")
    return folder


@pytest.fixture(scope="module")
def signatures(folder):
    return tf.saved_model.load(str(folder / "shop" / "1")).signatures


def columns(body):
    """The inputs of a REST request by name, from either format."""
    if "inputs" in body:
        return body["inputs"]
    return {name: [row[name] for row in body["instances"]] for name in body["instances"][0]}


def bodies():
    (curl,) = (block for block in blocks(DOCUMENT, "sh") if block.startswith("curl"))
    return [json.loads(text) for text in [curl.split("'")[1], *blocks(DOCUMENT, "json")]]


def reads_history(body):
    return "history" in columns(body)


def output_tensors(version, signature):
    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    outputs = saved.meta_graphs[0].signature_def[signature].outputs
    return {name: info.name for name, info in outputs.items()}


def test_json_bodies_are_answered(folder, signatures):
    specs = signature_inputs(folder / "shop" / "1")
    asked = set()
    for body in (body for body in bodies() if not reads_history(body)):
        name = body.get("signature_name", "serving_default")
        inputs = columns(body)
        given = {key: tf.constant(value, specs[name][key].dtype) for key, value in inputs.items()}
        answer = signatures[name](**given)
        (batch,) = {len(value) for value in inputs.values()}
        assert {len(output) for output in answer.values()} == {batch}
        asked.add(name)
    assert asked == set(signatures)


def test_json_body_with_a_history_is_answered(tmp_path):
    (body,) = (body for body in bodies() if reads_history(body))
    names = ["history", "history_behavior"]
    signature = {name: tf.TensorSpec([None, 4], tf.string) for name in names}
    assert set(columns(body)) == {*names, "weights"}

    def embed_user(features):
        return embed({"": tf.strings.reduce_join(tf.concat([features[name] for name in names], 1), 1)})

    vectors = embed({"": tf.constant(ITEMS)}).numpy()
    export(
        embed_user, signature, ITEMS, vectors, OWNER, ["view", "cart", "buy"], tmp_path, index="exact", k=5
    )
    inputs = columns(body)
    weights = tf.constant(inputs.pop("weights"), tf.float32)
    answer = tf.saved_model.load(str(tmp_path / "1")).signatures[body["signature_name"]]
    found = answer(**{name: tf.constant(value) for name, value in inputs.items()}, weights=weights)
    assert found["ids"].shape == [1, 5]


def test_every_signature_is_in_the_table(signatures):
    text = (ROOT / DOCUMENT).read_text()
    for name, function in signatures.items():
        (row,) = (line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(f"`{output}`" in row or "the same" in row for output in function.structured_outputs)


class StandIn(prediction_service_pb2_grpc.PredictionServiceServicer):
    """A server that does what the client sees of TF Serving's Predict."""

    def __init__(self, signatures):
        self.signatures = signatures

    def Predict(self, request, context):
        assert request.model_spec.version_label == "stable"
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for name, output in self.signatures[request.model_spec.signature_name](**inputs).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(output))
        return response


def test_grpc_client(signatures):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(StandIn(signatures), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    (code,) = blocks(DOCUMENT, "python")
    assert "timeout=1.0" in code
    names = {}
    exec(code.replace("localhost:8500", f"localhost:{port}").replace("timeout=1.0", "timeout=60.0"), names)
    server.stop(None)
    expected = signatures["retrieve"](user_id=tf.constant(["u17"]), weights=tf.constant([[1.0, 0.0, 3.0]]))
    assert names["ids"] == [item.decode() for item in expected["ids"][0].numpy()]
    np.testing.assert_array_equal(names["scores"], expected["scores"][0])


def test_model_configurations_parse():
    labels = []
    for text in blocks(DOCUMENT, "proto"):
        config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        (model,) = config.model_config_list.config
        served = set(model.model_version_policy.specific.versions)
        assert set(model.version_labels.values()) == served
        labels.append(set(model.version_labels))
    assert labels == [{"stable"}, {"stable", "canary"}]


def test_the_image_is_that_of_the_compose_file():
    assert STOCK_IMAGE in (ROOT / DOCUMENT).read_text()


def test_c_client_builds_and_answers(folder, signatures):
    (commands,) = (block for block in blocks(DOCUMENT, "sh") if "serving_client.c" in block)
    # Numbered by TensorFlow; the document says what prints them.
    names = output_tensors(folder / "shop" / "1", "retrieve")
    for output, shown in {
        "ids": "StatefulPartitionedCall_2:0",
        "scores": "StatefulPartitionedCall_2:1",
    }.items():
        assert shown in commands
        commands = commands.replace(shown, names[output])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        ["bash", "-ec", commands], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    expected = signatures["retrieve"](user_id=tf.constant(["u17"]), weights=tf.constant([[1.0, 0.0, 3.0]]))
    ids = [line.split("\t")[0] for line in result.stdout.strip().splitlines()]
    assert ids == [item.decode() for item in expected["ids"][0].numpy()]
