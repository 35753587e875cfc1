"""Windows and the moment against loops that read like their words."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.config import Features
from recsys_spark.scoring.moment import moment_columns, moment_names
from recsys_spark.scoring.past import past_of
from recsys_spark.scoring.state import ItemState, ItemWindow
from recsys_spark.scoring.windows import window_columns, window_names
from recsys_spark.tables.histories import UserBlock

ITEMS, TODAY, WINDOWS = 9, 19_800, [7, 30]
NOW = TODAY * SECONDS_PER_DAY
Events = list[list[tuple[int, int, int]]]  # for each user: (day, item, second of the day)

events = st.lists(
    st.lists(
        st.tuples(st.integers(TODAY - 60, TODAY - 1), st.integers(2, ITEMS - 1), st.integers(0, 86_399)), max_size=20
    ),
    min_size=1,
    max_size=4,
)


def _block(users: Events) -> UserBlock:
    ordered = [sorted((day * SECONDS_PER_DAY + second, item) for day, item, second in each) for each in users]
    flat = [event for each in ordered for event in each]
    return UserBlock(
        users=np.arange(len(users), dtype=np.int32),
        indptr=np.cumsum([0, *[len(each) for each in ordered]]).astype(np.int64),
        items=np.array([item for _, item in flat], dtype=np.int32),
        times=np.array([time for time, _ in flat], dtype=np.int64),
        weights=np.ones(len(flat), dtype=np.float32),
    )


def _state(users: Events) -> ItemState:
    """Items as these users alone have made them."""
    triples = [{(TODAY - day, item) for day, item, _ in each} for each in users]
    windows = {}
    for days in WINDOWS:
        of_item = [[sum(a <= days and i == item for a, i in mine) for mine in triples] for item in range(ITEMS)]
        counts = np.array(of_item, dtype=np.int64).reshape(ITEMS, len(users))
        windows[days] = ItemWindow(counts.sum(1), (counts > 0).sum(1), (counts > 1).sum(1))
    zeros = np.zeros(ITEMS, np.int64)
    last = [
        max((d * 86_400 + s for each in users for d, i, s in each if i == item), default=0) for item in range(ITEMS)
    ]
    names = ("events", "recent_events", "users", "recent_users", "newest_users", "earlier_users", "repeat_users")
    return ItemState(
        vectors=np.zeros((ITEMS, 1), np.float32),
        user_vectors=np.zeros((len(users), 1), np.float32),
        **dict.fromkeys(names, zeros),
        first_users=zeros,
        first_time=zeros,
        allowed=np.ones(ITEMS, bool),
        popular=np.zeros(0, np.int32),
        groups={"kind": (np.arange(ITEMS) % 3).astype(np.int32)},
        windows=windows,
        last_time=np.array(last, np.int64),
        moment=("weekday", "season", "hour", "last"),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _expected(users: Events, row: int, item: int, days: int) -> dict[str, float]:
    all_mine = [{(TODAY - day, i) for day, i, _ in each} for each in users]
    inside = [{(age, i) for age, i in mine if age <= days} for mine in all_mine]
    mine = inside[row]
    of_pair, of_item = sum(i == item for _, i in mine), sum(i == item for each in inside for _, i in each)
    of_group = sum(i % 3 == item % 3 and item % 3 != 0 for _, i in mine)
    again = sum(any(j == i and older > age for older, j in all_mine[row]) for age, i in mine)
    counts = [sum(i == item for _, i in each) for each in inside]
    found = {
        "days": of_pair,
        "share": _ratio(of_pair, len(mine)),
        "of_item": _ratio(of_pair, of_item),
        "kind_days": of_group,
        "kind_share": _ratio(of_group, len(mine)),
        "user_visits": len({age for age, _ in mine}),
        "user_days": len(mine),
        "user_repeat": _ratio(again, len(mine)),
        "item_days": of_item,
        "item_share": _ratio(of_item, sum(len(each) for each in inside)),
        "item_repeat": (sum(n > 1 for n in counts) + 0.5) / (sum(n > 0 for n in counts) + 2.0),
    }
    return {f"{name}_{days}d": float(value) for name, value in found.items()}


@settings(max_examples=50, deadline=None)
@given(events)
def test_windows_are_what_their_words_say(users: Events) -> None:
    state = _state(users)
    rows, items = (grid.ravel() for grid in np.meshgrid(np.arange(len(users)), np.arange(2, ITEMS), indexing="ij"))
    columns = window_columns(past_of(_block(users), ITEMS, NOW), rows, items, state, NOW)
    names = window_names(WINDOWS, ["kind"])
    assert len(columns) == len(names)
    for place, (row, item) in enumerate(zip(rows.tolist(), items.tolist(), strict=True)):
        got = {name: float(column[place]) for name, column in zip(names, columns, strict=True)}
        for days in WINDOWS:
            for name, value in _expected(users, row, item, days).items():
                assert got[name] == pytest.approx(value, nan_ok=True), name
        ages = [TODAY - day for each in users for day, i, _ in each if i == item]
        assert got["item_days_since"] == pytest.approx(min(ages, default=math.nan), nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(events)
def test_the_moment_is_what_its_words_say(users: Events) -> None:
    rows, items = (grid.ravel() for grid in np.meshgrid(np.arange(len(users)), np.arange(2, ITEMS), indexing="ij"))
    state = _state(users)
    names = moment_names([*state.moment])
    columns = moment_columns(past_of(_block(users), ITEMS, NOW), rows, items, state.moment, NOW)
    assert len(columns) == len(names)
    begins = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=TODAY)
    angle = 2 * math.pi * (begins.timetuple().tm_yday - 1) / 365.25
    for place, (row, item) in enumerate(zip(rows.tolist(), items.tolist(), strict=True)):
        got = {name: float(column[place]) for name, column in zip(names, columns, strict=True)}
        times = sorted(datetime.fromtimestamp(day * 86_400 + s, UTC) for day, _, s in users[row])
        dates = {time.date() for time in times}
        of_item = {datetime.fromtimestamp(day * 86_400, UTC).date() for day, i, _ in users[row] if i == item}
        same = [sum(date.weekday() == begins.weekday() for date in each) for each in (dates, of_item)]
        turns = [2 * math.pi * (t.hour * 3600 + t.minute * 60 + t.second) / 86_400 for t in times]
        expected = {
            "cut_weekday": begins.weekday(),
            "user_weekday_share": _ratio(same[0], len(dates)),
            "weekday_share": _ratio(same[1], len(of_item)),
            "cut_season_sin": math.sin(angle),
            "cut_season_cos": math.cos(angle),
            "user_hour_sin": _ratio(sum(math.sin(t) for t in turns), len(turns)),
            "user_hour_cos": _ratio(sum(math.cos(t) for t in turns), len(turns)),
            "user_last_hour": times[-1].hour if times else math.nan,
            "user_last_weekday": times[-1].weekday() if times else math.nan,
        }
        assert got == pytest.approx(expected, nan_ok=True)


def test_nothing_is_asked_by_default() -> None:
    default = Features()
    assert window_names(default.windows, ["kind"]) == []
    assert moment_names([*default.moment]) == []
