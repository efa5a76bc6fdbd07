"""ImageNet VID and the stills of ImageNet DET, in their own folders: ILSVRC2015/{Annotations,Data,ImageSets}/{VID,DET}.

Which frames count is told by the lists that the papers use, where they lie in ImageSets (plain or gzip), or made from
the disk. Annotations (XML) are read when they are asked for.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from keywarp.data.datasets import Annotation, Frames, UnreadableFrameError, Video, VideoDataset
from keywarp.data.frames import ImageFrames
from keywarp.data.imagenet_classes import IMAGENET_VID
from keywarp.errors import UserError

__all__ = ["read", "splits"]

FRAMES_A_VIDEO = 15
"""Training frames of each video, however long (000, sec. 5.1)."""

_LABELS = {synset: label for label, synset in enumerate(IMAGENET_VID.values())}


@dataclass
class ImageNetVideo(Video):
    """One video, or a still of DET. annotations: the folder of its files `STEM.xml`. stems: theirs, by frame."""

    name: str
    frames: Frames
    labelled: Sequence[int]
    annotations: Path
    stems: Sequence[str]

    def annotation(self, index: int) -> Annotation:
        return read_xml(self.annotations / f"{self.stems[index]}.xml")


def read_xml(path: Path) -> Annotation:
    """The objects of the 30 classes, clipped to the picture; the others of DET's are skipped.

    Coordinates as they are stored, from 0; the right and bottom sides at most W − 1 and H − 1. Raises
    UnreadableFrameError.
    """
    try:
        root = ElementTree.parse(path).getroot()
        right, bottom = (float(root.findtext(f"size/{side}", "")) - 1 for side in ("width", "height"))
        found = [each for each in root.iter("object") if each.findtext("name") in _LABELS]
        boxes = [[float(each.findtext(f"bndbox/{s}", "")) for s in ("xmin", "ymin", "xmax", "ymax")] for each in found]
        tracks = [int(each.findtext("trackid", "-1")) for each in found]
    except FileNotFoundError:
        raise UnreadableFrameError(f"{path} is missing") from None
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise UnreadableFrameError(f"{path} cannot be read as an ImageNet annotation ({error})") from None
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    corners[:, :2] = corners[:, :2].clip(min=0)
    corners[:, 2:] = np.minimum(corners[:, 2:], np.array([right, bottom], np.float32))
    labels = [_LABELS[each.findtext("name", "")] for each in found]
    return Annotation(corners, np.array(labels, np.int64), np.array(tracks, np.int64))


def splits(path: Path) -> tuple[str, ...]:
    """The splits under ILSVRC2015, the folder it lies in, or Data/VID or Data/DET in it."""
    if (located := _locate(path)) is None:
        return ()
    root, kind = located
    return tuple(split for split in ("train", "val") if (root / "Data" / kind / split).is_dir())


def read(path: Path, split: str) -> VideoDataset:
    """ImageNet VID; ImageNet DET for the address …/Data/DET. Raises UserError."""
    located = _locate(path)
    assert located is not None
    root, kind = located
    annotations, images = root / "Annotations" / kind, root / "Data" / kind
    if not annotations.is_dir():
        raise UserError(f"{annotations} is missing; wanted the XML annotations there")
    videos: Sequence[Video]
    if kind == "DET":
        videos = _Stills(tuple(_still_names(root, split)), annotations, images)
    else:
        listed = _listed(root, split) or _from_disk(images, split)
        videos = [
            ImageNetVideo(name, ImageFrames(_Images(stems), images / name), labelled, annotations / name, stems)
            for name, stems, labelled in listed
        ]
    return VideoDataset(f"ImageNet {kind} {split}", tuple(IMAGENET_VID), videos)


def _locate(path: Path) -> tuple[Path, str] | None:
    """The folder of Data and Annotations, and which of its two data sets is meant."""
    if path.name in ("VID", "DET") and path.parent.name in ("Data", "ImageSets", "Annotations"):
        return path.parent.parent, path.name
    for root in (path, path / "ILSVRC2015", path / "ILSVRC"):
        if (root / "Data" / "VID").is_dir():
            return root, "VID"
    return None


def _lines(root: Path, kind: str, name: str) -> Iterator[list[str]]:
    """The words of each line of a list in ImageSets; nothing where it is not there."""
    for folder in (root / "ImageSets" / kind, root / "ImageSets"):
        for path in (folder / f"{name}.txt", folder / f"{name}.txt.gz"):
            if path.is_file():
                with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
                    for number, line in enumerate(file, 1):
                        if words := line.split():
                            yield [*words, f"{path}, line {number}"]
                return


Listed = tuple[str, Sequence[str], Sequence[int]]
"""Name, stems, labelled frames."""


def _listed(root: Path, split: str) -> list[Listed]:
    """Videos by the lists of the papers' authors, else by the official list of validation frames."""
    labelled: dict[str, set[int]] = {}
    lengths: dict[str, int] = {}
    if split == "train":
        for name, frame, length in _numbers(_lines(root, "VID", "VID_train_15frames")):
            labelled.setdefault(name, set()).add(frame)
            lengths[name] = length
        return [(name, _Stems(lengths[name]), sorted(frames)) for name, frames in labelled.items()]
    for name, _, length in _numbers(_lines(root, "VID", f"VID_{split}_videos")):
        lengths[name] = length
    if not lengths:
        for path, *_ in _lines(root, "VID", split):
            name = path.rpartition("/")[0]
            name = name if name.startswith(f"{split}/") else f"{split}/{name}"
            lengths[name] = lengths.get(name, 0) + 1
    return [(name, _Stems(length), range(length)) for name, length in lengths.items()]


