"""Runs side by side, user by user."""

import difflib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from csmf_tf.evaluation.comparison import ALPHA, Comparison, Row, distinct
from csmf_tf.evaluation.statistics import Difference, holm, intervals, sign_flip_test
from csmf_tf.evaluation.user_results import (
    TARGETS,
    USERS_FILE,
    Key,
    UserResults,
    UserTable,
    read_user_results,
    run_state,
)
from csmf_tf.progress import bar


def load_results(paths: Sequence[str | os.PathLike[str]]) -> list[UserResults]:
    """Reads what `csmf-tf evaluate` left in the folders of runs, or files of user results.

    Args:
        paths: folders of runs, or files of `write_user_results`. A run is called as its folder, with as many
            of the parent folders as tell it from the others; a file as it says itself.

    Returns:
        the `UserResults` of each.

    Raises:
        FileNotFoundError: when there is no such run or file, or the run was not trained or not evaluated.
        ValueError: when a file is damaged or given twice, or the run has changed since it was evaluated.
    """
    files = [_file(pathlib.Path(path)).resolve() for path in paths]
    twice = [str(path) for path, file in zip(paths, files, strict=True) if files.count(file) > 1]
    if twice:
        raise ValueError(f"Runs should be different ones. Received: the same twice, {' and '.join(twice)}")
    found = [_load(pathlib.Path(path)) for path in paths]
    places = [
        pathlib.Path(path).resolve().parts if os.path.isdir(path) else (results.name,)
        for path, results in zip(paths, found, strict=True)
    ]
    return [results._replace(name=label) for results, label in zip(found, _path_labels(places), strict=True)]


