"""Alternating least squares as a training: what a sweep solves, snapshots, resuming, what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from recsys_spark.config.models import Retrieval
from recsys_spark.errors import RecsysError
from recsys_spark.models import als
from recsys_spark.tables.storage import Storage
from recsys_spark.training.checkpoint import Checkpoints
from recsys_spark.training.collective import Alone
from recsys_spark.training.jobs import retrieval as job_module
from recsys_spark.training.tasks import ials
from recsys_spark.training.tasks.ials import IALSTask
from recsys_spark.training.user_rows import UserRows

USERS, ITEMS, DIM, NOW, DAY = 40, 30, 4, 1_000_000, 86_400
DENSE: dict[str, Any] = {"unobserved_weight": 0.3, "regularization": 0.02, "frequency_power": 0.5, "cg_steps": 60}


class Examples:
    """A stream of batches in memory."""

    batch_size = 64

    def __init__(self, batches: list[dict[str, Tensor]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def describe(self) -> dict[str, Any]:
        return {"ranks": 1, "steps": len(self), "seed": 1}


def planted(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """A user takes items of its own third; items from 26 on, and user 39, are in no pair. Some pairs come twice."""
    draw = np.random.default_rng(seed)
    users = np.repeat(np.arange(2, USERS - 1), 6)
    items = 2 + draw.integers(0, 8, len(users)) * 3 + users % 3
    return {"user_index": users.astype(np.int32), "item_index": items.astype(np.int32),
            "time": NOW - draw.integers(0, 20, len(users)) * DAY,
            "weight": draw.uniform(0.2, 2.0, len(users)).astype(np.float32)}  # fmt: skip


def examples_of(rows: dict[str, np.ndarray[Any, Any]]) -> Examples:
    """Batches of 64, the last one with rows of padding; a tenth of the weights 0."""
    batches = []
    for start in range(0, len(rows["time"]), 64):
        part = {name: values[start : start + 64] for name, values in rows.items()}
        more = 64 - len(part["time"])
        batch = {
            name: torch.from_numpy(np.append(values, np.zeros(more, values.dtype))) for name, values in part.items()
        }
        batches.append({**batch, "row_weight": torch.cat([torch.ones(64 - more), torch.zeros(more)])})
    return Examples(batches)


def settings(dim: int = DIM, **changes: Any) -> Retrieval:
    values = {"dim": dim, "fit": "ials", "half_life_days": 10.0, "validation_k": 5}
    return Retrieval.model_validate({**values, "ials": {**DENSE, **changes}})


def task_of(examples: Examples, chosen: Retrieval, rows: UserRows | None = None) -> tuple[IALSTask, Any]:
    """A task that has read its examples, and its blocks."""
    counts = np.append(np.zeros(2, int), np.full(ITEMS - 2, 5))
    task = IALSTask(USERS, ITEMS, counts, torch.zeros(ITEMS), NOW, None, chosen, Alone(), rows=rows)
    task.examples = lambda: examples.batches
    return task, task.batches(examples)  # type: ignore[arg-type]


def sweep(task: IALSTask, blocks: Any, number: int = 0) -> float:
    """Loss of a whole sweep for a weight of 1."""
    task.begin(number)
    sums = np.sum([task.step(batch, 0.0) for batch in blocks.epoch(number)], axis=0)
    return float(sums[0] / sums[1])


def by_hand(rows: dict[str, np.ndarray[Any, Any]], items: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Users and then items of a sweep, by the normal equations of the whole matrix in float64."""
    alpha, strength, power = (DENSE[name] for name in ("unobserved_weight", "regularization", "frequency_power"))
    weights = np.zeros((USERS, ITEMS))
    decayed = rows["weight"] * 0.5 ** ((NOW - rows["time"]) / DAY / 10.0)
    np.add.at(weights, (rows["user_index"], rows["item_index"]), decayed)
    found: list[np.ndarray[Any, Any]] = []
    for matrix in (weights, weights.T):
        fixed = found[0] if found else items
        ridge = strength * (matrix.sum(1) + alpha * (matrix.sum(0) > 0).sum()) ** power
        solved = [
            np.linalg.solve(alpha * fixed.T @ fixed + ridge[row] * np.eye(DIM) + (of_row[:, None] * fixed).T @ fixed,
                            of_row @ fixed) for row, of_row in enumerate(matrix)
        ]  # fmt: skip
        found.append(np.array(solved))
    return found


