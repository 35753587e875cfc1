"""From a template to a page that needs nothing beside itself."""

from __future__ import annotations

from importlib import resources
from typing import Any

from recsys_spark.reporting import words

STYLE = "style.css"


def fill(template: str, values: dict[str, Any]) -> str:
    """Fill a template of this package; every value is escaped, except the style and what this package has drawn."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "n": lambda value: f"{value:,}",
        "share": words.share,
        "drawn": lambda svg: Markup(svg),
    }
    return environment.from_string(_text(template)).render(style=Markup(_text(STYLE)), **values)


def _text(name: str) -> str:
    # Read through importlib, so that it is also found where the package came as a zip.
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
