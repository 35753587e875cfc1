"""The GPU's benchmark, on the CPU in its small size: it runs through, and its arithmetic holds."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks/bench_gpu.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = spec_from_file_location("bench_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["bench_gpu"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_loss_optimizer_and_model_runs(bench: ModuleType) -> None:
    figures = bench.main(["--device", "cpu", "--scale", "small"])
    lists = figures.pop("top_k")
    assert all(value > 0 for value in lists.values())
    runs = {name: each for name, each in figures.items() if isinstance(each, dict)}
    assert set(runs) == {"mf_softmax", "mf_bce", "mf_squared", "mf_bpr", "mf_softmax_adagrad", "deepfm"}
    assert all(each["samples_per_second"] > 0 and each["bandwidth_share"] > 0 for each in runs.values())


def test_bytes_of_a_touched_row_are_those_of_the_docstring(bench: ModuleType) -> None:
    assert bench._row_bytes("adam") == 4 + 8 + 24
    assert bench._row_bytes("rowwise_adagrad") * bench.DIM == pytest.approx(12 * bench.DIM + 8 * (bench.DIM + 1))


def test_without_a_gpu_it_says_so(bench: ModuleType) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="no GPU"):
        bench.main([])
