import csv
import json
from pathlib import Path

import pytest
import torch

from keywarp.errors import InterruptedWorkError, UserError
from keywarp.sinks import (
    Journal,
    check_same,
    read_info,
    text_file,
    to_detections,
    to_record,
    write_csv,
    write_json,
    write_mot,
)
from keywarp.structures import Detections, FrameResult

CLASSES = ("person", "bicycle")
HEADER = {"video": {"name": "a.mp4"}, "settings": {"threshold": 0.5, "classes": ["person"]}}


def result(index, boxes=1, key=False, fallback=None):
    corners = torch.tensor([[1.234567, 2.0, 11.2, 22.5]]) + torch.arange(boxes)[:, None]
    detections = Detections(corners.reshape(-1, 4), torch.full((boxes,), 0.98764), torch.arange(boxes) % 2)
    return FrameResult(index, index / 25, key, detections, flow_fallback=fallback, classes=CLASSES)


def filled(path, count=3):
    journal = Journal(path, HEADER)
    for i in range(count):
        journal.append(to_record(result(i, boxes=i, key=i == 0)))
    return journal


def test_record_holds_the_result_rounded():
    record = to_record(result(4, key=True, fallback=0.25))
    assert record["image_id"] == 4
    assert record["time"] == 0.16
    assert record["key"] is True
    assert record["flow_fallback"] == 0.25
    assert record["detections"] == [
        {"category_id": 0, "category": "person", "bbox": [1.23, 2.0, 9.97, 20.5], "score": 0.9876}
    ]


def test_a_record_comes_back_as_detections():
    record = to_record(result(0, boxes=3))
    back = to_detections(record)
    torch.testing.assert_close(back.boxes[0], torch.tensor([1.23, 2.0, 11.2, 22.5]))
    assert back.labels.tolist() == [0, 1, 0]
    assert len(to_detections(to_record(result(0, boxes=0)))) == 0


def test_a_record_comes_back_without_loss():
    record = to_record(result(0, boxes=5))
    again = to_record(FrameResult(0, 0.0, False, to_detections(record), classes=CLASSES))
    assert again == record


def test_journal_counts_what_it_holds_also_when_opened_again(tmp_path):
    journal = filled(tmp_path / "j", 4)
    journal.append(to_record(result(4, key=True, fallback=1.0)))
    journal.close(remove=False)
    again = Journal(tmp_path / "j", HEADER)
    assert again.stored == again.count == journal.count == 5
    assert again.keys[-1] == 4
    assert again.key_frames == 2
    assert again.detections == journal.detections == {"person": 5, "bicycle": 2}
    assert (again.codec_frames, again.frames_without_motion) == (1, 1)
    assert [r["image_id"] for r in again.records()] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", [b'{"image_id": 3, "ti', b'{"image_id": 3, "time": 0.12, "key": false}', b"\x00\x00\n"])
def test_a_last_line_that_was_cut_is_dropped(tmp_path, cut):
    filled(tmp_path / "j").close(remove=False)
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole + cut)
    again = Journal(tmp_path / "j", HEADER)
    assert again.stored == 3
    again.append(to_record(result(3)))
    assert [r["image_id"] for r in again.records()] == [0, 1, 2, 3]


def test_a_journal_of_something_else_is_refused_by_what_differs(tmp_path):
    filled(tmp_path / "j").close(remove=False)
    other = {**HEADER, "settings": {"threshold": 0.3, "classes": ["person"]}}
    with pytest.raises(UserError, match=r"settings threshold was 0.5 and is 0.3 now; .*--overwrite"):
        Journal(tmp_path / "j", other)


def test_json_has_the_layout_of_coco(tmp_path):
    journal = filled(tmp_path / "j")
    write_json(tmp_path / "a.json", journal, {"complete": True}, CLASSES)
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["categories"] == [{"id": 0, "name": "person"}, {"id": 1, "name": "bicycle"}]
    assert content["images"][0] == {"id": 0, "time": 0.0, "key": True}
    assert [a["image_id"] for a in content["annotations"]] == [1, 2, 2]
    assert content["annotations"][2] == {
        "id": 3,
        "image_id": 2,
        "category_id": 1,
        "bbox": [2.23, 3.0, 9.97, 20.5],
        "score": 0.9876,
    }
    assert read_info(tmp_path / "a.json") == {"complete": True}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "j"]


def test_json_of_a_video_without_detections(tmp_path):
    journal = filled(tmp_path / "j", 1)
    write_json(tmp_path / "a.json", journal, {}, CLASSES)
    assert json.loads((tmp_path / "a.json").read_text())["annotations"] == []


def test_read_info_refuses_a_foreign_file(tmp_path):
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="not written by keywarp"):
        read_info(tmp_path / "a.json")


def test_csv(tmp_path):
    write_csv(tmp_path / "a.csv", filled(tmp_path / "j"))
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert len(rows) == 3
    assert rows[2]["category"] == "bicycle"
    assert [float(rows[2][k]) for k in ("x", "y", "width", "height", "score")] == [2.23, 3.0, 9.97, 20.5, 0.9876]


def test_mot_counts_frames_from_one(tmp_path):
    write_mot(tmp_path / "a.txt", filled(tmp_path / "j"))
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert lines[0] == "2,-1,1.23,2.0,9.97,20.5,0.9876,-1,-1,-1"
    assert len(lines) == 3


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail():
        with text_file(path) as file:
            file.write("new")
            raise OSError(28, "No space left on device")

    with pytest.raises(InterruptedWorkError, match="No space left"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_stops_a_journal(tmp_path):
    journal = filled(tmp_path / "j")
    with open("/dev/full", "ab", buffering=0) as full:
        journal._file, real = _Refusing(full, journal._file), journal._file
        with pytest.raises(InterruptedWorkError, match="after 3 frames: No space left"):
            journal.append(to_record(result(3)))
        journal._file = real
    assert [r["image_id"] for r in journal.records()] == [0, 1, 2]


class _Refusing:
    """Writes to one file, truncates another."""

    def __init__(self, writes, truncates):
        self.write = writes.write
        self.truncate = truncates.truncate


def test_settings_that_are_left_out_this_time_are_told(tmp_path):
    stored = {"settings": {"interval": 3, "rename": {"car": "auto"}}, "seconds": 4.0}
    check_same(stored, {"settings": {"interval": 3, "rename": {"car": "auto"}}}, tmp_path / "j")
    for left, told in (
        ({"rename": {"car": "auto"}}, "interval was 3"),
        ({"interval": 3, "rename": {}}, "car was 'auto'"),
    ):
        with pytest.raises(UserError, match=f"{told} and is not given now; "):
            check_same(stored, {"settings": left}, tmp_path / "j")
    with pytest.raises(UserError, match="settings stride was not given and is 2 now"):
        check_same(stored, {"settings": stored["settings"] | {"stride": 2}}, tmp_path / "j")
