"""Matrix factorization as it is trained: what it ranks, what it draws, and the snapshots of a job."""

from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from recsys_spark.config.models import Retrieval
from recsys_spark.errors import RecsysError
from recsys_spark.ragged import Rows
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Alone
from recsys_spark.training.jobs import retrieval as job_module
from recsys_spark.training.tasks.negatives import Negatives, negative_shares
from recsys_spark.training.tasks.ranking import Validation
from recsys_spark.training.tasks.retrieval import RetrievalTask

USERS, ITEMS = 40, 30
LOSSES = ["softmax", "bce", "squared", "bpr"]


def planted(seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pairs of users 2 … and items 2 … 27: a user takes items of its own third only; the last items are never taken."""
    draw = np.random.default_rng(seed)
    users = np.repeat(np.arange(2, USERS), 6)
    items = 2 + draw.integers(0, 8, len(users)) * 3 + users % 3
    pairs = np.unique(np.stack([users, items], 1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def batch_of(users: np.ndarray[Any, Any], items: np.ndarray[Any, Any], padding: int = 0) -> dict[str, Tensor]:
    ones = torch.cat([torch.ones(len(users)), torch.zeros(padding)])
    indexes = {"user_index": users, "item_index": items, "time": np.full(len(users), 100)}
    batch = {name: torch.from_numpy(np.append(values, np.zeros(padding, int))) for name, values in indexes.items()}
    return {**batch, "weight": torch.ones(len(ones)), "row_weight": ones}


def task_of(validation: Validation | None = None, **changes: Any) -> RetrievalTask:
    values = {"dim": 4, "init_std": 0.1, "learning_rate": 0.05, "weight_decay": 0.0, "validation_k": 5, **changes}
    counts = np.bincount(planted(0)[1], minlength=ITEMS)
    prior = torch.from_numpy(counts + 0.1).log().float()
    return RetrievalTask(USERS, ITEMS, counts, prior, 200, validation, Retrieval(**values), Alone())


def figures_by_hand(task: RetrievalTask, validation: Validation, k: int) -> dict[str, float]:
    users, items = (each.numpy() for each in task.model.vectors())
    total, found = 0.0, 0.0
    for row, user in enumerate(validation.users):
        seen = set(validation.seen.row(row).tolist())
        allowed = [item for item in range(ITEMS) if bool(task.allowed[item]) and item not in seen]
        best = sorted(allowed, key=lambda item: -float(users[user] @ items[item]))[:k]
        wanted = validation.truth.row(row).tolist()
        gain = sum(1 / math.log2(place + 2) for place, item in enumerate(best) if item in wanted)
        total += gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(wanted))))
        found += len(set(best) & set(wanted)) / len(wanted)
    return {f"ndcg{k}_new": total / len(validation.users), f"recall{k}_new": found / len(validation.users)}


def test_validation_ranks_items_that_are_new_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys_spark.training.tasks.snapshot._RANKED_AT_ONCE", 3 * ITEMS)
    users = np.arange(2, 12)
    seen = Rows.from_lists([[int(user), 2] for user in users])
    truth = Rows.from_lists([range(3 + user % 2, 3 + user % 9) if user % 9 > 2 else [5] for user in users])
    validation = Validation(users, seen, truth)
    task = task_of(validation)
    assert task.metric == "ndcg5_new"
    assert task.validate() == pytest.approx(figures_by_hand(task, validation, 5))
    assert task_of(None).validate() == {}
    assert task_of(None, stop_on="recall_new").metric == "recall5_new"


def test_what_nobody_may_get_is_no_hit_however_long_the_list() -> None:
    validation = Validation(np.array([2]), Rows.from_lists([[3]]), Rows.from_lists([[ITEMS - 1]]))  # never sold
    assert set(task_of(validation, validation_k=100).validate().values()) == {0.0}


@pytest.mark.parametrize("negatives", [0, 20])
@pytest.mark.parametrize("bias", [True, False])
def test_no_gradient_is_left_after_a_step(bias: bool, negatives: int) -> None:
    task = task_of(bias=bias, negatives=negatives)
    before = task.model.bias.weight.detach().clone()
    task.begin(0)
    task.step(batch_of(*planted(0)), 0.0)
    assert [each.grad for each in task.model.parameters()] == [None] * 3
    assert torch.equal(task.model.bias.weight, before) is not bias


def test_first_biases_are_those_of_a_model_that_knows_popularity_only() -> None:
    events = torch.tensor([0, 0, 1, 10, 100])
    fresh = events.double()
    even, drawn = (
        job_module.first_bias(fresh, events, Retrieval(loss="bce", negatives=n, negative_weight=2.0)) for n in (0, 9)
    )
    root = events.double().sqrt()
    for bias, share in ((even, torch.full((5,), 1 / 3)), (drawn, root / root.sum())):
        expected = ((events[2:] + 0.1) / (2.0 * 111 * share[2:])).log()
        torch.testing.assert_close(bias[2:], expected.float())
    assert not job_module.first_bias(fresh, events, Retrieval(loss="squared")).any()


def test_examples_of_items_without_events_are_refused(tmp_path: Path) -> None:
    job, storage = job_in(tmp_path, [[0], [], []])
    stats = pq.read_table(tmp_path / "stats" / "part-0.parquet").to_pandas().assign(events=0)
    pq.write_table(pa.Table.from_pandas(stats, preserve_index=False), tmp_path / "stats" / "part-0.parquet")
    with pytest.raises(RecsysError, match="no item has an event before the cut 'valid'"):
        run(job, storage)


def test_a_whole_catalogue_too_large_for_memory_is_refused(tmp_path: Path) -> None:
    job, storage = job_in(tmp_path, [[0], [], []])
    with pytest.raises(RecsysError, match=r"retrieval\.negatives"):
        run({**job, "items": 1 << 26}, storage)


@pytest.mark.parametrize("temperature", [None, 0.2])
@pytest.mark.parametrize("negatives", [0, 20])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_finds_the_taste_that_was_planted(loss: str, negatives: int, temperature: float | None) -> None:
    users, items = planted(0)
    task = task_of(loss=loss, negatives=negatives, temperature=temperature, negative_weight=2.0)
    task.begin(0)
    for _ in range(300 if loss == "squared" else 150):  # which pulls less the nearer it is
        task.step(batch_of(users, items, padding=3), 0.0)
    user_vectors, item_vectors = (each.numpy() for each in task.model.vectors())
    scores = (user_vectors @ item_vectors.T)[2:, 2:26]
    own = (np.arange(2, 26)[None, :] - 2) % 3 == np.arange(2, USERS)[:, None] % 3
    assert scores[own].mean() > scores[~own].mean() + scores[~own].std()


@pytest.mark.parametrize("negatives", [0, 20])
def test_padding_rows_change_nothing_but_the_mean(negatives: int) -> None:
    users, items = planted(0)
    plain, padded = (task_of(negatives=negatives) for _ in range(2))
    for task, padding in ((plain, 0), (padded, 7)):
        task.begin(0)
        task.step(batch_of(users, items, padding), 0.0)
    for mine, other in zip(plain.model.parameters(), padded.model.parameters(), strict=True):
        torch.testing.assert_close(mine[2:], other[2:], rtol=0, atol=2e-3)  # a step is 0.05


def test_the_items_of_a_batch_are_drawn_by_popularity_and_know_their_places() -> None:
    counts = torch.tensor([0, 0, 1, 4, 16, 0])
    draws = Negatives(counts, Retrieval(negatives=4_000, negative_power=0.5))
    draws.random.manual_seed(1)
    drawn = draws.draw(torch.tensor([4, 5, 2]))
    assert drawn.items.tolist() == [2, 3, 4]
    assert drawn.place.tolist() == [2, -1, 0]
    assert drawn.share.tolist() == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=0.03)
    assert drawn.expected.tolist() == pytest.approx([1.0, 1.0, 1.0], abs=0.15)
    places = torch.bincount(draws.one_of(drawn, 7_000), minlength=3) / 7_000
    torch.testing.assert_close(places, drawn.share, rtol=0, atol=0.03)
    whole = Negatives(counts, Retrieval(negatives=0)).draw(torch.tensor([4, 5]))
    assert (whole.items.tolist(), whole.place.tolist()) == ([2, 3, 4], [2, -1])
    assert whole.share.tolist() == pytest.approx([1 / 3] * 3)
    assert whole.expected.tolist() == [1.0, 1.0, 1.0]


def test_the_items_of_a_batch_are_expected_by_their_pairs() -> None:
    """Over many batches, each item's count in the joint draw is what ``expected`` was divided by."""
    counts, pairs = torch.tensor([0, 0, 1, 4, 16, 9]), torch.tensor([0, 0, 1, 3, 4, 2])
    draws = Negatives(counts, Retrieval(negatives=5, in_batch=True, uniform_share=0.4), pairs)
    draws.random.manual_seed(1)
    seen, expected, shares = torch.zeros(6), torch.zeros(6), torch.zeros(6, dtype=torch.float64)
    rounds, size = 4_000, 7
    for number in range(rounds):
        chosen = torch.multinomial(pairs.double(), size, True, generator=draws.random)
        positives = torch.cat([chosen, torch.zeros(3, dtype=torch.int64)])  # padding rows are no negatives
        drawn = draws.draw(positives)
        assert drawn.items[drawn.place[:size]].tolist() == chosen.tolist()
        assert drawn.place[size:].tolist() == [-1] * 3
        times = drawn.share * (5 + size)
        assert float(times.sum()) == pytest.approx(5 + size)
        seen[drawn.items] += times / rounds
        expected[drawn.items] = times / drawn.expected
        shares[drawn.items] += drawn.share.double() / rounds
        if number == 0:
            both = torch.cat([drawn.items.repeat_interleave(times.round().long())]).bincount(minlength=6)
            assert (both >= chosen.bincount(minlength=6)).all()
    torch.testing.assert_close(seen, expected, rtol=0.04, atol=0.0)
    wanted = negative_shares(counts, Retrieval(negatives=5, in_batch=True, uniform_share=0.4, batch_size=size), pairs)
    torch.testing.assert_close(shares, wanted, rtol=0.04, atol=0.0)


def test_a_share_of_the_negatives_is_drawn_evenly() -> None:
    counts = torch.tensor([0, 3, 1, 16])
    root = counts.double().sqrt() / counts.double().sqrt().sum()
    even = torch.tensor([0.0, 1 / 3, 1 / 3, 1 / 3], dtype=torch.float64)
    for share in (0.0, 0.3, 1.0):
        torch.testing.assert_close(
            negative_shares(counts, Retrieval(uniform_share=share)), (1 - share) * root + share * even
        )


def test_in_batch_negatives_correct_for_popularity() -> None:
    """The mean gradient of the sampled softmax is that of the full one; without the correction it is not."""
    draw = torch.Generator().manual_seed(2)
    pairs = torch.tensor([0, 0, 40, 20, 10, 5, 5])
    items, user = torch.randn(7, 3, generator=draw), torch.randn(1, 3, generator=draw)
    full = torch.softmax((user @ items.T)[0, 2:], 0) @ items[2:]
    negatives = Negatives(pairs, Retrieval(negatives=4, in_batch=True))
    ours, raw = torch.zeros(3), torch.zeros(3)
    rounds = 300
    for _ in range(rounds):
        drawn = negatives.draw(torch.multinomial(pairs.double(), 300, True, generator=draw))
        scores = (user @ items[drawn.items].T)[0]
        ours += torch.softmax(scores + drawn.expected.log(), 0) @ items[drawn.items] / rounds
        raw += torch.softmax(scores + drawn.share.log(), 0) @ items[drawn.items] / rounds
    assert float((ours - full).norm()) < 0.02
    assert float((raw - full).norm()) > 0.2


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "changes",
    [
        {"in_batch": True},
        {"optimizer": "rowwise_adagrad", "learning_rate": 0.3},
        {"optimizer": "sgd", "learning_rate": 0.3},
    ],
)
def test_the_taste_is_found_with(loss: str, changes: dict[str, Any]) -> None:
    users, items = planted(0)
    task = task_of(loss=loss, negatives=20, negative_weight=2.0, **{"clip_norm": 5.0, "schedule": "cosine", **changes})
    task.begin(0)
    for step in range(150):
        task.step(batch_of(users, items, padding=3), step / 150)
    user_vectors, item_vectors = (each.numpy() for each in task.model.vectors())
    scores = (user_vectors @ item_vectors.T)[2:, 2:26]
    own = (np.arange(2, 26)[None, :] - 2) % 3 == np.arange(2, USERS)[:, None] % 3
    assert scores[own].mean() > scores[~own].mean() + scores[~own].std()


