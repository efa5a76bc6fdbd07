"""How good a model is on a data set's labelled frames, measured now and then while it trains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from keywarp.data.datasets import UnreadableFrameError, Video, VideoDataset, spread
from keywarp.evaluation.average_precision import AveragePrecision
from keywarp.evaluation.segmentation import confusion, mean_iou
from keywarp.evaluation.truth import Truth
from keywarp.model import VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.structures import Detections, VideoDetections
from keywarp.training.processes import Processes


def validation(
    dataset: VideoDataset, processes: Processes, *, videos: int | None = None
) -> Callable[[nn.Module], dict[str, float]]:
    """A function from a model to its measures: `mAP` at IoU 0.5 (mean over the classes that occur), or `mIoU`.

    videos: so many, evenly spread, instead of all. Each process runs its share of them.
    """
    mine = [dataset.videos[v] for v in spread(len(dataset.videos), videos)][processes.rank :: processes.world]

    def measure(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, VideoModel)
        if dataset.mask_classes and network.head.segments:
            classes = len(dataset.mask_classes)
            counts = sum(
                (_segmented(network, video, classes) for video in mine), np.zeros((classes, classes), np.int64)
            )
            return {"mIoU": mean_iou(sum(processes.gather(counts)))}
        precision = AveragePrecision(len(dataset.classes), threshold=0.5)
        for part in processes.gather([pair for video in mine for pair in _detected(network, video)]):
            for found, truth in part:
                precision.add(found, truth)
        return {"mAP": precision.result().mean["all"]}

    return measure


def _detected(model: VideoModel, video: Video) -> list[tuple[VideoDetections, Truth]]:
    """What was found in a video's labelled frames and what is there; nothing for one that cannot be read."""
    labelled = set(video.labelled)
    try:
        results = VideoPredictor(model).run(video.frames.stream())
        found = [r.detections if r.index in labelled and r.detections else Detections.empty() for r in results]
        return [(VideoDetections.of(found), Truth.of(video))]
    except UnreadableFrameError:
        return []


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
