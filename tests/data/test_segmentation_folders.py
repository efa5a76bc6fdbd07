import pickle

import cv2
import numpy as np
import pytest
from coco_files import write_image

from keywarp.data.reading import open_dataset, splits
from keywarp.errors import UserError


def write_labels(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.atleast_2d(np.array(values, np.uint8)))


def write_cityscapes(root, kind, values):
    for frame in range(25, 65):
        name = f"leftImg8bit_sequence/val/bonn/bonn_000000_{frame:06d}_leftImg8bit.png"
        write_image(root / name, frame, size=(1, len(values)))
    write_labels(root / f"gtFine/val/bonn/bonn_000000_000044_gtFine_{kind}.png", values)
    write_labels(root / f"gtFine/val/bonn/bonn_000000_000060_gtFine_{kind}.png", values)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [("labelIds", [0, 7, 26, 33, 29], [255, 0, 13, 18, 255]), ("labelTrainIds", [0, 18, 255], [0, 18, 255])],
)
def test_cityscapes_labels_the_twentieth_of_thirty_frames(tmp_path, kind, values, expected):
    write_cityscapes(tmp_path, kind, values)
    assert splits(tmp_path) == ("val",)
    dataset = open_dataset(tmp_path, "val")
    assert (dataset.classes, len(dataset.mask_classes), dataset.mask_classes[13]) == ((), 19, "car")
    first, second = pickle.loads(pickle.dumps(dataset.videos))
    assert (first.name, len(first.frames), list(first.labelled)) == ("bonn_000000_000044", 30, [19])
    assert first.frames.read([19])[0][0, 0, 0] == 44
    assert first.annotation(19).mask.tolist() == [expected]
    assert first.annotation(19).boxes.shape == (0, 4)
    assert (len(second.frames), second.frames.read([0, 19])[1][0, 0, 0]) == (24, 60)  # the sequence ends early


def test_cityscapes_labels_without_a_frame(tmp_path):
    write_cityscapes(tmp_path, "labelIds", [7])
    write_labels(tmp_path / "gtFine/val/bonn/bonn_000000_000090_gtFine_labelIds.png", [7])
    with pytest.raises(UserError, match=r"000090_gtFine_labelIds\.png has no frame"):
        open_dataset(tmp_path, "val")


def test_camvid_layout(tmp_path):
    for number in (10, 12, 14, 44, 74):
        write_image(tmp_path / f"train/seq_{number:05d}.png", number, size=(1, 3))
    for number in (10, 14, 74):
        write_labels(tmp_path / f"trainannot/seq_{number:05d}.png", [0, 10, 11])
    assert splits(tmp_path) == ("train",)
    dataset = open_dataset(tmp_path)
    assert [(v.name, len(v.frames), list(v.labelled)) for v in dataset.videos] == [
        ("seq_00010", 3, [0, 2]),
        ("seq_00074", 1, [0]),  # 44 is a still without labels
    ]
    assert dataset.videos[0].annotation(2).mask.tolist() == [[0, 10, 255]]
    assert len(dataset.mask_classes) == 11
    (tmp_path / "classes.txt").write_text("road\nrest\n")
    dataset = open_dataset(tmp_path)
    assert dataset.mask_classes == ("road", "rest")
    assert dataset.videos[0].annotation(2).mask.tolist() == [[0, 255, 255]]


def test_camvid(shared):
    train, val = (open_dataset(shared / "annotated/camvid", split) for split in ("train", "val"))
    assert len(train.videos) == 367  # a second apart
    (video,) = val.videos
    assert (len(video.frames), len(video.labelled)) == (101, 101)
    mask = video.annotation(50).mask
    assert mask.shape == (360, 480)
    assert set(np.unique(mask)) <= {*range(11), 255}
