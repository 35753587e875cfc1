"""Settings of the sources of candidates: what is filled in, and what does not go together."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from recsys_spark.config import Settings, parse_settings
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
        "users": {"path": "users", "id": "u"},
    },
    "events": {"view": 1.0},
    "features": {"item": [{"name": "family"}], "user": [{"name": "age"}, {"name": "town", "hash_buckets": 8}]},
}
BOTH = [{"name": "retrieval"}, {"name": "repeat"}]


def _settings(**sections: Any) -> Settings:
    return parse_settings({**copy.deepcopy(TREE), **sections})


def test_by_default_there_are_retrieval_and_own_items_where_these_are_shown() -> None:
    candidates = _settings(candidates={"retrieved": 7, "own": 3}).candidates
    assert [(source.name, source.most) for source in candidates.resolved(True)] == [("retrieval", 7), ("repeat", 3)]
    assert [source.name for source in candidates.resolved(False)] == ["retrieval"]
    assert [source.name for source in _settings(candidates={"own": 0}).candidates.resolved(True)] == ["retrieval"]
    assert candidates.further() == []


def test_each_source_has_its_length() -> None:
    sources = [{"name": "item_knn"}, *BOTH, {"name": "content", "most": 4}]
    candidates = _settings(candidates={"retrieved": 7, "sources": sources}).candidates
    lengths = [(source.name, source.most) for source in candidates.resolved(True)]
    assert lengths == [("item_knn", 100), ("retrieval", 7), ("repeat", 400), ("content", 4)]
    assert candidates.further() == ["item_knn", "content"]


@pytest.mark.parametrize(
    ("sections", "part"),
    [
        ({"candidates": {"sources": [*BOTH, {"name": "repeat"}]}}, "names something twice"),
        ({"candidates": {"sources": [{"name": "repeat"}]}}, "lacks retrieval"),
        ({"candidates": {"sources": [*BOTH, {"name": "segment"}]}}, "segment needs segment.by"),
        ({"candidates": {"sources": [*BOTH, {"name": "magic"}]}}, "'item_knn'"),
        ({"candidates": {"segment": {"by": ["agee"]}}}, "['agee'] are no user features of kind category"),
        ({"candidates": {"segment": {"by": ["town"]}}}, "['town'] are no user features of kind category"),
        ({"cold": {"chain": ["segment"]}}, "segment needs candidates.segment.by"),
        ({"cold": {"chain": ["content", "content"]}}, "names something twice"),
        ({"cold": {"new_items": True}}, "new_items needs items: true"),
        ({"cold": {"items": True, "features": ["colour"]}}, "['colour'] are no item features"),
        ({"cold": {"items": True}, "features": {}}, "cold.items needs features.item"),
        ({"cold": {"chain": ["content"]}, "features": {}}, "cold.chain: content needs features.item"),
        ({"score": {"over": "catalogue"}}, "score.over 'catalogue' needs ranker.pair_features: false"),
        ({"score": {"over": "catalogue", "by": "retrieval"}}, "order is of the whole catalogue as it is"),
        (
            {"candidates": {"sources": [*BOTH, {"name": "content"}]}, "features": {}},
            "candidates.sources: content needs features.item",
        ),
    ],
)
def test_what_does_not_go_together_is_told(sections: dict[str, Any], part: str) -> None:
    with pytest.raises(RecsysError) as error:
        _settings(**sections)
    assert part in str(error.value)
    assert "\n" not in str(error.value)
