"""The command that checks event logs and their splits."""

import collections
import os
import sys
from dataclasses import replace

from csmf_tf.cli.output import Answer

_DEFAULTS = {"user": "user_id", "item": "item_id", "behavior": "behavior"}
_OF_LOG = (*_DEFAULTS, "timestamp", "funnel", "ignore")
_OF_SPLIT = ("split", "at", "fraction", "seed")
_KIND_OF = {"at": "time", "fraction": "item_holdout"}


def register(command):
    """Adds the command of this module; `command` is that of `csmf_tf.cli`."""
    sub = command(
        "check",
        _check,
        "look for leaks and faults of a log and its split",
        "events.csv.gz --strict",
        "events.csv.gz --held split.csv.gz --objective buy",
        "config.yaml --json report.json",
    )
    sub.add_argument(
        "log", metavar="LOG", help="event log, or config.yaml or the folder of a run, which tells the rest"
    )
    for name, default in _DEFAULTS.items():
        sub.add_argument(f"--{name}", metavar="COLUMN", help=f"column of the log (default {default})")
    sub.add_argument("--timestamp", metavar="COLUMN", help="column of times (default timestamp, if there)")
    sub.add_argument(
        "--funnel", metavar="A,B,...", help="behaviours, upstream first (default from most to least frequent)"
    )
    sub.add_argument("--ignore", metavar="A,B,...", help="behaviours to skip")
    sub.add_argument(
        "--split",
        choices=["time", "item_holdout", "leave_last"],
        help="what to hold out (default time where there are times, else item_holdout)",
    )
    sub.add_argument("--at", type=float, help="share of events before the cut, kind time (default 0.9)")
    sub.add_argument("--fraction", type=float, help="share of items, kind item_holdout (default 0.1)")
    sub.add_argument("--seed", type=int, help="seed of the split (default 0)")
    sub.add_argument(
        "--held",
        metavar="FILE",
        help="a published split instead: table of held-out pairs, perhaps with `split`",
    )
    sub.add_argument("--objective", metavar="NAME", help="behaviour that --held is of (default the last one)")
    sub.add_argument("--strict", action="store_true", help="exit code 1 when a problem is found")


def _check(args):
    from csmf_tf.data.check import check
    from csmf_tf.data.findings import Report
    from csmf_tf.data.log import read_log
    from csmf_tf.data.published import read_published
    from csmf_tf.data.splits import held_out

    _find_config(args)
    _check_options(args)
    about, funnel, split, kinds = (_of_config if _is_config(args) else _of_options)(args)
    columns = {name: getattr(about, name) for name in ("user", "item", "behavior", "timestamp", "ignore")}
    log = read_log(about.path, funnel=funnel, **columns)
    if args.held is None:
        test = held_out(log, split.kind, at=split.at, fraction=split.fraction, seed=split.seed)
        report = check(log, test, ~test, met_apart=True, split=_named(split))
    else:
        ids = {"user": about.user, "item": about.item}
        objective = args.objective or log.funnel[-1]
        held = read_published(args.held, log, objective=objective, **ids)
        named = {"kind": "published", "file": args.held, "objective": objective}
        parts, *others = check(log, held.test, held.training, split=named)
        report = Report((parts, held.finding, *others))
    report = Report((*report, *_of_tables(about, kinds, log)))
    return Answer(report.to_dict(), report.text(), int(args.strict and report.level == "problem"))


def _of_tables(about, kinds, log):
    from csmf_tf.data.table_checks import features

    tables = {"users": (about.users, about.user, log.users), "items": (about.items, about.item, log.items)}
    return [
        features(path, column, kinds[of], ids, of)
        for of, (path, column, ids) in tables.items()
        if kinds.get(of)
    ]


def _find_config(args):
    config = os.path.join(args.log, "config.yaml")
    if os.path.isfile(config):
        print(f"csmf-tf: note: {args.log} is checked by its configuration, {config}", file=sys.stderr)
        args.log = config


