"""A video's boxes in a JSON file: what `detect` writes (COCO's layout), or a COCO results list.

The layout is `{"images": [{"id"}, …], "annotations": [BOX, …], …}`, or the list of boxes alone; each box is
`{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`, the image's id being the index of its frame.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keywarp.errors import UserError
from keywarp.files import write_atomically
from keywarp.structures import VideoDetections

LARGEST = 2**31 - 1  # of frames and classes


@dataclass(frozen=True)
class BoxesFile:
    """What a file holds. head: what stands beside the boxes, None for a mere list. entries: its boxes, by frame."""

    head: dict[str, Any] | None
    entries: list[dict[str, Any]]
    detections: VideoDetections


def is_postprocessed(head: Mapping[str, Any]) -> bool:
    """Whether boxes with this head have been linked: by `write`, or by `detect` itself."""
    info = head.get("info", {})
    settings = info.get("settings")
    return "postprocess" in info or (isinstance(settings, dict) and "postprocess" in settings)


def read(path: Path) -> BoxesFile:
    """The boxes in the file. Raises UserError for what is none, naming the first box that is wrong."""
    head, entries = _parts(path, _parsed(path))
    columns = []
    for number, entry in enumerate(entries):
        try:
            columns.append(_row(entry))
        except ValueError as error:
            raise UserError(f"{path}: box {number} (from 0): {error}") from None
    if head is not None:
        _check_images(path, head, entries)
    order = sorted(range(len(entries)), key=lambda i: columns[i][0])
    frames, boxes, scores, labels = zip(*(columns[i] for i in order), strict=True) if order else ((), (), (), ())
    detections = VideoDetections(
        np.array(frames, np.int64), np.array(boxes).reshape(-1, 4), np.array(scores), np.array(labels, np.int64)
    )
    return BoxesFile(head, [entries[i] for i in order], detections)


def write(path: Path, source: BoxesFile, kept: VideoDetections, made_by: Mapping[str, Any]) -> None:
    """Write `source` again in its layout: of its boxes those that were `kept`, with new scores and `track_id`.

    made_by: told in `info` as `postprocess`. All else is as it was, but for the counts of `detect` in `info`. Raises
    UserError when it cannot be written.
    """
    assert kept.tracks is not None
    values = zip(_rows(source.detections, kept), kept.scores.tolist(), kept.tracks.tolist(), strict=True)
    boxes = [{**source.entries[row], "score": round(score, 6), "track_id": track} for row, score, track in values]
    if source.head is None:
        text = f"[{_lines(boxes)}]\n"
    else:
        info = {**source.head.get("info", {}), "postprocess": made_by}
        if "detections" in info:
            info["detections"] = _counts(source.head, boxes)
        document = {"info": info, **{k: v for k, v in source.head.items() if k != "info"}, "annotations": boxes}
        text = "{" + ",\n".join(f"{json.dumps(key)}: {_value(value)}" for key, value in document.items()) + "}\n"
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --output") from None


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON file ({error}); wanted is what keywarp detect writes") from None


def _parts(path: Path, document: Any) -> tuple[dict[str, Any] | None, list[Any]]:
    """What stands beside the boxes, and the boxes."""
    if isinstance(document, list):
        return None, document
    if not isinstance(document, dict) or not isinstance(document.get("annotations"), list):
        raise UserError(f"{path} has no boxes; wanted a list of them, or an object with the list as its annotations")
    head = {key: value for key, value in document.items() if key != "annotations"}
    lists = [head.get(key, []) for key in ("images", "categories")]
    if not isinstance(head.get("info", {}), dict) or not all(isinstance(each, list) for each in lists):
        raise UserError(f"{path} is not in COCO's layout; wanted an object as info, lists as images and categories")
    return head, document["annotations"]


def _row(entry: Any) -> tuple[int, tuple[float, ...], float, int]:
    """Frame, box, score and label. Raises ValueError that says what is wrong."""
    if not isinstance(entry, dict):
        raise ValueError(f"must be an object, got {json.dumps(entry)[:40]}")
    missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}; wanted image_id, category_id, bbox and score")
    for key in ("image_id", "category_id"):
        if type(entry[key]) is not int or not 0 <= entry[key] <= LARGEST:
            raise ValueError(f"{key} must be a whole number from 0, got {entry[key]!r}")
    bbox, score = entry["bbox"], entry["score"]
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise ValueError(f"bbox must be four numbers, x, y, width and height, got {bbox!r}")
    x, y, width, height = bbox
    if width < 0 or height < 0:
        raise ValueError(f"bbox must have a width and height of at least 0, got {bbox!r}")
    if not _is_number(score) or not 0 <= score <= 1:
        raise ValueError(f"score must be 0 to 1, got {score!r}")
    return entry["image_id"], (x, y, x + width, y + height), score, entry["category_id"]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e30


def _check_images(path: Path, head: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> None:
    """Raise UserError where the images are of several videos, or lack one that a box is of."""
    images = head.get("images", [])
    if not all(isinstance(image, dict) and "id" in image for image in images):
        raise UserError(f"{path}: every image must be an object with an id")
    videos = {json.dumps(image.get("video_id")) for image in images}
    if len(videos) > 1:
        raise UserError(f"{path} is of {len(videos)} videos; boxes are linked within one: give a file for each")
    known = {json.dumps(image["id"]) for image in images}
    strange = next((e["image_id"] for e in entries if images and str(e["image_id"]) not in known), None)
    if strange is not None:
        raise UserError(f"{path}: a box is of image {strange}, which is not among its images")


def _rows(before: VideoDetections, after: VideoDetections) -> Iterator[int]:
    """Where each box of `after` stands in `before`, whose order it has; of equal ones in a frame the first."""
    rows = enumerate(_keys(before))
    return (next(row for row, each in rows if each == key) for key in _keys(after))


def _keys(detections: VideoDetections) -> Iterator[tuple[int, int, bytes]]:
    boxes = (box.tobytes() for box in detections.boxes)
    return zip(detections.frames.tolist(), detections.labels.tolist(), boxes, strict=True)


def _counts(head: Mapping[str, Any], boxes: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many boxes there are of each class, the most frequent first."""
    counts = Counter(box["category_id"] for box in boxes)
    listed = [each for each in head.get("categories", []) if isinstance(each, dict)]
    names = {str(category.get("id")): str(category.get("name")) for category in listed}
    return {names.get(str(label), str(label)): count for label, count in counts.most_common()}


def _value(value: Any) -> str:
    """As JSON; a list with a line for each of its entries."""
    return f"[{_lines(value)}]" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)


def _lines(values: Iterable[Any]) -> str:
    return "".join(f"{',' if i else ''}\n{json.dumps(value, ensure_ascii=False)}" for i, value in enumerate(values))
