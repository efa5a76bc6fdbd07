"""Detections of a data set's videos on disk: what `evaluate` keeps, and what other programs write.

Read are: a folder of `evaluate`; a JSON file of `detect`, or a folder of them, one a video; a COCO results list, for a
data set in a COCO-VID file; and the text of DFF's and FGFA's code, a line "frame class score x1 y1 x2 y2" a detection.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from keywarp.data.coco_vid import image_positions
from keywarp.data.datasets import Video, VideoDataset
from keywarp.errors import UserError, unknown
from keywarp.files import laid_out_as, read_json, replacing
from keywarp.postprocess.boxes_file import is_postprocessed
from keywarp.structures import VideoDetections

__all__ = ["Results", "class_map", "file_of", "load", "read_results", "save"]

Results = Callable[[int], VideoDetections]
"""The detections of the video at a position of its data set, with the data set's labels."""

INDEX = "run.json"
"""In a folder of `evaluate`: what the detections are of."""


def file_of(folder: Path, number: int) -> Path:
    """Where the detections of the video at a position lie."""
    return folder / f"{number:05d}.npz"


def save(path: Path, detections: VideoDetections, **more: float) -> None:
    """Write detections, and numbers beside them, as a compressed .npz file that is whole or absent."""
    columns: dict[str, Any] = {name: value for name, value in vars(detections).items() if value is not None}
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **(columns | more))


def load(path: Path) -> tuple[VideoDetections, dict[str, float]]:
    """What `save` wrote: the detections, and the numbers beside them. Raises UserError."""
    names = ("frames", "boxes", "scores", "labels", "tracks")
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in names if name in file}
            return VideoDetections(**columns), {name: float(file[name]) for name in file.files if name not in names}
    except (OSError, EOFError, ValueError, TypeError, KeyError, NotImplementedError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path} holds no detections of keywarp evaluate ({error}); evaluate anew") from None


def read_results(
    path: Path,
    dataset: VideoDataset,
    rename: Mapping[str, str],
    positions: Sequence[int] | None = None,
    *,
    linked: bool = True,
) -> dict[str, Results]:
    """Stored detections by a name for their row in a table.

    dataset: all of it, as ids and numbers of frames may count through it. rename: class names of the results → of the
    data set. positions: of the videos that are wanted, by default all; `Results` take the place among these. linked:
    whether Seq-NMS or Seq-NMS+ may have been applied, where that is known. Raises UserError where the file is in no
    known layout, is of other classes, or lacks a video that is wanted.
    """
    wanted = range(len(dataset.videos)) if positions is None else positions
    found = _read(path, dataset, rename, wanted, linked)

    def of(results: Results) -> Results:
        return lambda place: results(wanted[place])

    return {name: of(results) for name, results in found.items()}


def _read(
    path: Path, dataset: VideoDataset, rename: Mapping[str, str], wanted: Sequence[int], linked: bool
) -> dict[str, Results]:
    if not path.exists():
        raise UserError(f"no such results: {path}; give a file, or a folder of keywarp evaluate or detect")
    if path.is_dir():
        if (path / INDEX).is_file():
            _check_no(rename)
            return _of_evaluate(path, dataset, wanted, linked)
        files = sorted(path.glob("*.json"))
        if not files:
            raise UserError(f"{path} holds no results; wanted a folder of keywarp evaluate, or JSON files of detect")
        return {path.name: _of_detect(files, dataset, rename, wanted, linked)}
    if path.suffix == ".txt":
        _check_no(rename)
        return {path.stem: _of_text(path, dataset)}
    document = read_json(path)
    if isinstance(document, list):
        _check_no(rename)
        return {path.stem: _of_coco(path, document, dataset)}
    return {path.stem: _of_detect([path], dataset, rename, wanted, linked)}


def _check_no(rename: Mapping[str, str]) -> None:
    if rename:
        raise UserError("--rename is for results that name their classes, those of detect; leave it out")


