"""The ways to make lists, beside each other: compiled kernel, NumPy and torch, exact and by whole numbers.

Torch works on the processor here, and on a GPU too where there is one.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys_spark.ragged import Rows
from recsys_spark.scoring import on_device
from recsys_spark.scoring import top_k as module
from recsys_spark.scoring.codes import kept_by_codes
from recsys_spark.scoring.top_k import Catalogue

WAYS = {"compiled, where it is there": {}, "numpy": {"compiled": False}, "torch": {"device": "cpu"}}
if torch.cuda.is_available():
    WAYS["gpu"] = {"device": "cuda"}


def uneven(rng: np.random.Generator, rows: int, dim: int, kind: str) -> NDArray[np.float32]:
    vectors = rng.normal(size=(rows, dim))
    if kind == "popular":  # lengths of many sizes, and a last place like a bias
        vectors *= np.exp(rng.normal(size=(rows, 1)))
        vectors[:, -1] = -5 + 2 * rng.normal(size=rows)
    elif kind == "ties":
        vectors = rng.integers(-1, 2, (rows, dim)).astype(float)
    elif kind == "equal":
        vectors[:] = vectors[0]
    elif kind == "one place":  # the rest is lost in eight bits
        vectors[:, 0] *= 1e4
    elif kind == "tiny":
        vectors *= 1e-25
    elif kind == "huge":
        vectors *= 1e15
    elif kind == "mixed":
        vectors *= 10.0 ** rng.integers(-30, 4, (rows, 1))
    return vectors.astype(np.float32)


KINDS = ["even", "popular", "ties", "equal", "one place", "tiny", "huge", "mixed"]


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small cases reach maxima of groups, several blocks of users, and candidates in several pieces."""
    monkeypatch.setattr(module, "_MIN_GROUPS", 64)
    for name, small in (("_MIN_GROUPS", 64), ("_SCORES_AT_ONCE", 70_000), ("_PAIRS_AT_ONCE", 5_000)):
        monkeypatch.setattr(on_device, name, small)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(("kind", "dim", "precision"), list(product(KINDS, [1, 2, 9, 65], ["exact", "int8"])))
def test_all_ways_give_the_same_bits(kind: str, dim: int, precision: str) -> None:
    rng = np.random.default_rng([KINDS.index(kind), dim])
    users, items = uneven(rng, 40, dim, kind), uneven(rng, 4_000, dim, kind)
    seen = Rows.from_lists([rng.choice(4_000, rng.integers(0, 900), False) for _ in users])
    allowed = rng.random(4_000) < 0.9
    ways = [Catalogue(items, allowed, precision=precision, **way) for way in WAYS.values()]
    for k in (1, 40, 700, 4_100):
        found = [way.top_k(users, k, forbidden=seen, threads=3, block=17) for way in ways]
        assert len({(indices.tobytes(), scores.tobytes()) for indices, scores in found}) == 1


@pytest.mark.parametrize("precision", ["exact", "int8"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("users", "items"), [(0, 5), (3, 0), (0, 0), (2, 1)])
def test_of_nothing(way: dict[str, object], precision: str, users: int, items: int) -> None:
    catalogue = partial(Catalogue, np.ones((items, 3), np.float32), precision=precision, **way)
    vectors = np.ones((users, 3), np.float32)
    indices, scores = catalogue().top_k(vectors, 2)
    assert indices.tolist() == [[0 if items else -1, -1]] * users
    assert scores.tolist() == [[3.0 if items else -math.inf, -math.inf]] * users
    nobody = catalogue(np.zeros(items, bool)).top_k(vectors, 2)
    assert nobody[0].tolist() == [[-1, -1]] * users


# ---------------------------------------------------------------- lists that need not be exact
def by_definition(users: list[list[float]], items: list[list[float]], k: int, free: list[list[int]]) -> list[list[int]]:
    """Codes, sums and roundings one by one, two sorts; numbers of float32."""

    def codes(vector: list[float]) -> tuple[list[int], np.float32]:
        scale = np.float32(max((abs(value) for value in vector[:-1]), default=0.0)) / np.float32(127)
        return [round(float(np.float32(value) / scale)) if scale else 0 for value in vector[:-1]], scale

    lists, of_items = [], [codes(item) for item in items]
    for user, mine in zip(users, free, strict=True):
        numbers, scale = codes(user)
        rough = {}
        for item in mine:
            total = np.float32(sum(a * b for a, b in zip(numbers, of_items[item][0], strict=True)))
            rough[item] = total * of_items[item][1] * scale + np.float32(user[-1]) * np.float32(items[item][-1])
        kept = sorted(mine, key=lambda item: (-rough[item], item))[: kept_by_codes(k)]
        exact = {item: np.float32(math.fsum(a * b for a, b in zip(user, items[item], strict=True))) for item in kept}
        ranked = sorted(kept, key=lambda item: (-exact[item], item))[:k]
        lists.append(ranked + [-1] * (k - len(ranked)))
    return lists


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[float]], list[list[float]], int, list[list[int]]]:
    dim = draw(st.integers(1, 4))
    value = st.integers(-3, 3).map(float) | st.floats(-8, 8, width=16)  # their products and sums have no error
    vectors = st.lists(value, min_size=dim, max_size=dim)
    users = draw(st.lists(vectors, max_size=4))
    items = draw(st.lists(vectors, min_size=1, max_size=40))
    places = st.lists(st.integers(0, len(items) - 1), max_size=10)
    return users, items, draw(st.integers(1, 20)), [draw(places) for _ in users]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@settings(deadline=None)
