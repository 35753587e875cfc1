from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.config import Split
from recsys_spark.config.models import Labels
from recsys_spark.errors import RecsysError
from recsys_spark.scoring.examples import keep_rates, write_ranker_examples


def test_a_split_without_a_window_for_the_ranker_is_refused() -> None:
    settings = SimpleNamespace(split=Split(ranker_windows=1), labels=Labels())
    work: Any = SimpleNamespace(settings=settings, store=None)
    with pytest.raises(RecsysError, match=r"setting 'split\.ranker_windows' = 1"):
        write_ranker_examples(work)


def test_without_hard_negatives_all_are_kept_alike() -> None:
    ranks = np.arange(1, 251, dtype=np.float32)
    assert (keep_rates(ranks, 250, 0.15, 0.0) == 0.15).all()


@given(retrieved=st.integers(1, 400), share=st.floats(0.01, 1.0), hard=st.floats(0.01, 0.99))
def test_the_top_is_kept_whole_and_the_rest_evenly(retrieved: int, share: float, hard: float) -> None:
    ranks = np.arange(1, retrieved + 1, dtype=np.float32)
    rates = keep_rates(ranks, retrieved, share, hard)
    top = round(hard * share * retrieved)
    assert rates[:top].tolist() == [1.0] * top
    assert rates[top:].tolist() == pytest.approx([share * (1 - hard)] * (retrieved - top))
    assert (rates > 0).all()
    assert rates.sum() <= share * retrieved + 0.5 + 1e-9  # no more than are kept without


def test_with_the_offset_a_sample_gives_the_logits_of_all() -> None:
    """A rank-wise constant model fitted on kept rows, with offsets: its logit plus log(share) is that of all rows."""
    draw = np.random.default_rng(3)
    share, hard, retrieved = 0.2, 0.5, 50
    rank = draw.integers(1, retrieved + 1, 400_000).astype(np.float32)
    taken = draw.random(len(rank)) < 0.3 / rank
    rates = keep_rates(rank, retrieved, share, hard)
    kept = taken | (draw.random(len(rank)) < rates)
    for low, high in ((1, 1), (2, 5), (6, 50)):
        rows = (rank >= low) & (rank <= high)
        assert len(np.unique(rates[rows])) == 1
        offset = np.log(share / rates[rows][0])
        sample = taken[rows & kept]
        fitted = np.log(sample.mean() / (1 - sample.mean())) - offset
        truth = np.log(taken[rows].mean() / (1 - taken[rows].mean()))
        assert fitted + np.log(share) == pytest.approx(truth, abs=0.05)
