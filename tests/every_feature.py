"""Settings with every kind of feature, and items with a text for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

FEATURES: dict[str, Any] = {
    "user": [
        {"name": "segment", "min_count": 2, "hash_buckets": 4},
        {"name": "age", "kind": "number", "encoding": "standard", "missing": "median"},
    ],
    "item": [
        {"name": "family"},
        {"name": "tags", "kind": "list", "max_length": 3, "hash_buckets": 2},
        {"name": "story", "kind": "text", "weighting": "tfidf", "ngrams": 2, "max_terms": 20, "max_length": 4},
        {"name": "words", "column": "story", "kind": "text", "weighting": "tfidf", "hash_buckets": 16},
        {"name": "price", "kind": "number", "encoding": "log"},
        {"name": "band", "column": "price", "kind": "number", "encoding": "bands", "within": "family", "buckets": 3},
    ],
    "group": ["family"],
    "windows": [7, 30],
    "moment": ["weekday", "season", "hour", "last"],
}


def with_story(items: pd.DataFrame) -> pd.DataFrame:
    """The tiny log's items with a text: some words are everywhere, some are rare, some items have none."""
    words = ["fresh", "from the farm", "since 1899", "for guests", "for every day", "new recipe"]
    stories = [
        None if n % 13 == 7 else f"{words[n % 6]} {words[n % 4]}, {family or ''}"
        for n, family in enumerate(items["family"])
    ]
    return items.assign(story=stories)


def written(frame: pd.DataFrame, folder: Path) -> str:
    """A folder with the frame as Parquet."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table, folder / "part-0.parquet", coerce_timestamps="us")
    return str(folder)
