from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from recsys_spark.config import Settings, load_settings, parse_settings
from recsys_spark.errors import RecsysError

TREE: dict[str, Any] = {
    "name": "shop",
    "root": "tables",
    "input": {
        "interactions": {
            "path": "log",
            "user_id": "u",
            "item_id": "i",
            "event_time": "t",
            "constant_event_type": "view",
        },
        "items": {"path": "items", "id": "i"},
    },
    "events": {"view": 1.0},
    "features": {"item": [{"name": "family"}, {"name": "price", "kind": "number"}], "group": ["family"]},
}


def with_change(path: str, value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(TREE)
    *parents, last = path.split(".")
    place = tree
    for part in parents:
        place = place.setdefault(part, {})
    place[last] = value
    return tree


def write(folder: Path, tree: Any) -> Path:
    path = folder / "settings.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return path


def told(error: pytest.ExceptionInfo[RecsysError]) -> str:
    """The message, which must be one line and name where it was found."""
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(error.value.where + ": ")
    return message


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, TREE))
    assert settings == parse_settings(TREE)
    assert (settings.retrieval.dim, settings.clean.earliest) == (64, "1990-01-01")


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_settings(TREE).retrieval.dim = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("retrieval.dimm", 3, ["unknown key 'retrieval.dimm'", "Did you mean 'dim'?"]),
        ("retreival", {}, ["unknown key 'retreival'", "Did you mean 'retrieval'?"]),
        ("zzzzqqqq", 3, ["unknown key 'zzzzqqqq'", "recsys-spark settings"]),
        ("retrieval.dim", "many", ["setting 'retrieval.dim'", "integer", "'many'"]),
        ("retrieval.dim", 0, ["setting 'retrieval.dim'", "greater than or equal to 1", "given: 0"]),
        ("retrieval.learning_rate", float("nan"), ["setting 'retrieval.learning_rate'", "nan"]),
        ("retrieval.learning_rate", float("inf"), ["setting 'retrieval.learning_rate'", "finite"]),
        ("events", {"view": float("nan")}, ["setting 'events.view'", "finite"]),
        ("events", {}, ["setting 'events'", "at least 1"]),
        ("split", None, ["setting 'split'"]),
        ("split.ranker_windows", 0, ["setting 'split.ranker_windows'", "given: 0"]),
        ("buckets", 100_000, ["setting 'buckets'", "32768"]),
        ("launch", {"ranks": 2}, ["setting 'launch'", "launcher 'local' is one process"]),
        ("clean.earliest", "soon", ["setting 'clean.earliest'", "YYYY-MM-DD", "'soon'"]),
        ("clean.earliest", "1960-01-01", ["setting 'clean.earliest'", "1970"]),
        ("input.interactions.event_type", "k", ["setting 'input.interactions'", "exactly one of"]),
        ("input.interactions.constant_event_type", None, ["setting 'input.interactions'", "exactly one of"]),
        ("input.interactions.format", "xlsx", ["setting 'input.interactions.format'", "parquet", "'xlsx'"]),
        ("features.group", ["famly"], ["features.group", "famly", "family"]),
        ("features.group", ["price"], ["features.group", "price", "category"]),
        ("features.item", [{"name": "a"}, {"name": "a"}], ["features", "'a'", "twice"]),
        ("features.user", [{"name": "index"}], ["features", "'index'"]),
        ("score", {"repeats": True}, ["setting 'score'", "rules.hide_seen", "'none' for repeats true"]),
        ("rules.boosts", [{"where": "a", "add": 1, "multiply": 2}], ["rules.boosts.0", "exactly one of"]),
        ("rules.boosts", [{"where": "a", "multiply": 0}], ["rules.boosts.0.multiply", "greater than 0"]),
        ("rules.caps", [{"column": "a", "most": 1}] * 2, ["setting 'rules'", "caps: column 'a' is there twice"]),
        ("rules.pins", [{"item_id": "a", "rank": 21}], ["'a' has a rank beyond", "20 places"]),
        ("rules.pins", [{"item_id": x, "rank": 1} for x in "ab"], ["pins: rank '1' is there twice"]),
        ("rules.explore", {"places": 21}, ["0 pins and 21 explore.places", "score.n is 20"]),
        ("rules.columns", {"price": "money"}, ["rules.columns.price", "'money'"]),
        ("diversity", {"method": "dpp", "pool": 19}, ["diversity.pool is 19", "20 places"]),
        ("diversity.trade_off", 1.5, ["setting 'diversity.trade_off'", "less than or equal to 1"]),
    ],
)
def test_a_wrong_value_is_told_in_one_line(key: str, value: Any, parts: list[str]) -> None:
    with pytest.raises(RecsysError) as error:
        parse_settings(with_change(key, value), "conf/shop.yaml")
    message = told(error)
    assert error.value.where == "conf/shop.yaml"
    for part in parts:
        assert part in message


