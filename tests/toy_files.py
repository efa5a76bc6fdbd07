"""The toy data set of training as a COCO-VID file, and a model that finds its rectangles."""

import json

import cv2
import torch

from keywarp.interfaces import TaskHead
from keywarp.model import VideoModel
from keywarp.scheduling import FixedInterval
from keywarp.structures import Detections
from keywarp.transform import ImageTransform
from tiny import TinyFeatures, TinyFlow
from training.toy import SIZE, ToyVideo

CLASSES = ("red", "green", "blue")


def write_toy(root, videos=3, length=12):
    """`root`/val.json and its images; one rectangle a video, on every frame."""
    images, annotations = [], []
    for v in range(videos):
        video = ToyVideo(v, length)
        for t, picture in enumerate(video.frames.read(range(length))):
            number = len(images)
            path = root / "data" / f"toy-{v}" / f"{t:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture[..., ::-1])
            size = {"height": SIZE[0], "width": SIZE[1]}
            name = f"toy-{v}/{t:03d}.png"
            images.append({"id": number, "video_id": v, "frame_id": t, "file_name": name, **size})
            truth = video.annotation(t)
            x1, y1, x2, y2 = truth.boxes[0].tolist()
            annotations.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": int(truth.labels[0]),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "instance_id": 0,
                }
            )
    document = {
        "categories": [{"id": c, "name": name} for c, name in enumerate(CLASSES)],
        "videos": [{"id": v, "name": f"toy-{v}"} for v in range(videos)],
        "images": images,
        "annotations": annotations,
    }
    (root / "val.json").write_text(json.dumps(document))
    return root


class ColourFeatures(TinyFeatures):
    """The picture itself."""

    def forward(self, image):
        self.images += len(image)
        return (image.float(),)


class ColourHead(TaskHead):
    """The box around what is strongly coloured, named by its colour; a fainter wrong one beside it."""

    def forward(self, features, image_sizes):
        results = []
        for image in features[0]:
            strong = (image.amax(0) - image.amin(0)) > 100
            y, x = strong.nonzero(as_tuple=True)
            if not len(x):
                results.append(Detections.empty())
                continue
            label = image[:, strong].mean(dim=1).argmax()
            box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
            boxes = torch.stack([box, (box - 20).clamp(min=0)])
            results.append(Detections(boxes, torch.tensor([0.9, 0.3]), torch.stack([label, (label + 1) % 3])))
        return results


def colour_model(interval=12):
    """Finds the rectangles on key frames, and where they were then on the others."""
    return VideoModel(
        ColourFeatures(),
        ColourHead(),
        scheduler=FixedInterval(interval),
        aligner=TinyFlow(scale=0.0),
        transform=ImageTransform(size=SIZE),
        classes=CLASSES,
        description={"method": "dff", "arguments": {}},
    ).eval()
