"""What TF Serving reads of an export: warm-up requests that run, and configuration files that parse."""

import re

import numpy as np
import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from csmf_tf._keras import tf
from csmf_tf.serving import export, load
from csmf_tf.serving.index import INDICES
from csmf_tf.serving.server_files import SCANN_IMAGE, served_name, write_server_files
from csmf_tf.serving.warmup import signature_inputs, write_warmup

OWNER = [1, 1, 2, 2]
ITEMS = ["tasse", "hut", "škoda", "靴"]
SIGNATURE = {
    "user_id": tf.TensorSpec([None], tf.string),
    "tags": tf.TensorSpec([None, None], tf.string),
    "history": tf.TensorSpec([None, 3], tf.string),
    "age": tf.TensorSpec([None], tf.float32),
    "visits": tf.TensorSpec([None], tf.int64),
}


def embed(features):
    parts = [tf.strings.length(features["user_id"]), tf.shape(features["tags"])[1], features["visits"]]
    columns = [tf.cast(part, tf.float32) + features["age"] for part in parts]
    history = tf.reduce_sum(tf.strings.length(features["history"]), axis=1)
    return tf.stack([*columns, tf.cast(history, tf.float32)], axis=1)


@pytest.fixture(scope="module", params=sorted(INDICES))
def version(request, tmp_path_factory):
    vectors = np.random.default_rng(0).normal(size=(len(ITEMS), len(OWNER)))
    directory = tmp_path_factory.mktemp("shop")
    return export(
        embed, SIGNATURE, ITEMS, vectors, OWNER, ["view", "buy"], directory, index=request.param, k=2
    )


EXAMPLES = {
    "retrieve": {
        "user_id": ["u1", "ñandú"],
        "tags": [["a", "b"], ["c", ""]],
        "history": np.array([["x", "", ""], ["", "", ""]], object),
        "age": np.array([20.0, 30.0], np.float64),
        "weights": [[1, 3]],
    }
}


def requests(path):
    """The requests of a warm-up file as (signature, inputs)."""
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        yield request.model_spec, inputs


# Warm-up


@pytest.mark.parametrize("examples", [None, EXAMPLES], ids=["blank", "given"])
def test_every_signature_is_warmed_by_requests_that_run(version, examples):
    signatures = tf.saved_model.load(version).signatures
    batches = {}
    for spec, inputs in requests(write_warmup(version, examples, "shop")):
        assert spec.name == "shop"
        assert not spec.HasField("version")
        answer = signatures[spec.signature_name](**{name: tf.constant(a) for name, a in inputs.items()})
        (batch,) = {len(array) for array in inputs.values()}
        assert {len(output) for output in answer.values()} == {batch}
        batches.setdefault(spec.signature_name, []).append(batch)
    assert batches == {name: [1, 2] if name in (examples or {}) else [1] for name in signatures}


def test_requests_hold_the_examples_in_the_dtypes_of_the_signature(version):
    first, both = (
        r for spec, r in requests(write_warmup(version, EXAMPLES)) if spec.signature_name == "retrieve"
    )
    assert [user.decode() for user in both["user_id"]] == ["u1", "ñandú"]
    np.testing.assert_array_equal(both["weights"], [[1, 3], [1, 3]])
    np.testing.assert_array_equal(both["visits"], [0, 0])
    dtypes = {name: array.dtype for name, array in both.items()}
    assert dtypes == {
        "user_id": object, "tags": object, "history": object,
        "age": np.float32, "visits": np.int64, "weights": np.float32,
    }  # fmt: skip
    for name, array in first.items():
        np.testing.assert_array_equal(array, both[name][:1])


def test_inputs_are_those_of_the_loaded_signatures(version):
    loaded = tf.saved_model.load(version).signatures
    expected = {name: loaded[name].structured_input_signature[1] for name in loaded}
    assert signature_inputs(version) == expected


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ({"rank": {}}, r"`examples` should be of signatures among \['embed_user',.*Received: \['rank'\]"),
        ({"retrieve": {"user": ["a"]}}, r"should be of inputs among \['age', .*Received: \['user'\]"),
        ({"retrieve": {"age": ["a"]}}, r"\['age'\]` should be an array of float32, shape \(None,\)"),
        ({"retrieve": {"user_id": [7]}}, r"\['user_id'\]` should be an array of string.*dtype=int64"),
        ({"retrieve": {"weights": [1.0, 2.0]}}, r"shape \(None, 2\).*Received: dtype=float64, shape=\(2,\)"),
        ({"retrieve": {"history": [["a", "b"]]}}, r"shape \(None, 3\).*shape=\(1, 2\)"),
        ({"retrieve": {"user_id": []}}, "for at least one request"),
        ({"retrieve": {"tags": [["a"], ["a", "b"]]}}, r"\['tags'\]` should be an array of string"),
        ({"retrieve": {"age": [1, 2, 3], "visits": [1, 2]}}, r"of one length, here 3.*\{'visits': 2\}"),
    ],
)
def test_examples_are_checked(version, examples, message):
    with pytest.raises(ValueError, match=message):
        write_warmup(version, examples)


def test_warm_up_file_is_replaced_whole(version):
    path = write_warmup(version, EXAMPLES)
    before = list(requests(path))
    assert write_warmup(version) == path
    assert len(list(requests(path))) < len(before)


