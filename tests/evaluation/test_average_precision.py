import math

import numpy as np
import pytest
from random_videos import random_video

from keywarp.evaluation.average_precision import RANGES, AveragePrecision
from keywarp.evaluation.truth import Truth
from keywarp.structures import VideoDetections

A, B, FAR = [0.0, 0, 99, 99], [200.0, 0, 299, 99], [500.0, 500, 599, 599]
SMALL, NEAR_SMALL = [0.0, 0, 9, 9], [4.0, 0, 13, 9]  # 10 × 10 pixels; they share 60 of 140: IoU 0.43
SLOW, MEDIUM, FAST, UNKNOWN = 0.95, 0.8, 0.3, float("nan")
LIMITS = {"all": (-1, 2), "slow": (0.9, 1), "medium": (0.7, 0.9), "fast": (0, 0.7)}


def made(found, there, frames=1):
    """Detections of rows (frame, box, score[, label]), and the truth of rows (frame, box, motion[, label])."""
    columns = zip(*[(*row, 0)[:4] for row in found], strict=True) if found else ([], np.zeros((0, 4)), [], [])
    at, boxes, scores, labels = columns
    detections = VideoDetections(at, boxes, scores, labels)
    at, boxes, motion, labels = (
        zip(*[(*row, 0)[:4] for row in there], strict=True) if there else ([], np.zeros((0, 4)), [], [])
    )
    return detections, Truth(np.arange(frames), at, boxes, labels, np.full(len(at), -1), motion)


def measured(found, there, frames=1, classes=1, threshold="vid"):
    precision = AveragePrecision(classes, threshold=threshold)
    precision.add(*made(found, there, frames))
    return precision.result()


# AP = Σ over true detections, by falling score, of (best precision from there on) / objects.
@pytest.mark.parametrize(
    ("found", "there", "frames", "expected"),
    [
        ([(0, A, 0.9), (0, B, 0.8)], [(0, A, SLOW), (0, B, SLOW)], 1, 1),
        ([(0, A, 0.9), (0, FAR, 0.8), (0, B, 0.7)], [(0, A, SLOW), (0, B, SLOW)], 1, (1 + 2 / 3) / 2),
        ([(0, FAR, 0.9), (0, A, 0.8)], [(0, A, SLOW)], 1, 1 / 2),
        ([(0, A, 0.9), (0, A, 0.8)], [(0, A, SLOW)], 1, 1),  # the second takes nothing, and comes after full recall
        ([(0, A, 0.9), (0, A, 0.8), (0, B, 0.7)], [(0, A, SLOW), (0, B, SLOW)], 1, (1 + 2 / 3) / 2),
        ([(0, A, 0.9), (1, A, 0.8)], [(0, A, SLOW)], 2, 1),
        ([(1, A, 0.9), (0, A, 0.8)], [(0, A, SLOW)], 2, 1 / 2),
        ([(1, A, 0.8)], [(0, A, SLOW), (1, A, SLOW)], 2, 1 / 2),
        ([(7, A, 0.9), (0, A, 0.8)], [(0, A, SLOW)], 1, 1),  # frame 7 has no annotations
        ([(0, A, 0.9, 1), (0, A, 0.8)], [(0, A, SLOW)], 1, 1),  # another class
        ([(0, A, 0.5), (0, FAR, 0.5)], [(0, A, SLOW)], 1, 1),  # equal scores, in the order given
        ([(0, FAR, 0.5), (0, A, 0.5)], [(0, A, SLOW)], 1, 1 / 2),
        ([(0, [99.0, 0, 0, 99], 0.9), (0, A, 0.8)], [(0, A, SLOW)], 1, 1 / 2),  # negative width: just false
        ([], [(0, A, SLOW)], 1, 0),
    ],
)
def test_of_all_by_hand(found, there, frames, expected):
    result = measured(found, there, frames, classes=2)
    assert result.by_class["all"][0] == pytest.approx(expected)
    assert math.isnan(result.by_class["all"][1])
    assert result.mean["all"] == pytest.approx(expected)


