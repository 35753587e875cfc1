"""The drawings of the pages: training curves, intervals, shares by popularity, and trends over the nights."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from recsys_spark.reporting.svg import BLACK, BLUE, COLOURS, FAINT, GREY, MARKERS, ORANGE, drawing
from recsys_spark.reporting.words import clean

Curve = list[dict[str, float]]
Interval = tuple[str, float, float, float]  # name, value, low, high


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
    title = "Training loss, lower is better"
    plots = [(title, _curves(f"{name}-loss", f"{title}, by epoch", losses))]
    metric = str(content.get("metric", ""))
    title, sign = _metric(metric)
    points = _points(found[phases[0]], metric, sign)
    if points:
        best = max(points, key=lambda point: (sign * point[1], -point[0]))
        label = f"{title}; best {best[1]:.4f} at epoch {best[0]:g}"
        plots.append((title, _curves(f"{name}-validation", label, {"validation": points}, best, sign > 0)))
    return plots


def intervals_plot(salt: str, label: str, rows: list[Interval], difference: bool = False) -> str:
    """Values with their intervals, a row each, the first on top.

    Parameters
    ----------
    salt, label : str
        See ``svg.drawing``.
    rows : list of (name, value, low, high)
    difference : bool
        The values are differences: a line stands at 0, and what is surely below it has another colour and marker.
    """
    with drawing(salt, label, height=0.75 + 0.3 * len(rows)) as made:
        axes = made.axes
        for place, (_, value, low, high) in enumerate(rows):
            worse = difference and high < 0
            colour = ORANGE if worse else BLUE if difference or place == 0 else GREY
            axes.plot([low, high], [-place, -place], color=colour, linewidth=2.2, solid_capstyle="butt")
            axes.plot(value, -place, marker="s" if worse else "o", markersize=6.5, color=colour)
        if difference:
            axes.axvline(0, color=BLACK, linewidth=1)
        axes.set_yticks([-place for place in range(len(rows))], [clean(name, 26) for name, *_ in rows])
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        axes.grid(axis="x", color=FAINT, linewidth=1)
        axes.locator_params(axis="x", nbins=4)
    return made.svg


def bars_plot(salt: str, label: str, names: list[str], series: dict[str, list[float]], xlabel: str) -> str:
    """Shares side by side, a group of bars a name; the second series is hatched."""
    with drawing(salt, label) as made:
        axes, width = made.axes, 0.8 / max(len(series), 1)
        for which, (name, values) in enumerate(series.items()):
            x = [place + (which - (len(series) - 1) / 2) * width for place in range(len(values))]
            axes.bar(
                x,
                [100 * value for value in values],
                width * 0.92,
                label=name,
                color=COLOURS[which],
                hatch="///" if which else None,
                edgecolor="white",
                linewidth=0,
            )
        axes.set_xticks(range(len(names)), names)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("% of the rows")
        axes.grid(axis="y", color=FAINT, linewidth=1)
        axes.legend(frameon=False, fontsize=10)
    return made.svg


def trend_plot(
    salt: str,
    label: str,
    days: list[str],
    lines: dict[str, list[float | None]],
    band: tuple[list[float | None], list[float | None]] | None = None,
    from_zero: bool = False,
) -> str:
    """Figures over the nights: a line each with its own marker, the band around the first.

    Parameters
    ----------
    salt, label : str
        See ``svg.drawing``.
    days : list of str
        YYYY-MM-DD, ascending; their places are by the calendar, so that a night that is missing leaves a gap.
    lines : dict
        Values by night; None where a night has none.
    band : (low, high), optional
    from_zero : bool
        The axis begins at 0.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, datestr2num
    from matplotlib.ticker import MaxNLocator

    x, known = [float(datestr2num(day)) for day in days], list[float]()
    whole = all(value is None or float(value).is_integer() for values in lines.values() for value in values)
    with drawing(salt, label, height=2.2) as made:
        axes = made.axes
        if band is not None:
            low, high = ([math.nan if value is None else value for value in side] for side in band)
            axes.fill_between(x, low, high, color=BLUE, alpha=0.15, linewidth=0)
        for which, (name, values) in enumerate(lines.items()):
            y = [math.nan if value is None else value for value in values]
            known += [value for value in values if value is not None]
            style: dict[str, Any] = {
                "color": COLOURS[which],
                "marker": MARKERS[which],
                "markersize": 4.5,
                "linewidth": 1.8,
            }
            axes.plot(x, y, label=clean(name, 30), linestyle="-" if which == 0 else "--", **style)
        locator = AutoDateLocator(minticks=2, maxticks=5)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        if len(x) == 1:
            axes.set_xlim(x[0] - 3, x[0] + 3)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=whole))
        if from_zero:
            axes.set_ylim(0, 1.08 * max((y for y in known if y), default=1.0))
        axes.grid(axis="y", color=FAINT, linewidth=1)
        if len(lines) > 1:  # above the lines, which are wherever they are
            axes.legend(frameon=False, fontsize=10, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderpad=0.2)
    return made.svg


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


def _curves(
    salt: str,
    label: str,
    lines: dict[str, list[tuple[float, float]]],
    best: tuple[float, float] | None = None,
    above: bool = True,
) -> str:
    from matplotlib.ticker import MaxNLocator

    with drawing(salt, label) as made:
        axes = made.axes
        for i, (name, points) in enumerate(lines.items()):
            x, y = [p[0] for p in points], [p[1] for p in points]
            style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            axes.plot(x, y, linewidth=1.8, markersize=4, label=name.lstrip("_"), **style)
        if best is not None:
            axes.plot(*best, marker="o", markersize=9, fillstyle="none", color=ORANGE, markeredgewidth=1.8)
            place: dict[str, Any] = {"xytext": (0, 9 if above else -18), "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"{best[1]:.4f}", best, color=BLACK, **place)
            axes.margins(y=0.25)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(axis="y", color=FAINT, linewidth=1)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=10, ncols=2 if len(lines) > 3 else 1)
    return made.svg
