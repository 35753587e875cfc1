"""The file of a search, and its space: refused before the first trial, or turned into Optuna's words and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from recsys_spark.config import Tuning, load_tuning, parse_settings
from recsys_spark.config.load import parse
from recsys_spark.errors import RecsysError
from recsys_spark.tuning.space import check_space, corners, distributions, to_drawn, to_values, with_values

ROOT = Path(__file__).parents[3]
TREE: dict[str, Any] = {
    "name": "shop",
    "root": "tables",
    "input": {
        "interactions": {"path": "log", "user_id": "u", "item_id": "i", "event_time": "t", "constant_event_type": "v"}
    },
    "events": {"v": 1.0},
    "retrieval": {"dim": 32},
    "ranker": {"hidden": [64, 32]},
}


def tuning(space: dict[str, Any], stage: str = "train-retrieval", **more: Any) -> Tuning:
    return parse(Tuning, {"stage": stage, "metric": "m", "space": space, **more}, "space.yaml")


def refusal(space: dict[str, Any], stage: str = "train-retrieval", **more: Any) -> str:
    """Message about a space, which must be one line that begins with the space's file."""
    with pytest.raises(RecsysError) as error:
        check_space(tuning(space, stage, **more), TREE, "space.yaml")
    message = str(error.value)
    assert message.startswith("space.yaml: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "stage"),
    [("tune_retrieval", "train-retrieval"), ("tune_ials", "train-retrieval"), ("tune_ranker", "train-ranker")],
)
def test_the_shipped_spaces_are_valid(name: str, stage: str) -> None:
    path = ROOT / "jobs" / "conf" / f"{name}.yaml"
    found = load_tuning(path)
    check_space(found, TREE, str(path))
    assert found.stage == stage
    assert to_drawn(found.space, parse_settings({**TREE, "retrieval": {}, "ranker": {}})) is not None
    assert str(path.relative_to(ROOT)) in path.read_text()  # the command at its head is this file's


@pytest.mark.parametrize(
    ("key", "given", "parts"),
    [
        ("retrieval.dimm", {"choices": [8, 16]}, ["unknown key 'retrieval.dimm'", "Did you mean 'dim'?"]),
        ("retreival.dim", {"choices": [8, 16]}, ["unknown key 'retreival'", "Did you mean 'retrieval'?"]),
        ("retrieval.dim", {"type": "int", "low": 0, "high": 8}, ["'retrieval.dim'", "greater than", "given: 0"]),
        ("ranker.dropout", {"type": "float", "low": 0, "high": 1}, ["'ranker.dropout'", "less than 1", "given: 1.0"]),
        ("retrieval.loss", {"choices": ["bpr", "bprr"]}, ["'retrieval.loss'", "'bprr'"]),
        ("retrieval.dim", {"type": "float", "low": 8, "high": 16}, ["'retrieval.dim' is a whole number", "type: int"]),
        ("retrieval.dim", {"choices": [8, "many"]}, ["'retrieval.dim'", "'many'"]),
        ("ranker.hidden", {"choices": [[8], [0]]}, ["'ranker.hidden.0'", "given: 0"]),
        ("retrieval.seed", {"choices": [1, 2]}, ["'retrieval.seed' cannot be varied", "'seeds'"]),
        ("retrieval.validation_k", {"choices": [10, 20]}, ["decides what is measured"]),
        ("split.valid_days", {"choices": [7, 14]}, ["'split.valid_days'", "'featurize'"]),
        ("features.history_length", {"choices": [7, 14]}, ["stage 'clean'"]),
        ("ranker.dim", {"choices": [7, 14]}, ["changes nothing in the stage 'train-retrieval'"]),
        ("evaluate.neighbours", {"choices": [7, 14]}, ["changes nothing"]),
    ],
)
def test_what_cannot_be_varied_is_told_before_the_first_trial(key: str, given: Any, parts: list[str]) -> None:
    message = refusal({key: given})
    for part in parts:
        assert part in message


