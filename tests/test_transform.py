import numpy as np
import pytest
import torch

from keywarp.structures import Detections
from keywarp.transform import ImageTransform

PAPERS = ImageTransform(600, 1000)
LETTERBOX = ImageTransform(size=(416, 416), letterbox=True)
STRETCH = ImageTransform(size=(320, 320))


@pytest.mark.parametrize(
    ("transform", "size", "resized", "padded"),
    [
        (PAPERS, (720, 1280), (562, 1000), (562, 1000)),  # the longer side is the limit
        (PAPERS, (480, 640), (600, 800), (600, 800)),
        (PAPERS, (8000, 200), (1000, 25), (1000, 25)),
        (LETTERBOX, (720, 1280), (234, 416), (416, 416)),
        (LETTERBOX, (1, 1), (416, 416), (416, 416)),
        (STRETCH, (720, 1280), (320, 320), (320, 320)),
    ],
)
def test_sizes(transform, size, resized, padded):
    place = transform.place(*size)
    assert (place.resized, place.padded) == (resized, padded)
    assert transform(np.zeros((*size, 3), np.uint8)).shape == (3, *padded)


@pytest.mark.parametrize("transform", [PAPERS, LETTERBOX, STRETCH])
def test_boxes_come_back_to_the_frame(transform):
    place = transform.place(360, 640)
    x, y = place.scale
    boxes = torch.tensor([[10.0, 20, 300, 200], [600, 300, 700, 400]])
    inside = Detections(boxes * torch.tensor([x, y, x, y]), torch.ones(2), torch.zeros(2, dtype=torch.long))
    back = transform.restore(inside, place).boxes
    torch.testing.assert_close(back, torch.tensor([[10.0, 20, 300, 200], [600, 300, 640, 360]]))


def test_a_letterbox_is_filled_below_and_right():
    out = LETTERBOX(np.full((100, 200, 3), 7, np.uint8))
    assert (out[:, :208] == 7).all()
    assert (out[:, 208:] == 114).all()


def test_motion_is_scaled_and_padding_is_still():
    place = LETTERBOX.place(720, 1280)
    out = LETTERBOX.motion(np.full((90, 160, 2), 16, np.float32), place)
    assert place.cells == ((52, 52), (29, 52))
    np.testing.assert_allclose(out[:29], 16 * 416 / 1280)
    assert (out[29:] == 0).all()


def test_classes_come_back_to_the_frame():
    scores = torch.zeros(2, 52, 52)
    scores[1, :, :26] = 1
    classes = LETTERBOX.restore_classes(scores, LETTERBOX.place(720, 1280))
    assert classes.shape == (720, 1280)
    assert (classes[:, :600] == 1).all()
    assert (classes[:, 680:] == 0).all()
