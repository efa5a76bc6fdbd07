import numpy as np
import pytest

from keywarp.evaluation.steadiness import Steadiness
from keywarp.evaluation.truth import Truth
from keywarp.structures import VideoDetections

NAN = float("nan")
BOX = np.array([100.0, 100, 200, 150])  # 100 × 50


def stability(states, labelled=None, track=1):
    """One object of class 0 that rests; for each frame its detections' (score, label) or shifts of the four edges."""
    labelled = range(len(states)) if labelled is None else labelled
    rows = [(frame, *one) for frame, found in zip(labelled, states, strict=True) for one in found]
    detections = VideoDetections(
        [row[0] for row in rows],
        np.reshape([BOX + (row[3] if len(row) > 3 else 0) for row in rows], (-1, 4)),
        [row[1] for row in rows],
        [row[2] for row in rows],
    )
    count = len(labelled)
    truth = Truth(labelled, labelled, np.tile(BOX, (count, 1)), np.zeros(count), np.full(count, track), np.ones(count))
    steadiness = Steadiness()
    steadiness.add(detections, truth)
    return steadiness.result()


YES, NO, WRONG, WEAK = [(0.9, 0)], [], [(0.9, 1)], [(0.4, 0)]


@pytest.mark.parametrize(
    ("states", "drop_outs", "class_changes"),
    [
        ([YES, YES, YES], 0, 0),
        ([YES, NO, YES], 1 / 2, 0),
        ([YES, NO, NO, NO, YES], 1 / 4, 0),  # dropped out once
        ([YES, NO, YES, NO, YES], 2 / 4, 0),
        ([YES, WEAK, YES], 1 / 2, 0),
        ([NO, NO, YES, YES, NO], 1 / 2, 0),  # before it is found for the first time nothing counts
        ([WRONG, WRONG, YES, YES, YES], 0, 0),  # found is found as what it is
        ([YES, WRONG, YES, YES], 0, 2 / 3),
        ([YES, WRONG, WRONG, NO], 1 / 3, 1 / 3),
        ([YES, [(0.6, 0), (0.9, 1)], YES], 0, 0),  # the right one comes first, whatever else lies there
        ([NO, NO, NO], NAN, NAN),
        ([YES], NAN, NAN),
        ([], NAN, NAN),
    ],
)
def test_fragmentation_by_hand(states, drop_outs, class_changes):
    result = stability(states)
    expected = {"drop-outs": drop_outs, "class changes": class_changes, "fragmentation": drop_outs + class_changes}
    assert {name: result[name] for name in expected} == pytest.approx(expected, nan_ok=True)


def shifted(*edges):
    return [(0.9, 0, np.array(edges, float))]


@pytest.mark.parametrize(
    ("states", "centre", "size"),
    [
        ([YES, YES], 0, 0),
        ([shifted(3, 4, 3, 4)] * 3, 0, 0),  # off, but steady
        ([YES, shifted(3, 2, 3, 2)], 0.05, 0),  # 3 / 100 and 2 / 50
        ([YES, shifted(3, 2, 3, 2), YES], 0.05, 0),
        ([YES, shifted(-3, -2, 3, 2)], 0, 0.1),  # 6 / 100 wider, 4 / 50 taller
        ([YES, shifted(0, 0, 6, 4)], 0.05, 0.1),
        ([YES, YES, shifted(3, 2, 3, 2)], 0.025, 0),
        ([YES, NO, shifted(3, 2, 3, 2), shifted(3, 2, 3, 2)], 0, 0),
        ([YES, NO], NAN, NAN),
        ([], NAN, NAN),
    ],
)
def test_jitter_by_hand(states, centre, size):
    result = stability(states)
    expected = {"centre jitter": centre, "size jitter": size}
    assert {name: result[name] for name in expected} == pytest.approx(expected, nan_ok=True, abs=1e-6)


def test_only_consecutive_labelled_frames_are_pairs():
    # Every tenth frame is labelled: neighbours among them are consecutive.
    assert stability([YES, NO, YES], labelled=[0, 10, 20])["drop-outs"] == 0.5
    # The object is out of sight in the labelled frame 1: no pair spans it.
    truth = Truth([0, 1, 2, 3], [0, 2, 3], np.tile(BOX, (3, 1)), [0, 0, 0], [5, 5, 5], np.ones(3))
    steadiness = Steadiness()
    steadiness.add(VideoDetections([0, 3], np.tile(BOX, (2, 1)), [0.9, 0.9], [0, 0]), truth)
    assert steadiness.result()["drop-outs"] == 0


def test_without_tracks_there_are_no_pairs():
    assert np.isnan(list(stability([YES, NO, YES], track=-1).values())).all()


def test_the_motion_of_the_object_is_no_jitter():
    frames = np.arange(5)
    boxes = BOX + np.outer(frames, [7, 3, 12, 6])  # moves and grows
    truth = Truth(frames, frames, boxes, np.zeros(5), np.zeros(5), np.ones(5))
    steadiness = Steadiness()
    steadiness.add(VideoDetections(frames, boxes, np.full(5, 0.9), np.zeros(5)), truth)
    assert steadiness.result() == {
        "fragmentation": 0,
        "drop-outs": 0,
        "class changes": 0,
        "centre jitter": 0,
        "size jitter": 0,
    }


def test_neighbours_do_not_lend_each_other_their_detections():
    # Two objects of different classes in the same place; only one is ever found: no class changes.
    frames = np.repeat(np.arange(4), 2)
    truth = Truth(np.arange(4), frames, np.tile(BOX, (8, 1)), np.tile([0, 1], 4), np.tile([3, 8], 4), np.ones(8))
    found = VideoDetections(np.arange(4), np.tile(BOX, (4, 1)), np.full(4, 0.9), np.ones(4))
    steadiness = Steadiness()
    steadiness.add(found, truth)
    result = steadiness.result()
    assert result["class changes"] == result["drop-outs"] == 0


def test_videos_add_up():
    one, both = Steadiness(), Steadiness()
    for number, steadiness in enumerate([one, both, both]):
        detections = VideoDetections([0, 1], [BOX, BOX + np.array([number, 0, number, 0])], [0.9, 0.9], [0, 0])
        steadiness.add(detections, Truth([0, 1, 2], [0, 1, 2], np.tile(BOX, (3, 1)), [0] * 3, [1] * 3, np.ones(3)))
    assert one.result()["drop-outs"] == both.result()["drop-outs"] == 1 / 2
    assert one.result()["centre jitter"] == 0
    assert both.result()["centre jitter"] == pytest.approx((0.01 + 0.02) / 2)
