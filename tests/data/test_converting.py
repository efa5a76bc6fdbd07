import json
from itertools import chain

import numpy as np
import pytest
from coco_files import coco_document, write_coco, write_image
from test_imagenet_vid import write_video
from test_segmentation_folders import write_labels
from video_clips import pan, write_clip

from keywarp.cli import main
from keywarp.data.converting import WRITERS, convert
from keywarp.data.reading import open_dataset, splits
from keywarp.errors import InterruptedWorkError, UserError


def persons(root, *, sparse=False):
    """A video file and a folder of images, in COCO-VID; `sparse`: some of their frames are unlabelled."""
    root.mkdir(exist_ok=True)
    write_clip(root / "clip.mp4", pan(5))
    images = [{"id": f + 1, "video_id": 1, "frame_id": f, "width": 160, "height": 96} for f in range(5)]
    for frame in range(3):
        write_image(root / f"pictures/{frame:03d}.jpg", 60 * frame)
        entry = {"id": frame + 11, "video_id": 2, "frame_id": frame, "file_name": f"pictures/{frame:03d}.jpg"}
        images.append(entry | {"width": 64, "height": 48})
    if sparse:
        images[1]["labelled"] = images[6]["labelled"] = False
    boxes = [
        (1, [1.25, 2, 10, 20], 4),
        (3, [3, 2.5, 11, 20], 4),
        (3, [30, 2, 7, 9], 7),
        (11, [1, 1, 30, 40], 1),
        (13, [2, 1, 30, 40], 1),
    ]
    document = {
        "categories": [{"id": 1, "name": "person"}],
        "videos": [{"id": 1, "name": "walk", "file_name": "clip.mp4", "length": 5, "fps": 25}, {"id": 2, "name": "b"}],
        "images": images,
        "annotations": [
            {"id": i, "image_id": image, "category_id": 1, "bbox": box, "instance_id": track}
            for i, (image, box, track) in enumerate(boxes)
        ],
    }
    (root / "val.json").write_text(json.dumps(document))
    return root


def content(dataset, renumbered=False):
    """What is to come through: by video, its labelled frames with class names, tracks and boxes."""
    return [
        [
            (
                position if renumbered else index,
                [dataset.classes[label] for label in video.annotation(index).labels],
                video.annotation(index).tracks.tolist(),
                video.annotation(index).boxes.round(3).tolist(),
            )
            for position, index in enumerate(video.labelled)
        ]
        for video in dataset.videos
    ]


@pytest.mark.parametrize(
    ("to", "sparse"), [("coco-vid", False), ("coco-vid", True), ("csv", False), ("csv", True), ("mot", False)]
)
def test_boxes_tracks_and_labelled_frames_come_through(tmp_path, to, sparse):
    source = persons(tmp_path, sparse=sparse)
    convert(str(source), tmp_path / "out", to=to)
    before, after = open_dataset(source, "val"), open_dataset(tmp_path / "out", "val")
    order = np.argsort([video.name for video in before.videos]) if to == "mot" else range(2)  # sorted by name
    assert content(after) == [content(before)[at] for at in order]
    for at, video in zip(order, after.videos, strict=True):
        expected = before.videos[at].frames.read([0, 2])
        for image, other in zip(video.frames.read([0, 2]), expected, strict=True):
            error = np.abs(image.astype(int) - other).mean()
            assert error < (6 if to == "mot" else 1e-9)  # JPEG of a video's frames; all else is as it was
    assert [p.name for p in tmp_path.glob(".*")] == []


def test_youtube_vis_holds_the_labelled_frames_with_new_tracks(tmp_path):
    source = persons(tmp_path, sparse=True)
    convert(str(source), tmp_path / "out", to="youtube-vis", split="val")
    before, after = open_dataset(source, "val"), open_dataset(tmp_path / "out", "val")
    assert [len(video.frames) for video in after.videos] == [4, 2]
    old, new = content(before, renumbered=True), content(after)
    for (_, names, tracks, boxes), (_, new_names, new_tracks, new_boxes) in zip(chain(*old), chain(*new), strict=True):
        assert (names, boxes, len(tracks)) == (new_names, new_boxes, len(new_tracks))
    assert new[0][0][2] == new[0][1][2][:1]  # the same person
    assert len(set(new[0][1][2])) == 2


def test_imagenet_vid_comes_through(tmp_path):
    write_video(tmp_path / "in", "train/a", 4)
    write_video(tmp_path / "in", "val/b", 2)
    convert(str(tmp_path / "in"), tmp_path / "coco")
    assert splits(tmp_path / "coco") == ("train", "val")
    convert(str(tmp_path / "coco"), tmp_path / "back", to="imagenet-vid")
    for split in ("train", "val"):
        before, after = open_dataset(tmp_path / "in", split), open_dataset(tmp_path / "back", split)
        assert content(after) == content(before)
        assert after.videos[0].frames.read([1])[0][0, 0, 0] == before.videos[0].frames.read([1])[0][0, 0, 0]


