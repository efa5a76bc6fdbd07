import contextlib
import io
import sys

import numpy as np
import pytest
from random_videos import random_video

from keywarp.errors import UserError
from keywarp.evaluation.coco import MEASURES, CocoAP
from keywarp.evaluation.truth import Truth
from keywarp.structures import VideoDetections

NOTHING = VideoDetections([], np.zeros((0, 4)), [], [])


def pycocotools_ap(videos, classes):
    """The same figures from pycocotools."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    images, objects, found = [], [], []
    for detections, truth in videos:
        number = {int(f): len(images) + i for i, f in enumerate(truth.labelled)}
        images += [{"id": n} for n in number.values()]
        for f, (x1, y1, x2, y2), label in zip(truth.frames, truth.boxes.tolist(), truth.labels, strict=True):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            objects.append({"id": len(objects) + 1, "image_id": number[f], "category_id": int(label) + 1, **box})
        for f, (x1, y1, x2, y2), score, label in zip(
            detections.frames, detections.boxes.tolist(), detections.scores, detections.labels, strict=True
        ):
            if f in number:
                found.append([number[f], x1, y1, x2 - x1, y2 - y1, float(score), int(label) + 1])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": images,
            "annotations": objects,
            "categories": [{"id": c + 1, "name": str(c)} for c in range(classes)],
        }
        truth.createIndex()
        judged = evaluation.COCOeval(truth, truth.loadRes(np.array(found).reshape(-1, 7)), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return [value if value >= 0 else float("nan") for value in judged.stats[:6]]


def spread(detections, truth, factor):
    """The same with all boxes larger, so that objects of all of COCO's sizes occur."""
    return (
        VideoDetections(detections.frames, detections.boxes * factor, detections.scores, detections.labels),
        Truth(truth.labelled, truth.frames, truth.boxes * factor, truth.labels, truth.tracks, truth.motion),
    )


@pytest.mark.parametrize("seed", range(5))
def test_equals_pycocotools(seed):
    rng = np.random.default_rng(seed)
    # Classes 2 and 3 have neither objects nor detections, or only one of both.
    videos = [spread(*random_video(rng, classes=3), factor) for factor in (0.5, 1, 3) for _ in range(4)]
    videos[0] = (NOTHING, videos[0][1])
    videos[1] = (videos[1][0], Truth(videos[1][1].labelled, [], np.zeros((0, 4)), [], [], []))
    precision = CocoAP(4)
    for video in videos:
        precision.add(*video)
    expected = pycocotools_ap(videos, 4)
    assert list(precision.result().values()) == pytest.approx(expected, nan_ok=True, abs=1e-12)
    assert 0 < expected[0] < expected[1] < 1


def test_more_than_a_hundred_boxes_of_a_class_in_a_frame():
    truth = Truth([0], [0], [[0, 0, 50, 50]], [0], [-1], [1])
    away = np.tile([[200.0, 200, 250, 250]], (100, 1))
    found = VideoDetections(
        np.zeros(101), np.concatenate([away, [[0, 0, 50, 50]]]), np.r_[np.full(100, 0.9), 0.1], np.zeros(101)
    )
    precision = CocoAP(1)
    precision.add(found, truth)
    assert precision.result()["AP"] == 0
    assert pycocotools_ap([(found, truth)], 1)[0] == 0


def test_of_nothing_and_of_more_after_a_result():
    precision = CocoAP(2)
    assert list(precision.result()) == list(MEASURES)
    assert np.isnan(list(precision.result().values())).all()
    box = [[0, 0, 50, 50]]
    precision.add(VideoDetections([3], box, [0.9], [1]), Truth([3], [3], box, [1], [-1], [1]))
    assert precision.result() == pytest.approx(
        {"AP": 1, "AP50": 1, "AP75": 1, "small": float("nan"), "medium": 1, "large": float("nan")}, nan_ok=True
    )
    precision.add(NOTHING, Truth([0], [0], box, [1], [-1], [1]))
    assert precision.result()["AP"] == pytest.approx(0.505, abs=1e-3)  # 51 of 101 recalls


def test_without_hotcoco_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(UserError, match=r"pip install 'keywarp\[evaluate\]'"):
        CocoAP(1)
