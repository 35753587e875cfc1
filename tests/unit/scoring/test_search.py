from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from recsys_spark.errors import RecsysError
from recsys_spark.scoring.search import Search, device_of

PLAIN = """
import sys
import numpy as np
import recsys_spark.scoring.chosen
from recsys_spark.scoring.search import Search
for precision in ("exact", "int8"):
    items = np.eye(3, 4, dtype=np.float32)
    found, _ = Search(precision).catalogue(items, np.array([True, False, True])).top_k(items[1:], 1)
    assert found.tolist() == [[0], [2]]
print([name for name in ("torch", "horovod", "petastorm") if name in sys.modules])
"""


def test_a_processor_does_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_what_is_there_is_found() -> None:
    assert device_of("cpu") is None
    assert device_of("auto") == ("cuda" if torch.cuda.is_available() else None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(RecsysError, match=r"launch\.scoring_device' = cuda: .* torch sees no GPU on .* auto"):
        device_of("cuda")


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    assert device_of("auto") is None
    with pytest.raises(RecsysError, match="torch is not installed"):
        device_of("cuda")
    assert Search().device == "cpu"
