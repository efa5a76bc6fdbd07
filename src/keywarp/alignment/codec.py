"""The motion that the video codec already computed, accumulated back to the key frame.

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
from keywarp.structures import Frame, Memory, MotionField

CELL = 8


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
        chains: Sequence[Sequence[MotionField]] = current.motion if current.motion is not None else [()] * N
        # The frames share a key, so each one's chain is the beginning of the longest.
        totals = accumulate(max(chains, key=len), rows, columns)
        fields = np.stack([totals[len(chain)] for chain in chains])  # [N, rows, columns, 2]
        missing = np.isnan(fields[..., 0])
        flow = torch.from_numpy(fields).permute(0, 3, 1, 2)
        holes = [n for n in range(N) if missing[n].any()]
        if holes:
            some = Frame(current.image[holes])
            filling = resize_flow(self.fallback(reference, some).flow.cpu(), (rows, columns)) * CELL
            flow[holes] = torch.where(torch.from_numpy(missing[holes])[:, None], filling, flow[holes])
        return FlowField((flow / CELL).to(current.image.device), fallback=tuple(float(m.mean()) for m in missing))


def accumulate(chain: Sequence[MotionField], rows: int, columns: int) -> list[MotionField]:
    """For each beginning of the chain the motion over all of it, `[rows, columns, 2]`: from its last frame to the key.

    The first entry is the empty beginning: nothing is known (NaN). Unknown motion on the way stays unknown.
    """
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    total = np.zeros((rows, columns, 2), np.float32)
    totals = [np.full_like(total, np.nan)]
    for field in chain:
        there = np.nan_to_num(field) / CELL
        # F_i(p) = v_i(p) + F_{i−1}(p + v_i(p)); what comes from outside moves like the border.
        carried = cv2.remap(
            total, x + there[..., 0], y + there[..., 1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
        )
        total = field + carried
        totals.append(total)
    return totals
