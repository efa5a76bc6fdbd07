import pytest
import torch

from keywarp.heads.boxes import decode, encode


@pytest.mark.parametrize("stds", [(1, 1, 1, 1), (0.1, 0.1, 0.4, 0.4)])
def test_decode_is_the_inverse_of_encode(stds):
    corners = torch.rand(2, 50, 2) * 300
    boxes, anchors = (torch.cat([c, c + 5 + torch.rand(50, 2) * 100], dim=1) for c in corners)
    torch.testing.assert_close(decode(encode(boxes, anchors, stds), anchors, stds), boxes, atol=1e-3, rtol=0)


def test_by_hand():
    anchor, box = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 0, 15, 40]])
    offsets = encode(box, anchor, (0.1, 0.1, 0.2, 0.2))
    torch.testing.assert_close(offsets, torch.tensor([[5.0, 5.0, 0.0, 3.4657359]]))


def test_wild_predictions_stay_finite():
    boxes = decode(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0, 10, 10]]), (1, 1, 1, 1))
    assert torch.isfinite(boxes).all()
