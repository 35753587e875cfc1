"""Lists as rows of ``top_n``: columns of Arrow, and the content that no order of rows changes.

Shape legend: U users, N places of a list, V texts.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.arms import ARM
from recsys_spark.scoring.lists import NOBODY, SOURCES, Lists

SCHEMA = pa.schema(
    [
        (c.USER_ID, pa.dictionary(pa.int32(), pa.string())),
        (c.RANK, pa.int32()),
        (c.ITEM_ID, pa.dictionary(pa.int32(), pa.string())),
        (c.SCORE, pa.float32()),
        *[
            (name, pa.dictionary(pa.int32(), pa.string()))
            for name in (c.SOURCE, c.REASON, "retrieval_version", "ranker_version")
        ],
    ]
)

_TEXT = pa.dictionary(pa.int32(), pa.string())


_USERS_AT_ONCE = 128  # whose rows are hashed together: what is computed of them stays in a processor's cache


# Of 72 ms for half a million rows, places of texts and numbers alone are 22: the rest was a dictionary of all scores,
# which are all different, their compression, and the least and the largest text of each column. Ranks repeat, which
# compression finds sooner than a dictionary does.
def writing(schema: pa.Schema) -> dict[str, Any]:
    """Options of Arrow's writer."""
    return {
        "use_dictionary": [name for name in schema.names if name not in (c.SCORE, c.RANK)],
        "compression": {name: "NONE" if name == c.SCORE else "SNAPPY" for name in schema.names},
        "write_statistics": [c.RANK, c.SCORE],
        "store_schema": False,  # so that readers by Arrow find plain texts too, not dictionaries
    }


def schema_of(same: dict[str, str | None]) -> pa.Schema:
    """Columns of the rows; those that are the same for all come with the arm of a test, where there is one.

    Only a column that is null throughout may hold nulls: to tell where there is one takes half of the time of writing.
    """
    schema = SCHEMA.append(pa.field(ARM, _TEXT)) if ARM in same else SCHEMA
    return pa.schema([each.with_nullable(each.name in same and same[each.name] is None) for each in schema])


@dataclass(frozen=True)
class Names:
    """Texts that rows name by their places, and a hash of each.

    Parameters
    ----------
    texts : StringArray [V]
        Without nulls.
    hashes : uint64 [V]
    """

    texts: pa.StringArray
    hashes: NDArray[np.uint64]

    @classmethod
    def of(cls, texts: pa.StringArray) -> Names:
        """Hash texts: FNV-1a of the bytes (Fowler et al.), all texts at a time, and mixed."""
        _, offsets, data = texts.buffers()
        bounds = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
        place, left = bounds[:-1].copy(), np.diff(bounds)
        hashes = np.full(len(texts), 0xCBF29CE484222325, np.uint64)
        while (alive := np.flatnonzero(left)).size:
            hashes[alive] ^= np.frombuffer(data, np.uint8)[place[alive]]
            hashes[alive] *= np.uint64(0x100000001B3)
            place[alive] += 1
            left[alive] -= 1
        return cls(texts, _mixed(hashes))

    def part(self, start: int, stop: int) -> Names:
        """Some of them."""
        return Names(self.texts[start:stop], self.hashes[start:stop])


def to_arrow(lists: list[Lists], users: Names, items: Names, versions: dict[str, str | None]) -> tuple[pa.Table, int]:
    """Rows of ``top_n``; texts are written once a file part, rows hold their places.

    Parameters
    ----------
    lists : list of Lists
        Of blocks, one after the other.
    users : Names
        Of the blocks' users, in their order.
    items : Names
        By item index.
    versions : dict
        Columns that are the same for all rows.

    Returns
    -------
    table : Table
    content : int
        Sum of a 64-bit hash of each row, modulo 2^64, which no order of rows changes.
    """
    item = np.concatenate([each.items for each in lists])
    count, n = item.shape
    here = None if (item != NOBODY).all() else item != NOBODY  # as a rule every place is taken

    def rows(values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape(-1) if here is None else values[here]

    words: dict[str, int] = {}
    reasons = []
    for each in lists:
        of_block = np.array([words.setdefault(word, len(words)) for word in each.words], np.int32)
        reasons.append(of_block[each.reasons])
    reason, why = rows(np.concatenate(reasons)), Names.of(pa.array(list(words), pa.string()))
    source, of_source = rows(np.concatenate([each.sources for each in lists])), Names.of(pa.array(SOURCES))
    user = rows(np.broadcast_to(np.arange(count, dtype=np.int32)[:, None], item.shape))
    rank = rows(np.broadcast_to(np.arange(1, n + 1, dtype=np.int32), item.shape))
    item, score = rows(item), rows(np.concatenate([each.scores for each in lists]))
    same = np.zeros(len(user), np.int32)
    columns = {
        c.USER_ID: _coded(user, users.texts),
        c.RANK: pa.array(rank),
        c.ITEM_ID: _of_those_in_use(item, items.texts),
        c.SCORE: pa.array(score),
        c.SOURCE: _coded(source, of_source.texts),
        c.REASON: _coded(reason, why.texts),
        **{
            name: pa.nulls(len(same), _TEXT) if value is None else _coded(same, pa.array([value]))
            for name, value in versions.items()
        },
    }
    constant = np.uint64(zlib.crc32(json.dumps(versions, sort_keys=True).encode()))
    of_user, of_why = users.hashes ^ constant, (why.hashes[:, None] * of_source.hashes)
    content = 0
    for start in range(0, len(user), _USERS_AT_ONCE * n):
        part = slice(start, start + _USERS_AT_ONCE * n)
        numbers = rank[part].astype(np.uint64)
        numbers <<= np.uint64(32)
        numbers |= score[part].view(np.uint32)
        mixed = _mixed(of_user[user[part]] ^ _mixed(numbers))
        mixed ^= items.hashes[item[part]]
        mixed += of_why[reason[part], source[part]]
        content += int(_mixed(mixed).sum())
    schema = schema_of(versions)
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema), content % 2**64


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finalizer of SplitMix64 (Steele et al. 2014); works on the array itself."""
    values += np.uint64(0x9E3779B97F4A7C15)
    shifted = values >> np.uint64(30)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        values ^= np.right_shift(values, np.uint64(shift), out=shifted)
        if factor > 1:
            values *= np.uint64(factor)
    return values


def _of_those_in_use(places: NDArray[np.integer], values: pa.Array) -> pa.DictionaryArray:
    """As ``_coded``; what no row names is left out, since Parquet writes the dictionary once a row group."""
    used = np.zeros(len(values), np.bool_)
    used[places] = True
    code = np.cumsum(used, dtype=np.int32)
    code -= 1
    return _coded(code[places], values.filter(pa.array(used)))


def _coded(places: NDArray[np.integer], values: pa.Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int32, copy=False)), values)
