"""Users dealt out to real Horovod ranks: what they send, what they learn, and going on with another number of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sharded_ranks

from recsys_spark.training.collective import Alone

pytestmark = pytest.mark.integration


@pytest.fixture
def night(tmp_path: Path) -> Path:
    sharded_ranks.write_night(tmp_path)
    return tmp_path


def horovodrun(ranks: int, night: Path, *arguments: object) -> None:
    command = [str(Path(sys.executable).parent / "horovodrun"), "--gloo", "-np", str(ranks), "-H", f"localhost:{ranks}"]
    command += [sys.executable, sharded_ranks.__file__, str(night), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for rank in range(ranks):
        assert f"rank {rank} of {ranks} is well" in done.stdout


def vectors(night: Path, output: str) -> bytes:
    found = (night / output / "user_vectors.final.npy").read_bytes()
    values = np.load(night / output / "user_vectors.final.npy")
    assert values.shape == (sharded_ranks.USERS, sharded_ranks.DIM + 1)
    assert np.isfinite(values).all()
    return found + (night / output / "item_vectors.final.npy").read_bytes()


def test_two_ranks_with_their_own_users_are_as_good_as_any(night: Path) -> None:
    horovodrun(2, night, "agrees")


def test_one_then_three_then_two_ranks(night: Path) -> None:
    """A run that is resumed begins with the very rows that the ranks before it ended with, and then goes on."""
    sharded_ranks.train(night, "by-1", "moved", 1, Alone())
    horovodrun(3, night, "trains", "by-3-first", "moved", 1, "by-3", "moved", 2)
    sharded_ranks.train(night, "ials-by-1", "ials-moved", 1, Alone())
    sharded_ranks.train(night, "ials-alone", "ials-alone", 3, Alone())
    again = ("broken-off", "broken", 1, "resumed", "broken", 2)
    again += ("ials-first", "ials-moved", 1, "ials-by-2", "ials-moved", 2, "ials-resumed", "ials-moved", 3)
    again += ("ials-straight", "ials-whole", 3)
    horovodrun(2, night, "trains", "by-2-first", "moved", 2, "by-2", "moved", 3, "straight", "whole", 2, *again)
    assert vectors(night, "by-3-first") == vectors(night, "by-1")
    assert vectors(night, "by-2-first") == vectors(night, "by-3")
    assert len({vectors(night, f"by-{ranks}") for ranks in (1, 2, 3)}) == 3
    assert vectors(night, "resumed") == vectors(night, "straight") != vectors(night, "broken-off")
    assert not (night / "scratch" / "user_vectors").exists()
    assert vectors(night, "ials-first") == vectors(night, "ials-by-1") != vectors(night, "ials-by-2")
    for side in ("user", "item"):
        found = {name: np.load(night / f"ials-{name}" / f"{side}_vectors.final.npy")
                 for name in ("alone", "straight", "resumed")}  # fmt: skip
        np.testing.assert_allclose(found["straight"], found["alone"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(found["resumed"], found["alone"], rtol=0, atol=1e-5)
        assert np.abs(found["alone"][:, :-1]).mean() > 0.01
