"""The pictures of one annotated video, by index: from image files, or from a video file by seeking.

Legend: T frames · (H, W) pixels
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from operator import itemgetter
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from keywarp.data.datasets import Frames, UnreadableFrameError
from keywarp.data.orientation import Orientation
from keywarp.data.video import _IMAGES, _natural, open_video
from keywarp.errors import UserError
from keywarp.structures import VideoFrame

__all__ = ["ImageFrames", "VideoFileFrames", "find_frames", "images_in", "read_image", "read_label_map"]


def find_frames(path: Path, length: int | None = None) -> Frames | None:
    """The frames of a video file, or of a folder of images in natural order; None where there is neither."""
    if path.is_dir():
        return ImageFrames(names, path) if (names := images_in(path)) else None
    return VideoFileFrames(path, length) if path.is_file() else None


def images_in(folder: Path) -> list[str]:
    """The names of the images in a folder, in natural order: 2.jpg before 10.jpg."""
    return [path.name for path in _natural(p for p in folder.iterdir() if p.suffix.lower() in _IMAGES)]


@dataclass(frozen=True)
class ImageFrames(Frames):
    """One image file a frame.

    names: paths, in order. folder: what relative ones start from.
    """

    names: Sequence[str | Path]
    folder: Path = Path()

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        return [read_image(self.folder / self.names[index]) for index in indices]

    @property
    def source(self) -> str:
        return str((self.folder / self.names[0]).parent if len(self) > 1 else self.folder / self.names[0])


def read_image(path: Path) -> np.ndarray:
    """The image `[H, W, 3]` uint8 RGB, as stored (boxes are in these pixels). Raises UnreadableFrameError."""
    image = cv2.imdecode(_bytes(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise UnreadableFrameError(f"{path} cannot be read as an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_label_map(path: Path) -> np.ndarray:
    """The numbers `[H, W]` uint8 of a grey or palette image. Raises UnreadableFrameError."""
    from PIL import Image, UnidentifiedImageError

    _bytes(path)
    try:
        with Image.open(path) as image:
            labels = np.array(image)
    except (UnidentifiedImageError, OSError) as error:
        raise UnreadableFrameError(f"{path} cannot be read as an image ({error})") from None
    if labels.ndim != 2 or (labels.dtype != np.uint8 and (labels.min() < 0 or labels.max() > 255)):
        raise UnreadableFrameError(f"{path} is no label map; wanted one number 0 to 255 a pixel, got {image.mode}")
    return labels.astype(np.uint8)


def _bytes(path: Path) -> np.ndarray:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise UnreadableFrameError(f"{path} {reason}") from None
    if not data.size:
        raise UnreadableFrameError(f"{path} is empty (0 bytes)")
    return data


@dataclass(frozen=True)
class VideoFileFrames(Frames):
    """The frames of a video file, the same under the same index as `open_video` hands out.

    Each read decodes from the key frame before the wanted one. Where decoding starts and what comes out is checked by
    timestamps; a file whose timestamps do not hold is decoded from its start instead. length: T where it is known, so
    that the file need not be opened to tell; otherwise its packets are counted.
    """

    path: Path
    length: int | None = None

    def __len__(self) -> int:
        return self.length if self.length is not None else len(_table(self.path))

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        wanted = sorted(set(indices))
        for find_table in (_table, _replace_table):
            try:
                pictures = _decode(self.path, find_table(self.path), wanted)
            except _WrongTimesError:
                continue
            return [pictures[index] for index in indices]
        raise UnreadableFrameError(f"{self.path}: frames {wanted} cannot be decoded; re-encode the video")

    def stream(self, motion: bool = False) -> Iterator[VideoFrame]:
        _stamp(self.path)
        count = 0
        try:
            with open_video(self.path, motion=motion) as video:
                for count, frame in enumerate(video, 1):  # noqa: B007
                    yield frame
        except (OSError, UserError, av.error.FFmpegError) as error:
            raise UnreadableFrameError(f"{self.path} cannot be decoded to its end: {error}") from None
        if self.length is not None and count < self.length:
            raise UnreadableFrameError(f"{self.path} ends after {count} of the {self.length} frames that are listed")

    @property
    def source(self) -> str:
        return str(self.path)


class _WrongTimesError(Exception):
    """Frames come out at other times than the packets promise."""


@dataclass(frozen=True)
class _Table:
    """What is known of a file's frames without their pictures.

    times: `[T]` int64, when each is shown, ascending; None where the file does not say. keys: (shown, decoded) times of
    the key frames, by the first. length: T.
    """

    times: np.ndarray | None
    keys: tuple[tuple[int, int], ...]
    length: int

    def __len__(self) -> int:
        return self.length

    def key(self, index: int) -> int:
        """Position in `keys` of the key frame to decode from; 0 is the start of the file."""
        if self.times is None:
            return 0
        return max(0, bisect_right(self.keys, self.times[index], key=itemgetter(0)) - 1)


_tables: dict[tuple[str, int, int], _Table] = {}  # of this process


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        stat = os.stat(path)
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise UnreadableFrameError(f"{path} {reason}") from None
    return str(path), stat.st_mtime_ns, stat.st_size


def _table(path: Path) -> _Table:
    stamp = _stamp(path)
    if stamp not in _tables:
        _tables[stamp] = _demuxed(path)
    return _tables[stamp]


def _replace_table(path: Path) -> _Table:
    """The table by decoding all, in place of one that does not hold."""
    stamp = _stamp(path)
    _tables[stamp] = _counted(path, _tables[stamp].keys)
    return _tables[stamp]


def _demuxed(path: Path) -> _Table:
    """The table by the packets' timestamps, without decoding; by decoding all where these cannot be relied on."""
    times: list[int] = []
    keys: list[tuple[int, int]] = []
    with _open(path) as container:
        stream = container.streams.best("video")
        reorders = stream.codec_context.has_b_frames
        starts_amid = False  # what comes before the first key frame cannot be decoded
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                if packet.pts is None:
                    return _counted(path, ())
                starts_amid |= not (keys or packet.is_keyframe)
                if packet.is_keyframe:
                    keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
                if not packet.is_discard:  # by the file's edit list
                    times.append(packet.pts)
        except av.error.FFmpegError:
            pass  # cut off: what came before it counts
    ordered = sorted(times)
    # AVI numbers the packets as they come, whatever order they are shown in.
    if keys and (starts_amid or (reorders and ordered == times)):
        return _counted(path, tuple(sorted(keys)))
    if not keys or len(set(times)) < len(times):
        return _counted(path, ())
    return _Table(np.array(ordered, np.int64), tuple(sorted(keys)), len(times))


