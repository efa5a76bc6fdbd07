"""The motion that the video codec already computed, accumulated to the key frame.

Legend: N frames · (rows, columns) cells of 8 × 8 pixels of the network's input
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from keywarp.alignment.classical import DISFlow
from keywarp.alignment.correspondence import Aligner, FlowField
from keywarp.ops import resize_flow
from keywarp.structures import Frame, Memory, MotionChain, MotionField
from keywarp.transform import CELL


class CodecMotion(Aligner):
    """Flow from H.264 / MPEG-4 motion vectors; `fallback` where there are none (intra-coded blocks and frames).

    Its `FlowField.fallback` says for each frame which share of it that was: 1 for a frame without any vectors.
    """

    uses_codec_motion = True

    def __init__(self, fallback: DISFlow | None = None) -> None:
        super().__init__()
        self.fallback = fallback or DISFlow()

    def remember(self, frame: Frame) -> list[np.ndarray]:
        """What the fallback remembers."""
        return self.fallback.remember(frame)

    def forward(self, reference: Memory, current: Frame) -> FlowField:
        """The flow on the grid of 8-pixel cells."""
        N, _, height, width = current.image.shape
        rows, columns = -(-height // CELL), -(-width // CELL)
        chains = current.motion if current.motion is not None else [MotionChain()] * N
        fields = np.stack(_to_key(chains, rows, columns))  # [N, rows, columns, 2]
        missing = np.isnan(fields[..., 0])
        flow = torch.from_numpy(fields).permute(0, 3, 1, 2)
        holes = [n for n in range(N) if missing[n].any()]
        if holes:
            some = Frame(current.image[holes])
            filling = resize_flow(self.fallback(reference, some).flow.cpu(), (rows, columns)) * CELL
            flow[holes] = torch.where(torch.from_numpy(missing[holes])[:, None], filling, flow[holes])
        return FlowField((flow / CELL).to(current.image.device), fallback=tuple(float(m.mean()) for m in missing))


def _to_key(chains: Sequence[MotionChain], rows: int, columns: int) -> list[MotionField]:
    """For each frame the motion to its key, NaN where it is unknown."""
    # The frames share a key: each chain is the beginning (backwards: the end) of the longest one of its direction.
    after = max((c.fields for c in chains if not c.backwards), key=len, default=())
    before = max((c.fields for c in chains if c.backwards), key=len, default=())
    since_key, until_key = accumulate(after, rows, columns), accumulate_backwards(before, rows, columns)
    return [(until_key if c.backwards else since_key)[len(c.fields)] for c in chains]


def accumulate(fields: Sequence[MotionField], rows: int, columns: int) -> list[MotionField]:
    """For each beginning of the chain the motion from its last frame to the key frame before it, `[rows, columns, 2]`.

    The first entry is the empty beginning: nothing is known (NaN). Unknown motion on the way stays unknown.
    """
    total = np.zeros((rows, columns, 2), np.float32)
    totals = [np.full_like(total, np.nan)]
    for field in fields:
        # F_i(p) = v_i(p) + F_{i−1}(p + v_i(p))
        total = field + _fetch(total, field)
        totals.append(total)
    return totals


def accumulate_backwards(fields: Sequence[MotionField], rows: int, columns: int) -> list[MotionField]:
    """For each end of the chain the motion from the frame before it to the key frame, which is its last frame.

    The codec says where the key's content was; each cell of it carries its motion, reversed, to the place where it
    was. Places that no cell comes from stay unknown. The first entry is the empty end.
    """
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    total = np.zeros((rows, columns, 2), np.float32)  # from the key to the earlier frame
    totals = [np.full_like(total, np.nan)]
    for field in reversed(fields):
        total = total + _fetch(field, total)
        known = ~np.isnan(total[..., 0])
        column = np.round(x[known] + total[known][:, 0] / CELL).astype(int)
        row = np.round(y[known] + total[known][:, 1] / CELL).astype(int)
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        reversed_ = np.full_like(total, np.nan)
        reversed_[row[inside], column[inside]] = -total[known][inside]
        totals.append(reversed_)
    return totals


def _fetch(field: MotionField, motion: MotionField) -> MotionField:
    """`field` at p + motion(p); beyond the border it is as at the border, and unknown where the motion is."""
    rows, columns = motion.shape[:2]
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    there = np.nan_to_num(motion) / CELL
    fetched = cv2.remap(field, x + there[..., 0], y + there[..., 1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    fetched[np.isnan(motion[..., 0])] = np.nan
    return fetched
