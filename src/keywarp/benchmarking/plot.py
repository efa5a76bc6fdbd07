"""The picture of a benchmark: where each candidate's milliseconds go, and its speed-up beside Eq. 7's bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keywarp.benchmarking.timing import REST, in_order
from keywarp.figures import save_figure

if TYPE_CHECKING:
    from keywarp.benchmark import Row


def plot(rows: Sequence[Row], setting: Mapping[str, object], path: Path) -> None:
    """Draw the rows, the first one on top, into a file of `figures.KINDS`."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 2.2 + 0.34 * len(rows)), layout="constrained")
    times, speeds = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    names, ends = [row.name for row in rows], [0.0] * len(rows)
    parts = in_order(part for row in rows for part in row.parts if part != "total")
    colours = {part: colormaps["tab20"](n) for n, part in enumerate(parts)} | {REST: "lightgrey"}
    for part in parts:
        widths = [max(row.parts.get(part, 0.0), 0.0) for row in rows]
        times.barh(names, widths, left=ends, color=colours[part], label=part)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for n, row in enumerate(rows):
        text = f" {row.milliseconds:.3g} ms, {row.frames_per_second:.3g} frames/s"
        times.annotate(text, (ends[n], n), va="center", fontsize="small")
    times.set(xlabel="milliseconds a frame", xlim=(0, 1.5 * max(ends)))
    times.legend(ncols=5, loc="lower left", bbox_to_anchor=(-0.1, 1), frameon=False, fontsize="small")

    speeds.barh(names, [row.speedup for row in rows], color="steelblue", label="measured")
    bounded = [(row.bound, row.name) for row in rows if row.bound is not None]
    if bounded:
        bounds, where = zip(*bounded, strict=True)
        speeds.plot(bounds, where, "|", color="black", markersize=14, markeredgewidth=2, label="bound of Eq. 7")
    for n, row in enumerate(rows):
        share = "" if row.share_of_bound is None else f", {row.share_of_bound:.0%} of the bound"
        place = (max(row.speedup, row.bound or 0), n)
        speeds.annotate(f"  {row.speedup:.2f}{share}", place, va="center", fontsize="small")
    longest = max(max(row.speedup, row.bound or 0) for row in rows)
    speeds.set(xlabel="speed-up over the same network on every frame", xlim=(0, 1.7 * longest))
    speeds.axvline(1, color="grey", linewidth=0.8)
    speeds.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize="small")
    times.invert_yaxis()
    figure.suptitle(", ".join(f"{name} {value}" for name, value in setting.items()), fontsize="small", wrap=True)
    save_figure(figure, path)
