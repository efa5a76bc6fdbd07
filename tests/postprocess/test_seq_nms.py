"""Seq-NMS and Seq-NMS+ beside plain loops that search everything anew after every path, and what holds for both."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from keywarp.errors import UserError
from keywarp.postprocess import POSTPROCESSES, apply, seq_nms, seq_nms_plus
from keywarp.structures import VideoDetections

BOTH = [seq_nms, seq_nms_plus]


def tubes(seed):
    """A few objects on a coarse grid, boxes around them, scores of few values: ties of overlaps, scores and sums."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(rng.integers(1, 4)):
        label, x, y = rng.integers(0, 2), *rng.integers(0, 12, 2)
        for frame in range(rng.integers(0, 3), rng.integers(3, 8)):
            for _ in range(rng.integers(0, 4)):
                dx, dy = rng.integers(-1, 3, 2)
                box = [x + dx, y + dy, x + dx + rng.integers(0, 6), y + dy + 4]
                rows.append((frame, box, rng.choice([0, 0.001, 0.005, 0.1, 0.25, 0.5, 0.7, 1]), label))
            x, y = x + rng.integers(0, 2), y + rng.integers(0, 2)
    rng.shuffle(rows)
    frames, boxes, scores, labels = zip(*rows, strict=True) if rows else ((), np.zeros((0, 4)), (), ())
    return VideoDetections(frames, boxes, scores, labels)


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / both if shared else 0.0


def best_path(frames, boxes, scores, alive, link_iou):
    """The rows and the sum of the best path among the live boxes of one class; and whether there is any link."""
    sums, came_from = {}, {}
    for i in alive:
        before = [j for j in alive if frames[j] == frames[i] - 1 and iou(boxes[i], boxes[j]) >= link_iou]
        came_from[i] = max(before, key=lambda j: sums[j]) if before else None  # max gives the first of equals
        sums[i] = scores[i] + (sums[came_from[i]] if before else 0.0)
    end = max(alive, key=lambda i: sums[i])
    path = [end]
    while came_from[path[0]] is not None:
        path.insert(0, came_from[path[0]])
    return path, sums[end], any(j is not None for j in came_from.values())


def frame_nms(frames, boxes, scores, labels, rows, nms_iou):
    kept = []
    for i in sorted(rows, key=lambda i: -scores[i]):
        if all(frames[i] != frames[j] or labels[i] != labels[j] or iou(boxes[i], boxes[j]) <= nms_iou for j in kept):
            kept.append(i)
    return sorted(kept)


def plain(detections, plus, rescore, link_iou=0.5, nms_iou=0.3, smallest_sum=1e-2):
    """(rows kept, their scores, for each the rows of its path)."""
    frames, labels = detections.frames.tolist(), detections.labels.tolist()
    boxes, scores = detections.boxes.astype(float).tolist(), detections.scores.astype(float).tolist()
    rows = list(range(len(frames)))
    if plus:
        rows = frame_nms(frames, boxes, scores, labels, rows, nms_iou)
    new, path_of, kept = list(scores), {i: (i,) for i in rows}, []
    for label in sorted(set(labels)):
        alive = [i for i in rows if labels[i] == label]
        while alive:
            path, total, linked = best_path(frames, boxes, scores, alive, link_iou)
            if not linked or total < smallest_sum:
                break
            mean, top = total / len(path), max(scores[i] for i in path)
            for i in path:
                new[i] = 0.5 * mean + 0.5 * top if plus else {"mean": mean, "max": top}[rescore]
                path_of[i] = tuple(path)
                alive.remove(i)
                if not plus:
                    alive = [j for j in alive if frames[j] != frames[i] or iou(boxes[i], boxes[j]) < nms_iou]
            kept += path
        kept += alive
    kept = frame_nms(frames, boxes, np.float32(new).tolist(), labels, sorted(kept), nms_iou)
    return kept, [new[i] for i in kept], [path_of[i] for i in kept]


def assert_same(found, detections, expected):
    kept, scores, path_of = expected
    want = replace(detections[np.array(kept, int)], scores=scores)
    numbers = {}
    want = replace(want, tracks=[numbers.setdefault(path, len(numbers)) for path in path_of])
    for name in ("frames", "boxes", "scores", "labels", "tracks"):
        np.testing.assert_array_equal(getattr(found, name), getattr(want, name), name)


@pytest.mark.parametrize("rescore", ["mean", "max"])
def test_seq_nms_is_the_plain_loop(rescore):
    for seed in range(500):
        detections = tubes(seed)
        assert_same(seq_nms(detections, rescore=rescore), detections, plain(detections, False, rescore))


def test_seq_nms_plus_is_the_plain_loop():
    for seed in range(500):
        detections = tubes(seed)
        assert_same(seq_nms_plus(detections), detections, plain(detections, True, ""))


def test_the_options_reach_the_loops():
    options = {"link_iou": 0.4, "nms_iou": 0.6, "smallest_sum": 0.6}
    changed = 0
    for seed in range(60):
        detections = tubes(seed)
        assert_same(seq_nms(detections, **options), detections, plain(detections, False, "mean", **options))
        assert_same(seq_nms_plus(detections, **options), detections, plain(detections, True, "", **options))
        changed += len(seq_nms(detections, **options)) != len(seq_nms(detections))
    assert changed


