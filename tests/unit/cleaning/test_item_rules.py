"""Rules of a shop judged item by item: expressions, lists, caps, boosts, pins, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark.cleaning.item_rules import STAGE, longest_list
from recsys_spark.config import Cap, Settings
from recsys_spark.errors import RecsysError
from recsys_spark.stage import run_stage
from recsys_spark.tables import TABLES, Manifest, TableStore
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.layout import small_frame
from recsys_spark.tables.store import Stamp

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DT = "2024-03-10"
END, DAY = 1_710_115_200, 86_400
IDS = {"tea": 2, "rusk": 3, "milk": 4, "soap": 5, "odd": 6, "bare": 7, "fresh": 8}
ITEMS = [
    # item_id, label, family, price, stock
    ("tea", "Tea", "drink", "3.5", "yes"),
    ("rusk", "Rusk", "bread", "2", "yes"),
    ("milk", "Milk", "drink", "12", "no"),
    ("soap", "Soap", " ", "n/a", "yes"),
    ("odd", "Odd", None, None, None),
    ("fresh", "Fresh", "drink", "1", "yes"),
]  # 'bare' has events and no row here
FIRST = {"tea": END - 90 * DAY, "rusk": END - 20 * DAY, "milk": END - 90 * DAY, "soap": END - 90 * DAY,
         "odd": END - 90 * DAY, "bare": END - 90 * DAY}  # fmt: skip
FEATURES = {
    "user": [],
    "item": [{"name": "family"}, {"name": "cost", "column": "price", "kind": "number"}],
    "group": [],
}
COLUMNS = {"stock": "string"}
Judge = Callable[..., tuple[Manifest, dict[str, dict[str, Any]]]]


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root with the tables that the stage reads."""
    root = tmp_path_factory.mktemp("shop")
    store, stamp = TableStore(str(root)), Stamp(DT, "run1", "test", "f" * 32, "a" * 16, "0.0.0", {})

    def write(table: str, rows: list[Any], schema: str) -> None:
        store.point(store.write(small_frame(spark, rows, schema).coalesce(1), table, stamp))

    columns = "item_id string, label string, attribute_family string, attribute_price string, attribute_stock string"
    write("items", ITEMS, columns)
    write("item_ids", [(index, item) for item, index in IDS.items()], TABLES["item_ids"].schema)
    stats = [("final", IDS[item], *[3] * 8, first) for item, first in FIRST.items()]
    write("item_stats", [*stats, ("test", IDS["fresh"], *[3] * 8, 0)], TABLES["item_stats"].schema)
    return root


@pytest.fixture
def judge(spark: SparkSession, shop: Path, tiny_settings: Callable[..., Settings], tmp_path: Path) -> Judge:
    """Run the stage under some rules: ``judge(where="price > 3")`` gives the manifest, and the rows by item id."""

    def run(n: int = 2, **rules: Any) -> tuple[Manifest, dict[str, dict[str, Any]]]:
        changed = {"features": FEATURES, "score": {"n": n}, "rules": {"columns": COLUMNS, **rules}}
        settings = tiny_settings(tmp_path, **changed).model_copy(update={"root": str(shop)})
        manifest = run_stage(STAGE, spark, settings, DT)["item_rules"]
        by_index = {
            row["item_index"]: row for row in read_parquet(TableStore(str(shop)).storage, manifest.folder).to_pylist()
        }
        return manifest, {item: by_index[index] for item, index in IDS.items()}

    return run


def which(rows: dict[str, dict[str, Any]], column: str) -> set[str]:
    return {item for item, row in rows.items() if row[column]}


def listed(path: Path, name: str, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path / name)
    return str(path / name)


def test_without_rules_all_is_allowed_and_new_is_what_came_late(judge: Judge) -> None:
    manifest, rows = judge()
    assert which(rows, "allowed") == set(IDS)
    assert which(rows, "new") == {"rusk", "fresh"}
    assert not which(rows, "boost")
    assert not which(rows, "pinned")
    assert not which(rows, "caps")
    assert manifest.extra["longest"] == 6  # fresh has no event before the end of the day
    assert which(judge(explore={"days": 10})[1], "new") == {"fresh"}


def test_an_expression_speaks_of_typed_columns_and_null_is_no(judge: Judge) -> None:
    _, rows = judge(where="price > 2.5 and stock is not null")
    assert which(rows, "allowed") == {"tea", "milk"}  # 'n/a' is no number, 12 is more than 2.5
    assert which(judge(where="label like '%u%' or item_id = 'odd'")[1], "allowed") == {"rusk", "odd"}


def test_boosts_add_up_and_odds_become_their_logarithm(judge: Judge) -> None:
    boosts = [{"where": "family = 'drink'", "multiply": 2.0}, {"where": "price < 3", "add": -0.5}]
    _, rows = judge(boosts=boosts)
    assert {item: row["boost"] for item, row in rows.items()} == pytest.approx(
        {"tea": log(2), "milk": log(2), "fresh": log(2) - 0.5, "rusk": -0.5, "soap": 0, "odd": 0, "bare": 0}
    )


