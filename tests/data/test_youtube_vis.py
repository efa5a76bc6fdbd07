import json

import pytest
from coco_files import write_image

from keywarp.data.reading import open_dataset
from keywarp.errors import UserError


def youtube_document():
    names = [f"abc/{frame:05d}.jpg" for frame in (0, 5, 10)]
    return {
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "ape"}],
        "videos": [{"id": 3, "width": 64, "height": 48, "length": 3, "file_names": names}],
        "annotations": [
            {"id": 8, "video_id": 3, "category_id": 2, "bboxes": [[1, 2, 3, 4], None, [2, 2, 3, 4]], "iscrowd": 0},
            {"id": 9, "video_id": 3, "category_id": 1, "bboxes": [None, None, [0, 0, 9, 9]], "segmentations": []},
            {"id": 10, "video_id": 3, "category_id": 1, "bboxes": [[0, 0, 9, 9], None, None], "iscrowd": 1},
        ],
    }


@pytest.mark.parametrize("file", ["train.json", "annotations/youtube_vis_train.json"])
def test_layout(tmp_path, file):
    for name in youtube_document()["videos"][0]["file_names"]:
        write_image(tmp_path / "train/JPEGImages" / name)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(youtube_document()))
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("person", "ape")
    (video,) = dataset.videos
    assert (video.name, len(video.frames), list(video.labelled), video.size) == ("abc", 3, [0, 1, 2], (48, 64))
    assert video.annotation(0).boxes.tolist() == [[1, 2, 4, 6]]
    assert video.annotation(1).boxes.shape == (0, 4)
    assert (video.annotation(2).labels.tolist(), video.annotation(2).tracks.tolist()) == ([1, 0], [8, 9])
    assert video.frames.read([2])[0].shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d["annotations"][0].update(video_id=1), "is of video 1, which is not listed"),
        (lambda d: d["annotations"][0].update(category_id=5), "has category 5, which is not listed"),
        (lambda d: d["annotations"][0].update(bboxes=[None]), "track 8 has 1 boxes, its video 3 frames"),
        (lambda d: (d["annotations"].clear(), d["videos"][0]["file_names"].clear()), "not laid out as YouTube-VIS"),
        (lambda d: d["videos"].append(d["videos"][0] | {"id": 4}), "names a video twice"),
        (lambda d: d["annotations"][0].pop("bboxes"), "an entry lacks 'bboxes'"),
        (lambda d: d["annotations"][0].update(bboxes=[[1, 2], None, None]), "not laid out as YouTube-VIS"),
    ],
)
def test_malformed_files_get_one_line(tmp_path, spoil, message):
    document = youtube_document()
    spoil(document)
    (tmp_path / "train.json").write_text(json.dumps(document))
    for name in youtube_document()["videos"][0]["file_names"]:
        write_image(tmp_path / name)
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path)


def test_videos_without_name_and_folder_are_called_by_their_ids(tmp_path):
    document = youtube_document() | {"annotations": []}
    document["videos"] = [{"id": n, "file_names": [f"{n}.png"]} for n in (1, 2)]
    (tmp_path / "train.json").write_text(json.dumps(document))
    for n in (1, 2):
        write_image(tmp_path / f"{n}.png")
    assert [video.name for video in open_dataset(tmp_path).videos] == ["video 1", "video 2"]
