"""Recall and latency of exported indices, beside ScaNN and faiss as they come, on the same vectors.

    .venv/bin/python benchmarks/retrieve.py [--items 100000 1000000] [--quick]

Vectors have a falling spectrum and lengths that vary, as those of trained towers; queries are weighed as
requests weigh them. Recall@50 is that against the exact answer; latencies are medians over single calls from
Python, of a loaded SavedModel (its signature `retrieve`) and of each library's own search with one thread,
interleaved. faiss is measured where it is installed (`pip install faiss-cpu`); it is no dependency.
"""

import argparse
import json
import os
import platform
import tempfile
import time

import numpy as np

import csmf_tf
from csmf_tf._keras import tf
from csmf_tf.serving.export import export
from csmf_tf.serving.fusion import query_scale
from csmf_tf.serving.index import INDICES

import scann  # isort: skip  # csmf_tf picks Keras 2 first

DIM, K = 64, 50
OBJECTIVES = ["view", "cart", "buy"]
OWNER = np.repeat([1, 2, 3], [41, 15, 8])
WEIGHTS = {
    "equal": [1.0, 1.0, 1.0],
    "view": [1.0, 0.0, 0.0],
    "buy": [0.0, 0.0, 1.0],
    "3 buy": [1.0, 1.0, 3.0],
}


def make_vectors(n: int, rng: np.random.Generator) -> np.ndarray:
    """Float32 [n, DIM], spectrum falling as d^-0.5, log-normal lengths."""
    vectors = rng.standard_normal((n, DIM)) * np.arange(1, DIM + 1) ** -0.5
    return (vectors * rng.lognormal(0, 0.25, (n, 1))).astype(np.float32)


def recall(found: np.ndarray, best: np.ndarray) -> float:
    """Mean share of the best that were found."""
    return float(np.mean([len({*row} & {*true}) / len(true) for row, true in zip(found, best, strict=True)]))


def medians(calls: dict, queries: np.ndarray, batch: int, repeats: int) -> dict[str, float]:
    """Milliseconds a call of each, interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 2):
        at = repeat * batch % (len(queries) - batch + 1)
        for name, call in calls.items():
            started = time.perf_counter()
            call(queries[at : at + batch])
            if repeat >= 2:
                seconds[name].append(time.perf_counter() - started)
    return {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}


def exported(items: np.ndarray, kind: str, folder: str):
    """The signature `retrieve` of an export, as a function of (queries, weights)."""
    path = export(
        lambda features: features["user"],
        {"user": tf.TensorSpec([None, DIM])},
        [str(n) for n in range(len(items))],
        items,
        OWNER,
        OBJECTIVES,
        folder,
        index=kind,
        k=K,
    )
    loaded = tf.saved_model.load(path)
    signature = loaded.signatures["retrieve"]

    def call(queries, weights=(1.0, 1.0, 1.0)):
        answer = signature(user=tf.constant(queries), weights=tf.constant([weights], tf.float32))
        return answer["ids"].numpy()

    # The signature needs its model to stay alive.
    call.model = loaded
    return call


def raw_scann(items: np.ndarray):
    """ScaNN's own searcher with the settings of our index."""
    settings = INDICES["scann"](items, K).settings
    builder = scann.scann_ops_pybind.builder(items, K, "dot_product")
    if "leaves" in settings:
        builder = builder.tree(settings["leaves"], settings["leaves_to_search"], min_partition_size=1)
        builder = builder.score_ah(2).reorder(settings["reorder"])
    else:
        builder = builder.score_brute_force()
    searcher = builder.build()
    return lambda queries: searcher.search_batched(queries)[0]


