"""COCO-VID JSON, mmtracking's format for annotated videos; plain COCO too, each of its images a still.

Beside the format as it is known, a video may be a file (`videos[].file_name`, with `length` and `fps`; then `images`
lists its labelled frames only, without file names), an image may have a label map (`mask_file`, values: 0 background,
then the classes in order), and an image with `"labelled": false` is a frame without annotations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keywarp.data.datasets import VideoDataset
from keywarp.data.frames import ImageFrames, VideoFileFrames
from keywarp.data.tables import Box, BoxTable, TableVideo, check_names
from keywarp.errors import UserError
from keywarp.files import laid_out_as, read_json

__all__ = [
    "IMAGE_FOLDERS",
    "class_positions",
    "image_folder",
    "image_positions",
    "load_json",
    "read",
    "split_files",
]

IMAGE_FOLDERS = ("", "data", "Data/VID", "{split}", "{split}/JPEGImages", "JPEGImages", "images", "{split}/images")
"""Where images are looked for, from the JSON file's folder and then from the one above."""

Entry = Mapping[str, Any]


def split_files(root: Path) -> dict[str, Path]:
    """JSON files by split: ROOT/SPLIT.json, ROOT/annotations/SPLIT.json or ROOT/annotations/NAME_SPLIT.json."""
    found: dict[str, Path] = {}
    for split in ("train", "val", "test", "all"):
        named = [root / f"{split}.json", root / "annotations" / f"{split}.json"]
        files = [p for p in named if p.is_file()] or sorted((root / "annotations").glob(f"*_{split}.json"))
        if len(files) > 1:
            raise UserError(f"{files[0]} and {files[1].name} are both the split {split}; give the file itself")
        if files:
            found[split] = files[0]
    return found


def load_json(path: Path) -> dict[str, Any]:
    """A data set's JSON file, checked for being one. Raises UserError."""
    document = read_json(path)
    if not isinstance(document, dict) or not {"categories", "annotations"} <= document.keys():
        raise UserError(f"{path} is no annotation file: wanted an object with categories, annotations and images")
    return document


