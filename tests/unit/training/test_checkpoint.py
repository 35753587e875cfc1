from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys_spark.tables.storage import Storage
from recsys_spark.training.checkpoint import Checkpoints


def state(step: int) -> dict[str, object]:
    return {"weights": {"w": torch.full((3, 2), float(step))}, "curve": [{"epoch": 1.0}] * step, "name": "ü"}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(Storage(str(tmp_path)), "_checkpoints/x", keep=2)


def step_of(checkpoints: Checkpoints) -> int | None:
    found = checkpoints.load()
    return None if found is None else len(found["curve"])


def test_the_newest_comes_back(checkpoints: Checkpoints) -> None:
    assert checkpoints.load() is None
    for step in (1, 2, 10):
        checkpoints.save(step, state(step))
    found = checkpoints.load()
    assert found is not None
    assert torch.equal(found["weights"]["w"], torch.full((3, 2), 10.0))
    assert found["name"] == "ü"


def test_the_last_few_stay(checkpoints: Checkpoints) -> None:
    for step in range(1, 12):
        checkpoints.save(step, state(step))
    assert checkpoints.storage.names(checkpoints.folder) == ["step-000010.pt", "step-000011.pt"]
    checkpoints.clear()
    assert checkpoints.load() is None
    checkpoints.clear()


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_torn_one_is_passed_over(checkpoints: Checkpoints, share: float) -> None:
    for step in (1, 2):
        checkpoints.save(step, state(step))
    path = f"{checkpoints.folder}/step-000002.pt"
    content = checkpoints.storage.read_bytes(path)
    checkpoints.storage.write_bytes(path, content[: int(share * len(content))])
    assert step_of(checkpoints) == 1


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_is_noticed(checkpoints: Checkpoints, share: float) -> None:
    for step in (1, 2):
        checkpoints.save(step, state(step))
    path = f"{checkpoints.folder}/step-000002.pt"
    content = bytearray(checkpoints.storage.read_bytes(path))
    content[int(share * len(content))] ^= 0x40
    checkpoints.storage.write_bytes(path, bytes(content))
    assert step_of(checkpoints) == 1


def test_when_all_are_torn_there_is_none(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, state(1))
    checkpoints.storage.write_bytes(f"{checkpoints.folder}/step-000001.pt", b"")
    assert checkpoints.load() is None


def test_only_plain_values_are_loaded(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, {"path": Path("x")})
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        checkpoints.load()
