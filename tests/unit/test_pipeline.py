"""How a run of stages ends that does not end well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys_spark import pipeline
from recsys_spark.config import Settings
from recsys_spark.errors import RecsysError
from recsys_spark.tables import TableStore
from recsys_spark.tables.lock import LOCK

DT = "2024-03-10"
OUTCOME = f"_outcomes/dt={DT}.json"


@pytest.fixture
def settings(tiny_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    return tiny_settings(tmp_path)


def test_a_run_that_was_overtaken_does_not_say_how_the_day_ended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped; another run took the lock over and did the night. Then it fails, of whatever is gone."""
    storage = TableStore(settings.root).storage

    def overtaken(*_: object) -> None:
        owner = storage.read_json(LOCK)
        storage.write_bytes(LOCK, json.dumps({**owner, "host": "elsewhere", "nonce": "theirs"}).encode())
        storage.write_json(OUTCOME, {"outcome": "ok"})
        raise FileNotFoundError("_jobs/clean-x/kept")

    monkeypatch.setattr(pipeline, "run_stage", overtaken)
    with pytest.raises(RecsysError, match=r"taken over \(by process .* on elsewhere") as error:
        pipeline.run_stages(None, settings, DT, ["clean"])  # type: ignore[arg-type]
    assert isinstance(error.value.__cause__, FileNotFoundError)
    assert storage.read_json(OUTCOME) == {"outcome": "ok"}
    assert storage.read_json(LOCK)["nonce"] == "theirs"


def test_a_run_that_fails_says_so(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(*_: object) -> None:
        raise FileNotFoundError("a file")

    monkeypatch.setattr(pipeline, "run_stage", failed)
    with pytest.raises(FileNotFoundError):
        pipeline.run_stages(None, settings, DT, ["clean"])  # type: ignore[arg-type]
    storage = TableStore(settings.root).storage
    assert storage.read_json(OUTCOME)["outcome"] == "failed"
    assert not storage.exists(LOCK)
