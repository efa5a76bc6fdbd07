"""Pairs of images with exact flow, through torchvision's readers of Flying Chairs, FlyingThings3D and Sintel.

Legend: (H, W) pixels
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import FlyingChairs, FlyingThings3D, Sintel

from keywarp.data.datasets import UnreadableFrameError
from keywarp.errors import UserError

__all__ = ["FlowPair", "FlowPairs", "flow_splits", "open_flow_pairs"]

LIST = "FlyingChairs_train_val.txt"

FURTHEST = 1000.0
"""Pixels. FlyingThings3D has points that move further, behind the camera; no network is trained on them."""


@dataclass(frozen=True)
class FlowPair:
    """current, reference: `[H, W, 3]` uint8 RGB. flow: `[H, W, 2]` float32, (dx, dy) in pixels: where each point of the
    current image is in the reference; NaN where that is not known."""

    current: np.ndarray
    reference: np.ndarray
    flow: np.ndarray


class FlowPairs:
    """The pairs of one split, read when asked for.

    source: a flow dataset of torchvision. name: for messages.
    """

    def __init__(self, source: Any, name: str) -> None:
        self.source = source
        self.name = name

    def __len__(self) -> int:
        return len(self.source)

    def file(self, index: int) -> str:
        """The file of a pair's flow."""
        return str(self.source._flow_list[index])

    def __getitem__(self, index: int) -> FlowPair:
        """Raises UnreadableFrameError."""
        try:
            images_and_flow = self.source[index]
        except Exception as error:  # a broken file makes the readers raise nearly anything
            reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
            raise UnreadableFrameError(f"{self.file(index)}: the pair cannot be read ({reason})") from error
        current, reference = (np.asarray(image) for image in images_and_flow[:2])
        flow = np.ascontiguousarray(images_and_flow[2].transpose(1, 2, 0), np.float32)
        if not current.shape[:2] == reference.shape[:2] == flow.shape[:2]:
            sizes = ", ".join(str(a.shape[:2]) for a in (current, reference, flow))
            raise UnreadableFrameError(f"{self.file(index)}: images and flow must be of one size, got {sizes}")
        flow[~(np.abs(flow) < FURTHEST).all(axis=-1)] = np.nan
        return FlowPair(current, reference, flow)


def open_flow_pairs(address: str | Path, split: str = "train") -> FlowPairs:
    """The pairs of one split of a folder laid out like Flying Chairs, FlyingThings3D or Sintel. Raises UserError."""
    path = Path(address)
    available = flow_splits(path)
    if split not in available:
        raise UserError(f"{path} has no split {split!r} with flow; it has {', '.join(available)}")
    try:
        source = _layout(path).read(path, split)
    except (IndexError, OSError) as error:  # torchvision's, of folders that lack something
        raise UserError(f"{path} is incomplete: {error}") from None
    images, flows = [first for first, _ in source._image_list], source._flow_list
    if not flows:
        raise UserError(f"{path} lists no pairs in the split {split}; wanted at least one")
    # torchvision pairs the files off in their order: one that is missing would shift all that follow.
    numbers = [[_number(file) for file in files] for files in (images, flows)]
    if numbers[0] != numbers[1]:
        wrong = next((f for f, i, n in zip(flows, *numbers, strict=False) if i != n), path)
        raise UserError(f"{path} is incomplete: images and flows do not go together from {wrong} on; look for gaps")
    return FlowPairs(source, f"{path} ({split})")


def flow_splits(address: str | Path) -> tuple[str, ...]:
    """The splits that have flow: train and val; Sintel train alone. Raises UserError."""
    return _layout(Path(address)).splits


class _Chairs(FlyingChairs):
    """torchvision's, of a folder of any name. A pair's files go by its number, so a missing one costs no other pair."""

    def __init__(self, folder: Path, split: str) -> None:
        super(FlyingChairs, self).__init__(root=folder)
        try:
            parts = np.loadtxt(folder / LIST, dtype=np.int32, ndmin=1)
        except ValueError as error:
            raise UserError(f"{folder / LIST} must hold 1 (train) or 2 (val) on each line: {error}") from None
        for number in np.flatnonzero(parts == {"train": 1, "val": 2}[split]) + 1:
            start = f"{folder / 'data'}/{number:05d}"
            self._flow_list.append(f"{start}_flow.flo")
            self._image_list.append([f"{start}_img1.ppm", f"{start}_img2.ppm"])


@dataclass(frozen=True)
class Layout:
    """marks: what lies in the folder. splits: those with flow. read: torchvision's data set of one of them."""

    marks: tuple[str, ...]
    splits: tuple[str, ...]
    read: Callable[[Path, str], Any]


def _read_chairs(path: Path, split: str) -> Any:
    return _Chairs(path if (path / LIST).exists() else path / "FlyingChairs", split)


def _read_things(path: Path, split: str) -> Any:
    passes = _passes(path, {"clean": "frames_cleanpass", "final": "frames_finalpass"})
    return FlyingThings3D(_parent(path, "FlyingThings3D"), {"train": "train", "val": "test"}[split], passes)


def _read_sintel(path: Path, split: str) -> Any:
    passes = _passes(path, {"clean": "training/clean", "final": "training/final"})
    return Sintel(_parent(path, "Sintel"), split, passes)


LAYOUTS = (
    Layout((LIST, "data"), ("train", "val"), _read_chairs),
    Layout((f"FlyingChairs/{LIST}",), ("train", "val"), _read_chairs),
    Layout(("optical_flow",), ("train", "val"), _read_things),
    Layout(("training/flow",), ("train",), _read_sintel),
)


def _layout(path: Path) -> Layout:
    for layout in LAYOUTS:
        if all((path / mark).exists() for mark in layout.marks):
            return layout
    raise UserError(
        f"{path} holds no flow pairs; wanted a folder with {LIST} and data/ (Flying Chairs, `keywarp data "
        "synthesize-pairs`), with optical_flow/ (FlyingThings3D), or with training/flow/ (Sintel)"
    )


def _passes(path: Path, folders: dict[str, str]) -> str:
    """Which renderings are there, as torchvision calls them."""
    there = [name for name, folder in folders.items() if (path / folder).exists()]
    if not there:
        raise UserError(f"{path} has flow but no images; wanted {' or '.join(folders.values())} beside it")
    return "both" if len(there) > 1 else there[0]


def _parent(path: Path, name: str) -> Path:
    """The folder above, where torchvision looks for one of this name."""
    path = path.absolute()
    if path.name != name:
        raise UserError(f"the folder must be called {name}, got {path}; rename it")
    return path.parent


def _number(path: str) -> int:
    return int(re.findall(r"\d+", Path(path).stem)[0])
