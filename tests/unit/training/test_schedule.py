from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.training.schedule import Schedule, rate


def test_linear_is_full_for_a_sixth_and_then_falls_to_zero() -> None:
    assert [rate(each / 12) for each in range(13)] == pytest.approx(
        [1, 1, 1, *[0.1 * each for each in range(9, -1, -1)]]
    )


@pytest.mark.parametrize("warmup", [0, 4])
def test_cosine_is_torchs(warmup: int) -> None:
    steps = 20
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup)
    for step in range(warmup, steps):
        assert rate(step / steps, "cosine", warmup / steps) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        falling.step()


def test_constant_is_full() -> None:
    assert {rate(each / 9, "constant") for each in range(9)} == {1.0}


@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_a_warmup_rises_in_a_line_from_zero(schedule: Schedule) -> None:
    found = [rate(each / 100, schedule, 0.1) for each in range(11)]
    assert found == pytest.approx([each / 10 for each in range(11)])


@given(
    progress=st.floats(0, 1, exclude_max=True),
    warmup=st.floats(0, 0.99),
    schedule=st.sampled_from(get_args(Schedule)),
)
def test_it_is_a_share_and_falls_after_the_warmup(progress: float, warmup: float, schedule: Schedule) -> None:
    now = rate(progress, schedule, warmup)
    assert 0.0 <= now <= 1.0
    assert math.isfinite(now)
    if progress >= warmup:
        assert rate(progress + (1 - progress) / 2, schedule, warmup) <= now + 1e-12
