"""Motion fields from the vectors a video codec stored: where each block of a frame lies in the frame shown before it.

Legend: M vectors · (rows, columns) cells of 8 × 8 pixels of the upright frame

A codec's vector points to a *reference* frame, which need not be the frame shown just before. Motion between the two
is read as linear in time: of a vector to a reference at time r, a frame at time t shown after one at time s gets the
share (t − s) / (t − r); without B-frames that is 1. FFmpeg tells past from future but not which of several past
references a block used, so the nearest one is assumed (x264 from `medium` on uses several, which then doubles some
vectors).
"""

from __future__ import annotations

from collections import deque

import av
import numpy as np
from av.codec.context import Flags2
from av.sidedata.sidedata import SideDataContainer

from keywarp.data.orientation import Orientation
from keywarp.structures import MotionField

CELL = 8
"""Pixels a side of a motion field's cell: the smallest block FFmpeg exports."""

LONGEST_CHAIN = 300
"""So many motion fields at most are handed out with one frame."""

_REFERENCES = 16  # H.264 keeps at most so many
_STORES_B_VECTORS = ("h264", "mpeg1video", "mpeg2video")  # for MPEG-4's B-frames FFmpeg exports stale zeros


def unknown_motion(height: int, width: int) -> MotionField:
    """The field of a frame of which no motion is known: all NaN."""
    return np.full((-(-height // CELL), -(-width // CELL), 2), np.nan, np.float32)


def bounded(chain: tuple[MotionField, ...]) -> tuple[MotionField, ...]:
    """The chain, or one unknown field when it is longer than `LONGEST_CHAIN`."""
    return chain if len(chain) <= LONGEST_CHAIN else (np.full_like(chain[-1], np.nan),)


def motion_field(
    vectors: np.ndarray, height: int, width: int, past: float, future: float, orientation: Orientation
) -> MotionField:
    """The field `[rows, columns, 2]` of a frame recorded with this size, upright, in pixels; NaN = unknown.

    vectors: `[M]` with FFmpeg's AVMotionVector fields. past, future: the share of a vector to a past or future
    reference that falls between the frame shown before and this one; NaN when the distance is not known.
    Of a block's several vectors a past one is kept.
    """
    rows, columns = unknown_motion(*orientation.size(height, width)).shape[:2]
    is_past = vectors["source"] < 0
    moved = np.stack([vectors["motion_x"], vectors["motion_y"]], 1).astype(np.float32)
    moved *= (
        np.where(is_past, past, -future).astype(np.float32)[:, None] / np.maximum(vectors["motion_scale"], 1)[:, None]
    )
    moved = orientation.vectors(moved)  # [M, 2]
    centre = np.stack([vectors["dst_x"], vectors["dst_y"]], 1).astype(np.int32)
    x, y = orientation.points(centre, height, width).T
    wide, high = (vectors["h"], vectors["w"]) if orientation.transposed else (vectors["w"], vectors["h"])
    # The first cell whose centre lies in the block. Blocks overhang the frame by less than two cells: a margin of two.
    left, top = (x - wide // 2 + CELL // 2 - 1) // CELL + 2, (y - high // 2 + CELL // 2 - 1) // CELL + 2
    stride = columns + 4
    cell = top * stride + left
    canvas = np.full((rows + 4) * stride, complex(np.nan, np.nan), np.complex64)  # dx + i·dy: one assignment moves both
    value = np.ascontiguousarray(moved).view(np.complex64)[:, 0]
    for chosen in _past_last(vectors, is_past):
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            covers = chosen[(wide[chosen] > right * CELL) & (high[chosen] > down * CELL)]
            canvas[cell[covers] + down * stride + right] = value[covers]
    canvas = np.ascontiguousarray(canvas.reshape(rows + 4, stride)[2:-2, 2:-2])
    return canvas.view(np.float32).reshape(rows, columns, 2)


def _past_last(vectors: np.ndarray, is_past: np.ndarray) -> list[np.ndarray]:
    """Positions of the vectors, in groups to be written one over the other."""
    if is_past.all():
        return [np.arange(len(vectors))]
    # FFmpeg exports both directions for each quarter of a B-block, with zero for the one that a quarter does not use.
    unused = (vectors["w"] == 8) & (vectors["h"] == 8) & (vectors["motion_x"] == 0) & (vectors["motion_y"] == 0)
    return [np.flatnonzero(group) for group in (unused, ~unused & ~is_past, ~unused & is_past)]


class MotionReader:
    """Reads the motion field of each frame a decoder shows.

    Give it each packet before it is decoded (`note`) and each frame as it is shown (`field`).
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self._codec = stream.codec_context
        # Frame threads export vectors of frames still being decoded by another thread, so the fields would vary.
        self._codec.thread_type = "SLICE"
        self._codec.flags2 |= Flags2.export_mvs
        self._codec.copy_opaque = True
        self._references: deque[int] = deque(maxlen=_REFERENCES)  # their times, in decoding order
        self._shown: int | None = None

    def note(self, packet: av.Packet) -> None:
        """Remember which references the packet's frame can have."""
        time = packet.pts
        if time is None:
            return
        past = max((t for t in self._references if t < time), default=None)
        future = min((t for t in self._references if t > time), default=None)
        packet.opaque = (past, future)
        # Before H.264 a frame shown before one that was decoded earlier is a B-frame, and never a reference.
        if future is None if self._codec.name != "h264" else _is_reference(packet, self._codec.extradata):
            self._references.append(time)

    def field(self, frame: av.VideoFrame, orientation: Orientation) -> MotionField:
        """The motion field of the next frame that is shown."""
        before, self._shown = self._shown, frame.pts
        # Not frame.side_data: it would make the frame refer to itself, and frames would pile up.
        vectors = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]
        shares = self._shares(frame, before)
        if vectors is None or shares is None:
            return unknown_motion(*orientation.size(frame.height, frame.width))
        return motion_field(vectors.to_ndarray(), frame.height, frame.width, *shares, orientation)

    def _shares(self, frame: av.VideoFrame, before: int | None) -> tuple[float, float] | None:
        is_b = frame.pict_type == av.video.frame.PictureType.B
        if is_b and self._codec.name not in _STORES_B_VECTORS:
            return None
        if frame.opaque is None or frame.pts is None or before is None:
            return None if self._codec.has_b_frames else (1.0, np.nan)
        past, future = frame.opaque
        step = frame.pts - before
        return (
            np.nan if past is None else step / (frame.pts - past),
            np.nan if future is None else step / (future - frame.pts),
        )


def _is_reference(packet: av.Packet, extradata: bytes | None) -> bool:
    """Whether other frames may refer to an H.264 packet's: the nal_ref_idc of its first slice (ITU-T H.264, 7.4.1)."""
    data = bytes(packet)
    if extradata and extradata[0] == 1:  # each unit after its length
        width = (extradata[4] & 3) + 1
        at = width
        while at < len(data):
            if data[at] & 31 in (1, 2, 5):
                return data[at] >> 5 & 3 > 0
            at += int.from_bytes(data[at - width : at], "big") + width
    else:  # each unit after a start code
        at = data.find(b"\0\0\1") + 3
        while 3 <= at < len(data):
            if data[at] & 31 in (1, 2, 5):
                return data[at] >> 5 & 3 > 0
            at = data.find(b"\0\0\1", at) + 3
    return True
