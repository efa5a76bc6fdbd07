"""Videos in: files, folders of images, cameras and addresses, as one iterator of frames."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from keywarp.data.decoding import Decoder, Picture, Selection
from keywarp.data.live import Newest
from keywarp.data.motion import unknown_motion
from keywarp.errors import UserError
from keywarp.structures import VideoFrame

IMAGE_FPS = Fraction(25)
"""Frames a second of a folder of images."""

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_VIDEOS = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".mts",
    ".m2ts",
    ".wmv",
    ".flv",
    ".3gp",
    ".ogv",
    ".gif",
    ".mjpeg",
)
_LIVE = ("rtsp://", "rtsps://", "rtmp://", "udp://", "rtp://", "srt://")


class VideoSource:
    """One video, frame by frame, in constant memory. An iterator and a context manager; build it with `open_video`.

        with open_video("street.mp4") as video:
            for frame in video:
                ...

    name: what to call it ("street.mp4", "camera-0"). width, height: pixels, upright. fps: frames handed out a second,
    on average. frame_count: how many will be handed out, as far as the file tells; None when it does not.
    is_live: late frames are dropped instead of waiting. path: of the file or folder. warnings: what went wrong while
    reading without stopping it, one line each.
    """

    def __init__(
        self,
        pictures: Iterator[Picture],
        *,
        name: str,
        size: tuple[int, int],
        fps: Fraction,
        frame_count: int | None,
        path: Path | None,
        warnings: list[str],
        close: Callable[[], None],
        live: Newest | None = None,
    ) -> None:
        self.name = name
        self.height, self.width = size
        self.fps = fps
        self.frame_count = frame_count
        self.is_live = live is not None
        self.path = path
        self.warnings = warnings
        self._pictures: Iterator[tuple[int, Picture]] = enumerate(pictures)
        self._live = live
        self._close = close

    @property
    def dropped(self) -> int:
        """Frames of a live source that came too late to be handed out."""
        return self._live.dropped if self._live else 0

    def __iter__(self) -> Iterator[VideoFrame]:
        return self

    def __next__(self) -> VideoFrame:
        index, picture = next(self._pictures)
        return VideoFrame(picture.image, index, picture.time, picture.motion or None, picture.file_name)

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file or connection; no frame comes after it."""
        self._pictures = iter(())
        self._close()


def open_video(
    source: str | Path, *, start: int = 0, stop: int | None = None, stride: int = 1, motion: bool = False
) -> VideoSource:
    """The frames of a video file, a folder of images, `camera:0`, or an rtsp:// or http(s):// address.

    start, stop, stride: every stride-th of the decoded frames start … stop − 1. motion: each frame carries the codec's
    motion fields since the frame handed out before, the skipped frames' too; at most 300, a longer chain is one
    unknown field. Raises UserError when the source cannot be read.
    """
    selection = Selection(start, stop, stride)
    if isinstance(source, str) and _is_address(source):
        name = source.replace(":", "-") if source.startswith("camera:") else source
        return _from_decoder(source, name, None, selection, motion)
    path = Path(source)
    if not path.exists():
        raise UserError(f"no such file or folder: {path}; check the path")
    if path.is_dir():
        return _from_folder(path, selection, motion)
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes); give a video")
    return _from_decoder(str(path), path.name, path, selection, motion)


def _from_decoder(address: str, name: str, path: Path | None, selection: Selection, motion: bool) -> VideoSource:
    decoder = Decoder(address, name, selection, motion=motion)
    is_live = path is None and (decoder.endless or is_live_address(address))
    live = Newest(iter(decoder), decoder.close) if is_live else None
    return VideoSource(
        iter(live or decoder),
        name=name,
        size=(decoder.height, decoder.width),
        fps=decoder.fps / selection.stride,
        frame_count=None if is_live or decoder.available is None else len(selection.of(decoder.available)),
        path=path,
        warnings=decoder.warnings,
        close=(live or decoder).close,
        live=live,
    )


def _from_folder(folder: Path, selection: Selection, motion: bool) -> VideoSource:
    paths = _natural(p for p in folder.iterdir() if p.suffix.lower() in _IMAGES)
    if not paths:
        raise UserError(f"{folder} holds no images; wanted {', '.join(_IMAGES)}")
    first = next((image for image in map(_read_image, paths) if image is not None), None)
    if first is None:
        raise UserError(f"none of the {len(paths)} images in {folder} can be read")
    selected = selection.of(len(paths))
    if not selected:
        raise UserError(f"start {selection.start} is past the end: {folder.name} has {len(paths)} images")
    warnings: list[str] = []
    unknown = (unknown_motion(*first.shape[:2]),) if motion else ()  # one unknown field makes the whole chain so

    def pictures() -> Iterator[Picture]:
        for position in selected:
            image = _read_image(paths[position])
            if image is None:
                warnings.append(f"{folder.name}: skipped {paths[position].name}, which cannot be read as an image")
            else:
                yield Picture(image, float(position / IMAGE_FPS), unknown, paths[position].name)

    return VideoSource(
        pictures(),
        name=folder.resolve().name,
        size=first.shape[:2],
        fps=IMAGE_FPS / selection.stride,
        frame_count=len(selected),
        path=folder,
        warnings=warnings,
        close=lambda: None,
    )


def _read_image(path: Path) -> np.ndarray | None:
    """The image `[H, W, 3]` uint8 RGB, upright by its EXIF orientation; None when it cannot be read."""
    data = np.fromfile(path, np.uint8)  # cv2.imread cannot open every path on Windows
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def is_live_address(source: str) -> bool:
    """Whether the source is a camera or a stream, which does not wait."""
    return source.startswith((*_LIVE, "camera:"))


def expand_sources(sources: Sequence[str]) -> list[str]:
    """The sources one by one: folders of videos and quoted patterns become their videos, in natural order.

    A folder of images is one source, and so are addresses and cameras. Raises UserError for one that names nothing.
    """
    found = [each for source in sources for each in _expand(source)]
    return list(dict.fromkeys(found))


def _expand(source: str) -> list[str]:
    path = Path(source)
    if _is_address(source) or path.is_file():
        return [source]
    if path.is_dir():
        videos = _natural(p for p in path.iterdir() if p.suffix.lower() in _VIDEOS)
        if videos:
            return [str(p) for p in videos]
        if any(p.suffix.lower() in _IMAGES for p in path.iterdir()):
            return [source]
        raise UserError(f"{source} holds no videos and no images; give a folder with either")
    matches = _natural(Path(p) for p in glob.glob(source, recursive=True))
    files = [str(p) for p in matches if p.suffix.lower() in _VIDEOS + _IMAGES and p.is_file()]
    folders = [each for p in matches if p.is_dir() and _has_pictures(p) for each in _expand(str(p))]
    if not files + folders:
        raise UserError(f"nothing found for {source!r}; check the path or pattern")
    return files + folders


def _has_pictures(folder: Path) -> bool:
    return any(p.suffix.lower() in _VIDEOS + _IMAGES for p in folder.iterdir())


def _is_address(source: str) -> bool:
    return source.startswith("camera:") or "://" in source


def _natural(paths: Iterable[Path]) -> list[Path]:
    """Sorted with numbers as numbers: 2.jpg before 10.jpg."""

    def key(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", str(path))]

    return sorted(paths, key=key)
