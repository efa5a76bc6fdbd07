"""How fast each method is, measured in one interleaved run and reported as ratios.

Machines are noisy, so every round runs each candidate once, and the medians over the rounds of times and of ratios
within a round are reported. On one thread the process's CPU time is what counts: other load disturbs it least. On
several threads it is wall time.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from keywarp.allocation import keep_freed_memory
from keywarp.benchmarking.candidates import Candidate, candidates
from keywarp.benchmarking.peak_memory import peak_of
from keywarp.benchmarking.pictures import Pictures, pictures
from keywarp.benchmarking.plot import plot as draw
from keywarp.benchmarking.timing import REST, Clock, clock_for, in_order, part_times
from keywarp.doctor import machine
from keywarp.errors import UserError
from keywarp.figures import check_figure
from keywarp.files import write_atomically
from keywarp.interfaces import with_parts
from keywarp.model import VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.structures import VideoDetections, VideoFrame

__all__ = ["Row", "benchmark", "part_times"]

Postprocess = Callable[[VideoDetections], VideoDetections]


@dataclass(frozen=True)
class Row:
    """A result. Milliseconds a frame and their smallest and largest over the rounds; `speedup` over the baseline.

    bound: the speed-up by Eq. 7 of 004. parts: milliseconds a frame of each part, medians, with their `total`.
    peak_memory: bytes, of a process that runs this candidate alone; None when not asked for.
    """

    name: str
    milliseconds: float
    smallest: float
    largest: float
    frames_per_second: float
    speedup: float
    bound: float | None
    share_of_bound: float | None
    parts: dict[str, float]
    peak_memory: int | None = None


def started(model: VideoModel, frames: Sequence[VideoFrame], count: int, batch: int) -> VideoPredictor:
    """A predictor in the middle of the endless video: it has seen `count` frames, and what fills its window."""
    predictor = VideoPredictor(model, batch=batch)
    radius = getattr(model.scheduler, "radius", 0)
    predictor.push(list(islice(cycle(frames), max(count, 2 * radius + 1))))
    return predictor


def run_alone(build: Callable[[], VideoModel], source: Pictures, motion: bool, count: int, batch: int) -> torch.device:
    """The device that a model has run on: its start, and up to the next key frame."""
    frames = source.read(count + 1, motion)
    predictor = started(build(), frames, count, batch)
    predictor.push(list(islice(cycle(frames), predictor.model.scheduler.latency + 1)))
    return predictor.device


def measure(
    candidate: Candidate,
    frames: Sequence[VideoFrame],
    clock: Clock,
    batch: int,
    decode: float | None = None,
    link: tuple[str, Postprocess] | None = None,
) -> None:
    """One round: `count` more frames of an endless video, in the middle of it.

    decode: milliseconds a frame, measured beside. link: what the boxes of a whole video go through, and its name; here
    those of all rounds so far.
    """
    if candidate.running is None:
        candidate.running = started(candidate.model, frames, candidate.count, batch)
    segment = list(islice(cycle(frames), candidate.count))
    with part_times(candidate.model, clock) as spent:
        start = clock()
        results = candidate.running.push(segment)
        total = clock() - start
    assert len(results) == candidate.count
    milliseconds = {name: 1000 * seconds / candidate.count for name, seconds in spent.items()}
    parts = ({} if decode is None else {"decode": decode}) | milliseconds
    if link is not None:
        name, process = link
        candidate.found += [r.detections for r in results if r.detections is not None]
        boxes = VideoDetections.of(candidate.found)
        start = clock()
        process(boxes)
        parts[name] = 1000 * (clock() - start) / max(len(candidate.found), 1)
    parts[REST] = 1000 * total / candidate.count - sum(milliseconds.values())
    candidate.rounds.append({"total": sum(parts.values()), **parts})


def summarise(candidate: Candidate, baseline: Candidate, peak_memory: int | None = None) -> Row:
    """Medians over the rounds."""
    totals = [r["total"] for r in candidate.rounds]
    ratio = statistics.median(b["total"] / c["total"] for b, c in zip(baseline.rounds, candidate.rounds, strict=True))
    parts = ["total", *in_order(part for r in candidate.rounds for part in r if part != "total")]
    milliseconds = statistics.median(totals)
    return Row(
        name=candidate.name,
        milliseconds=milliseconds,
        smallest=min(totals),
        largest=max(totals),
        frames_per_second=1000 / milliseconds,
        speedup=ratio,
        bound=candidate.bound,
        share_of_bound=ratio / candidate.bound if candidate.bound else None,
        parts={part: statistics.median(r.get(part, 0.0) for r in candidate.rounds) for part in parts},
        peak_memory=peak_memory,
    )


def benchmark(
    video: str | None = None,
    *,
    size: str | None = None,
    methods: Sequence[str] = ("dff",),
    flows: Sequence[str] = ("flownet-s", "flownet-half", "flownet-inception"),
    intervals: Sequence[int] = (10, 20),
    radii: Sequence[int] = (2, 4),
    backbone: str = "resnet-101",
    rounds: int = 3,
    threads: int = 1,
    batch: int = 8,
    device: str = "auto",
    keep_memory: bool = False,
    memory: bool = False,
    postprocess: str | None = None,
    output: Path | None = None,
    plot: Path | None = None,
) -> list[Row]:
    """Measure, print tables, write JSON to `output` and a picture to `plot` if given.

    video: frames come from its beginning, decoded anew each round. size: "HxW", a synthetic moving picture instead.
    batch: non-key frames computed together; 1 = live. rounds: after one round that is thrown away. memory: also the
    peak of each candidate in a process of its own. postprocess: also what becomes of a whole video's boxes.
    """
    if min(rounds, threads, batch) < 1:
        raise UserError(f"--rounds, --threads and --batch must be 1 or more, got {rounds}, {threads} and {batch}")
    source = pictures(video, size)
    source.read(1)  # what cannot be read is said before the models are built
    if plot is not None:
        check_figure(plot)
    if output is not None and not output.parent.is_dir():
        raise UserError(f"cannot write {output}: there is no folder {output.parent}; make it or choose another")
    torch.set_num_threads(threads)
    kept = keep_memory and keep_freed_memory()
    entries = candidates(methods, flows, intervals, radii, backbone, device)
    link = None if postprocess in (None, "none") else _linking(entries, postprocess)
    longest = max(entry.count for entry in entries) + 1
    frames = {motion: source.read(longest, motion) for motion in {entry.uses_motion for entry in entries}}
    peaks: dict[str, int] = {}
    for entry in entries if memory else ():
        work = partial(run_alone, entry.build, source, entry.uses_motion, entry.count, batch)
        peaks[entry.name] = peak_of(entry.name, work, threads=threads, keep=kept)
    place = VideoPredictor(entries[0].model).device
    clock, clock_name = clock_for(place, threads)
    for number in range(rounds + 1):
        decode = {motion: _decoding(source, longest, motion, clock) for motion in frames if source.video}
        for entry in entries:
            measure(entry, frames[entry.uses_motion], clock, batch, decode.get(entry.uses_motion), link)
        if number == 0:
            for entry in entries:
                entry.rounds.clear()
    by_name = {entry.name: entry for entry in entries}
    rows = [summarise(entry, by_name[entry.baseline], peaks.get(entry.name)) for entry in entries]
    height, width = next(iter(frames.values()))[0].image.shape[:2]
    setting = {
        "video": "synthetic" if video is None else Path(video).name,
        "frame": f"{width}x{height}",
        "backbone": backbone,
        "threads": threads,
        "batch": batch,
        "clock": clock_name,
        "rounds": rounds,
        "freed memory": "kept" if kept else "returned",
        "torch": torch.__version__,
        "machine": machine(place),
    }
    print_tables(rows, setting)
    if output is not None:
        write_atomically(output, json.dumps({"setting": setting, "rows": [asdict(r) for r in rows]}, indent=1))
    if plot is not None:
        draw(rows, setting, plot)
    return rows


def _decoding(source: Pictures, count: int, motion: bool, clock: Clock) -> float:
    """Milliseconds a frame."""
    start = clock()
    frames = source.read(count, motion)
    return 1000 * (clock() - start) / len(frames)


def _linking(entries: Sequence[Candidate], name: str) -> tuple[str, Postprocess]:
    """The post-processing of this name. The candidates' heads then leave all boxes to it."""
    from keywarp.postprocess import apply

    apply(name, VideoDetections.of([]))
    for entry in entries:
        entry.model = with_parts(entry.model, head=entry.model.head.unsuppressed()[0])
    return name, partial(apply, name)


