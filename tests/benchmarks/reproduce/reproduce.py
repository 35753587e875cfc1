"""Published tables, by the pipeline's own stages and settings.

    make reproduce-ncf        leave-one-out on MovieLens-1M: HR@10 and NDCG@10 among 99 negatives (He et al. 2017),
                              by matrix factorization and by NeuMF
    make reproduce-gowalla    full ranking: Recall@20 and NDCG@20 (Wang et al. 2019)
    make reproduce-ctr        MovieLens-1M, liked or disliked: AUC and log loss of DeepFM (RecBole, see ``ctr.py``)

``REPRODUCE_DATA`` is the folder with ``ml-1m``, ``ml-1m/ncf_loo`` and ``gowalla`` as published (gzip-compressed),
``SEEDS`` the number of seeds. Of the rankings the pipeline never sees the test data: it is given the training data
alone, of which a part is marked ``valid`` for the choice of the number of passes. Ends with one line of JSON: means
over the seeds, and their spread.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctr
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import load

from recsys_spark.config import load_settings
from recsys_spark.evaluation.metrics import ranking_sums
from recsys_spark.models.neumf import NeuMF, NeuMFSpec
from recsys_spark.pipeline import load_stage
from recsys_spark.ragged import Rows
from recsys_spark.scoring.top_k import top_k
from recsys_spark.spark import make_session
from recsys_spark.stage import run_stage
from recsys_spark.tables import TableStore
from recsys_spark.tables.arrays import read_parquet

DATE = "2003-02-28"  # the day of MovieLens-1M's last rating; Gowalla's split has no times
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Trained:
    """Vectors of the final model and the index of each id."""

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    user_index: dict[str, int]
    item_index: dict[str, int]

    def scores(self, user: int, items: Ints) -> NDArray[np.float32]:
        return self.items[items] @ self.users[user]


@dataclass(frozen=True)
class TrainedNeuMF:
    """The final model and the index of each id."""

    model: NeuMF
    user_index: dict[str, int]
    item_index: dict[str, int]

    @torch.no_grad()
    def scores(self, user: int, items: Ints) -> NDArray[np.float32]:
        of_user, index = torch.full((len(items),), user), torch.from_numpy(items)
        sides = self.model.user_sides(of_user), self.model.item_sides(index)
        return self.model.pairs(*sides, self.model.bias(index).squeeze(1)).numpy()


def lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt") as text:
        yield from text


def write_log(folder: Path, user: Ints, item: Ints, seconds: Ints, valid: NDArray[np.bool_]) -> None:
    """The training data as a log."""
    (folder / "log").mkdir(parents=True)
    split = np.where(valid, "valid", "train")
    columns = {"user": user.astype(str), "item": item.astype(str), "time": seconds, "split": split}
    pq.write_table(pa.table(columns), folder / "log" / "part-0.parquet")


# ------------------------------------------------------------ NCF's leave-one-out split
def ncf_log(data: Path, folder: Path) -> None:
    """Each user's last training event is for validation."""
    rows = np.array([line.split() for line in lines(data / "ml-1m/ncf_loo/ml-1m.train.rating.gz")], np.int64)
    rows = rows[np.lexsort((rows[:, 3], rows[:, 0]))]
    last = np.append(rows[1:, 0] != rows[:-1, 0], True)
    write_log(folder, rows[:, 0], rows[:, 1], rows[:, 3], last)


def ncf_figures(data: Path, model: Trained | TrainedNeuMF) -> dict[str, float]:
    """Place of the test item among its 99 negatives; of equal scores, half are taken to be better."""
    hits, gains = [], []
    for line in lines(data / "ml-1m/ncf_loo/ml-1m.test.negative.gz"):
        first, *negatives = line.split("\t")
        user, item = first.strip("()").split(",")
        index = np.array([model.item_index.get(each.strip(), -1) for each in (item, *negatives)])
        found = model.scores(model.user_index[user], index.clip(0))
        scores = np.where(index >= 0, found, -np.inf)  # never seen: last
        place = np.sum(scores[1:] > scores[0]) + 0.5 * np.sum(scores[1:] == scores[0])
        hits.append(place < 10)
        gains.append(1 / np.log2(place + 2) if place < 10 else 0.0)
    return {"hr10": float(np.mean(hits)), "ndcg10": float(np.mean(gains))}


# ------------------------------------------------------------ Gowalla
def gowalla_pairs(data: Path, part: str) -> tuple[Ints, Ints]:
    words = [line.split() for line in lines(data / f"gowalla/{part}.txt.gz")]
    users = np.repeat([int(each[0]) for each in words], [len(each) - 1 for each in words])
    return users, np.array([int(item) for each in words for item in each[1:]])


def gowalla_log(data: Path, folder: Path) -> None:
    """A tenth of the pairs, drawn once for all seeds, is for validation."""
    users, items = gowalla_pairs(data, "train")
    valid = np.random.default_rng(3).random(len(users)) < 0.1
    write_log(folder, users, items, np.full(len(users), 1_046_400_000), valid)


