import json
import pickle

import cv2
import numpy as np
import pytest
from coco_files import coco_document, write_coco
from video_clips import pan, write_clip

from keywarp.data.reading import open_dataset, splits
from keywarp.errors import UserError


def test_mmtracking_layout(tmp_path):
    write_coco(tmp_path, coco_document(), "annotations/imagenet_vid_train.json", "Data/VID")
    assert splits(tmp_path) == ("train",)
    dataset = open_dataset(tmp_path, "train")
    assert dataset.classes == ("cat", "dog")  # by ascending id
    assert dataset.mask_classes == ()
    first, second = pickle.loads(pickle.dumps(dataset.videos))
    assert (first.name, len(first.frames), list(first.labelled), first.size, first.fps) == (
        "v1",
        3,
        [0, 1, 2],
        (48, 64),
        30,
    )
    found = first.annotation(2)
    assert found.boxes.tolist() == [[3, 4, 8.5, 10], [2, 2, 12, 22]]  # xywh becomes xyxy, the crowd is left out
    assert (found.labels.tolist(), found.tracks.tolist()) == ([0, 1], [6, 5])
    assert (found.boxes.dtype, found.labels.dtype, found.tracks.dtype) == (np.float32, np.int64, np.int64)
    assert first.annotation(1).boxes.shape == (0, 4)
    assert second.annotation(0).tracks.tolist() == [-1]
    assert [frame[0, 0, 0] for frame in second.frames.read([1, 0])] == [21, 20]


def test_only_the_listed_training_frames_count(tmp_path):
    document = coco_document()
    for image in document["images"]:
        image["is_vid_train_frame"] = image["frame_id"] == 1
    write_coco(tmp_path, document)
    assert [list(v.labelled) for v in open_dataset(tmp_path).videos] == [[1], [1]]


def test_frames_are_ordered_by_frame_id(tmp_path):
    document = coco_document()
    document["images"].reverse()
    write_coco(tmp_path, document)
    assert [f[0, 0, 0] for f in open_dataset(tmp_path).videos[0].frames.read([0, 1, 2])] == [10, 11, 12]


def test_plain_coco_is_stills(tmp_path):
    document = coco_document()
    del document["videos"]
    path = write_coco(tmp_path, document)
    assert splits(path) == ("all",)
    dataset = open_dataset(path, "all")
    assert [len(v.frames) for v in dataset.videos] == [1] * 5
    assert dataset.videos[2].annotation(0).labels.tolist() == [0, 1]


def test_video_files_with_sparse_labels_and_masks(tmp_path):
    (tmp_path / "clips").mkdir()
    write_clip(tmp_path / "clips/a.mp4", pan(8))
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((96, 160), 2, np.uint8))
    document = {
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "videos": [{"id": 1, "name": "a", "file_name": "clips/a.mp4", "length": 8, "fps": 25}],
        "images": [
            {"id": 1, "video_id": 1, "frame_id": 3, "width": 160, "height": 96, "mask_file": "mask.png"},
            {"id": 2, "video_id": 1, "frame_id": 7, "width": 160, "height": 96},
            {"id": 3, "video_id": 1, "frame_id": 5, "labelled": False},
        ],
        "annotations": [{"id": 1, "image_id": 2, "category_id": 2, "bbox": [1, 2, 3, 4], "instance_id": 1}],
    }
    write_coco(tmp_path, document)
    dataset = open_dataset(tmp_path)
    (video,) = dataset.videos
    assert dataset.mask_classes == ("background", "cat", "dog")
    assert (len(video.frames), list(video.labelled), video.size) == (8, [3, 7], (96, 160))
    assert video.frames.read([7])[0].shape == (96, 160, 3)
    assert video.annotation(7).boxes.tolist() == [[1, 2, 4, 6]]
    assert video.annotation(7).mask is None
    assert np.unique(video.annotation(3).mask).tolist() == [2]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d.pop("annotations"), "is no annotation file"),
        (lambda d: d.pop("images"), "an entry lacks 'images'"),
        (lambda d: d["images"][0].update(video_id=9), "is of video 9, which is not listed"),
        (lambda d: d["annotations"][0].update(category_id=99), "has category 99, which is not listed"),
        (lambda d: d["annotations"][0].update(image_id=99), "is of image 99, which is not listed"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "not enough values"),
        (lambda d: d["annotations"][0].pop("bbox"), "an entry lacks 'bbox'"),
        (lambda d: d["annotations"][0].update(instance_id=10**30), "not laid out as COCO-VID"),
        (lambda d: (d["videos"][1].pop("name"), d.update(images=d["images"][:3], annotations=[])), "not laid out"),
        (lambda d: d["videos"][1].update(name="v1"), "names a video twice"),
        (lambda d: d["categories"][1].update(name="dog"), "names a category twice"),
    ],
)
def test_malformed_files_get_one_line(tmp_path, spoil, message):
    document = coco_document()
    spoil(document)
    path = tmp_path / "train.json"
    path.write_text(json.dumps(document))
    for name in ("v1", "v2"):
        for frame in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{frame:06d}.png").touch()
    with pytest.raises(UserError, match=message) as error:
        open_dataset(tmp_path)
    assert "\n" not in str(error.value)


def test_broken_json_and_missing_images(tmp_path):
    (tmp_path / "val.json").write_text('{"categories": [')
    with pytest.raises(UserError, match=r"val\.json is no valid JSON"):
        open_dataset(tmp_path, "val")
    (tmp_path / "val.json").write_text(json.dumps(coco_document()))
    with pytest.raises(UserError, match=r"v1/000000\.png was found neither beside it nor in data"):
        open_dataset(tmp_path, "val")


def test_track_numbers_may_be_large(tmp_path):
    document = coco_document()
    document["annotations"][0]["instance_id"] = 3_000_000_000
    write_coco(tmp_path, document)
    assert open_dataset(tmp_path).videos[0].annotation(0).tracks.tolist() == [3_000_000_000]