def print_tables(rows: Sequence[Row], setting: Mapping[str, object]) -> None:
    """The rows on standard output: a table of speeds, and one of where the time goes."""
    parts = in_order(part for row in rows for part in row.parts if part != "total")
    speeds = Table(title=", ".join(f"{k} {v}" for k, v in setting.items()), title_justify="left")
    shares = Table(title="milliseconds a frame, by part", title_justify="left")
    for table in (speeds, shares):
        table.add_column("", no_wrap=True)
    columns = ["ms a frame", "range", "frames/s", "speed-up", "Eq. 7", "share"]
    measured = any(row.peak_memory is not None for row in rows)
    for column in columns + ["peak MiB"] * measured:
        speeds.add_column(column, justify="right")
    for part in parts:
        shares.add_column(part, justify="right")
    for row in rows:
        cells = [
            f"{row.milliseconds:.1f}",
            f"{row.smallest:.1f}–{row.largest:.1f}",
            f"{row.frames_per_second:.2f}",
            f"{row.speedup:.2f}",
            "–" if row.bound is None else f"{row.bound:.2f}",
            "–" if row.share_of_bound is None else f"{row.share_of_bound:.0%}",
        ]
        if row.peak_memory is not None:
            cells.append(f"{row.peak_memory / 2**20:.0f}")
        speeds.add_row(row.name, *cells)
        shares.add_row(row.name, *(f"{row.parts[p]:.1f}" if p in row.parts else "–" for p in parts))
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(speeds)
    console.print(shares)
