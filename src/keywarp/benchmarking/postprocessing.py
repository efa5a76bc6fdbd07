"""`keywarp benchmark postprocess`: how fast boxes are linked, on random tubes.

Legend: P proposals of a frame · C classes
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from keywarp.doctor import machine
from keywarp.errors import UserError
from keywarp.files import write_atomically
from keywarp.postprocess import apply
from keywarp.structures import VideoDetections

METHODS = ("seq-nms+", "seq-nms")
SIZE = np.array([1280.0, 720.0])  # of the frames
OBJECTS = 6  # at a time
JITTER = 0.35  # of the loosest proposal around an object, in object sizes
WARM_UP = {"frames": 4, "boxes": 20, "classes": 2, "score": 0.01, "seed": 0}


@dataclass(frozen=True)
class Row:
    """What a method took. Seconds of CPU time: median, smallest and largest over the rounds."""

    method: str
    seconds: float
    smallest: float
    largest: float
    boxes: int
    kept: int
    tracks: int


class _Object:
    """Something that moves straight on for a while, with classes that a detector takes it for."""

    def __init__(self, rng: np.random.Generator, classes: int) -> None:
        self.centre, self.size = rng.uniform(0, SIZE), rng.uniform(60, 300, 2)
        self.velocity = rng.normal(0, 4, 2)
        self.logits = rng.normal(0, 1, classes)
        self.logits[rng.integers(classes)] += rng.uniform(2, 6)
        self.left = int(rng.integers(30, 300))

    def step(self) -> None:
        self.centre = self.centre + self.velocity
        self.left -= 1


def random_tubes(*, frames: int, boxes: int, classes: int, score: float, seed: int) -> VideoDetections:
    """What a detector without suppression could give: every class of every proposal that scores above `score`.

    Six objects at a time move through 1280×720 pixels, each for 30 to 300 frames. Half of the proposals (`boxes` a
    frame) lie around them, shifted and stretched by up to a third; the other half lies anywhere. Scores are softmax
    over the classes and a background: an object is mostly taken for its class and now and then for others, the same
    ones in all its frames; a looser proposal is surer to be background, and one that lies anywhere nearly always is.
    """
    rng = np.random.default_rng(seed)
    objects = [_Object(rng, classes) for _ in range(OBJECTS)]
    columns: list[tuple[np.ndarray, ...]] = []
    for frame in range(frames):
        for each in objects:
            each.step()
        objects = [each if each.left else _Object(rng, classes) for each in objects]
        corners, scores = _proposals(rng, objects, boxes, classes)
        proposal, label = np.nonzero(scores > score)
        columns.append((np.full(len(label), frame), corners[proposal], scores[proposal, label], label))
    return VideoDetections(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def _proposals(
    rng: np.random.Generator, objects: Sequence[_Object], boxes: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """A frame's boxes `[P, 4]` xyxy and their scores `[P, C]`."""
    near = boxes // 2
    centre, size = rng.uniform(0, SIZE, (boxes, 2)), rng.uniform(30, 400, (boxes, 2))
    logits = np.concatenate([rng.normal(0, 1, (boxes, classes)), np.full((boxes, 1), 6.0)], axis=1)
    of, looseness = rng.integers(len(objects), size=near), rng.uniform(0, JITTER, (near, 1))
    centres, sizes, likes = (np.array([getattr(o, name) for o in objects])[of] for name in ("centre", "size", "logits"))
    centre[:near] = centres + rng.normal(0, 1, (near, 2)) * looseness * sizes
    size[:near] = sizes * np.exp(rng.normal(0, 1, (near, 2)) * looseness)
    logits[:near, :-1] = likes * (1 - looseness / JITTER / 2) + 0.5 * logits[:near, :-1]
    logits[:near, -1:] = 6 * looseness / JITTER - 1
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1), scores[:, :-1]


def benchmark_postprocess(
    *, frames: int, boxes: int, classes: int, score: float, seed: int, rounds: int, output: Path | None
) -> list[Row]:
    """Measure, print a table, and write JSON to `output` if given.

    Every round runs each method once. It is the CPU time of one thread; compilation comes before it.
    """
    if min(frames, boxes, classes, rounds) < 1:
        raise UserError(
            f"wanted --frames, --boxes, --classes and --rounds of 1 or more, got {frames}, {boxes}, {classes}, {rounds}"
        )
    if not 0 <= score < 1:
        raise UserError(f"--score must be at least 0 and below 1, got {score}")
    if output is not None and not output.parent.is_dir():
        raise UserError(f"cannot write {output}: there is no folder {output.parent}; make it or choose another")
    for method in METHODS:
        apply(method, random_tubes(**WARM_UP))  # type: ignore[arg-type]
    detections = random_tubes(frames=frames, boxes=boxes, classes=classes, score=score, seed=seed)
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    kept: dict[str, VideoDetections] = {}
    for _ in range(rounds):
        for method in METHODS:
            start = time.process_time()
            kept[method] = apply(method, detections)
            times[method].append(time.process_time() - start)
    rows = list(_rows(times, kept, len(detections)))
    setting = {
        "frames": frames,
        "proposals": boxes,
        "classes": classes,
        "score": f"> {score}",
        "boxes": f"{len(detections):,}",
        "seed": seed,
        "rounds": rounds,
        "clock": "CPU time, one thread",
        "machine": machine(),
    }
    _print(rows, setting)
    if output is not None:
        write_atomically(output, json.dumps({"setting": setting, "rows": [asdict(row) for row in rows]}, indent=1))
    return rows


def _rows(times: Mapping[str, list[float]], kept: Mapping[str, VideoDetections], boxes: int) -> Iterator[Row]:
    for method, seconds in times.items():
        tracks = kept[method].tracks
        assert tracks is not None
        count = int(tracks.max(initial=-1)) + 1
        yield Row(method, statistics.median(seconds), min(seconds), max(seconds), boxes, len(tracks), count)


def _print(rows: Sequence[Row], setting: Mapping[str, object]) -> None:
    grid = Table(title=", ".join(f"{k} {v}" for k, v in setting.items()), title_justify="left")
    grid.add_column("", no_wrap=True)
    for column in ("seconds", "range", "ns a box", "boxes kept", "tracks"):
        grid.add_column(column, justify="right")
    for row in rows:
        grid.add_row(
            row.method,
            f"{row.seconds:.2f}",
            f"{row.smallest:.2f}–{row.largest:.2f}",
            f"{1e9 * row.seconds / max(row.boxes, 1):.0f}",
            f"{row.kept:,}",
            f"{row.tracks:,}",
        )
    Console(width=None if sys.stdout.isatty() else 180).print(grid)
