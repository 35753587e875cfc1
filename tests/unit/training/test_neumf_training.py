"""NeuMF as it is trained: what a step touches, what is learned, what is written, and who refuses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load
from test_retrieval import ITEMS, USERS, batch_of, job_in, planted

from recsys_spark.config import Features, Retrieval
from recsys_spark.cuts import Cut
from recsys_spark.errors import RecsysError
from recsys_spark.models.neumf import NeuMF, NeuMFSpec
from recsys_spark.ragged import Rows
from recsys_spark.scoring.state import state_ref
from recsys_spark.tables.manifest import Manifest
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Alone
from recsys_spark.training.jobs import retrieval as job_module
from recsys_spark.training.tasks.neumf import NeuMFTask
from recsys_spark.training.tasks.ranking import Validation

SMALL: dict[str, Any] = {"model": "neumf", "loss": "bce", "negative_weight": 2.0, "dim": 4, "init_std": 0.1}
LAYERS: dict[str, Any] = {"mlp_dim": 4, "hidden": [8, 4], "learning_rate": 0.02}


def task_of(validation: Validation | None = None, **changes: Any) -> NeuMFTask:
    values = {**SMALL, "learning_rate": 0.05, "weight_decay": 0.001, "validation_k": 5, "neumf": LAYERS, **changes}
    counts = np.bincount(planted(0)[1], minlength=ITEMS)
    prior = torch.from_numpy(counts + 0.1).log().float()
    return NeuMFTask(USERS, ITEMS, counts, prior, 200, validation, Retrieval(**values), Alone())


def held_out() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Validation]:
    """Planted pairs, less a random one of each user, which is the truth."""
    users, items = planted(0)
    order = np.lexsort((np.random.default_rng(5).random(len(users)), users))
    users, items = users[order], items[order]
    last = np.append(users[1:] != users[:-1], True)
    seen = Rows.from_lists([items[~last & (users == user)] for user in users[last]])
    truth = Rows.from_lists([[item] for item in items[last]])
    return users[~last], items[~last], Validation(users[last], seen, truth)


@pytest.mark.parametrize(("loss", "negatives"), [("bce", 20), ("bce", 0), ("softmax", 20), ("bpr", 20)])
def test_the_planted_taste_is_found_which_popularity_does_not_know(loss: str, negatives: int) -> None:
    users, items, validation = held_out()
    task = task_of(validation, loss=loss, negatives=negatives, weight_decay=0.02, learning_rate=0.03)
    knows_popularity_only = task.validate()  # the vectors are small, the biases are the prior
    task.begin(0)
    for _ in range(60):
        task.step(batch_of(users, items, padding=3), 0.0)
    after = task.validate()
    assert after.keys() == {"ndcg5_new", "recall5_new"}
    assert after[task.metric] > 2 * knows_popularity_only[task.metric]


def test_a_step_changes_the_rows_of_its_batch_and_all_layers() -> None:
    task = task_of(negatives=3)
    before = {name: value.clone() for name, value in task.weights().items()}
    task.begin(0)
    drawn = task.negatives.draw(torch.tensor([5, 9])).items
    task.begin(0)  # the same draw again
    task.step(batch_of(np.array([4, 30, 4]), np.array([5, 9, 9])), 0.0)
    items = {5, 9, *drawn.tolist()}
    touched = {"user": {4, 30}, "user_mlp": {4, 30}, "item": items, "item_mlp": items, "bias": items}
    for name, value in task.weights().items():
        changed = (value != before[name]).reshape(len(value), -1)
        table = name.removesuffix(".weight")
        if table in touched:
            assert set(torch.nonzero(changed.any(1)).flatten().tolist()) == touched[table], name
        else:
            assert bool(changed.any()), name
    assert [each.grad for each in task.model.parameters() if each.grad is not None] == []


def test_padding_rows_change_nothing_but_the_mean() -> None:
    users, items = planted(0)
    plain, padded = (task_of(weight_decay=0.0, negatives=0) for _ in range(2))
    for task, padding in ((plain, 0), (padded, 7)):
        task.begin(0)
        task.step(batch_of(users, items, padding), 0.0)
    for name in ("user.weight", "user_mlp.weight", "item.weight", "item_mlp.weight", "first_item.weight"):
        mine, other = plain.weights()[name][2:], padded.weights()[name][2:]
        torch.testing.assert_close(mine, other, rtol=0, atol=2e-3, msg=name)  # a step is 0.02 to 0.05


def test_what_only_vectors_have_is_refused() -> None:
    with pytest.raises(ValidationError, match="temperature: NeuMF's score is no cosine"):
        Retrieval(model="neumf", temperature=0.1)
    with pytest.raises(ValidationError, match="history: NeuMF's users have vectors of their own only"):
        Retrieval(model="neumf", history=0.5)


# ------------------------------------------------------------ snapshots
class Killed(Exception):
    """A job's end by force."""