def gowalla_figures(data: Path, model: Trained) -> dict[str, float]:
    """Exact top 20 of all items less the user's training items, over users with test items."""
    seen, truth = (
        pairs_of(*gowalla_pairs(data, part), model.user_index, model.item_index) for part in ("train", "test")
    )
    users = np.flatnonzero(np.diff(truth.indptr))
    lists, _ = top_k(model.users[users], model.items, 20, forbidden=taken(seen, users), allowed=known(model))
    sums = ranking_sums(lists, taken(truth, users), [20])
    return {f"{name}20": sums[name, 20][0] / sums[name, 20][1] for name in ("recall", "ndcg")}


def known(model: Trained) -> NDArray[np.bool_]:
    allowed = np.zeros(len(model.items), np.bool_)
    allowed[list(model.item_index.values())] = True
    return allowed


def pairs_of(users: Ints, items: Ints, user_index: dict[str, int], item_index: dict[str, int]) -> Rows:
    rows = np.array([user_index[str(each)] for each in users.tolist()])
    values = np.array([item_index[str(each)] for each in items.tolist()], np.int32)
    order = np.argsort(rows, kind="stable")
    return Rows.from_pairs(rows[order], values[order], max(user_index.values()) + 1)


def taken(rows: Rows, users: Ints) -> Rows:
    return Rows.from_lists([rows.row(user) for user in users.tolist()])


# how its log is made, how it is measured, and the settings of each model, with what its figures' names begin with
TABLES: dict[str, tuple[Callable[[Path, Path], None], Callable[[Path, Any], dict[str, float]], dict[str, str]]] = {
    "ncf": (ncf_log, ncf_figures, {"ncf": "", "neumf": "neumf_"}),
    "neumf": (ncf_log, ncf_figures, {"neumf": "neumf_"}),  # a row of the table above by itself
    "gowalla": (gowalla_log, gowalla_figures, {"gowalla": ""}),
}
SEED = "retrieval.seed"


def train(spark: Any, settings: Any) -> Trained | TrainedNeuMF:
    """Run the stages, and read what they wrote."""
    for name in ("clean", "featurize", "train-retrieval"):
        run_stage(load_stage(name), spark, settings, DATE)
    store = TableStore(settings.root)

    def rows(name: str) -> pa.Table:
        return read_parquet(store.storage, store.need(name, DATE).folder)

    index = {}
    for side in ("user", "item"):
        ids = rows(f"{side}_ids")
        index[side] = dict(zip(ids[f"{side}_id"].to_pylist(), ids["index"].to_pylist(), strict=True))
    if settings.retrieval.model == "neumf":
        folder = store.need("retrieval_model", DATE).folder
        model = NeuMF(NeuMFSpec(**store.storage.read_json(f"{folder}/neumf.json"))).eval()
        model.load_state_dict(load(store.storage.read_bytes(f"{folder}/neumf.final.safetensors")))
        return TrainedNeuMF(model, index["user"], index["item"])
    vectors = [np.stack(rows(f"{side}_vectors")["vector"].to_numpy()).astype(np.float32) for side in ("user", "item")]
    return Trained(vectors[0], vectors[1], index["user"], index["item"])


def main(table: str) -> None:
    given = os.environ.get("REPRODUCE_DATA", "")
    data = Path(given)
    if not given or not data.is_dir():
        sys.exit(f"REPRODUCE_DATA is '{given}', which is no folder: give the one that holds ml-1m and gowalla")
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix=f"reproduce-{table}-") as folder:
        os.environ["REPRODUCE_FOLDER"] = folder
        models = {"ctr": ""}  # which reads the ratings as they were published
        if table in TABLES:
            make_log, figures_of, models = TABLES[table]
            make_log(data, Path(folder))
        spark = None
        for seed in range(1, int(os.environ.get("SEEDS", "3")) + 1):
            figures: dict[str, float] = {}
            for name, prefix in models.items():
                config = Path(__file__).with_name(f"{name}.yaml")
                settings = load_settings(config, [f"{ctr.SEED if table == 'ctr' else SEED}={seed}", *sys.argv[2:]])
                spark = spark or make_session(settings)
                started = time.monotonic()
                if table == "ctr":
                    measured = ctr.figures(spark, settings, DATE)
                else:
                    measured = figures_of(data, train(spark, settings))
                measured["seconds"] = time.monotonic() - started
                figures |= {f"{prefix}{key}": value for key, value in measured.items()}
            found.append(figures)
            print(f"seed {seed}: " + " · ".join(f"{k} {v:.4f}" for k, v in found[-1].items()), flush=True)
    means = {name: round(float(np.mean([each[name] for each in found])), 4) for name in found[0]}
    spread = {f"{name}_spread": round(float(np.ptp([each[name] for each in found])), 4) for name in found[0]}
    print(json.dumps({"table": table, "seeds": len(found), **means, **spread}))


if __name__ == "__main__":
    main(sys.argv[1])
