"""The table of public sets and their import."""

import difflib
import os
from collections.abc import Mapping, Sequence

from csmf_tf.data.public.aliccp import ALICCP
from csmf_tf.data.public.aliexpress import ALIEXPRESS
from csmf_tf.data.public.base import PublicSet
from csmf_tf.data.public.kuairand import KUAIRAND
from csmf_tf.data.public.movielens import movielens
from csmf_tf.data.public.shops import RETAILROCKET, TAOBAO, TMALL
from csmf_tf.data.public.source import recognise
from csmf_tf.data.public.target import Imported, Target
from csmf_tf.progress import bar

SETS: Mapping[str, PublicSet] = {
    "taobao": TAOBAO,
    "tmall": TMALL,
    "retailrocket": RETAILROCKET,
    "aliexpress": ALIEXPRESS,
    "aliccp": ALICCP,
    "kuairand": KUAIRAND,
    "movielens": movielens(),
}


def import_set(
    name: str,
    files: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    thresholds: Sequence[float] | None = None,
) -> Imported:
    r"""Turns the files of a known public set into a log, feature tables and a configuration for them.

    Written are `events.parquet` (user_id, item_id, behavior and, where the set has times, timestamp),
    `users.parquet` and `items.parquet` where the set has features, and `config.yaml`, for `csmf-tf fit`.
    Files are read chunk by chunk: memory grows with the distinct ids, not with the rows. The folder is there
    whole or not at all.

    Args:
        name: one of `SETS`.
        files: the files of the set, in any order, but partners (a log and its features) in the same order.
        out: the folder to be made.
        thresholds: for movielens only, see `csmf_tf.data.public.movielens.movielens`.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is no such set, a file is missing or laid out otherwise, a value is wrong (with
            the number of its row), a behaviour has no event, or something is in the folder.

    Example:
    >>> import pathlib, tempfile
    >>> rows = ["timestamp,visitorid,event,itemid,transactionid", "1433221332117,7,view,42,"]
    >>> rows += ["1433221332118,7,addtocart,42,", "1433221332119,7,transaction,42,1"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "events.csv")
    ...     _ = file.write_text("\n".join(rows))
    ...     done = import_set("retailrocket", [file], pathlib.Path(folder, "out"))
    >>> done.events
    {'view': 1, 'cart': 1, 'buy': 1}
    """
    if name not in SETS:
        near = difflib.get_close_matches(name.lower(), SETS, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"The set should be a known one. Received: {name!r}. {hint}Known are {', '.join(SETS)}; "
            "a log of your own needs no import."
        )
    if thresholds is not None and name != "movielens":
        raise ValueError(f"`thresholds` belongs to movielens. Received: it with {name}; leave it out.")
    one = SETS[name] if thresholds is None else movielens(thresholds)
    target = Target(out, one.funnel, one.ignore, one.split, one.features)
    with bar(about=f"reading {name}") as read:
        sources = recognise(files, one.files, one.where, read.update)
        read.total = sum(source.path.stat().st_size for of_role in sources.values() for source in of_role)
        with target:
            one.read(sources, target)
    return target.imported
