"""`keywarp tradeoff`: accuracy against speed of models, each at several settings, on an annotated data set.

Video by video, every candidate runs in turn: what it finds gives its accuracy, the time it takes its speed. So all of
them are measured under the same load, and an interrupted measurement goes on where it was.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from keywarp.benchmarking.timing import clock_for
from keywarp.data.datasets import VideoDataset, spread
from keywarp.data.reading import open_dataset, split_of
from keywarp.errors import UserError
from keywarp.evaluate import Truths, chosen, described, made_by
from keywarp.evaluation.measures import Measures
from keywarp.evaluation.results_files import class_map, file_of, load, save
from keywarp.figures import check_matplotlib
from keywarp.files import write_atomically
from keywarp.loading import load as load_model
from keywarp.loading import options_of, rescheduled
from keywarp.model import VideoModel
from keywarp.options import TradeoffOptions
from keywarp.oracle import FOLLOWERS, can_follow, check_labels, scheduled_by_truth
from keywarp.outputs import check_writable, claim
from keywarp.postprocess import apply
from keywarp.progress import ProgressBar
from keywarp.running import detect_video
from keywarp.scheduling import SIGNS, AdaptiveInterval
from keywarp.structures import VideoDetections
from keywarp.tradeoff_plot import ORACLE, PER_FRAME, Point, plot

DOCUMENT = "tradeoff.json"


@dataclass(frozen=True)
class Candidate:
    """A model at a setting; label, group, parameter and note as of `Point`.

    source: what `load` made it from. baseline: name of its per-frame one.
    """

    label: str
    group: str
    parameter: float
    model: VideoModel
    source: str
    baseline: str
    note: str = ""

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{self.group} {self.label}"

    @property
    def folder(self) -> str:
        """Its name as a folder's."""
        return re.sub(r"[^\w.=+-]+", "_", self.name)


def tradeoff(address: str, options: TradeoffOptions) -> list[Point]:
    """The points of the plot, which is drawn into OUTPUT/tradeoff.png and tradeoff.html beside tradeoff.json.

    address: as of `evaluate`. Raises UserError before any work.
    """
    if not options.models:
        raise UserError(
            "--models must name weight files or models to measure, such as rfcn.safetensors dff.safetensors"
        )
    check_matplotlib()
    check_writable(options.output)
    apply(options.postprocess, VideoDetections.of([]))  # whether it is known and can run
    Measures((), iou=options.finds)
    whole = open_dataset(*split_of(address, "val"))
    dataset = chosen(whole, spread(len(whole.videos), options.videos))
    torch.set_num_threads(options.threads)
    entries = list(candidates(options))
    twice = {e.folder for e in entries if [o.folder for o in entries].count(e.folder) > 1}
    if twice:
        raise UserError(f"several candidates are named {min(twice)}; give the files names that differ")
    if options.oracle:
        if not any(e.note == ORACLE for e in entries):
            raise UserError(FOLLOWERS)
        check_labels(dataset)
    clock, reads = clock_for(entries[0].model.device, options.threads)
    setting = {
        "dataset": address,
        "videos": [video.name for video in dataset.videos],
        "postprocess": options.postprocess,
        "rename": options.renamed,
        "candidates": {e.name: described(e.model, e.source) for e in entries},
        "clock": reads,
        "threads": options.threads,
        "batch": options.batch,
    }
    labels = {e.baseline: class_map(e.model.classes, dataset, options.renamed) for e in entries}
    folders = [e.folder for e in entries]
    anew = {"overwrite": options.overwrite, "resume": options.resume}
    claim(options.output, setting, folders, what="a measurement", document=DOCUMENT, **anew)
    _run(entries, labels, dataset, options, clock)
    points, rows = _points(entries, dataset, options)
    document = {
        "setting": setting | {"iou": options.iou} | made_by(),
        "points": [asdict(point) for point in points],
        "rows": rows,
    }
    write_atomically(options.output / DOCUMENT, json.dumps(document, indent=1, ensure_ascii=False))
    for name in ("tradeoff.png", "tradeoff.html"):
        plot(points, options.output / name, f"{Path(address).name}, {len(dataset.videos)} videos")
    _print(rows)
    print(options.output / "tradeoff.html")
    return points


def candidates(options: TradeoffOptions) -> Iterator[Candidate]:
    """Each model on every frame, and at every setting that it takes of the intervals, radii and γ; its oracle."""
    for name in options.models:
        build = partial(load_model, name, device=options.device)
        model = build()
        title = _title(name)
        method = model.description["method"]
        takes = options_of(method)
        baseline = f"{title} {PER_FRAME}"
        wrapped = "detector" in takes
        frame = build(interval=1) if wrapped else build(method="rfcn")
        yield Candidate(PER_FRAME, title, 1, frame, name, baseline, PER_FRAME)
        for parameter, values in _varied(takes, model, options):
            for value in dict.fromkeys(values):
                text = f"{SIGNS[parameter]}={value:g}"
                twin = build(interval=int(value)) if wrapped else rescheduled(model, **{parameter: value})
                yield Candidate(text, title, value, twin, name, baseline)
        if options.oracle and can_follow(model):
            yield Candidate(ORACLE, title, 0, model, name, baseline, ORACLE)


