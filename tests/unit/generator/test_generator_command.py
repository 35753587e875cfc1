from __future__ import annotations

import pytest
from typer.testing import CliRunner

from recsys_spark.cli import app
from recsys_spark.errors import RecsysError
from recsys_spark.generator.command import _shares


def test_help_names_all_options_and_faults() -> None:
    page = " ".join(CliRunner().invoke(app, ["generate", "--help"], terminal_width=200).output.split())
    for word in ("--rows", "--end-date", "--dirt", "--rate", "--hot-user-share", "near_duplicate", "100000"):
        assert word in page


def test_rates_are_read() -> None:
    assert _shares(["late=0.02", "duplicate=1e-3"]) == {"late": 0.02, "duplicate": 0.001}
    with pytest.raises(RecsysError, match="no rate"):
        _shares(["late"])
