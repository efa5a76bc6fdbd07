"""`keywarp data check`: what a data set holds, and what is wrong with it.

Every annotation is read; of the frames, the first, the middle and the last of each video. Legend: (H, W) pixels
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from keywarp.data.contact_sheet import write_contact_sheet
from keywarp.data.datasets import Annotation, UnreadableFrameError, Video, VideoDataset
from keywarp.data.frames import ImageFrames, VideoFileFrames
from keywarp.data.reading import open_dataset, splits
from keywarp.data.showing import shown
from keywarp.errors import UserError

__all__ = ["Report", "check", "examine"]

EXAMPLES = 3
"""Shown of each kind of problem."""

TOLERANCE = 1.0
"""Pixels that a box may reach outside its frame."""


@dataclass
class Report:
    """What one split holds. sizes: frames read by (H, W). problems: a line each, by kind."""

    videos: int = 0
    frames: int = 0
    labelled: int = 0
    objects: int = 0
    tracks: int = 0
    masks: int = 0
    frames_read: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    problems: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def as_json(self) -> dict[str, Any]:
        """The same for a JSON file; of the problems, counts and examples."""
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        problems = {k: {"count": len(found), "examples": found[:EXAMPLES]} for k, found in self.problems.items()}
        sizes = {f"{width}x{height}": count for (height, width), count in self.sizes.most_common()}
        return numbers | {"classes": dict(self.classes), "sizes": sizes, "problems": problems}


def check(dataset: str, *, split: str = "all", sheet: Path | None = None, as_json: bool = False) -> int:
    """Print what a data set holds and what is wrong with it, and write a contact sheet; 0 = nothing, 1 = something.

    sheet: default NAME-contact-sheet.png in the working folder. Raises UserError when it cannot be opened.
    """
    names = splits(dataset) if split == "all" else (split,)
    sheet = sheet or Path(f"{Path(dataset).resolve().stem}-contact-sheet.png")
    if not sheet.resolve().parent.is_dir():
        raise UserError(f"no folder {sheet.parent} for the contact sheet; make it first")
    datasets = {name: open_dataset(dataset, name) for name in names}
    reports = {name: examine(each, f"{dataset} {name}") for name, each in datasets.items()}
    has_sheet = write_contact_sheet(list(datasets.values()), sheet) > 0
    if as_json:
        found = {name: report.as_json() for name, report in reports.items()}
        print(json.dumps({"dataset": dataset, "splits": found, "sheet": str(sheet) if has_sheet else None}, indent=1))
    else:
        _print(dataset, reports, sheet if has_sheet else None)
    return int(any(report.problems for report in reports.values()))


def examine(dataset: VideoDataset, name: str = "") -> Report:
    """Look every annotation through, and three frames of each video. name: for the progress on a terminal."""
    report = Report(classes=Counter(dict.fromkeys(dataset.classes, 0)))
    for video in shown(dataset.videos, name):
        _examine_video(video, dataset, report)
    report.problems = defaultdict(list, {kind: lines for kind, lines in report.problems.items() if lines})
    return report


def _examine_video(video: Video, dataset: VideoDataset, report: Report) -> None:
    try:
        total = len(video.frames)
    except UnreadableFrameError as error:
        report.problems["unreadable files"].append(str(error))
        return
    report.videos += 1
    report.frames += total
    report.labelled += len(video.labelled)
    for kind, line in _missing(video, total):
        report.problems[kind].append(line)
    _examine_annotations(video, dataset, _read_frames(video, total, report) or video.size, report)


def _read_frames(video: Video, total: int, report: Report) -> tuple[int, int] | None:
    """Read the first, the middle and the last frame; (H, W) of the last that can be read."""
    size = None
    broken: dict[str, None] = {}
    for index in sorted({0, total // 2, total - 1}) if total else ():
        try:
            (image,) = video.frames.read([index])
        except UnreadableFrameError as error:
            broken[str(error)] = None
            continue
        report.frames_read += 1
        report.sizes[image.shape[:2]] += 1
        if size is not None and image.shape[:2] != size:
            report.problems["frames of several sizes"].append(f"{video.name} frame {index}: {_size(image.shape)}")
        size = image.shape[:2]
    # Images that are not there have been told of already.
    is_told = isinstance(video.frames, ImageFrames)
    report.problems["unreadable files"] += [line for line in broken if not (is_told and line.endswith("is missing"))]
    if size is not None and video.size is not None and size != video.size:
        line = f"{video.name}: {_size(size)}, announced {_size(video.size)}"
        report.problems["other size than announced"].append(line)
    return size


def _examine_annotations(video: Video, dataset: VideoDataset, size: tuple[int, int] | None, report: Report) -> None:
    tracks: set[int] = set()
    for index in video.labelled:
        try:
            annotation = video.annotation(index)
        except UnreadableFrameError as error:
            report.problems["unreadable annotations"].append(str(error))
            continue
        for kind, what in _wrong(annotation, dataset, size):
            report.problems[kind].append(f"{video.name} frame {index}: {what}")
        report.classes.update(dataset.classes[i] for i in annotation.labels if 0 <= i < len(dataset.classes))
        report.objects += len(annotation.boxes)
        report.masks += annotation.mask is not None
        tracks |= {int(number) for number in annotation.tracks if number >= 0}
    report.tracks += len(tracks)


def _missing(video: Video, total: int) -> Iterator[tuple[str, str]]:
    """Labelled frames past the end, and frames that are not there."""
    past = [index for index in video.labelled if index >= total]
    if past:
        yield "missing frames", f"{video.name}: frame {past[0]} is labelled, {total} frames are there"
    if isinstance(video.frames, ImageFrames):
        absent = [name for name in video.frames.names if not (video.frames.folder / name).exists()]
        if absent:
            yield "missing frames", f"{video.name}: {len(absent)} of {total} images, first {absent[0]}"
    elif isinstance(video.frames, VideoFileFrames) and video.frames.length is not None:
        try:
            there = len(VideoFileFrames(video.frames.path))
        except UnreadableFrameError:
            return  # is told when frames are read
        if there != total:
            yield "missing frames", f"{video.name}: {video.frames.path} has {there} frames, announced {total}"


def _wrong(annotation: Annotation, dataset: VideoDataset, size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    """What is wrong with one frame's annotation: kind and line. size: (H, W) of the frame."""
    for box, label in zip(annotation.boxes, annotation.labels, strict=True):
        x1, y1, x2, y2 = (float(value) for value in box)
        corners = f"box {x1:g}, {y1:g}, {x2:g}, {y2:g}"
        if not (x2 > x1 and y2 > y1):
            yield "empty or inverted boxes", corners
        elif size and (min(x1, y1) < -TOLERANCE or x2 > size[1] + TOLERANCE or y2 > size[0] + TOLERANCE):
            yield "boxes outside the frame", f"{corners} in {_size(size)}"
        if not 0 <= label < len(dataset.classes):
            yield "labels without a class", f"label {label} of {len(dataset.classes)} classes"
    for number, count in Counter(annotation.tracks.tolist()).items():
        if number >= 0 and count > 1:
            yield "one track twice in a frame", f"track {number}"
    if (mask := annotation.mask) is None:
        return
    if size is not None and mask.shape != size:
        yield "masks of another size", f"{_size(mask.shape)}, the frame is {_size(size)}"
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:255])
    if len(values) and values[-1] >= len(dataset.mask_classes):
        yield "mask values without a class", f"{values[-1]} of {len(dataset.mask_classes)} classes"


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}×{shape[0]}"


