"""Which night goes on from the champion, and which begins anew: by tables, settings and the data's date alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recsys_spark.config import Settings
from recsys_spark.cuts import cuts
from recsys_spark.operating.retention import plan_clearing
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.champion import MODELS, TRAINING, named
from recsys_spark.tables.store import Stamp
from recsys_spark.training.warm import FULL, WARM, decides, start_of
from recsys_spark.training.warm_jobs import _fitting_cuts, _same_shape, shape


@pytest.fixture
def settings(tiny_settings: Callable[..., Settings], tmp_path: Path) -> Settings:
    return tiny_settings(tmp_path, warm_start={"full_every_nights": 4}, retention={"keep_days": 1, "grace_hours": 0})


class Root:
    """Nights that only trained and published, each as the rule says."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.store = settings, TableStore(settings.root)

    def night(self, day: int, run: str = "", show: bool = True, facts: bool = True) -> str:
        """Do a night of March; gives its kind."""
        dt = f"2024-03-{day:02d}"
        run = run or f"r{day}"
        start = start_of(self.store, self.settings, dt)
        extra = {"retrieval_model": start.facts() if facts else {}, "content_model": {}, "ranker": {}}
        models = {}
        for table in MODELS:
            self.store.storage.write_bytes(f"{table}/dt={dt}/run={run}/file", f"{table} {dt} {run}".encode())
            stamp = Stamp(dt, run, "stage", f"{table}-{run}", "s", "0", {})
            models[table] = self.store.seal(None, table, stamp, extra=extra[table])
            self.store.point(models[table])
        self.lists(dt, run, models, show)
        return start.kind

    def lists(self, dt: str, run: str, models: dict[str, Manifest], show: bool) -> None:
        self.store.storage.make_folder(f"top_n/dt={dt}/run={run}")
        stamp = Stamp(dt, run, "score", run, "s", "0", {})
        lists = self.store.complete("top_n", stamp, [], 0, "", run, {"models": named(models)})
        if show:
            self.store.point(lists)


def test_every_fourth_night_is_full(settings: Settings) -> None:
    root = Root(settings)
    assert [root.night(day) for day in range(1, 11)] == [FULL, *[WARM] * 3, FULL, *[WARM] * 3, FULL, WARM]


def test_days_count_and_not_runs(settings: Settings) -> None:
    root = Root(settings)
    assert [root.night(day) for day in (1, 3, 6, 7)] == [FULL, WARM, FULL, WARM]


def test_a_night_done_again_or_after_later_ones_begins_with_what_came_before_it(settings: Settings) -> None:
    root = Root(settings)
    for day in (1, 2, 4):
        root.night(day)
    begun = {day: start_of(root.store, settings, f"2024-03-{day:02d}") for day in (2, 3, 4)}
    assert [begun[day].champion["ranker"].run_id for day in (2, 3, 4)] == ["r1", "r2", "r2"]
    before = decides(root.store, settings, "2024-03-02")
    root.night(2, "again")
    assert decides(root.store, settings, "2024-03-02") == before
    root.night(3)
    assert start_of(root.store, settings, "2024-03-04").champion["ranker"].run_id == "r3"
    assert decides(root.store, settings, "2024-03-01") == {}


def test_a_full_night_that_readers_never_saw_is_tried_again(settings: Settings) -> None:
    root = Root(settings)
    kinds = [root.night(day, show=day not in (5, 6)) for day in range(1, 9)]
    assert kinds == [FULL, *[WARM] * 3, *[FULL] * 3, WARM]


