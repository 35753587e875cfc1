from __future__ import annotations

import pytest

from recsys_spark.progress import track


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line.split("] ", 1)[1] for line in capsys.readouterr().out.splitlines()]


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), 3, "work", every=0.0)) == [0, 1, 2]
    said = lines(capsys)
    assert [line.split(" · ")[0] for line in said] == ["work: 1/3", "work: 2/3", "work: 3/3"]
    assert all(line.split(" · ")[1].endswith("/s") for line in said)
    assert said[-1].endswith("0 s left")


def test_what_is_told_beside_and_what_was_done_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of ten seconds' work were done before: eight are left at the speed of now, not of the whole."""
    clock = iter([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    monkeypatch.setattr("recsys_spark.progress.time.monotonic", lambda: next(clock))
    steps = track(range(2, 4), 10, "work", every=0.0, first=2, note=lambda: "12 samples/s")
    next(steps)
    next(steps)
    assert lines(capsys) == ["work: 3/10 · 12 samples/s · 7 s left"]


def test_only_the_first_rank_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), 3, "work", show=False, every=0.0)) == [0, 1, 2]
    assert capsys.readouterr().out == ""
