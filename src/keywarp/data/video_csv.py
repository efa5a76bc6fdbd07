"""A folder of videos and one table: DIR/labels.csv, or DIR/train.csv, DIR/val.csv and DIR/test.csv.

Header `video,frame,class,x1,y1,x2,y2` and, where objects are followed, `track`; frames from 0, pixels. `video` names a
file or a folder of images in DIR. A line with a video and a frame alone is a labelled frame without objects; frames
that no line names are unlabelled. DIR/classes.txt, one name a line, tells which class is which; without it, they are
in alphabetical order over all tables of the folder.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from keywarp.data.datasets import VideoDataset
from keywarp.data.frames import find_frames
from keywarp.data.tables import Box, BoxTable, TableVideo, read_class_names
from keywarp.errors import UserError, unknown

__all__ = ["COLUMNS", "read", "splits"]

COLUMNS = ("video", "frame", "class", "x1", "y1", "x2", "y2")


class Row(NamedTuple):
    """A labelled frame, with an object of this class in it unless the name is empty."""

    video: str
    frame: int
    name: str
    x1: float = 0
    y1: float = 0
    x2: float = 0
    y2: float = 0
    track: int = -1


def splits(path: Path) -> tuple[str, ...]:
    """The tables that lie there."""
    if (path / "labels.csv").is_file():
        return ("all",)
    return tuple(split for split in ("train", "val", "test") if (path / f"{split}.csv").is_file())


def read(path: Path, split: str) -> VideoDataset:
    """The videos of one table. Raises UserError."""
    file = _file(path, split)
    rows: dict[str, list[Row]] = {}
    for row in _rows(file):
        rows.setdefault(row.video, []).append(row)
    classes = _classes(path)
    return VideoDataset(str(path), classes, [_video(path, file, name, rows[name], classes) for name in rows])


def _file(path: Path, split: str) -> Path:
    return path / ("labels.csv" if split == "all" else f"{split}.csv")


def _classes(path: Path) -> tuple[str, ...]:
    if names := read_class_names(path / "classes.txt"):
        return names
    return tuple(sorted({row.name for split in splits(path) for row in _rows(_file(path, split)) if row.name}))


def _video(path: Path, file: Path, name: str, rows: list[Row], classes: tuple[str, ...]) -> TableVideo:
    frames = find_frames(path / name)
    if frames is None:
        raise UserError(f"{file} names the video {name}, but {path / name} is neither a video nor a folder of images")
    for row in rows:
        if row.name and row.name not in classes:
            raise UserError(f"{path / 'classes.txt'}: {unknown('class', row.name, classes)}")
    label = {each: position for position, each in enumerate(classes)}
    boxes = (Box(r.frame, r.x1, r.y1, r.x2, r.y2, label[r.name], r.track) for r in rows if r.name)
    return TableVideo(name, frames, sorted({row.frame for row in rows}), BoxTable.of(boxes))


@contextmanager
def _utf8(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 ({error.reason}); save it so") from None


def _rows(path: Path) -> Iterator[Row]:
    with _utf8(path) as file:
        lines = csv.DictReader(file)
        if lacking := [column for column in COLUMNS if column not in (lines.fieldnames or ())]:
            raise UserError(f"{path} lacks the columns {', '.join(lacking)}; wanted the header {','.join(COLUMNS)}")
        for line in lines:
            try:
                video, frame, name = line["video"], int(line["frame"]), (line["class"] or "").strip()
                if frame < 0 or not video:
                    raise ValueError
                if not name:
                    yield Row(video, frame, name)
                    continue
                x1, y1, x2, y2 = (float(line[column]) for column in COLUMNS[3:])
                yield Row(video, frame, name, x1, y1, x2, y2, int(line.get("track") or -1))
            except (ValueError, TypeError):
                got = ",".join(str(value) for value in line.values())
                raise UserError(
                    f"{path}, line {lines.line_num}: wanted video, frame number from 0, four corners; got {got!r}"
                ) from None
