from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from recsys_spark.config import Split
from recsys_spark.errors import RecsysError
from recsys_spark.scoring.examples import write_ranker_examples


def test_a_split_without_a_window_for_the_ranker_is_refused() -> None:
    work: Any = SimpleNamespace(settings=SimpleNamespace(split=Split(ranker_windows=1)), store=None)
    with pytest.raises(RecsysError, match=r"setting 'split\.ranker_windows' = 1"):
        write_ranker_examples(work)
