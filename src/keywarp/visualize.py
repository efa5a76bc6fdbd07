"""Results drawn on frames.

Legend: (H, W) pixels · M boxes
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import supervision as sv

from keywarp.structures import FrameResult

_COLORS = sv.ColorPalette.DEFAULT.colors


def _swapped(colors: list[sv.Color]) -> sv.ColorPalette:
    """supervision takes images to be BGR; here they are RGB, so red and blue change places."""
    return sv.ColorPalette([sv.Color(c.b, c.g, c.r) for c in colors])


_FILL = _swapped(_COLORS)
_LETTERS = sv.ColorPalette(
    [sv.Color.BLACK if 0.3 * c.r + 0.6 * c.g + 0.1 * c.b > 140 else sv.Color.WHITE for c in _COLORS]
)
_KEY = _swapped([sv.Color(255, 200, 0)]).by_idx(0)

SPREAD = 50
"""So many labels are moved apart, in 13 ms; of 300, which takes a second, none could be read anyhow."""

PALETTE = np.array([sv.ColorPalette.DEFAULT.by_idx(i).as_rgb() for i in range(256)], np.uint8)
"""`[256, 3]`, the RGB colour of each class."""


def draw(image: np.ndarray, result: FrameResult) -> np.ndarray:
    """A copy of `image` `[H, W, 3]` uint8 RGB with the result drawn on it; a key frame bears the tag KEY.

    Boxes with class and score, or the segmentation as a coloured overlay.
    """
    if result.segmentation is not None:
        drawn = cv2.addWeighted(image, 0.5, PALETTE[result.segmentation], 0.5, 0)
    else:
        drawn = _boxes(np.ascontiguousarray(image).copy(), result)
    return _key_tag(drawn) if result.is_key else drawn


def draw_truth(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """A copy of `image` with boxes `[M, 4]` in white with a dark edge: what is there, under what was found."""
    drawn = np.ascontiguousarray(image).copy()
    width = sv.calculate_optimal_line_thickness((image.shape[1], image.shape[0])) + 1
    for x1, y1, x2, y2 in boxes.round().astype(int).tolist():
        cv2.rectangle(drawn, (x1, y1), (x2, y2), (0, 0, 0), width + 2)
        cv2.rectangle(drawn, (x1, y1), (x2, y2), (255, 255, 255), width)
    return drawn


def _boxes(image: np.ndarray, result: FrameResult) -> np.ndarray:
    detections = result.to_supervision()
    names = detections.data["class_name"] if result.classes else detections.class_id
    labels = [f"{name} {score:.2f}" for name, score in zip(names, detections.confidence, strict=True)]
    boxes, tags = _annotators(image.shape[1], image.shape[0], len(labels) <= SPREAD)
    return tags.annotate(boxes.annotate(image, detections), detections, labels=labels)


@cache
def _annotators(width: int, height: int, spread: bool) -> tuple[sv.BoxAnnotator, sv.LabelAnnotator]:
    """Lines and letters to suit the frame's size. spread: move labels inside the picture, and apart."""
    thickness = sv.calculate_optimal_line_thickness((width, height))
    scale = _text_scale(width, height)
    return (
        sv.BoxAnnotator(_FILL, thickness=thickness),
        sv.LabelAnnotator(
            _FILL,
            text_color=_LETTERS,
            text_scale=scale,
            text_thickness=max(1, thickness // 2),
            text_padding=4,
            smart_position=spread,
        ),
    )


def _key_tag(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    scale = _text_scale(width, height)
    (wide, high), base = cv2.getTextSize("KEY", cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    anchor = sv.Point(wide / 2 + 4, (high + base) / 2 + 2)
    return sv.draw_text(image, "KEY", anchor, sv.Color.BLACK, scale, 1, 4, background_color=_KEY)


def _text_scale(width: int, height: int) -> float:
    """supervision's choice, but letters that can still be read on a small frame."""
    return max(sv.calculate_optimal_text_scale((width, height)), 0.4)
