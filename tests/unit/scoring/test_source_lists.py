"""Each source of candidates, their fusion, and lists filled by them, against slow references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from test_pairs import ITEMS, NOW, RECENT, Events, _block, _state, events

from recsys_spark.config import Features
from recsys_spark.ragged import Rows
from recsys_spark.scoring.candidates import SOURCES, Candidates, Plan, build_candidates
from recsys_spark.scoring.lists import SOURCES as FROM
from recsys_spark.scoring.lists import Chain, fill, reasons_of
from recsys_spark.scoring.pairs import feature_names
from recsys_spark.scoring.past import past_of
from recsys_spark.scoring.places import arrange
from recsys_spark.scoring.select import Pool, Selection
from recsys_spark.scoring.sources import state as source_state
from recsys_spark.scoring.sources.content import NEWEST
from recsys_spark.scoring.sources.found import Asked, Found, union
from recsys_spark.scoring.sources.fusion import Joined, Part, blend_columns, fit_blend, fuse, join
from recsys_spark.scoring.sources.similarity import fit_item_knn
from recsys_spark.scoring.sources.state import Segments, SourceState, segment_of_users
from recsys_spark.scoring.state import ItemState
from recsys_spark.tables.histories import UserBlock

NAMES = list(SOURCES)
seeds = st.integers(0, 2**32 - 1)
BARRED = 5  # an item that is not allowed


def _items_and_more(users: int, seed: int) -> tuple[ItemState, SourceState]:
    draw = np.random.default_rng(seed)
    state = _state(users)
    state.allowed[BARRED] = False
    similarity = np.round(draw.random((ITEMS, ITEMS)), 1).astype(np.float32) * (draw.random((ITEMS, ITEMS)) < 0.5)
    content = draw.integers(-1, 2, (ITEMS, 3)).astype(np.float32)
    content /= np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1e-9)
    content = np.column_stack([content, draw.integers(0, 3, ITEMS) / 20]).astype(np.float32)
    lists = [draw.permutation(np.arange(2, ITEMS))[: draw.integers(1, ITEMS - 2)] for _ in range(2)]
    counts = np.concatenate([np.sort(draw.integers(1, 4, len(each)))[::-1] for each in lists])
    of_user = draw.integers(-1, 2, users).astype(np.int32)
    segments = Segments(["s=a", "s=b, t=c"], Rows.from_lists([each.tolist() for each in lists]), counts, of_user)
    return state, SourceState(csr_matrix(similarity), content, segments, state.allowed)


def _hidden(block: UserBlock, seed: int) -> Rows:
    draw = np.random.default_rng(seed)
    return Rows.from_lists(
        [np.flatnonzero(draw.random(ITEMS) < draw.choice([0.0, 0.3, 1.0])).tolist() for _ in block.users]
    )


def _asked(block: UserBlock, state: ItemState, more: SourceState, hidden: Rows, least: int = 1) -> Asked:
    active = np.diff(block.indptr) >= least
    new = union(block.distinct_items(), hidden)
    return Asked(block, past_of(block, ITEMS, NOW), state, more, active, new, hidden)


def _worth(name: str, mine: list[tuple[int, int]], user: int, state: ItemState, more: SourceState) -> dict[int, float]:
    """Score of each item that the source may give the user, by its words."""
    had = [item for _, item in mine]
    if name == "retrieval":
        return dict(enumerate((state.vectors @ state.user_vectors[user]).tolist())) if mine else {}
    if name == "repeat":
        return {i: sum(0.5 ** ((400 - d) / 90) for d, j in set(mine) if j == i) for i in had}
    if name == "item_knn":
        near = more.similarity.toarray()
        sums = {i: sum(np.log1p(had.count(own)) * near[own, i] for own in set(had)) for i in range(ITEMS)}
        return {i: value for i, value in sums.items() if value > 0}
    if name == "content":
        newest = had[-NEWEST:]
        said, popular = more.content[:, :-1], more.content[:, -1]
        likes = np.mean([said[own] for own in newest], axis=0) if newest else np.zeros(3)
        if not likes.any():
            return {}
        return {i: float(likes @ said[i] + popular[i]) for i in range(ITEMS) if said[i].any()}
    segment = int(more.segments.of_user[user])
    if segment < 0 or not mine:
        return {}
    start, stop = more.segments.items.indptr[segment : segment + 2]
    return dict(zip(more.segments.items.row(segment).tolist(), more.segments.events[start:stop].tolist(), strict=True))


@settings(deadline=None, max_examples=60)
@given(events, seeds, st.integers(1, ITEMS + 1), st.sampled_from(NAMES))
def test_a_source_gives_the_best_that_are_allowed_and_not_hidden(
    users: Events, seed: int, most: int, name: str
) -> None:
    users = [sorted(each) for each in users]
    block = _block(users)
    state, more = _items_and_more(len(users), seed)
    asked = _asked(block, state, more, _hidden(block, seed))
    found = SOURCES[name](asked, most)
    assert (np.diff(found.rows) >= 0).all()
    for user, mine in enumerate(users):
        out = asked.hidden if name == "repeat" else asked.new
        assert out is not None
        free = [i for i in range(ITEMS) if state.allowed[i] and i not in out.row(user)]
        worth = {i: value for i, value in _worth(name, mine, user, state, more).items() if i in free}
        items = found.items[found.rows == user].tolist()
        scores = found.scores[found.rows == user]
        assert len(items) == min(most, len(worth))
        assert set(items) <= set(worth)
        assert scores.tolist() == pytest.approx([worth[i] for i in items], abs=1e-5)
        assert (np.diff(scores) <= 0).all()
        left = [value for i, value in worth.items() if i not in items]
        assert not items or max(left, default=-9) <= float(scores[-1]) + 1e-5
        order = list(zip((-scores).tolist(), items, strict=True))
        assert order == sorted(order)  # of equal scores, the smaller item first


@pytest.mark.parametrize("name", NAMES)
def test_nobody_and_nothing_allowed(name: str) -> None:
    state, more = _items_and_more(2, 1)
    nobody = _block([])
    assert len(SOURCES[name](_asked(nobody, state, more, Rows.empty(0)), 3).rows) == 0
    block, barred = _block([[(1, 3), (2, 4)], []]), np.zeros(ITEMS, bool)
    state, more = replace(state, allowed=barred), replace(more, allowed=barred)
    assert len(SOURCES[name](_asked(block, state, more, Rows.empty(2)), 3).rows) == 0


@pytest.mark.parametrize("name", ["item_knn", "content", "segment"])
def test_a_source_without_its_table_says_so(name: str) -> None:
    block = _block([[(1, 3)]])
    with pytest.raises(ValueError, match="there are no"):
        SOURCES[name](_asked(block, _state(1), SourceState(), Rows.empty(1)), 3)


# ---------------------------------------------------------------- fusion
def _joined(draw: np.random.Generator, users: int, sources: int) -> tuple[list[Found], Joined]:
    found = []
    for _ in range(sources):
        pairs = [(u, i) for u in range(users) for i in draw.permutation(ITEMS)[: draw.integers(0, 6)].tolist()]
        rows, items = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
        found.append(Found.of_pairs(rows, items, draw.integers(0, 4, len(pairs)).astype(np.float32), 99))
    return found, join(found, ITEMS)


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 8), st.sampled_from(["union", "weighted", "rrf", "learned"]))
def test_fusion_is_what_its_words_say(seed: int, most: int, kind: str) -> None:
    draw, users = np.random.default_rng(seed), 3
    found, joined = _joined(draw, users, 3)
    parts = tuple(Part(str(s), 9, weight, quota) for s, (weight, quota) in enumerate([(1.0, 0), (0.5, 2), (2.0, 1)]))
    blend = draw.normal(size=10)
    fused = fuse(joined, parts, kind, most, blend)
    for user in range(users):
        worth: dict[int, float] = {}
        sure = set()
        for place, (each, part) in enumerate(zip(found, parts, strict=True)):
            mine = each.rows == user
            items, scores = each.items[mine].tolist(), each.scores[mine].tolist()
            for rank, (item, score) in enumerate(zip(items, scores, strict=True), 1):
                low, high = min(scores), max(scores)
                scaled = (score - low) / (high - low) if high > low else 1.0
                told = {
                    "union": 0.0,
                    "weighted": part.weight * scaled,
                    "rrf": part.weight / (60 + rank),
                    "learned": float(blend[1 + 3 * place : 4 + 3 * place] @ [1.0, 61 / (60 + rank), scaled]),
                }
                worth[item] = worth.get(item, 0.0) + told[kind]
                if rank <= part.quota:
                    sure.add(item)
        order = sorted(worth, key=lambda i: (i not in sure, -round(worth[i], 12), i))
        kept = fused.items[fused.rows == user].tolist()
        if kind == "union":
            assert kept == sorted(worth)
        else:
            wanted = order[:most]
            assert kept == sorted(kept)
            assert len(kept) == len(wanted)
            assert sum(worth[i] for i in kept) == pytest.approx(sum(worth[i] for i in wanted))
            assert sure <= set(kept) or len(sure) > most


def test_a_blend_finds_the_weights_that_labels_were_drawn_by() -> None:
    draw = np.random.default_rng(3)
    columns = draw.normal(size=(60_000, 3))
    planted = np.array([-1.5, 1.0, 0.0, -0.7])
    target = draw.random(len(columns)) < 1 / (1 + np.exp(-(planted[0] + columns @ planted[1:])))
    assert fit_blend(columns, target) == pytest.approx(planted, abs=0.05)
    alike = np.repeat(columns[:, :1], 2, axis=1)  # two columns that are one: the ridge shares the weight
    weights = fit_blend(alike, target)
    assert weights[1] == pytest.approx(weights[2], rel=1e-6)
    assert np.isfinite(fit_blend(columns[:50], np.ones(50, bool))).all()


def test_a_blend_of_rare_labels_and_columns_that_add_up_is_found() -> None:
    """Where whole steps of Newton's method would go astray."""
    draw = np.random.default_rng(4)
    there = draw.random((40_000, 3)) < [0.5, 0.4, 0.3]
    there[:, 0] |= ~there.any(axis=1)  # each pair is from some source
    columns = np.concatenate([there, there * draw.random((40_000, 3)) ** 4], axis=1).astype(float)
    chance = 1 / (1 + np.exp(-(-7 + columns @ [0.5, 2.0, 0.0, 1.0, 6.0, 0.5])))
    target = draw.random(len(columns)) < chance
    weights = fit_blend(columns, target)
    inputs = np.concatenate([np.ones((len(columns), 1)), columns], axis=1)
    slope = inputs.T @ (1 / (1 + np.exp(-inputs @ weights)) - target) + np.r_[1e-6, np.ones(6)] * weights
    assert np.abs(slope).max() < 0.05  # it is the minimum of the loss
    assert weights[5] == pytest.approx(6.0, abs=1.0)


