"""One process or many: what `torchrun` started, through lightning-fabric."""

from __future__ import annotations

import os
from typing import Any

import torch

from keywarp.errors import UserError


class Processes:
    """The processes of a run. Under `torchrun` as many as it started, on one machine or several; else this one.

    device: "auto" (CUDA where present), "cpu" or "cuda".
    """

    def __init__(self, device: str = "auto") -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--device must be auto, cpu or cuda, got {device!r}; torchrun chooses among several GPUs")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device cuda was asked for, but no CUDA device is available here; use --device cpu")
        self.accelerator = "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        self.fabric: Any = None

    def start(self, precision: str) -> Any:
        """The `lightning_fabric.Fabric` that runs this process's part, launched."""
        try:
            from lightning_fabric import Fabric
            from lightning_fabric.strategies import DDPStrategy
        except ImportError:
            raise UserError("training needs lightning-fabric: pip install 'keywarp[train]'") from None
        on_each = int(os.environ.get("LOCAL_WORLD_SIZE", self.world))
        self.fabric = Fabric(
            accelerator=self.accelerator,
            # Stills leave the aligner without a gradient.
            strategy=DDPStrategy(find_unused_parameters=True) if self.world > 1 else "auto",
            devices=on_each,
            num_nodes=self.world // on_each,
            precision="bf16-mixed" if precision == "bf16" else "32-true",
        )
        self.fabric.launch()
        return self.fabric

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean over the processes, by name; a name that a process lacks counts as zero there."""
        if self.world == 1:
            return values
        gathered = self.gather(values)
        names = dict.fromkeys(name for each in gathered for name in each)
        return {name: sum(each.get(name, 0.0) for each in gathered) / self.world for name in names}

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in their order."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    @property
    def rank(self) -> int:
        """0 … world − 1."""
        return int(os.environ.get("RANK", 0)) if self.world > 1 else 0