def test_a_held_night_shows_lists_of_the_champion_and_the_next_goes_on_from_that(settings: Settings) -> None:
    root = Root(settings)
    for day in (1, 2):
        root.night(day)
    theirs = start_of(root.store, settings, "2024-03-02").champion
    root.lists("2024-03-02", "held", theirs, show=True)
    start = start_of(root.store, settings, "2024-03-03")
    assert start.champion["retrieval_model"].run_id == "r1"
    assert start.full_since == "2024-03-01"


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"enabled": False}, "enabled is false"), ({"full_every_nights": 1}, "was on 2024-03-01, 1 days ago")],
)
def test_a_full_night_says_why(settings: Settings, changes: dict[str, Any], says: str) -> None:
    root = Root(settings)
    assert "no champion yet" in start_of(root.store, settings, "2024-03-01").says
    root.night(1)
    warm = settings.warm_start.model_copy(update=changes)
    start = start_of(root.store, settings.model_copy(update={"warm_start": warm}), "2024-03-02")
    assert start.name == start.kind == FULL
    assert says in start.says
    assert start.facts() == {TRAINING: {"kind": FULL, "says": start.says, "full_since": "2024-03-02"}}


def test_a_champion_of_before_there_was_a_record_is_not_gone_on_from(settings: Settings) -> None:
    root = Root(settings)
    root.night(1, facts=False)
    assert "does not say when" in start_of(root.store, settings, "2024-03-02").says


def test_a_champion_that_is_lost_is_told_as_such(settings: Settings) -> None:
    """A night after it must not pass for a first one."""
    root = Root(settings)
    root.night(1)
    model = root.store.need("ranker", "2024-03-01")
    root.store.storage.delete_file(f"{model.folder}/file")
    says = start_of(root.store, settings, "2024-03-02").says
    assert "the champion is lost: files of the champion's model are missing or changed" in says
    assert model.folder in says
    assert "there is no champion yet" in start_of(root.store, settings, "2024-03-01").says


def test_what_a_kept_night_began_with_is_kept(settings: Settings) -> None:
    root = Root(settings)
    for day in range(1, 8):
        root.night(day)
    gone = plan_clearing(root.store, settings.retention).runs
    assert {dt for table, dt, _ in gone if table == "retrieval_model"} == {f"2024-03-0{day}" for day in range(1, 5)}


def test_another_beginning_has_another_name(settings: Settings) -> None:
    root = Root(settings)
    names = set()
    for day in (1, 2, 3):
        root.night(day)
        names.add(start_of(root.store, settings, "2024-03-04").name)
    assert len(names) == 3
    assert all(name.startswith(WARM) for name in names)


@pytest.mark.parametrize("change", [{"dim": 7}, {"temperature": 0.5}, {"loss": "bpr"}, {"bias": False}, {"seed": 9}])
def test_a_model_of_another_shape_is_told(settings: Settings, change: dict[str, Any]) -> None:
    ours = shape(settings)
    name, value = next(iter(change.items()))
    with pytest.raises(ValueError, match=f"{name} was {value!r}, now it is {ours[name]!r}"):
        _same_shape({**ours, **change}, ours)
    _same_shape(
        ours, shape(settings.model_copy(update={"retrieval": settings.retrieval.model_copy(update={"epochs": 9})}))
    )
    with pytest.raises(ValueError, match="neumf always trains anew"):
        _same_shape(ours, {**ours, "model": "neumf"})
    with pytest.raises(ValueError, match="ials always trains anew"):
        _same_shape(ours, {**ours, "fit": "ials"})


def test_a_snapshot_that_knows_what_must_be_guessed_is_refused(settings: Settings) -> None:
    theirs = dict(
        sorted({each.name: each.time for each in cuts("2024-03-01", settings.split)}.items())
    )  # as JSON has it
    _fitting_cuts(theirs, cuts("2024-03-02", settings.split))
    _fitting_cuts(theirs, cuts("2024-03-01", settings.split))
    longer = settings.split.model_copy(update={"test_days": settings.split.test_days + 2})
    with pytest.raises(ValueError, match="'ranker_1' is later than tonight's"):
        _fitting_cuts(theirs, cuts("2024-03-02", longer))
    with pytest.raises(ValueError, match="other cuts"):
        _fitting_cuts(theirs, cuts("2024-03-02", settings.split.model_copy(update={"ranker_windows": 3})))
