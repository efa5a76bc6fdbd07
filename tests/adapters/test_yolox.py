import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from keywarp.adapters.onnx_graph import Graph
from keywarp.adapters.yolox import COCO_CLASSES, YOLOXHead, yolox_parts
from keywarp.alignment.classical import DISFlow
from keywarp.data.datasets import Annotation
from keywarp.data.video import open_video
from keywarp.errors import UserError
from keywarp.evaluation.average_precision import AveragePrecision
from keywarp.evaluation.detection import of_class
from keywarp.evaluation.truth import Truth
from keywarp.model import VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import FixedInterval
from keywarp.structures import VideoDetections

SIZE = (64, 96)
CELLS = 8 * 12 + 4 * 6 + 2 * 3


class Builder:
    """A small ONNX graph with seeded weights; tensors are named `prefix` and a number."""

    def __init__(self, prefix):
        self.prefix, self.nodes, self.weights = prefix, [], []
        self.rng = np.random.default_rng(0)

    def add(self, kind, *inputs, **attributes):
        output = f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def weight(self, array):
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x, fan_in, fan_out, stride=1):
        weight = self.rng.normal(size=(fan_out, fan_in, 3, 3)) / np.sqrt(9 * fan_in)
        return self.add("Conv", x, self.weight(weight.astype(np.float32)), strides=[stride] * 2, pads=[1] * 4)

    def block(self, x, fan_in, fan_out, stride=1):
        x = self.conv(x, fan_in, fan_out, stride)
        return self.add("Mul", x, self.add("Sigmoid", x))

    def save(self, path, output, size=SIZE, shape=None):
        graph = helper.make_graph(
            self.nodes,
            "detector",
            [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, *size])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.weights,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
        return path


def yolox_like(path, *, prefix="t", width=8, classes=4, constants=False):
    """A decoupled head on three levels of a chain, which a neck mixes; its path, stems and deep features."""
    b = Builder(prefix)
    levels, x, fan_in = [], b.block(b.block("picture", 3, width, 4), width, width), width
    for _ in range(3):
        x, fan_in = b.block(x, fan_in, width, 2), width
        levels.append(x)
    levels = [b.block(b.add("Concat", levels[0], levels[0], axis=1), 2 * width, width), *levels[1:]]
    stems, flat = [], []
    for level in levels:
        stem = b.block(level, width, width)
        probability = b.conv(b.block(stem, width, width), width, classes)
        regression = b.block(stem, width, width)
        box, objectness = b.conv(regression, width, 4), b.conv(regression, width, 1)
        joint = b.add("Concat", box, b.add("Sigmoid", objectness), b.add("Sigmoid", probability), axis=1)
        shape = np.array([1, 5 + classes, -1])
        target = b.add("Constant", value=numpy_helper.from_array(shape)) if constants else b.weight(shape)
        flat.append(b.add("Reshape", joint, target))
        stems.append(stem)
    output = b.add("Transpose", b.add("Concat", *flat, axis=2), perm=[0, 2, 1])
    return b.save(path, output), tuple(stems), tuple(levels)


def whole(path, image):
    """The uncut graph's raw output on images `[N, 3, H, W]` RGB."""
    runtime = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in runtime.get_inputs())
    bgr = image[:, [2, 1, 0]].float().numpy()
    return torch.cat([torch.from_numpy(runtime.run(None, {name: frame[None]})[0]) for frame in bgr])


def composed(parts, image):
    features = parts.feature_network(image)
    return torch.cat([parts.head.run(*(level[n : n + 1] for level in features))[0] for n in range(len(image))])


