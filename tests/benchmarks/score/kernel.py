"""The exact top-k kernel beside the bare matrix product, beside other exact top-k's, and with seen items masked.

All on the same threads, in turn. The bare product is the faster of OpenBLAS (by NumPy) and torch's, into a buffer that
is there before, in blocks of the size that suits it best; nobody's result is read from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from parts import THREADS, need, side_by_side, tell

from recsys_spark.ragged import Rows
from recsys_spark.scoring.top_k import Catalogue

ITEMS, DIM, K, SEEN = 60_000, 64, 100, 200
USERS = {"small": 2_048, "full": 8_192}
BLOCKS = (128, 256, 512)

Floats = NDArray[np.float32]


def products(users: Floats, items: Floats) -> dict[str, Callable[[], object]]:
    """Bare products, by library and block."""
    work: dict[str, Callable[[], object]] = {}
    columns, torch_users = torch.from_numpy(items).T, torch.from_numpy(users)
    for block in BLOCKS:
        buffer = np.empty((block, len(items)), np.float32)
        tensor = torch.from_numpy(buffer)

        def by_numpy(block: int = block, buffer: Floats = buffer) -> None:
            for at in range(0, len(users), block):
                np.matmul(users[at : at + block], items.T, out=buffer)

        def by_torch(block: int = block, tensor: torch.Tensor = tensor) -> None:
            for at in range(0, len(users), block):
                torch.mm(torch_users[at : at + block], columns, out=tensor)

        work |= {f"product, NumPy, {block}": by_numpy, f"product, torch, {block}": by_torch}
    return work


def peers(users: Floats, items: Floats) -> dict[str, Callable[[], object]]:
    import faiss
    from implicit.cpu.topk import topk

    faiss.omp_set_num_threads(THREADS)
    torch_users, columns = torch.from_numpy(users), torch.from_numpy(items).T

    def by_torch() -> None:
        for at in range(0, len(users), 256):
            torch.topk(torch_users[at : at + 256] @ columns, K)

    return {
        "torch.topk": by_torch,
        "implicit": lambda: topk(items, users, K, num_threads=THREADS),
        "faiss.knn": lambda: faiss.knn(users, items, K, metric=faiss.METRIC_INNER_PRODUCT),
    }


def check(catalogue: Catalogue, users: Floats, items: Floats) -> None:
    """The lists are those of a full sort."""
    found, _ = catalogue.top_k(users, K, threads=THREADS)
    scores = (users.astype(np.float64) @ items.astype(np.float64).T).astype(np.float32)
    assert np.array_equal(found, np.argsort(-scores, axis=1, kind="stable")[:, :K])


def run(scale: str) -> None:
    need("faiss", "faiss-cpu")
    need("implicit", "implicit")
    torch.set_num_threads(THREADS)
    random = np.random.default_rng(1)
    items = random.standard_normal((ITEMS, DIM)).astype(np.float32)
    users = random.standard_normal((USERS[scale], DIM)).astype(np.float32)
    catalogue, plain = Catalogue(items), Catalogue(items, compiled=False)
    check(catalogue, users[:256], items)
    taken = [random.choice(ITEMS, SEEN, replace=False).astype(np.int32) for _ in users]
    seen = Rows.from_lists(taken)
    work = {
        **products(users, items),
        **peers(users, items),
        "ours": lambda: catalogue.top_k(users, K, threads=THREADS),
        "ours, masked": lambda: catalogue.top_k(users, K, forbidden=seen, threads=THREADS),
        "ours, without the compiled kernel": lambda: plain.top_k(users, K),
    }
    times = {name: each.wall for name, each in side_by_side(work, 3 if scale == "small" else 5).items()}
    for name, seconds in times.items():
        print(f"  {name:<34} {len(users) / seconds:10,.0f} users/s", flush=True)
    product = min(seconds for name, seconds in times.items() if name.startswith("product"))
    best_peer = min(("torch.topk", "implicit", "faiss.knn"), key=lambda name: times[name])
    figures: dict[str, Any] = {
        "kernel_over_gemm": product / times["ours"],
        "kernel_over_best_peer": times[best_peer] / times["ours"],
        "masked_over_unmasked_time": times["ours, masked"] / times["ours"],
        "numpy_kernel_over_gemm": product / times["ours, without the compiled kernel"],
    }
    tell({**{name: round(value, 3) for name, value in figures.items()}, "best_peer": best_peer})