@pytest.mark.parametrize("compiled", [True, False])
def test_a_sweep_solves_for_users_and_then_for_items(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(als, "als_library", lambda: None)
    rows = planted(0)
    task, blocks = task_of(examples_of(rows), settings())
    order = task.rows.indexes.numpy()
    users, items = by_hand(rows, task.model.item.weight.numpy().astype(np.float64))
    sweep(task, blocks)
    np.testing.assert_allclose(task.model.user.weight.numpy(), users[order], atol=2e-5)
    np.testing.assert_allclose(task.model.item.weight.numpy(), items, atol=2e-5)
    assert not task.model.user.weight[USERS - 1].any()
    assert not task.model.item.weight[26:].any()


def test_the_loss_falls_and_the_taste_is_found() -> None:
    task, blocks = task_of(examples_of(planted(0)), settings(cg_steps=3))
    losses = [sweep(task, blocks, number) for number in range(8)]
    assert all(after <= before + 1e-6 for before, after in pairwise(losses))
    scores = task.scorer()(torch.arange(USERS)).numpy()[2 : USERS - 1, 2:26]
    own = (np.arange(2, 26)[None, :] - 2) % 3 == np.arange(2, USERS - 1)[:, None] % 3
    assert scores[own].mean() > scores[~own].mean() + 2 * scores[~own].std()


def test_blocks_threads_and_the_order_of_rows_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    if als.als_library() is None:
        pytest.skip("no compiled kernel for this processor")
    rows, chosen = planted(0), settings(dim=20, cg_steps=3)
    whole, one = task_of(examples_of(rows), chosen)
    assert len(one) == 2
    monkeypatch.setattr(ials, "_PAIRS_OF_A_STEP", 40)
    monkeypatch.setattr(ials, "_NUMBERS_OF_A_STEP", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    distinct = np.unique(np.stack([rows["user_index"], rows["item_index"]]), axis=1, return_index=True)[1]
    rows = {name: values[distinct] for name, values in rows.items()}
    whole, one = task_of(examples_of(rows), chosen)
    mixed = np.random.default_rng(0).permutation(len(distinct))
    parts, many = task_of(examples_of({name: values[mixed] for name, values in rows.items()}), chosen)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert len(many) > 8
    for number in range(3):
        sweep(whole, one, number)
        sweep(parts, many, number)
    assert torch.equal(whole.model.user.weight, parts.model.user.weight)
    assert torch.equal(whole.model.item.weight, parts.model.item.weight)


def test_a_task_without_examples_has_no_steps() -> None:
    task, blocks = task_of(Examples([]), settings())
    assert len(blocks) == 0
    assert list(blocks.epoch(0)) == []
    assert task.validate() == {}


def test_one_item_and_one_user() -> None:
    rows = {name: values[:1] for name, values in planted(0).items()}
    task, blocks = task_of(examples_of(rows), settings(unobserved_weight=1e-3, regularization=1e-3))
    for number in range(4):
        sweep(task, blocks, number)
    scores = task.scorer()(torch.arange(USERS))
    assert float(scores[2, rows["item_index"][0]]) == pytest.approx(1.0, abs=0.1)
    assert int((scores != 0).sum()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"model": "neumf"}, "model: least squares are for matrix factorization"),
     ({"temperature": 0.1}, "temperature: least squares are of the dot product"),
     ({"history": 0.5}, "history: least squares have no mean"),
     ({"loss": "bpr"}, "loss: the loss is squared"),
     ({"in_batch": True}, "in_batch: there are no batches"),
     ({"shard_users": False}, "shard_users: each rank solves for its own users")],
)  # fmt: skip
def test_settings_that_make_no_sense_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Retrieval.model_validate({"fit": "ials", **changes})
    Retrieval.model_validate({"loss": "bce", **changes} if "loss" not in changes else changes)


# ------------------------------------------------------------ jobs
class Killed(Exception):
    """A job's end by force."""


def job_in(folder: Path, windows: int = 3, **changes: Any) -> tuple[dict[str, Any], Storage]:
    """A job whose snapshots know one file of examples more each."""
    folder.mkdir(exist_ok=True)
    storage, files, snapshots = Storage(folder.as_uri()), [], []
    stats: list[dict[str, Any]] = []
    for number, cut in enumerate(["valid", "test", "final"][:windows]):
        rows = planted(number)
        path = folder / f"examples-{number}.parquet"
        pq.write_table(pa.table(rows), path)
        files.append([path.as_uri(), len(rows["time"]), 0])
        snapshots.append({"cut": cut, "time": NOW, "files": list(files)})
        stats += [{"cut": cut, "item_index": item, "events": 5, "users": 5, "recent_users": 5, "earlier_users": 0}
                  for item in range(2, 26)]  # fmt: skip
    index = np.arange(2, USERS, dtype=np.int32)
    for name, table in (("ids", pa.table({"index": index, "user_bucket": index % 3})),
                        ("stats", pa.Table.from_pylist(stats))):  # fmt: skip
        (folder / name).mkdir()
        pq.write_table(table, folder / name / "part-0.parquet")
    start = np.array([0, 1, 2])
    np.savez(folder / "validation.npz", users=np.array([2, 3]), seen=np.array([2, 3], np.int32), seen_indptr=start,
             truth=np.array([5, 6], np.int32), truth_indptr=start)  # fmt: skip
    values = {"dim": 5, "fit": "ials", "patience": 9, "batch_size": 64, "validation_k": 5, **changes}
    values["ials"] = {"sweeps": 4, "refit_sweeps": 2, **values.get("ials", {})}
    job = {"settings": Retrieval.model_validate(values).model_dump(mode="json"), "validation": "validation.npz",
           "output": "out", "snapshots": snapshots, "item_stats": "stats", "users": USERS, "items": ITEMS,
           "checkpoints": "checkpoints", "whole_users": True, "user_ids": "ids", "user_groups": 1, "buckets": 3,
           "scratch": "scratch"}  # fmt: skip
    return job, storage


