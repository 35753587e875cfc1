"""Two real Horovod ranks on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _run(case: str, **environment: str) -> subprocess.CompletedProcess[str]:
    horovodrun = str(Path(sys.executable).parent / "horovodrun")
    command = [horovodrun, "--gloo", "-np", "2", "-H", "localhost:2", sys.executable, str(HERE / "two_ranks.py"), case]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=180, check=False, env={**os.environ, **environment}
    )


@pytest.mark.integration
@pytest.mark.parametrize("case", ["sums", "updates", "ranker", "neumf"])
def test_ranks_agree(case: str) -> None:
    done = _run(case)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "rank 0 of 2 is well" in done.stdout
    assert "rank 1 of 2 is well" in done.stdout


@pytest.mark.integration
def test_a_rank_that_dies_ends_the_job() -> None:
    done = _run("dies")
    assert done.returncode != 0
    assert "planted error on rank 1" in done.stdout + done.stderr