def test_nothing_joined_is_nothing_fused() -> None:
    nothing = Found.of_lists(np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32))
    joined = join([nothing, nothing], ITEMS)
    parts = (Part("a", 3), Part("b", 3))
    for kind in ("union", "weighted", "rrf", "learned"):
        assert len(fuse(joined, parts, kind, 5, np.zeros(7)).rows) == 0
    assert blend_columns(joined).shape == (0, 6)


# ---------------------------------------------------------------- candidates
@pytest.fixture
def given_sources(monkeypatch: pytest.MonkeyPatch) -> SourceState:
    """Further sources of a block of three users, in place of those in tables."""
    _, more = _items_and_more(3, 5)
    monkeypatch.setattr("recsys_spark.scoring.candidates.load_sources", lambda _: more)
    return more


USERS: Events = [[(300, 3), (310, 4), (320, 3)], [(350, 6)], []]


def _candidates(fusion: str, most: int, hidden: Rows | None = None, least: int = 1) -> Candidates:
    parts = tuple(Part(name, 4, quota=1 if name == "content" else 0) for name in NAMES)
    state, _ = _items_and_more(3, 5)
    blend = tuple(np.linspace(-1, 1, 1 + 3 * len(parts)).tolist())
    plan = Plan(parts, RECENT, fusion, most, None, blend, least)
    return build_candidates(_block(USERS), state, NOW, plan, hidden)


