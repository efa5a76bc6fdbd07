import json
from contextlib import suppress

import numpy as np
import pytest

from data.coco_files import coco_document, write_coco
from keywarp.data.reading import open_dataset
from keywarp.errors import UserError
from keywarp.evaluation.results_files import class_map, load, read_results, save
from keywarp.structures import VideoDetections

TEXT = """3 1 0.5000 1 2 11 12
1 2 0.9000 5 5 20 20
4 1 0.2500 0 0 9 9
"""  # the data set has videos of 3 and 2 frames, and the classes cat and dog


@pytest.fixture
def dataset(tmp_path):
    return open_dataset(write_coco(tmp_path / "set", coco_document(), "all.json"), "all")


def rows(found):
    return [
        tuple(map(float, (f, label, score, *box)))
        for f, label, score, box in zip(found.frames, found.labels, found.scores, found.boxes, strict=True)
    ]


def test_what_is_saved_is_loaded(tmp_path):
    found = VideoDetections([0, 2], [[0, 0, 1, 1], [2.5, 3, 4, 5]], [0.5, 0.25], [1, 0], tracks=[-1, 3])
    save(tmp_path / "a.npz", found, seconds=1.5)
    back, numbers = load(tmp_path / "a.npz")
    assert rows(back) == rows(found)
    assert back.tracks.tolist() == [-1, 3]
    assert numbers == {"seconds": 1.5}
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    (tmp_path / "a.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="holds no detections"):
        load(tmp_path / "a.npz")


def test_the_text_of_the_original_toolkits(tmp_path, dataset):
    (tmp_path / "found.txt").write_text(TEXT)
    results = read_results(tmp_path / "found.txt", dataset, {})["found"]
    assert rows(results(0)) == [(0, 1, np.float32(0.9), 5, 5, 20, 20), (2, 0, 0.5, 1, 2, 11, 12)]
    assert rows(results(1)) == [(0, 0, 0.25, 0, 0, 9, 9)]
    (tmp_path / "found.txt").write_text("")
    assert len(read_results(tmp_path / "found.txt", dataset, {})["found"](1)) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("6 1 0.5 0 0 1 1", "frame 6 is not in 1 to 5"),
        ("0 1 0.5 0 0 1 1", "frame 0 is not in 1 to 5"),
        ("1 3 0.5 0 0 1 1", "class 3 is not in 1 to 2"),
        ("1 1 nan 0 0 1 1", "must be finite"),
        ("1 1 0.5 0 0 1", "wanted lines of 7 numbers.* got 6"),
        ("one 1 0.5 0 0 1 1", "wanted lines of 7 numbers"),
    ],
)
def test_malformed_text_gets_one_line(tmp_path, dataset, text, message):
    (tmp_path / "found.txt").write_text(text + "\n")
    refused(tmp_path / "found.txt", dataset, message)


def refused(path, dataset, message):
    with pytest.raises(UserError, match=message) as error:
        read_results(path, dataset, {}).popitem()[1](0)
    assert "\n" not in str(error.value)


def coco_results(**changes):
    return [{"image_id": 12, "category_id": 7, "bbox": [1, 2, 10, 20], "score": 0.5, **changes}]


def test_results_by_the_ids_of_the_data_sets_own_file(tmp_path, dataset):
    path = tmp_path / "found.json"
    path.write_text(json.dumps([*coco_results(), *coco_results(image_id=20, category_id=3, score=1)]))
    results = read_results(path, dataset, {})["found"]
    assert rows(results(0)) == [(2, 1, 0.5, 1, 2, 11, 22)]
    assert rows(results(1)) == [(0, 0, 1, 1, 2, 11, 22)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 99}, "image 99, which .* has not"),
        ({"category_id": 1}, "category 1, unknown to"),
        ({"score": float("nan")}, "scores must be finite, got nan"),
        ({"bbox": [1, 2, 3]}, "not laid out as COCO's results|cannot reshape"),
        ({"bbox": None}, "not laid out as COCO's results"),
    ],
)
def test_malformed_results_get_one_line(tmp_path, dataset, changes, message):
    path = tmp_path / "found.json"
    path.write_text(json.dumps(coco_results(**changes)))
    refused(path, dataset, message)


def test_an_image_id_that_occurs_twice_is_told(tmp_path):
    document = coco_document()
    document["images"][1]["id"] = document["images"][0]["id"]
    dataset = open_dataset(write_coco(tmp_path / "set", document, "all.json"), "all")
    path = tmp_path / "found.json"
    path.write_text(json.dumps(coco_results()))
    refused(path, dataset, "image id 10 occurs twice")


def detect_document(**changes):
    document = {
        "info": {},
        "categories": [{"id": 0, "name": "person"}, {"id": 4, "name": "Dog"}],
        "images": [{"id": 0}, {"id": 1}, {"id": 2}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 4, "bbox": [1, 2, 10, 20], "score": 0.5, "track_id": 8},
            {"id": 2, "image_id": 1, "category_id": 0, "bbox": [1, 2, 10, 20], "score": 0.5},
        ],
    }
    return document | changes


