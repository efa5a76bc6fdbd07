"""MOTChallenge: ROOT/SEQUENCE/{img1, gt/gt.txt, seqinfo.ini}, or SEQUENCE.gt.txt beside SEQUENCE.mp4 or a folder.

A line of gt.txt: frame (from 1), track, left, top, width, height, flag, class, visibility. Lines with flag 0 are left
out; coordinates are taken as they are stored. Every frame is labelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import Path

from keywarp.data.datasets import Frames, VideoDataset
from keywarp.data.frames import find_frames
from keywarp.data.tables import Box, BoxTable, TableVideo
from keywarp.errors import UserError

__all__ = ["CLASSES", "read", "splits"]

CLASSES = (
    "person",
    "person on vehicle",
    "car",
    "bicycle",
    "motorbike",
    "non motorized vehicle",
    "static person",
    "distractor",
    "occluder",
    "occluder on the ground",
    "occluder full",
    "reflection",
    "crowd",
)
"""MOT16's and later ones', from 1 in the files; MOT15 has persons only, of class −1."""


def splits(path: Path) -> tuple[str, ...]:
    """train, val, test where they hold sequences with annotations; all where the folder itself holds them."""
    if not path.is_dir():
        return ()
    if _sequences(path):
        return ("all",)
    return tuple(split for split in ("train", "val", "test") if _sequences(path / split))


def read(path: Path, split: str) -> VideoDataset:
    """Sequences of persons; of all of MOT's classes where others occur. Raises UserError."""
    sequences = _sequences(path if split == "all" else path / split)
    tables = {name: list(_boxes(annotations)) for name, annotations in sequences.items()}
    labels = max((box.label for boxes in tables.values() for box in boxes), default=0)
    classes = CLASSES if labels else CLASSES[:1]
    videos = [_video(name, sequences[name], boxes) for name, boxes in tables.items()]
    return VideoDataset(str(path), classes, videos)


def _sequences(root: Path) -> dict[str, Path]:
    """Annotation files by the sequence's name."""
    nested = {path.parents[1].name: path for path in sorted(root.glob("*/gt/gt.txt"))}
    return nested | {path.name.removesuffix(".gt.txt"): path for path in sorted(root.glob("*.gt.txt"))}


def _video(name: str, annotations: Path, boxes: list[Box]) -> TableVideo:
    info: dict[str, str] = {}
    if annotations.name == "gt.txt":
        folder = annotations.parents[1]
        info = _info(folder / "seqinfo.ini")
        pictures = [folder / info.get("imdir", "img1")]
    else:
        folder = annotations.parent
        pictures = [p for p in sorted(folder.glob(f"{name}*")) if p.stem == name or (p.is_dir() and p.name == name)]
    frames: Frames | None = next((found for p in pictures if (found := find_frames(p)) is not None), None)
    if frames is None:
        raise UserError(f"{annotations}: neither images nor a video of {name} lie in {folder}")
    last = max((box.frame for box in boxes), default=-1)
    if last >= len(frames):
        raise UserError(f"{annotations}: a box is in frame {last + 1}, but {name} has {len(frames)} frames")
    sized = "imwidth" in info and "imheight" in info
    size = (int(info["imheight"]), int(info["imwidth"])) if sized else None
    fps = float(info.get("framerate", 25))
    return TableVideo(name, frames, range(len(frames)), BoxTable.of(boxes), size, fps)


def _info(path: Path) -> dict[str, str]:
    parser = ConfigParser()
    try:
        parser.read(path)
        return dict(parser["Sequence"]) if parser.has_section("Sequence") else {}
    except ConfigError as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _boxes(path: Path) -> Iterator[Box]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            frame, track, x, y, width, height, flag, *rest = (float(word) for word in line.split(","))
            # MOT15 has no classes: its last three numbers are a position in the world, or −1.
            label = int(rest[0]) - 1 if len(rest) == 2 else 0
        except ValueError:
            wanted = "frame,track,left,top,width,height,flag[,class,visibility]"
            raise UserError(f"{path}, line {number}: wanted {wanted}, got {line.strip()!r}") from None
        if frame < 1 or not 0 <= label < len(CLASSES):
            raise UserError(f"{path}, line {number}: frames and classes are numbered from 1, got {line.strip()!r}")
        if flag != 0:
            yield Box(int(frame) - 1, x, y, x + width, y + height, label, int(track))
