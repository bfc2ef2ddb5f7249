"""Evaluation within `model.fit`."""

from collections.abc import Callable, Mapping
from typing import Any

from csmf_tf._keras import keras


class EvaluationCallback(keras.callbacks.Callback):
    """Measures a model every few epochs, into the logs that Keras shows and records.

    Callbacks after it in the list see what it measured, such as TensorBoard or EarlyStopping.

    For a `CSMF`, a sample of an evaluator's users keeps it cheap:

        some = run.validation().sample(1000)
        EvaluationCallback(lambda model: some.judge(model, "view"), every=5)

    Args:
        measure: function of the model that gives a dict of metrics.
        every: number of epochs from one measurement to the next.
        prefix: what the metrics' names get in front.

    Raises:
        ValueError: if `every` is not a positive integer.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    >>> model.compile("sgd", "mse")
    >>> count = EvaluationCallback(lambda model: {"weights": model.count_params()}, every=2)
    >>> history = model.fit([[1.0]], [[1.0]], epochs=4, callbacks=[count], verbose=0).history
    >>> history["eval_weights"]
    [1, 1]
    """

    def __init__(self, measure: Callable[[Any], Mapping[str, float]], every: int = 1, prefix: str = "eval_"):
        super().__init__()
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` should be an integer >= 1. Received: every={every!r}")
        self._measure, self._every, self._prefix = measure, every, prefix

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None and (epoch + 1) % self._every == 0:
            logs.update({self._prefix + name: value for name, value in self._measure(self.model).items()})