@pytest.mark.parametrize(
    "options",
    [{}, {"prefix": "/head/x", "width": 12, "classes": 7}, {"constants": True}],
    ids=["plain", "wide", "constants"],
)
def test_finds_the_stems_whatever_their_names_and_the_halves_are_the_whole(tmp_path, options):
    path, stems, _ = yolox_like(tmp_path / "net.onnx", **options)
    assert Graph(path).stems() == stems
    parts = yolox_parts(path)
    image = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    width = options.get("width", 8)
    assert [tuple(f.shape) for f in parts.feature_network(image)] == [
        (2, width, SIZE[0] // s, SIZE[1] // s) for s in (8, 16, 32)
    ]
    assert torch.equal(composed(parts, image), whole(path, image))
    assert len(parts.classes) == options.get("classes", 4)
    channels_last = tuple(f.to(memory_format=torch.channels_last) for f in parts.feature_network(image))
    for plain, other in zip(
        parts.head(parts.feature_network(image), [SIZE] * 2), parts.head(channels_last, [SIZE] * 2), strict=True
    ):
        assert torch.equal(plain.boxes, other.boxes)


def test_named_boundaries_cut_elsewhere(tmp_path):
    path, stems, levels = yolox_like(tmp_path / "net.onnx")
    image = torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)
    parts = yolox_parts(path, boundaries=levels)
    assert torch.equal(composed(parts, image), whole(path, image))
    assert not torch.equal(parts.feature_network(image)[0], yolox_parts(path).feature_network(image)[0])
    with pytest.raises(UserError, match="do not separate"):
        yolox_parts(path, boundaries=stems[:2])
    with pytest.raises(UserError, match="no tensor 'stem'"):
        yolox_parts(path, boundaries=["stem"])


