import numpy as np
import pytest
import torch

from keywarp.structures import Detections, VideoDetections


def columns(**changes):
    values = {"frames": [2, 0, 2], "boxes": np.arange(12).reshape(3, 4), "scores": [0.1, 0.2, 0.3], "labels": [5, 6, 7]}
    return VideoDetections(**(values | changes))


def test_rows_are_sorted_by_frame_and_keep_their_order_within_one():
    made = columns(tracks=[1, 2, 3])
    assert made.frames.tolist() == [0, 2, 2]
    assert made.labels.tolist() == [6, 5, 7]
    assert made.tracks.tolist() == [2, 1, 3]
    assert made.boxes.dtype == np.float32
    assert made[made.frames == 2].scores.tolist() == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.zeros((2, 4))}, r"boxes must be \[3, 4\]"),
        ({"labels": [1, -1, 0]}, "labels must be at least 0, got -1"),
        ({"scores": [0.5, float("nan"), 0.5]}, "scores must be finite, got nan"),
        ({"tracks": [1]}, r"tracks must be \[3\]"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        columns(**changes)


def test_from_frames_and_back():
    frames = [
        Detections(torch.rand(2, 4), torch.rand(2), torch.tensor([0, 3])),
        Detections.empty(),
        Detections(torch.rand(1, 4), torch.rand(1), torch.tensor([1])),
    ]
    made = VideoDetections.of(frames)
    assert made.frames.tolist() == [0, 0, 2]
    for back, given in zip(made.by_frame(4), [*frames, Detections.empty()], strict=True):
        assert torch.equal(back.boxes, given.boxes)
        assert torch.equal(back.scores, given.scores)
        assert torch.equal(back.labels, given.labels)
    assert len(VideoDetections.of([])) == 0