def _title(name: str) -> str:
    """A short name for a model: a file's, or its folder's where `train` named the file."""
    path = Path(name)
    if not path.is_file():
        return name
    return path.resolve().parent.name if path.stem in ("best", "model") else path.stem


def _varied(takes: set[str], model: VideoModel, options: TradeoffOptions) -> Iterator[tuple[str, Sequence[float]]]:
    """What a method varies, and the values: γ where its key frames are adaptive, else a window or an interval."""
    if "gamma" in takes and isinstance(model.scheduler, AdaptiveInterval):
        yield "gamma", options.gammas
    elif "radius" in takes:
        yield "radius", options.radii
    elif "interval" in takes:
        given = None if "detector" in takes else model.description["arguments"].get("key_position")
        yield "interval", [n for n in options.intervals if n > max(given or 0, 1)]  # the key frame lies in its segment


def _run(
    entries: Sequence[Candidate],
    labels: Mapping[str, np.ndarray],
    dataset: VideoDataset,
    options: TradeoffOptions,
    clock: Callable[[], float],
) -> None:
    """Run every candidate over every video that has no results yet; the order turns from video to video."""
    turns = [
        (number, entries[(turn + number) % len(entries)])
        for number in range(len(dataset.videos))
        for turn in range(len(entries))
    ]
    left = [(n, e) for n, e in turns if not file_of(options.output / e.folder, n).exists()]
    for e in entries if left else ():
        if e.note != ORACLE:  # its model is one of the others'
            detect_video(e.model, dataset.videos[left[0][0]], options.batch)  # warms up
    frames = [len(video.frames) for video in dataset.videos]
    total = sum(frames) * len(entries)
    worked, keys, before = 0, 0, total - sum(frames[n] for n, _ in left)
    with ProgressBar(f"{len(entries)} candidates", total) as bar:
        for number, entry in left:
            video, ours = dataset.videos[number], labels[entry.baseline]
            model = scheduled_by_truth(entry.model, video, ours) if entry.note == ORACLE else entry.model
            run = detect_video(model, video, options.batch, unsuppressed=options.postprocess != "none", clock=clock)
            numbers = {"count": run.frames, "keys": run.keys, "seconds": run.seconds}
            save(file_of(options.output / entry.folder, number), run.after(options.postprocess, ours), **numbers)
            worked, keys = worked + run.frames, keys + run.keys
            bar.show(before + worked, worked, keys)


def _points(
    entries: Sequence[Candidate], dataset: VideoDataset, options: TradeoffOptions
) -> tuple[list[Point], list[dict[str, Any]]]:
    measures = {e.name: Measures(dataset.classes, iou=options.finds) for e in entries}
    speeds: dict[str, list[float]] = {e.name: [] for e in entries}  # milliseconds a frame, of each video
    keys, frames = dict.fromkeys(measures, 0.0), dict.fromkeys(measures, 0.0)
    truths = Truths(dataset)
    for number in range(len(dataset.videos)):
        truth = truths[number]
        for e in entries:
            found, numbers = load(file_of(options.output / e.folder, number))
            measures[e.name].add(found, truth)
            speeds[e.name].append(1000 * numbers["seconds"] / max(numbers["count"], 1))
            keys[e.name] += numbers["keys"]
            frames[e.name] += numbers["count"]
    points, rows = [], []
    for e in entries:
        row = measures[e.name].result(e.name).as_json()
        milliseconds = statistics.median(speeds[e.name])
        ratio = statistics.median(b / c for b, c in zip(speeds[e.baseline], speeds[e.name], strict=True))
        points.append(Point(e.label, e.group, e.parameter, milliseconds, row["measures"]["mAP"] or 0.0, e.note))
        rows.append(
            {
                "name": e.name,
                "milliseconds": round(milliseconds, 3),
                "speedup": round(ratio, 3),
                "key_frame_share": round(keys[e.name] / max(frames[e.name], 1), 4),
                "measures": row["measures"],
            }
        )
    return points, rows


def _print(rows: Sequence[dict[str, Any]]) -> None:
    grid = Table()
    columns = ("mAP", "mAP slow", "mAP medium", "mAP fast")
    for column in ("", "ms a frame", "speed-up", "key frames", *columns):
        grid.add_column(column, justify="right" if column else "left")
    for row in rows:
        values = [row["measures"].get(name) for name in columns]
        grid.add_row(
            row["name"],
            f"{row['milliseconds']:.1f}",
            f"{row['speedup']:.2f}",
            f"{row['key_frame_share']:.0%}",
            *("–" if value is None else f"{100 * value:.1f}" for value in values),
        )
    Console(width=None if sys.stdout.isatty() else 120).print(grid)