def class_map(found: Sequence[str], dataset: VideoDataset, rename: Mapping[str, str]) -> np.ndarray:
    """`[found]`: the data set's label of each class by name, −1 for those it does not have. Raises UserError.

    rename: other names for classes of `found`.
    """
    for ours, theirs in rename.items():
        if ours not in found:
            raise unknown("class to rename", ours, found)
        if theirs not in dataset.classes:
            raise unknown(f"class of {dataset.name}", theirs, dataset.classes)
    known = {name.lower(): label for label, name in enumerate(dataset.classes)}
    labels = np.array([known.get(rename.get(name, name).lower(), -1) for name in found], np.int64)
    if (labels < 0).all():
        raise UserError(
            f"none of the classes {_some(found)} is one of {dataset.name}: {_some(dataset.classes)}; "
            "say which is which with --rename car=automobile …"
        )
    taken = labels[labels >= 0]
    if len(np.unique(taken)) < len(taken):
        raise UserError(f"several of the classes {_some(found)} are the same of {dataset.name}; check --rename")
    return labels


def relabelled(detections: VideoDetections, labels: np.ndarray) -> VideoDetections:
    """The detections with the labels of a `class_map`; those of other classes are dropped."""
    ours = labels[detections.labels]
    kept, tracks = ours >= 0, detections.tracks
    return VideoDetections(
        detections.frames[kept],
        detections.boxes[kept],
        detections.scores[kept],
        ours[kept],
        None if tracks is None else tracks[kept],
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" … ({len(names)})" if len(names) > 5 else "")


def _of_evaluate(folder: Path, dataset: VideoDataset, wanted: Sequence[int], linked: bool) -> dict[str, Results]:
    index = read_json(folder / INDEX)
    names = [video.name for video in dataset.videos]
    try:
        stored, classes, rows = index["videos"], index["classes"], index["postprocess"]
    except (KeyError, TypeError):
        raise UserError(
            f"{folder} holds no detections of keywarp evaluate; give the output of a run with --model"
        ) from None
    if tuple(classes) != tuple(dataset.classes):
        raise UserError(f"{folder} is of other classes than {dataset.name}: {_some(classes)}")
    if not linked and set(rows) != {"none"}:
        raise _linked_already(folder)
    numbers = {name: number for number, name in enumerate(stored)}
    _check_complete(folder, [names[video] for video in wanted], numbers)

    def results(row: str) -> Results:
        return lambda video: load(file_of(folder / row, numbers[names[video]]))[0]

    return {folder.name if row == "none" else f"{folder.name} {row}": results(row) for row in rows}


def _check_complete(path: Path, wanted: Sequence[str], have: Mapping[str, Any]) -> None:
    missing = [name for name in wanted if name not in have]
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} of the {len(wanted)} videos of the data set, first {missing[0]}; "
            "give results of all of them"
        )


def _of_detect(
    files: Sequence[Path], dataset: VideoDataset, rename: Mapping[str, str], wanted: Sequence[int], linked: bool
) -> Results:
    """JSON files of `detect`, each of the video whose folder or, without ending, file has its name."""
    by_name = {file.stem: file for file in files}
    paths = [Path(video.name) for video in dataset.videos]
    stems = [path.name if path.name in by_name else path.stem for path in paths]
    twice = {name for name in stems if stems.count(name) > 1}
    if twice:
        raise UserError(f"{dataset.name} has several videos named {min(twice)}; results by file name do not tell them")
    source = files[0].parent if len(files) > 1 else files[0]
    _check_complete(source, [stems[video] for video in wanted], by_name)
    return lambda video: _detect_file(by_name[stems[video]], dataset, dataset.videos[video], rename, linked)


def _linked_already(path: Path) -> UserError:
    return UserError(f"{path} holds linked detections; leave --postprocess out, or make some with --postprocess none")


