"""Matrix factorization with its users dealt out to two ranks: memory of a rank against the arithmetic, speed, traffic.

    make bench-sharded                     1 million users × 100,000 items: a minute or two
    BENCH_SCALE=full make bench-sharded    10 million users × 1 million items, d = 64; needs 12 GB of memory

Pairs follow power laws, as in a shop: a few users and items have most of them. They are written as `featurize` writes
examples, files of a group of user buckets each, and streamed by Petastorm. Each rank then does a number of steps of the
retrieval task, as the training job does them: lazy Adam, or row-wise Adagrad by ``BENCH_OPTIMIZER=rowwise_adagrad``.
What goes over the network is counted by name, and compared with what the kernel counts on the loopback device. The run
is ended when its ranks together hold more than ``BENCH_MEMORY_GIB`` (12). Ends with one line of JSON; asserts no time.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

RANKS, BUCKETS, GROUPS, DIM, BATCH = 2, 64, 16, 64, 8_192
ROWS_OF_A_FILE = 250_000
# users, items, pairs, steps
SCALES = {"small": (1_000_000, 100_000, 4_000_000, 200), "full": (10_000_000, 1_000_000, 20_000_000, 500)}
DAY = 86_400


def main() -> None:
    if len(sys.argv) > 1:
        return rank(Path(sys.argv[1]))
    scale = os.environ.get("BENCH_SCALE", "small")
    if scale not in SCALES:
        sys.exit(f"BENCH_SCALE is '{scale}': use small or full")
    with tempfile.TemporaryDirectory(prefix="bench-sharded-", dir=os.environ.get("BENCH_FOLDER")) as folder:
        plan = generate(Path(folder), scale)
        told = sorted(launch(Path(folder), plan), key=lambda each: each["rank"])
    show(plan, told)
    print(json.dumps(summary(plan, told)))


def generate(folder: Path, scale: str) -> dict[str, Any]:
    """Examples, the buckets of the users and the counts of the items; the plan that all ranks read."""
    users, items, pairs, steps = SCALES[scale]
    steps = int(os.environ.get("BENCH_STEPS", steps))
    started, draw = time.monotonic(), np.random.default_rng(1)
    bucket = draw.integers(0, BUCKETS, users).astype(np.int32)
    (folder / "ids").mkdir()
    index = np.arange(2, users, dtype=np.int32)
    pq.write_table(pa.table({"index": index, "user_bucket": bucket[2:]}), folder / "ids" / "part-0.parquet")
    events, files = np.zeros(items, np.int64), []
    for group in range(GROUPS):
        mine = np.flatnonzero(bucket % GROUPS == group)
        mine = mine[mine >= 2].astype(np.int32)
        for number, rows in enumerate(split(pairs // GROUPS)):
            # the user at place r of the group, and item r, are drawn in proportion to r^-0.6 and to 1/r
            user = mine[(len(mine) * draw.random(rows) ** 2.5).astype(np.int64)]
            item = (2 + (items - 2) ** draw.random(rows)).astype(np.int32)
            liked = draw.random(rows) < 0.8  # most of what a user takes is of one sixteenth of the items
            item = np.where(liked, item - item % 16 + user % 16, item).clip(2, items - 1).astype(np.int32)
            events += np.bincount(item, minlength=items)
            columns = {"user_index": user, "item_index": item, "time": draw.integers(0, DAY, rows)}
            path = folder / f"part-{group:05d}-{number:05d}.parquet"
            pq.write_table(pa.table({**columns, "weight": np.ones(rows, np.float32)}), path, row_group_size=rows)
            files.append([path.as_uri(), rows, group])
    np.save(folder / "events.npy", events)
    plan = {"scale": scale, "users": users, "items": items, "pairs": sum(rows for _, rows, _ in files), "steps": steps,
            "files": files, "optimizer": os.environ.get("BENCH_OPTIMIZER", "adam")}  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    print(f"{users:,} users × {items:,} items, {plan['pairs']:,} pairs written in {time.monotonic() - started:.0f} s",
          flush=True)  # fmt: skip
    return plan


def split(rows: int) -> list[int]:
    parts = -(-rows // ROWS_OF_A_FILE)
    return [rows // parts] * parts


def launch(folder: Path, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the ranks; what each of them prints last."""
    program = str(Path(sys.executable).parent / "horovodrun")
    command = [program, "--gloo", "-np", str(RANKS), "-H", f"localhost:{RANKS}", sys.executable, __file__, str(folder)]
    limit = float(os.environ.get("BENCH_MEMORY_GIB", "12"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        watch = threading.Thread(target=end_above, args=(process, limit), daemon=True)
        watch.start()
        lines = [re.sub(r"^\[\d+\]<std(out|err)>:", "", line.rstrip()) for line in process.stdout]
    if process.returncode:
        sys.exit("\n".join([*lines[-30:], f"the ranks ended with code {process.returncode}"]))
    return [json.loads(line) for line in lines if line.startswith('{"rank"')]


def end_above(process: subprocess.Popen[str], limit: float) -> None:
    """End the ranks when they hold more than so many GiB, or when the machine has less than two left."""
    while process.poll() is None:
        held = 0
        for each in psutil.Process(process.pid).children(recursive=True):
            try:
                held += each.memory_info().rss
            except psutil.Error:
                continue  # it ended meanwhile
        left = psutil.virtual_memory().available
        if held > limit * 2**30 or left < 2 * 2**30:
            print(f"ended: the ranks hold {held / 2**30:.1f} GiB, {left / 2**30:.1f} GiB are left", flush=True)
            process.terminate()
            return
        time.sleep(0.5)


# ------------------------------------------------------------ in a rank
def rank(folder: Path) -> None:
    """Build the task on this rank's users, do the steps, print what it took as JSON."""
    from recsys_spark.config.models import Retrieval
    from recsys_spark.streaming import ExampleStream, deal_groups, owned_shards, sample_rows
    from recsys_spark.tables.storage import Storage
    from recsys_spark.training.collective import HorovodWorld
    from recsys_spark.training.tasks.retrieval import RetrievalTask
    from recsys_spark.training.tasks.snapshot import COLUMNS
    from recsys_spark.training.user_rows import UserRows, read_buckets

    torch.set_num_threads(1)
    plan = json.loads((folder / "plan.json").read_text())
    events: NDArray[np.int64] = np.load(folder / "events.npy")
    world = HorovodWorld()
    sample_rows(plan["files"][0][0], COLUMNS)  # loads the reader's libraries too
    world.barrier()
    begun, started = resident(), time.monotonic()
    rows_of = [sum(rows for _, rows, group in plan["files"] if group == each) for each in range(GROUPS)]
    owner = np.array(deal_groups(rows_of, world.size))
    bucket_of = read_buckets(Storage(folder.as_uri()), "ids", plan["users"], BUCKETS)
    rows = UserRows.of(bucket_of, owner[np.arange(BUCKETS) % GROUPS] == world.rank)
    del bucket_of
    settings = Retrieval(dim=DIM, batch_size=BATCH, optimizer=plan["optimizer"], schedule="constant")
    prior = torch.from_numpy(events + 1.0).log().float() - 3.0
    task = RetrievalTask(plan["users"], plan["items"], events, prior, DAY, None, settings, world, rows=rows)
    task.begin(0)
    files = [(url, count, group) for url, count, group in plan["files"]]
    shard = owned_shards(files, owner.tolist(), world.size, BATCH)[world.rank]
    stream = ExampleStream(shard, COLUMNS, BATCH, 1, world.rank)
    world.barrier()
    built = {"seconds": time.monotonic() - started, "resident": resident()}
    done = train(task, stream, plan["steps"], world)
    told = {"rank": world.rank, "begun": begun, "built": built, "resident": resident(), "users": len(rows),
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, **done}  # fmt: skip
    print(json.dumps(told), flush=True)


def train(task: Any, stream: Any, steps: int, world: Any) -> dict[str, Any]:
    """So many steps, epoch after epoch; the first ten are not timed."""
    losses, sent, wire, waited, done, epoch = [], {}, 0, 0.0, 0, 0
    batches = stream.epoch(epoch)
    started = time.monotonic()
    while done < steps + 10:
        if done == 10:
            world.barrier()
            started, waited = time.monotonic(), 0.0
            sent, wire = dict(world.sent), psutil.net_io_counters(pernic=True)["lo"].bytes_sent
        asked = time.monotonic()
        batch = next(batches, None)
        waited += time.monotonic() - asked
        if batch is None:
            epoch += 1
            batches = stream.epoch(epoch)
            continue
        loss, weight = task.step(batch, 0.0)
        losses.append(loss / max(weight, 1e-9))
        done += 1
    world.barrier()
    seconds, wire = time.monotonic() - started, psutil.net_io_counters(pernic=True)["lo"].bytes_sent - wire
    batches.close()
    each = {name: (n - sent.get(name, 0)) // steps for name, n in world.sent.items() if n > sent.get(name, 0)}
    tenth = max(1, len(losses) // 10)
    return {"seconds": seconds, "wait_share": waited / seconds, "sent_per_step": each, "wire_per_step": wire // steps,
            "loss": [float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))]}  # fmt: skip


def resident() -> int:
    """MiB."""
    return int(psutil.Process().memory_info().rss >> 20)


# ------------------------------------------------------------ what it was
def arithmetic(plan: dict[str, Any], users: int) -> dict[str, float]:
    """MiB that a rank must hold of each thing."""
    of_row = 1 + (2 if plan["optimizer"] == "adam" else 1 / DIM)  # the row and its optimizer state, in rows
    parts = {
        "user rows and state": users * DIM * 4 * of_row,
        "item rows and state": plan["items"] * (DIM + 1) * 4 * of_row,
        "place of each user, user of each row": plan["users"] * 4 + users * 4,
        "examples being shuffled, and batches": 3 * 8 * ROWS_OF_A_FILE * 20,
        "popularity, draws and places of items": plan["items"] * (8 + 4 + 8 + 4 + 4 + 8 + 1 + 8),
    }
    return {name: size / 2**20 for name, size in parts.items()}


def show(plan: dict[str, Any], told: list[dict[str, Any]]) -> None:
    for each in told:
        parts = arithmetic(plan, each["users"])
        print(f"\nrank {each['rank']}: {each['users']:,} user rows of {plan['users']:,}, d = {DIM}, "
              f"{plan['optimizer']}, built in {each['built']['seconds']:.0f} s")  # fmt: skip
        print(f"  {'Python with all libraries':<40}{each['begun']:>8,} MiB resident")
        for name, size in parts.items():
            print(f"  {'+ ' + name:<40}{size:>8,.0f} MiB by arithmetic")
        print(f"  {'= all':<40}{each['begun'] + sum(parts.values()):>8,.0f} MiB")
        print(f"  {'measured':<40}{each['resident']:>8,} MiB resident after the steps, {each['peak']:,} MiB at most")
        print(f"  loss {each['loss'][0]:.3f} in the first tenth of the steps, {each['loss'][1]:.3f} in the last; "
              f"{each['wait_share']:.1%} of the time waits for data")  # fmt: skip
        for name, n in sorted(each["sent_per_step"].items()):
            print(f"  sends {n:>12,} bytes a step of {name}")
    print(f"\nloopback: {told[0]['wire_per_step']:,} bytes a step, both ranks and all else on the machine")


def summary(plan: dict[str, Any], told: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = max(each["seconds"] for each in told)
    of_users = sum(n for each in told for name, n in each["sent_per_step"].items() if name.startswith("user"))
    return {
        "scale": plan["scale"], "users": plan["users"], "items": plan["items"], "dim": DIM, "ranks": RANKS,
        "optimizer": plan["optimizer"], "steps": plan["steps"],
        "samples_per_second": round(RANKS * BATCH * plan["steps"] / seconds),
        "resident_mib": [each["resident"] for each in told], "peak_mib": [each["peak"] for each in told],
        "arithmetic_mib": [round(each["begun"] + sum(arithmetic(plan, each["users"]).values())) for each in told],
        "sent_per_step": told[0]["sent_per_step"], "wire_per_step": told[0]["wire_per_step"],
        "user_row_bytes_sent": of_users, "data_wait_share": round(max(each["wait_share"] for each in told), 4),
    }  # fmt: skip


if __name__ == "__main__":
    main()
