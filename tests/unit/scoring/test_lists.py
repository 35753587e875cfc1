"""Lists of a block against one made user by user, and what is left of them in Parquet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pairs import ITEMS, NOW, Events, _block, _state, events

from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.ragged import Rows
from recsys_spark.scoring.lists import SOURCES, Lists, best, fill, reasons_of
from recsys_spark.scoring.rows import Names, schema_of, to_arrow, writing
from recsys_spark.scoring.state import ItemState
from recsys_spark.tables.histories import UserBlock

VERSIONS: dict[str, str | None] = {"retrieval_version": "r", "ranker_version": "d"}
Row = tuple[int, int, str, str]  # rank, item, source, reason


def by_hand(
    user: int, known: UserBlock, state: ItemState, found: list[tuple[int, float]], n: int, hide: bool
) -> list[Row]:
    mine = known.slice(user, user + 1)
    had: dict[int, list[int]] = {}
    for item, time in zip(mine.items.tolist(), mine.times.tolist(), strict=True):
        had.setdefault(item, []).append(time)
    rows: list[Row] = []
    for item, _ in sorted(found, key=lambda each: (-each[1], each[0]))[:n]:
        reason = "taste"
        if item in had:
            reason = f"own:{len(had[item])}:{(NOW - max(had[item])) // SECONDS_PER_DAY}"
        rows.append((len(rows) + 1, item, "personal", reason))
    for item in state.popular.tolist():
        if len(rows) < n and item not in {each[1] for each in rows} and not (hide and item in had):
            rows.append((len(rows) + 1, item, "popular", f"popular:{state.recent_events[item]}"))
    return rows


@settings(deadline=None)
@given(events, st.integers(0, 2**32 - 1), st.integers(1, ITEMS + 2), st.booleans())
def test_lists_are_those_made_user_by_user(users: Events, seed: int, n: int, hide: bool) -> None:
    known, state, draw = _block(users), _state(len(users)), np.random.default_rng(seed)
    pairs = [(u, i) for u in range(len(users)) for i in draw.permutation(np.arange(2, ITEMS))[: draw.integers(0, 9)]]
    if hide:
        pairs = [(u, i) for u, i in pairs if i not in known.slice(u, u + 1).items]
    rows, items = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    logits = draw.integers(-2, 3, len(pairs)).astype(np.float32)  # many ties
    chosen = best(rows, items, logits, len(users), n)
    personal = chosen >= 0
    listed = np.where(personal, items[chosen] if len(items) else -1, -1).astype(np.int32)
    sources = fill(listed, known, state, known.distinct_items() if hide else Rows.empty(len(users)))
    assert np.array_equal(sources == 0, personal)
    lists = reasons_of(listed, known, state, sources, NOW)
    names = Names.of(pa.array([f"i{item}" for item in range(ITEMS)]))
    people = Names.of(pa.array([f"u{user}" for user in range(len(users))]))
    table, _ = to_arrow([lists], people, names, VERSIONS)
    told = table.to_pylist()
    for user in range(len(users)):
        found = [(item, logit) for row, item, logit in zip(rows, items.tolist(), logits, strict=True) if row == user]
        wanted = by_hand(user, known, state, found, n, hide)
        mine = [each for each in told if each["user_id"] == f"u{user}"]
        assert [(e["rank"], int(e["item_id"][1:]), e["source"], e["reason"]) for e in mine] == wanted
    assert all(each["retrieval_version"] == "r" and each["ranker_version"] == "d" for each in told)


def test_rows_in_parquet_are_plain_texts_and_numbers(tmp_path: Path) -> None:
    """Two blocks, each with words of its own."""
    blocks = [_block([[(300, 3), (310, 3)], []]), _block([[(320, 4)]])]
    state, lists = _state(3), []
    for block in blocks:
        items = np.array([[3, 5]] * len(block), np.int32)
        sources = np.zeros((len(block), 2), np.int32)
        sources[-1, -1] = SOURCES.index("popular")
        lists.append(reasons_of(items, block, state, sources, NOW))
    people, names = Names.of(pa.array(["a", "b", "c"])), Names.of(pa.array([str(item) for item in range(ITEMS)]))
    table, content = to_arrow(lists, people, names, VERSIONS)
    parts = [
        to_arrow(lists[:1], people.part(0, 2), names, VERSIONS),
        to_arrow(lists[1:], people.part(2, 3), names, VERSIONS),
    ]
    assert content == sum(part for _, part in parts)
    schema = schema_of(VERSIONS)
    with pq.ParquetWriter(tmp_path / "x.parquet", schema, **writing(schema)) as writer:
        writer.write_table(table)
        writer.write_table(table.slice(2))
    back = pq.ParquetFile(tmp_path / "x.parquet")
    assert {str(back.schema.column(place).logical_type) for place in (0, 2, 4, 5)} == {"String"}
    assert {each.type for each in back.schema_arrow} == {pa.string(), pa.int32(), pa.float32()}
    popular = f"popular:{state.recent_events[5]}"
    rows = [(e["user_id"], e["rank"], e["item_id"], e["source"], e["reason"]) for e in back.read().to_pylist()]
    assert rows == [
        ("a", 1, "3", "personal", "own:2:89"),
        ("a", 2, "5", "personal", "taste"),
        ("b", 1, "3", "personal", "taste"),
        ("b", 2, "5", "popular", popular),
        ("c", 1, "3", "personal", "taste"),
        ("c", 2, "5", "popular", popular),
        ("b", 1, "3", "personal", "taste"),
        ("b", 2, "5", "popular", popular),
        ("c", 1, "3", "personal", "taste"),
        ("c", 2, "5", "popular", popular),
    ]


@settings(deadline=None)
@given(events, st.integers(0, 2**32 - 1))
def test_a_new_item_is_explained_by_the_nearest_of_the_users_newest(users: Events, seed: int) -> None:
    known, state, draw = _block(users), _state(len(users)), np.random.default_rng(seed)
    items = draw.integers(2, ITEMS, (len(users), 3)).astype(np.int32)
    sources = np.where(np.diff(known.indptr)[:, None] > np.zeros(3), 0, SOURCES.index("popular")).astype(np.int32)
    names = pa.array([f"i:{item}" for item in range(ITEMS)])
    lists = reasons_of(items, known, state, sources, NOW, False, names)
    for user in range(len(users)):
        newest = known.slice(user, user + 1).items[::-1][:50].tolist()
        for place, item in enumerate(items[user].tolist()):
            word = lists.words[lists.reasons[user, place]]
            if not newest:
                assert word == f"popular:{state.recent_events[item]}"
                continue
            nearest = int(word.removeprefix("taste:i:"))
            cosines = {own: _cosine(state, item, own) for own in newest}
            assert nearest in cosines
            assert cosines[nearest] >= max(cosines.values()) - 1e-5


def _cosine(state: ItemState, one: int, other: int) -> float:
    a, b = (state.vectors[each, :-1].astype(np.float64) for each in (one, other))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_content_sees_each_value() -> None:
    """Of one row of two users: another user, item, place, score, source, reason or version, each is another content."""
    people, names = Names.of(pa.array(["a", "b"])), Names.of(pa.array(["x", "y", "z"]))

    def content(versions: dict[str, str] = VERSIONS, **changes: object) -> int:
        values = {"items": [[0, 1], [2, -1]], "scores": [[0.5, 0.25], [0.5, 0.0]], "sources": [[0, 0], [1, 0]],
                  "reasons": [[0, 1], [1, 0]], "words": ["taste", "own:1:1"], **changes}  # fmt: skip
        kinds = {"items": np.int32, "scores": np.float32, "sources": np.int32, "reasons": np.int32}
        arrays = {name: np.array(values[name], kind) for name, kind in kinds.items()}
        return to_arrow([Lists(**arrays, words=values["words"])], people, names, versions)[1]

    others = [
        content(items=[[1, 0], [2, -1]]),
        content(items=[[0, 1], [1, -1]]),
        content(
            items=[[0, -1], [2, 1]], scores=[[0.5, 0], [0.5, 0.25]], sources=[[0, 0], [1, 0]], reasons=[[0, 0], [1, 1]]
        ),
        content(scores=[[0.5, 0.25000003], [0.5, 0.0]]),
        content(sources=[[0, 0], [0, 0]]),
        content(reasons=[[1, 1], [1, 0]]),
        content(words=["taste", "own:1:2"]),
        content({"retrieval_version": "r", "ranker_version": "e"}),
        content(),
    ]
    assert len(set(others)) == len(others)
    assert content() == others[-1]
