"""Which of tonight's models holds a number that is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from recsys_spark.evaluation.gate import not_finite
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.store import Stamp

DT = "2024-03-10"


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    return TableStore(str(tmp_path))


def models(store: TableStore, vector: float = 1.0, weight: float = 1.0, edge: float = 1.0) -> dict[str, Manifest]:
    vectors, weights = np.ones((3, 2), np.float32), np.ones((2, 2), np.float32)
    edges = np.ones((1, 4), np.float32)
    vectors[1, 1], weights[0, 1], edges[0, -1] = vector, weight, edge
    stamp = Stamp(DT, "run", "train", "f", "s", "0", {})
    np.save(Path(store.storage.path()) / "vectors.npy", vectors)
    content = (Path(store.storage.path()) / "vectors.npy").read_bytes()
    store.storage.write_bytes(f"{store.folder('retrieval_model', stamp)}/user_vectors.test.npy", content)
    packed = save({"deep.0.weight": weights, "edges": edges})
    store.storage.write_bytes(f"{store.folder('ranker', stamp)}/model.safetensors", packed)
    return {table: store.seal(None, table, stamp) for table in ("retrieval_model", "ranker")}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_model_is_named_with_its_table(store: TableStore, bad: float) -> None:
    says, table = not_finite(store, models(store, vector=bad))
    assert "user_vectors.test.npy" in says
    assert table == "retrieval_model"
    says, table = not_finite(store, models(store, weight=bad))
    assert "'deep.0.weight'" in says
    assert table == "ranker"


def test_a_bucket_may_end_at_infinity(store: TableStore) -> None:
    assert not_finite(store, models(store)) == ("", "")
    assert not_finite(store, models(store, edge=np.inf)) == ("", "")
    assert not_finite(store, models(store, edge=np.nan))[1] == "ranker"