def faiss_indices(items: np.ndarray) -> dict:
    """Searches of faiss where it is installed: HNSW, and IVF that looks into one cell in 32."""
    try:
        import faiss
    except ImportError:
        print("faiss is not installed: left out")
        return {}
    faiss.omp_set_num_threads(1)
    hnsw = faiss.IndexHNSWFlat(DIM, 32, faiss.METRIC_INNER_PRODUCT)
    hnsw.hnsw.efSearch = 128
    cells = round(4 * len(items) ** 0.5)
    ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, cells, faiss.METRIC_INNER_PRODUCT)
    ivf.train(items)
    ivf.nprobe = max(cells // 32, 1)
    for index in (hnsw, ivf):
        index.add(items)
    return {"HNSW, ef 128": lambda q: hnsw.search(q, K)[1], "IVF, 1 in 32": lambda q: ivf.search(q, K)[1]}


def measure(n: int, args: argparse.Namespace) -> dict:
    """Recall and latency of all on n items; prints their table."""
    rng = np.random.default_rng(args.seed)
    items, queries = make_vectors(n, rng), make_vectors(256, rng)
    ours = {kind: exported(items, kind, tempfile.mkdtemp()) for kind in ("exact", "portable", "scann")}
    peers = {"raw scann": raw_scann(items), **faiss_indices(items)}
    some = queries[:100]
    recalls: dict[str, dict[str, float]] = {name: {} for name in (*ours, *peers)}
    for label, weights in WEIGHTS.items():
        scaled = some * query_scale(OWNER, np.array(weights, np.float32) / max(weights)).numpy()
        best = np.argsort(-(scaled @ items.T), axis=1)[:, :K]
        for kind, call in ours.items():
            recalls[kind][label] = recall(call(some, weights).astype(int), best)
        for name, search in peers.items():
            recalls[name][label] = recall(search(scaled), best)

    scale = query_scale(OWNER, np.ones(3, np.float32)).numpy()
    calls = dict(ours) | {name: (lambda q, s=search: s(q * scale)) for name, search in peers.items()}
    single = medians(calls, queries, 1, args.repeats)
    batched = medians(calls, queries, 64, max(args.repeats // 10, 3))
    weighted = medians(
        {
            "unweighted": lambda q: ours["scann"](q),
            "weighted": lambda q: ours["scann"](q, (1.0, 2.0, 5.0)),
            "searches": lambda q: [ours["scann"](q, tuple(row)) for row in np.eye(3)],
        },
        queries,
        1,
        args.repeats,
    )
    print(f"\n{n:,} items x {DIM}, k = {K}")
    print(f"{'':<12}{'ms, batch 1':>12}{'batch 64':>10}  recall@{K}: " + "".join(f"{w:>8}" for w in WEIGHTS))
    for name in recalls:
        row = "".join(f"{value:>8.3f}" for value in recalls[name].values())
        print(f"{name:<12}{single[name]:>12.2f}{batched[name]:>10.1f}{'':13}{row}")
    return {
        "scann_export_over_raw": single["scann"] / single["raw scann"],
        "weighted_over_unweighted": weighted["weighted"] / weighted["unweighted"],
        "portable_recall": min(recalls["portable"].values()),
        "portable_speedup_over_exact": single["exact"] / single["portable"],
        "k_searches_over_fused": weighted["searches"] / weighted["weighted"],
        "recall": recalls,
        "ms_batch_1": single,
        "ms_batch_64": batched,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.items, args.repeats = [3000], 5
    results = {n: measure(n, args) for n in args.items}
    largest = results[max(args.items)]
    ratios = {name: round(value, 3) for name, value in largest.items() if not isinstance(value, dict)}
    versions = {"tensorflow": tf.__version__, "numpy": np.__version__, "csmf_tf": csmf_tf.__version__}
    setting = {"items": args.items, "dim": DIM, "k": K, "repeats": args.repeats, "seed": args.seed}
    setting |= {"cores": os.cpu_count(), "python": platform.python_version(), **versions}
    print(json.dumps(ratios | {"by_items": results, "setting": setting}))


if __name__ == "__main__":
    main()
