"""Evaluation within `model.fit`."""

import pytest

from csmf_tf import EvaluationCallback
from csmf_tf._keras import keras


def fit(callbacks, epochs=5):
    model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model.fit([[1.0]], [[1.0]], epochs=epochs, callbacks=callbacks, verbose=0).history


def weight(model):
    return {"weight": float(model.get_weights()[0][0, 0])}


def test_every_second_epoch_is_measured_as_it_stands_then():
    passed_on = []
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: passed_on.append(dict(logs)))
    history = fit([EvaluationCallback(weight, every=2, prefix="my_"), keep])
    # Each step takes the weight from w to 0.8 w + 0.2.
    assert history["my_weight"] == pytest.approx([1 - 0.8**2, 1 - 0.8**4])
    assert ["my_weight" in logs for logs in passed_on] == [False, True, False, True, False]


def test_early_stopping_may_follow_it():
    stop = keras.callbacks.EarlyStopping("eval_weight", mode="min")
    assert len(fit([EvaluationCallback(weight), stop])["loss"]) == 2


@pytest.mark.parametrize("every", [0, 1.5, -2])
def test_every_is_a_positive_integer(every):
    with pytest.raises(ValueError, match=f"`every` should be an integer >= 1. Received: every={every}"):
        EvaluationCallback(weight, every)
