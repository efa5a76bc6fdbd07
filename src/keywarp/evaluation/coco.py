"""COCO's average precision, counted by hotcoco (pycocotools' figures, faster)."""

from __future__ import annotations

import numpy as np

from keywarp.errors import UserError
from keywarp.evaluation.truth import Truth
from keywarp.structures import VideoDetections

__all__ = ["CocoAP"]

MEASURES = ("AP", "AP50", "AP75", "small", "medium", "large")
"""In the order of COCO's own summary."""


class CocoAP:
    """Takes videos in one by one; matching is done at once, boxes are not kept.

    classes: how many. Of each frame and class the 100 highest scores count, as COCO has it. Raises UserError when
    hotcoco is not installed.
    """

    def __init__(self, classes: int) -> None:
        try:
            from hotcoco import StreamingEval
        except ImportError:
            raise UserError("COCO's average precision needs hotcoco: pip install 'keywarp[evaluate]'") from None
        # Numbers from 1: an array of detections cannot name category 0 apart from none.
        self._streaming = StreamingEval([{"id": c + 1, "name": str(c)} for c in range(classes)], "bbox")
        self._images = 0
        self._objects = 0

    def add(self, detections: VideoDetections, truth: Truth) -> None:
        """Take in a video; detections in frames that are not labelled are left out."""
        corners = truth.boxes.astype(np.float64)
        sizes = corners[:, 2:] - corners[:, :2]
        frames = self._images + np.searchsorted(truth.labelled, truth.frames)
        objects = [
            {"id": n, "image_id": image, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": 0}
            for n, (image, label, box, area) in enumerate(
                zip(
                    frames.tolist(),
                    truth.labels.tolist(),
                    np.concatenate([corners[:, :2], sizes], axis=1).tolist(),
                    sizes.prod(axis=1).tolist(),
                    strict=True,
                ),
                start=self._objects + 1,
            )
        ]
        judged = detections[np.isin(detections.frames, truth.labelled)]
        found = np.empty((len(judged), 7))
        found[:, 0] = self._images + np.searchsorted(truth.labelled, judged.frames)
        found[:, 1:3] = judged.boxes[:, :2]
        found[:, 3:5] = judged.boxes[:, 2:].astype(np.float64) - judged.boxes[:, :2]
        found[:, 5] = judged.scores
        found[:, 6] = judged.labels + 1
        images = [{"id": self._images + i} for i in range(len(truth.labelled))]
        self._streaming.update(images, objects, found)
        self._images += len(images)
        self._objects += len(objects)

    def result(self) -> dict[str, float]:
        """Of all videos so far, by MEASURES: the mean over IoU 0.5, 0.55 … 0.95; at 0.5; at 0.75; and the mean for
        objects below 32², up to 96², and above, in pixels. NaN where there are no such objects."""
        evaluation = type(self._streaming).merge([self._streaming]).finalize()
        evaluation.accumulate()
        evaluation.summary_lines()
        values = [float(value) for value in evaluation.stats[: len(MEASURES)]]
        return {name: value if value >= 0 else float("nan") for name, value in zip(MEASURES, values, strict=True)}
