"""Label maps in folders: Cityscapes' sequences (one frame in 30 labelled), and CamVid in SegNet's layout.

Cityscapes: ROOT/leftImg8bit_sequence/SPLIT/CITY/CITY_SNIPPET_FRAME_leftImg8bit.png and ROOT/gtFine/SPLIT/CITY/
…_gtFine_labelTrainIds.png or …_labelIds.png. CamVid: ROOT/SPLIT/NAME.png or .jpg and ROOT/SPLITannot/NAME.png.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keywarp.data.datasets import Annotation, Frames, Video, VideoDataset
from keywarp.data.frames import ImageFrames, images_in, read_label_map
from keywarp.data.tables import read_class_names
from keywarp.errors import UserError

__all__ = ["CAMVID", "CITYSCAPES", "camvid_splits", "cityscapes_splits", "read_camvid", "read_cityscapes"]

CITYSCAPES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""The 19 classes that are evaluated, with their numbers in labelIds; all others are unknown (255)."""

CAMVID = (
    "sky",
    "building",
    "pole",
    "road",
    "sidewalk",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
"""The 11 classes in SegNet's layout; higher numbers are unknown (255)."""

LARGEST_STEP = 5
"""Images whose numbers are further apart are no frames of one video (CamVid's training images are a second apart)."""

SNIPPET = (19, 10)
"""Frames of a Cityscapes snippet before the labelled one, and after it."""


@dataclass
class MaskVideo(Video):
    """A video with label maps in files, by frame. meaning: `[256]` uint8, the class of each number in them."""

    name: str
    frames: Frames
    labelled: Sequence[int]
    masks: Mapping[int, Path]
    meaning: np.ndarray
    fps: float = 25.0

    def annotation(self, index: int) -> Annotation:
        return Annotation(mask=self.meaning[read_label_map(self.masks[index])])


def cityscapes_splits(path: Path) -> tuple[str, ...]:
    """The splits with images and label maps."""
    folders = (path / "leftImg8bit_sequence", path / "gtFine")
    return tuple(split for split in ("train", "val") if all((folder / split).is_dir() for folder in folders))


def read_cityscapes(path: Path, split: str) -> VideoDataset:
    """A video of 30 frames around each label map. Raises UserError."""
    videos = [video for city in sorted((path / "gtFine" / split).iterdir()) for video in _snippets(path, split, city)]
    return VideoDataset(f"{path} {split}", (), videos, tuple(CITYSCAPES))


def _snippets(path: Path, split: str, city: Path) -> Iterator[MaskVideo]:
    folder = path / "leftImg8bit_sequence" / split / city.name
    there = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    is_train_ids = any(city.glob("*_gtFine_labelTrainIds.png"))
    meaning = _meaning(range(len(CITYSCAPES)) if is_train_ids else CITYSCAPES.values())
    ending = "_gtFine_labelTrainIds.png" if is_train_ids else "_gtFine_labelIds.png"
    for label_map in sorted(city.glob(f"*{ending}")):
        name = label_map.name.removesuffix(ending)
        sequence, _, number = name.rpartition("_")
        if not number.isdigit() or f"{name}_leftImg8bit.png" not in there:
            raise UserError(f"{label_map} has no frame; wanted {folder / name}_leftImg8bit.png")
        around = range(int(number) - SNIPPET[0], int(number) + SNIPPET[1] + 1)
        images = [f"{sequence}_{n:06d}_leftImg8bit.png" for n in around]
        images = [image for image in images if image in there]
        index = images.index(f"{name}_leftImg8bit.png")
        yield MaskVideo(name, ImageFrames(images, folder), (index,), {index: label_map}, meaning, fps=17.0)


def camvid_splits(path: Path) -> tuple[str, ...]:
    """The splits with images and label maps."""
    splits = ("train", "val", "test")
    return tuple(split for split in splits if all((path / f"{split}{what}").is_dir() for what in ("", "annot")))


def read_camvid(path: Path, split: str) -> VideoDataset:
    """Images whose numbers follow one another are a video; the others are stills.

    ROOT/classes.txt, one name a line, replaces CamVid's classes.
    """
    classes = read_class_names(path / "classes.txt") or CAMVID
    folder, annotations = path / split, path / f"{split}annot"
    label_maps = {p.stem: p for p in annotations.glob("*.png")}
    videos = []
    for names in _runs(images_in(folder)):
        masks = {i: label_maps[Path(name).stem] for i, name in enumerate(names) if Path(name).stem in label_maps}
        if masks:
            frames = ImageFrames(names, folder)
            videos.append(MaskVideo(Path(names[0]).stem, frames, tuple(masks), masks, _meaning(range(len(classes)))))
    return VideoDataset(f"{path} {split}", (), videos, classes)


def _runs(names: Sequence[str]) -> Iterator[list[str]]:
    """Names, in natural order, cut where the text before the number changes or the number leaps."""
    run: list[str] = []
    for name in names:
        if run and not _follows(run[-1], name):
            yield run
            run = []
        run.append(name)
    if run:
        yield run


def _follows(before: str, after: str) -> bool:
    first, second = (re.fullmatch(r"(.*?)(\d+)", Path(name).stem) for name in (before, after))
    if first is None or second is None or first[1] != second[1]:
        return False
    return 0 < int(second[2]) - int(first[2]) <= LARGEST_STEP


def _meaning(numbers: Iterable[int]) -> np.ndarray:
    """`[256]` uint8: the first of these numbers is class 0, and so on; all others are unknown, 255."""
    table = np.full(256, 255, np.uint8)
    for label, number in enumerate(numbers):
        table[number] = label
    return table
