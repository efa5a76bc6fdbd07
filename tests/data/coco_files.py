"""COCO-VID files made on the spot, in the layout of mmtracking."""

import json

import cv2
import numpy as np


def write_image(path, value=0, size=(48, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))
    return path


def coco_document():
    """Two videos of 3 and 2 frames, two classes whose ids are neither 0, 1 nor in order."""
    images = [
        {"id": 10 * v + f, "video_id": v, "frame_id": f, "file_name": f"v{v}/{f:06d}.png", "width": 64, "height": 48}
        for v, count in ((1, 3), (2, 2))
        for f in range(count)
    ]
    return {
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "videos": [{"id": 1, "name": "v1", "fps": 30}, {"id": 2, "name": "v2"}],
        "images": images,
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 7, "bbox": [1, 2, 10, 20], "instance_id": 5},
            {"id": 2, "image_id": 12, "category_id": 3, "bbox": [3, 4, 5.5, 6], "instance_id": 6},
            {"id": 3, "image_id": 12, "category_id": 7, "bbox": [2, 2, 10, 20], "instance_id": 5},
            {"id": 4, "image_id": 12, "category_id": 7, "bbox": [0, 0, 60, 40], "instance_id": 9, "iscrowd": 1},
            {"id": 5, "image_id": 20, "category_id": 3, "bbox": [9, 9, 9, 9]},
        ],
    }


def write_coco(root, document, name="train.json", images="data"):
    """The JSON file, with a plain image for every file name."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    for image in document["images"]:
        if "file_name" in image:
            write_image(root / images / image["file_name"], value=image["id"])
    return path