def test_decoding_against_the_formula_cell_by_cell():
    head = YOLOXHead(lambda *_: [], SIZE, threshold=0.1)
    raw = torch.zeros(CELLS, 5 + 3)
    expected = []
    for stride, start, x, y in [(8, 0, 7, 5), (16, 96, 2, 3), (32, 120, 1, 1)]:
        values = torch.tensor([0.3, -0.2, 0.1, 0.4, 0.9, 0.2, 0.7, 0.1])
        raw[start + y * (SIZE[1] // stride) + x] = values
        cx, cy = (0.3 + x) * stride, (-0.2 + y) * stride
        w, h = math.exp(0.1) * stride, math.exp(0.4) * stride
        expected.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    found = head.decode(raw, (60, 96))
    torch.testing.assert_close(found.boxes, torch.tensor(expected).clamp(max=torch.tensor([96, 60, 96, 60])))
    torch.testing.assert_close(found.scores, torch.full((3,), 0.63))
    assert found.labels.tolist() == [1, 1, 1]


def test_overlapping_boxes_of_a_class_leave_the_best():
    raw = torch.zeros(CELLS, 5 + 2)
    raw[12 * 3 + 4] = torch.tensor([0.5, 0.5, 2, 2, 0.9, 0.9, 0.0])
    raw[12 * 3 + 5] = torch.tensor([-0.5, 0.5, 2, 2, 0.8, 0.9, 0.0])  # the same box
    raw[12 * 4 + 5] = torch.tensor([-0.5, -0.5, 2, 2, 0.7, 0.0, 0.9])  # again, of the other class
    raw[12 * 6 + 9] = torch.tensor([0.0, 0.0, 0, 0, 0.9, 0.01, 0.0])  # score below the threshold
    found = YOLOXHead(lambda *_: [], SIZE).decode(raw, SIZE)
    assert found.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([0.81, 0.63]))
    assert len(YOLOXHead(lambda *_: [], SIZE, most=1).decode(raw, SIZE)) == 1


def test_other_graphs_are_refused_in_one_line(tmp_path):
    b = Builder("t")
    x = b.add("Reshape", b.conv("picture", 3, 84, 32), b.weight(np.array([1, 84, -1])))
    other_form = b.save(tmp_path / "v8.onnx", x, shape=[1, 84, 6])
    b = Builder("t")
    flat = b.weight(np.array([1, 9, -1]))
    levels = [b.add("Reshape", b.conv("picture", 3, 9, s), flat) for s in (8, 16, 32)]
    coupled = b.save(tmp_path / "v5.onnx", b.add("Transpose", b.add("Concat", *levels, axis=2), perm=[0, 2, 1]))
    (tmp_path / "text.onnx").write_text("not a graph at all")
    (tmp_path / "empty.onnx").write_bytes(b"")
    open_size = b.save(tmp_path / "open.onnx", levels[0], size=("h", "w"))
    for path, message in [
        (other_form, r"wanted YOLOX's output \[1, 126, 5 \+ classes\].* got \[1, 84, 6\]"),
        (coupled, "wanted a YOLOX export.*boundaries"),
        (tmp_path / "text.onnx", "is not a readable ONNX file"),
        (tmp_path / "empty.onnx", "is not a readable ONNX file"),
        (open_size, "wanted input.*fixed"),
        (tmp_path / "absent.onnx", "no model file"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            yolox_parts(path)
        assert "\n" not in str(error.value)
    path, _, _ = yolox_like(tmp_path / "net.onnx")
    future = onnx.load(path)
    future.ir_version = 99
    onnx.save(future, tmp_path / "future.onnx")
    with pytest.raises(UserError, match="onnxruntime cannot run"):
        yolox_parts(tmp_path / "future.onnx")
    with pytest.raises(UserError, match="has 4 classes, got 2 names"):
        yolox_parts(path, classes=["a", "b"])
    with pytest.raises(UserError, match="unknown onnxruntime provider"):
        yolox_parts(path, providers=["TPUExecutionProvider"])
    with pytest.raises(ValueError, match=r"images must be \[N, 3, 64, 96\]"):
        yolox_parts(path).feature_network(torch.zeros(1, 3, 32, 32))


@pytest.fixture
def nano(shared) -> Path:
    path = shared / "weights/yolox_nano.onnx"
    if not path.exists():
        pytest.skip("no ../shared/weights/yolox_nano.onnx beside the checkout")
    return path


def test_a_real_export_is_cut_at_its_stems(nano):
    assert Graph(nano).stems() == ("1028", "1070", "1112")
    parts = yolox_parts(nano)
    image = torch.randint(0, 256, (2, 3, 416, 416), dtype=torch.uint8)
    features = parts.feature_network(image)
    assert [tuple(f.shape) for f in features] == [(2, 64, 52, 52), (2, 64, 26, 26), (2, 64, 13, 13)]
    torch.testing.assert_close(composed(parts, image), whole(nano, image), rtol=0, atol=1e-6)
    place = parts.transform.place(480, 640)
    assert (place.resized, place.padded) == ((312, 416), (416, 416))


def test_classes_are_in_the_files_order(nano):
    given = (nano.parent / "coco80_classes.txt").read_text().split("\n")[:80]
    renamed = {"motorbike", "aeroplane", "sofa", "pottedplant", "diningtable", "tvmonitor"}  # the names of VOC
    assert yolox_parts(nano).classes == COCO_CLASSES
    assert {a for a, b in zip(given, COCO_CLASSES, strict=True) if a != b} == renamed


def read_truth(path):
    boxes: dict[int, list] = {}
    for line in path.read_text().splitlines():
        frame, _, x, y, w, h = (float(v) for v in line.split(",")[:6])
        boxes.setdefault(int(frame) - 1, []).append([x, y, x + w, y + h])
    return boxes


@pytest.mark.slow
@pytest.mark.parametrize(("interval", "least"), [(1, 0.73), (3, 0.68)])
def test_people_on_real_video(nano, interval, least):
    folder = nano.parents[1] / "annotated/mot15"
    truth = read_truth(folder / "TUD-Campus.gt.txt")
    parts = yolox_parts(nano)
    model = VideoModel(
        parts.feature_network,
        parts.head,
        scheduler=FixedInterval(interval),
        aligner=DISFlow() if interval > 1 else None,
        transform=parts.transform,
    ).eval()
    with open_video(folder / "TUD-Campus.mp4") as video:
        results = list(VideoPredictor(model).run(video))
    people = [of_class(r.detections, 0) for r in results]
    boxes = [np.array(truth.get(r.index, []), np.float32).reshape(-1, 4) for r in results]
    precision = AveragePrecision(1, threshold=0.5)
    there = Truth.of_frames([Annotation(b, np.zeros(len(b), np.int64)) for b in boxes])
    precision.add(VideoDetections.of(people), there)
    assert precision.result().mean["all"] >= least
