import numpy as np
import pytest

from keywarp.data.datasets import Annotation
from keywarp.evaluation.truth import Truth

BOX = [0.0, 0, 10, 10]


def columns(**changes):
    values = {
        "labelled": [0, 2, 5],
        "frames": [5, 0, 5],
        "boxes": np.arange(12).reshape(3, 4),
        "labels": [5, 6, 7],
        "tracks": [1, 2, 3],
        "motion": [0.5, np.nan, 1],
    }
    return Truth(**(values | changes))


def test_rows_are_sorted_by_frame_and_keep_their_order_within_one():
    made = columns()
    assert made.frames.tolist() == [0, 5, 5]
    assert made.labels.tolist() == [6, 5, 7]
    assert made.tracks.tolist() == [2, 1, 3]
    assert made.motion[1:].tolist() == [0.5, 1]
    assert np.isnan(made.motion[0])
    assert made.boxes.dtype == np.float32
    some = made[made.labels > 5]
    assert some.labelled.tolist() == [0, 2, 5]
    assert some.tracks.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labelled": [2, 0, 5]}, "ascending"),
        ({"labelled": [0, 0, 2, 5]}, "each once"),
        ({"labelled": [-1, 0, 5]}, "at least 0"),
        ({"frames": [5, 1, 5]}, "among the 3 labelled ones, got 1"),
        ({"boxes": np.zeros((2, 4))}, r"boxes must be \[3, 4\]"),
        ({"boxes": np.full((3, 4), np.inf)}, "finite"),
        ({"labels": [1, -1, 0]}, "labels must be at least 0, got -1"),
        ({"motion": [1]}, r"motion must be \[3\]"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        columns(**changes)


class Clip:
    name = "clip"
    labelled = (0, 2, 3)

    def annotation(self, index):
        tracks = {0: [5, 6], 2: [], 3: [6, 5]}[index]
        boxes = [BOX if track == 5 else [index, 0, index + 10, 10] for track in tracks]
        return Annotation(np.array(boxes, np.float32).reshape(-1, 4), np.array(tracks, int) - 5, np.array(tracks, int))


def test_of_a_video():
    truth = Truth.of(Clip())
    assert truth.labelled.tolist() == [0, 2, 3]
    assert truth.frames.tolist() == [0, 0, 3, 3]
    assert truth.labels.tolist() == [0, 1, 1, 0]
    assert truth.tracks.tolist() == [5, 6, 6, 5]
    assert truth.motion.tolist() == [1, 70 / 130, 70 / 130, 1]


def test_motion_that_is_given_is_taken():
    assert Truth.of(Clip(), [np.array([0.1, 0.2]), np.zeros(0), np.array([0.3, 0.4])]).motion.tolist() == [
        0.1,
        0.2,
        0.3,
        0.4,
    ]
    with pytest.raises(ValueError, match="given for clip is of 3 objects in 2 frames, its annotations are of 4 in 3"):
        Truth.of(Clip(), [np.array([0.1, 0.2]), np.array([0.3])])


def test_of_frames_without_tracks_and_without_anything():
    truth = Truth.of_frames([Annotation(), Annotation(np.array([BOX], np.float32), np.array([3]))])
    assert truth.labelled.tolist() == [0, 1]
    assert truth.tracks.tolist() == [-1]
    assert np.isnan(truth.motion).all()
    assert len(Truth.of_frames([])) == 0
