from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys_spark.training import resume
from recsys_spark.training.collective import Alone
from recsys_spark.training.resume import Pace


class Counting(Alone):
    """Counts the messages."""

    def __init__(self) -> None:
        self.sums = 0

    def sum(self, values: Tensor) -> Tensor:
        self.sums += 1
        return values


class Follower(Alone):
    """Rank 1, whose clock nobody asks; hears what rank 0 said."""

    rank = 1

    def __init__(self, heard: list[Tensor]) -> None:
        self.heard = heard

    def sum(self, values: Tensor) -> Tensor:
        assert not values.any()
        return self.heard.pop(0)


@pytest.mark.parametrize("first", [0.1, 30.0], ids=["steady", "slow at first"])
def test_checkpoints_come_by_the_clock_with_few_messages(monkeypatch: pytest.MonkeyPatch, first: float) -> None:
    now = 0.0
    monkeypatch.setattr(resume.time, "monotonic", lambda: now)
    world = Counting()
    pace, saved = Pace(5.0, world), []
    for step in range(10_000):
        now += first if step == 0 else 0.1
        if pace.due():
            saved.append(now)
            pace.restart()
    gaps = [after - before for before, after in zip([0.0, *saved], saved, strict=False)]
    assert len(gaps) == 3
    assert all(300.0 <= gap < 303.0 for gap in gaps)
    assert world.sums < 20


def test_all_ranks_write_at_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(resume.time, "monotonic", lambda: now)

    class Telling(Counting):
        def sum(self, values: Tensor) -> Tensor:
            told.append(values)
            return values

    told: list[Tensor] = []
    pace = Pace(1.0, Telling())
    steps = []
    draw = torch.Generator().manual_seed(1)
    for step in range(2_000):
        now += float(torch.rand(1, generator=draw))
        if pace.due():
            steps.append(step)
            pace.restart()
    other = Pace(1.0, Follower(list(told)))
    assert [step for step in range(2_000) if other.due()] == steps
    assert len(steps) > 10
