"""The whole of csmf_tf once, on a small log: what `make demo` runs."""

import itertools
import os
import pathlib
import time
from typing import Any

import numpy as np

from csmf_tf._keras import tf
from csmf_tf.config import Config, from_dict
from csmf_tf.data.simulator import load_truth, simulate
from csmf_tf.data.stream import columns_of
from csmf_tf.evaluation.tables import format_capacity, format_table
from csmf_tf.reporting import write_evaluation
from csmf_tf.run import Run
from csmf_tf.serving.query import query

USERS, ITEMS, SEED = 3000, 1500, 0


def demo(out: str | os.PathLike[str], data: str | None = None) -> dict[str, Any]:
    """Simulates a log (or takes one), runs the cascade, exports it, queries it and plots the trade-off.

    Args:
        out: folder for the log, the run, the export and the figures; a killed demo goes on from there.
        data: path of a log with the columns user_id, item_id, behavior (view, cart and buy) and, if it has
            times, timestamp; None simulates one.

    Returns:
        the paths of the `run`, of the `export` and of the `report`, and the `results` of `Run.evaluate`.

    Raises:
        AssertionError: when a later stage moved the metrics of an earlier one.
    """
    started = time.monotonic()
    folder = pathlib.Path(out)
    if data is None:
        simulate(USERS, ITEMS, seed=SEED).write(folder / "log")
        print(f"simulated {USERS:,} users and {ITEMS:,} items into {folder / 'log'}")
    tf.config.experimental.enable_op_determinism()
    run = Run(folder / "run", _config(data or folder / "log" / "events.csv.gz"))
    log = run.fit(verbose=2)

    evaluation = run.evaluation()
    results = evaluation.results
    print("\nafter each stage (test events, full catalogue, Recall@50 / NDCG@50)")
    references = {"popularity": results["baselines"]["popularity"]}
    if data is None:
        references["best possible"] = _best_possible(run, folder / "log")
    print(stage_table(log, references))
    _assert_nothing_moved(log)
    print("upstream rows did not move: ok")
    print("\nall objectives ranked under equal weights")
    print(format_table({"fused": results["fused"]}))
    print("\ncapacity: share of each layer per owner")
    print(format_capacity(run.model.capacity(), run.model.funnel))

    export = run.export(folder / "export")
    print(f"\nexported to {export}")
    _show_queries(folder / "export", run)
    page = write_evaluation(run, evaluation)
    print(f"\nreport: {page}; took {time.monotonic() - started:.0f} s")
    return {"run": str(run.directory), "export": export, "report": str(page), "results": results}


def _config(path: str | os.PathLike[str]) -> Config:
    log = {"path": str(path), "user": "user_id", "item": "item_id", "behavior": "behavior"}
    timed = "timestamp" in columns_of(path)
    split = {"kind": "time", "at": 0.9} if timed else {"kind": "item_holdout", "fraction": 0.1}
    return from_dict(
        {
            "log": log | ({"timestamp": "timestamp"} if timed else {}),
            "funnel": ["view", "cart", "buy"],
            "split": split,
            "model": {"embedding_dim": 64},
        }
    )


def _best_possible(run: Run, directory: pathlib.Path) -> dict[str, dict[str, float]]:
    truth, evaluator = load_truth(directory), run.evaluator()
    return {
        name: evaluator.discovery(truth.scores_of(evaluator.known, k), name).summary()
        for k, name in enumerate(run.model.funnel)
    }


def stage_table(log: list[dict[str, Any]], references: dict[str, dict[str, Any]]) -> str:
    """Recall@50 and NDCG@50 of each objective after each stage, and of some references.

    Args:
        log: what `Run.fit` returned.
        references: dict of row label to metrics of each objective.

    Returns:
        the text table.
    """
    rows = {f"after {entry['objective']}": entry["measured"] for entry in log if entry["phase"] == "freeze"}
    names = [entry["objective"] for entry in log if entry["phase"] == "freeze"]
    lines = [" " * 14 + "".join(f"{name:>16}" for name in names)]
    for label, measured in (rows | references).items():
        cells = [
            f"{measured[n]['recall@50']:.4f} / {measured[n]['ndcg@50']:.4f}" if n in measured else "-"
            for n in names
        ]
        lines.append(f"{label:<14}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def _assert_nothing_moved(log: list[dict[str, Any]]) -> None:
    measured = [entry["measured"] for entry in log if entry["phase"] == "freeze"]
    for before, after in itertools.pairwise(measured):
        moved = {name for name in before if before[name] != after[name]}
        if moved:
            raise AssertionError(f"A later stage should not move an earlier one. Moved: {sorted(moved)}")


def _show_queries(directory: pathlib.Path, run: Run) -> None:
    train = run.prepared.split.train
    user = train.users[np.bincount(train.user).argmax()]
    for weights in ({"view": 1}, {"view": 1, "cart": 1, "buy": 1}, {"buy": 1}):
        asked = ", ".join(f"{name} {weight}" for name, weight in weights.items())
        items = " ".join(item for item, _ in query(directory, user, weights, k=8))
        print(f"user {user}, weights {asked}: {items}")
