"""`keywarp demo`: the model that ships, run three ways on the clip that ships, side by side."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from keywarp.benchmarking.timing import clock_for
from keywarp.data.reading import open_dataset
from keywarp.data.video import open_video
from keywarp.errors import UserError
from keywarp.evaluation.measures import Measures
from keywarp.evaluation.results_files import class_map
from keywarp.evaluation.truth import Truth
from keywarp.files import write_atomically
from keywarp.insight.command import write_pictures
from keywarp.insight.comparing import Comparison, Running
from keywarp.insight.options import VisualizeOptions
from keywarp.loading import DEMO, load
from keywarp.networks.weight_files import read_description
from keywarp.outputs import check_writable
from keywarp.report import shown
from keywarp.running import VideoRun, detect_video

CLIP = DEMO.with_suffix(".mp4")
TRUTH = DEMO.with_suffix(".json")
WAYS: dict[str, dict[str, Any]] = {
    "per frame": {"method": "rfcn"},
    "fast": {"method": "sff", "flow": "codec", "interval": 10, "key_position": 5},
    "accurate": {"method": "impression-d", "interval": 5},
}
"""What each way is called, and how the model is loaded for it."""

CLIPS = 60
"""Of val, by which the weights were chosen, and of test."""
ROUNDS = 3
SCORE = 0.5
MEASURES = ("mAP", "drop-outs", "class changes", "centre jitter", "size jitter")


def demo(output: Path, *, overwrite: bool = False, device: str = "auto") -> int:
    """Write demo.mp4 (side by side) and demo.json (figures) into `output`, and print the figures; the exit code.

    Each way runs over the clip `ROUNDS` times in turn after a first time that warms up; the median counts, of CPU time
    of one thread, which other work disturbs little, or of the GPU's wall time. Raises UserError where the results exist
    and `overwrite` is not set.
    """
    check_writable(output)
    for name in () if overwrite else ("demo.mp4", "demo.json"):
        if (output / name).exists():
            raise UserError(f"{output / name} exists; replace it with --overwrite, or choose another --output")
    torch.set_num_threads(1)
    models = {title: load("demo", device=device, **options) for title, options in WAYS.items()}
    options = VisualizeOptions(output=output, overwrite=overwrite, threshold=SCORE)
    with open_video(str(CLIP), motion=True) as video:
        sides = [Running(model, batch=8, name=_name(title)) for title, model in models.items()]
        code = write_pictures(video, options, lambda: Comparison(sides, threshold=SCORE))
    if code:
        return code
    dataset = open_dataset(TRUTH, "all")
    clip, truth = dataset.videos[0], Truth.of(dataset.videos[0])
    clock, reads = clock_for(models["fast"].device, threads=1)
    runs: dict[str, list[VideoRun]] = {title: [] for title in models}
    for _ in range(ROUNDS):
        for title, model in models.items():
            runs[title].append(detect_video(model, clip, 8, clock=clock))
    figures: dict[str, dict[str, float]] = {}
    for title, model in models.items():
        found = runs[title][0].after("none", class_map(model.classes, dataset, {}))
        measures = Measures(dataset.classes, score=SCORE)
        measures.add(found, truth)
        own = measures.result(title).measures
        rounds = zip(runs[title], runs["per frame"], strict=True)
        figures[title] = {
            "frames/s": statistics.median(run.frames / run.seconds for run in runs[title]),
            "speed-up": statistics.median(base.seconds / run.seconds for run, base in rounds),
            "boxes": float(np.count_nonzero(found.scores >= SCORE)),
            **{name: own[name] for name in MEASURES},
        }
    write_atomically(output / "demo.json", json.dumps(figures, indent=1))
    _print(figures, reads)
    return 0


def _print(figures: dict[str, dict[str, float]], clock: str) -> None:
    grid = Table(title=f"Speed by {clock}, one thread", title_justify="left")
    grid.add_column("")
    for title in WAYS:
        grid.add_column(_name(title), justify="right")
    for name in ("frames/s", "speed-up", "boxes", *MEASURES):
        cells = [figures[title][name] for title in WAYS]
        grid.add_row(name, *(shown(name, c) if name in MEASURES else f"{c:.3g}" for c in cells))
    Console(width=None if sys.stdout.isatty() else 120).print(grid)
    base = figures["per frame"]
    for title in list(WAYS)[1:]:
        own = figures[title]
        print(
            f"{title}: {own['speed-up']:.1f} × as fast as per frame; from one frame to the next "
            f"{own['drop-outs']:.1%} of the objects drop out (per frame: {base['drop-outs']:.1%})"
        )
    known = read_description(DEMO)["metrics"]
    print("One clip says little of accuracy.")
    for split, clips in (("test", f"{CLIPS} test clips"), ("val", "those by which weights and ways were chosen")):
        told = ", ".join(f"{title} {100 * known[f'mAP {title}, {split}']:.1f}" for title in WAYS)
        print(f"mAP on {clips}: {told}")


def _name(title: str) -> str:
    way = WAYS[title]
    flow = f", {way['flow']} motion" if "flow" in way else ""
    interval = f", l = {way['interval']}" if "interval" in way else ""
    return f"{title} ({way['method']}{flow}{interval})"