def _counted(path: Path, keys: tuple[tuple[int, int], ...]) -> _Table:
    with _open(path) as container:
        times = [frame.pts for frame in _frames(container)]
    if not times:
        raise UnreadableFrameError(f"{path} has no frame that can be decoded")
    if None in times or any(later <= earlier for earlier, later in pairwise(times)):
        return _Table(None, (), len(times))
    return _Table(np.array(times, np.int64), keys or ((times[0], times[0]),), len(times))


def _decode(path: Path, table: _Table, wanted: Sequence[int]) -> dict[int, np.ndarray]:
    """The pictures at these indices, ascending: what shares a key frame is decoded in one go."""
    if wanted and not 0 <= wanted[0] <= wanted[-1] < len(table):
        raise UnreadableFrameError(f"{path} has {len(table)} frames; frame {wanted[-1]} is wanted (counted from 0)")
    convert = VideoReformatter()  # one for all frames: it keeps its tables
    pictures: dict[int, np.ndarray] = {}
    with _open(path) as container:
        for key, stretch in groupby(wanted, table.key):
            for index, frame in _stretch(container, table, key, list(stretch)):
                image = convert.reformat(frame, format="rgb24").to_ndarray()
                pictures[index] = Orientation.of(frame).image(image)
    return pictures


def _stretch(
    container: av.container.InputContainer, table: _Table, key: int, wanted: Sequence[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames at these indices. Raises _WrongTimesError when one does not come at its time."""
    if table.times is None:
        numbered = zip(range(wanted[-1] + 1), _frames(container), strict=False)
        yield from ((index, frame) for index, frame in numbered if index in wanted)
        return
    index_of = {int(table.times[index]): index for index in wanted}
    for frame in _from_key(container, table, key, index_of):
        if frame.pts in index_of:
            yield index_of.pop(frame.pts), frame
        if not index_of:
            return
    raise _WrongTimesError


def _from_key(
    container: av.container.InputContainer, table: _Table, key: int, times: Collection[int]
) -> Iterator[av.VideoFrame]:
    """Frames from a key frame on, those at these times certainly among them.

    Containers keep their index by when frames are shown or by when they are decoded; where neither leads to the key
    frame, the frames come from the start of the file. Frames shown before the key frame are left out: after a seek,
    they lack references.
    """
    stream = container.streams.best("video")
    shown, decoded = table.keys[key]
    for time in (shown, decoded) if key else ():
        container.seek(time, stream=stream)
        frames = (frame for frame in _frames(container, times) if frame.pts is not None and frame.pts >= shown)
        first = next(frames, None)
        if first is not None and first.pts == shown:
            return chain([first], frames)
    return _frames(_open(Path(container.name)) if key else container, times)


def _frames(container: av.container.InputContainer, times: Collection[int] = ()) -> Iterator[av.VideoFrame]:
    """The undamaged frames from here on, in the order shown; broken packets are passed over, as `open_video` does.

    times: only these are needed, others may be left out; by default, all are.
    """
    stream = container.streams.best("video")
    can_skip = bool(times) and stream.codec_context.name == "h264"  # B-frames that nothing refers to
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            if can_skip:
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in times else "NONREF"
            frames = packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            continue
        yield from (frame for frame in frames if not frame.is_corrupt)


def _open(path: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableFrameError(f"{path} cannot be read as a video ({reason})") from None
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        container.close()
        raise UnreadableFrameError(f"{path} has no video stream that can be decoded")
    stream.thread_type = "SLICE"  # threads of frames would start on frames that nobody wants
    return container
