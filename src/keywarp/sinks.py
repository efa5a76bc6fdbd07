"""What is written for a video besides pictures: a line of JSON for every finished frame, and files made of the lines.

While a video is worked on, its results go to a `Journal`, one line a frame. JSON, CSV and MOT files are made from it
at the end, line by line: memory does not grow with the video, and an interrupted run goes on from its journal.
"""

from __future__ import annotations

import csv
import json
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NotRequired, TextIO, TypedDict

import numpy as np
import torch

from keywarp.errors import InterruptedWorkError, UserError
from keywarp.files import replacing
from keywarp.structures import Detections, FrameResult, VideoDetections


class Found(TypedDict):
    """A detection. category_id: 0-based class index. bbox: [x, y, width, height] in pixels. track_id: of an object."""

    category_id: int
    category: str
    bbox: list[float]
    score: float
    track_id: NotRequired[int]


class Record(TypedDict):
    """A frame's result. image_id: 0-based index of the frame. file_name: of a picture in a folder. time: seconds.
    key: the feature network ran on it."""

    image_id: int
    file_name: NotRequired[str]
    time: float
    key: bool
    detections: NotRequired[list[Found]]
    flow_fallback: NotRequired[float]


def to_record(result: FrameResult) -> Record:
    """The result as plain values, rounded to 1/100 pixel and 1/10000 of a score; a segmentation is left out."""
    record: Record = {"image_id": result.index, "time": round(result.time, 6), "key": result.is_key}
    if result.detections is not None:
        rows = zip(*(getattr(result.detections, name).tolist() for name in ("boxes", "scores", "labels")), strict=True)
        record["detections"] = [_found(box, score, label, result.classes) for box, score, label in rows]
        if result.tracks is not None:
            for found, track in zip(record["detections"], result.tracks.tolist(), strict=True):
                found["track_id"] = track
    if result.flow_fallback is not None:
        record["flow_fallback"] = round(result.flow_fallback, 4)
    return record


def _found(box: Sequence[float], score: float, label: int, classes: Sequence[str]) -> Found:
    left, top, right, bottom = box
    bbox = [round(value, 2) for value in (left, top, right - left, bottom - top)]
    name = classes[label] if classes else str(label)
    return {"category_id": label, "category": name, "bbox": bbox, "score": round(score, 4)}