@pytest.mark.parametrize("key", ["name", "root", "input", "events"])
def test_a_missing_section_is_named(key: str) -> None:
    tree = {name: value for name, value in TREE.items() if name != key}
    with pytest.raises(RecsysError) as error:
        parse_settings(tree)
    assert f"setting '{key}': Field required" in told(error)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("name: [1, 2", "not valid YAML"),
        ("- a\n- b\n", "not a mapping"),
        ("", "not a mapping"),
        ("just text", "not a mapping"),
        ("!!python/object:os.system {}", "not valid YAML"),
    ],
)
def test_what_is_no_settings_file(tmp_path: Path, content: str, part: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(RecsysError) as error:
        load_settings(path)
    assert part in told(error)
    assert error.value.where == str(path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"name: \xff\xfe\x00")
    with pytest.raises(RecsysError, match="not valid YAML"):
        load_settings(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(RecsysError) as error:
            load_settings(path)
        assert "cannot read the settings" in told(error)
        assert str(path) in told(error)


def test_overrides_are_read_as_yaml(tmp_path: Path) -> None:
    settings = load_settings(
        write(tmp_path, TREE),
        [
            "retrieval.dim=32",
            "rules.hide_seen=none",
            "ranker.hidden=[16, 8]",
            "clean.min_value=null",
            "root=a=b",
            "events.buy=2.5",
            "evaluate={ks: [3]}",
            "clean.earliest=2001-02-03",
        ],
    )
    assert settings.retrieval.dim == 32
    assert settings.rules.hide_seen == "none"
    assert settings.ranker.hidden == [16, 8]
    assert settings.clean.min_value is None
    assert settings.root == "a=b"
    assert settings.events == {"view": 1.0, "buy": 2.5}
    assert settings.evaluate.ks == [3]
    assert settings.clean.earliest == "2001-02-03"


def test_the_last_override_wins(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, TREE), ["score.n=3", "score.n=4"]).score.n == 4


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("retrieval.dim", "no change of a setting"),
        ("=3", "no change of a setting"),
        ("name.first=3", "'name' of 'name.first' has a value"),
        ("ranker.hidden=[1", "not valid YAML"),
        ("retrieval.dimm=3", "Did you mean 'dim'?"),
        ("retrieval.dim=x", "setting 'retrieval.dim'"),
    ],
)
def test_a_wrong_override(tmp_path: Path, override: str, part: str) -> None:
    with pytest.raises(RecsysError) as error:
        load_settings(write(tmp_path, TREE), [override])
    assert part in told(error)


def test_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DATA", "/data")
    path = write(tmp_path, with_change("input.interactions.path", "${SHOP_DATA}/log"))
    assert load_settings(path, ["root=${SHOP_DATA}/out"]).root == "/data/out"
    assert load_settings(path).input.interactions.path == "/data/log"
    monkeypatch.delenv("SHOP_DATA")
    with pytest.raises(RecsysError) as error:
        load_settings(path)
    assert "the variable SHOP_DATA is not set" in told(error)


