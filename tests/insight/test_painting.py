"""Every frame has the same panels, of one size, and maps lie where the frame's pixels are."""

import numpy as np
import pytest
import torch
from test_observing import tiny, watched

from keywarp.insight.layout import GAP, LINE, Panel, arranged, picture_size
from keywarp.insight.options import KINDS
from keywarp.insight.painting import Painter, _View, kept, resized
from keywarp.structures import Detections, FrameResult, VideoFrame
from keywarp.transform import ImageTransform
from test_papers import clip


def painted(name, kinds=tuple(KINDS)):
    model, frames = tiny(name), clip(12)
    painter = Painter(model, kinds, height=64, width=96, threshold=0.0)
    return [
        painter.panels(VideoFrame(frames[result.index], result.index, result.index / 25), result, seen)
        for result, seen in watched(model, frames)
    ]


@pytest.mark.parametrize(
    ("name", "kinds", "count"),
    [
        ("rfcn", ["features", "keys"], 2),
        ("dff", ["features", "flow"], 4),
        ("fgfa", ["features", "flow", "weights"], 6),
        ("thp-c1", list(KINDS), 7),
        ("thp-c2", list(KINDS), 8),
        ("thp-c2", ["updates"], 3),
        ("psla-c", ["flow", "weights"], 3),
        ("iff-c", ["weights"], 2),
    ],
)
def test_every_frame_has_the_same_panels_of_one_size(name, kinds, count):
    sheets = painted(name, kinds)
    assert {len(panels) for panels in sheets} == {count}
    assert {panel.picture.shape for panels in sheets for panel in panels} == {(*picture_size(64, 96), 3)}
    assert {panel.picture.dtype for panels in sheets for panel in panels} == {np.dtype(np.uint8)}


def test_titles_name_the_frames_of_the_video():
    titles = [[panel.title for panel in panels] for panels in painted("thp-c2")]
    assert titles[0][:2] == ["frame 0, 0.00 s", "features of the reference"]
    assert titles[7][1:3] == ["features of frame 0", "... carried to frame 7"]
    assert titles[10][1] == "features of frame 0"
    assert titles[11][1] == "features of frame 10"
    assert titles[0][-2] == "computed anew: 100%"


def test_what_is_computed_anew_is_in_colour_and_the_rest_is_grey():
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    view = _View(image, ImageTransform(64, 96).place(64, 96), (64, 96))
    mask = np.zeros((4, 6))
    mask[1, 2] = 1
    colourful = np.ptp(view.marked(mask).astype(int), axis=-1) > 0
    assert colourful[16:32, 32:48].mean() > 0.9
    colourful[16:32, 32:48] = False
    assert not colourful.any()


@pytest.mark.parametrize(("height", "width"), [(40, 100), (100, 40), (64, 64), (7, 90)])
def test_the_inputs_padding_is_not_shown(height, width):
    """A map of where the input's rows and columns are must say of the panel's corners what the frame's corners are."""
    place = ImageTransform(size=(64, 64), letterbox=True).place(height, width)
    size = picture_size(height, width)
    y, x = np.meshgrid(np.arange(64.0), np.arange(64.0), indexing="ij")
    view = _View(np.zeros((height, width, 3), np.uint8), place, size)
    fitted = view.fitted(np.stack([y, x], axis=-1))
    assert fitted.shape == (*size, 2)
    assert np.allclose(fitted[0, 0], 0, atol=0.5)
    assert np.allclose(fitted[-1, -1], np.array(place.resized) - 1, atol=1)


def test_boxes_and_label_maps_follow_the_picture():
    image = np.zeros((40, 100, 3), np.uint8)
    boxes = Detections(torch.tensor([[10.0, 20, 50, 40]]), torch.ones(1), torch.zeros(1, dtype=torch.long))
    assert resized(FrameResult(0, 0, True, boxes), image, (80, 50)).boxes.tolist() == [[5, 40, 25, 80]]
    labels = np.repeat(np.arange(4, dtype=np.uint8)[None], 2, axis=0)
    halved = resized(FrameResult(0, 0, True, segmentation=labels), image, (4, 8)).segmentation
    assert np.array_equal(halved, np.repeat(np.repeat(labels, 2, axis=0), 2, axis=1))


def test_low_scores_are_left_out():
    found = Detections(torch.zeros(3, 4), torch.tensor([0.2, 0.5, 0.9]), torch.zeros(3, dtype=torch.long))
    assert kept(FrameResult(0, 0, True, found), 0.5).detections.scores.tolist() == pytest.approx([0.5, 0.9])


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (5, 2, 3), (8, 2, 4), (9, 3, 3)])
def test_rows_are_as_even_as_can_be(count, rows, columns):
    panels = [Panel("", np.full((20, 30, 3), n + 1, np.uint8)) for n in range(count)]
    sheet = arranged(panels)
    assert sheet.shape == (rows * (20 + LINE + GAP), columns * (30 + GAP) + GAP, 3)
    assert all((sheet == n + 1).sum() == 20 * 30 * 3 for n in range(count))
    assert arranged(panels, 900).shape[1] == 900