def _is_config(args):
    return args.log.endswith((".yaml", ".yml"))


def _check_options(args):
    given = {name for name in (*_OF_LOG, *_OF_SPLIT, "objective") if getattr(args, name) is not None}
    refused = given & {*_OF_LOG} if _is_config(args) else set()
    why = f"{args.log} tells them"
    if not refused and args.held is not None:
        refused, why = given & {*_OF_SPLIT}, "--held is the split"
    if not refused and args.held is None:
        refused, why = given & {"objective"}, "it belongs to --held"
    if refused:
        raise ValueError(f"{_flags(refused)} should be left out, as {why}. Received: {_flags(refused)}.")


def _flags(names):
    return ", ".join(f"--{name}" for name in sorted(names))


def _of_config(args):
    from csmf_tf.config import load_config

    config = load_config(args.log)
    kinds = {"users": config.features.user, "items": config.features.item}
    return config.log, config.funnel, _split(args, config.split), kinds


def _of_options(args):
    from csmf_tf.config import Log, Split
    from csmf_tf.data.stream import columns_of

    names = {name: getattr(args, name) or default for name, default in _DEFAULTS.items()}
    columns = columns_of(args.log)
    _check_columns(args.log, names | ({"timestamp": args.timestamp} if args.timestamp else {}), columns)
    has_times = "timestamp" in columns
    log = Log(
        path=args.log,
        timestamp=args.timestamp or ("timestamp" if has_times else None),
        ignore=_names(args.ignore),
        **names,
    )
    split = _split(args, Split("time" if log.timestamp else "item_holdout"))
    return log, _names(args.funnel) or _most_frequent_first(log), split, {}


def _split(args, default):
    kind = args.split or default.kind
    shares = {name: getattr(args, name) for name in ("at", "fraction", "seed")}
    wrong = [name for name, of in _KIND_OF.items() if shares[name] is not None and kind != of]
    if wrong:
        raise ValueError(
            f"`--{wrong[0]}` belongs to --split {_KIND_OF[wrong[0]]}. Received: --split {kind}; leave it out."
        )
    return replace(default, kind=kind, **{name: value for name, value in shares.items() if value is not None})


def _named(split):
    settings = {"time": ("at",), "item_holdout": ("fraction", "seed"), "leave_last": ()}[split.kind]
    return {"kind": split.kind} | {name: getattr(split, name) for name in settings}


def _check_columns(path, wanted, found):
    lacking = {option: name for option, name in wanted.items() if name not in found}
    if not lacking:
        return
    raise ValueError(
        f"{path} should have the columns {_quoted(wanted.values())}. Received: {_quoted(found)}, which lack "
        f"{_quoted(lacking.values())}; name yours with {', '.join(f'--{option}' for option in lacking)}."
        f"{_public_set(path, found)}"
    )


def _public_set(path, columns):
    from csmf_tf.data.public import SETS

    first_line = ",".join(columns)
    for name, one in SETS.items():
        if any(layout.fault(first_line) is None for layout in one.files):
            return f" It looks like the set {name}: `csmf-tf import {name} {path} --out DIR` reads it."
    return ""


def _quoted(names):
    return ", ".join(f"`{name}`" for name in names)


def _names(text):
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _most_frequent_first(log):
    from csmf_tf.data.stream import stream

    counts: collections.Counter[str] = collections.Counter()
    for chunk in stream(log.path, [log.behavior]):
        for entry in chunk.text(log.behavior).drop_null().value_counts().to_pylist():
            counts[entry["values"]] += entry["counts"]
    funnel = sorted(counts.keys() - {*log.ignore}, key=lambda name: (-counts[name], name))
    print(
        f"csmf-tf: note: the funnel is taken to be {', '.join(funnel)}, from the most to the least frequent; "
        "name another one with --funnel",
        file=sys.stderr,
    )
    return tuple(funnel)
