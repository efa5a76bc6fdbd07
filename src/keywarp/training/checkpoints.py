"""Where a run can go on from: one file of tensors and plain values, whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keywarp.errors import UserError
from keywarp.files import replacing


@dataclass(frozen=True)
class Checkpoint:
    """progress: step, best value, validations since. network, optimiser: their states. mean: of the running mean of the
    weights, or None. config: of the run."""

    progress: Mapping[str, Any]
    network: Mapping[str, Tensor]
    optimiser: Mapping[str, Any]
    mean: Mapping[str, Tensor] | None
    config: Mapping[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Under a temporary name, then renamed. Raises OSError, and leaves the one before, when the disk is full."""
    with replacing(path) as temporary:
        try:
            torch.save(vars(checkpoint), temporary)
        except RuntimeError as error:  # torch reports a full disk so
            raise OSError(str(error).splitlines()[0]) from error


def read_checkpoint(path: Path) -> Checkpoint | None:
    """What `write_checkpoint` wrote; None if there is none. Never unpickles code."""
    if not path.exists():
        return None
    try:
        return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file makes torch.load raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} is no checkpoint of a training run ({reason}); remove it to start anew") from None