def compare(
    results: Sequence[UserResults],
    metrics: Sequence[str] | None = None,
    targets: Sequence[str] = ("discovery",),
    repeats: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compares runs user by user with the first one.

    Intervals are of level 0.95 by the bootstrap over users, see `intervals`; all runs see the same draws. p
    values are those of `sign_flip_test`, adjusted by `holm` over all differences of the comparison.

    Args:
        results: of two runs or more, the baseline first.
        metrics: which of the metrics that all runs have, or "all"; by default recall and NDCG at the first K.
        targets: which kinds of targets.
        repeats: random assignments of signs of a test.
        seed: seed of all that is drawn.

    Returns:
        the `Comparison`. An objective that a run lacks, or that has no user, is left out.

    Raises:
        ValueError: if there are fewer than two runs, they were not measured on the same test targets, or they
            have no objective or not the metrics in common.

    Example:
        >>> users = np.array(["u1", "u2"], object)
        >>> ours = UserTable(users, {"recall@5": np.array([0.0, 0.5])}, digest="d")
        >>> theirs = UserTable(users[::-1], {"recall@5": np.array([1.0, 0.0])}, digest="d")
        >>> named = {"ours": ours, "theirs": theirs}
        >>> runs = [UserResults(name, {("buy", "discovery"): table}) for name, table in named.items()]
        >>> [(row.run, row.mean, row.adjusted) for row in compare(runs).rows]
        [('ours', 0.25, None), ('theirs', 0.5, 1.0)]
    """
    if len(results) < 2:
        raise ValueError(f"A comparison should be of two runs or more. Received: {len(results)}.")
    strange = set(targets) - set(TARGETS)
    if strange:
        raise ValueError(f"`targets` should be of {', '.join(TARGETS)}. Received: {', '.join(strange)}")
    labels = distinct([one.name for one in results])
    keys, left_out = _keys(results, labels, targets)
    for key in keys:
        _check_targets(results, labels, key)
    chosen = _metrics(results, metrics)
    rows: list[Row] = []
    for key in bar(keys, "comparing objectives"):
        tables = _aligned([one.tables[key] for one in results], labels, key)
        rows += _rows(key, dict(zip(labels, tables, strict=True)), chosen, repeats, seed)
    adjusted = iter(holm([row.difference.p for row in rows if row.difference]).tolist())
    rows = [row._replace(adjusted=next(adjusted)) if row.difference else row for row in rows]
    return Comparison(tuple(labels), tuple(rows), tuple(left_out))


def _file(path: pathlib.Path) -> pathlib.Path:
    return path / USERS_FILE if path.is_dir() else path


def _load(path: pathlib.Path) -> UserResults:
    file = _file(path)
    if file == path:
        return read_user_results(path)
    if (path / "config.yaml").is_file() and not _trained(path):
        raise FileNotFoundError(
            f"{path} should be a trained run. Received: one without a finished stage; go on with "
            f"`csmf-tf fit {path}/config.yaml --out {path}`"
        )
    state = run_state(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} should hold {USERS_FILE}. Received: a run that was not evaluated; "
            f"`csmf-tf evaluate {path}` writes it"
        )
    results = read_user_results(file)
    if results.state != state:
        raise ValueError(
            f"{file} should measure the weights that the run has now. Received: those of another moment; "
            f"`csmf-tf evaluate {path}` measures anew"
        )
    return results


def _trained(run: pathlib.Path) -> bool:
    """Whether a stage is finished, so that there is something to evaluate."""
    state = run / "state.json"
    log = json.loads(state.read_text())["log"] if state.is_file() else []
    return any(entry["phase"] == "freeze" for entry in log)


def _path_labels(places: Sequence[tuple[str, ...]]) -> list[str]:
    """The last part of each path, with as many before it as tell it from other paths."""
    labels = {place: place[-1] for place in places}
    for depth in range(2, max(map(len, places), default=0) + 1):
        shared = Counter(labels.values())
        labels = {p: "/".join(p[-depth:]) if shared[label] > 1 else label for p, label in labels.items()}
    return [labels[place] for place in places]


def _metrics(results: Sequence[UserResults], wanted: Sequence[str] | None) -> list[str]:
    each = [next((list(table.values) for table in one.tables.values()), []) for one in results]
    common = [metric for metric in each[0] if all(metric in metrics for metrics in each)]
    if not common:
        raise ValueError(f"Runs should have a metric in common. Received: {'; '.join(map(str, each))}")
    if wanted is None:
        k = common[0].partition("@")[2]
        return [metric for metric in (f"recall@{k}", f"ndcg@{k}") if metric in common] or common[:1]
    if "all" in wanted:
        return common
    unknown = [metric for metric in wanted if metric not in common]
    if unknown or not wanted:
        near = [like for name in unknown for like in difflib.get_close_matches(name, common, n=1)]
        hint = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else ";"
        raise ValueError(
            f"Metrics (`--metric`) should be of those that all runs have: {', '.join(common)}. "
            f"Received: {', '.join(unknown) or 'none'}{hint} another K has to be in `evaluate.ks` of the runs"
        )
    return list(dict.fromkeys(wanted))


def _keys(
    results: Sequence[UserResults], labels: Sequence[str], targets: Sequence[str]
) -> tuple[list[Key], list[str]]:
    """What all runs measured on some user, and phrases about the rest."""
    keys, left_out = [], []
    for key in dict.fromkeys(key for one in results for key in one.tables if key[1] in targets):
        lacking = [label for label, one in zip(labels, results, strict=True) if key not in one.tables]
        if lacking:
            left_out.append(f"{_named(key)}: not measured in {', '.join(lacking)}")
        elif not any(len(one.tables[key].users) for one in results):
            left_out.append(f"{_named(key)}: no user has one")
        else:
            keys.append(key)
    found = {key[1] for one in results for key in one.tables}
    left_out += [f"{kind} targets: in no run" for kind in dict.fromkeys(targets) if kind not in found]
    if not keys:
        raise ValueError(
            f"Runs should have an objective in common. Received: none with {', '.join(targets)} targets; "
            f"{'; '.join(left_out)}"
        )
    return keys, left_out


def _check_targets(results: Sequence[UserResults], labels: Sequence[str], key: Key) -> None:
    for one, label in zip(results, labels, strict=True):
        if one.tables[key].digest != results[0].tables[key].digest:
            splits = (
                "" if one.split == results[0].split else f" (split {results[0].split} against {one.split})"
            )
            raise ValueError(
                f"Runs should be measured on the same test targets. Received: others for {_named(key)} in "
                f"{label} than in {labels[0]}{splits}; compare runs of one log and one split"
            )


def _aligned(tables: Sequence[UserTable], labels: Sequence[str], key: Key) -> list[UserTable]:
    """The tables with the users in the order of the first one's."""
    users = tables[0].users
    order = np.argsort(users, kind="stable")
    aligned = []
    for table, label in zip(tables, labels, strict=True):
        other = np.argsort(table.users, kind="stable")
        if not np.array_equal(users[order], table.users[other]):
            raise ValueError(
                f"Runs should be measured on the same users. Received: others for {_named(key)} in {label} "
                f"than in {labels[0]}; give each user with a target one row"
            )
        position = np.empty(len(order), np.int64)
        position[order] = other
        values = {metric: value[position] for metric, value in table.values.items()}
        aligned.append(table._replace(users=users, values=values))
    return aligned


def _rows(
    key: Key, tables: Mapping[str, UserTable], metrics: Sequence[str], repeats: int, seed: int
) -> Iterator[Row]:
    first = next(iter(tables))
    values = {(run, metric): tables[run].values[metric] for metric in metrics for run in tables}
    gaps = {
        (run, metric): value - values[first, metric]
        for (run, metric), value in values.items()
        if run != first
    }
    columns = {("value", *of): value for of, value in values.items()}
    columns |= {("gap", *of): gap for of, gap in gaps.items()}
    bounds = intervals(columns, 1 - ALPHA, seed=seed)
    for (run, metric), value in values.items():
        row = Row(*key, metric, run, len(value), float(value.mean()), *bounds["value", run, metric])
        if run != first:
            gap = gaps[run, metric]
            p = sign_flip_test(gap, repeats, seed)
            row = row._replace(difference=Difference(float(gap.mean()), *bounds["gap", run, metric], p))
        yield row


def _named(key: Key) -> str:
    objective, targets = key
    return f"'{objective}', {targets} targets"
