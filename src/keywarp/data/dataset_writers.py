"""Data sets written in each format that `keywarp data convert` knows; docs/datasets.md tells what each can hold.

Legend: M objects of a frame
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import cv2

from keywarp.data.datasets import Annotation, Video, VideoDataset
from keywarp.data.frames import ImageFrames, VideoFileFrames, images_in
from keywarp.data.imagenet_classes import IMAGENET_VID
from keywarp.data.mot import CLASSES as MOT_CLASSES
from keywarp.data.placing import Place, frame_size
from keywarp.data.showing import shown
from keywarp.data.video_csv import COLUMNS
from keywarp.errors import UserError

__all__ = ["write_coco_vid", "write_csv", "write_imagenet_vid", "write_mot", "write_youtube_vis"]


def write_coco_vid(dataset: VideoDataset, split: str, place: Place) -> None:
    """SPLIT.json: every image, or the labelled frames of a video file; label maps in masks/."""
    document: dict[str, Any] = {"categories": _categories(dataset), "videos": [], "images": [], "annotations": []}
    for number, video in enumerate(shown(dataset.videos, split), 1):
        (height, width), labelled = frame_size(video), set(video.labelled)
        entry = {"id": number, "name": video.name, "width": width, "height": height, "fps": video.fps}
        is_file = isinstance(video.frames, VideoFileFrames)
        if isinstance(video.frames, VideoFileFrames):
            entry |= {"file_name": place.name_of(video.frames.path), "length": len(video.frames)}
        document["videos"].append(entry)
        for index in video.labelled if is_file else range(len(video.frames)):
            image: dict[str, Any] = {"id": len(document["images"]) + 1, "video_id": number, "frame_id": index}
            image |= {"width": width, "height": height}
            if isinstance(video.frames, ImageFrames):
                image["file_name"] = place.name_of(video.frames.folder / video.frames.names[index])
            document["images"].append(image)
            if index not in labelled:
                image["labelled"] = False
                continue
            annotation = video.annotation(index)
            if annotation.mask is not None and dataset.mask_classes == ("background", *dataset.classes):
                image["mask_file"] = f"masks/{split}/{number:06d}/{index:06d}.png"
                (place.partial / image["mask_file"]).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(place.partial / image["mask_file"]), annotation.mask)
            for box, label, track in _objects(annotation):
                found = {"id": len(document["annotations"]) + 1, "image_id": image["id"], "category_id": label + 1}
                found |= {"bbox": _xywh(box), "area": _xywh(box)[2] * _xywh(box)[3], "iscrowd": 0}
                document["annotations"].append(found | ({"instance_id": track} if track >= 0 else {}))
    (place.partial / f"{split}.json").write_text(json.dumps(document))


def write_youtube_vis(dataset: VideoDataset, split: str, place: Place) -> None:
    """SPLIT.json with the labelled frames alone; those of video files as JPEG in SPLIT/JPEGImages.

    An object without a track, or there twice in a frame, becomes a track of its own.
    """
    document: dict[str, Any] = {"categories": _categories(dataset), "videos": [], "annotations": []}
    for number, video in enumerate(shown(dataset.videos, split), 1):
        height, width = frame_size(video)
        names = _labelled_images(video, place, place.partial / split / "JPEGImages" / flat(video.name))
        entry = {"id": number, "name": video.name, "width": width, "height": height, "length": len(names)}
        document["videos"].append(entry | {"file_names": names})
        tracks: dict[Any, dict[str, Any]] = {}
        for at, index in enumerate(video.labelled):
            for position, (box, label, track) in enumerate(_objects(video.annotation(index))):
                key: Any = (track, label)
                if track < 0 or (key in tracks and tracks[key]["bboxes"][at] is not None):
                    key = (at, position, label)
                if key not in tracks:
                    tracks[key] = {"video_id": number, "category_id": label + 1, "iscrowd": 0}
                    tracks[key]["bboxes"] = [None] * len(names)
                tracks[key]["bboxes"][at] = _xywh(box)
        for each in tracks.values():
            document["annotations"].append({"id": len(document["annotations"]) + 1, **each})
    (place.partial / f"{split}.json").write_text(json.dumps(document))


def write_csv(dataset: VideoDataset, split: str, place: Place) -> None:
    """SPLIT.csv (labels.csv for a whole) and classes.txt; images in folders that hold others too are linked to."""
    (place.partial / "classes.txt").write_text("\n".join(dataset.classes) + "\n", encoding="utf-8")
    name = "labels.csv" if split == "all" else f"{split}.csv"
    with (place.partial / name).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([*COLUMNS, "track"])
        for video in shown(dataset.videos, split):
            address = _csv_address(video, split, place)
            for index in video.labelled:
                objects = list(_objects(video.annotation(index)))
                for box, label, track in objects:
                    corners = [f"{value:.9g}" for value in box]
                    rows.writerow([address, index, dataset.classes[label], *corners, track if track >= 0 else ""])
                if not objects:
                    rows.writerow([address, index, *[""] * 6])


def write_mot(dataset: VideoDataset, split: str, place: Place) -> None:
    """SPLIT/SEQUENCE/{img1, gt/gt.txt, seqinfo.ini}. Raises UserError for other classes, and unlabelled frames."""
    _require_classes("mot", dataset, MOT_CLASSES)
    _require_all_labelled("mot", dataset)
    root = place.partial if split == "all" else place.partial / split
    for video in shown(dataset.videos, split):
        folder, (height, width) = root / flat(video.name), frame_size(video)
        images = place.put_images(
            video, range(len(video.frames)), folder / "img1", lambda at, ending: f"{at + 1:06d}{ending}"
        )
        lines = [
            f"{index + 1},{track},{','.join(f'{v:.9g}' for v in _xywh(box))},1,{_mot_class(dataset, label)},1\n"
            for index in video.labelled
            for box, label, track in _objects(video.annotation(index))
        ]
        (folder / "gt").mkdir()
        (folder / "gt/gt.txt").write_text("".join(lines))
        (folder / "seqinfo.ini").write_text(
            f"[Sequence]\nname={folder.name}\nimDir=img1\nframeRate={video.fps:g}\nseqLength={len(images)}\n"
            f"imWidth={width}\nimHeight={height}\nimExt={images[0].suffix}\n"
        )


def write_imagenet_vid(dataset: VideoDataset, split: str, place: Place) -> None:
    """Data, Annotations and the list of training frames. A whole becomes the split train.

    Raises UserError for classes that are not among the 30, and for unlabelled frames to validate on.
    """
    _require_classes("imagenet-vid", dataset, tuple(IMAGENET_VID))
    split = "train" if split == "all" else split
    if split not in ("train", "val"):
        raise UserError(f"imagenet-vid has annotations of train and val only, got the split {split}")
    if split == "val":
        _require_all_labelled("imagenet-vid", dataset)
    listed = []
    for video in shown(dataset.videos, split):
        name, (height, width) = f"{split}/{flat(video.name)}", frame_size(video)
        images = place.partial / "Data/VID" / name
        place.put_images(video, range(len(video.frames)), images, lambda at, ending: f"{at:06d}{ending}", ".JPEG")
        annotations = place.partial / "Annotations/VID" / name
        annotations.mkdir(parents=True)
        for index in video.labelled:
            objects = "".join(_xml(dataset, *each) for each in _objects(video.annotation(index)))
            size = f"<size><width>{width}</width><height>{height}</height></size>"
            (annotations / f"{index:06d}.xml").write_text(
                f"<annotation><folder>{escape(name)}</folder><filename>{index:06d}</filename>{size}{objects}</annotation>\n"
            )
            listed.append(f"{name} 1 {index} {len(video.frames)}\n")
    if split == "train":
        (place.partial / "ImageSets/VID").mkdir(parents=True)
        (place.partial / "ImageSets/VID/VID_train_15frames.txt").write_text("".join(listed))


def _xml(dataset: VideoDataset, box: tuple[float, ...], label: int, track: int) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    corners = "".join(f"<{side}>{value:.9g}</{side}>" for side, value in sides)
    number = f"<trackid>{track}</trackid>" if track >= 0 else ""
    return f"<object>{number}<name>{IMAGENET_VID[dataset.classes[label]]}</name><bndbox>{corners}</bndbox></object>"


def _objects(annotation: Annotation) -> Iterator[tuple[tuple[float, float, float, float], int, int]]:
    """Box (xyxy), label and track of each object."""
    for box, label, track in zip(annotation.boxes, annotation.labels, annotation.tracks, strict=True):
        x1, y1, x2, y2 = (float(value) for value in box)
        yield (x1, y1, x2, y2), int(label), int(track)


def _xywh(box: tuple[float, float, float, float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _categories(dataset: VideoDataset) -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for number, name in enumerate(dataset.classes, 1)]


def _labelled_images(video: Video, place: Place, folder: Path) -> list[str]:
    if isinstance(video.frames, ImageFrames):
        return [place.name_of(video.frames.folder / video.frames.names[index]) for index in video.labelled]
    images = place.put_images(video, video.labelled, folder, lambda at, ending: f"{video.labelled[at]:05d}{ending}")
    return [path.relative_to(place.partial).as_posix() for path in images]


def _csv_address(video: Video, split: str, place: Place) -> str:
    """The video's file, or the folder that holds its images and no others."""
    if isinstance(video.frames, VideoFileFrames):
        return place.name_of(video.frames.path)
    if isinstance(video.frames, ImageFrames):
        paths = [video.frames.folder / name for name in video.frames.names]
        folder = paths[0].parent
        if all(path.parent == folder for path in paths) and images_in(folder) == [path.name for path in paths]:
            return place.name_of(folder)
    folder = Path("videos") / split / flat(video.name)
    every = range(len(video.frames))
    place.put_images(video, every, place.partial / folder, lambda at, ending: f"{at:06d}{ending}")
    return folder.as_posix()


def _mot_class(dataset: VideoDataset, label: int) -> int:
    return MOT_CLASSES.index(dataset.classes[label]) + 1


def flat(name: str) -> str:
    """A video's name as the name of one folder."""
    return "-".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def _require_classes(form: str, dataset: VideoDataset, known: tuple[str, ...]) -> None:
    if other := [name for name in dataset.classes if name not in known]:
        raise UserError(f"{form} has no class {other[0]!r}; it has {', '.join(known)}")


def _require_all_labelled(form: str, dataset: VideoDataset) -> None:
    for video in dataset.videos:
        if len(video.labelled) < len(video.frames):
            raise UserError(
                f"{form} takes frames without labels for frames without objects; {video.name} has "
                f"{len(video.frames) - len(video.labelled)} of them: choose coco-vid or csv"
            )
