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
out. Each part is a process of its own, so that no part warms, or fills, another. What is compared runs in turn, a few
times; ratios are printed, and the last line is JSON. A peer that is not there ends the run with a line that says so;
no time does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from train.common import THREADS

PARTS = ("quality", "factors", "deepfm", "stream", "ranks")
PEERS = {"quality": {"implicit": "implicit"}, "deepfm": {"deepctr_torch": "deepctr-torch"}}
KEYS = ("time_over_implicit_als", "time_over_implicit_bpr", "mllib_als_time_over_ours", "lazy_over_dense_adam",
        "deepfm_over_peer", "stream_over_pyarrow", "data_wait_share", "two_rank_efficiency",
        "user_row_bytes_sent")  # fmt: skip


def main() -> None:
    scale = os.environ.get("BENCH_SCALE", "small")
    if scale not in ("small", "full"):
        sys.exit(f"BENCH_SCALE is '{scale}': use small or full")
    if len(sys.argv) > 1:
        importlib.import_module(f"train.{sys.argv[1]}").run(scale)
        return
    parts = chosen()
    missing = [each for part in parts for module, each in PEERS.get(part, {}).items() if not _is_there(module)]
    if missing:
        sys.exit(f"bench-train: {', '.join(missing)} not installed; 'make setup' installs what it compares with")
    figures: dict[str, Any] = dict.fromkeys(KEYS)
    for part in parts:
        started = time.monotonic()
        print(f"\n{part}", flush=True)
        figures |= child(part)
        print(f"  ({time.monotonic() - started:.0f} s)", flush=True)
    print(json.dumps({"scale": scale, "parts": parts, "cores": THREADS, "machine": _machine(), **figures}))


def chosen() -> list[str]:
    """Parts to run, in their order."""
    wanted = [each for each in os.environ.get("BENCH_ONLY", "").replace(" ", "").split(",") if each] or list(PARTS)
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        sys.exit(f"BENCH_ONLY names {', '.join(unknown)}: the parts are {', '.join(PARTS)}")
    given = os.environ.get("REPRODUCE_DATA", "")
    if given and not Path(given, "gowalla").is_dir():
        sys.exit(f"REPRODUCE_DATA is '{given}', which holds no folder gowalla: give the one with ml-1m and gowalla")
    if not given and "quality" in wanted:
        print("quality is left out: REPRODUCE_DATA is not given (the folder with ml-1m and gowalla)", flush=True)
        wanted.remove("quality")
    return [part for part in PARTS if part in wanted]


def child(part: str) -> dict[str, Any]:
    """Run a part; its lines are passed on but for the last, its figures."""
    command = [sys.executable, "-W", "ignore", __file__, part]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if last.strip():
                print(last, end="", flush=True)
            last = line
    if process.returncode:
        sys.exit(f"{last}\nbench-train: the part '{part}' ended with code {process.returncode}")
    told: dict[str, Any] = json.loads(last)
    return told


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _machine() -> str:
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


if __name__ == "__main__":
    main()
