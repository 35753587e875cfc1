"""RecTools' ranker of vectors as a process; run by the Python of ``.venv-peers``.

rectools_ranker.py FOLDER K THREADS loads ``users.npy``, ``items.npy`` and ``seen.npz`` from the folder and says that it
is there. For each line on its input it makes all lists anew, with seen items left out where the line is ``masked``, and
says when they are done; ``save`` writes the last ones to ``lists.npy``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rectools.models.rank import Distance, ImplicitRanker
from scipy import sparse


def main(folder: Path, k: int, threads: int) -> None:
    users, items = np.load(folder / "users.npy"), np.load(folder / "items.npy")
    seen, everyone = sparse.load_npz(folder / "seen.npz"), np.arange(len(users))
    ranker = ImplicitRanker(Distance.DOT, users, items, num_threads=threads)
    lists = np.empty(0)
    print("there", flush=True)
    for line in sys.stdin:
        if line.strip() == "save":
            np.save(folder / "lists.npy", lists)
        else:
            _, lists, _ = ranker.rank(everyone, k, filter_pairs_csr=seen if line.strip() == "masked" else None)
        print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
