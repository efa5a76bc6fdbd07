"""The ground truth of one video as columns: what its detections are measured against.

Legend: F labelled frames · G ground-truth boxes of the video, of all its frames
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keywarp.data.datasets import Annotation, Video
from keywarp.evaluation.motion import motion_iou

__all__ = ["Truth"]


@dataclass(frozen=True)
class Truth:
    """All ground-truth boxes of one video as columns, by ascending frame.

    labelled: `[F]` indices of the frames that have annotations, ascending; detections elsewhere are not judged.
    frames: `[G]` each box's frame, one of `labelled`. boxes: `[G, 4]` xyxy, pixels of the frame. labels: `[G]` 0-based
    class indices. tracks: `[G]` the same number for the same object throughout, −1 where unknown. motion: `[G]` motion
    IoU, NaN where unknown. Arrays of other number types are converted; rows in another order are sorted (stably).
    Raises ValueError for shapes that do not fit, frames that are not labelled, labels below 0, boxes that are not
    finite.
    """

    labelled: np.ndarray
    frames: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    tracks: np.ndarray
    motion: np.ndarray

    def __post_init__(self) -> None:
        labelled = np.asarray(self.labelled, np.int32)
        if labelled.ndim != 1 or (np.diff(labelled) <= 0).any() or (len(labelled) and labelled[0] < 0):
            raise ValueError("labelled must be frame indices of at least 0 in ascending order, each once")
        kinds = {"frames": np.int32, "boxes": np.float32, "labels": np.int32, "tracks": np.int64, "motion": np.float64}
        columns = {name: np.asarray(getattr(self, name), kind) for name, kind in kinds.items()}
        count = len(columns["frames"])
        for name, column in columns.items():
            wanted = (count, 4) if name == "boxes" else (count,)
            if column.shape != wanted:
                raise ValueError(f"{name} must be {list(wanted)} as there are {count} frames, got {list(column.shape)}")
        if count and columns["labels"].min() < 0:
            raise ValueError(f"labels must be at least 0, got {columns['labels'].min()}")
        if not np.isfinite(columns["boxes"]).all():
            raise ValueError("boxes must be finite")
        strange = columns["frames"][~np.isin(columns["frames"], labelled)]
        if len(strange):
            raise ValueError(f"frames must be among the {len(labelled)} labelled ones, got {strange[0]}")
        if (np.diff(columns["frames"]) < 0).any():
            order = np.argsort(columns["frames"], kind="stable")
            columns = {name: column[order] for name, column in columns.items()}
        for name, column in {"labelled": labelled, **columns}.items():
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: np.ndarray) -> Truth:
        """The boxes that `index` (a mask or positions) selects; the same frames are labelled."""
        columns = (self.frames, self.boxes, self.labels, self.tracks, self.motion)
        return Truth(self.labelled, *(column[index] for column in columns))

    @staticmethod
    def of(video: Video, motion: Sequence[np.ndarray] | None = None) -> Truth:
        """What is known of an annotated video.

        motion: for each labelled frame the motion IoU of its objects, in the annotation's order, where it comes from
        elsewhere (`motion_file.read_motion`); else it is computed from the tracks. Raises UnreadableFrameError, and
        ValueError where `motion` is of other frames or objects.
        """
        annotations = [video.annotation(index) for index in video.labelled]
        frames, boxes, labels, tracks = _columns(video.labelled, annotations)
        if motion is None:
            values = motion_iou(boxes, frames, tracks)
        else:
            given, wanted = [len(m) for m in motion], [len(a.boxes) for a in annotations]
            if given != wanted:
                raise ValueError(
                    f"the motion IoU given for {video.name} is of {sum(given)} objects in {len(given)} frames, "
                    f"its annotations are of {sum(wanted)} in {len(wanted)}, or else in other frames"
                )
            values = np.concatenate([np.zeros(0), *motion])
        return Truth(np.asarray(video.labelled), frames, boxes, labels, tracks, values)

    @staticmethod
    def of_frames(annotations: Sequence[Annotation]) -> Truth:
        """From those of each frame, all labelled, in the frames' order; the motion IoU follows from the tracks."""
        frames, boxes, labels, tracks = _columns(range(len(annotations)), annotations)
        return Truth(np.arange(len(annotations)), frames, boxes, labels, tracks, motion_iou(boxes, frames, tracks))


def _columns(
    labelled: Sequence[int], annotations: Sequence[Annotation]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frames, boxes, labels and tracks of all annotations; −1 for tracks where an annotation has none."""
    none = Annotation()  # so that there is something to join
    parts = [none, *annotations]
    sizes = [len(a.boxes) for a in annotations]
    tracks = [a.tracks if len(a.tracks) == len(a.boxes) else np.full(len(a.boxes), -1) for a in parts]
    return (
        np.repeat(np.asarray(labelled, np.int32), sizes),
        np.concatenate([a.boxes for a in parts]),
        np.concatenate([a.labels for a in parts]),
        np.concatenate(tracks),
    )
