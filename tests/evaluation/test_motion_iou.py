import numpy as np
import pytest

from keywarp.evaluation.motion import motion_iou, speed_shares


def plain_iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(w, 0) * max(h, 0)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def plain_motion_iou(boxes, frames, tracks, window):
    """The definition, typed out."""
    result = []
    for i in range(len(boxes)):
        others = [
            plain_iou(boxes[i], boxes[j])
            for j in range(len(boxes))
            if j != i and tracks[j] == tracks[i] and abs(frames[j] - frames[i]) <= window
        ]
        result.append(np.mean(others) if others else 1.0)
    return result


@pytest.mark.parametrize("window", [1, 3, 10])
def test_equals_the_definition_typed_out(window):
    rng = np.random.default_rng(0)
    frames, tracks = (a.ravel() for a in np.meshgrid(np.arange(25), [4, 0, 7]))
    kept = rng.permutation(len(frames))[:50]  # tracks with gaps, in no order
    frames, tracks = frames[kept], tracks[kept]
    corner = rng.uniform(0, 30, (50, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 40, (50, 2))], axis=1)
    np.testing.assert_allclose(
        motion_iou(boxes, frames, tracks, window), plain_motion_iou(boxes, frames, tracks, window)
    )


def test_a_known_speed():
    # 10 × 10 boxes that move one pixel a frame, window 1: every neighbour overlaps by 90 of 110.
    boxes = np.array([[t, 0, t + 10, 10] for t in range(5)])
    np.testing.assert_allclose(motion_iou(boxes, np.arange(5), np.zeros(5), 1), 90 / 110)


def test_resting_lone_unknown_and_no_boxes():
    box = np.array([[0, 0, 5, 5]])
    assert motion_iou(np.repeat(box, 3, 0), np.arange(3), np.zeros(3)).tolist() == [1, 1, 1]
    assert motion_iou(box, np.array([4]), np.array([2])).tolist() == [1]
    assert np.isnan(motion_iou(np.repeat(box, 2, 0), np.arange(2), np.array([-1, -1]))).all()
    assert motion_iou(np.zeros((0, 4)), np.zeros(0), np.zeros(0)).shape == (0,)


def test_tracks_that_miss_frames():
    frames, tracks = np.array([0, 0, 2, 3, 3]), np.array([5, 6, 6, 6, 5])
    boxes = np.array(
        [[0, 0, 10, 10] if track == 5 else [t, 0, t + 10, 10] for t, track in zip(frames, tracks, strict=True)]
    )
    assert motion_iou(boxes, frames, tracks, 1).tolist() == [1, 1, 90 / 110, 90 / 110, 1]
    assert motion_iou(boxes, frames, tracks)[:2] == pytest.approx([1, (80 / 120 + 70 / 130) / 2])


def test_shares():
    shares = speed_shares(np.array([0.95, 0.9, 0.8, 0.7, 0.5, np.nan]))  # the limits themselves are medium
    assert shares == {"slow": 0.2, "medium": 0.6, "fast": 0.2}
    assert speed_shares(np.zeros(0)) == {"slow": 0, "medium": 0, "fast": 0}
