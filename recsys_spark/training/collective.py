"""What ranks do together. The only place that names Horovod; a world of one needs neither it nor a launcher."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from recsys_spark.training.rows import coalesce, sum_of_rows

_LOOK = 0.0002  # seconds between two looks whether a message is there


class Collective(Protocol):
    """A world of ranks.

    Attributes
    ----------
    sent : dict of str to int
        Bytes that this rank has sent so far, by the name of what was sent, as a ring sends them: of n bytes to be
        added up over r ranks each sends 2 n (r - 1) / r, and of n bytes for all others n (r - 1). What a wrapped
        optimizer sends is not counted.
    """

    rank: int
    size: int
    sent: dict[str, int]

    def sum(self, values: Tensor, name: str = "figures") -> Tensor:
        """Sum over ranks of a dense tensor, the same on every rank."""

    def sum_sparse(self, gradients: dict[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """Begin to add up sparse row gradients [rows, D], float32, over ranks; the call of the result waits for it.

        Only touched rows travel, those of all tables together. Names and shapes must be the same on all ranks. What
        comes back is coalesced.
        """

    def broadcast(self, module: nn.Module) -> None:
        """Give every rank the first rank's parameters and buffers."""

    def wrap(self, optimizer: torch.optim.Optimizer, named: Iterable[tuple[str, nn.Parameter]]) -> Any:
        """Optimizer that averages dense gradients over ranks before its step."""

    def averaged(self, optimizer: Any) -> AbstractContextManager[None]:
        """Block in which the gradients of a wrapped optimizer are those of all ranks, and its step takes them so."""

    def barrier(self) -> None:
        """Wait for all ranks."""


class Alone:
    """World of one process."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self.sent: dict[str, int] = {}

    def sum(self, values: Tensor, name: str = "figures") -> Tensor:
        """Nothing to add."""
        return values

    def sum_sparse(self, gradients: dict[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """Coalesce."""
        return lambda: {name: coalesce(gradient) for name, gradient in gradients.items()}

    def broadcast(self, module: nn.Module) -> None:
        """Nobody else is there."""

    def wrap(self, optimizer: torch.optim.Optimizer, named: Iterable[tuple[str, nn.Parameter]]) -> Any:
        """Return the optimizer as it is."""
        return optimizer

    def averaged(self, optimizer: Any) -> AbstractContextManager[None]:
        """They are."""
        return nullcontext()

    def barrier(self) -> None:
        """Nobody to wait for."""


class HorovodWorld:
    """Ranks that a Horovod launcher started."""

    def __init__(self) -> None:
        import horovod.torch as hvd

        hvd.init()
        self._hvd = hvd
        self.rank, self.size = int(hvd.rank()), int(hvd.size())
        self.sent: dict[str, int] = {}

    def sum(self, values: Tensor, name: str = "figures") -> Tensor:
        """Allreduce."""
        self._count(name, 2 * values.nbytes * (self.size - 1) // self.size)
        return self._wait(self._hvd.allreduce_async(values, op=self._hvd.Sum, name=name))

    def sum_sparse(self, gradients: dict[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """Allgather the rows that each rank touched, in one message, and add them up in the order of ranks.

        One message, since each costs a round of Horovod's coordination: milliseconds, whatever its length. It is of
        whole numbers: how many rows of each table, and then for each table their indexes and the bits of their values.
        """
        mine = {name: coalesce(gradient) for name, gradient in gradients.items()}
        rows = {name: each.indices()[0].int() for name, each in mine.items()}
        counts = torch.tensor([len(each) for each in rows.values()], dtype=torch.int32)
        parts = [counts.to(next(iter(rows.values())).device)]
        for name, each in mine.items():
            bits = each.values().contiguous().view(torch.int32).flatten()
            parts += [rows[name], bits]
            self._count(name, (rows[name].nbytes + bits.nbytes) * (self.size - 1))
        handle = self._hvd.allgather_async(torch.cat(parts), name=".".join(mine))

        def finish() -> dict[str, Tensor]:
            gathered: Tensor = self._wait(handle)
            return _added_up(gathered, {name: each.shape for name, each in mine.items()}, self.size)

        return finish

    def _wait(self, handle: int) -> Tensor:
        """Sleep meanwhile: Horovod's own waiting takes a core from the threads that bring the message."""
        while not self._hvd.poll(handle):
            time.sleep(_LOOK)
        done: Tensor = self._hvd.synchronize(handle)
        return done

    def _count(self, name: str, sent: int) -> None:
        self.sent[name] = self.sent.get(name, 0) + sent

    def broadcast(self, module: nn.Module) -> None:
        """Broadcast the state from rank 0."""
        self._hvd.broadcast_parameters(module.state_dict(), root_rank=0)

    def wrap(self, optimizer: torch.optim.Optimizer, named: Iterable[tuple[str, nn.Parameter]]) -> Any:
        """Horovod's DistributedOptimizer."""
        return self._hvd.DistributedOptimizer(optimizer, named_parameters=list(named))

    @contextmanager
    def averaged(self, optimizer: Any) -> Iterator[None]:
        """Wait for the reductions that ``backward`` began."""
        optimizer.synchronize()
        with optimizer.skip_synchronize():
            yield

    def barrier(self) -> None:
        """Horovod's barrier."""
        self._hvd.barrier()


def _added_up(gathered: Tensor, shapes: dict[str, torch.Size], ranks: int) -> dict[str, Tensor]:
    """Sparse tensors out of the messages of all ranks; see ``HorovodWorld.sum_sparse``."""
    rows: dict[str, list[Tensor]] = {name: [] for name in shapes}
    values: dict[str, list[Tensor]] = {name: [] for name in shapes}
    start = 0
    for _ in range(ranks):
        counts = gathered[start : start + len(shapes)].tolist()
        start += len(shapes)
        for count, (name, shape) in zip(counts, shapes.items(), strict=True):
            numbers = count * shape[1:].numel()
            rows[name].append(gathered[start : start + count])
            start += count
            values[name].append(gathered[start : start + numbers].view(torch.float32).reshape(count, *shape[1:]))
            start += numbers
    return {
        name: sum_of_rows([each.long() for each in rows[name]], values[name], shape) for name, shape in shapes.items()
    }


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone; Horovod need not be installed to ask."""
    return any(kind.__name__ == "HorovodInternalError" for kind in type(error).__mro__)


def connect(launcher: str) -> Collective:
    """World for a process that this launcher (``local``, ``horovodrun`` or ``spark``) started."""
    return Alone() if launcher == "local" else HorovodWorld()
