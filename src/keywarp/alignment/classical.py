"""Flow that needs no training of ours: OpenCV's DIS (the fast classical method) and torchvision's RAFT.

The "shallow feature flow" of 004 (SFF: any flow function serves, the scale field is one everywhere).
Legend: N frames · K = 1 or N references · (H, W) pixels · (h, w) the flow's grid
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import get_model

from keywarp.alignment.correspondence import Aligner, FlowField
from keywarp.errors import unknown
from keywarp.networks.weight_files import load_weights, torchvision_state
from keywarp.structures import Frame, Memory

DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}

LUMA = np.array([[0.299, 0.587, 0.114]], np.float32)


class DISFlow(Aligner):
    """Dense inverse search on small grey images, on the CPU.

    The images are shrunk to half their size, and until their longer side has at most `longer` pixels: the features'
    cells are coarser still, and more resolution did not raise accuracy. preset: "ultrafast", "fast" or "medium".
    """

    def __init__(self, longer: int = 320, preset: str = "ultrafast") -> None:
        super().__init__()
        if preset not in DIS_PRESETS:
            raise unknown("DIS preset", preset, DIS_PRESETS)
        self.longer = longer
        self.preset = preset

    def remember(self, frame: Frame) -> list[np.ndarray]:
        """The grey images, `[h, w]` uint8 each."""
        return self._grey(frame.image)

    def forward(self, reference: Memory, current: Frame) -> FlowField:
        """The flow on the shrunk images' grid."""
        keys = reference.work if reference.work is not None else self._grey(reference.image)
        flow = self.flow(keys, self._grey(current.image))
        return FlowField(flow.to(current.image.device))

    def flow(self, keys: Sequence[np.ndarray], greys: Sequence[np.ndarray]) -> Tensor:
        """`[N, 2, h, w]` in pixels of the grey images, from each to its key (or to the only one)."""
        # An estimator's result depends on the images it saw before: each pair gets its own.
        flows = [
            cv2.DISOpticalFlow.create(DIS_PRESETS[self.preset]).calc(grey, keys[n if len(keys) > 1 else 0], None)
            for n, grey in enumerate(greys)
        ]
        return torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2)

    def _grey(self, image: Tensor) -> list[np.ndarray]:
        height, width = image.shape[-2:]
        ratio = min(0.5, self.longer / max(height, width))
        # The coarsest of DIS's scales must still hold its 8-pixel patches, or it reads outside the image: narrow and
        # tiny images are stretched.
        least = max(48, round(0.375 * max(height, width) * ratio))
        size = max(least, round(width * ratio)), max(least, round(height * ratio))
        greys = []
        for rgb in image.to(torch.uint8).cpu().numpy():
            red, green, blue = (cv2.resize(channel, size, interpolation=cv2.INTER_AREA) for channel in rgb)
            greys.append(cv2.transform(cv2.merge([red, green, blue]), LUMA).reshape(size[::-1]))
        return greys


class RAFTFlow(Aligner):
    """torchvision's RAFT at reduced resolution: accurate and slow, a yardstick for the others.

    size: "small" or "large". longer: as in `DISFlow`. weights: "DEFAULT" (torchvision downloads them once), a file, or
    None (random). updates: refinement iterations.
    """

    def __init__(
        self, size: str = "small", *, weights: str | Path | None = "DEFAULT", longer: int = 512, updates: int = 12
    ) -> None:
        super().__init__()
        if size not in ("small", "large"):
            raise unknown("RAFT size", size, ("small", "large"))
        self.network = get_model(f"raft_{size}", weights=None)
        if weights is not None:
            load_weights(self.network, torchvision_state(f"raft_{size}", weights))
        self.longer = longer
        self.updates = updates

    def forward(self, reference: Memory, current: Frame) -> FlowField:
        """The flow on the reduced images' grid."""
        now = self._input(current.image)
        then = self._input(reference.image).expand_as(now)
        return FlowField(self.network(now, then, num_flow_updates=self.updates)[-1])

    def _input(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        ratio = min(1.0, self.longer / max(height, width))
        # Sides are multiples of 8 and, for its correlation pyramid, at least 128 pixels.
        size = [max(128, round(side * ratio / 8) * 8) for side in (height, width)]
        return F.interpolate(image.float(), size=size, mode="bilinear", align_corners=False) / 127.5 - 1