def to_detections(record: Record) -> Detections:
    """The boxes of a record."""
    found = record["detections"]
    boxes = torch.tensor([f["bbox"] for f in found], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Detections(
        boxes, torch.tensor([f["score"] for f in found]), torch.tensor([f["category_id"] for f in found]).long()
    )


def columns(records: Iterable[Record]) -> VideoDetections:
    """The boxes of all records as columns; a frame is a record's place among them."""
    # Arrays that grow in place: a long video has millions of boxes.
    frames, labels, boxes, scores = array("i"), array("i"), array("f"), array("f")
    for place, record in enumerate(records):
        for found in record.get("detections", ()):
            x, y, width, height = found["bbox"]
            frames.append(place)
            labels.append(found["category_id"])
            boxes.extend((x, y, x + width, y + height))
            scores.append(found["score"])
    numbers = (np.frombuffer(column, column.typecode) for column in (frames, boxes, scores, labels))
    frame, box, score, label = numbers
    return VideoDetections(frame, box.reshape(-1, 4), score, label)


def tracked(detections: VideoDetections, count: int, classes: Sequence[str]) -> Iterator[list[Found]]:
    """Of each of the frames 0 … count − 1 its boxes, as a record has them, with their tracks."""
    starts = np.searchsorted(detections.frames, np.arange(count + 1)).tolist()
    tracks = detections.tracks
    for here in map(slice, starts, starts[1:]):
        boxes, scores, labels = (c[here].tolist() for c in (detections.boxes, detections.scores, detections.labels))
        frame = [_found(*row, classes) for row in zip(boxes, scores, labels, strict=True)]
        if tracks is not None:
            for found, track in zip(frame, tracks[here].tolist(), strict=True):
                found["track_id"] = track
        yield frame


RECALL = 12
"""Key frames that an interrupted run with a recursive memory goes back; what lies further back has faded below 1e-3."""


class Journal:
    """The finished frames of one video, a line of JSON each, after a line that says what they belong to.

    count, key_frames, detections (by class), codec_frames, fallback (their shares without codec motion, summed),
    frames_without_motion (at all): of all the lines. keys: the last key frames, at most `RECALL`. stored: lines that
    were there when it was opened.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Opens `path` and drops a last line that was cut. Raises UserError when it belongs to something else."""
        self.path = path
        self.count = self.key_frames = self.codec_frames = self.frames_without_motion = 0
        self.fallback = 0.0
        self.detections: Counter[str] = Counter()
        self.keys: deque[int] = deque(maxlen=RECALL)
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; choose another --output") from None
        self._end = self._read(header)
        self.stored = self.count
        self._file.truncate(self._end)
        if not self._end:
            self._write(header)

    def _read(self, header: Mapping[str, Any]) -> int:
        """Take in the lines that are there; the length of the whole ones."""
        end = 0
        for line, value in _whole_lines(self.path):
            if end == 0:
                check_same(value, header, self.path)
            else:
                self._count(value)
            end += len(line)
        return end

    def append(self, record: Record) -> None:
        """Add a finished frame; it is in the file when this returns. Raises InterruptedWorkError on a full disk."""
        self._write(record)
        self._count(record)

    def _write(self, value: Mapping[str, Any]) -> None:
        line = json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            whole = self._file.write(line) == len(line)
            reason = "no space left"
        except OSError as error:
            whole, reason = False, str(error.strerror)
        if not whole:
            self._file.truncate(self._end)
            raise InterruptedWorkError(
                f"cannot write {self.path} after {self.count} frames: {reason}; then use --resume"
            )
        self._end += len(line)

    def _count(self, record: Record) -> None:
        self.count += 1
        if record["key"]:
            self.key_frames += 1
            self.keys.append(record["image_id"])
        self.detections.update(found["category"] for found in record.get("detections", ()))
        if (share := record.get("flow_fallback")) is not None:
            self.codec_frames += 1
            self.fallback += share
            self.frames_without_motion += share == 1

    def records(self) -> Iterator[Record]:
        """The frames so far, in order."""
        for _, value in islice(_whole_lines(self.path), 1, self.count + 1):
            yield value

    def close(self, *, remove: bool) -> None:
        """Close it; `remove` the file too, when nothing is to go on from it."""
        self._file.close()
        if remove:
            self.path.unlink()


def _whole_lines(path: Path) -> Iterator[tuple[bytes, Any]]:
    """Each line with its value, up to the first that was cut."""
    with open(path, "rb") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n"):
                return
            yield line, value


def check_same(stored: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Raise UserError when results in `path` came from another video, model or setting than asked for now."""
    now = json.loads(json.dumps(now))
    was, wanted = _flat({name: value for name, value in stored.items() if name in now}), _flat(now)
    for name in wanted | was:
        if was.get(name) != wanted.get(name):
            raise UserError(
                f"cannot resume {path.name}: {name} {_told(was, name, 'was')} and {_told(wanted, name, 'is')} now; "
                "give the same or start again with --overwrite"
            )


def _told(values: Mapping[str, Any], name: str, verb: str) -> str:
    return f"{verb} {values[name]!r}" if values.get(name) is not None else f"{verb} not given"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name} ") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


@contextmanager
def text_file(path: Path) -> Iterator[TextIO]:
    """A text file that takes `path`'s place when it is whole. Raises InterruptedWorkError when it cannot be written."""
    try:
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise InterruptedWorkError(f"cannot write {path}: {error.strerror}; then use --resume") from None


def write_json(path: Path, journal: Journal, info: Mapping[str, Any], classes: Sequence[str]) -> None:
    """COCO's layout: info, categories, images, annotations (boxes as `[x, y, width, height]`); a line an entry."""
    categories = [{"id": i, "name": name} for i, name in enumerate(classes)]
    with text_file(path) as file:
        file.write(f'{{"info": {_json(info)},\n"categories": {_json(categories)},\n"images": [')
        _lines(file, map(_image, journal.records()))
        file.write('],\n"annotations": [')
        _lines(file, _annotations(journal.records()))
        file.write("]}\n")


def read_info(path: Path) -> dict[str, Any]:
    """The `info` of a file of `write_json`, without reading the rest. Raises UserError when it is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.loads(file.readline().rstrip().removesuffix(",") + "}")["info"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{path} was not written by keywarp; choose another --output or give --overwrite") from None


def _image(record: Record) -> dict[str, Any]:
    named = {"file_name": record["file_name"]} if "file_name" in record else {}
    return {"id": record["image_id"], **named, "time": record["time"], "key": record["key"]}


def _annotations(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    number = 0
    for record in records:
        for found in record.get("detections", ()):
            number += 1
            values = {key: value for key, value in found.items() if key != "category"}
            yield {"id": number, "image_id": record["image_id"], **values}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _lines(file: TextIO, values: Iterable[Any]) -> None:
    for i, value in enumerate(values):
        file.write(f"{',' if i else ''}\n{_json(value)}")


def write_csv(path: Path, journal: Journal) -> None:
    """A row a detection, under a row of names; track_id is empty where there are no tracks."""
    with text_file(path) as file:
        rows = csv.writer(file)
        names = ["image_id", "time", "key", "category_id", "category", "score", "x", "y", "width", "height", "track_id"]
        rows.writerow(names)
        for r in journal.records():
            for f in r.get("detections", ()):
                frame = [r["image_id"], r["time"], int(r["key"])]
                rows.writerow([*frame, f["category_id"], f["category"], f["score"], *f["bbox"], f.get("track_id", "")])


def write_mot(path: Path, journal: Journal) -> None:
    """The MOT challenge's format: frame from 1, track from 1 or −1, x, y, width, height, score, −1, −1, −1."""
    with text_file(path) as file:
        for record in journal.records():
            for found in record.get("detections", ()):
                x, y, width, height = found["bbox"]
                track = found["track_id"] + 1 if "track_id" in found else -1
                file.write(f"{record['image_id'] + 1},{track},{x},{y},{width},{height},{found['score']},-1,-1,-1\n")
