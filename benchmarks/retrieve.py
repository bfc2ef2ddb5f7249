"""Recall and latency of exported indices, beside ScaNN and faiss as they come, on the same vectors.

    .venv/bin/python benchmarks/retrieve.py [--items 100000 1000000] [--figure docs/frontier.png] [--quick]

Vectors have a falling spectrum and lengths that vary, as those of trained towers; queries are weighed as
requests weigh them. Recall@50 is that against the exact answer. Latencies are medians over single calls, in
turns of `TURN` calls: of an export's signature `retrieve` (embedding, weights, search, ids) in a session, as
TensorFlow Serving runs it, and called from Python; and of each library's own search with one thread. The
figure is of searches alone, each at several settings. faiss is measured where it is installed
(`pip install faiss-cpu`); it is no dependency.
"""

import argparse
import json
import math
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
TURN = 20
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
    """Milliseconds a call of each, in turns: a call finds in the caches what its own kind has left there."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(math.ceil(repeats / TURN)):
        for name, call in calls.items():
            for repeat in range(TURN + 2):
                at = (turn * TURN + repeat) * batch % (len(queries) - batch + 1)
                started = time.perf_counter()
                call(queries[at : at + batch])
                if repeat >= 2:
                    seconds[name].append(time.perf_counter() - started)
    return {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}


def exported(items: np.ndarray, kind: str, folder: str) -> str:
    """The path of an export."""
    return export(
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


def from_python(path: str):
    """The signature `retrieve` of an export, as a function of (queries, weights)."""
    loaded = tf.saved_model.load(path)
    signature = loaded.signatures["retrieve"]

    def call(queries, weights=(1.0, 1.0, 1.0)):
        answer = signature(user=tf.constant(queries), weights=tf.constant([weights], tf.float32))
        return answer["ids"].numpy()

    # The signature needs its model to stay alive.
    call.model = loaded
    return call


def in_session(path: str):
    """The same in a session, as TensorFlow Serving and the C API run it."""
    run = session_call(path, "retrieve", ["user", "weights"], "ids")
    return lambda queries, weights=(1.0, 1.0, 1.0): run(queries, np.array([weights], np.float32))


def session_call(path: str, name: str, inputs: list[str], output: str):
    """One output of a signature as a function of its inputs, in order."""
    with tf.Graph().as_default() as graph:
        session = tf.compat.v1.Session(graph=graph)
        signature = tf.compat.v1.saved_model.load(session, ["serve"], path).signature_def[name]
        feeds = [signature.inputs[name].name for name in inputs]
        return session.make_callable(signature.outputs[output].name, feeds)


def raw_scann(items: np.ndarray, settings: dict):
    """ScaNN's own searcher with settings of our index, as a function of (queries, further settings)."""
    builder = scann.scann_ops_pybind.builder(items, K, "dot_product")
    if settings:
        builder = builder.tree(settings["leaves"], settings["leaves_to_search"], min_partition_size=1)
        builder = builder.score_ah(2).reorder(settings["reorder"])
    else:
        builder = builder.score_brute_force()
    searcher = builder.build()
    return lambda queries, **effort: searcher.search_batched(queries, **effort)[0]


def faiss_indices(items: np.ndarray) -> dict:
    """HNSW and IVF of faiss, where it is installed."""
    try:
        import faiss
    except ImportError:
        print("faiss is not installed: left out")
        return {}
    hnsw = faiss.IndexHNSWFlat(DIM, 32, faiss.METRIC_INNER_PRODUCT)
    ivf = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(DIM), DIM, round(4 * len(items) ** 0.5), faiss.METRIC_INNER_PRODUCT
    )
    ivf.train(items)
    for index in (hnsw, ivf):
        index.add(items)
    faiss.omp_set_num_threads(1)
    return {"hnsw": hnsw, "ivf": ivf}


def with_ef(hnsw, ef: int):
    """A search of HNSW that keeps `ef` candidates."""

    def search(queries):
        hnsw.hnsw.efSearch = ef
        return hnsw.search(queries, K)[1]

    return search


def with_probes(ivf, probes: int):
    """A search of IVF that looks into `probes` cells."""

    def search(queries):
        ivf.nprobe = probes
        return ivf.search(queries, K)[1]

    return search


def portable_search(items: np.ndarray, folder: str):
    """The portable index's search as a function of (queries, candidates)."""
    index = INDICES["portable"](items, K, cells=round(4 * len(items) ** 0.5))
    order = index.arrange()

    def search(queries, candidates):
        index.settings["candidates"] = candidates
        return {"indices": index.search(queries)[0]}

    specs = tf.TensorSpec([None, DIM], tf.float32, "queries"), tf.TensorSpec([], tf.int32, "candidates")
    root = tf.Module()
    root.index = index.variables
    tf.saved_model.save(root, folder, {"search": tf.function(search).get_concrete_function(*specs)})
    run = session_call(folder, "search", ["queries", "candidates"], "indices")
    return lambda queries, candidates: order[run(queries, candidates)]


