"""What publish refuses: each promise broken once, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from recsys_spark.arms import A, B, in_arm_b
from recsys_spark.config import Settings
from recsys_spark.config.experiment import Experiment
from recsys_spark.scoring.promises import Promised, arm_problems, item_problems, place_problems, shape_problems
from recsys_spark.tables.layout import small_frame

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROWS = "user_id string, rank int, item_id string, score float"
GOOD = [("a", 1, "x", 0.9), ("a", 2, "y", 0.4), ("b", 1, "y", 0.8), ("b", 2, "z", -0.5)]


def _broken(spark: SparkSession, rows: list[tuple[str, int, str, float]], users: int = 2) -> set[str]:
    found = shape_problems(small_frame(spark, rows, ROWS), 2, users)
    return {name for name, count in found.items() if count}


def test_good_lists_pass(spark: SparkSession) -> None:
    assert _broken(spark, GOOD) == set()


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([("a", 1, "x", 0.9), ("a", 3, "y", 0.4), *GOOD[2:]], "users with gaps in ranks"),
        ([("a", 2, "x", 0.9), ("a", 2, "y", 0.4), *GOOD[2:]], "users with gaps in ranks"),
        ([*GOOD, ("b", 3, "w", -0.9)], "users with too many rows"),
        ([("a", 1, "x", 0.9), ("a", 2, "x", 0.4), *GOOD[2:]], "users with an item twice"),
        ([("a", 1, "x", 0.3), ("a", 2, "y", 0.4), *GOOD[2:]], "users with rising scores"),
        ([("a", 1, "x", math.nan), ("a", 2, "y", 0.4), *GOOD[2:]], "users with scores that are no numbers"),
        ([("a", 1, "x", math.inf), ("a", 2, "y", 0.4), *GOOD[2:]], "users with scores that are no numbers"),
        (GOOD[:2], "known users without a list"),
    ],
)
def test_a_broken_promise_is_named(spark: SparkSession, rows: list[Any], problem: str) -> None:
    assert problem in _broken(spark, rows)


def test_scores_may_rise_where_not_they_alone_decide(spark: SparkSession) -> None:
    rising = small_frame(spark, [("a", 1, "x", 0.3), ("a", 2, "y", 0.4)], ROWS)
    assert not any(shape_problems(rising, 2, 1, in_order=False).values())


# ---------------------------------------------------------------- arms of a test
def test_arms_are_those_of_the_ids_and_have_their_models(spark: SparkSession) -> None:
    test = Experiment(name="t", share=0.5)
    users = [f"u{number}" for number in range(40)]
    arms = [B if each else A for each in in_arm_b(users, "t", 0.5)]
    versions = {A: ("r1", "k1"), B: ("r2", "k2")}
    good = [(user, arm, *versions[arm]) for user, arm in zip(users, arms, strict=True)]

    def broken(rows: list[Any], versions: dict[str, tuple[str, str]] = versions, test: Experiment = test) -> list[int]:
        frame = small_frame(spark, rows, "user_id string, arm string, retrieval_version string, ranker_version string")
        return list(arm_problems(frame, test, versions).values())

    assert broken(good) == [0, 0]
    swapped = {A: B, B: A}
    assert broken([(user, swapped[arm], *versions[swapped[arm]]) for user, arm, *_ in good[:7]]) == [7, 0]
    assert broken([*good[1:], (users[0], arms[0], "r1", "k2")]) == [0, 1]
    assert broken([*good[1:], (users[0], None, "r1", "k1")]) == [1, 1]
    assert broken(good, {}) == [40]
    assert broken([(user, None, "r1", "k1") for user in users], {}) == [0]
    assert broken(good, test=Experiment()) == []


# ---------------------------------------------------------------- items, and rules
DT = "2024-03-10"
SEEN = [("a", "x", 1), ("a", "y", 9), ("b", "z", 1), ("b", "y", 9), ("c", "w", 5)]  # day of March
RULES = "item_id string, allowed boolean, pinned int, new boolean, caps array<bigint>"
PLAIN = {item: (True, 0, False, []) for item in "wxyz"}
Checked = Callable[..., set[str]]


@pytest.fixture
def checked(spark: SparkSession, tiny_settings: Callable[..., Settings], tmp_path: Path) -> Checked:
    """Names of the broken promises: ``checked(lists, rules={...}, items={...}, longest=4)``."""
    seen = small_frame(
        spark, [(*each, date(2024, 3, day)) for *each, day in SEEN], "user_id string, item_id string, day date"
    )
    events = seen.withColumn("event_time", seen["day"].cast("timestamp"))

    def check(
        lists: list[Any], rules: dict[str, Any] | None = None, items: dict[str, Any] = PLAIN, longest: int = 4
    ) -> set[str]:
        settings = tiny_settings(tmp_path, score={"n": 2}, rules=rules or {"hide_seen": "none"})
        promised = Promised(
            settings,
            DT,
            events,
            small_frame(spark, [(item, *values) for item, values in items.items()], RULES),
            longest,
        )
        rows = [(*row, "personal")[:5] for row in lists]
        frame = small_frame(spark, rows, f"{ROWS}, source string")
        found = item_problems(frame, promised) | place_problems(frame, promised)
        return {name for name, count in found.items() if count}

    return check


def test_items_must_be_of_the_catalogue_and_unseen_where_repeats_are_hidden(checked: Checked) -> None:
    assert checked(GOOD) == set()
    again = "items that the user already has"
    assert again in checked(GOOD, {"hide_seen": "all"})
    assert checked([("a", 1, "z", 0.9), ("a", 2, "w", 0.4)], {"hide_seen": "all"}) == set()
    ghost = [("a", 1, "ghost", 0.9), ("a", 2, "w", 0.1)]
    assert checked(ghost) == {"items outside the catalogue", "items that the rules forbid"}
    # in a window of two days: a had x on the 1st, y on the 9th
    assert checked([("a", 1, "x", 0.9), ("a", 2, "w", 0.4)], {"hide_seen": "window", "hide_days": 2}) == set()
    assert checked([("a", 1, "y", 0.9), ("a", 2, "w", 0.4)], {"hide_seen": "window", "hide_days": 2}) == {again}


def test_a_list_may_be_short_only_where_nothing_is_left(checked: Checked) -> None:
    short = "users with too short a list"
    assert checked(GOOD[:1]) == {short}
    assert checked(GOOD[:1], longest=1) == set()
    everything_but_one = [("c", 1, "x", 0.9)]
    assert checked(everything_but_one, {"hide_seen": "all"}) == {short}
    assert checked([("a", 1, "z", 0.9)], {"hide_seen": "all"}, PLAIN | {"w": (False, 0, False, [])}, 3) == set()
    caps = {"hide_seen": "none", "caps": [{"column": name, "most": 1} for name in ("brand", "kind")]}
    coded = {item: (True, 0, False, [0, 0]) for item in "wxyz"}
    assert checked(GOOD[:1], caps, coded, longest=2) == set()  # half of the longest, with two caps
    assert checked(GOOD[:1], caps, coded, longest=3) == {short}


def test_what_the_rules_forbid_is_found(checked: Checked) -> None:
    denied = PLAIN | {"y": (False, 0, False, [])}
    assert checked(GOOD, items=denied, longest=2) == {"items that the rules forbid"}


def test_caps_are_counted_by_value(checked: Checked) -> None:
    cap = {"hide_seen": "none", "caps": [{"column": "brand", "most": 1}]}
    alike = {"w": (True, 0, False, [7]), "x": (True, 0, False, [7]), "y": (True, 0, False, [7])}
    other, none = {"z": (True, 0, False, [8])}, {"z": (True, 0, False, [0])}
    assert checked(GOOD[:2], cap, alike | other, 2) == {"users with more of a value than a cap allows"}
    assert checked(GOOD[2:], cap, alike | other, 2) == set()
    unknown = {item: (True, 0, False, [0]) for item in "wxyz"}
    assert checked(GOOD, cap, unknown | none) == set()


def test_a_pinned_item_stands_at_its_rank_unless_it_is_hidden(checked: Checked) -> None:
    pin = {"pins": [{"item_id": "y", "rank": 2}]}
    pinned = PLAIN | {"y": (True, 2, False, [])}
    wrong = "pinned items that are not at their rank"
    assert checked(GOOD[:2], {"hide_seen": "none", **pin}, pinned) == set()
    assert checked(GOOD[2:], {"hide_seen": "none", **pin}, pinned) == {wrong}
    unseen = [("b", 1, "x", 0.9), ("b", 2, "w", 0.4)]  # b has y
    assert checked(unseen, {"hide_seen": "all", **pin}, pinned) == set()
    assert checked(unseen, {"hide_seen": "none", **pin}, pinned) == {wrong}


def test_places_for_new_items_hold_new_items_and_not_more(checked: Checked) -> None:
    explore = {"hide_seen": "none", "explore": {"places": 1}}
    fresh = PLAIN | {"n": (True, 0, True, []), "m": (True, 0, True, [])}
    row = ("a", 1, "x", 0.9, "personal")
    assert checked([row, ("a", 2, "n", -1.0, "explore")], explore, fresh) == set()
    assert checked([row, ("a", 2, "w", -1.0, "explore")], explore, fresh) == {"explored items that are not new"}
    two = [("a", 1, "m", -0.5, "explore"), ("a", 2, "n", -1.0, "explore")]
    assert checked(two, explore, fresh) == {"users with too many new items"}
    assert "items outside the catalogue" in checked([row, ("a", 2, "n", -1.0, "explore")], items=fresh)


def test_items_without_an_event_are_of_the_catalogue_where_new_ones_may_be_shown(
    spark: SparkSession, tiny_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = tiny_settings(tmp_path, score={"n": 2}, rules={"hide_seen": "none"}, cold={"items": True})
    events = small_frame(spark, [("a", "x")], "user_id string, item_id string")
    rules = small_frame(spark, [(item, *PLAIN["x"]) for item in "xn"], RULES)
    rows = [("a", 1, "x", 0.9, "personal"), ("a", 2, "n", 0.8, "personal")]
    lists = small_frame(spark, rows, f"{ROWS}, source string")
    for new_items, problems in ((False, 1), (True, 0)):
        cold = settings.cold.model_copy(update={"new_items": new_items})
        asked = settings.model_copy(update={"cold": cold})
        found = item_problems(lists, Promised(asked, DT, events, rules, 1))
        assert found["items outside the catalogue"] == problems


def test_personal_items_have_the_least_score(checked: Checked) -> None:
    least = {"hide_seen": "none", "min_score": 0.4}
    assert checked(GOOD[:2], least) == set()
    filled = [("a", 1, "x", 0.9, "personal"), ("a", 2, "y", -0.5, "popular")]
    assert checked(filled, least) == set()
    assert checked(GOOD[:2], {"hide_seen": "none", "min_score": 0.41}) == {"personal items below rules.min_score"}
