"""The oracle on the demo's model, whose detections differ from frame to frame."""

import numpy as np
import pytest
import torch

from keywarp.data.datasets import Annotation
from keywarp.data.reading import open_dataset
from keywarp.demo import TRUTH
from keywarp.evaluation.average_precision import AveragePrecision
from keywarp.evaluation.truth import Truth
from keywarp.loading import load
from keywarp.oracle import oracle_schedule
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import FixedInterval, KnownKeys
from keywarp.structures import VideoDetections


def test_no_schedule_of_its_length_is_better_frame_by_frame():
    model = load("demo", method="dff", device="cpu")
    clip = open_dataset(TRUTH, "all").videos[0]
    shown = range(30, 40)
    count = len(shown)
    frames = list(clip.frames.read(shown))
    known = [clip.annotation(t) for t in shown]
    truths = [(torch.from_numpy(each.boxes), torch.from_numpy(each.labels)) for each in known]
    schedule = oracle_schedule(model, frames, truths)
    assert 0 in schedule.keys
    assert 1 < len(schedule.keys) < count

    def score(scheduler, t):
        model.scheduler = scheduler
        found = [r.detections for r in VideoPredictor(model).run(frames[: t + 1])][t]
        precision = AveragePrecision(len(model.classes), threshold=0.5)
        precision.add(VideoDetections.of([found]), Truth.of_frames([Annotation(known[t].boxes, known[t].labels)]))
        return precision.result().mean["all"]

    for t in range(1, count):  # each choice, given those before it, as the predictor itself scores it
        before = {k for k in schedule.keys if k < t}
        as_key, carried = score(KnownKeys(frozenset(before | {t})), t), score(KnownKeys(frozenset(before)), t)
        assert (t in schedule.keys) == (as_key > carried + 1e-9)


def test_without_objects_only_the_first_frame_is_a_key():
    model = load("demo", method="dff", device="cpu")
    model.scheduler = FixedInterval(1)
    nothing = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    frames = [np.full((240, 320, 3), 90, np.uint8)] * 3
    assert oracle_schedule(model, frames, [nothing] * 3).keys == {0}


def test_every_frame_needs_its_truth():
    model = load("demo", method="dff", device="cpu")
    with pytest.raises(ValueError, match="zip"):
        oracle_schedule(model, [np.zeros((240, 320, 3), np.uint8)] * 2, [])
