"""Commands about exports."""

import json
import sys
import warnings


def register(command):
    """Adds the commands of this module; `command` is that of `csmf_tf.cli`."""
    sub = command("export", _export, "write a SavedModel with its index", "build/run --out build/export")
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

    sub = command(
        "query", _query, "ask an export for a user's items", "DIR --user u17 --weights view=1,buy=3"
    )
    sub.add_argument("directory", metavar="DIR", help="folder of an export")
    sub.add_argument("--user", required=True, metavar="ID", help="the user")
    sub.add_argument("--weights", metavar="NAME=W,...", help="fusion weights; default equal")
    sub.add_argument("-k", type=int, default=10, help="number of items (default 10)")
    sub.add_argument("--json", action="store_true", help="answer as JSON")


def _export(args):
    from csmf_tf.run import Run

    run = Run(args.directory).restore()
    options = {"index": args.index, "k": args.k, "fusion": args.fusion, "min_recall": args.min_recall}
    print(f"wrote {run.export(args.out, **options)}")


def _query(args):
    from csmf_tf.serving.query import UnknownUserWarning, query

    weights = None if args.weights is None else _parse_weights(args.weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnknownUserWarning)
        answer = query(args.directory, args.user, weights, args.k)
    for warning in caught:
        if issubclass(warning.category, UnknownUserWarning):
            print(f"csmf-tf: note: {warning.message}", file=sys.stderr)
    if args.json:
        print(json.dumps([{"item": item, "score": score} for item, score in answer]))
    else:
        for rank, (item, score) in enumerate(answer, start=1):
            print(f"{rank:>4}  {score:>10.4f}  {item}")


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
