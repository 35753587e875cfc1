"""Settings from YAML files, with changes from the command line and variables of the environment."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from recsys_spark.config.settings import Settings
from recsys_spark.errors import RecsysError

S = TypeVar("S", bound=BaseModel)


def load_settings(path: str | Path, overrides: list[str] | None = None) -> Settings:
    """Read settings from a YAML file, or from several.

    Parameters
    ----------
    path : str or Path
        The file; or files with commas between, each of which changes those before it, key by key.
    overrides : list of str, optional
        Changes such as ``retrieval.dim=32``; the value is read as YAML.

    Raises
    ------
    RecsysError
        The file is missing or is no YAML; a key is unknown; a value has the wrong type; a variable is not set.
    """
    return settings_of(settings_tree(path, overrides), str(path))


def settings_tree(path: str | Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Plain values of the settings files with their changes, unchecked, their ``${NAME}`` as written."""
    tree: dict[str, Any] = {}
    for each in str(path).split(","):
        tree = _layered(tree, read_tree(each, "--config"))
    for override in overrides or []:
        _set(tree, override)
    return tree


def _layered(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """One tree over another: mappings are joined, all else is replaced."""
    joined = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(joined.get(key), dict)
        joined[key] = _layered(joined[key], value) if both else value
    return joined


def settings_of(tree: dict[str, Any], where: str) -> Settings:
    """Settings of such a tree, its ``${NAME}`` replaced."""
    return parse_settings(_with_variables(tree, where), where)


def read_tree(path: str | Path, option: str) -> dict[str, Any]:
    """Mapping in a YAML file; ``option`` is the one that named the file."""
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecsysError(f"cannot read the settings ({error.strerror})", str(path), f"Check {option}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise RecsysError(f"not valid YAML ({where})", str(path), "Mend the file.") from error
    if not isinstance(tree, dict):
        raise RecsysError("the settings are not a mapping", str(path), "Start from a file in jobs/conf.")
    return tree


def parse_settings(tree: dict[str, Any], where: str = "settings") -> Settings:
    """Check a tree of plain values; the first problem is told in one line."""
    return parse(Settings, tree, where)


def parse(section: type[S], tree: dict[str, Any], where: str) -> S:
    """Check a tree of plain values against a section; see ``parse_settings``."""
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "settings"
        if first["type"] == "extra_forbidden":
            close = get_close_matches(str(first["loc"][-1]), _keys(section), n=1)
            hint = f"Did you mean '{close[0]}'?" if close else "See 'recsys-spark settings' for all keys."
            raise RecsysError(f"unknown key '{key}'", where, hint) from error
        message = first["msg"].removeprefix("Value error, ")
        given = f" (given: {first['input']!r})" if isinstance(first["input"], str | int | float) else ""
        raise RecsysError(
            f"setting '{key}': {message}{given}", where, "See 'recsys-spark settings' for its meaning."
        ) from error


def _keys(section: type[BaseModel]) -> list[str]:
    names: set[str] = set()

    def walk(schema: dict[str, Any]) -> None:
        names.update(schema.get("properties", {}))
        for definition in schema.get("$defs", {}).values():
            walk(definition)

    walk(section.model_json_schema())
    return sorted(names)


def _set(tree: dict[str, Any], override: str) -> None:
    key, found, value = override.partition("=")
    if not found or not key:
        raise RecsysError(f"'{override}' is no change of a setting", "--set", "Write it as section.key=value.")
    try:
        plain = yaml.safe_load(value)
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise RecsysError(f"the value of '{override}' is not valid YAML ({where})", "--set", "Quote it.") from error
    put(tree, key, plain, "--set")


def put(tree: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Change the value of a dotted key in a tree; ``where`` is who asked for it."""
    *parents, last = key.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise RecsysError(f"'{part}' of '{key}' has a value, not keys", where, "Check the key's path.")
    tree[last] = value


def _with_variables(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {key: _with_variables(each, where) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_variables(each, where) for each in value]
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)\}", lambda match: _variable(match.group(1), where), value)
    return value


def _variable(name: str, where: str) -> str:
    if name not in os.environ:
        raise RecsysError(f"the variable {name} is not set", where, f"Run it as {name}=... recsys-spark ...")
    return os.environ[name]
