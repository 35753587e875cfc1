"""The settings on one page, made from the tree itself, so that it cannot say anything else than the code."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from recsys_spark.config import Settings, Tuning


def settings_page() -> str:
    """Every key with type, default and meaning, section by section, as Markdown; then those of a search's file."""
    lines: list[str] = []
    _section(Settings, "", lines)
    lines += ["## The file of `recsys-spark tune --space`", ""]
    _section(Tuning, "", lines, "tune")
    return "\n".join(lines)


def _section(model: type[BaseModel], prefix: str, lines: list[str], name: str = "settings") -> None:
    about = (model.__doc__ or "").strip().splitlines()[0]
    lines += [f"### `{prefix or name}`", "", about, "", "| key | type | default | meaning |", "|---|---|---|---|"]
    nested: list[tuple[str, type[BaseModel]]] = []
    for key, field in model.model_fields.items():
        inner = _model_of(field.annotation)
        if inner is not None:
            nested.append((f"{prefix}.{key}".lstrip("."), inner))
        default = "required" if field.is_required() else _default(field)
        meaning = (field.description or (f"see `{nested[-1][0]}`" if inner else "")).replace("|", "\\|")
        lines.append(f"| `{key}` | {_type(field.annotation)} | {default} | {meaning} |")
    lines.append("")
    for path, inner in nested:
        _section(inner, path, lines)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{value}`" if value not in (None, [], {}) else "none"


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation):
        found = _model_of(inner)
        if found is not None:
            return found
    return None


def _type(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    for old, new in (("typing.", ""), ("recsys_spark.config.", ""), ("NoneType", "None"), ("|", "or")):
        text = text.replace(old, new)
    return text.replace("Literal", "one of ")