def _detect_file(
    path: Path, dataset: VideoDataset, video: Video, rename: Mapping[str, str], linked: bool
) -> VideoDetections:
    document = read_json(path)
    with laid_out_as("a JSON file of keywarp detect", path):
        names = {int(each["id"]): str(each["name"]) for each in document["categories"]}
        rows, frames = document["annotations"], {image["id"] for image in document["images"]}
        settings = document["info"].get("settings", {})
        was_linked = is_postprocessed(document)
        skips = settings.get("frames") is not None or settings.get("stride", 1) != 1
        found = _columns(path, [(each["image_id"], each) for each in rows])
    for each in rows:
        for kind, known, key in (("category", names, "category_id"), ("frame", frames, "image_id")):
            if each[key] not in known:
                raise UserError(f"{path}: a detection has {kind} {each[key]}, which is not listed")
    if was_linked and not linked:
        raise _linked_already(path)
    if skips:
        raise UserError(f"{path} was made with --frames or --stride; give results of all frames")
    absent = [index for index in video.labelled if index not in frames]
    if absent or not document["info"].get("complete", True):
        first = f"frame {absent[0]} of the data set is not in it" if absent else "its run was stopped"
        raise UserError(f"{path} is not of the whole video: {first}; give results of all frames")
    place = {number: place for place, number in enumerate(names)}
    labels = class_map(list(names.values()), dataset, rename)
    ours = replace(found, labels=np.array([place[number] for number in found.labels.tolist()], np.int64))
    return relabelled(ours, labels)


def _columns(path: Path, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> VideoDetections:
    """Detections `{category_id, bbox: [x, y, width, height], score}` of these frames; labels are the category ids."""
    boxes = np.array([each["bbox"] for _, each in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    try:
        return VideoDetections(
            np.array([frame for frame, _ in rows], np.int64),
            boxes,
            np.array([each["score"] for _, each in rows], np.float64),
            np.array([each["category_id"] for _, each in rows], np.int64),
            np.array([each.get("track_id", -1) for _, each in rows]) if any("track_id" in e for _, e in rows) else None,
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _of_coco(path: Path, document: list[Any], dataset: VideoDataset) -> Results:
    """A list of {image_id, category_id, bbox, score} with the ids of the data set's own file."""
    positions, categories = image_positions(Path(dataset.name))
    by_video: list[list[tuple[int, Mapping[str, Any]]]] = [[] for _ in dataset.videos]
    with laid_out_as("COCO's results", path):
        for each in document:
            if each["image_id"] not in positions:
                raise UserError(f"{path}: a detection is of image {each['image_id']}, which {dataset.name} has not")
            if each["category_id"] not in categories:
                raise UserError(f"{path}: a detection has category {each['category_id']}, unknown to {dataset.name}")
            video, frame = positions[each["image_id"]]
            by_video[video].append((frame, {**each, "category_id": categories[each["category_id"]]}))
        columns = [_columns(path, rows) for rows in by_video]
    return lambda video: columns[video]


def _of_text(path: Path, dataset: VideoDataset) -> Results:
    """Lines "frame class score x1 y1 x2 y2": frames numbered from 1 over all videos in order, classes from 1."""
    try:
        # Single precision holds the numbers of 16 million frames, and half of what a large file takes.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file without detections, which is none to warn of
            rows = np.loadtxt(path, np.float32, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: wanted lines of 7 numbers, frame class score x1 y1 x2 y2 ({error})") from None
    if rows.size and rows.shape[1] != 7:
        raise UserError(f"{path}: wanted lines of 7 numbers, frame class score x1 y1 x2 y2, got {rows.shape[1]}")
    rows = rows.reshape(-1, 7)
    ends = np.cumsum([len(video.frames) for video in dataset.videos])
    numbers, classes = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
    for name, column, most in (("frame", numbers, int(ends[-1])), ("class", classes, len(dataset.classes))):
        strange = column[(column < 1) | (column > most)]
        if len(strange):
            raise UserError(f"{path}: {name} {strange[0]} is not in 1 to {most}, which {dataset.name} has")
    if not np.isfinite(rows).all():
        raise UserError(f"{path}: scores and boxes must be finite, got a line with nan or inf")
    order = np.argsort(numbers, kind="stable")
    begins = np.searchsorted(numbers, np.concatenate([[0], ends]) + 1, sorter=order)

    def of_video(video: int) -> VideoDetections:
        here = order[begins[video] : begins[video + 1]]
        first = int(ends[video]) - len(dataset.videos[video].frames) + 1
        return VideoDetections(numbers[here] - first, rows[here, 3:], rows[here, 2], classes[here] - 1)

    return of_video
