"""Training speed beside peers and beside the plain way, everything in one run.

    make bench-train REPRODUCE_DATA=FOLDER                     a quarter of an hour
    BENCH_SCALE=full make bench-train REPRODUCE_DATA=FOLDER    larger sizes, more repetitions: about an hour
    BENCH_ONLY=stream,ranks make bench-train                   some parts of it

| part | what is measured |
|---|---|
| quality | time to the figure that implicit's ALS and BPR and Spark MLlib's ALS end with, on MovieLens-1M and Gowalla |
| factors | matrix factorization with lazy updates, against a dense `torch.optim.Adam` |
| deepfm | DeepFM's training step, against deepctr-torch's |
| stream | Petastorm's batches as tensors, against raw `pyarrow.dataset`; a training's share of waiting for them |
| ranks | two Horovod ranks of one core, against one; bytes of user rows that are sent |

``REPRODUCE_DATA`` is the folder with ``ml-1m/ncf_loo`` and ``gowalla`` as published; without it ``quality`` is left
out. Each part is a process of its own, so that no part warms, or fills, another, with the environment that a rank of a
training has, and as many threads as there are cores, Arrow's and torch's alike. What is compared runs in turn, a few
times; ratios are printed, and the last line is JSON. A peer that is not there ends the run with a line that says so;
no time does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from parts import THREADS, chosen, need, run_parts

from recsys_spark.config import Launch
from recsys_spark.training import launch

PARTS = ("quality", "factors", "deepfm", "stream", "ranks")
PEERS = {"quality": ("implicit", "implicit"), "deepfm": ("deepctr_torch", "deepctr-torch")}
KEYS = ("time_over_implicit_als", "time_over_implicit_bpr", "mllib_als_time_over_ours", "reached_by",
        "lazy_over_dense_adam", "deepfm_over_peer", "stream_over_pyarrow", "data_wait_share",
        "two_rank_efficiency", "user_row_bytes_sent")  # fmt: skip


def with_data(parts: list[str]) -> list[str]:
    """Leave ``quality`` out where its data is not given."""
    given = os.environ.get("REPRODUCE_DATA", "")
    if given and not Path(given, "gowalla").is_dir():
        sys.exit(f"REPRODUCE_DATA is '{given}', which holds no folder gowalla: give the one with ml-1m and gowalla")
    if not given and "quality" in parts:
        print("quality is left out: REPRODUCE_DATA is not given (the folder with ml-1m and gowalla)", flush=True)
    return [part for part in parts if given or part != "quality"]


def main() -> None:
    parts = with_data(chosen(PARTS))
    for part in parts:
        if part in PEERS:
            need(*PEERS[part])
    run_parts(__file__, "train", parts, KEYS, launch.environment(Launch(threads=THREADS)))


if __name__ == "__main__":
    main()