def class_positions(document: Entry, path: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    """The class names by ascending id, and the position of each id."""
    categories = sorted(document["categories"], key=lambda c: c["id"])
    names = tuple(str(c["name"]) for c in categories)
    if len(set(names)) < len(names):
        raise UserError(f"{path} names a category twice; wanted each once")
    return names, {c["id"]: position for position, c in enumerate(categories)}


def image_folder(path: Path, names: Iterable[str], split: str) -> Path:
    """The folder that these images lie in. Raises UserError where none of the usual ones has one of them."""
    names = list(names)
    options = [base / f.format(split=split) for base in (path.parent, path.parent.parent) for f in IMAGE_FOLDERS]
    for folder in options:
        if any((folder / name).exists() for name in names):
            return folder
    if not names:
        return path.parent
    raise UserError(
        f"{path}: {names[0]} was found neither beside it nor in {', '.join(f for f in IMAGE_FOLDERS if f)} there "
        f"or one folder up".replace("{split}", split)
    )


def image_positions(path: Path) -> tuple[dict[Any, tuple[int, int]], dict[int, int]]:
    """Of a data set's file: the video's position and the frame of each image id, and the label of each category id.

    For results that name images by id. Raises UserError where the file is in another format, or uses an id twice.
    """
    if path.suffix != ".json" or not path.is_file():
        raise UserError(f"results by image id need a data set in a COCO-VID file, {path} is none")
    document = load_json(path)
    with laid_out_as("COCO-VID", path):
        _, labels = class_positions(document, path)
        of_videos = document.get("videos") or [{"id": image["id"]} for image in document["images"]]
        numbers = {video["id"]: (n, "file_name" in video) for n, video in enumerate(of_videos)}
        ranks: dict[int, int] = defaultdict(int)
        positions: dict[Any, tuple[int, int]] = {}
        for image in sorted(document["images"], key=lambda image: image.get("frame_id", 0)):
            number, is_file = numbers[image["video_id"] if document.get("videos") else image["id"]]
            if image["id"] in positions:
                raise UserError(f"{path}: image id {image['id']} occurs twice; wanted each once")
            positions[image["id"]] = number, int(image["frame_id"]) if is_file else ranks[number]
            ranks[number] += 1
    return positions, labels


def read(path: Path, split: str, document: Entry) -> VideoDataset:
    """The data set of one JSON file with this content. Raises UserError."""
    with laid_out_as("COCO-VID", path):
        return _dataset(document, path, split)


def _dataset(document: Entry, path: Path, split: str) -> VideoDataset:
    classes, position = class_positions(document, path)
    images: Sequence[Entry] = document["images"]
    boxes = _boxes_by_image(document, {image["id"] for image in images}, position, path)
    videos: Sequence[Entry] = document.get("videos") or [{"id": image["id"]} for image in images]
    by_video: dict[Any, list[Entry]] = {video["id"]: [] for video in videos}
    for image in images:
        video = image["video_id"] if document.get("videos") else image["id"]
        if video not in by_video:
            raise UserError(f"{path}: image {image['id']} is of video {video}, which is not listed")
        by_video[video].append(image)
    # Training lists of few frames a video: the others have annotations that the protocol does not use.
    few = any(image.get("is_vid_train_frame") for image in images)
    files = [image["file_name"] for image in images if "file_name" in image]
    folder = image_folder(path, files[:: max(1, len(files) // 5)], split)
    read_videos = [_video(v, by_video[v["id"]], boxes, folder, path.parent, few) for v in videos]
    check_names(read_videos, path)
    masks = ("background", *classes) if any("mask_file" in image for image in images) else ()
    return VideoDataset(str(path), classes, read_videos, masks)


def _video(
    video: Entry, images: list[Entry], boxes: Mapping[Any, list[Box]], folder: Path, beside: Path, few: bool
) -> TableVideo:
    """One video; its images in order are its frames, or name those of its file."""
    images = sorted(images, key=lambda image: image.get("frame_id", 0))
    if "file_name" in video:
        frames: ImageFrames | VideoFileFrames = VideoFileFrames(beside / video["file_name"], video.get("length"))
        positions = [int(image["frame_id"]) for image in images]
    else:
        frames = ImageFrames([image["file_name"] for image in images], folder)
        positions = list(range(len(images)))
    labelled, masks, found = [], {}, []
    for index, image in zip(positions, images, strict=True):
        if not image.get("labelled", True) or (few and not image.get("is_vid_train_frame")):
            continue
        labelled.append(index)
        found += [box._replace(frame=index) for box in boxes.get(image["id"], ())]
        if "mask_file" in image:
            masks[index] = beside / image["mask_file"]
    sized = next((entry for entry in (video, *images) if "height" in entry and "width" in entry), None)
    return TableVideo(
        name=str(video.get("name") or video.get("file_name") or images[0]["file_name"]),
        frames=frames,
        labelled=labelled,
        table=BoxTable.of(found),
        size=None if sized is None else (int(sized["height"]), int(sized["width"])),
        fps=float(video.get("fps") or 25),
        masks=masks,
    )


def _boxes_by_image(document: Entry, images: set[Any], position: Mapping[int, int], path: Path) -> dict[Any, list[Box]]:
    """Boxes of each image, of frame 0 for now; those of crowds and those to ignore are left out."""
    boxes: dict[Any, list[Box]] = defaultdict(list)
    for each in document["annotations"]:
        if each["image_id"] not in images:
            raise UserError(f"{path}: an annotation is of image {each['image_id']}, which is not listed")
        if each["category_id"] not in position:
            raise UserError(f"{path}: an annotation has category {each['category_id']}, which is not listed")
        if each.get("iscrowd") or each.get("ignore"):
            continue
        x, y, width, height = map(float, each["bbox"])
        track = each.get("instance_id", each.get("track_id"))
        label = position[each["category_id"]]
        boxes[each["image_id"]].append(Box(0, x, y, x + width, y + height, label, -1 if track is None else int(track)))
    return boxes
