"""What a warm night's retrieval model begins with: the champion's rows by id, and new ones by their attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys_spark.config.models import Retrieval
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Alone
from recsys_spark.training.kept import Kept, open_earlier
from recsys_spark.training.start import Attributes, start_from
from recsys_spark.training.tasks.retrieval import RetrievalTask
from recsys_spark.training.user_rows import UserRows

USERS, ITEMS, BUCKETS = 60, 24, 5
OLD_USERS, OLD_ITEMS = 50, 20
BUCKET_OF = np.random.default_rng(3).integers(0, BUCKETS, USERS).astype(np.uint16)
QUIET = 40  # users from here on have no example in the first night
GROUP_OF = np.arange(USERS) % 2 + 2  # an attribute of the users: 2 or 3
GROUP_OF[USERS - 1] = 0
KIND_OF = np.arange(ITEMS) % 2 + 2  # of the items; users of group g take items of kind g only
PRIOR = [torch.linspace(-1, 0, ITEMS), torch.linspace(-1, 1, ITEMS)]
OPTIMIZERS: list[dict[str, Any]] = [{}, {"optimizer": "rowwise_adagrad"}, {"optimizer": "sgd"}, {"negatives": 0}]
MODES = [*OPTIMIZERS, {"temperature": 0.5}, {"history": 0.3}, {"loss": "bce", "user_bias": True}]


def settings_of(**changes: Any) -> Retrieval:
    values = {"dim": 4, "batch_size": 64, "negatives": 10, "init_std": 0.1, "learning_rate": 0.05, "weight_decay": 0.0}
    return Retrieval(**{**values, **changes})


def task_of(users: int, items: int, rows: UserRows, night: int, **changes: Any) -> RetrievalTask:
    events = np.where(np.arange(items) >= 2, 5, 0)
    prior = PRIOR[night][:items].clone()
    return RetrievalTask(users, items, events, prior, 100, None, settings_of(**changes), Alone(), rows=rows)


def batch_of(users: np.ndarray[Any, Any], items: int, seed: int) -> dict[str, Tensor]:
    draw = np.random.default_rng(seed)
    taken = np.array([draw.choice(np.flatnonzero(KIND_OF[:items] == max(GROUP_OF[user], 2))[1:]) for user in users])
    numbers = {"user_index": users, "item_index": taken, "time": np.zeros(len(users), int)}
    batch = {name: torch.from_numpy(values) for name, values in numbers.items()}
    return {**batch, "weight": torch.ones(len(users)), "row_weight": torch.ones(len(users))}


def champion(storage: Storage, **changes: Any) -> RetrievalTask:
    """A night of fewer users and items, trained a while by one rank, and saved."""
    rows = UserRows.of(BUCKET_OF[:OLD_USERS])
    task = task_of(OLD_USERS, OLD_ITEMS, rows, 0, **changes)
    task.kept = Kept(rows=True, optimizer_state=True)
    batches = [batch_of(np.arange(2, QUIET), OLD_ITEMS, seed) for seed in range(60)]
    task.begin(0)
    for step, batch in enumerate(batches):
        task.step(batch, step / len(batches))
    task.examples = lambda: batches[:1]
    task.save(storage, "old", "test", "scratch", np.zeros(OLD_USERS, np.int16))
    return task


def started(storage: Storage, rows: UserRows, **changes: Any) -> RetrievalTask:
    task = task_of(USERS, ITEMS, rows, 1, **changes)
    trained = np.arange(ITEMS) >= 2
    earlier = open_earlier(storage, "old", "test", task.settings, PRIOR[0], trained, True)
    mine = rows.indexes.numpy()[1:]
    users = mine[(mine >= 2) & (mine != QUIET)]  # all but one have examples now
    attributes = (Attributes([GROUP_OF.astype(np.int32)], [4]), Attributes([KIND_OF.astype(np.int32)], [4]))
    start_from(task, earlier, *attributes, BUCKET_OF, [batch_of(users, ITEMS, 0)])
    return task


@pytest.mark.parametrize("changes", MODES)
def test_rows_are_carried_by_id_and_new_ones_begin_by_their_attributes(tmp_path: Path, changes: dict[str, Any]) -> None:
    storage = Storage(str(tmp_path))
    old, whole = champion(storage, **changes), UserRows.of(BUCKET_OF)
    new, fresh = started(storage, whole, **changes), task_of(USERS, ITEMS, whole, 1, **changes)
    theirs, ours, first = (task.model.user.weight.detach() for task in (old, new, fresh))
    carried = np.arange(2, QUIET)
    assert torch.equal(ours[whole.place[carried].long()], theirs[old.rows.place[carried].long()])
    for user in (QUIET, USERS - 1):  # one without an example, one without an attribute
        row = whole.place[user].long()
        assert torch.equal(ours[row], first[row])
    assert torch.equal(new.model.item.weight[2:OLD_ITEMS], old.model.item.weight[2:OLD_ITEMS])
    learned = old.model.bias.weight[2:OLD_ITEMS, 0] - PRIOR[0][2:OLD_ITEMS]
    torch.testing.assert_close(new.model.bias.weight[2:OLD_ITEMS, 0], PRIOR[1][2:OLD_ITEMS] + learned)
    # a new user likes what his group likes, new items of that kind too
    scores = new.scorer()(whole.place[QUIET + 1 : USERS - 1].long()).detach() - new.model.bias.weight[:, 0]
    own = torch.from_numpy(KIND_OF[None, :] == GROUP_OF[QUIET + 1 : USERS - 1, None])[:, 2:]
    likes, others = scores[:, 2:][own], scores[:, 2:][~own]
    assert likes.mean() > others.mean() + scores[:, 2:].std()


@pytest.mark.parametrize("changes", OPTIMIZERS)
def test_the_optimizers_state_comes_with_the_rows(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The next step of what was carried is the step that the champion would have made."""
    storage = Storage(str(tmp_path))
    old, whole = champion(storage, **changes), UserRows.of(BUCKET_OF)
    new = started(storage, whole, **changes)
    theirs, ours = old.updates.state_dict(), new.updates.state_dict()
    carried = np.arange(2, OLD_USERS)
    places = (old.rows.place[carried].long(), whole.place[carried].long())
    for name in ({"mean", "square", "sum"} & theirs["user"].keys()) or {"steps"}:
        if name == "steps":
            continue
        assert torch.equal(ours["user"][name][places[1]], theirs["user"][name][places[0]])
        assert not ours["user"][name][whole.place[OLD_USERS:].long()].any()
    assert ours["user"]["steps"] == theirs["user"]["steps"] == 60
    if "negatives" in changes:
        assert ours["item"]["state"][0]["step"] == 60
        moments = [state["item"]["state"][0]["exp_avg"] for state in (ours, theirs)]
        assert torch.equal(moments[0][:OLD_ITEMS], moments[1])


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("changes", MODES)
def test_the_start_does_not_depend_on_the_number_of_ranks(tmp_path: Path, ranks: int, changes: dict[str, Any]) -> None:
    storage = Storage(str(tmp_path))
    champion(storage, **changes)
    whole = UserRows.of(BUCKET_OF)
    alone = started(storage, whole, **changes)
    for rank in range(ranks):
        rows = UserRows.of(BUCKET_OF, np.arange(BUCKETS) % ranks == rank)
        part = started(storage, rows, **changes)
        assert torch.equal(part.model.user.weight, alone.model.user.weight[whole.of_users(rows.indexes.long())])
        assert torch.equal(part.model.item.weight, alone.model.item.weight)
        assert torch.equal(part.model.bias.weight, alone.model.bias.weight)
