"""`keywarp explain`: the plan of a method in words and as a picture. Nothing is computed, only scheduled."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from html import escape
from itertools import accumulate, cycle, takewhile
from pathlib import Path
from typing import Any

import torch

from keywarp.adapters import Parts
from keywarp.errors import UserError, unknown
from keywarp.files import write_atomically
from keywarp.loading import check_schedule
from keywarp.methods import METHODS, rfcn
from keywarp.model import VideoModel
from keywarp.scheduling import Scheduler

EXAMPLE_GAPS = (7, 12, 4)
"""Frames between the key frames of the example for schedulers that ask the pictures, again and again."""


@dataclass(frozen=True)
class PlannedStep:
    """A step of a plan, with its place in time.

    frames: those that stand, `refused` those that the quality check did not let pass. after: the frame that had just
    arrived, or the number of frames when the video had ended. results: of which frames the results were then out.
    """

    frames: tuple[int, ...]
    is_key: bool
    references: tuple[int, ...]
    after: int
    results: tuple[int, ...]
    refused: tuple[int, ...] = ()


def plan(scheduler: Scheduler, frames: int, *, adaptive_keys: Collection[int] | None = None) -> list[PlannedStep]:
    """The steps for a live video of so many frames, in processing order, as `VideoPredictor` carries them out.

    adaptive_keys: at these frames a scheduler that asks for the alignment's quality finds it poor; by default after
    `EXAMPLE_GAPS`.
    """
    if adaptive_keys is None:
        adaptive_keys = set(takewhile(lambda i: i < frames, accumulate(cycle(EXAMPLE_GAPS))))
    steps: list[PlannedStep] = []
    done: set[int] = set()
    last_key, key_due, out = None, False, 0
    for after in range(frames + 1):
        ended = after == frames
        while True:
            pending = [i for i in range(out, min(after + 1, frames)) if i not in done]
            step = scheduler.next_step(pending, last_key, ended, key_due)
            if step is None:
                break
            if step.is_key:
                kept, key_due, last_key = len(step.frames), False, step.frames[0]
            else:
                kept = _standing(scheduler, step.frames, adaptive_keys)
                key_due = kept < len(step.frames)
            if step.emits:
                done.update(step.frames[:kept])
            before = out
            while out in done:
                out += 1
            results, refused = tuple(range(before, out)), step.frames[kept:]
            steps.append(PlannedStep(step.frames[:kept], step.is_key, step.references, after, results, refused))
    return steps


def _standing(scheduler: Scheduler, frames: tuple[int, ...], poor: Collection[int]) -> int:
    """How many frames the scheduler accepts when the alignment of the `poor` ones is as bad as can be."""
    quality = torch.tensor([float("-inf" if i in poor else "inf") for i in frames])
    kept = scheduler.accept(quality.view(-1, 1, 1, 1))
    return len(frames) if kept is None else kept


@dataclass(frozen=True)
class Explanation:
    """What is drawn. words: on each part of the model. joins_keys: a key frame reads the memory of the one before."""

    title: str
    words: dict[str, str]
    frames: int
    steps: list[PlannedStep]
    joins_keys: bool

    @property
    def keys(self) -> set[int]:
        """The frames that go through the feature network."""
        return {i for step in self.steps if step.is_key for i in step.frames}

    @property
    def references(self) -> dict[int, tuple[int, ...]]:
        """The frames whose memories each frame's result is made of; none for a key frame on its own."""
        read = (step for step in self.steps if self.joins_keys or not step.is_key)
        return {i: step.references for step in read for i in step.frames}

    @property
    def out(self) -> dict[int, int]:
        """The frame after whose arrival each frame's result is out; the number of frames = at the end."""
        return {i: step.after for step in self.steps for i in step.results}

    @property
    def is_window(self) -> bool:
        """Whether frames gather from several others."""
        return any(len(r) > 1 for r in self.references.values())

    @property
    def caption(self) -> str:
        """What the marks mean."""
        marks = ["key frames go through the feature network"]
        if any(self.references.values()):
            one = f" (drawn for frame {self.frames // 2})" if self.is_window else ""
            marks.append(f"arrows lead to the frames that a frame reads{one}")
        marks.append("a result is out when the frame below it has arrived")
        refused = sorted({i for step in self.steps for i in step.refused})
        if refused:
            marks.append(f"as an example, the alignment is taken to be poor at {', '.join(map(str, refused))}")
        return "; ".join(marks)