@given(cases())
def test_lists_by_whole_numbers_are_as_they_are_defined(
    way: dict[str, object], case: tuple[list[list[float]], list[list[float]], int, list[list[int]]]
) -> None:
    users, items, k, seen = case
    vectors = [np.array(each, np.float32).reshape(len(each), len(items[0])) for each in (users, items)]
    found, _ = Catalogue(vectors[1], precision="int8", **way).top_k(vectors[0], k, forbidden=Rows.from_lists(seen))
    free = [sorted(set(range(len(items))) - set(each)) for each in seen]
    assert found.tolist() == by_definition(users, items, k, free)


def test_lists_by_whole_numbers_are_not_exact_but_nearly() -> None:
    rng = np.random.default_rng(1)
    users, items = (rng.normal(size=(count, 65)).astype(np.float32) for count in (200, 20_000))
    exact, scores = Catalogue(items).top_k(users, 10)
    rough, theirs = Catalogue(items, precision="int8").top_k(users, 10)
    same = sum(len(np.intersect1d(a, b)) for a, b in zip(exact, rough, strict=True)) / exact.size
    assert same > 0.999
    at = exact == rough
    assert (theirs[at] == scores[at]).all()
    items[:, 0], users[:, 0] = 1.0, 1e4  # beside which the other places are lost in eight bits
    assert (Catalogue(items, precision="int8").top_k(users, 10)[0] != Catalogue(items).top_k(users, 10)[0]).any()


@pytest.mark.parametrize("dim", [1_041, 1_042, 1_200])
def test_sums_that_float32_does_not_hold(dim: int) -> None:
    rng = np.random.default_rng(dim)
    users, items = (rng.uniform(0.9, 1, (count, dim)).astype(np.float32) for count in (5, 300))
    found = [Catalogue(items, precision="int8", **way).top_k(users, 20) for way in WAYS.values()]
    assert len({(indices.tobytes(), scores.tobytes()) for indices, scores in found}) == 1


def test_whole_numbers_need_more_room_in_float32() -> None:
    vector = np.full((1, 1), 1e19, np.float32)
    assert Catalogue(vector).top_k(vector, 1)[0].tolist() == [[0]]
    with pytest.raises(ValueError, match="beyond float32"):
        Catalogue(vector, precision="int8").top_k(vector, 1)
    with pytest.raises(ValueError, match="precision must be exact or int8, found bf16"):
        Catalogue(vector, precision="bf16")


# ---------------------------------------------------------------- torch
def test_a_process_that_allows_rough_products_gets_the_same_lists() -> None:
    rng = np.random.default_rng(1)
    users, items = (rng.normal(size=(count, 33)).astype(np.float32) for count in (9, 3_000))
    before, device = torch.get_float32_matmul_precision(), "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("medium")  # TensorFloat-32, or bfloat16, where the device is made for it
    try:
        found = Catalogue(items, device=device).top_k(users, 30)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert found[0].tobytes() == Catalogue(items, compiled=False).top_k(users, 30)[0].tobytes()
