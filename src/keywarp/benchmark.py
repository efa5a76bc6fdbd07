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
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from keywarp.alignment.flownet import FLOW_NETWORKS
from keywarp.allocation import keep_freed_memory
from keywarp.data.video import open_video
from keywarp.doctor import cpu_name
from keywarp.errors import UserError, unknown
from keywarp.files import write_atomically
from keywarp.listing import cost
from keywarp.loading import load, options_of
from keywarp.methods import FLOWS, METHODS
from keywarp.model import VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.structures import VideoFrame


@dataclass
class Candidate:
    """A model that takes part.

    count: frames of a round. baseline: the same network on every frame. bound: its speed-up by Eq. 7 of 004.
    """

    name: str
    model: VideoModel
    count: int
    baseline: str
    bound: float | None = None
    rounds: list[dict[str, float]] = field(default_factory=list)  # milliseconds a frame: total and by part
    running: VideoPredictor | None = None


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
    models: Sequence[str],
    flows: Sequence[str],
    intervals: Sequence[int],
    radii: Sequence[int],
    backbone: str,
    device: str,
) -> list[Candidate]:
    """Every model per frame; and each with what it takes of the flows, intervals and radii."""
    for flow in flows:
        if flow not in FLOW_NETWORKS and flow not in FLOWS:
            raise unknown("flow", flow, [*FLOW_NETWORKS, *FLOWS])
    found: dict[str, Candidate] = {}
    for name in models:
        common: dict[str, Any] = {"device": device}
        if name in METHODS:
            found |= _of_method(name, flows, intervals, radii, common | {"weights": "random", "backbone": backbone})
            continue
        if name.startswith("torchvision/"):
            common["weights"] = "random"  # speed does not depend on them
        per_frame = f"{name} per frame"
        found[per_frame] = Candidate(per_frame, load(name, interval=1, **common), 2, per_frame)
        for flow, interval in product((f for f in flows if f in FLOWS), (n for n in intervals if n > 1)):
            model = load(name, flow=flow, interval=interval, **common)
            found[f"{name} {flow} l={interval}"] = Candidate(f"{name} {flow} l={interval}", model, interval, per_frame)
    if not found:
        raise UserError(f"no model to measure; give --models, e.g. dff or yolox-nano, got {list(models)}")
    return list(found.values())


def _of_method(
    name: str, flows: Sequence[str], intervals: Sequence[int], radii: Sequence[int], common: dict[str, Any]
) -> dict[str, Candidate]:
    """The candidates of a method of the papers, by name, after the per-frame one."""
    taken = options_of(name)
    baseline = "rfcn per frame"
    found = {baseline: Candidate(baseline, load("rfcn", **common), 2, baseline)}
    choices: list[list[tuple[str, str, Any]]] = []
    if "flow" in taken:
        choices.append([("flow", flow, flow) for flow in flows if flow in FLOW_NETWORKS])
    if "radius" in taken:
        choices.append([("radius", f"r={r}", r) for r in radii])
    elif "interval" in taken:
        choices.append([("interval", f"l={n}", n) for n in intervals if n > 1])
    for choice in product(*choices) if choices else ():
        options = {option: value for option, _, value in choice}
        label = " ".join([name, *(text for _, text, _ in choice)])
        bound = cost("", partial(METHODS[name], common["backbone"], **options)).predicted_speedup
        model = load(name, **common, **options)
        found[label] = Candidate(label, model, 1 if "radius" in options else options["interval"], baseline, bound)
    return found


@contextmanager
def part_times(model: VideoModel, clock: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Seconds spent in each of the model's networks while the context is open."""
    spent: dict[str, float] = {}
    parts: dict[str, nn.Module | None] = {
        "feature network": model.feature_network,
        "transform net": model.transform_net,
        "alignment": model.aligner,
        "aggregation": model.aggregator,
        "updating": model.updater,
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
    """One round: `count` more frames of an endless video, after as many as fill the method's memory or window."""
    video = cycle(frames)
    if candidate.running is None:
        radius = getattr(candidate.model.scheduler, "radius", 0)
        candidate.running = VideoPredictor(candidate.model, batch=batch)
        candidate.running.push(list(islice(video, max(candidate.count, 2 * radius + 1))))
    segment = list(islice(video, candidate.count))
    with part_times(candidate.model, clock) as spent:
        start = clock()
        done = len(candidate.running.push(segment))
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        total = clock() - start
    assert done == candidate.count
    parts = {name: 1000 * seconds / done for name, seconds in spent.items()}
    total = 1000 * total / done
    candidate.rounds.append({"total": total, **parts, "the rest": total - sum(parts.values())})


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
    radii: Sequence[int] = (2, 4),
    backbone: str = "resnet-101",
    rounds: int = 3,
    threads: int = 1,
    batch: int = 8,
    device: str = "auto",
    keep_memory: bool = False,
    output: Path | None = None,
) -> list[Row]:
    """Measure, print a table, and write JSON to `output` if given.

    video: frames come from its beginning, decoded before the clock starts. batch: non-key frames computed together;
    1 = live. rounds: after one round that is thrown away.
    """
    torch.set_num_threads(threads)
    kept = keep_memory and keep_freed_memory()
    clock = time.process_time if threads == 1 and not torch.cuda.is_available() else time.perf_counter
    entries = candidates(models, flows, intervals, radii, backbone, device)
    with open_video(video, stop=max(*intervals, *radii, 1) + 1, motion="codec" in flows) as source:
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
        "freed memory": "kept" if kept else "returned",
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