def test_sparse_labels_to_train_on_in_imagenet_vid(tmp_path):
    write_clip(tmp_path / "a.mp4", pan(5))
    (tmp_path / "labels.csv").write_text("video,frame,class,x1,y1,x2,y2\na.mp4,3,dog,1,2,3,4\na.mp4,1,,,,,\n")
    convert(str(tmp_path), tmp_path / "out", to="imagenet-vid")
    (video,) = open_dataset(tmp_path / "out").videos
    assert (len(video.frames), list(video.labelled)) == (5, [1, 3])
    assert video.annotation(3).tracks.tolist() == [-1]


def test_files_are_named_from_the_new_folder_where_they_lie_beside_it(tmp_path):
    source = persons(tmp_path / "source")
    convert(str(source), tmp_path / "out")
    document = json.loads((tmp_path / "out/val.json").read_text())
    assert document["videos"][0]["file_name"] == "../source/clip.mp4"
    assert document["images"][-1]["file_name"] == "../source/pictures/002.jpg"
    convert(str(source), tmp_path / "far/away/out")
    document = json.loads((tmp_path / "far/away/out/val.json").read_text())
    assert document["videos"][0]["file_name"] == str(tmp_path / "source/clip.mp4")


def test_label_maps_come_through(tmp_path):
    document = coco_document()
    path = write_coco(tmp_path, document)
    write_labels(tmp_path / "mask.png", [[0, 1, 2]] * 3)
    document["images"][0]["mask_file"] = "mask.png"
    path.write_text(json.dumps(document))
    convert(str(tmp_path), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.mask_classes == ("background", "cat", "dog")
    before = open_dataset(tmp_path).videos[0].annotation(0).mask
    assert np.array_equal(dataset.videos[0].annotation(0).mask, before)


def test_images_among_others_are_linked_to(tmp_path):
    write_coco(tmp_path, coco_document())
    write_image(tmp_path / "data/v1/extra.png")
    convert(str(tmp_path), tmp_path / "out", to="csv")
    video = open_dataset(tmp_path / "out", "train").videos[0]
    assert (video.name, len(video.frames)) == ("videos/train/v1", 3)
    assert video.frames.read([2])[0][0, 0, 0] == 12


@pytest.mark.parametrize(
    ("to", "sparse", "message"),
    [
        ("mot", True, "walk has 1 of them: choose coco-vid or csv"),
        ("imagenet-vid", False, "imagenet-vid has no class 'person'"),
        ("voc", False, "unknown format 'voc'"),
    ],
)
def test_what_a_format_cannot_hold_gets_one_line(tmp_path, to, sparse, message):
    source = persons(tmp_path, sparse=sparse)
    with pytest.raises(UserError, match=message):
        convert(str(source), tmp_path / "out", to=to)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_exists_and_label_maps_alone(tmp_path):
    source = persons(tmp_path)
    with pytest.raises(UserError, match="exists already"):
        convert(str(source), tmp_path)
    write_image(tmp_path / "camvid/train/a.png")
    write_labels(tmp_path / "camvid/trainannot/a.png", [[0]])
    with pytest.raises(UserError, match="label maps and no boxes"):
        convert(str(tmp_path / "camvid"), tmp_path / "out")


@pytest.mark.parametrize("to", ["youtube-vis", "mot"])
def test_an_unreadable_video_leaves_nothing(tmp_path, to):
    source = persons(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(InterruptedWorkError, match="cannot be read as a video"):
        convert(str(source), tmp_path / "out", to=to)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_command(tmp_path, capsys):
    source = persons(tmp_path)
    assert set(WRITERS) == {"coco-vid", "youtube-vis", "mot", "csv", "imagenet-vid"}
    assert main(["data", "convert", str(source), str(tmp_path / "out"), "--to", "csv"]) == 0
    assert "2 videos in the format csv" in capsys.readouterr().out
    assert (tmp_path / "out/val.csv").is_file()


@pytest.mark.parametrize("to", ["mot", "csv"])
def test_names_that_would_share_a_folder_are_refused_and_their_images_stay(tmp_path, to):
    document = coco_document()
    document["videos"][0]["name"], document["videos"][1]["name"] = "a/b", "a-b"
    document["categories"] = [{"id": 7, "name": "person"}, {"id": 3, "name": "car"}]
    write_coco(tmp_path, document)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    with pytest.raises(UserError, match="names differ in / and - alone"):
        convert(str(tmp_path), tmp_path / "out", to=to)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before
