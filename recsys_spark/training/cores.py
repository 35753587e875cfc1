"""Which cores a rank runs on."""

from __future__ import annotations

import os


def bind(threads: int) -> set[int]:
    """Keep this rank, with all its threads, to cores of its own, where the ranks of this machine need all there are.

    Otherwise Horovod's threads, and those that read, run where another rank computes, and in every step all ranks wait
    for the one that was disturbed most. Where there are more cores than threads, or fewer, the kernel knows better. To
    be called before the process has many threads: those of libraries that begin later are born on the same cores.

    Parameters
    ----------
    threads : int
        Of a rank.

    Returns
    -------
    set of int
        The cores; all that this process may use where it was not bound.
    """
    if not hasattr(os, "sched_setaffinity"):
        return set()
    cores = sorted(os.sched_getaffinity(0))
    place, ranks = (int(os.environ.get(f"HOROVOD_LOCAL_{name}", given)) for name, given in (("RANK", 0), ("SIZE", 1)))
    if ranks < 2 or ranks * threads != len(cores):
        return set(cores)
    own = set(cores[place * threads : (place + 1) * threads])
    for thread in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(thread), own)
        except OSError:  # it has ended
            continue
    return own
