"""How good a model is on a data set's labelled frames, measured now and then while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from keywarp.data.datasets import UnreadableFrameError, Video, VideoDataset
from keywarp.evaluation.detection import average_precision, of_class
from keywarp.evaluation.segmentation import confusion, mean_iou
from keywarp.model import VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.structures import Detections
from keywarp.training.processes import Processes


class Judged(NamedTuple):
    """A labelled frame: what was found in it and what is there."""

    found: Detections
    boxes: torch.Tensor
    labels: torch.Tensor


def validation(
    dataset: VideoDataset, processes: Processes, *, videos: int | None = None
) -> Callable[[nn.Module], dict[str, float]]:
    """A function from a model to its measures: `mAP` at IoU 0.5 (mean over the classes that occur), or `mIoU`.

    videos: so many, evenly spread, instead of all. Each process runs its share of them.
    """
    count = len(dataset.videos)
    chosen = range(count) if videos is None or videos >= count else np.linspace(0, count - 1, videos).astype(int)
    mine = [dataset.videos[int(v)] for v in chosen][processes.rank :: processes.world]

    def measure(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, VideoModel)
        if dataset.mask_classes and network.description["arguments"].get("task") == "segmentation":
            classes = len(dataset.mask_classes)
            counts = sum(
                (_segmented(network, video, classes) for video in mine), np.zeros((classes, classes), np.int64)
            )
            return {"mIoU": mean_iou(sum(processes.gather(counts)))}
        frames = [frame for video in mine for frame in _detected(network, video)]
        everything = [frame for part in processes.gather(frames) for frame in part]
        return {"mAP": mean_average_precision(everything, len(dataset.classes))}

    return measure


def mean_average_precision(frames: Sequence[Judged], classes: int) -> float:
    """AP at IoU 0.5, mean over the classes that occur; NaN when none does."""
    values = []
    for c in range(classes):
        rows = [(of_class(f.found, c), f.boxes[f.labels == c]) for f in frames]
        rows = [(found, truth) for found, truth in rows if len(found) or len(truth)]
        values.append(average_precision([found for found, _ in rows], [truth for _, truth in rows]))
    occurring = [value for value in values if value == value]
    return float(np.mean(occurring)) if occurring else float("nan")


def _detected(model: VideoModel, video: Video) -> list[Judged]:
    """The labelled frames of a video; none of one that cannot be read."""
    labelled = set(video.labelled)
    judged = []
    try:
        for result in VideoPredictor(model).run(video.frames.stream()):
            if result.index in labelled and result.detections is not None:
                truth = video.annotation(result.index)
                boxes, labels = torch.from_numpy(truth.boxes), torch.from_numpy(truth.labels)
                judged.append(Judged(result.detections, boxes, labels))
    except UnreadableFrameError:
        return []
    return judged


def _segmented(model: VideoModel, video: Video, classes: int) -> np.ndarray:
    labelled = set(video.labelled)
    counts = np.zeros((classes, classes), np.int64)
    try:
        for result in VideoPredictor(model).run(video.frames.stream()):
            if result.index in labelled and result.segmentation is not None:
                truth = video.annotation(result.index).mask
                if truth is not None:
                    counts += confusion(result.segmentation, truth, classes)
    except UnreadableFrameError:
        pass
    return counts
