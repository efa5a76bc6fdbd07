"""Validation with the demo's model on its own kind of clips."""

import numpy as np
import pytest

from keywarp.data.datasets import Annotation, Frames, UnreadableFrameError, Video, VideoDataset
from keywarp.data.synthetic import CLASSES, synthetic_clip
from keywarp.evaluation.average_precision import AveragePrecision
from keywarp.evaluation.truth import Truth
from keywarp.loading import load
from keywarp.predictor import VideoPredictor
from keywarp.structures import VideoDetections
from keywarp.training.processes import Processes
from keywarp.training.validation import validation

COUNT = 5


class Drawn(Frames):
    def __init__(self, clip, is_broken):
        self.clip, self.is_broken = clip, is_broken

    def __len__(self):
        return COUNT

    def read(self, indices):
        if self.is_broken and max(indices) == COUNT - 1:
            raise UnreadableFrameError("the last frame is broken")
        return [self.clip.frame(t) for t in indices]

    @property
    def source(self):
        return "drawn"


class Clip(Video):
    def __init__(self, seed, labelled, is_broken=False):
        self.clip = synthetic_clip(seed, size=(120, 160))
        self.name, self.labelled, self.frames = str(seed), labelled, Drawn(self.clip, is_broken)

    def annotation(self, index):
        boxes, labels = self.clip.boxes(index)
        return Annotation(boxes, labels, np.full(len(boxes), -1))


def test_the_mean_average_precision_is_of_the_labelled_frames_of_readable_videos():
    model = load("demo", device="cpu")
    videos = [Clip(1_000_001, (0, 2, 4)), Clip(1_000_002, (1,)), Clip(1_000_003, (0, 1), is_broken=True)]
    measured = validation(VideoDataset("clips", CLASSES, videos), Processes("cpu"))(model)
    precision = AveragePrecision(len(CLASSES), threshold=0.5)
    for video in videos[:2]:  # each labelled frame by itself
        results = list(VideoPredictor(model).run([video.clip.frame(t) for t in range(COUNT)]))
        for t in video.labelled:
            truth = Truth.of_frames([video.annotation(t)])
            precision.add(VideoDetections.of([results[t].detections]), truth)
    expected = precision.result().mean["all"]
    assert measured == {"mAP": pytest.approx(expected)}
    assert 0 < expected < 1
