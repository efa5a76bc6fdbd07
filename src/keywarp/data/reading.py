"""Annotated videos from disk: finds the format from what lies there, and hands over to its reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from keywarp.data import coco_vid, imagenet_vid, mot, segmentation_folders, video_csv, youtube_vis
from keywarp.data.datasets import UnreadableFrameError, VideoDataset
from keywarp.errors import UserError
from keywarp.files import laid_out_as

__all__ = ["open_dataset", "split_of", "splits"]


@dataclass(frozen=True)
class Format:
    """One layout on disk.

    layout: what it is known by, for messages. splits: those under a path; none where it is another layout. read: the
    data set of one of them.
    """

    layout: str
    splits: Callable[[Path], tuple[str, ...]]
    read: Callable[[Path, str], VideoDataset]


def open_dataset(address: str | Path, split: str = "train") -> VideoDataset:
    """The annotated videos of one split. address: a folder or JSON file; docs/datasets.md lists the layouts.

    A data set without splits on disk has the only split "all". Raises UserError.
    """
    path = Path(address)
    form, available = _find(path)
    if split not in available:
        if available == ("all",):
            raise UserError(
                f"{path} has no split {split!r}: it is one whole, named 'all'; "
                "keep videos to train and to validate on in two folders or files"
            )
        raise UserError(f"{path} has no split {split!r}; it has {', '.join(available)}")
    try:
        with laid_out_as(form.layout, path):
            dataset = form.read(path, split)
    except UnreadableFrameError as error:
        raise UserError(str(error)) from None
    if not len(dataset.videos):
        raise UserError(f"{path} lists no videos in the split {split}; wanted at least one")
    return dataset


def splits(address: str | Path) -> tuple[str, ...]:
    """The splits that lie there; ("all",) for a data set that is one whole. Raises UserError."""
    return _find(Path(address))[1]


def split_of(address: str, default: str = "train") -> tuple[str, str]:
    """Data set and split of FOLDER or FOLDER:SPLIT; of a data set without splits, all of it."""
    folder, colon, split = address.rpartition(":")
    if colon and folder and "/" not in split and "\\" not in split:
        return folder, split
    return address, "all" if splits(address) == ("all",) else default


def _find(path: Path) -> tuple[Format, tuple[str, ...]]:
    if not path.exists():
        raise UserError(f"no such data set: {path}; give a folder or a JSON file")
    for form in FORMATS:
        if available := form.splits(path):
            return form, available
    wanted = "; ".join(form.layout for form in FORMATS)
    raise UserError(f"{path} holds no data set in a known layout; looked for {wanted}")


def _json_splits(path: Path) -> tuple[str, ...]:
    if path.is_file():
        return ("all",) if path.suffix == ".json" else ()
    return tuple(coco_vid.split_files(path))


def _read_json(path: Path, split: str) -> VideoDataset:
    file = path if path.is_file() else coco_vid.split_files(path)[split]
    document = coco_vid.load_json(file)
    read = youtube_vis.read if youtube_vis.is_youtube_vis(document) else coco_vid.read
    return read(file, split, document)


FORMATS = (
    Format("ImageSets/VID and Data/VID (ImageNet VID)", imagenet_vid.splits, imagenet_vid.read),
    Format("FILE.json, SPLIT.json or annotations/NAME_SPLIT.json (COCO-VID, YouTube-VIS)", _json_splits, _read_json),
    Format("labels.csv or SPLIT.csv (videos and a table)", video_csv.splits, video_csv.read),
    Format("SEQUENCE/gt/gt.txt or SEQUENCE.gt.txt (MOTChallenge)", mot.splits, mot.read),
    Format(
        "leftImg8bit_sequence/SPLIT (Cityscapes)",
        segmentation_folders.cityscapes_splits,
        segmentation_folders.read_cityscapes,
    ),
    Format("SPLIT with SPLITannot (CamVid)", segmentation_folders.camvid_splits, segmentation_folders.read_camvid),
)
