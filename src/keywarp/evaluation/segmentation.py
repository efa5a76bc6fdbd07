"""Intersection over union of label maps; and DFF's way to measure it where one frame of a snippet is labelled.

Legend: (H, W) pixels · l frames from one key frame to the next
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from keywarp.data.datasets import VideoDataset
from keywarp.errors import UserError
from keywarp.model import VideoModel, frame_of
from keywarp.scheduling import SlidingWindow
from keywarp.structures import Detections, Memory, Step

__all__ = ["UNKNOWN", "LPairs", "check_carries", "class_iou", "confusion", "l_pairs", "mean_iou"]

UNKNOWN = 255
"""Pixels with this label do not count."""


def confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of each true class (rows) were given each class (columns), `[classes, classes]` int64.

    predicted, truth: `[H, W]` integers below `classes`, or UNKNOWN in the truth.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"label maps must be of one size, got {predicted.shape} and {truth.shape}")
    known = truth != UNKNOWN
    given, there = predicted[known], truth[known]
    if max(given.max(initial=0), there.max(initial=0)) >= classes:
        raise ValueError(f"labels must be below {classes}, got {given.max()} as predicted and {there.max()} as true")
    index = there.astype(np.int64) * classes + given
    return np.bincount(index, minlength=classes * classes).reshape(classes, classes)


def class_iou(counts: np.ndarray) -> np.ndarray:
    """`[classes]` of a `confusion`; NaN where a class occurs neither in the truth nor in what was predicted."""
    hits = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def mean_iou(counts: np.ndarray, classes: int | None = None) -> float:
    """The mean over the classes that occur, in the truth or in what was predicted; NaN when none does.

    classes: of the first so many alone, where the rest are classes of the model that the truth does not know.
    """
    each = class_iou(counts)[:classes]
    known = each[~np.isnan(each)]
    return float(known.mean()) if len(known) else float("nan")


class LPairs(NamedTuple):
    """Mean IoU over all snippets together, by how far the key frame lies before the labelled one.

    by_offset: for 0, 1 … l − 1 frames. mean: of those that are not NaN. skipped: for each offset, how many labelled
    frames have no frame so far before them.
    """

    mean: float
    by_offset: tuple[float, ...]
    skipped: tuple[int, ...]


def l_pairs(model: VideoModel, dataset: VideoDataset, interval: int, labels: np.ndarray | None = None) -> LPairs:
    """Mean IoU with a key frame every `interval` frames, on snippets with one labelled frame (004, section 5.2).

    For each offset o = 0 … interval − 1 a labelled frame i is segmented with the features of the key frame i − o
    carried to it (o = 0: its own), nothing else remembered; the mean IoU of each offset, and their mean. So a frame at
    every distance from its key frame counts alike, as it would if all frames were labelled. labels: the data set's of
    each class of the model, their number for one that it has not; None where both have the same. Raises UserError, and
    UnreadableFrameError.
    """
    classes = len(dataset.mask_classes)
    if not classes:
        raise UserError(f"{dataset.name} has no label maps; give a data set for segmentation")
    check_carries(model, interval)
    if labels is None:
        labels = np.arange(classes)
    counts = np.zeros((interval, classes + 1, classes + 1), np.int64)
    skipped = np.zeros(interval, np.int64)
    for video in (dataset.videos[position] for position in range(len(dataset.videos))):
        for index in video.labelled:
            truth = video.annotation(index).mask
            if truth is None:
                continue
            near = range(max(index - interval + 1, 0), index + 1)
            skipped[len(near) :] += 1
            *keys, image = video.frames.read(near)
            for offset, key in enumerate([image, *reversed(keys)]):
                counts[offset] += confusion(labels[_carried(model, key, image)], truth, classes + 1)
    by_offset = [mean_iou(each, classes) for each in counts]
    known = [value for value in by_offset if value == value]
    return LPairs(float(np.mean(known)) if known else float("nan"), tuple(by_offset), tuple(skipped.tolist()))


def check_carries(model: VideoModel, interval: int) -> None:
    """Raises UserError where `l_pairs` cannot measure the model: one that carries a key frame's features is wanted."""
    if interval < 1:
        raise UserError(f"interval must be at least 1, got {interval}")
    if model.aligner is None and interval > 1:
        raise UserError("this model carries nothing from frame to frame; measure it with interval 1")
    if isinstance(model.scheduler, SlidingWindow):
        raise UserError("this model gathers from a window and has no key frames; leave --l-pairs out")
    if model.uses_codec_motion:
        raise UserError("codec motion is of a video's consecutive frames, not of pairs; leave --l-pairs out")


@torch.inference_mode()
def _carried(model: VideoModel, key: np.ndarray, image: np.ndarray) -> np.ndarray:
    """`[H, W]` classes of a frame from a key frame's features; from its own where they are the same array."""
    device = model.device
    memories: dict[int, Memory] = {}
    place = model.transform.place(*image.shape[:2])
    steps = [(Step((0,), is_key=True), key), (Step((1,), is_key=False, references=(0,)), image)]
    with torch.autocast(device.type, torch.bfloat16, enabled=model.half_precision):
        for step, pixels in steps if key is not image else steps[:1]:
            output = model.run(step, frame_of(model.transform(pixels)[None].to(device), None), memories)
            memories = memories if output.memory is None else {0: output.memory}
        (scores,) = model.head(output.features, [place.resized])
    if isinstance(scores, Detections):
        raise UserError("this model finds boxes; label maps need one that was built with task='segmentation'")
    return model.transform.restore_classes(scores, place)