@pytest.mark.parametrize("postprocess", BOTH)
def test_larger_videos_with_many_paths_too(postprocess):
    parts = [tubes(seed) for seed in range(12)]
    joined = VideoDetections(
        np.concatenate([p.frames + 2 * i for i, p in enumerate(parts)]),
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("boxes", "scores", "labels")),
    )
    assert_same(postprocess(joined), joined, plain(joined, postprocess is seq_nms_plus, "mean"))


def test_many_links_for_each_box():
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 5, (60, 2))
    crowd = VideoDetections(
        np.repeat(np.arange(4), 15), np.concatenate([corner, corner + 40], axis=1), rng.random(60), [0] * 60
    )
    assert_same(seq_nms(crowd), crowd, plain(crowd, False, "mean"))
    # Suppressed by nothing, they stay a crowd: 15 paths through all frames.
    options = {"nms_iou": 1.0, "link_iou": 0.5}
    assert_same(seq_nms_plus(crowd, **options), crowd, plain(crowd, True, "", **options))
    assert np.bincount(seq_nms_plus(crowd, **options).tracks).tolist() == [4] * 15


@pytest.mark.parametrize("postprocess", BOTH)
def test_a_lone_tube_keeps_its_boxes_and_gets_one_score(postprocess):
    scores = np.float32([0.9, 0.2, 0.4, 0.5])
    tube = VideoDetections(range(4), [[t, 0, t + 20, 20] for t in range(4)], scores, [3] * 4)
    found = postprocess(tube)
    np.testing.assert_array_equal(found.boxes, tube.boxes)
    expected = scores.mean() if postprocess is seq_nms else (scores.mean() + scores.max()) / 2
    np.testing.assert_allclose(found.scores, [expected] * 4, rtol=1e-6)
    assert found.tracks.tolist() == [0] * 4


@pytest.mark.parametrize("postprocess", BOTH)
def test_a_frame_without_boxes_and_another_class_break_a_tube(postprocess):
    box = [0, 0, 20, 20]
    gap = VideoDetections([0, 1, 3, 4], [box] * 4, [0.2, 0.4, 0.6, 0.8], [0] * 4)
    assert postprocess(gap).tracks.tolist() == [0, 0, 1, 1]
    classes = VideoDetections([0, 1, 2, 3], [box] * 4, [0.2, 0.4, 0.6, 0.8], [0, 0, 1, 1])
    assert postprocess(classes).tracks.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("postprocess", BOTH)
def test_classes_do_not_know_of_each_other(postprocess):
    for seed in range(20):
        detections = tubes(seed)
        found = postprocess(detections)
        for label in (0, 1):
            alone = postprocess(detections[detections.labels == label])
            together = found[found.labels == label]
            np.testing.assert_array_equal(alone.boxes, together.boxes)
            np.testing.assert_array_equal(alone.scores, together.scores)


@pytest.mark.parametrize("postprocess", BOTH)
def test_no_boxes_and_one_box(postprocess):
    empty = VideoDetections([], np.zeros((0, 4)), [], [])
    assert len(postprocess(empty)) == 0
    assert postprocess(VideoDetections.of([])).tracks.tolist() == []
    one = VideoDetections([7], [[0, 0, 1, 1]], [0.25], [2])
    found = postprocess(one)
    assert (found.frames[0], found.scores[0], found.labels[0], found.tracks[0]) == (7, 0.25, 2, 0)


def test_suppression_is_along_the_paths_or_before_them():
    # A neighbour that overlaps by 0.45 with a higher score in one frame: Seq-NMS follows the longer path, and the
    # neighbour goes; Seq-NMS+ lets the neighbour suppress the tube's own box there first.
    boxes = [[0, 0, 100, 100]] * 3 + [[38, 0, 138, 100]]
    detections = VideoDetections([0, 1, 2, 1], boxes, [0.5, 0.5, 0.5, 0.8], [0] * 4)
    assert seq_nms(detections).tracks.tolist() == [0, 0, 0]
    assert seq_nms_plus(detections).frames.tolist() == [0, 1, 2]
    assert len(set(seq_nms_plus(detections).tracks.tolist())) == 3


def test_by_name():
    detections = tubes(3)
    assert apply("none", detections) is detections
    for name, function in {"seq-nms": seq_nms, "seq-nms+": seq_nms_plus}.items():
        assert POSTPROCESSES[name] is function
        np.testing.assert_array_equal(apply(name, detections).scores, function(detections).scores)
    with pytest.raises(UserError, match=r"did you mean seq-nms\?"):
        apply("seqnms", detections)


def test_what_cannot_be_linked_is_an_error():
    negative = VideoDetections([0], [[0, 0, 1, 1]], [-0.5], [0])
    with pytest.raises(UserError, match="scores must be at least 0"):
        seq_nms(negative)
    with pytest.raises(UserError, match="link_iou must be above 0 and at most 1, got 0"):
        seq_nms_plus(tubes(0), link_iou=0)
    with pytest.raises(UserError, match="did you mean mean"):
        seq_nms(tubes(0), rescore="meen")


def test_without_numba_the_error_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "keywarp.postprocess.kernels", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delattr("keywarp.postprocess.kernels", raising=False)
    with pytest.raises(UserError, match=r"pip install 'keywarp\[postprocess\]'"):
        seq_nms(tubes(0))


def test_a_place_for_compiled_code_is_not_needed(monkeypatch):
    from keywarp.postprocess import kernels

    compile_with = kernels.numba.njit

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("no locator available")
        return compile_with(**options)

    monkeypatch.setattr(kernels.numba, "njit", njit)
    assert kernels.compiled(lambda a: a + 1)(2) == 3
