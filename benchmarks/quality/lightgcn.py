"""RecBole's LightGCN, in an environment of its own (`lightgcn.txt`): pairs in, vectors out.

    .venv-lightgcn/bin/python benchmarks/quality/lightgcn.py PAIRS.npz VECTORS.npz

PAIRS holds `train` and `validation`, user and item codes `[n, 2]`, `shape` (users and items), `dim` and
`seed`. VECTORS holds `users` and `items` of the epoch with the best validation recall, and for the record
`curve`, that recall after each epoch, and `seconds` of an epoch.
"""

import os
import pathlib
import sys
import tempfile
import time

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender import LightGCN
from recbole.trainer import Trainer
from recbole.utils import init_seed

# Batches, rate and L2 were chosen by validation on taobao. With RecBole's batches and rate, 2048 and .001, it
# would take hundreds of epochs.
SETTINGS = {
    "n_layers": 3,
    "reg_weight": 1e-3,
    "require_pow": True,
    "learning_rate": 0.03,
    "train_batch_size": 16384,
    "epochs": 50,
    "stopping_step": 5,
    "metrics": ["Recall"],
    "topk": 50,
    "valid_metric": "Recall@50",
    "eval_args": {"mode": "full"},
    "load_col": {"inter": ["user_id", "item_id"]},
    "benchmark_filename": ["train", "validation", "test"],
    "use_gpu": False,
    "show_progress": False,
}
DECAY = 0.95


class Propagation(torch.autograd.Function):
    """A symmetric sparse matrix times a dense one: its gradient is the same product."""

    @staticmethod
    def forward(context, matrix, dense):
        context.matrix = matrix
        return torch.sparse.mm(matrix, dense)

    @staticmethod
    def backward(context, gradient):
        return None, torch.sparse.mm(context.matrix, gradient)


class Model(LightGCN):
    """RecBole's model, that computes the same in half the time."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.matrix = self.norm_adj_matrix.coalesce().to_sparse_csr()

    def forward(self):
        layers = [self.get_ego_embeddings()]
        for _ in range(self.n_layers):
            layers.append(Propagation.apply(self.matrix, layers[-1]))
        return torch.split(torch.stack(layers).mean(dim=0), [self.n_users, self.n_items])


def fit(parts, further, folder):
    """Trains until the validation recall has not risen for some epochs.

    Args:
        parts: "train" and "validation" -> pairs.
        further: RecBole's settings beside `SETTINGS`.
        folder: where it reads and writes.

    Returns:
        users' and items' vectors of the best epoch, in RecBole's order; its dataset, which knows that order;
        and the validation recall after each epoch.
    """
    (folder / "log").mkdir(parents=True)
    # It asks for a test part too.
    for name, pairs in {**parts, "test": parts["validation"]}.items():
        lines = {"fmt": "%d", "delimiter": "\t", "header": "user_id:token\titem_id:token", "comments": ""}
        np.savetxt(folder / "log" / f"log.{name}.inter", pairs, **lines)
    where = {"data_path": str(folder), "checkpoint_dir": str(folder / "saved")}
    config = Config(model="LightGCN", dataset="log", config_dict={**SETTINGS, **further, **where})
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, validation, _ = data_preparation(config, dataset)
    model = Model(config, train.dataset)
    trainer = Trainer(config, model)
    curve, best = [], []

    def note(epoch, value):
        curve.append(value)
        if value == max(curve):
            with torch.no_grad():
                best[:] = [part.numpy() for part in model.forward()]
        for group in trainer.optimizer.param_groups:
            group["lr"] *= DECAY
        print(f"LightGCN, epoch {epoch + 1}: {value}", file=sys.stderr, flush=True)

    trainer.fit(train, validation, saved=False, callback_fn=note)
    return best, dataset, curve


def by_code(found, dataset, shape):
    """Users' and items' vectors by our codes; 0 for those without a pair."""
    arrays = [np.zeros((size, found[0].shape[1]), np.float32) for size in shape]
    for array, one, field in zip(arrays, found, ("user_id", "item_id"), strict=True):
        # RecBole's first is padding.
        array[dataset.field2id_token[field][1:].astype(np.int64)] = one[1:]
    return arrays


def main():
    source, target = (pathlib.Path(path).absolute() for path in sys.argv[1:])
    # RecBole reads them too.
    del sys.argv[1:]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with np.load(source) as arrays:
        pairs = dict(arrays)
    further = {"embedding_size": int(pairs["dim"]), "seed": int(pairs["seed"])}
    parts = {name: pairs[name] for name in ("train", "validation")}
    with tempfile.TemporaryDirectory() as folder:
        # RecBole logs where it is started.
        os.chdir(folder)
        started = time.monotonic()
        found, dataset, curve = fit(parts, further, pathlib.Path(folder))
        seconds = (time.monotonic() - started) / len(curve)
    users, items = by_code(found, dataset, pairs["shape"])
    np.savez(target, users=users, items=items, curve=curve, seconds=seconds)


if __name__ == "__main__":
    main()
