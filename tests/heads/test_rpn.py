import pytest
import torch

from keywarp.heads.rpn import all_anchors, cell_anchors, flatten, propose, rpn_loss

BASE = cell_anchors((8, 16, 32), (0.5, 1, 2))


def test_published_anchors():
    # Published with inclusive corners; ours end one pixel later.
    published = [[-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199], [-56, -56, 71, 71]]
    assert (BASE[:4] - torch.tensor([0, 0, 1, 1])).tolist() == published
    assert len(BASE) == 9


def test_anchors_of_a_map_go_cell_by_cell():
    anchors = all_anchors(BASE, (2, 3)).view(2, 3, 9, 4)
    torch.testing.assert_close(anchors[1, 2] - BASE, torch.tensor([32.0, 16, 32, 16]).expand(9, 4))


def test_flatten_follows_the_anchors():
    scores, offsets = torch.randn(1, 18, 2, 3), torch.randn(1, 36, 2, 3)
    logits, deltas = flatten(scores, offsets)
    row = (1 * 3 + 2) * 9 + 4  # cell (1, 2), anchor 4
    assert logits[0, row].tolist() == [scores[0, 4, 1, 2], scores[0, 13, 1, 2]]
    assert torch.equal(deltas[0, row], offsets[0, 16:20, 1, 2])


def test_the_best_anchor_is_the_first_proposal():
    anchors = all_anchors(BASE, (38, 63))
    logits = torch.randn(len(anchors), 2) - torch.tensor([0.0, 20.0])
    logits[12345, 1] = 50
    boxes = propose(logits, torch.zeros(len(anchors), 4), anchors, (600, 1000))
    assert len(boxes) == 300
    expected = anchors[12345].clamp(min=0)
    expected = torch.minimum(expected, torch.tensor([1000.0, 600, 1000, 600]))
    assert torch.equal(boxes[0], expected)


def test_loss_wants_the_object_and_its_place():
    anchors = all_anchors(BASE, (38, 63))
    truth = anchors[[20 * 63 * 9 + 30 * 9 + 3]] + torch.tensor([2.0, -3, 2, -3])  # near a square anchor of 128 pixels
    logits = torch.zeros(len(anchors), 2, requires_grad=True)
    offsets = torch.zeros(len(anchors), 4, requires_grad=True)
    objectness, box = rpn_loss(logits, offsets, anchors, (600, 1000), truth)
    assert objectness.item() == pytest.approx(0.6931, abs=1e-3)
    objectness.backward()
    box.backward()
    touched = logits.grad.abs().sum(1) > 0
    assert touched.sum() == 256
    objects = logits.grad[:, 1] < 0
    best = 20 * 63 * 9 + 30 * 9 + 3
    assert objects[best]
    height, width = 600, 1000
    inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)
    assert inside[touched].all(), "anchors across the border do not take part"
    torch.testing.assert_close(offsets.grad[best].sign(), torch.tensor([-1.0, 1, 0, 0]))


@pytest.mark.parametrize("size", [(600, 1000), (40, 40)])
def test_images_without_objects_or_without_anchors_inside(size):
    anchors = all_anchors(BASE, (-(-size[0] // 16), -(-size[1] // 16)))
    logits = torch.zeros(len(anchors), 2, requires_grad=True)
    losses = rpn_loss(logits, torch.zeros(len(anchors), 4, requires_grad=True), anchors, size, torch.zeros(0, 4))
    assert all(torch.isfinite(loss) for loss in losses)
    sum(losses).backward()
    assert (logits.grad[:, 1] >= 0).all()
