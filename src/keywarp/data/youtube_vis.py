"""YouTube-VIS JSON: one annotation a track, with a box or null for each frame. Segmentations are not read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keywarp.data.coco_vid import class_positions, image_folder
from keywarp.data.datasets import VideoDataset
from keywarp.data.frames import ImageFrames
from keywarp.data.tables import Box, BoxTable, TableVideo, check_names
from keywarp.errors import UserError
from keywarp.files import laid_out_as

__all__ = ["is_youtube_vis", "read"]


def is_youtube_vis(document: Mapping[str, Any]) -> bool:
    """Whether a JSON file's content is in this format: its videos list their images."""
    videos = document.get("videos")
    return bool(videos) and isinstance(videos, list) and isinstance(videos[0], dict) and "file_names" in videos[0]


def read(path: Path, split: str, document: Mapping[str, Any]) -> VideoDataset:
    """The data set of one JSON file; all its frames are labelled. Raises UserError."""
    with laid_out_as("YouTube-VIS", path):
        return _dataset(document, path, split)


def _dataset(document: Mapping[str, Any], path: Path, split: str) -> VideoDataset:
    classes, position = class_positions(document, path)
    lengths = {video["id"]: len(video["file_names"]) for video in document["videos"]}
    boxes: dict[Any, list[Box]] = defaultdict(list)
    for track in document["annotations"]:
        video, category, found = track["video_id"], track["category_id"], track["bboxes"]
        if video not in lengths:
            raise UserError(f"{path}: a track is of video {video}, which is not listed")
        if category not in position:
            raise UserError(f"{path}: a track has category {category}, which is not listed")
        if len(found) != lengths[video]:
            raise UserError(f"{path}: track {track['id']} has {len(found)} boxes, its video {lengths[video]} frames")
        if track.get("iscrowd"):
            continue
        for frame, box in enumerate(found):
            if box is not None:
                x, y, width, height = map(float, box)
                boxes[video].append(Box(frame, x, y, x + width, y + height, position[category], int(track["id"])))
    folder = image_folder(path, [video["file_names"][0] for video in document["videos"][:5]], split)
    videos = [
        TableVideo(
            name=_name(video),
            frames=ImageFrames(video["file_names"], folder),
            labelled=range(lengths[video["id"]]),
            table=BoxTable.of(boxes[video["id"]]),
            size=(int(video["height"]), int(video["width"])) if "height" in video and "width" in video else None,
        )
        for video in document["videos"]
    ]
    check_names(videos, path)
    return VideoDataset(str(path), classes, videos)


def _name(video: Mapping[str, Any]) -> str:
    """The video's own, else its images' folder, else by its id."""
    folder = Path(video["file_names"][0]).parent
    return str(video.get("name") or (folder if folder.name else f"video {video['id']}"))