@pytest.mark.usefixtures("given_sources")
@pytest.mark.parametrize("fusion", ["union", "weighted", "rrf", "learned"])
def test_candidates_of_many_sources_keep_their_ranks_and_scores(fusion: str) -> None:
    found = _candidates(fusion, 6)
    names = feature_names(Features(group=["kind"]), ["item_knn", "content", "segment"])
    assert found.numbers.shape == (len(found.rows), len(names))
    for name in ("item_knn", "content", "segment"):
        each = found.found[name]
        told = {(u, i): (r, s) for u, i, r, s in zip(each.rows, each.items, each.ranks, each.scores, strict=True)}
        column = names.index(f"{name}_rank")
        for place, pair in enumerate(zip(found.rows, found.items, strict=True)):
            rank, score = found.numbers[place, column : column + 2]
            assert (np.isnan(rank) and np.isnan(score)) if pair not in told else (rank, score) == told[pair]
    lengths = np.bincount(found.rows, minlength=3)
    assert lengths[2] == 0
    assert lengths.max() <= 6 or fusion == "union"
    code = found.rows * ITEMS + found.items
    assert (np.diff(code) > 0).all()
    own = {(0, 3), (0, 4), (1, 6)}
    assert {pair for pair, o in zip(zip(found.rows, found.items, strict=True), found.own, strict=True) if o} <= own


@pytest.mark.usefixtures("given_sources")
def test_hidden_items_and_users_with_few_events_are_left_out() -> None:
    hidden = Rows.from_lists([[3, 7], [6], []])
    found = _candidates("union", 0, hidden)
    pairs = set(zip(found.rows.tolist(), found.items.tolist(), strict=True))
    assert not pairs & {(0, 3), (0, 7), (1, 6)}
    assert (0, 4) in pairs
    assert set(_candidates("union", 0, least=2).rows.tolist()) == {0}


