"""What a recipe refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recsys_spark.cuts import Cut
from recsys_spark.errors import RecsysError
from recsys_spark.scoring.rank import recipe
from recsys_spark.tables.storage import Storage


def test_a_ranker_of_pair_features_cannot_order_a_catalogue(tiny_settings: Any, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_json("ranker/spec.json", {"numbers": ["own_events", "recency"]})
    settings = tiny_settings(tmp_path, ranker={"pair_features": False}, score={"over": "catalogue"})
    ranker = SimpleNamespace(folder="ranker", dt="2024-01-31")
    work: Any = SimpleNamespace(settings=settings, inputs={"ranker": ranker}, store=SimpleNamespace(storage=storage))
    with pytest.raises(RecsysError, match="the ranker of 2024-01-31 has learned from 2 features of pairs"):
        recipe(work, Cut("final", 1, 1))
