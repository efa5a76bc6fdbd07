"""How fast each method is, measured in one interleaved run and reported as ratios.

Machines are noisy, so every round runs each candidate once, and the medians over the rounds of times and of ratios
within a round are reported. On one thread the process's CPU time is what counts: other load disturbs it least. On
several threads it is wall time.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keywarp.data.video import open_video
from keywarp.doctor import cpu_name
from keywarp.errors import UserError
from keywarp.files import write_atomically
from keywarp.listing import cost, speedup
from keywarp.methods import FLOWS, dff, load
from keywarp.model import VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.structures import VideoFrame


@dataclass
class Candidate:
    """A model that takes part. `baseline`: the same network on every frame. `bound`: its speed-up by Eq. 7 of 004."""

    name: str
    model: VideoModel
    interval: int
    baseline: str
    bound: float | None = None
    rounds: list[dict[str, float]] = field(default_factory=list)  # milliseconds a frame: total and by part


@dataclass(frozen=True)
class Row:
    """A result. Milliseconds a frame and their smallest and largest over the rounds; `speedup` over the baseline."""

    name: str
    milliseconds: float
    smallest: float
    largest: float
    speedup: float
    bound: float | None
    share_of_bound: float | None
    parts: dict[str, float]


def candidates(
    models: Sequence[str], flows: Sequence[str], intervals: Sequence[int], backbone: str, device: str
) -> list[Candidate]:
    """Every model per frame, and with every flow and interval above 1."""
    found: list[Candidate] = []
    for name in models:
        trained = name == "dff"
        common: dict[str, Any] = {"device": device}
        if trained or name.startswith("torchvision/"):
            common["weights"] = "random"  # speed does not depend on them
        if trained:
            common["backbone"] = backbone
        single = load("rfcn", **common) if trained else load(name, interval=1, **common)
        per_frame = f"{'rfcn' if trained else name} per frame"
        found.append(Candidate(per_frame, single, 1, per_frame))
        for flow in flows:
            if trained == (flow in FLOWS):
                continue
            r = None
            if trained:
                row = cost("", partial(dff, backbone, flow=flow))
                r = (row.gmac_non_key or 0) / row.gmac_key
            for interval in intervals:
                if interval == 1:
                    continue
                model = load(name, flow=flow, interval=interval, **common)
                bound = None if r is None else speedup(r, interval)
                found.append(Candidate(f"{name} {flow} l={interval}", model, interval, per_frame, bound))
    if not found:
        raise UserError(f"no model to measure; give --models, e.g. dff or yolox-nano, got {list(models)}")
    return found


@contextmanager
def part_times(model: VideoModel, clock: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Seconds spent in each of the model's networks while the context is open."""
    spent: dict[str, float] = {}
    parts: dict[str, nn.Module | None] = {
        "feature network": model.feature_network,
        "alignment": model.aligner,
        "head": model.head,
    }
    with ExitStack() as stack:
        for name, module in parts.items():
            if module is None:
                continue
            spent[name] = 0.0
            started: list[float] = []

            def before(*_: object, started: list[float] = started) -> None:
                started.append(clock())

            def after(*_: object, name: str = name, started: list[float] = started) -> None:
                spent[name] += clock() - started.pop()

            stack.callback(module.register_forward_pre_hook(before).remove)
            stack.callback(module.register_forward_hook(after).remove)
        yield spent


def measure(candidate: Candidate, frames: Sequence[VideoFrame], clock: Callable[[], float], batch: int) -> None:
    """One round: a whole segment through a new predictor, or two frames of a per-frame model."""
    count = candidate.interval if candidate.interval > 1 else 2
    segment = [frames[i % len(frames)] for i in range(count)]
    predictor = VideoPredictor(candidate.model, batch=batch)
    with part_times(candidate.model, clock) as spent:
        start = clock()
        done = len(predictor.push(segment)) + len(predictor.flush())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        total = clock() - start
    assert done == count
    parts = {name: 1000 * seconds / count for name, seconds in spent.items()}
    total = 1000 * total / count
    candidate.rounds.append({"total": total, **parts, "propagation and resizing": total - sum(parts.values())})


def summarise(candidate: Candidate, baseline: Candidate) -> Row:
    """Medians over the rounds."""
    totals = [r["total"] for r in candidate.rounds]
    ratio = statistics.median(b["total"] / c["total"] for b, c in zip(baseline.rounds, candidate.rounds, strict=True))
    return Row(
        name=candidate.name,
        milliseconds=statistics.median(totals),
        smallest=min(totals),
        largest=max(totals),
        speedup=ratio,
        bound=candidate.bound,
        share_of_bound=ratio / candidate.bound if candidate.bound else None,
        parts={part: statistics.median(r[part] for r in candidate.rounds) for part in candidate.rounds[0]},
    )


def benchmark(
    video: str,
    *,
    models: Sequence[str] = ("dff",),
    flows: Sequence[str] = ("flownet-s", "flownet-half", "flownet-inception"),
    intervals: Sequence[int] = (10, 20),
    backbone: str = "resnet-101",
    rounds: int = 3,
    threads: int = 1,
    batch: int = 8,
    device: str = "auto",
    output: Path | None = None,
) -> list[Row]:
    """Measure, print a table, and write JSON to `output` if given.

    video: frames come from its beginning, decoded before the clock starts. batch: non-key frames computed together;
    1 = live. rounds: after one round that is thrown away.
    """
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 and not torch.cuda.is_available() else time.perf_counter
    entries = candidates(models, flows, intervals, backbone, device)
    with open_video(video, stop=max(e.interval for e in entries) + 1, motion="codec" in flows) as source:
        frames = list(source)
    for number in range(rounds + 1):
        for entry in entries:
            measure(entry, frames, clock, batch)
        if number == 0:
            for entry in entries:
                entry.rounds.clear()
    by_name = {entry.name: entry for entry in entries}
    rows = [summarise(entry, by_name[entry.baseline]) for entry in entries]
    height, width = frames[0].image.shape[:2]
    setting = {
        "video": Path(video).name,
        "frame": f"{width}x{height}",
        "backbone": backbone,
        "threads": threads,
        "batch": batch,
        "clock": "CPU time" if clock is time.process_time else "wall time",
        "rounds": rounds,
        "torch": torch.__version__,
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
    }
    print_table(rows, setting)
    if output is not None:
        write_atomically(output, json.dumps({"setting": setting, "rows": [asdict(r) for r in rows]}, indent=1))
    return rows


def print_table(rows: Sequence[Row], setting: dict[str, object]) -> None:
    """The rows as a table on standard output."""
    from rich.console import Console
    from rich.table import Table

    parts = list(dict.fromkeys(part for row in rows for part in row.parts if part != "total"))
    grid = Table(title=", ".join(f"{k} {v}" for k, v in setting.items()), title_justify="left")
    grid.add_column("", no_wrap=True)
    for column in ("ms a frame", "range", "speed-up", "Eq. 7", "share", *parts):
        grid.add_column(column, justify="right")
    for row in rows:
        grid.add_row(
            row.name,
            f"{row.milliseconds:.1f}",
            f"{row.smallest:.1f}–{row.largest:.1f}",
            f"{row.speedup:.2f}",
            "–" if row.bound is None else f"{row.bound:.2f}",
            "–" if row.share_of_bound is None else f"{row.share_of_bound:.0%}",
            *(f"{row.parts[p]:.1f}" if p in row.parts else "–" for p in parts),
        )
    Console(width=None if sys.stdout.isatty() else 180).print(grid)
