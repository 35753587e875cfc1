"""What a champion's codes follow from, against tonight's."""

from __future__ import annotations

from typing import Any

import pytest

from recsys_spark.evaluation.champion import other_codes

FIELDS = {
    "user": {"codes": ["index", "age"], "weighted": [], "dense": ["income"]},
    "item": {"codes": ["brand", "words"], "weighted": ["words"], "dense": []},
}


def spec() -> dict[str, dict[str, dict[str, Any]]]:
    return {
        "user": {
            "age": {"kind": "number", "form": "codes", "encoding": "buckets", "size": 10, "length": 1, "bounds": [1]},
            "income": {"kind": "number", "form": "dense", "encoding": "log", "shift": 0.0},
        },
        "item": {
            "brand": {"kind": "category", "form": "codes", "size": 30, "length": 1, "known": 28},
            "words": {"kind": "text", "form": "weighted", "size": 66, "length": 8, "hash_buckets": 64},
        },
    }


def test_what_may_change_from_night_to_night() -> None:
    tonight = spec()
    tonight["item"]["brand"] |= {"size": 35, "known": 33}
    tonight["user"]["age"]["bounds"] = [2]
    tonight["user"]["income"]["shift"] = -1.0
    assert other_codes(FIELDS, spec(), tonight) == ""


@pytest.mark.parametrize(
    ("side", "name", "changes", "says"),
    [
        ("item", "words", {"hash_buckets": 128, "size": 130}, "other hashed codes: 64 then, 128 tonight"),
        ("item", "words", {"hash_buckets": None}, "other hashed codes: 64 then, none tonight"),
        ("item", "brand", {"hash_buckets": 8}, "other hashed codes: none then, 8 tonight"),
        ("item", "brand", {"kind": "list", "length": 4}, "other kind: category then, list tonight"),
        ("item", "words", {"length": 4}, "other values in a row: 8 then, 4 tonight"),
        ("user", "age", {"size": 18}, "other codes: 10 then, 18 tonight"),
        ("user", "age", {"encoding": "bands"}, "other encoding: buckets then, bands tonight"),
        ("user", "income", {"encoding": "standard"}, "other encoding: log then, standard tonight"),
    ],
)
def test_the_first_difference_is_told(side: str, name: str, changes: dict[str, Any], says: str) -> None:
    tonight = spec()
    tonight[side][name] |= changes
    assert other_codes(FIELDS, spec(), tonight) == f"the {side} feature '{name}' has {says}"


def test_a_field_that_one_night_does_not_know_is_an_error() -> None:
    tonight = spec()
    del tonight["item"]["brand"]
    with pytest.raises(KeyError, match="brand"):
        other_codes(FIELDS, spec(), tonight)
