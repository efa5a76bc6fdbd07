"""A video whose boxes are known beforehand, in one table: what readers of lists (JSON, CSV, MOT) make.

Legend: R boxes of a video · M boxes of a frame
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keywarp.data.datasets import Annotation, Frames, Video
from keywarp.data.frames import read_label_map
from keywarp.errors import UserError

__all__ = ["Box", "BoxTable", "TableVideo", "check_names", "read_class_names"]


def read_class_names(path: Path) -> tuple[str, ...]:
    """The classes in their order, of a file with one name a line; none where there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))


def check_names(videos: Sequence[Video], path: Path) -> None:
    """Nothing. Raises UserError where two videos have one name: results are kept by it."""
    if len({video.name for video in videos}) < len(videos):
        raise UserError(f"{path} names a video twice; wanted each once")


class Box(NamedTuple):
    """One object in one frame. frame: from 0. x1 … y2: pixels. label: position in the classes. track: −1 for none."""

    frame: int
    x1: float
    y1: float
    x2: float
    y2: float
    label: int
    track: int = -1


@dataclass(frozen=True)
class BoxTable:
    """The boxes of one video, by frame.

    frames: `[R]` int64, ascending. boxes: `[R, 4]` float32 xyxy. labels, tracks: `[R]` int64.
    """

    frames: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    tracks: np.ndarray

    @staticmethod
    def of(boxes: Iterable[Box]) -> BoxTable:
        """The table of these boxes; those of one frame keep their order."""
        rows = sorted(boxes, key=lambda box: box.frame)
        table = np.array(rows, np.float64).reshape(-1, len(Box._fields))
        numbers = np.array([(box.frame, box.label, box.track) for box in rows], np.int64).reshape(-1, 3)
        return BoxTable(numbers[:, 0], table[:, 1:5].astype(np.float32), numbers[:, 1], numbers[:, 2])

    def of_frame(self, index: int) -> Annotation:
        """The boxes of one frame."""
        here = slice(*np.searchsorted(self.frames, [index, index + 1]))
        return Annotation(self.boxes[here].copy(), self.labels[here].copy(), self.tracks[here].copy())


@dataclass
class TableVideo(Video):
    """A video with its boxes at hand and its label maps, where it has some, in files. masks: file by frame."""

    name: str
    frames: Frames
    labelled: Sequence[int]
    table: BoxTable = field(default_factory=lambda: BoxTable.of(()))
    size: tuple[int, int] | None = None
    fps: float = 25.0
    masks: Mapping[int, Path] = field(default_factory=dict)

    def annotation(self, index: int) -> Annotation:
        annotation = self.table.of_frame(index)
        if index not in self.masks:
            return annotation
        mask = read_label_map(self.masks[index])
        return Annotation(annotation.boxes, annotation.labels, annotation.tracks, mask)