def frontier(items: np.ndarray, peers: dict) -> dict[str, dict]:
    """Searches alone at several settings: curve to label to search, as indices in the order of the items."""
    root, portable = len(items) ** 0.5, portable_search(items, tempfile.mkdtemp())
    leaves = round(2 * root)
    raw = raw_scann(items, {"leaves": leaves, "leaves_to_search": leaves // 8, "reorder": 30 * K})
    efforts = [round(times * root) for times in (4, 8, 12, 16, 24, 32, 64)]
    curves: dict[str, dict] = {
        "portable": {f"{n} candidates": (lambda q, n=n: portable(q, n)) for n in efforts},
        "ScaNN": {
            f"1/{part} of leaves": (lambda q, n=leaves // part: raw(q, leaves_to_search=n))
            for part in (32, 16, 8, 4, 2)
        },
    }
    if peers:
        curves["faiss HNSW"] = {f"ef {ef}": with_ef(peers["hnsw"], ef) for ef in (64, 128, 256, 512, 1024)}
        probes = [round(4 * root) // part for part in (128, 64, 32, 16, 8, 4)]
        curves["faiss IVF"] = {f"{n} probes": with_probes(peers["ivf"], n) for n in probes}
    return curves


def measure(n: int, args: argparse.Namespace) -> dict:
    """Recall and latency of all on n items; prints their tables."""
    rng = np.random.default_rng(args.seed)
    items, queries = make_vectors(n, rng), make_vectors(256, rng)
    paths = {kind: exported(items, kind, tempfile.mkdtemp()) for kind in ("exact", "portable", "scann")}
    ours = {kind: from_python(path) for kind, path in paths.items()}
    served = {kind: in_session(path) for kind, path in paths.items()}
    raw, peers = raw_scann(items, INDICES["scann"](items, K).settings), faiss_indices(items)
    alone = {"raw scann": raw}
    if peers:
        probes = max(round(4 * n**0.5) // 16, 1)
        alone |= {
            "HNSW, ef 512": with_ef(peers["hnsw"], 512),
            "IVF, 1 in 16": with_probes(peers["ivf"], probes),
        }
    some = queries[:100]
    recalls: dict[str, dict[str, float]] = {name: {} for name in (*ours, *alone)}
    for label, weights in WEIGHTS.items():
        scaled = some * query_scale(OWNER, np.array(weights, np.float32) / max(weights)).numpy()
        best = np.argsort(-(scaled @ items.T), axis=1)[:, :K]
        for kind, call in ours.items():
            recalls[kind][label] = recall(call(some, weights).astype(int), best)
        for name, search in alone.items():
            recalls[name][label] = recall(search(scaled), best)

    scaled = queries * query_scale(OWNER, np.ones(3, np.float32)).numpy()
    calls = served | alone
    single = medians(calls, scaled, 1, args.repeats)
    batched = medians(calls, scaled, 64, max(args.repeats // 10, 3))
    python = medians(ours, scaled, 1, args.repeats)
    requests = {
        "unweighted": lambda q: served["scann"](q),
        "weighted": lambda q: served["scann"](q, (1.0, 2.0, 5.0)),
        "searches": lambda q: [served["scann"](q, row) for row in np.eye(3)],
    }
    weighted = medians(requests, scaled, 1, args.repeats)
    print(f"\n{n:,} items x {DIM}, k = {K}")
    print(
        f"{'':<13}{'ms, batch 1':>12}{'from Python':>12}{'batch 64':>10}  recall@{K}:"
        + "".join(f"{w:>8}" for w in WEIGHTS)
    )
    for name in recalls:
        row = "".join(f"{value:>8.3f}" for value in recalls[name].values())
        called = f"{python[name]:.2f}" if name in python else ""
        print(f"{name:<13}{single[name]:>12.2f}{called:>12}{batched[name]:>10.1f}{'':12}{row}")

    best = np.argsort(-(scaled[:100] @ items.T), axis=1)[:, :K]
    curves: dict[str, list] = {}
    for name, searches in frontier(items, peers).items():
        times = medians(searches, scaled, 1, args.repeats)
        curves[name] = [
            {"setting": label, "ms": times[label], "recall": recall(search(scaled[:100]), best)}
            for label, search in searches.items()
        ]
        for point in curves[name]:
            print(f"{name:<13}{point['setting']:<20}{point['ms']:>8.3f} ms  recall {point['recall']:.3f}")
    return {
        "scann_export_over_raw": single["scann"] / single["raw scann"],
        "weighted_over_unweighted": weighted["weighted"] / weighted["unweighted"],
        "portable_recall": min(recalls["portable"].values()),
        "portable_speedup_over_exact": single["exact"] / single["portable"],
        "k_searches_over_fused": weighted["searches"] / weighted["weighted"],
        "recall": recalls,
        "ms_batch_1": single,
        "ms_batch_1_from_python": python,
        "ms_batch_64": batched,
        "frontier": curves,
    }


def draw(results: dict[int, dict], path: str) -> None:
    """Recall over latency of the searches, one panel for each number of items."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(results), figsize=(5.2 * len(results), 4.2), squeeze=False)
    for panel, (n, result) in zip(panels[0], results.items(), strict=True):
        for (name, points), marker in zip(result["frontier"].items(), "osD^", strict=False):
            panel.plot([p["ms"] for p in points], [p["recall"] for p in points], marker=marker, label=name)
        panel.axvline(result["ms_batch_1"]["exact"], color="grey", linestyle=":", label="exact")
        panel.set(xscale="log", xlabel="ms a query", ylabel=f"recall@{K}", title=f"{n:,} items x {DIM}")
        panel.grid(alpha=0.3)
    panels[0][-1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", metavar="PNG", help="draw recall over latency")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.items, args.repeats = [3000], 5
    results = {n: measure(n, args) for n in args.items}
    if args.figure:
        draw(results, args.figure)
    largest = results[max(args.items)]
    ratios = {name: round(value, 3) for name, value in largest.items() if not isinstance(value, dict)}
    versions = {"tensorflow": tf.__version__, "numpy": np.__version__, "csmf_tf": csmf_tf.__version__}
    setting = {"items": args.items, "dim": DIM, "k": K, "repeats": args.repeats, "seed": args.seed}
    setting |= {"cores": os.cpu_count(), "python": platform.python_version(), **versions}
    print(json.dumps(ratios | {"by_items": results, "setting": setting}))


if __name__ == "__main__":
    main()
