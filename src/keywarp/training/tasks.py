"""What is minimised: one module each, from a batch to its losses, so that several processes can share its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from keywarp.model import VideoModel
from keywarp.plans import SINGLE
from keywarp.training.clips import Batch


class Task(nn.Module, ABC):
    """A network with its loss."""

    network: nn.Module

    @abstractmethod
    def forward(self, batch: Any) -> dict[str, Tensor]:
        """The losses by name, to be summed; each a mean over the batch."""


class VideoTask(Task):
    """A video model's losses on training clips (the steps of its training plan; one key step for a frame alone)."""

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self.network = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The mean over all clips of the batch, group by group."""
        model = self.network
        assert isinstance(model, VideoModel)
        totals: dict[str, Tensor] = {}
        for group in batch.groups:
            plan = SINGLE if group.clips.shape[1] == 1 else model.training_plan
            share = len(group.clips) / len(batch)
            for name, loss in model.loss(group.clips, plan.steps, group.targets).items():
                totals[name] = totals.get(name, torch.zeros((), device=loss.device)) + share * loss
        if not any(loss.requires_grad for loss in totals.values()):
            # Stills, of a model that trains nothing but what carries features: their gradient is zero, not missing.
            nothing = 0 * next(p for p in model.parameters() if p.requires_grad).sum()
            totals = {name: loss + nothing for name, loss in totals.items()}
        return totals