@pytest.mark.parametrize("loss", ["bce", "squared"])
def test_a_step_of_plain_gradient_descent_is_the_sum_of_its_pairs(loss: str) -> None:
    """Whatever batch they come in, and however much padding it holds; weight decay too."""
    values = {"optimizer": "sgd", "negatives": 0, "loss": loss, "weight_decay": 0.1, "learning_rate": 1e-4}
    users, items = planted(0)

    def moved(some: slice, padding: int) -> Tensor:
        task = task_of(**values)
        before = {name: table.detach().clone() for name, table in task.model.named_parameters()}
        task.step(batch_of(users[some], items[some], padding), 0.0)
        return torch.cat(
            [(table.detach() - before[name])[1:].flatten() for name, table in task.model.named_parameters()]
        )

    whole = moved(slice(None), 0)
    assert float(whole.abs().max()) > 1e-4
    torch.testing.assert_close(moved(slice(None), 300), whole, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(moved(slice(0, 70), 5) + moved(slice(70, None), 0), whole, rtol=1e-3, atol=1e-6)
    assert torch.isfinite(moved(slice(0, 0), 8)).all()


# ------------------------------------------------------------ snapshots
def job_in(folder: Path, windows: list[list[int]], **changes: Any) -> tuple[dict[str, Any], Storage]:
    """A job whose snapshots know one window of pairs after the other; ``windows`` hold seeds of ``planted``."""
    storage = Storage(folder.as_uri())
    cuts, files, snapshots = ["valid", "test", "final"], [], []
    stats = []
    for cut, seeds in zip(cuts, windows, strict=True):
        for seed in seeds:
            users, items = planted(seed)
            rows = {"user_index": users.astype(np.int32), "item_index": items.astype(np.int32),
                    "time": np.full(len(users), 100), "weight": np.ones(len(users), np.float32)}  # fmt: skip
            path = folder / f"examples-{len(files)}.parquet"
            pq.write_table(pa.table(rows), path)
            files.append([path.as_uri(), len(users), 0])
        snapshots.append({"cut": cut, "time": 200, "files": list(files)})
        stats += [{"cut": cut, "item_index": item, "events": 5, "users": 5, "recent_users": 5, "earlier_users": 0}
                  for item in range(2, 26)]  # fmt: skip
    (folder / "ids").mkdir()
    index = np.arange(2, USERS, dtype=np.int32)
    pq.write_table(pa.table({"index": index, "user_bucket": index % 3}), folder / "ids" / "part-0.parquet")
    (folder / "stats").mkdir()
    pq.write_table(pa.Table.from_pylist(stats), folder / "stats" / "part-0.parquet")
    buffer = BytesIO()
    seen, truth = Rows.from_lists([[2], [3]]), Rows.from_lists([[5, 8], [6]])
    np.savez(buffer, users=np.array([2, 3]), seen=seen.indices, seen_indptr=seen.indptr, truth=truth.indices,
             truth_indptr=truth.indptr)  # fmt: skip
    storage.write_bytes("validation.npz", buffer.getvalue())
    values = {"dim": 4, "epochs": 3, "batch_size": 64, "negatives": 0, **changes}
    job = {"settings": Retrieval(**values).model_dump(mode="json"), "validation": "validation.npz", "output": "out",
           "snapshots": snapshots, "item_stats": "stats", "users": USERS, "items": ITEMS, "checkpoints": "checkpoints",
           "whole_users": True, "user_ids": "ids", "user_groups": 1, "buckets": 3, "scratch": "scratch"}  # fmt: skip
    return job, storage


def run(job: dict[str, Any], storage: Storage) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Curves, and the bytes of the item vectors of each cut."""
    job_module.run(job, storage, Alone(), lambda tag, step, **values: None)
    curves: dict[str, Any] = json.loads(storage.read_bytes("out/curves.json"))
    return curves, {each["cut"]: storage.read_bytes(f"out/item_vectors.{each['cut']}.npy") for each in job["snapshots"]}


def test_later_snapshots_go_on_from_the_one_before(tmp_path: Path) -> None:
    curves, vectors = run(*job_in(tmp_path, [[0], [1], [2]], refit_epochs=2))
    assert {cut: len(curve) for cut, curve in curves["curves"].items()} == {"valid": 3, "test": 2, "final": 2}
    assert len(set(vectors.values())) == 3


def test_without_a_refit_a_snapshot_begins_anew_with_the_best_number_of_passes(tmp_path: Path) -> None:
    job, storage = job_in(tmp_path, [[0], [1], []], refit_epochs=0)
    curves, vectors = run(job, storage)
    first = [point[curves["metric"]] for point in curves["curves"]["valid"]]
    best = first.index(max(first)) + 1
    assert {cut: len(curve) for cut, curve in curves["curves"].items()} == {"valid": 3, "test": best}
    assert vectors["valid"] != vectors["test"]
    assert vectors["test"] == vectors["final"]  # nothing has happened in between
    job["checkpoints"], job["snapshots"] = "others", [{**job["snapshots"][1], "cut": "valid"}]
    job["settings"] |= {"epochs": best}
    with np.load(BytesIO(storage.read_bytes("validation.npz"))) as saved:
        nobody = {
            name: values[:0] if name in ("users", "seen", "truth") else values[:1] for name, values in saved.items()
        }
    buffer = BytesIO()
    np.savez(buffer, **nobody)
    storage.write_bytes("validation.npz", buffer.getvalue())  # so that the last pass is kept, as it is at a later cut
    assert run(job, storage)[1]["valid"] == vectors["test"]  # as if it were the only one