def _numbers(lines: Iterable[list[str]]) -> Iterator[tuple[str, int, int]]:
    """Folder and the last two numbers of lines "folder number number number"."""
    for words in lines:
        try:
            name, _, frame, length = words[:-1]
            yield name, int(frame), int(length)
        except ValueError:
            raise UserError(f"{words[-1]}: wanted a folder and three numbers, got {' '.join(words[:-1])!r}") from None


def _from_disk(images: Path, split: str) -> list[Listed]:
    """Every folder of images: 15 frames of each to train on, all to validate on."""
    found: list[Listed] = []
    for folder, _, files in sorted(os.walk(images / split)):
        if stems := sorted(file[:-5] for file in files if file.endswith(".JPEG")):
            every = range(len(stems)) if split != "train" else training_frames(len(stems))
            found.append((Path(folder).relative_to(images).as_posix(), stems, every))
    return found


def training_frames(length: int) -> list[int]:
    """The frames of a training video that count, evenly spread: floor((i + ½)·length / 15), each once."""
    return sorted({(2 * i + 1) * length // (2 * FRAMES_A_VIDEO) for i in range(FRAMES_A_VIDEO)})


def _still_names(root: Path, split: str) -> dict[str, None]:
    """Stills of DET: those with the 30 classes by the papers' list, else all but those in folders of other classes."""
    listed = dict.fromkeys(words[0] for words in _lines(root, "DET", f"DET_{split}_30classes"))
    if listed:
        return listed
    annotations = root / "Annotations" / "DET"
    found: dict[str, None] = {}
    for folder, _, files in sorted(os.walk(annotations / split)):
        name = Path(folder)
        if len(name.name) == 9 and name.name[0] == "n" and name.name[1:].isdigit() and name.name not in _LABELS:
            continue
        within = name.relative_to(annotations).as_posix()
        found |= dict.fromkeys(f"{within}/{file[:-4]}" for file in sorted(files) if file.endswith(".xml"))
    return found


@dataclass(frozen=True)
class _Stills(Sequence[Video]):
    """Each still a video of one frame, made when it is asked for."""

    names: tuple[str, ...]
    annotations: Path
    images: Path

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Video:  # type: ignore[override]
        name = self.names[index]
        return ImageNetVideo(name, ImageFrames([f"{name}.JPEG"], self.images), (0,), self.annotations, (name,))


@dataclass(frozen=True)
class _Stems(Sequence[str]):
    """000000, 000001, …: so many, none of them kept."""

    total: int

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return f"{range(self.total)[index]:06d}"


@dataclass(frozen=True)
class _Images(Sequence[str]):
    stems: Sequence[str]

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return f"{self.stems[index]}.JPEG"
