"""Losses beside the head's: functions of a step's output.

Legend: N frames · C channels · (h, w) feature cells
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from keywarp.structures import StepOutput


def transformation_residual(weight: float = 0.65) -> Callable[[StepOutput], dict[str, Tensor]]:
    """TRL (000, Eq. 3): smooth L1 between the references' aligned features and the frame's own.

    Mean over positions and channels, and over the references; times λ = `weight`.
    """

    def loss(output: StepOutput) -> dict[str, Tensor]:
        if not output.aligned or output.own is None:
            return {}
        (own,) = output.own
        residuals = [F.smooth_l1_loss(aligned, own) for (aligned,) in output.aligned]
        return {"transformation_residual": weight * torch.stack(residuals).mean()}

    return loss


def update_area(weight: float = 2.0) -> Callable[[StepOutput], dict[str, Tensor]]:
    """The area computed anew (001, Eq. 12): λ times the share of cells p with U(p) = 1, mean over the frames; λ =
    `weight`.

    The equation has the sum over p. With λ = 2, which the paper finds best, one cell would then cost more than the
    whole detection loss, and nothing would ever be computed anew; with the mean its Figures 5 and 6 make sense.
    """

    def loss(output: StepOutput) -> dict[str, Tensor]:
        if output.update_mask is None:
            return {}
        return {"update_area": weight * output.update_mask.mean()}

    return loss