def test_the_hash_of_a_section_changes_with_it_and_with_nothing_else() -> None:
    changes: dict[str, Any] = {
        "retrieval.dim": 7,
        "ranker.hidden": [3],
        "split.test_days": 5,
        "score.n": 3,
        "events": {"view": 2.0},
        "input.interactions.path": "other",
        "features.recent_days": 3,
        "launch.threads": 2,
    }
    base = parse_settings(TREE)
    sections = [name for name in Settings.model_fields if name != "name"]
    before = {name: base.section_hash(name) for name in sections}
    assert len(set(before.values())) == len(sections)
    for key, value in changes.items():
        changed = parse_settings(with_change(key, value))
        moved = [name for name in sections if changed.section_hash(name) != before[name]]
        assert moved == [key.split(".")[0]]
    assert base.section_hash("split", "ranker") == base.section_hash("ranker", "split")
    assert parse_settings(copy.deepcopy(TREE)).section_hash(*sections) == base.section_hash(*sections)


def test_the_hash_of_a_key_changes_with_it_and_not_with_its_section() -> None:
    base = parse_settings(TREE)
    same, other = (parse_settings(with_change(f"ranker.{key}", 0.4)) for key in ("dropout", "negative_share"))
    assert same.section_hash("ranker.negative_share") == base.section_hash("ranker.negative_share")
    assert other.section_hash("ranker.negative_share") != base.section_hash("ranker.negative_share")


def test_features_need_a_table_to_come_from(tmp_path: Path) -> None:
    tree = copy.deepcopy(TREE)
    tree["input"].pop("users", None)
    tree["features"] = {"user": [{"name": "age"}]}
    with pytest.raises(RecsysError, match=r"features\.user needs input\.users"):
        parse_settings(tree)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_weights_are_above_zero(weight: float) -> None:
    with pytest.raises(RecsysError, match="weights must be above 0"):
        parse_settings({**TREE, "events": {"view": weight}})


def test_a_window_of_hidden_items_needs_times(tmp_path: Path) -> None:
    tree = with_change("rules.hide_seen", "window")
    assert parse_settings(tree).rules.hide_days == 28
    with pytest.raises(RecsysError, match="needs split"):
        parse_settings({**tree, "split": {"kind": "random"}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rules.boosts", [{"where": "a", "add": 1}]),
        ("rules.pins", [{"item_id": "a", "rank": 1}]),
        ("rules.pin_table", {"path": "p", "id": "i", "rank": "r"}),
        ("rules.explore", {"places": 1}),
        ("diversity.method", "mmr"),
        ("diversity.long_tail", 0.1),
    ],
)
def test_scores_are_in_order_where_the_models_decide_alone(key: str, value: Any) -> None:
    assert parse_settings(TREE).in_order_of_score
    assert parse_settings(with_change("rules.caps", [{"column": "a", "most": 1}])).in_order_of_score
    assert parse_settings(with_change("diversity", {"method": "mmr", "trade_off": 0})).in_order_of_score
    assert not parse_settings(with_change(key, value)).in_order_of_score


def test_a_later_file_changes_the_earlier_key_by_key(tmp_path: Path) -> None:
    base = write(tmp_path, {**TREE, "spark": {"master": "local[1]", "conf": {"a": "1", "b": "2"}}})
    over = tmp_path / "over.yaml"
    over.write_text(yaml.safe_dump({"spark": {"master": "yarn", "conf": {"b": "3"}}}))
    settings = load_settings(f"{base},{over}", ["spark.conf.a=four"])
    assert (settings.spark.master, settings.spark.conf) == ("yarn", {"a": "four", "b": "3"})
    assert settings.model_copy(update={"spark": load_settings(base).spark}) == load_settings(base)


def test_the_file_of_several_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecsysError) as error:
        load_settings(f"{write(tmp_path, TREE)},{tmp_path / 'gone.yaml'}")
    assert told(error).startswith(str(tmp_path / "gone.yaml"))
