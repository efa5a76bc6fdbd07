"""One video stream, decoded picture by picture: files, addresses and cameras through FFmpeg."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import av
import av.device
import numpy as np
from av.video.reformatter import VideoReformatter

from keywarp.data.motion import MotionReader, bounded
from keywarp.data.orientation import Orientation
from keywarp.errors import UserError
from keywarp.structures import MotionField

TIMEOUT = 10.0
"""Seconds to wait for an address to answer."""


@dataclass(frozen=True)
class Selection:
    """Every stride-th of the decoded frames start … stop − 1."""

    start: int = 0
    stop: int | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        if self.start < 0 or self.stride < 1 or (self.stop is not None and self.stop <= self.start):
            got = f"start {self.start}, stop {self.stop}, stride {self.stride}"
            raise UserError(f"wanted 0 <= start < stop and stride >= 1, got {got}")

    def of(self, available: int) -> range:
        """Positions of the frames that are handed out of so many."""
        return range(self.start, available if self.stop is None else min(self.stop, available), self.stride)

    def takes(self, position: int) -> bool:
        """Whether the frame at this position is handed out (one before `stop`)."""
        return position >= self.start and (position - self.start) % self.stride == 0

    def ends(self, position: int) -> bool:
        """Whether no frame after this one is handed out."""
        return self.stop is not None and position >= self.of(self.stop)[-1]


@dataclass(frozen=True)
class Picture:
    """A frame to hand out.

    image: `[H, W, 3]` uint8 RGB, upright. time: seconds from the video's start. motion: a field for each decoded frame
    since the picture before, oldest first; empty when not asked for. file_name: of a picture in a folder.
    """

    image: np.ndarray
    time: float
    motion: tuple[MotionField, ...] = ()
    file_name: str | None = None


class Decoder:
    """The selected pictures of one video stream, in the order shown; an iterator that holds one frame.

    Broken frames are skipped; `warnings` says so, and when fewer frames came than were announced. Raises UserError
    when nothing can be decoded.
    """

    def __init__(self, address: str, name: str, selection: Selection, *, motion: bool = False) -> None:
        self.name = name
        self.warnings: list[str] = []
        self._selection = selection
        self._container = _open(address, name)
        try:
            self._stream = _video_stream(self._container, name)
            self._stream.thread_type = "AUTO"
            self._motion = MotionReader(self._stream) if motion else None
            self._convert = VideoReformatter()  # one for all frames: it keeps its tables
            self._frames: Iterator[av.VideoFrame] = self._decode()
            first = next(self._frames, None)  # its side data tells how the camera was held
            if first is None:
                raise UserError(f"{name} has no frame that can be decoded; re-encode it or choose another video")
        except BaseException:
            self._container.close()
            raise
        self._orientation = Orientation.of(first)
        self._frames = chain([first], self._frames)
        self._start: int | None = None
        self.height, self.width = self._orientation.size(first.height, first.width)
        self.fps: Fraction = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        self.endless = self._container.duration is None
        self.available = self._announced()

    def __iter__(self) -> Iterator[Picture]:
        selection, position, time = self._selection, -1, 0.0
        motion: tuple[MotionField, ...] = ()
        while (frame := next(self._frames, None)) is not None:
            position += 1
            time = self._time(frame, time, position)
            if self._motion:
                field = self._motion.field(frame, self._orientation)
                motion = bounded((*motion, field)) if position > selection.start else (field,)
            if selection.takes(position):
                yield Picture(self._rgb(frame), time, motion)
                motion = ()
            if selection.ends(position):
                return
        if position < selection.start:
            raise UserError(f"start {selection.start} is past the end: {self.name} has {position + 1} frames")
        announced = self._stream.frames  # 0 where the container does not say
        if position + 1 < announced:
            self.warnings.append(f"{self.name}: {position + 1} of {announced} announced frames could be decoded")

    def close(self) -> None:
        """Close the file or connection."""
        self._container.close()

    def _announced(self) -> int | None:
        if self._stream.frames:
            return self._stream.frames
        if self._stream.duration:
            return round(self._stream.duration * self._stream.time_base * self.fps)
        return round(self._container.duration / 1_000_000 * self.fps) if self._container.duration else None

    def _time(self, frame: av.VideoFrame, before: float, position: int) -> float:
        if position == 0:
            self._start = frame.pts
        if frame.pts is None or self._start is None:
            return before + float(1 / self.fps) if position else 0.0
        return float((frame.pts - self._start) * self._stream.time_base)

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        image = self._convert.reformat(frame, format="rgb24").to_ndarray()
        return self._orientation.image(image)

    def _decode(self) -> Iterator[av.VideoFrame]:
        broken = 0
        for packet in self._packets():
            try:
                frames = packet.decode() if packet is not None else self._stream.decode(None)
            except av.error.EOFError:
                break
            except av.error.FFmpegError:
                broken += 1
                continue
            broken += sum(frame.is_corrupt for frame in frames)
            yield from (frame for frame in frames if not frame.is_corrupt)
        if broken:
            self.warnings.append(f"{self.name}: skipped {broken} broken frames")

    def _packets(self) -> Iterator[av.Packet | None]:
        """The stream's packets, then None, which makes the decoder hand out what it holds."""
        try:
            for packet in self._container.demux(self._stream):
                if not packet.size:
                    continue
                if self._motion:
                    self._motion.note(packet)
                yield packet
        except av.error.FFmpegError as error:
            self.warnings.append(f"{self.name}: reading stopped early ({error.strerror})")
        yield None


def _open(address: str, name: str) -> av.container.InputContainer:
    format: str | None = None
    options: dict[str, str] = {}
    try:
        if address.startswith("camera:"):
            address, format, options = _camera(address)
        elif address.startswith("rtsp"):
            options = {"rtsp_transport": "tcp"}  # UDP loses packets, which smears the picture
        timeout = (TIMEOUT, TIMEOUT) if "://" in address or format else None
        return av.open(address, format=format, options=options, timeout=timeout)
    except av.error.InvalidDataError:
        raise UserError(
            f"{name} cannot be read as a video: it is not one, or it was cut off before it was complete"
        ) from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot open {name}: {reason}; check that it exists and can be read") from None


def _camera(address: str) -> tuple[str, str, dict[str, str]]:
    """FFmpeg's (file, format, options) for `camera:0` on this system."""
    number = address.removeprefix("camera:")
    if not number.isdigit():
        raise UserError(f"a camera is named camera:0, camera:1, …; got {address!r}")
    if sys.platform == "darwin":
        return f"{number}:none", "avfoundation", {"framerate": "30"}
    if sys.platform == "win32":
        found = [d.name for d in av.device.enumerate_input_devices("dshow") if "video" in d.media_types]
        if int(number) >= len(found):
            raise UserError(f"{address} was not found; this computer has {len(found)} cameras")
        return f"video={found[int(number)]}", "dshow", {}
    return f"/dev/video{number}", "v4l2", {}


def _video_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        raise UserError(f"{name} has no video stream; give a file with pictures in it")
    if stream.codec_context is None:
        raise UserError(f"{name} uses a video codec that cannot be decoded here; convert it to H.264 first")
    return stream
