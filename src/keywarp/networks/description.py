"""What a weight file says of its model: enough to build it, and where it comes from."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
import torchvision
from torch import nn

from keywarp import __version__
from keywarp.errors import UserError
from keywarp.interfaces import FeatureNetwork
from keywarp.transform import ImageTransform


class Normalisation(TypedDict):
    """What the network does to its input, by itself. mean, std: of the three colours; values are 0…255."""

    colours: str
    mean: list[float]
    std: list[float]


class Description(TypedDict, total=False):
    """The `keywarp` entry of a weight file's header, as JSON.

    method, arguments: of `METHODS`, and what its builder is called with (backbone, task, input size …). classes: names
    by label, of boxes or, with the task segmentation, of pixels. These three build the model; the others inform:

    input: the resizing rule (`ImageTransform`). normalisation: checked when the file is loaded. versions: of keywarp,
    torch, torchvision, and the commit of a keywarp that runs from its repository. training: data, step, and the
    configuration with its seed. metrics: values by name.
    """

    method: str
    arguments: dict[str, Any]
    classes: list[str]
    input: dict[str, Any]
    normalisation: Normalisation
    versions: dict[str, str]
    training: dict[str, Any]
    metrics: dict[str, float]


def completed(module: nn.Module, given: Mapping[str, Any]) -> Description:
    """The description, with what can be read off the model and the installation."""
    versions = {"keywarp": __version__, "torch": torch.__version__, "torchvision": torchvision.__version__}
    if commit := _commit():
        versions["commit"] = commit
    own: Description = {"versions": versions}
    if (normalisation := normalisation_of(module)) is not None:
        own["normalisation"] = normalisation
    transform = getattr(module, "transform", None)
    if isinstance(transform, ImageTransform):
        own["input"] = asdict(transform)
    return cast(Description, {**given, **own})


def normalisation_of(module: nn.Module) -> Normalisation | None:
    """How its backbone normalises images; None where it has none of ours."""
    for part in module.modules():
        if isinstance(part, FeatureNetwork) and part.architecture is not None:
            mean, std = ([round(v, 4) for v in part.get_buffer(name).flatten().tolist()] for name in ("mean", "std"))
            return {"colours": "RGB", "mean": mean, "std": std}
    return None


def check_normalisation(module: nn.Module, description: Description, file: Path) -> None:
    """Raises UserError if the file's network was trained on images that were normalised in another way."""
    wanted, got = description.get("normalisation"), normalisation_of(module)
    if wanted is not None and wanted != got:
        raise UserError(
            f"{file} was trained with the normalisation {wanted}, the network built here has {got}; "
            "leave out what changes the backbone"
        )


def readable(description: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The description of a model, or of a flow network, as names and lines of text."""
    classes, training = description.get("classes", []), description.get("training", {})
    rows = [
        ("method", description.get("method", "")),
        ("flow network", description.get("flow", "")),
        ("arguments", _pairs(description.get("arguments", {}))),
        ("classes", f"{len(classes)}: {', '.join(classes)}" if classes else ""),
        ("input", _pairs(description.get("input", {}))),
        ("normalisation", _pairs(description.get("normalisation", {}))),
        ("versions", _pairs(description.get("versions", {}))),
        ("data", ", ".join(map(str, training.get("data", [])))),
        ("training", _pairs({k: v for k, v in training.items() if k not in ("data", "config")})),
        ("configuration", _pairs(training.get("config", {}))),
        ("metrics", _pairs({k: round(v, 4) for k, v in description.get("metrics", {}).items()})),
    ]
    return [(name, text) for name, text in rows if text]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, [], {}, ""))


@cache
def _commit() -> str | None:
    """The commit of keywarp's repository; None of an installed package, whatever repository it may lie in."""
    command = ["git", "-C", str(Path(__file__).parents[1]), "log", "-1", "--format=%H", "--", "."]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
