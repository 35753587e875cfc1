"""A small retrieval job on files of its own, started as the stage starts it: by ``launch``, in real ranks."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.config import Launch
from recsys_spark.config.models import Retrieval
from recsys_spark.tables.storage import Storage
from recsys_spark.training.checkpoint import Checkpoints, Saved
from recsys_spark.training.collective import Alone
from recsys_spark.training.launch import launch

USERS, ITEMS, GROUPS, BUCKETS = 60, 40, 2, 4
CUT = "final"
ROWS = [150, 149, 150, 151]  # of a file; group 0, 1, 0, 1


@dataclass(frozen=True)
class TrainingJob:
    """A root with examples; ``start`` trains on it, again and again if need be.

    Parameters
    ----------
    folder : Path
    settings : dict
        Changes to those of the retrieval model.
    """

    folder: Path
    settings: dict[str, Any]

    def write(self) -> TrainingJob:
        """Examples of users with one of three tastes, and all else that the job reads."""
        draw = np.random.default_rng(3)
        for number, rows in enumerate(ROWS):
            users = draw.integers(1, USERS // 2, rows) * 2 + number % GROUPS
            items = 2 + draw.integers(0, 12, rows) * 3 + users % 3
            table = {"user_index": users.astype(np.int32), "item_index": items.astype(np.int32),
                     "time": np.full(rows, 100), "weight": np.ones(rows, np.float32)}  # fmt: skip
            pq.write_table(pa.table(table), self.file(number))
        index = np.arange(2, USERS, dtype=np.int32)
        (self.folder / "ids").mkdir()
        pq.write_table(pa.table({"index": index, "user_bucket": index % BUCKETS}), self.folder / "ids" / "0.parquet")
        stats = [{"cut": CUT, "item_index": n, "events": 5, "users": 5, "recent_users": 5, "earlier_users": 0}
                 for n in range(2, 38)]  # fmt: skip
        (self.folder / "stats").mkdir()
        pq.write_table(pa.Table.from_pylist(stats), self.folder / "stats" / "0.parquet")
        buffer = BytesIO()
        np.savez(buffer, users=np.array([2, 3]), seen=np.array([2, 3], np.int32), seen_indptr=np.array([0, 1, 2]),
                 truth=np.array([5, 8, 6], np.int32), truth_indptr=np.array([0, 2, 3]))  # fmt: skip
        self.storage.write_bytes("validation.npz", buffer.getvalue())
        return self

    @property
    def storage(self) -> Storage:
        """Access to the root."""
        return Storage(str(self.folder))

    def file(self, number: int) -> Path:
        """A file of examples."""
        return self.folder / f"part-{number % GROUPS}-{number}.parquet"

    def start(self, ranks: int, **changes: Any) -> None:
        """Train to the end."""
        files = [[self.file(n).as_uri(), rows, n % GROUPS] for n, rows in enumerate(ROWS)]
        values = {"dim": 4, "epochs": 3, "patience": 3, "batch_size": 16, "negatives": 8, "validation_k": 5}
        values |= {"checkpoint_minutes": 1e-9, **self.settings, **changes}
        launcher = "local" if ranks == 1 else "horovodrun"
        job = {
            "kind": "retrieval", "launcher": launcher, "ranks": ranks, "threads": 1,
            "settings": Retrieval(**values).model_dump(mode="json"), "validation": "validation.npz", "output": "out",
            "snapshots": [{"cut": CUT, "time": 200, "files": files}], "item_stats": "stats", "whole_users": False,
            "users": USERS, "items": ITEMS, "checkpoints": "checkpoints", "user_ids": "ids", "user_groups": GROUPS,
            "buckets": BUCKETS, "scratch": "scratch", "log_folder": str(self.folder / "logs"),
        }  # fmt: skip
        self.storage.write_json("jobs/retrieval.json", job)
        no_spark: Any = None
        settings = Launch(launcher=launcher, ranks=ranks, stall_timeout=120)
        launch(no_spark, settings, self.storage.uri, "jobs/retrieval.json")

    def newest(self) -> Saved | None:
        """The newest checkpoint."""
        return Checkpoints(self.storage, f"checkpoints/{CUT}", 2).newest(Alone())

    def steps(self) -> list[int]:
        """Places of all checkpoints, whole or not."""
        return [int(name.removeprefix("step-")) for name in self.storage.names(f"checkpoints/{CUT}")]

    def curve(self) -> list[dict[str, float]]:
        """What the finished job wrote."""
        curve: list[dict[str, float]] = self.storage.read_json("out/curves.json")["curves"][CUT]
        return curve

    def vectors(self) -> dict[str, np.ndarray[Any, Any]]:
        """What the finished job wrote."""
        return {side: np.load(self.folder / "out" / f"{side}_vectors.{CUT}.npy") for side in ("user", "item")}
