from dataclasses import replace

import numpy as np
import pytest

from keywarp.data.datasets import Annotation
from keywarp.training.augmentation import augment, moved
from keywarp.training.config import TrainConfig

PLAIN = TrainConfig(steps=1, flip=0.0)


def scene(size=(60, 90), box=(20, 10, 50, 40)):
    frame = np.full((*size, 3), 60, np.uint8)
    x0, y0, x1, y1 = box
    frame[y0:y1, x0:x1] = (250, 30, 40)
    mask = np.zeros(size, np.uint8)
    mask[y0:y1, x0:x1] = 1
    return frame, Annotation(np.array([box], np.float32), np.array([0]), np.array([5]), mask)


def extent(frame):
    rows, columns = np.nonzero((frame[..., 0] > 155) & (frame[..., 1] < 60))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(
    "change", [{"flip": 1.0}, {"zoom": (1.5, 1.5)}, {"zoom": (0.6, 0.6)}, {"flip": 1.0, "zoom": (0.7, 1.4)}]
)
@pytest.mark.parametrize("seed", range(4))
def test_boxes_and_masks_follow_the_picture(change, seed):
    frame, target = scene()
    frames, target = augment([frame, frame], target, replace(PLAIN, **change), np.random.default_rng(seed))
    if not len(target.boxes):
        pytest.fail("the object lies in the middle and cannot leave")
    assert target.boxes[0] == pytest.approx(extent(frames[1]), abs=1.0)
    assert np.array_equal(frames[0], frames[1])
    rows, columns = np.nonzero(target.mask == 1)
    assert target.boxes[0] == pytest.approx([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], abs=1.0)


def test_nothing_asked_for_changes_nothing():
    frame, target = scene()
    frames, after = augment([frame], target, PLAIN, np.random.default_rng(0))
    assert np.array_equal(frames[0], frame)
    assert np.array_equal(after.boxes, target.boxes)


def test_a_flip_is_exact():
    frame = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    _, target = scene()
    frames, after = augment([frame], target, replace(PLAIN, flip=1.0), np.random.default_rng(0))
    assert np.array_equal(frames[0], frame[:, ::-1])
    assert after.boxes[0].tolist() == [40, 10, 70, 40]


def test_objects_that_leave_lose_their_label():
    _, target = scene(box=(0, 0, 10, 10))
    right = np.array([[1.0, 0, -8], [0, 1, 0]])
    assert not len(moved(target, right, (60, 90)).boxes)  # a fifth is left
    slightly = moved(target, np.array([[1.0, 0, -4], [0, 1, 0]]), (60, 90))
    assert slightly.boxes[0].tolist() == [0, 0, 6, 10]


@pytest.mark.parametrize("change", [{"colour": 1.0}, {"degrade": 1.0}])
def test_colours_and_degradations_leave_the_boxes(change):
    frame, target = scene()
    changed = 0
    for seed in range(8):
        frames, after = augment([frame, frame], target, replace(PLAIN, **change), np.random.default_rng(seed))
        assert np.array_equal(after.boxes, target.boxes)
        assert np.array_equal(frames[0], frames[1])
        assert frames[0].dtype == np.uint8
        changed += not np.array_equal(frames[0], frame)
    assert changed >= 5
