"""Lists by whole numbers (``candidates.precision: int8``) beside exact ones: users a second, recall of the exact lists.

Random vectors, and those of the demo's retrieval model where `make demo` has left its tables. How much faster is told
by the CPU time of all threads, which other work on the machine disturbs less.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from parts import THREADS, side_by_side, tell

from recsys_spark.scoring.top_k import Catalogue

ITEMS, DIM = 60_000, 64
USERS = {"small": 2_048, "full": 8_192}
KS = (20, 100, 250)
DEMO = Path(__file__).parents[3] / ".demo/tables/retrieval_model"

Floats = NDArray[np.float32]


def vectors(scale: str) -> dict[str, tuple[Floats, Floats]]:
    """Users and items of each kind."""
    random = np.random.default_rng(1)
    made = [random.standard_normal((count, DIM)).astype(np.float32) for count in (USERS[scale], ITEMS)]
    found = {"random": (made[0], made[1])}
    trained = sorted(DEMO.glob("*/*/item_vectors.final.npy"), key=lambda path: path.stat().st_mtime)
    if trained:
        users = np.load(trained[-1].with_name("user_vectors.final.npy"))
        found["demo"] = (users[np.any(users[:, :-1] != 0, axis=1)], np.load(trained[-1]))
    else:
        print("  no vectors of the demo's: 'make demo' makes them", flush=True)
    return found


def run(scale: str) -> None:
    figures: dict[str, object] = {}
    for kind, (users, items) in vectors(scale).items():
        ways = {name: Catalogue(items, precision=name) for name in ("exact", "int8")}
        for k in KS:
            work = {
                name: lambda way=way, k=k, users=users: way.top_k(users, k, threads=THREADS)  # type: ignore[misc]
                for name, way in ways.items()
            }
            taken = side_by_side(work, 5)
            exact, rough = (way.top_k(users, k, threads=THREADS)[0] for way in ways.values())
            same = [len(np.intersect1d(*pair)) for pair in zip(exact, rough, strict=True)]
            faster, recall = taken["exact"].cpu / taken["int8"].cpu, np.mean(same) / k
            whole = np.mean((exact == rough).all(axis=1))
            print(f"  {kind}, {len(users):,} users × {len(items):,} items, d = {items.shape[1]}, k = {k}: exact "
                  f"{len(users) / taken['exact'].wall:,.0f} users/s, int8 {len(users) / taken['int8'].wall:,.0f} "
                  f"({faster:.2f}), recall {recall:.6f}, equal lists {whole:.4f}", flush=True)  # fmt: skip
            figures |= {f"int8_over_exact_{kind}_{k}": round(faster, 3), f"int8_recall_{kind}_{k}": round(recall, 6)}
    tell(figures)
