"""A root of small nights, written without Spark."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.manifest import FileEntry, run_folder
from recsys_spark.tables.store import Stamp

DT, EARLIER = "2024-03-10", "2024-03-09"


class Root:
    """Tables below ``folder / "tables"``, and settings that name them."""

    def __init__(self, folder: Path) -> None:
        self.store = TableStore(str(folder / "tables"))
        self.config = folder / "settings.yaml"
        self.config.write_text(
            yaml.safe_dump(
                {
                    "name": "small",
                    "root": str(folder / "tables"),
                    "input": {
                        "interactions": {
                            "path": "x", "user_id": "u", "item_id": "i", "event_time": "t", "constant_event_type": "e",
                        }
                    },
                    "events": {"e": 1.0},
                }
            )
        )  # fmt: skip

    def night(self, dt: str, run_id: str, show: bool = True) -> Manifest:
        """A ranker and the lists that were made by it; each run of another content."""
        ranker = self.write("ranker", dt, run_id, "train-ranker", {}, show)
        note = {"run_id": run_id, "seconds": 2.5}
        self.store.storage.write_json(f"_stages/dt={dt}/train-ranker.json", note)
        return self.write("top_n", dt, run_id, "publish", {"ranker": ranker.run_id}, show)

    def write(
        self,
        table: str,
        dt: str,
        run_id: str,
        stage: str,
        inputs: dict[str, str],
        show: bool = True,
        borrowed: list[FileEntry] | None = None,
        extra: dict[str, object] | None = None,
    ) -> Manifest:
        """A run of one file; ``borrowed`` are files of earlier runs that belong to it too."""
        folder = run_folder(table, dt, run_id)
        path = Path(self.store.storage.path(folder)) / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"run": [run_id]}), path)
        stamp = Stamp(dt, run_id, stage, f"f-{run_id}", "s", "0", inputs)
        files = [FileEntry("part-0.parquet", path.stat().st_size, 1), *(borrowed or [])]
        manifest = self.store.complete(table, stamp, files, len(files), "run string", f"hash-{run_id}", extra or {})
        if show:
            self.store.point(manifest)
        return manifest

    def torn(self, dt: str, run_id: str, table: str = "top_n") -> None:
        """A run that was begun and never sealed."""
        self.store.storage.write_bytes(f"{run_folder(table, dt, run_id)}/part-0.parquet", b"PAR1")