def write_detect(folder, *names, **changes):
    folder.mkdir()
    for name in names:
        (folder / f"{name}.json").write_text(json.dumps(detect_document(**changes)))
    return folder


def test_files_of_detect_belong_to_the_videos_of_their_names(tmp_path, dataset):
    results = read_results(write_detect(tmp_path / "out", "v1", "v2"), dataset, {})["out"]
    assert rows(results(1)) == [(1, 1, 0.5, 1, 2, 11, 22)]  # persons are no class of the data set
    assert results(1).tracks.tolist() == [8]
    renamed = read_results(tmp_path / "out", dataset, {"person": "cat"})["out"]
    assert renamed(0).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["v1"], {}, "lacks 1 of the 2 videos of the data set, first v2"),
        (["v1", "v2"], {"categories": [{"id": 0, "name": "x"}, {"id": 4, "name": "y"}]}, "none of the classes x, y is"),
        (["v1", "v2"], {"categories": [{"id": 4, "name": "dog"}]}, "category 0, which is not listed"),
        (["v1", "v2"], {"images": [{"id": 0}]}, "frame 1, which is not listed"),
        (["v1", "v2"], {"annotations": [{}]}, "an entry lacks 'image_id'"),
        (["v1", "v2"], {"images": [{"id": 1}, {"id": 2}]}, "not of the whole video: frame 0"),
        (["v1", "v2"], {"info": {"settings": {"frames": None, "stride": 2}}}, "made with --frames or --stride"),
        (["v1", "v2"], {"info": {"settings": {"frames": "10:", "stride": 1}}}, "made with --frames or --stride"),
        (["v1", "v2"], {"info": {"complete": False}}, "not of the whole video: its run was stopped"),
        (["v1", "v2"], {"categories": [{"id": -1, "name": "dog"}]}, "category 4, which is not listed"),
        (["v1", "v2"], {"info": None}, "not laid out as"),
        ([], {}, "holds no results"),
    ],
)
def test_malformed_files_of_detect_get_one_line(tmp_path, dataset, names, changes, message):
    refused(write_detect(tmp_path / "out", *names, **changes), dataset, message)


def test_numbers_count_through_all_videos_where_some_are_wanted(tmp_path, dataset):
    (tmp_path / "found.txt").write_text(TEXT)
    (tmp_path / "found.json").write_text(json.dumps(coco_results(image_id=20)))
    write_detect(tmp_path / "out", "v2")
    for path, boxes in ((tmp_path / "found.txt", 1), (tmp_path / "found.json", 1), (tmp_path / "out", 1)):
        results = read_results(path, dataset, {}, positions=[1]).popitem()[1]
        assert len(results(0)) == boxes
    refused(tmp_path / "out", dataset, "lacks 1 of the 2 videos")


def test_renaming_is_for_results_that_name_their_classes(tmp_path, dataset):
    (tmp_path / "found.txt").write_text(TEXT)
    with pytest.raises(UserError, match="--rename is for results that name their classes"):
        read_results(tmp_path / "found.txt", dataset, {"dog": "cat"})


def test_other_files_are_refused(tmp_path, dataset):
    refused(tmp_path / "absent.json", dataset, "no such results")
    (tmp_path / "broken.json").write_text("{")
    refused(tmp_path / "broken.json", dataset, "no valid JSON")


def test_classes_are_matched_by_name(dataset):
    assert class_map(["DOG", "horse", "cat"], dataset, {}).tolist() == [1, -1, 0]
    assert class_map(["dog", "kitten"], dataset, {"kitten": "cat"}).tolist() == [1, 0]
    for found, rename, message in (
        (["horse"], {}, "none of the classes horse is one of"),
        (["dog"], {"dig": "cat"}, "unknown class to rename 'dig'; did you mean dog"),
        (["dog"], {"dog": "cot"}, "'cot'; did you mean cat"),
        (["dog", "cat"], {"cat": "dog"}, "several of the classes"),
    ):
        with pytest.raises(UserError, match=message):
            class_map(found, dataset, rename)


def test_damaged_files_get_one_line(tmp_path):
    path = tmp_path / "a.npz"
    save(path, VideoDetections([0] * 50, [[0, 0, 1, 1]] * 50, [0.5] * 50, [1] * 50), seconds=1.5)
    whole = path.read_bytes()
    for n in range(0, len(whole), 7):
        path.write_bytes(whole[:n] + bytes([whole[n] ^ 255]) + whole[n + 1 :])
        with suppress(UserError):
            load(path)
        path.write_bytes(whole[:n])
        with pytest.raises(UserError, match="holds no detections"):
            load(path)


def test_names_with_dots_are_told_apart(tmp_path):
    document = coco_document()
    for number, video in enumerate(document["videos"]):
        video["name"] = f"cam.{number}"
    dataset = open_dataset(write_coco(tmp_path / "set", document, "all.json"), "all")
    write_detect(tmp_path / "found", "cam.0", "cam.1")
    assert len(read_results(tmp_path / "found", dataset, {})["found"](1)) > 0
