"""Training curves as inline SVG: text stays text, and the same curves give the same bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from io import StringIO
from typing import Any

from recsys_spark.reporting.words import clean

COLOURS = ("#2f6690", "#d08c3f", "#5b8e7d", "#a2567a", "#7a7f9a", "#b3a13b", "#4c4f69")
INK, FAINT = "#5c6370", "#e4e6ea"

Curve = list[dict[str, float]]


def curve_plots(name: str, content: dict[str, Any], order: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Title and SVG of each plot of one ``curves.json``.

    The loss is drawn for every phase. The validation figure is drawn for the first phase only: it chose the
    number of epochs, and later phases have the validation rows among their training rows.

    Parameters
    ----------
    name : str
        Model, for the plots' ids.
    content : dict
        ``{"metric": name, "curves": {phase: [{"epoch", "loss", metric}, …]}}``; empty curves give no plot.
    order : sequence of str
        Phases in the order of training; those not named come last.
    """
    found: dict[str, Curve] = {phase: curve for phase, curve in content.get("curves", {}).items() if curve}
    if not found:
        return []
    phases = [phase for phase in order if phase in found] + sorted(set(found) - set(order))
    losses = {clean(phase, 30): _points(found[phase], "loss", 1) for phase in phases}
    plots = [("Training loss, lower is better", _draw(f"{name}-loss", losses))]
    metric = str(content.get("metric", ""))
    title, sign = _metric(metric)
    points = _points(found[phases[0]], metric, sign)
    if points:
        best = max(points, key=lambda point: (sign * point[1], -point[0]))
        plots.append((title, _draw(f"{name}-validation", {"validation": points}, best, sign > 0)))
    return plots


def _metric(metric: str) -> tuple[str, int]:
    """Title of a validation figure, and the sign that undoes a ``minus_``."""
    if metric.startswith("minus_"):
        name = metric.removeprefix("minus_").replace("logloss", "log loss")
        return f"Validation {clean(name)}, lower is better", -1
    ndcg = re.fullmatch(r"ndcg(\d+)(_new)?", metric)
    if ndcg:
        return f"Validation NDCG@{ndcg[1]}{', new items' if ndcg[2] else ''}, higher is better", 1
    return f"Validation {clean(metric)}, higher is better", 1


def _points(curve: Curve, key: str, sign: int) -> list[tuple[float, float]]:
    return [
        (point.get("epoch", i + 1), sign * point[key])
        for i, point in enumerate(curve)
        if isinstance(point.get(key), int | float) and math.isfinite(point[key])
    ]


def _draw(
    salt: str,
    lines: dict[str, list[tuple[float, float]]],
    best: tuple[float, float] | None = None,
    above: bool = True,
) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.labelcolor": INK,
        "text.parse_math": False,  # a name with dollar signs is a name
    }
    with rc_context(style):
        figure = Figure(figsize=(5.0, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for i, (label, points) in enumerate(lines.items()):
            x, y = [p[0] for p in points], [p[1] for p in points]
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(x, y, color=colour, linewidth=1.8, marker="o", markersize=3.5, label=label.lstrip("_"))
        if best is not None:
            axes.plot(*best, marker="o", markersize=9, fillstyle="none", color=COLOURS[1], markeredgewidth=1.8)
            axes.annotate(
                f"{best[1]:.4f}",
                best,
                xytext=(0, 9 if above else -18),
                textcoords="offset points",
                ha="center",
                color=COLOURS[1],
            )
            axes.margins(y=0.25)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(axis="y", color=FAINT, linewidth=1)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=9, ncols=2 if len(lines) > 3 else 1)
        target = StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(target.getvalue())


def _inline(svg: str) -> str:
    """Keep the svg element alone, as wide as its place on the page."""
    start = svg.index("<svg")
    head, rest = svg[start:].split(">", 1)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img">{rest}'.strip()
