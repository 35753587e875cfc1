from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys_spark.errors import RecsysError
from recsys_spark.tables.storage import Storage
from recsys_spark.training.checkpoint import COMPLETE, Checkpoints
from recsys_spark.training.collective import Alone

HYPOTHESIS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FILES = st.sampled_from(["common.pt", "part-b.pt", COMPLETE])


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(Storage(str(tmp_path)), "_checkpoints/x", keep=2)


def save(checkpoints: Checkpoints, step: int, also: Iterable[int] = (), **facts: Any) -> None:
    common = {"weights": {"w": torch.full((3, 2), float(step))}, "curve": [{"epoch": 1.0}] * step, "name": "ü"}
    parts = [("b", {"rows": torch.full((2,), float(step))})]
    checkpoints.save(step, common, parts, Alone(), facts, also)


def step_of(checkpoints: Checkpoints) -> int | None:
    found = checkpoints.newest(Alone())
    return None if found is None else found.step


def file_of(checkpoints: Checkpoints, step: int, name: str) -> Path:
    return Path(checkpoints.storage.path(f"{checkpoints.folder}/step-{step:09d}/{name}"))


def folders(checkpoints: Checkpoints) -> list[int]:
    return [int(name.removeprefix("step-")) for name in checkpoints.storage.names(checkpoints.folder)]


def test_the_newest_comes_back(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest(Alone()) is None
    for step in (1, 2, 10):
        save(checkpoints, step, epoch=step)
    found = checkpoints.newest(Alone())
    assert found is not None
    assert (found.step, found.ranks, found.facts, found.parts) == (10, 1, {"epoch": 10}, ["b"])
    common = found.common()
    assert torch.equal(common["weights"]["w"], torch.full((3, 2), 10.0))
    assert common["name"] == "ü"
    assert torch.equal(found.part("b")["rows"], torch.full((2,), 10.0))
    with pytest.raises(RecsysError, match="no part 'c'"):
        found.part("c")


def test_the_last_few_stay_and_what_they_need(checkpoints: Checkpoints) -> None:
    for step in range(1, 12):
        save(checkpoints, step, also=[4] if 4 < step < 11 else [])
    assert folders(checkpoints) == [4, 10, 11]
    save(checkpoints, 12)
    assert folders(checkpoints) == [11, 12]
    checkpoints.clear()
    assert step_of(checkpoints) is None
    checkpoints.clear()


@given(share=st.floats(0, 1, exclude_max=True), name=FILES)
@HYPOTHESIS
def test_a_torn_one_is_passed_over(checkpoints: Checkpoints, share: float, name: str) -> None:
    for step in (1, 2):
        save(checkpoints, step)
    path = file_of(checkpoints, 2, name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    only_the_line_end = name == COMPLETE and len(path.read_bytes()) == len(content) - 1
    assert step_of(checkpoints) == (2 if only_the_line_end else 1)


@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), name=FILES)
@HYPOTHESIS
def test_a_changed_bit_is_noticed(checkpoints: Checkpoints, share: float, bit: int, name: str) -> None:
    for step in (1, 2):
        save(checkpoints, step, epoch=step)
    path = file_of(checkpoints, 2, name)
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1 << bit
    path.write_bytes(bytes(content))
    found = checkpoints.newest(Alone())
    assert found is not None
    if found.step == 2:  # a blank between the marker's words may have become another one
        assert name == COMPLETE
        assert found.facts == {"epoch": 2}
        assert found.damage() is None


def test_a_lost_file_is_noticed(checkpoints: Checkpoints) -> None:
    for step in (1, 2):
        save(checkpoints, step)
    file_of(checkpoints, 2, "part-b.pt").unlink()
    assert step_of(checkpoints) == 1
    assert folders(checkpoints) == [1]  # its name is free for the run that goes on


def test_when_all_are_torn_there_is_none(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    file_of(checkpoints, 1, "common.pt").write_bytes(b"")
    assert step_of(checkpoints) is None


def test_one_that_does_not_suit_is_passed_over_with_its_reason(
    checkpoints: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        save(checkpoints, step, epoch=step)
    found = checkpoints.newest(Alone(), lambda saved: "too late" if saved.facts["epoch"] > 1 else None)
    assert found is not None
    assert found.step == 1
    assert "step-000000002 is passed over: too late" in capsys.readouterr().out


def test_only_plain_values_are_loaded(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, {"path": Path("x")}, [], Alone(), {})
    found = checkpoints.newest(Alone())
    assert found is not None
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        found.common()


def test_a_slice_takes_the_room_of_a_slice(checkpoints: Checkpoints) -> None:
    table = torch.arange(1e5).reshape(-1, 10).requires_grad_()
    parts = [(f"bucket-{n}", {"rows": table[n * 10 : n * 10 + 10]}) for n in range(3)]
    checkpoints.save(1, {}, parts, Alone(), {})
    found = checkpoints.newest(Alone())
    assert found is not None
    assert all(found.files[key]["bytes"] < 4_000 for key in found.parts)
    assert torch.equal(found.part("bucket-2")["rows"], table[20:30].detach())


class Place:
    """A place in a world whose other ranks have been at work already, as far as their files tell."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def sum(self, values: Tensor) -> Tensor:
        return values

    def barrier(self) -> None:
        pass


def save_by_ranks(checkpoints: Checkpoints, keys: list[list[str]]) -> None:
    """Ranks one after the other, rank 0 last, as a barrier would have it."""
    for rank in reversed(range(len(keys))):
        parts = [(key, {"value": torch.tensor(float(ord(key)))}) for key in keys[rank]]
        world: Any = Place(rank, len(keys))
        checkpoints.save(5, {"rank": rank}, parts, world, {})


def test_parts_of_all_ranks_are_one_checkpoint(checkpoints: Checkpoints) -> None:
    save_by_ranks(checkpoints, [["a", "d"], ["b"], []])
    found = checkpoints.newest(Alone())
    assert found is not None
    assert (found.ranks, found.parts, found.common()) == (3, ["a", "b", "d"], {"rank": 0})
    assert [int(found.part(key)["value"]) for key in found.parts] == [97, 98, 100]


def test_a_key_belongs_to_one_rank(checkpoints: Checkpoints) -> None:
    with pytest.raises(RecsysError, match="two ranks hold part 'b'"):
        save_by_ranks(checkpoints, [["a", "b"], ["b"]])
    assert step_of(checkpoints) is None


def test_ranks_that_do_not_see_the_same_root_are_told(checkpoints: Checkpoints) -> None:
    world: Any = Place(0, 2)
    with pytest.raises(RecsysError, match="does not see what rank 1 wrote"):
        checkpoints.save(1, {}, [], world, {})


def test_the_marker_is_written_last(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1)
    marker = json.loads(file_of(checkpoints, 1, COMPLETE).read_text())["content"]
    assert sorted(each["file"] for each in marker["files"].values()) == ["common.pt", "part-b.pt"]
    times = {name: file_of(checkpoints, 1, name).stat().st_mtime_ns for name in ("common.pt", "part-b.pt", COMPLETE)}
    assert max(times, key=lambda name: times[name]) == COMPLETE