# One object for each range, or two; columns: slow, medium, fast.
@pytest.mark.parametrize(
    ("found", "there", "frames", "expected"),
    [
        ([(0, A, 0.9)], [(0, A, SLOW)], 1, (1, None, None)),
        ([(0, A, 0.9)], [(0, A, 0.9)], 1, (1, 1, None)),  # a limit belongs to both
        ([(0, A, 0.9)], [(0, A, 0.7)], 1, (None, 1, 1)),
        ([(0, A, 0.9)], [(0, A, UNKNOWN)], 1, (None, None, None)),
        # the detection of an object outside does not count
        ([(0, A, 0.9), (0, B, 0.8)], [(0, A, SLOW), (0, B, FAST)], 1, (1, None, 1)),
        # a second one on A overlaps A most: false for slow, nothing for fast
        ([(0, A, 0.9), (0, A, 0.8), (0, B, 0.7)], [(0, A, SLOW), (0, B, FAST)], 1, (1, None, 1)),
        ([(0, B, 0.9), (0, B, 0.8), (0, A, 0.7)], [(0, A, SLOW), (0, B, FAST)], 1, (1, None, 1)),
        ([(0, A, 0.9), (0, A, 0.8), (0, B, 0.7)], [(0, A, SLOW), (0, B, SLOW)], 1, ((1 + 2 / 3) / 2, None, None)),
        # it overlaps neither: a tie, and of the frame's three objects two are outside slow, one is outside fast
        (
            [(0, FAR, 0.9), (0, A, 0.8), (0, B, 0.7), (0, SMALL, 0.6)],
            [(0, A, SLOW), (0, B, FAST), (0, [700.0, 0, 799, 99], FAST)],
            1,
            (1 / (1 + 2 / 3), None, 1 / (1 + 1 / 3) / 2),
        ),
        # objects of other classes are compared with too
        ([(0, B, 0.9), (0, A, 0.8)], [(0, A, SLOW), (0, B, FAST, 1)], 1, (1, None, None)),
        # no object in frame 1: of 2 objects and 1 empty frame one is slow, two are fast
        (
            [(1, A, 0.9), (0, A, 0.8), (0, B, 0.7)],
            [(0, A, SLOW), (0, B, FAST)],
            2,
            (1 / (1 + 1 / 3), None, 1 / (1 + 2 / 3)),
        ),
        # of an unknown speed: outside of all ranges
        ([(0, B, 0.9), (0, B, 0.8), (0, A, 0.7)], [(0, A, SLOW), (0, B, UNKNOWN)], 1, (1, None, None)),
        # negative width: does not count, though slow has all objects
        ([(0, [99.0, 0, 0, 99], 0.9), (0, A, 0.8)], [(0, A, SLOW)], 1, (1, None, None)),
        ([(1, [99.0, 0, 0, 99], 0.9), (0, A, 0.8)], [(0, A, SLOW)], 2, (1, None, None)),
    ],
)
def test_ranges_of_motion_by_hand(found, there, frames, expected):
    result = measured(found, there, frames, classes=2)
    for name, value in zip(RANGES[1:], expected, strict=True):
        assert result.by_class[name][0] == pytest.approx(float("nan") if value is None else value, nan_ok=True), name


def test_small_objects_ask_for_less():
    # 10 × 10 with slack 10: 100 / 400 = 0.25, below the 0.43 that there is.
    found, there = [(0, NEAR_SMALL, 0.9)], [(0, SMALL, SLOW)]
    assert measured(found, there).mean["all"] == 1
    assert measured(found, there, threshold=0.5).mean["all"] == 0
    # Without the "+ 1" the boxes are 9 × 9 and share 45 of 117.
    assert measured(found, there, threshold=45 / 117).mean["all"] == 1
    assert measured(found, there, threshold=45 / 117 + 1e-9).mean["all"] == 0


def test_one_pixel_boxes_have_an_area_only_with_both_edges_counted():
    dot = [3.0, 3, 3, 3]
    assert measured([(0, dot, 0.9)], [(0, dot, SLOW)]).mean["all"] == 1
    assert measured([(0, dot, 0.9)], [(0, dot, SLOW)], threshold=0.5).mean["all"] == 0


def test_each_takes_its_best_and_the_first_of_equals():
    # The first detection overlaps both objects and prefers B though it comes second; the other one finds A.
    middle = [30.0, 0, 129, 99]
    beside = [40.0, 0, 139, 99]
    assert measured([(0, middle, 0.9), (0, A, 0.8)], [(0, A, SLOW), (0, beside, SLOW)]).mean["all"] == 1
    # Greedy, not optimal: what only the second could take is taken.
    result = measured([(0, middle, 0.9), (0, beside, 0.8)], [(0, beside, SLOW)])
    assert result.hits[0].tolist() == [True, False]


def test_without_anything_there_is_no_precision():
    result = AveragePrecision(3).result()
    assert np.isnan([*result.mean.values()]).all()
    assert result.curve(1)[0].size == 0
    assert math.isnan(measured([(0, A, 0.9)], []).mean["all"])
    assert np.isnan(measured([(0, A, 0.9)], []).curve(0)[0]).all()


def test_curve():
    result = measured([(0, A, 0.9), (0, FAR, 0.8), (0, B, 0.7)], [(0, A, SLOW), (0, B, SLOW)])
    recall, precision = result.curve(0)
    assert recall.tolist() == [0.5, 0.5, 1]
    assert precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])


