"""The index of nights, after whatever happened to them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nights_by_hand import add_night, add_outcome, day, facts

from recsys_spark.reporting.index import INDEX, keep_index, read_nights, render_index, write_index
from recsys_spark.tables import TableStore
from recsys_spark.tables.pointer import move_pointer
from recsys_spark.tables.store import Stamp


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    return TableStore(str(tmp_path))


def states(store: TableStore) -> dict[str, str]:
    return {night.dt: night.state for night in read_nights(store)}


def page(store: TableStore) -> str:
    return store.storage.read_bytes(write_index(store, "shop")).decode()


def test_every_night_has_a_row_and_every_figure_a_trend(store: TableStore) -> None:
    for number in range(3):
        add_night(store, number)
    html = page(store)
    links = re.findall(r'<a href="([^"]+)"', html)
    assert links == [f"../report/dt={day(n)}/run=report{n}/report.html" for n in (2, 1, 0)]
    assert all((Path(store.storage.path(INDEX)).parent / link).resolve().exists() for link in links)
    assert html.count("<figure>") == html.count('role="img"') == 9
    for shown in ("0.3140", "0.3040 – 0.3240", "0.2900", "109,000", "0.9 %", "1,020", "7.5 %", "32.0 %", "4 min 02 s"):
        assert shown in html, shown
    assert "<script" not in html
    assert set(states(store).values()) == {"shown"}


def test_nothing_yet(store: TableStore) -> None:
    assert "No night was done yet" in page(store)


def test_one_night_alone_and_hostile_names(store: TableStore) -> None:
    add_night(store, 0, failed=[{"level": "alarm", "says": "<b>"}])
    add_outcome(store, 0, "alarm", "most of all '<script>alert(1)</script>'")
    html = store.storage.read_bytes(write_index(store, "<img src=x>")).decode()
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    assert states(store) == {day(0): "shown, alarm"}


def test_a_night_that_is_held_failed_or_by_the_champion(store: TableStore) -> None:
    add_night(store, 0, "hold", shown=False)
    add_outcome(store, 1, "failed", "no column 'item'")  # never came to a report
    add_night(store, 2, "alarm", by_champion=True, champion=day(0))
    add_night(store, 3)
    add_outcome(store, 3, "failed")  # a second run of the day, after one that was shown
    assert states(store) == {
        day(0): "held",
        day(1): "failed",
        day(2): "shown, champion's model",
        day(3): "failed; earlier lists shown",
    }
    html = page(store)
    assert "no column &#39;item&#39;" in html
    assert f"champion of {day(0)}" in html


def test_a_hold_that_was_overruled_and_one_that_was_not(store: TableStore) -> None:
    for number in (0, 1):
        add_night(store, number, "hold")
        stamp = Stamp(day(number), "c", "watch", "f" * 32, "a" * 16, "0.0.0", {"top_n": f"lists{number * 5}"})
        store.storage.write_json(
            f"{store.folder('checks', stamp)}/_manifest.json", {**_manifest(stamp), "table": "checks"}
        )
        move_pointer(store.storage, "checks", day(number), "c", None)
    assert states(store) == {day(0): "shown by hand", day(1): "held; earlier lists shown"}


def _manifest(stamp: Stamp) -> dict[str, object]:
    from recsys_spark.tables.manifest import Manifest

    names = Manifest.__dataclass_fields__
    given = {**vars(stamp), "rows": 0, "bytes": 0, "files": [], "extra": {}, "created_at": "2024-03-01T00:00:00+00:00"}
    return {name: given.get(name, "") for name in names if name != "table"}


def test_going_back_and_taking_a_day_away(store: TableStore) -> None:
    for number in range(3):
        add_night(store, number)
    move_pointer(store.storage, "top_n", day(0), "older", None, "content")
    move_pointer(store.storage, "top_n", day(1), None, None, "content")
    move_pointer(store.storage, "top_n", day(2), "newer", None)
    assert states(store) == {day(0): "rolled back", day(1): "withdrawn", day(2): "shown, another run"}


def test_a_back_fill_takes_its_place_among_the_days(store: TableStore) -> None:
    add_night(store, 5)
    write_index(store, "shop")
    add_night(store, 2)
    html = page(store)
    assert html.index(day(5)) < html.index(f">{day(2)}<")
    add_night(store, 2, users=77)
    assert next(night for night in read_nights(store) if night.dt == day(2)).facts["users"] == 77


def test_figures_of_deleted_nights_are_kept(store: TableStore) -> None:
    for number in range(2):
        add_night(store, number)
    write_index(store, "shop")
    for table in ("report", "top_n"):
        store.storage.delete_folder(f"{table}/dt={day(0)}")
    newest, oldest = read_nights(store)
    assert (newest.state, oldest.state, oldest.link) == ("shown", "deleted", "")
    assert oldest.facts == facts(0)
    assert f'">{day(1)}</a>' in page(store)
    assert f"<td>{day(0)}</td>" in page(store)


def test_a_torn_file_costs_its_own_figures_alone(store: TableStore) -> None:
    for number in range(2):
        add_night(store, number)
    store.storage.write_bytes(f"_outcomes/dt={day(0)}.json", b"{")
    store.storage.write_bytes(f"top_n/dt={day(1)}/_current.json", b"[")
    assert states(store) == {day(0): "shown", day(1): "not shown"}


def test_the_same_root_gives_the_same_bytes(store: TableStore) -> None:
    for number in range(2):
        add_night(store, number)
    assert page(store) == page(store)


def test_what_goes_wrong_with_the_index_fails_nothing(store: TableStore, capsys: pytest.CaptureFixture[str]) -> None:
    add_night(store, 0)
    Path(store.storage.path("_reports")).write_text("a file where the folder should be")
    keep_index(store, "shop")
    assert "the index of nights was not written" in "".join(capsys.readouterr())


def test_many_nights_are_drawn_but_not_all() -> None:
    assert "No night" in render_index([], "shop")