def _print(dataset: str, reports: dict[str, Report], sheet: Path | None) -> None:
    console = Console()
    console.print(dataset, markup=False, highlight=False, soft_wrap=True)
    console.print(_counts(reports))
    classes = {name for report in reports.values() for name in report.classes}
    if classes:
        console.print(_histogram(reports))
    for split, report in reports.items():
        for kind, found in report.problems.items():
            console.print(f"{split}: {len(found)} × {kind}", style="bold red", markup=False, highlight=False)
            for line in found[:EXAMPLES]:
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if not any(report.problems for report in reports.values()):
        console.print("no problems found")
    if sheet is not None:
        console.print(f"contact sheet: {sheet}", markup=False, highlight=False, soft_wrap=True)


def _counts(reports: dict[str, Report]) -> Table:
    table = Table("", *reports)
    rows = ("videos", "frames", "labelled", "objects", "tracks", "masks", "frames_read")
    for row in rows:
        table.add_row(row.replace("_", " "), *(f"{getattr(report, row):,}" for report in reports.values()))
    sizes = [", ".join(_size(size) for size, _ in report.sizes.most_common(3)) for report in reports.values()]
    more = [f" and {len(r.sizes) - 3} more" if len(r.sizes) > 3 else "" for r in reports.values()]
    table.add_row("sizes", *(size + rest for size, rest in zip(sizes, more, strict=True)))
    return table


def _histogram(reports: dict[str, Report]) -> Table:
    table = Table("class", *reports)
    for name in dict.fromkeys(name for report in reports.values() for name in report.classes):
        table.add_row(name, *(f"{report.classes[name]:,}" for report in reports.values()))
    return table
