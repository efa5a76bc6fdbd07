import json

import cv2
import numpy as np
import pytest
from coco_files import coco_document, write_coco, write_image
from PIL import Image
from video_clips import pan, write_clip

from keywarp.cli import main
from keywarp.data.checking import examine
from keywarp.data.contact_sheet import spread
from keywarp.data.reading import open_dataset


def test_a_clean_data_set(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "street"
    write_coco(folder, coco_document(), "train.json")
    write_coco(folder, coco_document(), "val.json")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "no problems found" in printed
    with Image.open(tmp_path / "street-contact-sheet.png") as sheet:
        assert sheet.size == (5 * 320, 2 * 216)  # five labelled frames in each of two splits
    assert not list(tmp_path.glob(".*partial"))


def test_json_counts(tmp_path, capsys):
    write_coco(tmp_path, coco_document())
    assert main(["data", "check", str(tmp_path), "--json", "--sheet", str(tmp_path / "sheet.png")]) == 0
    found = json.loads(capsys.readouterr().out)["splits"]["train"]
    assert found["classes"] == {"cat": 2, "dog": 2}
    assert found["sizes"] == {"64x48": 5}
    numbers = ("videos", "frames", "labelled", "objects", "tracks", "masks", "frames_read")
    assert [found[name] for name in numbers] == [2, 5, 5, 4, 2, 0, 5]
    assert found["problems"] == {}


def spoil_nothing(root, document):
    pass


def remove_image(root, document):
    (root / "data/v1/000001.png").unlink()


def break_image(root, document):
    (root / "data/v1/000001.png").write_bytes(b"no image")


def resize_image(root, document):
    write_image(root / "data/v1/000000.png", size=(10, 10))


def resize_all(root, document):
    for frame in range(2):
        write_image(root / f"data/v2/{frame:06d}.png", size=(96, 128))


def move_box(root, document):
    document["annotations"][0]["bbox"] = [60, 2, 10, 20]


def empty_box(root, document):
    document["annotations"][0]["bbox"] = [6, 2, 0, 20]


def repeat_track(root, document):
    document["annotations"][2]["instance_id"] = 6


def small_mask(root, document):
    cv2.imwrite(str(root / "mask.png"), np.zeros((5, 5), np.uint8))
    document["images"][0]["mask_file"] = "mask.png"


def odd_mask(root, document):
    cv2.imwrite(str(root / "mask.png"), np.full((48, 64), 3, np.uint8))
    document["images"][0]["mask_file"] = "mask.png"


def no_mask(root, document):
    document["images"][0]["mask_file"] = "mask.png"


@pytest.mark.parametrize(
    ("spoil", "kinds", "line"),
    [
        (spoil_nothing, [], ""),
        (remove_image, ["missing frames"], "v1: 1 of 3 images, first v1/000001.png"),
        (break_image, ["unreadable files"], "000001.png cannot be read as an image"),
        (resize_image, ["frames of several sizes"], "v1 frame 1: 64×48"),
        (resize_all, ["other size than announced"], "v2: 128×96, announced 64×48"),
        (move_box, ["boxes outside the frame"], "v1 frame 0: box 60, 2, 70, 22 in 64×48"),
        (empty_box, ["empty or inverted boxes"], "v1 frame 0: box 6, 2, 6, 22"),
        (repeat_track, ["one track twice in a frame"], "v1 frame 2: track 6"),
        (small_mask, ["masks of another size"], "v1 frame 0: 5×5, the frame is 64×48"),
        (odd_mask, ["mask values without a class"], "v1 frame 0: 3 of 3 classes"),
        (no_mask, ["unreadable annotations"], "mask.png is missing"),
    ],
)
def test_each_problem_is_told(tmp_path, spoil, kinds, line):
    document = coco_document()
    path = write_coco(tmp_path, document)
    spoil(tmp_path, document)
    path.write_text(json.dumps(document))
    problems = examine(open_dataset(tmp_path)).problems
    assert {kind: len(lines) for kind, lines in problems.items()} == dict.fromkeys(kinds, 1)
    assert not kinds or problems[kinds[0]][0].endswith(line)


@pytest.mark.parametrize(
    ("frame", "content", "kind", "line"),
    [
        (9, "clip", "missing frames", "frame 9 is labelled, 6 frames are there"),
        (0, "broken", "unreadable files", "cannot be read as a video"),
    ],
)
def test_video_files(tmp_path, frame, content, kind, line):
    clip = write_clip(tmp_path / "a.mp4", pan(6))
    if content == "broken":
        clip.write_bytes(b"no video")
    (tmp_path / "labels.csv").write_text(f"video,frame,class,x1,y1,x2,y2\na.mp4,{frame},dog,1,2,3,4\n")
    problems = examine(open_dataset(tmp_path, "all")).problems
    assert line in problems[kind][0]


def test_a_video_file_shorter_than_announced(tmp_path):
    write_clip(tmp_path / "a.mp4", pan(6))
    document = coco_document() | {"images": [], "annotations": []}
    document["videos"] = [{"id": 1, "name": "a", "file_name": "a.mp4", "length": 8}]
    write_coco(tmp_path, document)
    assert "has 6 frames, announced 8" in examine(open_dataset(tmp_path)).problems["missing frames"][0]


def test_exit_codes(tmp_path, capsys):
    document = coco_document()
    empty_box(tmp_path, document)
    write_coco(tmp_path, document)
    assert main(["data", "check", str(tmp_path), "--sheet", str(tmp_path / "sheet.png")]) == 1
    assert "1 × empty or inverted boxes" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "absent")]) == 2
    assert main(["data", "check", str(tmp_path), "--split", "val"]) == 2
    assert main(["data", "check", str(tmp_path), "--sheet", str(tmp_path / "absent/sheet.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_spread_positions():
    assert spread(5, 1) == [2]
    assert spread(5, 9) == [0, 1, 2, 3, 4]
    assert spread(100, 4) == [12, 37, 62, 87]
    assert spread(0, 4) == []
