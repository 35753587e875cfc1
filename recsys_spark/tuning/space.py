"""The space of a search: checked against the settings before the first trial, and put into Optuna's words."""

from __future__ import annotations

import copy
import json
from functools import reduce
from operator import getitem
from typing import TYPE_CHECKING, Any

from recsys_spark.config import Parameter, Settings, Tuning
from recsys_spark.config.load import put, settings_of
from recsys_spark.errors import RecsysError
from recsys_spark.pipeline import STAGES, load_stage

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Values = dict[str, Any]  # setting to value

# what a training is measured by, or what its result does not depend on: not for a search to vary
_FIXED = {
    "seed": "give 'seeds' instead",
    "validation_users": "it decides what is measured",
    "validation_k": "it decides what is measured",
    "keep_checkpoints": "it changes no result",
    "checkpoint_minutes": "it changes no result",
    "read_timeout": "it changes no result",
}


def check_space(tuning: Tuning, tree: dict[str, Any], where: str) -> None:
    """See that every value of the space is a valid setting that the stage alone depends on.

    Parameters
    ----------
    tuning : Tuning
    tree : dict
        Plain values of the settings.
    where : str
        The space's file.

    Raises
    ------
    RecsysError
        A key is no setting, or not one to vary; a bound or choice is outside the setting's own bounds, or of its type.
    """
    for key, parameter in tuning.space.items():
        for value in corners(parameter):
            given = _value(with_values(tree, {key: value}, where), key)
            if isinstance(given, int) and parameter.type == "float":
                raise RecsysError(f"'{key}' is a whole number", where, "Give its range as 'type: int'.")
            if isinstance(given, dict):
                raise RecsysError(f"'{key}' is a section", where, "Name its keys one by one.")
        _check_key(tuning.stage, key, where)


def _check_key(stage: str, key: str, where: str) -> None:
    if (reason := _FIXED.get(key.rpartition(".")[2])) is not None:
        raise RecsysError(f"'{key}' cannot be varied: {reason}", where, "Remove it from the space.")
    names = list(STAGES)
    for name in names[: names.index(stage)]:
        if _decides(load_stage(name).sections, key):
            raise RecsysError(
                f"'{key}' decides what the stage '{name}' writes, and trials train on tables that are there",
                where,
                f"Remove it from the space, or write the tables with another value and search there by {stage}.",
            )
    if not _decides(load_stage(stage).sections, key):
        raise RecsysError(f"'{key}' changes nothing in the stage '{stage}'", where, "Remove it from the space.")


def _decides(sections: tuple[str, ...], key: str) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def corners(parameter: Parameter) -> list[Any]:
    """Choices, or lowest and highest number."""
    if parameter.choices is not None:
        return parameter.choices
    assert parameter.low is not None
    assert parameter.high is not None
    return [_number(parameter, parameter.low), _number(parameter, parameter.high)]


def _number(parameter: Parameter, value: float) -> int | float:
    return int(value) if parameter.type == "int" else float(value)


def with_values(tree: dict[str, Any], values: Values, where: str) -> Settings:
    """Settings with some values changed.

    Raises
    ------
    RecsysError
        They are no settings.
    """
    return settings_of(changed(tree, values, where), where)


def changed(tree: dict[str, Any], values: Values, where: str) -> dict[str, Any]:
    """Copy of a tree of settings with some values changed."""
    copied = copy.deepcopy(tree)
    for key, value in values.items():
        put(copied, key, value, where)
    return copied


def distributions(space: dict[str, Parameter]) -> dict[str, BaseDistribution]:
    """The space in Optuna's words."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for key, parameter in space.items():
        if parameter.choices is not None:
            found[key] = CategoricalDistribution([_label(each) for each in parameter.choices])
            continue
        low, high = corners(parameter)
        if parameter.type == "int":
            found[key] = IntDistribution(low, high, parameter.log, int(parameter.step or 1))
        else:
            found[key] = FloatDistribution(low, high, parameter.log, parameter.step)
    return found


def to_values(space: dict[str, Parameter], drawn: Values) -> Values:
    """Settings that Optuna's values stand for."""
    values = dict(drawn)
    for key, parameter in space.items():
        if parameter.choices is not None:
            values[key] = next(each for each in parameter.choices if _label(each) == drawn[key])
    return values


def to_drawn(space: dict[str, Parameter], settings: Settings) -> Values | None:
    """The settings as they are, in Optuna's words; None where one of them lies outside the space."""
    drawn: Values = {}
    for key, parameter in space.items():
        value = _value(settings, key)
        if parameter.choices is not None:
            if value not in parameter.choices:
                return None
            drawn[key] = _label(value)
        else:
            low, high = corners(parameter)
            if not isinstance(value, int | float) or not low <= value <= high:
                return None
            steps = (value - low) / parameter.step if parameter.step else 0.0
            if abs(steps - round(steps)) > 1e-9:
                return None
            drawn[key] = _number(parameter, value)
    return drawn


def _label(choice: Any) -> Any:
    """Optuna keeps single values; a list is kept as text."""
    return json.dumps(choice) if isinstance(choice, list) else choice


def _value(settings: Settings, key: str) -> Any:
    """Plain value of a setting."""
    return reduce(getitem, key.split("."), settings.model_dump())
