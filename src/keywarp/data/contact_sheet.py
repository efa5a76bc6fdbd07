"""A contact sheet: labelled frames of a data set with what their annotations say, on one picture.

Legend: (H, W) pixels · M objects
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from keywarp.data.datasets import Annotation, UnreadableFrameError, VideoDataset
from keywarp.files import write_atomically

TILES = 40
COLUMNS = 5
TILE = (216, 320)
"""(H, W) of a frame on the sheet, with its caption."""

CAPTION = 18
_LETTERS = cv2.FONT_HERSHEY_SIMPLEX


def write_contact_sheet(datasets: Sequence[VideoDataset], path: Path) -> int:
    """Write up to 40 labelled frames of these data sets as a PNG; how many. With none of them, nothing is written."""
    tiles = [tile for dataset in datasets for tile in _tiles(dataset, max(1, TILES // len(datasets)))]
    if not tiles:
        return 0
    columns = min(COLUMNS, len(tiles))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[at : at + columns]) for at in range(0, len(tiles), columns)]
    sheet = io.BytesIO()
    Image.fromarray(np.vstack(rows)).save(sheet, "PNG")
    write_atomically(path, sheet.getvalue())
    return len(tiles)


def spread(total: int, count: int) -> list[int]:
    """So many of the positions 0 … total − 1 at most, evenly spread, the middle one for one."""
    return sorted({(2 * i + 1) * total // (2 * count) for i in range(count)}) if total else []


def _tiles(dataset: VideoDataset, count: int) -> list[np.ndarray]:
    """Frames spread over the videos and, where these are few, over the frames of each."""
    chosen = spread(len(dataset.videos), count)
    tiles = []
    for turn, at in enumerate(chosen):
        video = dataset.videos[at]
        share = (turn + 1) * count // len(chosen) - turn * count // len(chosen)
        for index in (video.labelled[position] for position in spread(len(video.labelled), share)):
            try:
                (image,), annotation = video.frames.read([index]), video.annotation(index)
            except UnreadableFrameError:
                continue  # the check has told
            tiles.append(_tile(image, annotation, dataset, f"{video.name} {index}"))
    return tiles


def _tile(image: np.ndarray, annotation: Annotation, dataset: VideoDataset, caption: str) -> np.ndarray:
    """`[H, W, 3]` of a tile: the frame, as large as fits, above its caption."""
    height, width = TILE[0] - CAPTION, TILE[1]
    scale = min(height / image.shape[0], width / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if annotation.mask is not None:
        mask = cv2.resize(annotation.mask, size, interpolation=cv2.INTER_NEAREST)
        picture = np.where((mask == 255)[..., None], picture, cv2.addWeighted(picture, 0.5, _COLOURS[mask], 0.5, 0))
    for box, label in zip(annotation.boxes * scale, annotation.labels, strict=True):
        _draw(picture, box, dataset.classes[label] if 0 <= label < len(dataset.classes) else "?", int(label))
    tile = np.zeros((*TILE, 3), np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = picture
    cv2.putText(tile, _plain(caption)[-48:], (4, TILE[0] - 5), _LETTERS, 0.38, (255, 255, 255), 1, cv2.LINE_AA)
    return tile


def _draw(picture: np.ndarray, box: np.ndarray, name: str, label: int) -> None:
    colour = tuple(int(value) for value in _COLOURS[label % 256])
    x1, y1, x2, y2 = (int(value) for value in np.nan_to_num(box).clip(-9999, 9999).round())
    cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 1)
    at = max(0, x1) + 2, max(10, y1 + 10)
    cv2.putText(picture, _plain(name), at, _LETTERS, 0.38, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(picture, _plain(name), at, _LETTERS, 0.38, colour, 1, cv2.LINE_AA)


def _plain(text: str) -> str:
    """OpenCV's letters are ASCII."""
    return text.encode("ascii", "replace").decode()


def _colours() -> np.ndarray:
    """`[256, 3]` uint8 RGB: bright, neighbours far apart."""
    hues = (np.arange(256) * 110.5 % 180).astype(np.uint8)  # about the golden angle, in OpenCV's half degrees
    shades = np.stack([hues, np.full(256, 170, np.uint8), np.full(256, 255, np.uint8)], axis=1)
    return cv2.cvtColor(shades[None], cv2.COLOR_HSV2RGB)[0]


_COLOURS = _colours()
