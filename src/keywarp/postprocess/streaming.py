"""Seq-NMS and Seq-NMS+ for live video: every frame is answered at once, from the frames up to it.

Legend: M boxes of a frame, K of them kept
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from keywarp.errors import UserError
from keywarp.postprocess.linking import check_overlaps, paths, survivors
from keywarp.postprocess.seq_nms import RESCORES, half_mean_half_max, rescored
from keywarp.structures import Detections, VideoDetections


class _Past(NamedTuple):
    """A frame of the window: the boxes that can be linked, and the track each was answered with, −1 for none `[M]`."""

    detections: Detections
    tracks: np.ndarray


class StreamingSeqNMS:
    """Seq-NMS+ (with `plus`; else Seq-NMS with the mean) over the last `window` frames, one frame after the other.

    An answer is what the function for whole videos gives for the last frame of the window: a score is that of the
    path up to this frame. Later frames are not known yet and answers are never changed, so a new object's score
    becomes steady over its first frames, and what lies before the window no longer counts. One of these is for one
    video. It keeps the boxes of `window` frames and no more.
    """

    def __init__(
        self,
        *,
        window: int = 30,
        plus: bool = True,
        link_iou: float = 0.5,
        nms_iou: float = 0.3,
        smallest_sum: float = 1e-2,
    ) -> None:
        """Raises UserError for options out of range."""
        if window < 1:
            raise UserError(f"window must be at least 1 frame, got {window}")
        check_overlaps(link_iou=link_iou, nms_iou=nms_iou)
        self.plus = plus
        self.link_iou, self.nms_iou, self.smallest_sum = link_iou, nms_iou, smallest_sum
        self._past: deque[_Past] = deque(maxlen=window)
        self._tracks = 0

    def push(self, detections: Detections) -> tuple[Detections, Tensor]:
        """The boxes of the next frame that are kept, rescored, and their tracks `[K]` int64; on the CPU.

        A track keeps its number from frame to frame for as long as its boxes stay linked. Push frames without boxes
        too: they break links.
        """
        detections = detections.cpu()
        if self.plus:
            detections = detections[torch.from_numpy(survivors(VideoDetections.of([detections]), self.nms_iou))]
        tracks = np.full(len(detections), -1)
        self._past.append(_Past(detections, tracks))
        window = VideoDetections.of([past.detections for past in self._past])
        path = paths(
            window,
            link_iou=self.link_iou,
            smallest_sum=self.smallest_sum,
            suppress_iou=np.inf if self.plus else self.nms_iou,
        )
        found = rescored(window, path, half_mean_half_max if self.plus else RESCORES["mean"])
        found = found[found.frames == len(self._past) - 1]
        stays = survivors(found, self.nms_iou)
        rows = np.flatnonzero(path[len(window) - len(detections) :] >= 0)[stays]
        assert found.tracks is not None
        tracks[rows] = self._continued(path, found.tracks[stays])
        kept = Detections(detections.boxes[rows], torch.from_numpy(found.scores[stays]), detections.labels[rows])
        return kept, torch.from_numpy(tracks[rows])

    def _continued(self, path: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """The tracks that the `kept` paths `[K]` go on with: each the latest that one of its boxes was answered with.

        A track that a more recent box has claimed goes to no second one; who finds none gets a new number.
        """
        answered = np.concatenate([past.tracks for past in self._past])
        position = {number: k for k, number in enumerate(kept.tolist())}
        tracks = np.full(len(kept), -1)
        for row in np.flatnonzero((answered >= 0) & np.isin(path, kept))[::-1]:
            k = position[int(path[row])]
            if tracks[k] < 0 and answered[row] not in tracks:
                tracks[k] = answered[row]
        new = np.flatnonzero(tracks < 0)
        tracks[new] = self._tracks + np.arange(len(new))
        self._tracks += len(new)
        return tracks
