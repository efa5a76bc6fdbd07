"""Validation with the demo's model on parts of its clip."""

import numpy as np
import pytest

from keywarp.data.datasets import Annotation, Frames, UnreadableFrameError, Video, VideoDataset
from keywarp.data.reading import open_dataset
from keywarp.demo import TRUTH
from keywarp.evaluation.average_precision import AveragePrecision
from keywarp.evaluation.truth import Truth
from keywarp.loading import load
from keywarp.predictor import VideoPredictor
from keywarp.structures import VideoDetections
from keywarp.training.processes import Processes
from keywarp.training.validation import validation

COUNT = 5
DATA = open_dataset(TRUTH, "all")


class Part(Frames):
    """`COUNT` frames of the demo's clip."""

    def __init__(self, start, is_broken):
        self.start, self.is_broken = start, is_broken

    def __len__(self):
        return COUNT

    def read(self, indices):
        if self.is_broken and max(indices) == COUNT - 1:
            raise UnreadableFrameError("the last frame is broken")
        return DATA.videos[0].frames.read([self.start + t for t in indices])

    @property
    def source(self):
        return "part"


class Clip(Video):
    def __init__(self, start, labelled, is_broken=False):
        self.start, self.name, self.labelled = start, str(start), labelled
        self.frames = Part(start, is_broken)

    def annotation(self, index):
        known = DATA.videos[0].annotation(self.start + index)
        return Annotation(known.boxes, known.labels, np.full(len(known.boxes), -1))


def test_the_mean_average_precision_is_of_the_labelled_frames_of_readable_videos():
    model = load("demo", device="cpu")
    videos = [Clip(0, (0, 2, 4)), Clip(20, (1,)), Clip(30, (0, 1), is_broken=True)]
    measured = validation(VideoDataset("clips", DATA.classes, videos), Processes("cpu"))(model)
    precision = AveragePrecision(len(DATA.classes), threshold=0.5)
    for video in videos[:2]:  # each labelled frame by itself
        results = list(VideoPredictor(model).run(video.frames.read(range(COUNT))))
        for t in video.labelled:
            truth = Truth.of_frames([video.annotation(t)])
            precision.add(VideoDetections.of([results[t].detections]), truth)
    expected = precision.result().mean["all"]
    assert measured == {"mAP": pytest.approx(expected)}
    assert 0 < expected < 1