def explain(
    method: str, *, interval: int | None = None, radius: int | None = None, frames: int = 25, svg: Path | None = None
) -> None:
    """Print the plan of a method of `METHODS` for so many frames, and draw it into a file where `svg` is given."""
    explanation = explained(method, interval=interval, radius=radius, frames=frames)
    if svg is not None:
        try:
            write_atomically(svg, drawn(explanation))
        except OSError as error:
            raise UserError(f"cannot write {svg}: {error.strerror}; choose another --svg") from error
    _print(explanation)


def explained(method: str, *, interval: int | None = None, radius: int | None = None, frames: int = 25) -> Explanation:
    """The explanation of a method with its defaults, but for what is given. Raises UserError for what it has not."""
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if frames < 1:
        raise UserError(f"--frames must be at least 1, got {frames}")
    build = METHODS[method]
    takes = inspect.signature(build).parameters
    arguments: dict[str, Any] = {}
    for name, value in (("interval", interval), ("radius", radius)):
        if value is not None and name not in takes:
            raise UserError(f"{method} has no {name}; leave --{name} out")
        if value is not None:
            arguments[name] = value
    with torch.device("meta"):  # the parts without their weights
        if "detector" in takes:
            stand_in = rfcn("resnet-18")
            arguments["detector"] = Parts(stand_in.feature_network, stand_in.head, stand_in.transform, ())
        else:
            arguments["backbone"] = "resnet-18"
        model = build(**arguments)
    check_schedule(method, model.scheduler, arguments)
    steps = plan(model.scheduler, frames)
    joins_keys = model.aggregator is not None and any(step.is_key and step.references for step in steps)
    return Explanation(f"{method}: {_summary(build)}", _words(model, joins_keys), frames, steps, joins_keys)


def _words(model: VideoModel, joins_keys: bool) -> dict[str, str]:
    words = {"key frames": f"{model.scheduler}: {_summary(type(model.scheduler))}"}
    named = {
        "alignment": model.aligner,
        "aggregation": model.aggregator,
        "update": model.updater,
        "transform net": model.transform_net,
    }
    words |= {name: f"{type(p).__name__}: {_summary(type(p))}" for name, p in named.items() if p is not None}
    if model.aligner is None:
        words["alignment"] = "none: no features are carried"
    if joins_keys:
        g = model.memory_gate
        left = "its joined features" if g == 1 else f"{1 - g:g}·own + {g:g}·joined features"
        words["memory gate"] = f"{g:g}: a key frame leaves {left} to the next one"
        words["non-key frames"] = (
            "joined with the memory like key frames" if model.aggregate_every_frame else "are given the joined features"
        )
    latency = model.scheduler.latency
    words["latency"] = f"a result trails its frame by up to {latency} frames" if latency else "none"
    return words


def _summary(thing: Any) -> str:
    """The first line of its docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _print(explanation: Explanation) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(Text(explanation.title, style="bold"))
    width = max(len(str(explanation.frames)) + 2, len(" end"))
    at_once = max(min((console.width - 8) // width, 25), 1)
    for start in range(0, explanation.frames, at_once):
        table = Table.grid()
        table.add_column(width=8, no_wrap=True)
        frames = range(start, min(start + at_once, explanation.frames))
        for _ in frames:
            table.add_column(width=width, justify="right", no_wrap=True)
        for name, cells in rows(explanation, frames):
            styled = (Text(cell, style="bold cyan" if cell == "K" else "") for cell in cells)
            table.add_row(Text(name, style="dim"), *styled)
        console.print()
        console.print(table)
    console.print()
    console.print(Text(f"K: {explanation.caption}", style="dim"))
    words = Table.grid(padding=(0, 2))
    for name, text in explanation.words.items():
        words.add_row(Text(name, style="dim"), Text(text))
    console.print(words)


def rows(explanation: Explanation, frames: range) -> Iterator[tuple[str, list[str]]]:
    """Name and cells of each row of the terminal's picture, for some of the frames."""
    references = [explanation.references.get(i, ()) for i in frames]
    yield "frame", [str(i) for i in frames]
    yield "", ["K" if i in explanation.keys else "·" for i in frames]
    if explanation.is_window:
        yield "from", [str(min(r)) for r in references]
        yield "to", [str(max(r)) for r in references]
    elif any(references):
        arrows = zip(frames, references, strict=True)
        yield "reads", [f"{'←' if r[0] < i else '→'}{r[0]}" if r else "" for i, r in arrows]
    out = explanation.out
    yield "result", ["end" if out[i] == explanation.frames else str(out[i]) for i in frames]