def test_what_is_no_class_or_no_threshold_is_refused():
    with pytest.raises(ValueError, match="labels of detections must be below 1, got 2"):
        measured([(0, A, 0.9, 2)], [])
    with pytest.raises(ValueError, match="labels of truth must be below 1, got 4"):
        measured([], [(0, A, SLOW, 4)])
    for wrong in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="threshold must be 'vid' or an IoU"):
            AveragePrecision(1, threshold=wrong)


def plain_iou(a, b, edge):
    w = min(a[2], b[2]) - max(a[0], b[0]) + edge
    h = min(a[3], b[3]) - max(a[1], b[1]) + edge
    if w <= 0 or h <= 0:
        return 0.0
    areas = [(box[2] - box[0] + edge) * (box[3] - box[1] + edge) for box in (a, b)]
    return w * h / (sum(areas) - w * h)


def plain_ap(videos, label, threshold, name):
    """The definition, typed out: one detection after the other, over all videos, for one class and range."""
    low, high = LIMITS[name]
    edge = 1.0 if threshold == "vid" else 0.0
    inside, ranked, entries = [], [], []
    for number, (detections, truth) in enumerate(videos):
        inside.append([name == "all" or low <= m <= high for m in truth.motion])
        empty = sum(f not in truth.frames for f in truth.labelled)
        entries += [*inside[-1], *[low <= 0 <= high] * empty]
        for row in range(len(detections)):
            if detections.labels[row] == label and detections.frames[row] in truth.labelled:
                ranked.append((number, row))
    ranked.sort(key=lambda r: -videos[r[0]][0].scores[r[1]])
    objects = sum(inside[v][g] for v, (_, t) in enumerate(videos) for g in range(len(t)) if t.labels[g] == label)
    if not objects:
        return float("nan")
    taken, true, false, points = set(), 0.0, 0.0, []
    for number, row in ranked:
        detections, truth = videos[number]
        box = detections.boxes[row].astype(float)
        there = [g for g in range(len(truth)) if truth.frames[g] == detections.frames[row]]
        overlap = {g: plain_iou(box, truth.boxes[g].astype(float), edge) for g in there}
        best = None
        for g in there:
            x1, y1, x2, y2 = truth.boxes[g].astype(float)
            w, h = x2 - x1 + 1, y2 - y1 + 1
            needed = min(0.5, w * h / ((w + 10) * (h + 10))) if threshold == "vid" else threshold
            fits = truth.labels[g] == label and (number, g) not in taken and overlap[g] >= needed
            if fits and (best is None or overlap[g] > overlap[best]):
                best = g
        if best is not None:
            taken.add((number, best))
            true += inside[number][best]
        elif name == "all":
            false += 1
        elif (box[2] - box[0] + edge) * (box[3] - box[1] + edge) < 0:
            pass
        elif not there:
            false += sum(entries) / len(entries)
        else:
            within = max([overlap[g] for g in there if inside[number][g]], default=-1)
            outside = max([overlap[g] for g in there if not inside[number][g]], default=-1)
            if within > outside:
                false += 1
            elif within == outside:
                false += sum(not inside[number][g] for g in there) / len(there)
        points.append((true / objects, true / max(true + false, 1e-12)))
    area, before = 0.0, 0.0
    for i, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[i:])
        before = recall
    return area


@pytest.mark.parametrize("threshold", ["vid", 0.5])
def test_equals_the_definition_typed_out(threshold):
    informative = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        videos = [random_video(rng) for _ in range(2)]
        precision = AveragePrecision(2, threshold=threshold)
        for video in videos:
            precision.add(*video)
        result = precision.result()
        for name in RANGES:
            expected = [plain_ap(videos, label, threshold, name) for label in range(2)]
            assert result.by_class[name].tolist() == pytest.approx(expected, abs=1e-6, nan_ok=True), (seed, name)
            informative += sum(0 < value < 1 for value in expected)
            known = [value for value in expected if not math.isnan(value)]
            assert result.mean[name] == pytest.approx(np.mean(known) if known else np.nan, abs=1e-6, nan_ok=True)
    assert informative > 300


def test_spans_of_few_pairs_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    videos = [random_video(rng, frames=20) for _ in range(3)]
    results = []
    for at_once in (100_000, 1):
        monkeypatch.setattr("keywarp.evaluation.matching.AT_ONCE", at_once)
        precision = AveragePrecision(2)
        for video in videos:
            precision.add(*video)
        results.append(precision.result())
    for name in RANGES:
        np.testing.assert_array_equal(results[0].by_class[name], results[1].by_class[name])
    assert results[0].mean["all"] > 0


def test_more_videos_after_a_result():
    rng = np.random.default_rng(4)
    videos = [random_video(rng) for _ in range(4)]
    once, twice = AveragePrecision(2), AveragePrecision(2)
    for video in videos:
        once.add(*video)
        twice.add(*video)
        twice.result()
    assert once.result().mean == pytest.approx(twice.result().mean)
