"""Videos out: H.264 in MP4 that browsers play, and that stays playable whatever happens while it is written."""

from __future__ import annotations

import heapq
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from operator import itemgetter
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from keywarp.data.video import VideoSource
from keywarp.errors import InterruptedWorkError, UserError

CLOCK = 90000
"""Ticks a second of the timestamps."""

_PLAYABLE = "frag_keyframe+empty_moov+default_base_moof"  # each group of pictures stands on its own in the file
_GROUP_SECONDS = 2  # so much at most is lost to a killed process


class VideoWriter:
    """Writes frames with their timestamps, and copies the sound of `source`. A context manager.

    While it runs, the frames are in `.<stem>.partial.mp4` beside `path`, which is playable at any moment; `close`
    turns it into `path` in one step. Leaving the block with an exception keeps the frames written so far.

    fps: frames a second as the file announces them; the frames' own times decide when they are shown. width, height:
    of the frames; odd sizes gain a pixel. crf: 0 (lossless) … 51. threads: of the encoder, 0 leaves it to choose; its
    choice changes the file's bytes. warnings: what was left out, one line each.
    Raises UserError when `path` cannot be written, InterruptedWorkError when writing fails midway.
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        fps: Fraction | float,
        source: VideoSource | None = None,
        crf: int = 20,
        threads: int = 0,
    ) -> None:
        if width < 1 or height < 1 or fps <= 0:
            raise UserError(f"a video needs a size and a frame rate above 0, got {width}×{height} at {float(fps)}")
        self.path = Path(path)
        if source is not None and source.path is not None and source.path.resolve() == self.path.resolve():
            raise UserError(f"{self.path} is the video being read; choose another output")
        self.warnings: list[str] = []
        self.frames_written = 0
        self._source = source
        self._partial = self.path.with_name(f".{self.path.stem}.partial.mp4")
        self._fps = Fraction(fps).limit_denominator(100_000)
        self._size = (height, width)
        self._first_time = 0.0
        self._pts = -1
        self._convert = VideoReformatter()
        even = width + width % 2, height + height % 2
        try:
            self._container, self._stream = _open_partial(self._partial, *even, self._fps, crf, threads)
        except (OSError, av.error.FFmpegError) as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; choose another output") from None
        self._state = "open"  # then "broken" when a write failed, then "closed"

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, image: np.ndarray, time: float) -> None:
        """Append a frame: `[H, W, 3]` uint8 RGB, shown at `time` seconds (as `VideoFrame.time`)."""
        if self._state != "open":
            raise InterruptedWorkError(f"{self.path} can take no more frames: writing it failed or it was closed")
        if self.frames_written == 0:
            self._first_time = time
        self._pts = max(self._pts + 1, round((time - self._first_time) * CLOCK))
        try:
            self._container.mux(self._stream.encode(self._frame(image)))
        except (OSError, av.error.FFmpegError) as error:
            self._state = "broken"
            raise InterruptedWorkError(
                f"cannot write {self.path} after {self.frames_written} frames: {error.strerror}; "
                "what was written before stays playable"
            ) from None
        self.frames_written += 1

    def close(self) -> None:
        """Finish the file. Raises InterruptedWorkError when it came out playable, but without its end or its sound."""
        if self._state == "closed":
            return
        told, self._state = self._state == "broken", "closed"
        cut = self._end_partial(told)
        if self.frames_written == 0:
            self._partial.unlink(missing_ok=True)
            return
        finished = self.path.with_name(f".{self.path.stem}.finished.mp4")
        plain = None
        try:
            plain = None if told or cut else self._finish(finished)
            whole = not (told or cut or plain)
            os.replace(finished if whole else self._partial, self.path)
        except OSError as error:
            raise InterruptedWorkError(
                f"cannot put the video at {self.path}: {error.strerror}; it is in {self._partial}"
            ) from None
        finally:
            finished.unlink(missing_ok=True)
        if cut and not told:
            raise InterruptedWorkError(f"{self.path} is playable but cut short: {cut}; free some space and try again")
        if plain:
            raise InterruptedWorkError(
                f"{self.path} holds all {self.frames_written} frames but no sound and no quick start: {plain}"
            )
        self._partial.unlink(missing_ok=True)

    def abort(self) -> None:
        """Keep what was written so far as a playable file; never raises for a disk that is full."""
        try:
            self.close()
        except InterruptedWorkError as error:
            self.warnings.append(str(error))

    def _frame(self, image: np.ndarray) -> av.VideoFrame:
        if image.shape[:2] == self._size:
            image = np.pad(image, ((0, self._size[0] % 2), (0, self._size[1] % 2), (0, 0)), mode="edge")
        frame = self._convert.reformat(  # which also fits a frame whose size changed midway
            av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"),
            width=self._stream.width,
            height=self._stream.height,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        frame.pts, frame.time_base = self._pts, Fraction(1, CLOCK)
        frame.duration = self._last_duration
        return frame

    @property
    def _last_duration(self) -> int:
        return max(1, round(CLOCK / self._fps))

    def _end_partial(self, told: bool) -> str | None:
        """Empty the encoder into the partial file and close it; what went wrong, if anything did."""
        failure = None
        try:
            if not told and self.frames_written:
                self._container.mux(self._stream.encode(None))
        except (OSError, av.error.FFmpegError) as error:
            failure = error.strerror or str(error)
        try:
            self._container.close()
        except (OSError, av.error.FFmpegError) as error:
            failure = failure or error.strerror or str(error)
        if told or failure:
            _drop_cut_fragment(self._partial)
        return failure

    def _finish(self, finished: Path) -> str | None:
        """Write the final file without encoding again; what went wrong, if anything did."""
        failure = None
        for sound in (self._sound(), None):
            try:
                self.warnings += _remux(self._partial, sound, finished)
                with av.open(str(finished)) as check:
                    complete = check.streams.video[0].frames == self.frames_written
                return None if complete else "the disk refused to take more"
            except (av.error.FFmpegError, ValueError) as error:
                failure = getattr(error, "strerror", None) or str(error)
            if sound is None:
                break
            self.warnings.append(f"{self.path.name}: the sound could not be copied ({failure})")
        return failure

    def _sound(self) -> _Sound | None:
        source = self._source
        if source is None or source.path is None or not source.path.is_file():
            return None
        end = self._first_time + (self._pts + self._last_duration) / CLOCK
        return _Sound(source.path, self._first_time, end)


class _Sound:
    """The sound packets of a video file between two times of its picture, as they are. A context manager."""

    def __init__(self, path: Path, start: float, end: float) -> None:
        self.path = path
        self._start, self._end = start, end

    def __enter__(self) -> _Sound:
        self._container = av.open(str(self.path))
        self.stream = self._container.streams.best("audio")
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def packets(self) -> Iterator[tuple[float, av.Packet]]:
        """Each with its time in seconds, counted from the start."""
        base, video = self.stream.time_base, self._container.streams.best("video")
        origin = float((video.start_time or 0) * video.time_base)
        start, end = round((origin + self._start) / base), round((origin + self._end) / base)
        self._container.seek(start, stream=self.stream)
        for packet in self._container.demux(self.stream):
            if packet.pts is None or packet.pts < start:
                continue
            if packet.pts >= end:
                return
            packet.pts = packet.dts = packet.pts - start
            yield float(packet.pts * base), packet


def _open_partial(
    partial: Path, width: int, height: int, fps: Fraction, crf: int, threads: int
) -> tuple[av.container.OutputContainer, av.VideoStream]:
    # 'flush_packets' hands every fragment to the system at once, so that a killed process loses none.
    options = {"movflags": _PLAYABLE, "flush_packets": "1"}
    container = av.open(str(partial), "w", format="mp4", options=options)
    # Without B-frames what is decoded first is shown first, so timestamps need no edit list.
    stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": str(crf), "bf": "0"})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    codec = stream.codec_context
    codec.thread_count = threads
    codec.time_base = Fraction(1, CLOCK)
    codec.gop_size = max(1, round(_GROUP_SECONDS * fps))
    codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
    codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    container.start_encoding()  # opens the file, so that a wrong path is found now
    return container, stream


def _drop_cut_fragment(path: Path) -> None:
    """Cut a fragmented MP4 that breaks off back to its last whole fragment: some readers stumble over the rest."""
    size, end, whole = path.stat().st_size, 0, 0
    with open(path, "r+b") as file:
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            if length < 8 or end + length > size:
                break
            end += length
            if kind != b"moof":  # whose pictures are in the box after it
                whole = end
            file.seek(end)
        file.truncate(whole)


def _remux(partial: Path, sound: _Sound | None, finished: Path) -> list[str]:
    """Copy picture and sound into a file that plays while it still loads; warnings about what was left out."""
    with ExitStack() as opened:
        picture = opened.enter_context(av.open(str(partial)))
        out = opened.enter_context(av.open(str(finished), "w", format="mp4", options={"movflags": "+faststart"}))
        video = picture.streams.video[0]
        outputs = {"video": out.add_stream_from_template(video)}
        tracks = [_timed(picture, video)]
        warnings = []
        if sound is not None and opened.enter_context(sound).stream is not None:
            context = sound.stream.codec_context  # None where FFmpeg has no decoder
            codec = context.codec.canonical_name if context else "of an unknown kind"
            if codec in out.supported_codecs:
                outputs["audio"] = out.add_stream_from_template(sound.stream)
                tracks.append(sound.packets())
            else:
                warnings.append(f"{sound.path.name}: its sound ({codec}) does not fit into MP4 and was left out")
        for _, packet in heapq.merge(*tracks, key=itemgetter(0)):
            packet.stream = outputs[packet.stream.type]
            out.mux(packet)
    return warnings


def _timed(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[tuple[float, av.Packet]]:
    for packet in container.demux(stream):
        if packet.dts is not None:
            yield float(packet.dts * stream.time_base), packet