COLUMN, BOX, MARGIN, LABEL = 38, 26, 24, 110
INK, PALE, KEY, LINE, CHAIN = "#1f2937", "#6b7280", "#2563eb", "#94a3b8", "#d97706"
"""Colours of text, of lesser text, of key frames, of lines, and of what key frames read."""


def drawn(explanation: Explanation) -> str:
    """The picture as SVG: above, the frames and what they read; below, when results are out."""
    width = max(2 * MARGIN + LABEL + COLUMN * (explanation.frames + 1), 720)
    arrows = [a for i, r in explanation.references.items() if _is_drawn(explanation, i) for a in ((i, j) for j in r)]
    highest = max((abs(i - j) for i, j in arrows), default=0)
    top = 64 + _rise(highest)
    time = top + BOX + 80
    body = [_text(MARGIN, 32, explanation.title, size=15, weight="bold")]
    body += [_text(MARGIN, top + 17, "frame", ink=PALE), _text(MARGIN, time + 20, "result after", ink=PALE)]
    body += [_arrow(i, j, top, CHAIN if explanation.joins_keys and i in explanation.keys else LINE) for i, j in arrows]
    for i, after in explanation.out.items():
        body.append(f'<line x1="{_centre(i)}" y1="{top + BOX}" x2="{_centre(after)}" y2="{time - 4}" stroke="{LINE}"/>')
    for i in range(explanation.frames):
        fill, ink = (KEY, "white") if i in explanation.keys else ("white", INK)
        body.append(
            f'<rect x="{_centre(i) - BOX // 2}" y="{top}" width="{BOX}" height="{BOX}" rx="4" fill="{fill}" '
            f'stroke="{KEY if i in explanation.keys else LINE}"/>'
        )
        body.append(_text(_centre(i), top + 17, str(i), ink=ink, anchor="middle"))
    for after in sorted(set(explanation.out.values())):
        name = "end" if after == explanation.frames else str(after)
        body.append(f'<circle cx="{_centre(after)}" cy="{time}" r="4" fill="{INK}"/>')
        body.append(_text(_centre(after), time + 20, name, anchor="middle"))
    y = time + 54
    chain = "; orange: a key frame reads the key frame before" if explanation.joins_keys else ""
    for name, text in ({"": f"filled: {explanation.caption}{chain}"} | explanation.words).items():
        body.append(_text(MARGIN, y, name, ink=PALE))
        for line in textwrap.wrap(text, int((width - 2 * MARGIN - LABEL) / 6.5)):
            body.append(_text(MARGIN + LABEL, y, line))
            y += 18
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" '
            'font-family="sans-serif">',
            *(_arrowhead(colour) for colour in (LINE, CHAIN)),
            f'<rect width="{width}" height="{y}" fill="white"/>',
            *body,
            "</svg>\n",
        ]
    )


def _is_drawn(explanation: Explanation, frame: int) -> bool:
    """Windows overlap too much to be drawn all."""
    return not explanation.is_window or frame == explanation.frames // 2


def _centre(frame: int) -> int:
    return MARGIN + LABEL + COLUMN * frame + COLUMN // 2


def _rise(distance: int) -> int:
    """How high an arrow over so many frames goes, in pixels."""
    return 10 + 6 * min(distance, 16) if distance else 0


def _arrow(frame: int, reference: int, top: int, colour: str) -> str:
    if frame == reference:
        return ""
    start, end = _centre(frame), _centre(reference) + (5 if frame > reference else -5)
    control = top - 2 * _rise(abs(frame - reference))  # a quadratic curve rises half as high
    return (
        f'<path d="M{start} {top} Q{(start + end) // 2} {control} {end} {top - 3}" fill="none" stroke="{colour}" '
        f'marker-end="url(#to-{colour[1:]})"/>'
    )


def _arrowhead(colour: str) -> str:
    return (
        f'<marker id="to-{colour[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'
    )


def _text(
    x: int, y: int, text: str, *, size: int = 12, ink: str = INK, anchor: str = "start", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{ink}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )
