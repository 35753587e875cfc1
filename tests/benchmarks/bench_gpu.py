"""Models, losses, optimizers and exact top-k on a GPU, without Horovod, Petastorm and Spark: batches are tensors.

    python tests/benchmarks/bench_gpu.py                   the first GPU; full sizes
    python tests/benchmarks/bench_gpu.py --device cpu --scale small

Samples a second, and the share of the memory's bandwidth that is reached: the bytes that a step must move, over its
time, over the bandwidth of a copy within the device's memory (bytes read and written, over the time).

What must move, in bytes of 4 a number, R rows touched of D numbers each:

* a look-up reads the rows: 4 R D. Its gradient is written once and read once by the optimizer: 8 R D.
* lazy Adam reads and writes the rows and their two moments: 24 R D. Row-wise Adagrad reads and writes the rows and one
  number a row: 8 R (D + 1).
* matrix factorization of B pairs: R is B distinct users, and the distinct items among the pairs and the K shared ones.
  The scores [B, K] need not leave the chip, so they count for nothing, nor do gradients of equal items before they are
  added up.
* DeepFM of B rows and F fields: R is the distinct codes, but each of the B F embeddings is written for the layers,
  read by them, and its gradient written and read: 16 B F D. A layer of n × m weights: weights are read forward and
  backward, gradient, weights and two moments are read and written by Adam, 4 n m (2 + 1 + 1 + 6); its activations are
  written forward, read backward, their gradients written and read: 16 B m.

Of the top-k kernel: users a second, lists on the host, and that over what the bare float32 product (no TensorFloat-32,
whose error is too large) of the same users and items allows, into a buffer, in blocks of the size that suits it best.

Ends with one line of JSON. It measures; it asserts no time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys_spark.models import blocks
from recsys_spark.models.deepfm import DeepFM, DeepFMSpec
from recsys_spark.models.losses import binary_cross_entropy
from recsys_spark.models.mf import MatrixFactorization
from recsys_spark.ragged import Rows
from recsys_spark.scoring.top_k import Catalogue
from recsys_spark.training.collective import Alone
from recsys_spark.training.optim import TableUpdates

DIM = 64
LOSSES = ("softmax", "bce", "squared", "bpr")
K, SEEN = 100, 200
BLOCKS = (256, 1_024, 4_096)  # users of a bare product


@dataclass(frozen=True)
class Sizes:
    """What is trained: MF of ``pairs`` a batch, DeepFM of ``rows`` a batch over ``fields`` of ``codes`` each.

    Lists are made for ``scored`` users out of ``catalogue`` items.
    """

    users: int
    items: int
    pairs: int
    shared: int
    fields: int
    codes: int
    rows: int
    hidden: tuple[int, ...]
    steps: int
    scored: int
    catalogue: int


SCALES = {
    "small": Sizes(20_000, 5_000, 1_024, 256, 6, 500, 256, (32, 16), 3, 256, 5_000),
    "full": Sizes(5_000_000, 1_000_000, 65_536, 4_096, 39, 100_000, 16_384, (400, 400, 400), 50, 65_536, 60_000),
}


def seconds(work: Callable[[int], object], steps: int, device: torch.device) -> float:
    """Seconds of a step, the median of five runs; the first, for warming up, is left out."""
    taken = []
    for _ in range(6):
        _wait(device)
        started = time.perf_counter()
        for step in range(steps):
            work(step)
        _wait(device)
        taken.append((time.perf_counter() - started) / steps)
    return statistics.median(taken[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device: torch.device, scale: str) -> float:
    """Bytes a second of a copy within the device's memory, read and written."""
    count = 1 << (28 if scale == "full" else 22)
    source, target = torch.zeros(count, device=device), torch.empty(count, device=device)
    return 2 * source.nbytes / seconds(lambda _: target.copy_(source), 5, device)


def factorization(loss: str, kind: Any, sizes: Sizes, device: torch.device) -> tuple[float, float]:
    """Seconds of a step, and the bytes that it must move."""
    model = MatrixFactorization(sizes.users, sizes.items, DIM).to(device)
    updates = TableUpdates([model.user, model.item, model.bias], Alone(), ["user", "item", "bias"], kind)
    random = torch.Generator(device).manual_seed(1)
    weight = torch.ones(sizes.pairs, device=device)

    def draw(below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), device=device, generator=random)

    given = [(draw(sizes.users, sizes.pairs), draw(sizes.items, sizes.pairs)) for _ in range(4)]

    def step(number: int) -> None:
        user, item = given[number % len(given)]
        users, owner = torch.unique(user, return_inverse=True)
        shared, times = torch.unique(draw(sizes.items, sizes.shared), return_counts=True)
        found = torch.searchsorted(shared, item).clamp_max(len(shared) - 1)
        block = model(users, owner, item, shared, torch.where(shared[found] == item, found, -1))
        if loss == "softmax":
            total = blocks.softmax(block, times * (sizes.items / sizes.shared), weight)
        elif loss == "bpr":
            total = blocks.bayesian_ranking(block, draw(len(shared), sizes.pairs), weight)
        else:
            of = blocks.cross_entropy if loss == "bce" else blocks.squares
            total = of(block, times / sizes.shared, weight, 8.0)
        (total / sizes.pairs).backward()
        updates.step(0.01)

    taken = seconds(step, sizes.steps, device)
    items = torch.cat([given[0][1], draw(sizes.items, sizes.shared)]).unique()
    numbers = len(given[0][0].unique()) * DIM + len(items) * (DIM + 1)
    return taken, numbers * _row_bytes(kind)


