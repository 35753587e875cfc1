"""Which rank reads which group of user buckets: all rows of a user are read by one rank, in every split and epoch."""

from __future__ import annotations

from recsys_spark.streaming.reader import Shard, settle


def deal_groups(rows: list[int], ranks: int) -> list[int]:
    """Rank of each group: the largest group first, each to the rank with the fewest rows so far.

    Graham 1969 (longest processing time first): the fullest rank has at most a third more rows than in the best deal.
    The deal is a function of the numbers alone, so that all ranks and all retries make the same one.

    Parameters
    ----------
    rows : list of int
        Rows of each group.
    ranks : int

    Returns
    -------
    list of int
        Rank of each group; with fewer groups than ranks some ranks own none.
    """
    loads = [0] * ranks
    owner = [0] * len(rows)
    for group in sorted(range(len(rows)), key=lambda each: (-rows[each], each)):
        rank = min(range(ranks), key=lambda each: (loads[each], each))
        owner[group] = rank
        loads[rank] += rows[group]
    return owner


def owned_shards(files: list[tuple[str, int, int]], owner: list[int], ranks: int, batch_size: int) -> list[Shard]:
    """Give each rank the files of its groups and settle the steps of an epoch.

    Parameters
    ----------
    files : list of (url, rows, group)
        From the manifest, in its order.
    owner : list of int
        Rank of each group.
    ranks : int
    batch_size : int
        Rows of one rank's batch.
    """
    dealt = [[(url, rows) for url, rows, group in files if owner[group] == rank] for rank in range(ranks)]
    return settle([(url, rows) for url, rows, _ in files], dealt, batch_size)