# ---------------------------------------------------------------- lists
@settings(deadline=None, max_examples=60)
@given(events, seeds, st.integers(1, ITEMS), st.sampled_from([(), ("content",), ("segment",), ("content", "segment")]))
def test_lists_are_filled_by_the_chain_and_then_by_what_is_popular(
    users: Events, seed: int, n: int, chain: tuple[str, ...]
) -> None:
    users = [sorted(each) for each in users]
    known = _block(users)
    state, more = _items_and_more(len(users), seed)
    draw, hidden = np.random.default_rng(seed), _hidden(known, seed)
    items = np.full((len(users), n), -1, np.int32)
    for user in range(len(users)):
        first = draw.permutation(np.setdiff1d(np.arange(2, ITEMS), hidden.row(user)))[: draw.integers(0, n + 1)]
        items[user, : len(first)] = first
    before = items.copy()
    sources = fill(items, known, state, hidden, Chain(chain, more))
    for user, mine in enumerate(users):
        wanted = [(int(i), "personal") for i in before[user] if i >= 0]
        had = {item for _, item in mine}
        for name in chain:
            worth = _worth(name, mine or ([(1, 0)] if name == "segment" else []), user, state, more)
            taken = {i for i, _ in wanted} | had | set(hidden.row(user).tolist())
            free = {i: np.float32(v) for i, v in worth.items() if state.allowed[i] and i not in taken}
            got = items[user, len(wanted) : len(wanted) + min(len(free), n - len(wanted))].tolist()
            assert [free[i] for i in got] == pytest.approx(sorted(free.values(), reverse=True)[: len(got)], abs=1e-5)
            wanted += [(i, name) for i in got]
        for item in state.popular.tolist():
            if len(wanted) < n and item not in {i for i, _ in wanted} and item not in hidden.row(user):
                wanted.append((item, "popular"))
        found = [(int(i), FROM[s]) for i, s in zip(items[user], sources[user], strict=True) if i >= 0]
        assert found == wanted
    # the same where lists are not the best candidates alone: the candidates come from a pool then
    pool = Pool(before, np.zeros(before.shape), -np.cumsum(np.ones(before.shape), axis=1))
    places = arrange(pool, known, state, Selection(min_score=-9.0), n, hidden, NOW, Chain(chain, more))
    assert np.array_equal(places.items, items)
    there = items >= 0
    assert np.array_equal(places.sources[there], sources[there])


def test_rows_of_the_chain_say_why() -> None:
    known = _block([[(300, 3), (310, 4)], []])
    state = _state(2)
    content = np.eye(3, 4, dtype=np.float32)[np.arange(ITEMS) % 3]
    segments = Segments(["age=25-34, country=DE"], Rows.from_lists([[7, 8]]), np.array([5, 4]), np.zeros(2, np.int32))
    more = SourceState(None, content, segments, state.allowed)
    items, sources = np.array([[6, 10], [7, 9]], np.int32), np.array([[4, 4], [5, 1]], np.int32)
    names = pa.array([f"i:{item}" for item in range(ITEMS)])
    told = reasons_of(items, known, state, sources, NOW, True, names, more)
    said = [[told.words[word] for word in row] for row in told.reasons]
    popular = f"popular:{state.recent_events[9]}"
    assert said == [["content:i:3", "content:i:4"], ["segment:age=25-34, country=DE", popular]]
    brief = reasons_of(items, known, state, sources, NOW, True, None, more)
    assert [brief.words[word] for word in brief.reasons[0]] == ["content", "content"]


@settings(deadline=None)
@given(seeds)
def test_a_user_is_in_the_finest_segment_that_is_there(seed: int) -> None:
    draw = np.random.default_rng(seed)
    of_feature = draw.integers(0, 4, (20, 2)).astype(np.int32)
    possible = [(a,) for a in range(2, 4)] + [(a, b) for a in range(2, 4) for b in range(2, 4)]
    codes = [each for each in possible if draw.random() < 0.6]
    for user, found in enumerate(segment_of_users(of_feature, codes).tolist()):
        mine = [tuple(of_feature[user, :level].tolist()) for level in (2, 1)]
        fitting = [codes.index(each) for each in mine if each in codes]
        assert found == (fitting[0] if fitting else source_state.NO_SEGMENT)


def test_neighbours_of_some_items_are_those_among_all() -> None:
    draw = np.random.default_rng(2)
    matrix = csr_matrix((draw.random((30, 17)) < 0.3).astype(float))
    whole = fit_item_knn(matrix, 4).toarray()
    parts = [fit_item_knn(matrix, 4, block=3, part=part).toarray() for part in ((0, 5), (5, 6), (6, 17))]
    assert np.array_equal(sum(parts), whole)
    assert not parts[1][6:].any()
