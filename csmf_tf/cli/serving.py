"""Commands about exports."""

import sys
import warnings

from csmf_tf.cli.output import Answer
from csmf_tf.cli.runs import open_run


def register(command):
    """Adds the commands of this module; `command` is that of `csmf_tf.cli`."""
    sub = command(
        "export",
        _export,
        "write a SavedModel with its index",
        "build/run --out build/export",
        "build/run --out build/export --index portable --set candidates=32000 -k 200",
    )
    sub.add_argument("directory", metavar="RUN", help="folder of a run")
    sub.add_argument("--out", required=True, metavar="DIR", help="folder of the versions 1, 2, ...")
    kinds = ["exact", "portable", "scann"]
    sub.add_argument("--index", choices=kinds, default="scann", help="kind (default scann)")
    sub.add_argument(
        "--fusion",
        choices=["log", "linear"],
        default="log",
        help="rank by the weighted sum of log probabilities or of probabilities (default log)",
    )
    sub.add_argument("-k", type=int, default=100, help="results an answer holds (default 100)")
    sub.add_argument(
        "--min-recall",
        type=float,
        default=0.9,
        help="least share of the true results that the index has to find under all weightings (default 0.9); "
        "0 exports all the same",
    )
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=N",
        help="a setting of the index, e.g. candidates=32000 of portable or leaves_to_search=400 of scann",
    )
    sub.add_argument(
        "--shards", type=int, metavar="N", help="write N exports of a part of the items each: shard-0, ..."
    )

    sub = command(
        "query",
        _query,
        "ask an export for a user's items",
        "build/export --user u17",
        "build/export --user u17 --weights view=1,buy=3 -k 5",
        "build/export --history i3=view,i7=buy     # of a heterrec model",
    )
    sub.add_argument("directory", metavar="DIR", help="folder of an export, or of its shards")
    sub.add_argument("--user", metavar="ID", help="the user")
    sub.add_argument(
        "--history",
        metavar="ITEM=NAME,...",
        help="of a heterrec model: what the user did, latest last; items alone in a funnel of one "
        "(ids with , or = are for csmf_tf.query)",
    )
    sub.add_argument("--weights", metavar="NAME=W,...", help="fusion weights; default equal")
    sub.add_argument("-k", type=int, default=10, help="number of items (default 10)")

    sub = command(
        "refresh",
        _refresh,
        "add, change and remove items of an export without training",
        "build/export --items items.csv",
    )
    sub.add_argument("directory", metavar="DIR", help="folder of an export; its last version is refreshed")
    sub.add_argument(
        "--items",
        required=True,
        metavar="FILE",
        help="CSV or Parquet file of the items that are new or changed, with their features; "
        "those with 1 in the column `remove` go",
    )
    sub.add_argument(
        "--min-recall", type=float, help="least recall under all weightings; default that of the export"
    )


def _export(args):
    settings = dict(map(_parse_setting, args.set))
    run = open_run(args.directory)

    from csmf_tf.serving.card import read_card
    from csmf_tf.serving.shards import common_version, shard_folders

    options = {"index": args.index, "k": args.k, "fusion": args.fusion, "min_recall": args.min_recall}
    path = run.export(args.out, **options, settings=settings, shards=args.shards)
    if args.shards is None:
        return Answer({"path": path, "recall": read_card(path)["recall"]}, f"wrote {path}")
    folders = shard_folders(path)
    paths = [f"{folder}/{common_version(folders)}" for folder in folders]
    recalls = [read_card(shard)["recall"] for shard in paths]
    document = {"path": path, "shards": paths, "recalls": recalls}
    return Answer(document, f"wrote {args.shards} shards to {path}")


def _query(args):
    from csmf_tf.serving.query import UnknownItemWarning, UnknownUserWarning, query

    weights = None if args.weights is None else _parse_weights(args.weights)
    with warnings.catch_warnings(record=True) as caught:
        for category in (UnknownItemWarning, UnknownUserWarning):
            warnings.simplefilter("always", category)
        answer = query(args.directory, args.user, weights, args.k, _parse_history(args.history))
    for warning in caught:
        if issubclass(warning.category, UnknownItemWarning | UnknownUserWarning):
            print(f"csmf-tf: note: {warning.message}", file=sys.stderr)
    lines = [f"{rank:>4}  {score:>10.4f}  {item}" for rank, (item, score) in enumerate(answer, start=1)]
    return Answer([{"item": item, "score": score} for item, score in answer], "\n".join(lines))


def _refresh(args):
    from csmf_tf.serving.refresh import refresh

    done = refresh(args.directory, args.items, min_recall=args.min_recall)
    if done.unknown:
        print(
            f"csmf-tf: note: {done.unknown:,} of the items to remove are not in the export", file=sys.stderr
        )
    counts = f"{done.added:,} added, {done.changed:,} changed, {done.removed:,} removed"
    return Answer(done._asdict(), f"wrote {done.path}: {counts}; {done.items:,} items")


def _parse_setting(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), int(value)
    except ValueError:
        raise ValueError(f"`--set` should look like candidates=32000. Received: {text!r}") from None


def _parse_history(text: str | None) -> list | None:
    if text is None:
        return None
    pairs = [tuple(half.strip() for half in part.rsplit("=", 1)) for part in text.split(",")]
    return [pair if len(pair) == 2 else pair[0] for pair in pairs]


def _parse_weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            if name.strip() in weights:
                raise ValueError
            weights[name.strip()] = float(value)
        except ValueError:
            raise ValueError(
                f"`--weights` should look like view=1,buy=3, each name once. Received: {part!r} in {text!r}"
            ) from None
    return weights