def test_lists_allow_and_deny_and_what_they_name_in_vain_is_said(
    judge: Judge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    allow = listed(tmp_path, "allow.parquet", id=["tea", "rusk", "milk", "ghost", "tea"])
    (tmp_path / "deny.csv").write_text("sku\nmilk\n")
    deny = {"path": str(tmp_path / "deny.csv"), "format": "csv", "options": {"header": "true"}, "id": "sku"}
    manifest, rows = judge(allow={"path": allow, "id": "id"}, deny=deny)
    assert which(rows, "allowed") == {"tea", "rusk"}
    assert manifest.extra["longest"] == 2
    said = capsys.readouterr().out
    assert "rules: 1 of 4 ids of rules.allow are no items, such as 'ghost'" in said
    assert "rules.deny" not in said

    again, _ = judge(allow={"path": allow, "id": "id"}, deny=deny)
    assert again.run_id == manifest.run_id
    (tmp_path / "deny.csv").write_text("sku\nmilk\nrusk\n")
    changed, rows = judge(allow={"path": allow, "id": "id"}, deny=deny)
    assert changed.run_id != manifest.run_id
    assert which(rows, "allowed") == {"tea"}
    assert "only 1 items can stand in a list, lists will be shorter than 2" in capsys.readouterr().out


def test_caps_have_a_code_a_value_and_none_for_none(judge: Judge) -> None:
    manifest, rows = judge(caps=[{"column": "family", "most": 1}, {"column": "stock", "most": 5}])
    family, stock = ({item: row["caps"][cap] for item, row in rows.items()} for cap in (0, 1))
    assert family["tea"] == family["milk"] == family["fresh"] != family["rusk"]
    assert {item for item, code in family.items() if not code} == {"soap", "odd", "bare"}
    assert stock["tea"] == stock["soap"] != stock["milk"]
    assert manifest.extra["longest"] == 5  # one drink, one bread, three without a family


def test_pins_that_cannot_be_obeyed_are_left_out_and_said(
    judge: Judge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {
        "path": listed(tmp_path, "pins.parquet", item=["milk", "ghost", "odd"], place=[2, 3, 9]),
        "id": "item",
        "rank": "place",
    }
    pins = [{"item_id": "tea", "rank": 1}, {"item_id": "soap", "rank": 4}]
    _, rows = judge(5, pins=pins, pin_table=table, where="item_id <> 'soap'", caps=[{"column": "family", "most": 2}])
    assert {item: row["pinned"] for item, row in rows.items() if row["pinned"]} == {"tea": 1, "milk": 2}
    said = capsys.readouterr().out
    assert "1 pins have a rank beyond the 5 places" in said
    assert "pinned item 'ghost' is not in the catalogue" in said
    assert "pinned item 'soap' must not be shown" in said
    _, rows = judge(5, pins=pins, pin_table=table, caps=[{"column": "family", "most": 1}])
    assert {item: row["pinned"] for item, row in rows.items() if row["pinned"]} == {"tea": 1, "soap": 4}
    assert "pinned item 'milk' is over a cap" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rules", "parts"),
    [
        (
            {"where": "prize > 3"},
            ["no column 'prize'", "rules.where", "prize > 3", "Did you mean 'price'?", "rules.columns"],
        ),
        ({"where": "price >"}, ["no SQL expression", "rules.where"]),
        ({"where": "price + 1"}, ["of type double", "rules.where"]),
        ({"where": "max(price) > 1"}, ["refused", "rules.where"]),
        ({"where": "price < 0"}, ["no item of the catalogue may be shown", "price < 0"]),
        ({"caps": [{"column": "brand", "most": 1}]}, ["no column 'brand'", "rules.caps"]),
        ({"boosts": [{"where": "famly = 'x'", "add": 1}]}, ["no column 'famly'", "rules.boosts[0].where", "'family'"]),
        ({"where": "stock > 3"}, ["an expression cannot be worked out", "settings 'rules'", "rules.columns"]),
    ],
)
def test_a_wrong_rule_is_told_in_one_line(judge: Judge, rules: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(RecsysError) as error:
        judge(**rules)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ({"id": pa.array([], pa.string())}, "the list is empty"),
        ({"id": ["ghost"]}, "none of its 1 ids is an item"),
        ({"id": ["tea", None]}, "1 rows of the list hold no id"),
        ({"sku": ["tea"]}, "no column 'id'"),
        ({"id": [["tea"]]}, "array"),
    ],
)
def test_a_list_that_is_none_ends_the_night(judge: Judge, tmp_path: Path, rows: dict[str, Any], part: str) -> None:
    path = listed(tmp_path, "allow.parquet", **rows)
    with pytest.raises(RecsysError) as error:
        judge(allow={"path": path, "id": "id"})
    assert part in str(error.value)
    assert "allow.parquet" in str(error.value)


def test_pins_of_one_place_or_one_item_are_refused(judge: Judge, tmp_path: Path) -> None:
    for item, place, part in (("tea", 2, "item 'tea'"), ("milk", 1, "rank '1'")):
        path = listed(tmp_path, f"{item}.parquet", item=[item], place=[place])
        with pytest.raises(RecsysError, match=f"{part} is pinned twice"):
            judge(pins=[{"item_id": "tea", "rank": 1}], pin_table={"path": path, "id": "item", "rank": "place"})
    path = listed(tmp_path, "zero.parquet", item=["milk"], place=[0])
    with pytest.raises(RecsysError, match="no id, or no rank,"):
        judge(pin_table={"path": path, "id": "item", "rank": "place"})


def test_the_longest_list() -> None:
    caps = [Cap(column="a", most=2), Cap(column="b", most=3)]
    assert longest_list([], caps) == 0
    assert longest_list([([0, 0], 7)], caps) == 7
    assert longest_list([([1, 0], 7), ([1, 5], 1)], caps) == 2
    assert longest_list([([1, 5], 7), ([2, 5], 7), ([3, 5], 7), ([3, 0], 1)], caps) == 4
    assert json.dumps(longest_list([([], 3)], [])) == "3"
