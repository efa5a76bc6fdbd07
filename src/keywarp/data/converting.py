"""`keywarp data convert`: a data set in another format."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from keywarp.data import dataset_writers as writers
from keywarp.data.datasets import UnreadableFrameError, VideoDataset
from keywarp.data.placing import Place
from keywarp.data.reading import open_dataset, splits
from keywarp.errors import InterruptedWorkError, UserError, unknown

__all__ = ["WRITERS", "convert"]

WRITERS: dict[str, Callable[[VideoDataset, str, Place], None]] = {
    "coco-vid": writers.write_coco_vid,
    "youtube-vis": writers.write_youtube_vis,
    "mot": writers.write_mot,
    "csv": writers.write_csv,
    "imagenet-vid": writers.write_imagenet_vid,
}


def convert(dataset: str, output: Path, *, to: str = "coco-vid", split: str = "all") -> None:
    """Write a data set's splits in another format into the new folder `output`, which is whole or absent.

    Videos are not encoded again: they are named where they lie. Where a format wants images, image files are linked to
    and the frames of video files are written as JPEG. Raises UserError; InterruptedWorkError for an unreadable frame.
    """
    if to not in WRITERS:
        raise unknown("format", to, WRITERS)
    if output.exists():
        raise UserError(f"{output} exists already; give the name of a new folder")
    datasets = {name: open_dataset(dataset, name) for name in (splits(dataset) if split == "all" else (split,))}
    for each in datasets.values():
        if not each.classes:
            raise UserError(f"{dataset} has label maps and no boxes; convert writes boxes")
        if len({writers.flat(video.name) for video in each.videos}) < len(each.videos):
            raise UserError(f"{dataset} has videos whose names differ in / and - alone; rename one of them")
    place = Place(output, output.with_name(f".{output.name}.partial"))
    shutil.rmtree(place.partial, ignore_errors=True)
    try:
        place.partial.mkdir(parents=True)
        for name, each in datasets.items():
            WRITERS[to](each, name, place)
        place.partial.rename(output)
    except UnreadableFrameError as error:
        raise InterruptedWorkError(f"{error}; nothing was written") from None
    finally:
        shutil.rmtree(place.partial, ignore_errors=True)
    print(f"{output}: {sum(len(each.videos) for each in datasets.values())} videos in the format {to}")
