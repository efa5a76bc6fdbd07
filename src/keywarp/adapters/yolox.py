"""YOLOX as exported to ONNX, cut after the stems of its decoupled head.

Legend: N frames · A cells of all levels together · M boxes · (H, W) pixels of the network's input
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from keywarp.adapters import Parts
from keywarp.adapters.onnx_graph import Graph, session, shape_of
from keywarp.errors import UserError
from keywarp.interfaces import FeatureNetwork, Suppression, TaskHead
from keywarp.ops.nms import suppress_frames
from keywarp.structures import Detections, Features
from keywarp.transform import ImageTransform

STRIDES = (8, 16, 32)

# fmt: off
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on


def yolox_parts(
    path: Path,
    threads: int | None = None,
    *,
    boundaries: Sequence[str] = (),
    classes: Sequence[str] = (),
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> Parts:
    """The two halves of a YOLOX export (input `[1, 3, H, W]` BGR 0…255; output `[1, A, 5 + classes]`, not decoded).

    path: an ONNX file, of the authors' release or your own export; one frame goes through it at a time.
    boundaries: names of the tensors between the halves (a viewer such as Netron shows them), one a level; needed
    only for a detector with the same input and output form but another inside, where no decoupled head is found.
    classes: names by label; by default COCO's where there are 80. threads, providers: for onnxruntime; with
    "CUDAExecutionProvider" (its GPU package) the networks run there and features pass through the CPU.
    Raises UserError for a file of another kind.
    """
    graph = Graph(Path(path))
    height, width = _input_size(graph)
    count = _class_count(graph, height, width)
    names = tuple(classes) or (COCO_CLASSES if count == 80 else tuple(f"class {i}" for i in range(count)))
    if len(names) != count:
        raise UserError(f"{path} has {count} classes, got {len(names)} names")
    cut_at = tuple(boundaries) or graph.stems()
    if cut_at is None:
        raise UserError(
            f"{path}: wanted a YOLOX export, each level joined from box, objectness and class branches, got a graph "
            f"that ends in {graph.producers[graph.output.name].op_type}; name the tensors to cut at as boundaries"
        )
    first, second = (session(half, threads=threads, providers=providers) for half in graph.cut(cut_at))
    return Parts(
        ONNXFeatureNetwork(first, (height, width)),
        YOLOXHead(second, (height, width)),
        ImageTransform(size=(height, width), letterbox=True),
        names,
    )


def _input_size(graph: Graph) -> tuple[int, int]:
    shape = shape_of(graph.input)
    if len(shape) == 4 and shape[1] == 3:
        height, width = shape[2:]
        if isinstance(height, int) and isinstance(width, int) and not (height % STRIDES[-1] or width % STRIDES[-1]):
            return height, width
    raise UserError(f"{graph.path}: wanted input [1, 3, height, width], fixed multiples of 32, got {shape}")


def _class_count(graph: Graph, height: int, width: int) -> int:
    cells = sum((height // s) * (width // s) for s in STRIDES)
    shape = shape_of(graph.output)
    if len(shape) == 3 and shape[1] == cells and isinstance(shape[2], int) and shape[2] > 5:
        return shape[2] - 5
    raise UserError(
        f"{graph.path}: wanted YOLOX's output [1, {cells}, 5 + classes] (x, y, width, height, objectness, classes for "
        f"the cells of strides 8, 16, 32), got {shape}; export without decoding, other forms are not read"
    )


class ONNXFeatureNetwork(FeatureNetwork):
    """The first half: images to the stems of the levels."""

    def __init__(self, run: Callable[..., list[Tensor]], size: tuple[int, int]) -> None:
        super().__init__()
        self.run = run
        self.size = size

    def forward(self, image: Tensor) -> Features:
        if tuple(image.shape[1:]) != (3, *self.size):
            raise ValueError(f"images must be [N, 3, {self.size[0]}, {self.size[1]}], got {list(image.shape)}")
        bgr = image.flip(1).float()
        # One frame at a time: exports fix the batch to one, and larger batches are no faster on the CPU (nano, one
        # thread, ms a frame: 13 to 14 one by one, 14 to 15 in a batch of eight).
        frames = [self.run(frame[None]) for frame in bgr]
        return tuple(torch.cat(level).to(image.device) for level in zip(*frames, strict=True))


class YOLOXHead(TaskHead):
    """The second half and the decoding of its output.

    threshold: lowest score, objectness times class probability; each box has its best class only, as in the authors'
    evaluation. overlap: IoU above which the weaker of two boxes of a class is dropped. most: boxes a frame.
    """

    cells: Tensor  # [A, 2] (x, y) of each cell in its level
    strides: Tensor  # [A, 1] pixels

    def __init__(
        self,
        run: Callable[..., list[Tensor]],
        size: tuple[int, int],
        *,
        threshold: float = 0.01,
        overlap: float = 0.45,
        most: int = 300,
    ) -> None:
        super().__init__()
        self.run = run
        self.threshold = threshold
        self.overlap = overlap
        self.most = most
        grids = [torch.cartesian_prod(torch.arange(size[0] // s), torch.arange(size[1] // s)).flip(1) for s in STRIDES]
        cells = torch.cat(grids).float()
        strides = torch.cat([torch.full((len(g), 1), float(s)) for g, s in zip(grids, STRIDES, strict=True)])
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def unsuppressed(self) -> tuple[TaskHead, Suppression]:
        raw = copy.copy(self)
        raw.overlap, raw.most = 1.0, sys.maxsize
        return raw, partial(suppress_frames, threshold=self.overlap, keep=self.most)

    def forward(self, features: Features, image_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        results = []
        for n, size in enumerate(image_sizes):
            (raw,) = self.run(*(level[n : n + 1] for level in features))  # [1, A, 5 + classes]
            results.append(self.decode(raw[0].to(self.cells.device), size))
        return results

    def decode(self, raw: Tensor, image_size: tuple[int, int]) -> Detections:
        """The detections of one frame from its raw output `[A, 5 + classes]`, clipped to the image (H, W)."""
        # No score exceeds its objectness: most cells end here.
        likely = (raw[:, 4] > self.threshold).nonzero()[:, 0]
        raw, cells, strides = raw[likely], self.cells[likely], self.strides[likely]
        probability, labels = raw[:, 5:].max(dim=1)
        scores = raw[:, 4] * probability
        centre = (raw[:, :2] + cells) * strides
        half = raw[:, 2:4].exp() * strides / 2
        found = Detections(torch.cat([centre - half, centre + half], dim=1), scores, labels)
        found = found[scores > self.threshold]
        found = found[batched_nms(found.boxes, found.scores, found.labels, self.overlap)[: self.most]]
        return Detections(clip_boxes_to_image(found.boxes, image_size), found.scores, found.labels)
