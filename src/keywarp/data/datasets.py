"""Annotated videos, whatever their format on disk: one small interface, read lazily.

Legend: T frames of a video · M objects of a frame · (H, W) pixels
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from keywarp.structures import VideoFrame

__all__ = ["Annotation", "Frames", "UnreadableFrameError", "Video", "VideoDataset", "spread"]

CHUNK = 16
"""Frames read at once where all are read in order."""


class UnreadableFrameError(OSError):
    """A frame or its annotation cannot be read; the message names the file and says why, in one line."""


def no_boxes() -> np.ndarray:
    """`[0, 4]` float32."""
    return np.zeros((0, 4), np.float32)


def no_labels() -> np.ndarray:
    """`[0]` int64."""
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Annotation:
    """What is known of one labelled frame.

    boxes: `[M, 4]` float32 xyxy, pixels of the frame. labels: `[M]` int64, positions in the dataset's `classes`.
    tracks: `[M]` int64, the same number for the same object throughout its video; −1 where the source has none.
    mask: `[H, W]` uint8, positions in the dataset's `mask_classes`, 255 where nothing is known; None without masks.
    """

    boxes: np.ndarray = field(default_factory=no_boxes)
    labels: np.ndarray = field(default_factory=no_labels)
    tracks: np.ndarray = field(default_factory=no_labels)
    mask: np.ndarray | None = None


class Frames(ABC):
    """The pictures of one video, by index. Holds no open file between calls, and can be sent to another process."""

    @abstractmethod
    def __len__(self) -> int:
        """T."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        """The frames at these indices (0 … T − 1, in any order, repeated or not), each `[H, W, 3]` uint8 RGB.

        Raises UnreadableFrameError.
        """

    def stream(self, motion: bool = False) -> Iterator[VideoFrame]:
        """All frames in order, few held at a time. motion: with the codec's motion, of a video file.

        Raises UnreadableFrameError.
        """
        for begin in range(0, len(self), CHUNK):
            indices = range(begin, min(begin + CHUNK, len(self)))
            yield from map(VideoFrame, self.read(indices), indices)

    @property
    @abstractmethod
    def source(self) -> str:
        """The file or folder that they come from, for messages."""


class Video(ABC):
    """One video with its annotations; can be sent to another process.

    name: unique in its dataset. frames: its pictures. labelled: indices of the frames with annotations, ascending; all
    frames, or one in N. size: (H, W), or None where it is not known without reading. A still image is a video of one
    frame. fps: frames a second.
    """

    name: str
    frames: Frames
    labelled: Sequence[int]
    size: tuple[int, int] | None = None
    fps: float = 25.0

    @abstractmethod
    def annotation(self, index: int) -> Annotation:
        """What is known of the labelled frame at this index. Raises UnreadableFrameError."""


def spread(videos: int, count: int | None) -> list[int]:
    """Positions of so many of the videos, evenly spread from the first to the last; of all for None."""
    if count is None or count >= videos:
        return list(range(videos))
    return [int(p) for p in np.linspace(0, videos - 1, count)]


@dataclass(frozen=True)
class VideoDataset:
    """Videos with annotations.

    name: for messages. classes: names by label. videos: as many as there are. mask_classes: names by the values of
    masks (with the background, if it is one); empty without masks.
    """

    name: str
    classes: tuple[str, ...]
    videos: Sequence[Video]
    mask_classes: tuple[str, ...] = ()
