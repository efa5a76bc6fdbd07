"""The key frames that ground truth would choose: how far a scheduler could get (001, section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from keywarp.data.datasets import Annotation, UnreadableFrameError, Video, VideoDataset
from keywarp.errors import InterruptedWorkError, UserError
from keywarp.evaluation.average_precision import AveragePrecision
from keywarp.evaluation.truth import Truth
from keywarp.loading import options_of, with_scheduler
from keywarp.model import VideoModel
from keywarp.scheduling import KnownKeys
from keywarp.structures import Detections, Frame, Memory, Step, StepOutput, VideoDetections


@torch.inference_mode()
def oracle_schedule(
    model: VideoModel, frames: Iterable[np.ndarray], truths: Sequence[tuple[Tensor, Tensor]], iou: float = 0.5
) -> KnownKeys:
    """The schedule of one video in which a frame is a key frame where that gives a higher mAP on it.

    Each frame is computed both ways, with the key frames chosen before it. frames: `[H, W, 3]` uint8 RGB, in order.
    truths: of each frame its boxes `[G, 4]` xyxy in its pixels, and labels `[G]`. Without objects a frame is no key
    frame. The model needs an aligner and key frames that come first in their segment (DFF, THP).
    """
    keys: list[int] = []
    memories: dict[int, Memory] = {}
    for i, (image, (boxes, labels)) in enumerate(zip(frames, truths, strict=True)):
        if keys and not len(boxes):
            continue
        place = model.transform.place(*image.shape[:2])
        current = Frame(model.transform(image)[None].to(model.device))

        def score(output: StepOutput, place=place, boxes=boxes, labels=labels) -> float:  # type: ignore[no-untyped-def]
            (found,) = model.head(output.features, [place.resized])
            assert isinstance(found, Detections)
            return _mean_ap(model.transform.restore(found, place).cpu(), boxes, labels, iou)

        as_key = model.run(Step((i,), is_key=True, references=tuple(keys[-1:])), current, memories)
        if keys:
            carried = model.run(Step((i,), is_key=False, references=(keys[-1],)), current, memories)
            if score(as_key) <= score(carried):
                continue
        assert as_key.memory is not None
        keys, memories = [*keys, i], {i: as_key.memory}
    return KnownKeys(frozenset(keys))


FOLLOWERS = "--oracle is for detectors that carry key frames which come first in their segment (DFF, THP)"
"""What is told where an oracle cannot choose."""


def can_follow(model: VideoModel) -> bool:
    """Whether an oracle can choose the key frames: those of a method that carries them, first in their segment."""
    takes = options_of(model.description["method"])
    return "interval" in takes and "detector" not in takes and model.scheduler.latency == 0


def check_labels(dataset: VideoDataset) -> None:
    """Raises UserError for videos that the oracle cannot schedule."""
    for video in dataset.videos:
        if len(video.labelled) < len(video.frames):
            raise UserError(f"{video.name} has frames without labels, which the oracle needs; leave --oracle out")


def scheduled_by_truth(model: VideoModel, video: Video, labels: np.ndarray) -> VideoModel:
    """The model with the key frames that a video's ground truth chooses. labels: the data set's of each of the model's.

    Raises InterruptedWorkError where a frame cannot be read.
    """
    try:
        truths = []
        for truth in map(video.annotation, video.labelled):
            known = np.isin(truth.labels, labels)  # to the model
            theirs = (truth.labels[known, None] == labels).argmax(axis=1)
            truths.append((torch.from_numpy(truth.boxes[known]), torch.from_numpy(theirs)))
        pictures = (frame.image for frame in islice(video.frames.stream(), len(truths)))
        return with_scheduler(model, oracle_schedule(model, pictures, truths))
    except UnreadableFrameError as error:
        raise InterruptedWorkError(f"{video.name}: {error}; mend it, then go on with --resume") from None


def _mean_ap(found: Detections, boxes: Tensor, labels: Tensor, iou: float) -> float:
    """Of one frame, over the classes that it holds."""
    classes = int(labels.max()) + 1
    precision = AveragePrecision(classes, threshold=iou)
    truth = Truth.of_frames([Annotation(boxes.cpu().numpy(), labels.cpu().numpy())])
    precision.add(VideoDetections.of([found[found.labels < classes]]), truth)
    return precision.result().mean["all"]