# Server files


def message_type(name, *fields):
    """A message of TF Serving that its Python package lacks, by the published numbers and types."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="published", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, field, number, kind in fields:
        if message not in [m.name for m in file.message_type]:
            file.message_type.add(name=message)
        (target,) = (m for m in file.message_type if m.name == message)
        scalar = {"bool": kinds.TYPE_BOOL, "string": kinds.TYPE_STRING, "int64": kinds.TYPE_INT64}
        label = kinds.LABEL_REPEATED if kind == "int64" else kinds.LABEL_OPTIONAL
        added = target.field.add(name=field, number=number, label=label)
        added.type = scalar.get(kind, kinds.TYPE_MESSAGE)
        if kind not in scalar:
            added.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"published.{name}"))


INT64 = ".google.protobuf.Int64Value"
BATCHING = message_type(
    "BatchingParameters",
    ("BatchingParameters", "max_batch_size", 1, INT64),
    ("BatchingParameters", "batch_timeout_micros", 2, INT64),
    ("BatchingParameters", "max_enqueued_batches", 3, INT64),
    ("BatchingParameters", "num_batch_threads", 4, INT64),
    ("BatchingParameters", "allowed_batch_sizes", 6, "int64"),
    ("BatchingParameters", "pad_variable_length_inputs", 7, "bool"),
)
MONITORING = message_type(
    "MonitoringConfig",
    ("PrometheusConfig", "enable", 1, "bool"),
    ("PrometheusConfig", "path", 2, "string"),
    ("MonitoringConfig", "prometheus_config", 1, ".published.PrometheusConfig"),
)
FILES = ["models.config", "batching_parameters.txt", "monitoring.config", "docker-compose.yaml"]


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "shop" / "1").mkdir(parents=True)
    return tmp_path / "shop"


def models(directory):
    text = (directory / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    return model


def test_server_files_parse(shop):
    assert write_server_files(shop) == FILES
    model = models(shop)
    assert (model.name, model.base_path, model.model_platform) == ("shop", "/models/shop", "tensorflow")
    assert model.model_version_policy.latest.num_versions == 2
    assert dict(model.version_labels) == {"stable": 1}
    batching = text_format.Parse((shop / "batching_parameters.txt").read_text(), BATCHING())
    assert batching.max_batch_size.value > 1
    assert not batching.pad_variable_length_inputs
    monitoring = text_format.Parse((shop / "monitoring.config").read_text(), MONITORING())
    assert monitoring.prometheus_config.enable


def test_compose_file_serves_this_folder_to_this_machine(shop):
    write_server_files(shop)
    (service,) = yaml.safe_load((shop / "docker-compose.yaml").read_text())["services"].values()
    assert service["image"].startswith("tensorflow/serving:2.")
    (volume,) = service["volumes"]
    assert volume == f".:{models(shop).base_path}:ro"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    flags = dict(re.fullmatch(r"--(\w+)=(.+)", flag).groups() for flag in service["command"])
    for flag, path in flags.items():
        if flag.endswith("_file"):
            assert (shop / path.removeprefix("/models/shop/")).is_file()


def test_exports_move_the_label_on(shop):
    write_server_files(shop)
    for version in ("2", "3"):
        (shop / version).mkdir()
        assert write_server_files(shop) == ["models.config"]
        assert dict(models(shop).version_labels) == {"stable": int(version)}


@pytest.mark.parametrize(
    "edit", [("value: 2", "value: 1"), ("latest { num_versions: 2 }", "all {}"), ("# ", "")]
)
def test_edits_are_kept(shop, edit):
    (shop / "2").mkdir()
    write_server_files(shop)
    edited = {file: (shop / file).read_text() + "# ours\n" for file in FILES}
    edited["models.config"] = (shop / "models.config").read_text().replace(*edit)
    for file, text in edited.items():
        (shop / file).write_text(text)
    (shop / "3").mkdir()
    assert write_server_files(shop, image=SCANN_IMAGE) == []
    assert {file: (shop / file).read_text() for file in FILES} == edited


def test_removed_files_come_back(shop):
    write_server_files(shop)
    (shop / "monitoring.config").unlink()
    assert write_server_files(shop) == ["monitoring.config"]


def test_image_follows_the_kind_of_index(shop):
    write_server_files(shop, image=SCANN_IMAGE)
    assert write_server_files(shop) == ["docker-compose.yaml"]
    assert SCANN_IMAGE not in (shop / "docker-compose.yaml").read_text()


def test_model_name(tmp_path):
    (tmp_path / "my shop" / "1").mkdir(parents=True)
    write_server_files(tmp_path / "my shop")
    assert models(tmp_path / "my shop").name == "my_shop" == served_name(tmp_path / "my shop")
    with pytest.raises(ValueError, match=r"letters, digits.*Received: model_name='a/b'"):
        write_server_files(tmp_path / "my shop", "a/b")


def test_a_folder_without_versions_gets_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="which holds none"):
        write_server_files(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_beside_are_no_versions(version):
    directory = re.sub("/1$", "", version)
    write_server_files(directory)
    assert set(load(directory).signatures) == set(signature_inputs(version))
