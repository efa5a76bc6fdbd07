"""Accuracy against speed, drawn: a picture, or a page with the picture and a table that sorts."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keywarp.errors import UserError
from keywarp.figures import KINDS, check_figure, save_figure
from keywarp.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = ".html"
PER_FRAME = "per frame"
"""`Point.note` of a network on every frame: its own mark, and lines at its speed and accuracy."""
ORACLE = "oracle"
"""`Point.note` of the key frames that ground truth would choose: its own mark, outside the group's line."""
COLUMNS = ("method", "setting", "ms a frame", "frames/s", "accuracy", "note")


@dataclass(frozen=True)
class Point:
    """One setting of a method, measured.

    label: beside the point, e.g. "l=10". group: the method, whose points one line joins, e.g. "dff flownet-s".
    parameter: what is varied within the group (the interval, the radius, γ); the line goes by it. speed_ms:
    milliseconds a frame. accuracy: e.g. mAP, 0 … 1. note: `PER_FRAME`, `ORACLE`, or anything else for the table.
    """

    label: str
    group: str
    parameter: float
    speed_ms: float
    accuracy: float
    note: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.speed_ms < float("inf"):
            raise ValueError(f"speed_ms must be above 0, got {self.speed_ms} for {self.group} {self.label}")
        if not 0 <= self.accuracy <= 1:
            raise ValueError(f"accuracy must be 0 … 1, got {self.accuracy} for {self.group} {self.label}")

    @property
    def percent(self) -> float:
        """The accuracy as it is shown."""
        return 100 * self.accuracy


def check_tradeoff(output: Path) -> None:
    """Nothing. Raises UserError, before any work, where `plot` could not write this file."""
    check_figure(output, (*KINDS, PAGE))


def plot(points: Sequence[Point], output: Path, title: str = "", measure: str = "mAP") -> None:
    """Draw the points into a .png, .svg or .pdf file, or into an .html page that needs no other file.

    One line a group; the networks on every frame and the oracle's schedules are marked. title: over the picture, e.g.
    data set and machine. measure: what the accuracy is called. Raises UserError when `output` cannot be written or
    there is no point.
    """
    check_tradeoff(output)
    if not points:
        raise UserError("there is nothing to plot: no point was measured")
    figure = drawn(points, title, measure)
    if output.suffix.lower() != PAGE:
        save_figure(figure, output)
        return
    try:
        write_atomically(output, page(points, figure, title, measure))
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}; choose another place") from error


def drawn(points: Sequence[Point], title: str, measure: str) -> Figure:
    """The picture: milliseconds a frame to the right on a logarithmic scale, accuracy in percent upwards."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, ScalarFormatter

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for n, (group, members) in enumerate(by_group(points).items()):
        colour = f"C{n % 10}"
        line = [p for p in members if p.note not in (PER_FRAME, ORACLE)]
        if line:
            axes.plot(_speeds(line), _accuracies(line), "o-", color=colour, label=group, markersize=5)
        for note, mark, size in ((PER_FRAME, "s", 9), (ORACLE, "*", 13)):
            if marked := [p for p in members if p.note == note]:
                options: dict[str, Any] = {"color": colour, "markeredgecolor": "black", "markersize": size}
                axes.plot(_speeds(marked), _accuracies(marked), mark, label=f"{group}, {note}", **options)
        for p in members:
            if p.note == PER_FRAME:  # named in the legend
                axes.axhline(p.percent, color=colour, linewidth=0.8, linestyle=":", zorder=0)
                axes.axvline(p.speed_ms, color=colour, linewidth=0.8, linestyle=":", zorder=0)
                continue
            # Curves rise to the right: there is room on the other side.
            where: dict[str, Any] = {"xytext": (-5, 5), "textcoords": "offset points", "ha": "right"}
            axes.annotate(p.label, (p.speed_ms, p.percent), fontsize="small", color=colour, **where)
    axes.set(xscale="log", xlabel="milliseconds a frame", ylabel=f"{measure} (%)", title=title)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.minorticks_off()
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def by_group(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each group, in the groups' first order, by parameter."""
    groups = list(dict.fromkeys(p.group for p in points))
    ordered = sorted(points, key=lambda p: (groups.index(p.group), p.parameter))
    return {group: list(members) for group, members in groupby(ordered, key=attrgetter("group"))}


def _speeds(points: Sequence[Point]) -> list[float]:
    return [p.speed_ms for p in points]


def _accuracies(points: Sequence[Point]) -> list[float]:
    return [p.percent for p in points]


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; }
th, td { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: right; }
th:nth-child(-n+2), td:nth-child(-n+2), th:last-child, td:last-child { text-align: left; }
th { cursor: pointer; }
"""
SORT = """
document.querySelectorAll("th").forEach((head, column) => head.onclick = () => {
  const body = document.querySelector("tbody"), rising = head.dataset.rising !== "1";
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = (a, b) => value(a).localeCompare(value(b), undefined, {numeric: true});
  const numbers = (a, b) => value(a) - value(b);
  const compare = body.rows[0].cells[column].dataset.value === undefined ? order : numbers;
  const rows = [...body.rows].sort((a, b) => rising ? compare(a, b) : compare(b, a));
  document.querySelectorAll("th").forEach(other => delete other.dataset.rising);
  head.dataset.rising = rising ? "1" : "0";
  body.append(...rows);
});
"""


def page(points: Sequence[Point], figure: Figure, title: str, measure: str) -> str:
    """HTML with the picture as SVG in it and a row a point; a click on a column's head sorts by it."""
    picture = io.StringIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    svg = re.sub(r"^.*?(?=<svg)", "", picture.getvalue(), flags=re.DOTALL)
    title = title or f"{measure} against speed"
    heads = "".join(f"<th>{escape(f'{measure} (%)' if c == 'accuracy' else c)}</th>" for c in COLUMNS)
    rows = "\n".join(_row(p) for members in by_group(points).values() for p in members)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n{svg}\n"
        f"<table><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table>\n"
        f"<script>{SORT}</script></body></html>\n"
    )


def _row(point: Point) -> str:
    texts = (f"<td>{escape(text)}</td>" for text in (point.group, point.label))
    numbers = (
        f'<td data-value="{value!r}">{value:{form}}</td>'
        for value, form in ((point.speed_ms, ".1f"), (1000 / point.speed_ms, ".2f"), (point.percent, ".1f"))
    )
    return f"<tr>{''.join(texts)}{''.join(numbers)}<td>{escape(point.note)}</td></tr>"
