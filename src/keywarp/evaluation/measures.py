"""Everything that a table says of one set of detections, gathered video by video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from keywarp.evaluation.average_precision import RANGES, AveragePrecision
from keywarp.evaluation.coco import CocoAP
from keywarp.evaluation.delay import Delay
from keywarp.evaluation.steadiness import Steadiness
from keywarp.evaluation.truth import Truth
from keywarp.structures import VideoDetections

__all__ = ["RECALLS", "Measures", "Row"]

RECALLS = np.linspace(0, 1, 101)
"""Where precision-recall curves are kept."""


@dataclass(frozen=True)
class Row:
    """A row of a table. NaN where there is nothing to measure.

    measures: by name; average precisions are shares of 1. by_class: class → its AP by range of motion. curves: class →
    precision at RECALLS, the best at this recall or a higher one.
    """

    name: str
    measures: dict[str, float]
    by_class: dict[str, dict[str, float]]
    curves: dict[str, list[float]]

    def as_json(self) -> dict[str, Any]:
        """The same with None for NaN."""
        return {
            "name": self.name,
            "measures": {name: _number(value) for name, value in self.measures.items()},
            "by_class": {c: {name: _number(v) for name, v in values.items()} for c, values in self.by_class.items()},
            "curves": {c: [round(value, 4) for value in curve] for c, curve in self.curves.items()},
        }


class Measures:
    """Takes the detections of videos in, and tells all measures of them. docs/metrics.md defines each.

    iou: what finds an object: "vid" or a number, as of `AveragePrecision`. score: smallest of the detections that
    steadiness and delay are told of.
    """

    def __init__(self, classes: Sequence[str], *, iou: float | Literal["vid"] = "vid", score: float = 0.5) -> None:
        self.classes = classes
        self._average = AveragePrecision(len(classes), threshold=iou)
        self._coco = CocoAP(len(classes))
        self._steadiness = Steadiness(score=score)
        self._delay = Delay(score=score)

    def add(self, detections: VideoDetections, truth: Truth) -> None:
        """Take in a video."""
        for part in (self._average, self._coco, self._steadiness, self._delay):
            part.add(detections, truth)

    def result(self, name: str) -> Row:
        """The row of all videos so far."""
        found = self._average.result()
        measures = {("mAP" if r == "all" else f"mAP {r}"): found.mean[r] for r in RANGES}
        measures |= {f"COCO {key}": value for key, value in self._coco.result().items()}
        measures |= self._steadiness.result() | self._delay.result()
        by_class = {
            label: {r: float(found.by_class[r][c]) for r in RANGES}
            for c, label in enumerate(self.classes)
            if found.objects[c]
        }
        curves = {label: _curve(*found.curve(self.classes.index(label))) for label in by_class}
        return Row(name, measures, by_class, curves)


def _curve(recall: np.ndarray, precision: np.ndarray) -> list[float]:
    """The envelope of a curve at RECALLS."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS)
    return np.append(envelope, 0.0)[at].tolist()


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