def run(job: dict[str, Any], storage: Storage, die_at: tuple[str, int] | None = None) -> dict[str, bytes]:
    """Curves and vectors; or the death of the job after a sweep, before its checkpoint."""

    def log(tag: str, step: int, **values: float) -> None:
        if (tag, step) == die_at:
            raise Killed

    job_module.run(job, storage, Alone(), log)
    cuts = [each["cut"] for each in job["snapshots"]]
    names = ["curves.json", *[f"{side}_vectors.{cut}.npy" for side in ("user", "item") for cut in cuts]]
    return {name: storage.read_bytes(f"out/{name}") for name in names}


def test_each_cut_goes_on_from_the_one_before_and_writes_vectors_with_a_bias_of_0(tmp_path: Path) -> None:
    written = run(*job_in(tmp_path / "a"))
    curves = json.loads(written["curves.json"])
    assert {cut: len(curve) for cut, curve in curves["curves"].items()} == {"valid": 4, "test": 2, "final": 2}
    assert curves["metric"] == "ndcg5_new"
    assert all(np.isfinite(point["loss"]) for point in curves["curves"]["final"])
    users, items = (np.load(tmp_path / "a" / "out" / f"{side}_vectors.final.npy") for side in ("user", "item"))
    assert users.shape == (USERS, 6)
    assert items.shape == (ITEMS, 6)
    assert (users[:, -1] == 1).all()
    assert not items[:, -1].any()
    anew = run(*job_in(tmp_path / "b", ials={"refit_sweeps": 0}))
    best = int(np.argmax([point["ndcg5_new"] for point in curves["curves"]["valid"]])) + 1
    assert len(json.loads(anew["curves.json"])["curves"]["final"]) == best
    assert anew["item_vectors.final.npy"] != written["item_vectors.final.npy"]


@pytest.mark.parametrize("die_at", [("retrieval valid", 1), ("retrieval valid", 3), ("retrieval test", 2)])
def test_resumed_least_squares_are_uninterrupted_ones(tmp_path: Path, die_at: tuple[str, int]) -> None:
    expected = run(*job_in(tmp_path / "whole"))
    job, storage = job_in(tmp_path / "cut")
    with pytest.raises(Killed):
        run(job, storage, die_at)
    assert run(job, storage) == expected


def test_a_sweep_that_is_broken_off_goes_on_at_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ials, "_PAIRS_OF_A_STEP", 40)
    expected = run(*job_in(tmp_path / "whole", 1))
    job, storage = job_in(tmp_path / "cut", 1, checkpoint_minutes=1e-9)
    calls, step = [], IALSTask.step

    def dies(self: IALSTask, batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
        calls.append((int(batch["side"]), int(batch["block"])))
        if len(calls) == 24:
            raise Killed
        return step(self, batch, progress)

    monkeypatch.setattr(IALSTask, "step", dies)
    with pytest.raises(Killed):
        run(job, storage)
    assert calls[-1] not in ((0, 0), (1, 0))
    found = Checkpoints(storage, "checkpoints/valid", 2).newest(Alone())
    assert found is not None
    assert found.facts["batches"] > 0
    assert run(job, storage) == expected
    assert calls[24] == calls[23]  # nothing is done twice


def test_weights_that_are_no_numbers_end_the_training_before_anything_is_kept(tmp_path: Path) -> None:
    job, storage = job_in(tmp_path, 1)
    rows = planted(0)
    rows["weight"][17] = np.nan
    pq.write_table(pa.table(rows), tmp_path / "examples-0.parquet")
    with pytest.raises(RecsysError, match=r"epoch 1, step 1: .* not finite on rank 0 \(loss\).*events' weights"):
        run(job, storage)
    assert not storage.exists("checkpoints/valid")
    assert not storage.exists("out/item_vectors.valid.npy")


def test_a_catalogue_of_any_size_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gradient cannot do without drawing negatives: each batch against the whole catalogue."""
    monkeypatch.setattr(job_module, "_WHOLE", 10)
    run(*job_in(tmp_path, 1, negatives=0))


def test_rows_that_another_rank_holds_are_refused() -> None:
    examples = examples_of(planted(0))
    mine = UserRows.of((np.arange(USERS) % 2).astype(np.uint16), np.array([True, False]))
    with pytest.raises(RecsysError, match="another rank holds"):
        task_of(examples, settings(), mine)
