"""The methods that share towers in other ways than CSMF, each in a few lines."""

from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.quality.sharing import Data, MultiTask, train, vectors
from benchmarks.quality.task import Ranked, Task
from csmf_tf import build
from csmf_tf._keras import keras
from csmf_tf.evaluation.funnel import Vectors
from csmf_tf.evaluation.ranking import Scores
from csmf_tf.schedule import Fit

ONE_VECTOR = ("one", "segments")
"""Ways to combine after which one index holds the vectors of all objectives."""


def scores_of(model: MultiTask, data: Data, names: Sequence[str]) -> dict[str, Scores]:
    """Objective -> its vectors; the same ones for all where the model has one vector."""
    if model.combine == "one":
        return dict.fromkeys(names, vectors(model, data, 0))
    return {name: vectors(model, data, k) for k, name in enumerate(names)}


def fit(
    task: Task, model: MultiTask, data: Data, names: Sequence[str], fine_tuning: bool = False
) -> list[float]:
    """Trains a model on `data`, judged by the mean validation recall of the objectives `names`."""
    training = task.run.config.training
    return train(
        model,
        data,
        lambda: task.judge(scores_of(model, data, names)),
        build.optimizer(task.run.config, task.run.prepared),
        Fit(training.epochs, training.patience, training.decay, fine_tuning),
    )


def _new(task, names, combine="one", balance="sum"):
    keras.utils.set_random_seed(task.seed)
    data = Data(task, names)
    return MultiTask(task, data, combine, balance), data


def separate(task: Task) -> Ranked:
    """A model for each objective."""
    scores, curves = {}, {}
    for name in task.funnel:
        model, data = _new(task, [name])
        curves[name] = fit(task, model, data, [name])
        scores |= scores_of(model, data, [name])
    return Ranked(scores, len(scores), task.dim, notes={"curves": curves})


def union(task: Task) -> Ranked:
    """One model of all events: under the closure they are those of the first objective."""
    model, data = _new(task, task.funnel[:1])
    curve = fit(task, model, data, task.funnel)
    scores = scores_of(model, data, task.funnel)
    return Ranked(scores, 1, task.dim, notes={"curve": curve})


def sequential(task: Task) -> Ranked:
    """Fine-tunes the whole vector objective by objective, without masks."""
    model, _ = _new(task, task.funnel[:1])
    curves, after = {}, {}
    for place, name in enumerate(task.funnel, start=1):
        data = Data(task, [name])
        curves[name] = fit(task, model, data, [name], fine_tuning=place > 1)
        scores = scores_of(model, data, task.funnel)
        after[name] = {
            done: task.test.discovery(scores[done], done).summary()[task.test.metric]
            for done in task.funnel[:place]
        }
    return Ranked(scores, 1, task.dim, notes={"curves": curves, "after": after})


def joint(combine: str, balance: str, task: Task) -> Ranked:
    """One model, trained on all objectives at once; see `tops` and `MultiTask`."""
    model, data = _new(task, task.funnel, combine, balance)
    notes = {"curve": fit(task, model, data, task.funnel)}
    scores = scores_of(model, data, task.funnel)
    if balance == "uncertainty":
        notes["log_variance"] = model.log_variance.numpy().tolist()
    fused = None
    if combine == "segments":
        fused = Vectors(*scores[task.funnel[-1]], model.owner).weighed
    return Ranked(scores, 1 if combine in ONE_VECTOR else len(scores), task.dim, fused, notes)


METHODS: dict[str, Callable[[Task], Ranked]] = {
    "separate": separate,
    "union": union,
    "summed": partial(joint, "one", "sum"),
    "shared_bottom": partial(joint, "heads", "sum"),
    "mmoe": partial(joint, "mmoe", "sum"),
    "ple": partial(joint, "ple", "sum"),
    "esmm": partial(joint, "segments", "sum"),
    "uncertainty": partial(joint, "heads", "uncertainty"),
    "pcgrad": partial(joint, "heads", "pcgrad"),
    "sequential": sequential,
}
"""Name -> method."""