def test_what_candidates_were_made_by_cannot_be_varied_for_the_ranker() -> None:
    message = refusal({"ranker.negative_share": {"choices": [0.1, 0.2]}}, "train-ranker")
    assert "the stage 'candidates' writes" in message
    check_space(tuning({"ranker.dim": {"choices": [4, 8]}}, "train-ranker"), TREE, "space.yaml")


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"type": "int", "low": 8}, "give type, low and high, or choices"),
        ({"type": "int", "low": 8, "high": 8}, "low (8) must be below high (8)"),
        ({"type": "int", "low": 8.5, "high": 10}, "whole bounds"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "log needs a low above 0"),
        ({"type": "int", "low": 1, "high": 8, "log": True, "step": 2}, "no step"),
        ({"choices": [1]}, "at least 2"),
        ({"choices": [1, 1]}, "twice"),
        ({"choices": [1, 2], "log": True}, "choices go without"),
        ({"choices": [{"a": 1}, 2]}, "not a mapping"),
        ({"type": "int", "low": 1, "hihg": 8}, "Did you mean 'high'?"),
        (3, "valid dictionary"),
    ],
)
def test_what_is_no_parameter(given: Any, part: str) -> None:
    with pytest.raises(RecsysError) as error:
        tuning({"retrieval.dim": given})
    assert part in str(error.value)
    assert "retrieval.dim" in str(error.value)


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ({"trails": 3}, "Did you mean 'trials'?"),
        ({"trials": 0}, "setting 'trials'"),
        ({"seeds": [1, 1]}, "names one twice"),
        ({"stage": "featurize"}, "setting 'stage'"),
        ({"pruner": "secateurs"}, "setting 'pruner'"),
    ],
)
def test_what_is_no_search(more: dict[str, Any], part: str) -> None:
    with pytest.raises(RecsysError) as error:
        parse(Tuning, {"stage": "train-retrieval", "metric": "m", "space": {"a": {"choices": [1, 2]}}, **more}, "f")
    assert part in str(error.value)


def test_a_missing_file_names_its_option(tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match="Check --space"):
        load_tuning(tmp_path / "none.yaml")


SPACE = {
    "retrieval.dim": {"type": "int", "low": 8, "high": 64, "step": 8},
    "retrieval.learning_rate": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
    "retrieval.temperature": {"choices": [None, 0.1]},
    "ranker.hidden": {"choices": [[64, 32], [128]]},
}


def test_the_space_in_optunas_words() -> None:
    found = distributions(tuning(SPACE).space)
    assert found == {
        "retrieval.dim": IntDistribution(8, 64, step=8),
        "retrieval.learning_rate": FloatDistribution(0.001, 0.1, log=True),
        "retrieval.temperature": CategoricalDistribution([None, 0.1]),
        "ranker.hidden": CategoricalDistribution(["[64, 32]", "[128]"]),
    }


def test_values_survive_the_way_to_optuna_and_back() -> None:
    space = tuning(SPACE).space
    settings = parse_settings(TREE)
    drawn = to_drawn(space, settings)
    assert drawn is not None
    assert with_values(TREE, to_values(space, drawn), "here") == settings
    for place in (0, -1):
        values = {key: corners(parameter)[place] for key, parameter in space.items()}
        there = to_drawn(space, with_values(TREE, values, "here"))
        assert there is not None
        assert to_values(space, there) == values


@pytest.mark.parametrize("changes", [{"dim": 128}, {"dim": 33}, {"learning_rate": 0.5}, {"temperature": 0.2}])
def test_settings_outside_the_space_are_no_first_trial(changes: dict[str, Any]) -> None:
    tree = {**TREE, "retrieval": {**TREE["retrieval"], **changes}}
    assert to_drawn(tuning(SPACE).space, parse_settings(tree)) is None


def test_a_change_leaves_the_tree_as_it_was() -> None:
    before = yaml.safe_dump(TREE)
    assert with_values(TREE, {"retrieval.dim": 8, "launch.threads": 2}, "here").launch.threads == 2
    assert yaml.safe_dump(TREE) == before
