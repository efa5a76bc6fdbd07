import pytest
import torch
import torchvision

from keywarp.ops.nms import multiclass_nms, nms, suppress_frames
from keywarp.structures import VideoDetections


def boxes_and_scores(count, spread=200.0, ties=False):
    corners = torch.rand(count, 2) * spread
    boxes = torch.cat([corners, corners + 1 + torch.rand(count, 2) * 60], dim=1)
    scores = torch.rand(count)
    return boxes, (scores * 10).round() / 10 if ties else scores


@pytest.mark.parametrize("count", [0, 1, 10, 1024, 1025, 5000])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("keep", [1, 300])
def test_first_survivors_are_torchvisions(count, threshold, keep):
    boxes, scores = boxes_and_scores(count)
    assert torch.equal(nms(boxes, scores, threshold, keep), torchvision.ops.nms(boxes, scores, threshold)[:keep])


def test_survivors_are_sought_in_later_blocks():
    clump = torch.tensor([[0.0, 0, 10, 10]]).repeat(3000, 1)
    others = torch.arange(5)[:, None] * 20 + torch.tensor([[100.0, 0, 110, 10]])
    boxes = torch.cat([clump, others])
    scores = torch.linspace(1, 0, len(boxes))
    assert nms(boxes, scores, 0.7, 300).tolist() == [0, *range(3000, 3005)]


@pytest.mark.parametrize("count", [0, 1, 60, 300])
@pytest.mark.parametrize("score_threshold", [-1.0, 0.5])
def test_every_class_is_suppressed_as_if_alone(count, score_threshold):
    boxes, _ = boxes_and_scores(count)
    scores = torch.rand(count, 7)
    position, label, score = multiclass_nms(
        boxes, scores, score_threshold=score_threshold, nms_threshold=0.3, keep=10_000
    )
    assert torch.equal(score, scores[position, label])
    assert (score.diff() <= 0).all()
    for c in range(7):
        candidates = (scores[:, c] > score_threshold).nonzero()[:, 0]
        kept = candidates[torchvision.ops.nms(boxes[candidates], scores[candidates, c], 0.3)]
        assert torch.equal(position[label == c], kept)


def test_the_best_are_kept():
    boxes, _ = boxes_and_scores(100)
    scores = torch.rand(100, 3)
    settings = {"score_threshold": 0.0, "nms_threshold": 0.5}
    everything = multiclass_nms(boxes, scores, keep=10_000, **settings)
    few = multiclass_nms(boxes, scores, keep=5, **settings)
    for short, long in zip(few, everything, strict=True):
        assert torch.equal(short, long[:5])


def test_nothing_overlaps_by_more_than_whole():
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(3, 1)
    scores = torch.tensor([[0.2, 0.9], [0.8, 0.1], [0.3, 0.4]])
    position, label, score = multiclass_nms(boxes, scores, score_threshold=0.1, nms_threshold=1.0, keep=4)
    assert score.tolist() == pytest.approx([0.9, 0.8, 0.4, 0.3])
    assert position.tolist() == [0, 1, 2, 2]
    assert label.tolist() == [1, 0, 1, 0]


def test_equal_boxes_and_scores_leave_one():
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(4, 1)
    position, label, _ = multiclass_nms(
        boxes, torch.full((4, 2), 0.5), score_threshold=0.0, nms_threshold=0.3, keep=100
    )
    assert position.tolist() == [0, 0]
    assert sorted(label.tolist()) == [0, 1]


def test_suppressing_within_each_frame_and_class():
    box, near, far = [0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]
    found = VideoDetections(
        frames=[0, 0, 0, 2, 2, 2],
        boxes=[box, near, near, near, far, box],
        scores=[0.5, 0.9, 0.4, 0.2, 0.3, 0.1],
        labels=[0, 0, 1, 0, 0, 0],
    )
    kept = suppress_frames(found, threshold=0.5, keep=5)
    assert kept.frames.tolist() == [0, 0, 2, 2]
    assert kept.scores.tolist() == pytest.approx([0.9, 0.4, 0.3, 0.2])
    assert suppress_frames(found, threshold=1.0, keep=1).scores.tolist() == pytest.approx([0.9, 0.3])
    assert len(suppress_frames(found[:0], threshold=0.5, keep=5)) == 0