def run(job: dict[str, Any], storage: Storage, die_at: tuple[str, int] | None = None) -> dict[str, bytes]:
    """Curves, and the weights of each cut; or the death of the job after an epoch, before its checkpoint."""

    def log(tag: str, step: int, **values: float) -> None:
        if (tag, step) == die_at:
            raise Killed

    job_module.run(job, storage, Alone(), log)
    names = ["curves.json", "neumf.json", *[f"neumf.{each['cut']}.safetensors" for each in job["snapshots"]]]
    return {name: storage.read_bytes(f"{job['output']}/{name}") for name in names}


def neumf_job(folder: Path, **changes: Any) -> tuple[dict[str, Any], Storage]:
    neumf = {**LAYERS, "dropout": 0.2}
    return job_in(folder, [[0], [1], [2]], **{**SMALL, "neumf": neumf, "negatives": 10, "refit_epochs": 2, **changes})


@pytest.mark.parametrize("die_at", [("retrieval valid", 1), ("retrieval valid", 3), ("retrieval test", 2)])
def test_a_resumed_job_is_an_uninterrupted_one(tmp_path: Path, die_at: tuple[str, int]) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    expected = run(*neumf_job(tmp_path / "whole"))
    job, storage = neumf_job(tmp_path / "cut")
    with pytest.raises(Killed):
        run(job, storage, die_at)
    assert run(job, storage) == expected


def test_what_is_written_is_the_model_and_each_cut_has_its_own(tmp_path: Path) -> None:
    job, storage = neumf_job(tmp_path)
    written = run(job, storage)
    assert len({written[f"neumf.{cut}.safetensors"] for cut in ("valid", "test", "final")}) == 3
    assert not list((tmp_path / "out").glob("*vectors*"))
    again = NeuMF(NeuMFSpec(**json.loads(written["neumf.json"])))
    again.load_state_dict(load(written["neumf.final.safetensors"]))
    scores = again.eval().scorer()(torch.arange(USERS))
    assert scores.shape == (USERS, ITEMS)
    assert float(scores[2:, 2:26].detach().std()) > 0.01


def test_stages_that_need_vectors_name_the_setting() -> None:
    fields = {"dt": "2024-03-10", "run_id": "r", "stage": "", "rows": 0, "bytes": 0, "content_hash": "", "schema": "",
              "fingerprint": "", "inputs": {}, "settings_hash": "", "code_version": "", "created_at": ""}  # fmt: skip
    names = ("item_stats", "item_windows", "item_features", "user_features", "retrieval_model")
    inputs = {name: Manifest(name, **fields) for name in names}
    cut = Cut("valid", 100, 200)
    assert state_ref("file:/r", inputs, cut, Features()).cut == cut  # an older run does not say what it is
    inputs["retrieval_model"].extra["model"] = "neumf"
    with pytest.raises(RecsysError, match=r"setting 'retrieval\.model': the retrieval model .* is 'neumf'.* mf"):
        state_ref("file:/r", inputs, cut, Features())
