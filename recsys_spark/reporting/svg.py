"""What all drawings have in common: inline SVG whose text stays text, with a name for those who cannot see it.

The same data give the same bytes. Colours are those of Okabe and Ito (2008), which people with any kind of colour
blindness can tell apart; what they tell, a marker, a dash or a word tells too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PURPLE, BLACK, SKY, GREY = (
    "#0072B2", "#D55E00", "#009E73", "#AA4499", "#20252c", "#3f8fc4", "#6b7280",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GREY, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#4a515c", "#e4e6ea"
_WIDE = 4.5  # inches: on a phone a point of text is about a pixel


@dataclass
class Drawing:
    """A drawing that is being made, and its SVG afterwards."""

    axes: Axes
    svg: str = field(default="")


@contextmanager
def drawing(salt: str, label: str, height: float = 2.7) -> Iterator[Drawing]:
    """Draw into ``axes``; the SVG is there when the block has ended.

    Parameters
    ----------
    salt : str
        Other than that of any drawing on the same page: ids within the SVG follow from it.
    label : str
        What a person hears who does not see the drawing.
    height : float
        Inches, of a width of 4.5.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "font.size": 11,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.labelcolor": INK,
        "text.parse_math": False,  # a name with dollar signs is a name
    }
    with rc_context(style):
        figure = Figure(figsize=(_WIDE, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        made = Drawing(axes)
        yield made
        target = StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    made.svg = _inline(target.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    """Keep the svg element alone, as wide as its place on the page."""
    start = svg.index("<svg")
    head, rest = svg[start:].split(">", 1)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    named = set(re.findall(r"#([\w.-]+)", rest))  # what another part draws; the rest are alike in all drawings
    rest = re.sub(r'\sid="([^"]*)"', lambda found: found[0] if found[1] in named else "", rest)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(label)}">{rest}'.strip()


def spark(values: list[float | None], limit: float | None, failed: list[bool], label: str) -> str:
    """A small line over nights, oldest first, without axes: a dashed limit, and rings where it was broken.

    Parameters
    ----------
    values : list of (float or None)
        None where a night has no value.
    limit : float, optional
    failed : list of bool
    label : str
    """
    width, height, edge = 160.0, 44.0, 7.0
    known = [value for value in values if value is not None]
    span = [*known, *([] if limit is None else [limit])]
    low, high = min([0.0, *span]), max([0.0, *span])
    scale = (height - 2 * edge) / (high - low) if high > low else 0.0
    step = (width - 2 * edge) / max(len(values) - 1, 1)

    def at(place: int, value: float) -> tuple[str, str]:
        x = edge + place * step if len(values) > 1 else width - edge
        return f"{x:.1f}", f"{height - edge - (value - low) * scale:.1f}"

    points = [(at(place, value), failed[place]) for place, value in enumerate(values) if value is not None]
    parts = [f'<svg class="spark" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">']
    if limit is not None:
        y = at(0, limit)[1]
        parts.append(f'<path d="M0 {y}H{width:g}" stroke="{GREY}" stroke-dasharray="4 3" fill="none"/>')
    if len(points) > 1:
        line = " ".join(f"{x},{y}" for (x, y), _ in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{BLUE}" stroke-width="1.8"/>')
    for (x, y), bad in points:
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="5" fill="none" stroke="{ORANGE}" stroke-width="2.4"/>'
            if bad
            else f'<circle cx="{x}" cy="{y}" r="2.4" fill="{BLUE}"/>'
        )
    return "".join([*parts, "</svg>"])
