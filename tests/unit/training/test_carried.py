"""Rows of embedding tables from night to night: by value, whatever the codes have become."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recsys_spark.training.carried import NOTHING, Field, carried, carry, vocabulary_of


def value_field(hashed: int, values: dict[str, int]) -> Field:
    return Field(hashed + max(values.values(), default=1) + 1, "value", values)


def test_a_value_is_found_wherever_its_code_was() -> None:
    """Against a dictionary of what each row means, for vocabularies that grew, shrank, were begun anew or hashed."""
    vocabularies = [{"a": 2, "b": 3, "c": 4}, {"a": 2, "c": 4, "d": 7}, {"c": 2, "b": 3, "x": 4}, {}]
    for hashed, others in ((0, 0), (0, 3), (3, 3), (3, 2)):
        for before in vocabularies:
            for now in vocabularies:
                old, new = value_field(hashed, before), value_field(others, now)
                meaning = {0: "none", 1: "unseen"} | {code + hashed: f"={value}" for value, code in before.items()}
                if hashed == others:
                    meaning |= {2 + place: f"hash {place}" for place in range(hashed)}
                ours = {0: "none", 1: "unseen"} | {code + others: f"={value}" for value, code in now.items()}
                ours |= {2 + place: f"hash {place}" for place in range(others)}
                place = {what: row for row, what in meaning.items()}
                expected = [place.get(ours.get(row, "nothing"), NOTHING) for row in range(new.size)]
                assert carried(old, new).tolist() == expected


def test_hashed_codes_are_counted_back_from_the_size() -> None:
    assert value_field(4, {"a": 2, "b": 9}).hashed == 4
    assert value_field(0, {}).hashed == 0
    assert Field(18, "value").hashed == 16  # of a text without a vocabulary


def test_ids_go_by_their_index() -> None:
    assert carried(Field(3, "id"), Field(5, "id")).tolist() == [0, 1, 2, NOTHING, NOTHING]
    assert carried(Field(5, "id"), Field(3, "id")).tolist() == [0, 1, 2]


def test_buckets_of_numbers_go_by_their_place_among_all() -> None:
    assert carried(Field(6, "number"), Field(6, "number")).tolist() == [0, 1, 2, 3, 4, 5]
    assert carried(Field(4, "number"), Field(6, "number")).tolist() == [0, 1, 2, 2, 3, 3]
    assert carried(Field(10, "number"), Field(4, "number")).tolist() == [0, 1, 4, 8]
    assert carried(Field(2, "number"), Field(3, "number")).tolist() == [0, 1, NOTHING]


def test_a_field_of_another_kind_has_nothing_to_give() -> None:
    assert carried(Field(4, "number"), Field(4, "value", {"a": 3})).tolist() == [NOTHING] * 4


def test_a_row_of_nothing_is_the_mean_of_its_field() -> None:
    table = np.arange(14, dtype=np.float32).reshape(7, 2)  # fields of 4 and 3 rows
    rows = np.array([0, 3, -1, 5, -2, 4])
    found = carry(rows, np.array([4, 3]), table)
    assert found.tolist() == [[0, 1], [6, 7], [4, 5], [10, 11], [11, 12], [8, 9]]  # without the row of "none"


def test_a_night_knows_the_values_that_its_entities_hold() -> None:
    rows = [("item", "brand", "a", 2, 5), ("item", "brand", "gone", 3, 0), ("user", "brand", "a", 4, 1)]
    names = ["side", "feature", "value", "code", "entities"]
    table = pa.table({name: [row[place] for row in rows] for place, name in enumerate(names)})
    assert vocabulary_of(table) == {("item", "brand"): {"a": 2}, ("user", "brand"): {"a": 4}}
