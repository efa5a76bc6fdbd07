"""The files of one video's results: where they lie, whether they may be written, and how they end up whole."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keywarp.data.video import VideoSource
from keywarp.data.video_writer import VideoWriter
from keywarp.errors import InterruptedWorkError, UserError
from keywarp.evaluation.results_files import INDEX
from keywarp.files import read_json, write_atomically
from keywarp.options import BoxOptions, RunOptions
from keywarp.sinks import (
    Journal,
    Record,
    check_same,
    columns,
    read_info,
    to_detections,
    to_record,
    tracked,
    write_csv,
    write_json,
    write_mot,
)
from keywarp.structures import FrameResult, VideoDetections, VideoFrame
from keywarp.visualize import PALETTE, draw


@dataclass(frozen=True)
class Paths:
    """Where the results of one video go: NAME.json, and each of the others where it was asked for."""

    folder: Path
    name: str
    video: Path | None = None
    csv: Path | None = None
    mot: Path | None = None
    label_maps: Path | None = None

    @property
    def json(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def journal(self) -> Path:
        return self.folder / f".{self.name}.partial.jsonl"

    @property
    def finished(self) -> Path:
        return self.folder / f".{self.name}.finished.jsonl"

    @property
    def results(self) -> list[Path]:
        """All that is left in the end."""
        return [p for p in (self.json, self.video, self.csv, self.mot, self.label_maps) if p is not None]


def plan(sources: Sequence[str], folder: Path, options: RunOptions, boxes: BoxOptions | None) -> list[Paths]:
    """Where the results of each source go, under names that differ; nothing is written yet.

    boxes: None for a segmentation. Raises UserError when the folder cannot be written, a source would be overwritten,
    or results exist and neither `overwrite` nor `resume` was given.
    """
    check_writable(folder)
    planned = []
    files = {Path(source).resolve() for source in sources}
    for name in _names(sources):
        paths = Paths(
            folder,
            name,
            video=None if options.no_video else folder / f"{name}.mp4",
            csv=folder / f"{name}.csv" if boxes and boxes.csv else None,
            mot=folder / f"{name}.txt" if boxes and boxes.mot else None,
            label_maps=folder / name if boxes is None else None,
        )
        _check_free(paths, files, options)
        planned.append(paths)
    return planned


def _names(sources: Sequence[str]) -> list[str]:
    """A file name without ending for each source: its own, with a number where it was taken."""
    names: list[str] = []
    for source in sources:
        path = Path(source).resolve()
        own = path.stem if path.is_file() else path.name
        if "://" in source or source.startswith("camera:"):
            own = re.sub(r"\W+", "-", source.split("://")[-1].split("?")[0]).strip("-")
        name, number = own, 2
        while name.lower() in (n.lower() for n in names):
            name, number = f"{own}-{number}", number + 1
        names.append(name)
    return names


def check_writable(folder: Path) -> None:
    """Nothing. Raises UserError where no such folder is there or can be made."""
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"cannot write in {folder}: {existing} is no folder that can be written; choose another --output"
        )


def claim(
    folder: Path,
    index: Mapping[str, Any],
    parts: Sequence[str],
    *,
    what: str,
    document: str,
    overwrite: bool,
    resume: bool,
) -> None:
    """Make a folder ready for measured results: its `parts` are made, and `index` says what they are of.

    what: the results' name in messages. document: the file that they end in. Raises UserError where the folder holds
    some, and neither `overwrite` (which removes them) nor `resume` (which wants the same index) was given; and where
    one of the parts is somebody else's.
    """
    path = folder / INDEX
    if path.exists():
        if not (overwrite or resume):
            raise UserError(
                f"{folder} holds {what}; go on with --resume, replace it with --overwrite, or give another --output"
            )
        kept = read_json(path)
        if not isinstance(kept, dict) or not isinstance(kept.get("parts"), list):
            raise UserError(f"{path} does not say what {folder} holds; delete the folder, or give another --output")
        if resume:
            check_same(kept, index, path)
        if overwrite:
            (folder / document).unlink(missing_ok=True)
            for part in kept["parts"]:
                shutil.rmtree(folder / Path(part).name, ignore_errors=True)
    else:
        for each in (folder / part for part in parts):
            if each.is_file() or (each.is_dir() and any(each.iterdir())):
                raise UserError(f"{each} exists and is not of {what}; give another --output")
    for each in (folder, *(folder / part for part in parts)):
        each.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"parts": list(parts), **index}, indent=1, ensure_ascii=False))


def _check_free(paths: Paths, sources: Set[Path], options: RunOptions) -> None:
    for path in paths.results:
        if path.resolve() in sources:
            raise UserError(f"the result {path} would overwrite a source; choose another --output")
        if path.exists() and not (options.overwrite or options.resume):
            raise UserError(
                f"{path} exists; replace it with --overwrite or go on with an interrupted run with --resume"
            )
    if paths.journal.exists() and not (options.overwrite or options.resume):
        raise UserError(
            f"{paths.folder} holds an interrupted run of {paths.name}; "
            "go on with --resume or start again with --overwrite"
        )


def already_complete(paths: Paths, header: Mapping[str, Any]) -> bool:
    """Whether the results are whole, from the same video, model and settings; UserError when they are of others."""
    if paths.journal.exists() or not paths.json.exists():
        return False
    info = read_info(paths.json)
    check_same(info, header, paths.json)
    missing = [str(p) for p in paths.results if not p.exists()]
    if missing or not info["complete"]:
        raise UserError(f"{paths.json} cannot be resumed ({missing or 'its journal is gone'}); use --overwrite")
    return True


class Outputs:
    """Takes one video's results, frame by frame, and leaves whole files.

    header: what the results belong to. Raises UserError when an interrupted run of something else lies there, and
    InterruptedWorkError when a disk is full.
    """

    def __init__(
        self, paths: Paths, source: VideoSource, header: Mapping[str, Any], classes: Sequence[str], *, overwrite: bool
    ) -> None:
        self.paths = paths
        self.classes = classes
        _make_folders(paths)
        if overwrite:
            paths.journal.unlink(missing_ok=True)
            for old in _label_maps(paths):
                old.unlink()
        self.journal = Journal(paths.journal, header)
        self.results = self.journal  # what the files are made of
        self._video: VideoWriter | None = None
        try:
            if paths.video:
                size = {"width": source.width, "height": source.height}
                self._video = VideoWriter(paths.video, **size, fps=source.fps, source=source)
        except UserError:
            self.journal.close(remove=self.journal.stored == 0)
            raise

    @property
    def warnings(self) -> list[str]:
        """What the video could not keep, one line each."""
        return self._video.warnings if self._video else []

    def stored(self) -> Iterator[FrameResult]:
        """The results so far, in order: of an earlier run when this one begins."""
        return map(self._to_result, self.results.records())

    def finish(self, postprocess: Callable[[VideoDetections], VideoDetections], threshold: float) -> None:
        """Put all boxes so far through `postprocess`; the files are made of those that then score `threshold`."""
        done = postprocess(columns(self.journal.records()))
        done = done[done.scores >= threshold]
        self.paths.finished.unlink(missing_ok=True)
        self.results = Journal(self.paths.finished, {})
        for record, found in zip(self.journal.records(), tracked(done, self.journal.count, self.classes), strict=True):
            self.results.append({**record, "detections": found})

    @contextmanager
    def drawing(self, path: Path, source: VideoSource) -> Iterator[None]:
        """Frames drawn here go to this video, which `close` ends; nothing is left of it where drawing fails."""
        self._video = VideoWriter(path, width=source.width, height=source.height, fps=source.fps, source=source)
        try:
            yield
        except BaseException:
            self.drop_video()
            raise

    def drop_video(self) -> None:
        """Leave nothing of the video; the other results stay."""
        if self._video:
            self._video.abort()
            self._video.path.unlink(missing_ok=True)
            self._video = None

    def draw(self, frame: VideoFrame, result: FrameResult) -> None:
        """Add the frame with its result to the video."""
        if self._video:
            self._video.write(draw(frame.image, result), frame.time)

    def add(self, frame: VideoFrame, result: FrameResult) -> Record:
        """Take the next frame's result: all files hold it when this returns."""
        if (result.segmentation is None) == (self.paths.label_maps is not None):
            found, command = ("boxes", "detect") if result.segmentation is None else ("a label map", "segment")
            raise UserError(f"the model gives {found}; use keywarp {command} with it")
        record = to_record(result)
        if frame.file_name is not None:
            record["file_name"] = frame.file_name
        if result.segmentation is not None:
            _write_label_map(self._label_map(result.index), result.segmentation)
            self.draw(frame, result)
        else:
            self.draw(frame, replace(result, detections=to_detections(record)))  # as a resumed run draws it
        self.journal.append(record)
        return record

    def close(self, info: Callable[[], Mapping[str, Any]], *, complete: bool, resumable: bool) -> None:
        """Leave valid files of what was taken; the journal too, unless `complete` or not `resumable`.

        info: for the head of the JSON file. When nothing was taken, nothing is left.
        """
        if self.journal.count == 0:
            self._leave_nothing()
            return
        try:
            if self._video:
                self._video.close()
        finally:
            write_json(self.paths.json, self.results, info(), self.classes)
            if self.paths.csv:
                write_csv(self.paths.csv, self.results)
            if self.paths.mot:
                write_mot(self.paths.mot, self.results)
            if self.results is not self.journal:
                self.results.close(remove=True)
            self.journal.close(remove=False)
        if complete or not resumable:
            self.journal.close(remove=True)

    def _leave_nothing(self) -> None:
        if self._video:
            self._video.abort()
        self.journal.close(remove=True)
        with suppress(OSError):
            if self.paths.label_maps:
                self.paths.label_maps.rmdir()

    def _to_result(self, record: Record) -> FrameResult:
        result = FrameResult(record["image_id"], record["time"], record["key"], classes=self.classes)
        if self.paths.label_maps is None:
            return replace(result, detections=to_detections(record))
        path = self._label_map(result.index)
        try:
            return replace(result, segmentation=np.array(Image.open(path)))
        except OSError:
            raise UserError(f"cannot resume: the label map {path} is missing; start again with --overwrite") from None

    def _label_map(self, index: int) -> Path:
        assert self.paths.label_maps is not None
        return self.paths.label_maps / f"{index:06d}.png"


def _make_folders(paths: Paths) -> None:
    folder = paths.label_maps or paths.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; choose another --output") from None


def _label_maps(paths: Paths) -> list[Path]:
    return list(paths.label_maps.glob("[0-9]" * 6 + ".png")) if paths.label_maps else []


def _write_label_map(path: Path, classes: np.ndarray) -> None:
    """Class indices `[H, W]` uint8 as a PNG with a palette: pixel values are the classes, colours are for the eye."""
    image = Image.fromarray(classes, mode="P")
    image.putpalette(PALETTE.tobytes())
    data = io.BytesIO()
    image.save(data, "PNG")
    try:
        write_atomically(path, data.getvalue())
    except OSError as error:
        raise InterruptedWorkError(f"cannot write {path}: {error.strerror}; then use --resume") from None
