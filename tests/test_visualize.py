import numpy as np
import pytest
import torch

from keywarp.structures import Detections, FrameResult
from keywarp.visualize import PALETTE, draw

GREY = np.full((120, 160, 3), 128, np.uint8)
BOX = (60, 40, 120, 100)


def result(key=False, boxes=(BOX,), labels=None):
    labels = torch.tensor(labels if labels is not None else [0] * len(boxes))
    detections = Detections(torch.tensor(boxes).float().reshape(-1, 4), torch.full((len(boxes),), 0.9), labels.long())
    return FrameResult(0, 0.0, key, detections, classes=("person", "car"))


def test_a_box_changes_its_border_and_not_its_inside():
    drawn = draw(GREY, result())
    changed = (drawn != GREY).any(-1)
    assert changed[40:100, 60].all()
    assert changed[100, 60:120].all()
    assert not changed[55:90, 65:115].any()
    assert not changed[105:, :].any()
    assert not changed[:, :55].any()


def test_the_image_itself_is_left_alone():
    image = GREY.copy()
    draw(image, result(key=True))
    assert (image == GREY).all()


def test_colours_are_rgb_as_in_the_palette():
    drawn = draw(GREY, result(labels=[1]))
    assert (drawn[70, 60] == PALETTE[1]).all()


def test_only_key_frames_bear_the_tag():
    plain, key = draw(GREY, result()), draw(GREY, result(key=True))
    corner = (slice(0, 12), slice(0, 20))
    assert (plain[corner] == GREY[corner]).all()
    assert (key[2, 2] == (255, 200, 0)).all()


def test_no_boxes_no_change():
    assert (draw(GREY, result(boxes=())) == GREY).all()


def test_boxes_at_the_edge_and_without_area():
    drawn = draw(GREY, result(boxes=((0, 0, 160, 120), (30, 30, 30, 30))))
    assert drawn.shape == GREY.shape


def test_segmentation_is_an_overlay_in_the_palettes_colours():
    labels = np.zeros((120, 160), np.uint8)
    labels[:, 80:] = 3
    drawn = draw(GREY, FrameResult(0, 0.0, False, segmentation=labels))
    np.testing.assert_allclose(drawn[5, 100].astype(float), (128 + PALETTE[3].astype(float)) / 2, atol=1)
    np.testing.assert_allclose(drawn[5, 10].astype(float), (128 + PALETTE[0].astype(float)) / 2, atol=1)


def test_many_labels_are_drawn_in_bounded_time():
    """As supervision moves labels apart, 300 took a second."""
    image = np.zeros((480, 640, 3), np.uint8)
    corners = torch.rand(600, 2) * 400
    found = Detections(torch.cat([corners, corners + 60], 1), torch.rand(600), torch.zeros(600, dtype=torch.long))
    result = FrameResult(0, 0.0, False, found, classes=("person",))
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("supervision.annotators.core.spread_out_boxes", lambda *given: calls.append(given))
        assert draw(image, result).any()
    assert not calls
