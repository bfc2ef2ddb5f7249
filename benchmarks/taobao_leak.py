"""What rules without any learning reach on taobao's published split, whose test targets leak.

    .venv/bin/python benchmarks/taobao_leak.py [--folder ../shared/data/taobao]

Prints what `csmf-tf check` finds of the targets, HR@10 and NDCG@10 of some rules by the published protocol
(test purchases; all items but the user's other purchases are ranked), apart for targets that the user had met
in view or cart and for new ones, and one line of JSON. The log is not part of the project.
"""

import argparse
import json
import os
import pathlib

import numpy as np

import csmf_tf
from csmf_tf.data.check import check
from csmf_tf.data.log import EventLog, read_log
from csmf_tf.data.published import read_published
from csmf_tf.data.splits import tell_apart
from csmf_tf.evaluation.baselines import counting, popularity_scores, static
from csmf_tf.evaluation.metrics import means, user_metrics
from csmf_tf.evaluation.ranking import Shortlist, rank

FUNNEL = ("view", "cart", "buy")
BUY = 2


def viewed_not_bought(known: EventLog) -> Shortlist:
    """Ranks what a user has viewed by the number of buyers (who bought it is left out by the protocol)."""
    buyers = popularity_scores(known.items_of_users(BUY), len(known.items))
    viewed = known.items_of_users(0)
    return Shortlist(viewed, buyers[viewed.items])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("../shared/data/taobao"))
    args = parser.parse_args()
    columns = {"user": "user_id", "item": "item_id"}
    log = read_log(args.folder / "events.csv.gz", behavior="behavior", funnel=FUNNEL, **columns)
    published = read_published(args.folder / "published_split.csv.gz", log, objective="buy", **columns)
    report = check(log, published.test, published.training)
    found = {finding.name: finding for finding in report.findings}
    for name in ("targets", "shortcut"):
        print(f"{name}: {found[name].sentence}")

    # As published: the validation purchases are known when the test ones are asked for.
    known, held = log.take(~published.test), log.take(published.test)
    new, met, _ = tell_apart(known, held)
    targets = {name: part.items_of_users(BUY) for name, part in (("all", held), ("met", met), ("new", new))}
    bought = known.items_of_users(BUY)
    users = np.flatnonzero(targets["all"].counts)
    rules = {
        "most bought": static(popularity_scores(bought, len(log.items)), len(log.users)),
        "viewed, not yet bought, by buyers": viewed_not_bought(known),
        "counting": counting(known, BUY),
    }
    results = {}
    print(f"\n{'HR@10 / NDCG@10':<36}" + "".join(f"{name:>18}" for name in targets))
    for label, rule in rules.items():
        ranked = rank(rule, bought, users, 10)
        rows = {name: means(user_metrics(ranked, part, users, [10])) for name, part in targets.items()}
        results[label] = {
            name: {metric: round(row[metric], 4) for metric in ("hit_rate@10", "ndcg@10", "users")}
            for name, row in rows.items()
        }
        cells = [f"{row['hit_rate@10']:.4f} / {row['ndcg@10']:.4f}" for row in rows.values()]
        print(f"{label:<36}" + "".join(f"{cell:>18}" for cell in cells))
    print(f"{'users':<36}" + "".join(f"{row['users']:>18,}" for row in results["counting"].values()))
    setting = {"cores": os.cpu_count(), "numpy": np.__version__, "csmf_tf": csmf_tf.__version__}
    print(json.dumps({"leaking": found["targets"].numbers, "rules": results, "setting": setting}))


if __name__ == "__main__":
    main()