def _row_bytes(kind: str) -> float:
    """Bytes that move for each number of a touched row: look-up, gradient, update."""
    return 4 + 8 + (24 if kind == "adam" else 8 * (1 + 1 / DIM))


def deepfm(sizes: Sizes, device: torch.device, bf16: bool) -> tuple[float, float]:
    """Seconds of a step, and the bytes that it must move."""
    dim = 16
    one = [1] * sizes.fields
    spec = DeepFMSpec([sizes.codes] * sizes.fields, one, 1, 16, dim, list(sizes.hidden), dropout=0.0)
    model = DeepFM(spec).to(device)
    tables: list[nn.Embedding] = [model.embedding, model.first]
    for table in tables:
        table.sparse = True
    updates = TableUpdates(tables, Alone(), ["embedding", "first"])
    rest = [each for name, each in model.named_parameters() if name not in ("embedding.weight", "first.weight")]
    adam = torch.optim.AdamW(rest, lr=0.001)
    random = torch.Generator(device).manual_seed(1)
    given = [
        torch.randint(1, sizes.codes, (sizes.rows, sizes.fields), device=device, generator=random) for _ in range(4)
    ]
    numbers = torch.rand(sizes.rows, 1, device=device, generator=random)
    model.fit_numbers(numbers)
    target, weight = (numbers[:, 0] < 0.3).float(), torch.ones(sizes.rows, device=device)

    def step(number: int) -> None:
        adam.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(list(given[number % len(given)].split(1, dim=1)), numbers)
        (binary_cross_entropy(logits.float(), target, weight) / sizes.rows).backward()
        updates.step(0.001)
        adam.step()

    taken = seconds(step, sizes.steps, device)
    codes = sum(len(column.unique()) for column in given[0].split(1, dim=1)) + spec.buckets
    fields = sizes.fields + 1
    widths = [fields * dim + 1, *sizes.hidden, 1]
    layers = sum(40 * n * m + 16 * sizes.rows * m for n, m in pairwise(widths))
    return taken, codes * (dim + 1) * _row_bytes("adam") + 16 * sizes.rows * fields * (dim + 1) + layers


def top_k(sizes: Sizes, device: torch.device) -> dict[str, int | float]:
    """Users a second without and with seen items, and the share of the bare product's rate."""
    random = np.random.default_rng(1)
    users, items = (
        random.standard_normal((count, DIM)).astype(np.float32) for count in (sizes.scored, sizes.catalogue)
    )
    own, columns = torch.from_numpy(users).to(device), torch.from_numpy(items).to(device).T
    product = float("inf")
    for block in BLOCKS:
        buffer = torch.empty(min(block, len(users)), len(items), device=device)

        def multiply(_: int, block: int = block, buffer: Tensor = buffer) -> None:
            for part in own.split(block):
                torch.mm(part, columns, out=buffer[: len(part)])

        product = min(product, seconds(multiply, 1, device))
    catalogue = Catalogue(items, device=str(device))
    seen = Rows(
        np.arange(len(users) + 1, dtype=np.int64) * SEEN, random.integers(0, len(items), len(users) * SEEN, np.int32)
    )
    plain = seconds(lambda _: catalogue.top_k(users, K), 1, device)
    masked = seconds(lambda _: catalogue.top_k(users, K, forbidden=seen), 1, device)
    return {
        "users_per_second": round(len(users) / plain),
        "users_per_second_masked": round(len(users) / masked),
        "share_of_product": round(product / plain, 4),
        "product_flops": round(2 * len(users) * len(items) * DIM / product),
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    chosen = parser.parse_args(arguments)
    device, sizes = torch.device(chosen.device), SCALES[chosen.scale]
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench-gpu: torch sees no GPU here; give --device cpu, or install torch with CUDA")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    most = bandwidth(device, chosen.scale)
    print(f"{name}: copies {most / 1e9:,.1f} GB/s")
    runs: dict[str, tuple[float, float, int]] = {}
    for loss in LOSSES:
        runs[f"mf_{loss}"] = (*factorization(loss, "adam", sizes, device), sizes.pairs)
    runs["mf_softmax_adagrad"] = (*factorization("softmax", "rowwise_adagrad", sizes, device), sizes.pairs)
    runs["deepfm"] = (*deepfm(sizes, device, bf16=False), sizes.rows)
    if device.type == "cuda":
        runs["deepfm_bf16"] = (*deepfm(sizes, device, bf16=True), sizes.rows)
    figures: dict[str, Any] = {"device": name, "scale": chosen.scale, "copy_bytes_per_second": round(most)}
    for run, (taken, moved, samples) in runs.items():
        share = moved / taken / most
        figures[run] = {"samples_per_second": round(samples / taken), "bandwidth_share": round(share, 4)}
        print(f"  {run:<20} {samples / taken:>14,.0f} samples/s  {moved / 1e6:>8,.1f} MB a step, "
              f"{share:.1%} of the bandwidth")  # fmt: skip
    lists = figures["top_k"] = top_k(sizes, device)
    speed, masked = lists["users_per_second"], lists["users_per_second_masked"]
    print(f"  top_k {speed:>28,} users/s, {lists['share_of_product']:.1%} of the bare product "
          f"({lists['product_flops'] / 1e12:.2f} TFLOPS); {masked:,} with seen items masked")  # fmt: skip
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
