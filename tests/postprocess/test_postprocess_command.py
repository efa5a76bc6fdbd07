"""`keywarp postprocess` from the outside: files in the two layouts, and what is wrong with others."""

import json

import numpy as np
import pytest

from keywarp.cli import main
from keywarp.postprocess import apply
from keywarp.postprocess.boxes_file import read
from keywarp.sinks import Journal, to_record, write_json
from keywarp.structures import FrameResult
from postprocess.test_seq_nms import tubes

FRAMES = 8


def entries_of(detections):
    columns = (detections.frames, detections.boxes.astype(float), detections.scores, detections.labels)
    return [
        {"image_id": int(f), "category_id": int(c), "bbox": [x, y, right - x, bottom - y], "score": round(float(s), 4)}
        for f, (x, y, right, bottom), s, c in zip(*columns, strict=True)
    ]


@pytest.fixture
def results(tmp_path):
    """A COCO results list with a field of its own, its boxes in no order."""
    entries = [{**entry, "note": i} for i, entry in enumerate(entries_of(tubes(7)))]
    np.random.default_rng(0).shuffle(entries)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(entries))
    return path


def run(*arguments):
    return main(["postprocess", *map(str, arguments)])


def fails(capsys, *arguments):
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("keywarp: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("method", ["seq-nms", "seq-nms+"])
def test_a_results_list_comes_back_with_scores_and_tracks(results, tmp_path, capsys, method):
    output = tmp_path / "out.json"
    assert run(results, "--method", method, "--output", output) == 0
    before = {entry["note"]: entry for entry in json.loads(results.read_text())}
    after = json.loads(output.read_text())
    expected = apply(method, read(results).detections)
    assert [e["image_id"] for e in after] == expected.frames.tolist()
    assert [e["track_id"] for e in after] == expected.tracks.tolist()
    np.testing.assert_allclose([e["score"] for e in after], expected.scores, atol=1e-6)
    for entry in after:
        was = before[entry["note"]]
        assert {k: v for k, v in entry.items() if k not in ("score", "track_id")} == {
            k: v for k, v in was.items() if k != "score"
        }
    assert len({entry["note"] for entry in after}) == len(after)
    line = capsys.readouterr().out
    assert line.startswith(f"results.json: {method}: {len(before)} boxes in, {len(after)} out, ")
    assert line.count("\n") == 1


def test_a_file_of_detect_keeps_its_layout(tmp_path):
    detections = tubes(5)
    journal = Journal(tmp_path / "journal.jsonl", {})
    for index, found in enumerate(detections.by_frame(FRAMES)):
        journal.append(to_record(FrameResult(index, index / 25, index == 0, found, classes=["cat", "dög"])))
    source, output = tmp_path / "street.json", tmp_path / "linked.json"
    write_json(source, journal, {"detections": {"cat": 99}, "complete": True}, ["cat", "dög"])
    assert run(source, "--output", output) == 0
    before, after = json.loads(source.read_text()), json.loads(output.read_text())
    assert list(after) == list(before)
    assert after["images"] == before["images"]
    assert after["categories"] == before["categories"]
    labels = [entry["category_id"] for entry in after["annotations"]]
    counts = {"cat": labels.count(0), "dög": labels.count(1)}
    assert min(counts.values()) > 0
    assert after["info"] == {"detections": counts, "complete": True, "postprocess": {"method": "seq-nms+"}}
    by_id = {entry["id"]: entry for entry in before["annotations"]}
    for entry in after["annotations"]:
        assert entry.keys() - by_id[entry["id"]].keys() == {"track_id"}
        assert entry["bbox"] == by_id[entry["id"]]["bbox"]
    np.testing.assert_array_equal(read(output).detections.boxes, apply("seq-nms+", read(source).detections).boxes)
    # A line an entry, `info` on the first one, as detect writes it.
    assert json.loads(output.read_text().splitlines()[0].rstrip(",") + "}") == {"info": after["info"]}


def test_rescoring_reaches_the_function(results, tmp_path):
    scores = {}
    for rescore in ("mean", "max"):
        output = tmp_path / f"{rescore}.json"
        assert run(results, "--method", "seq-nms", "--rescore", rescore, "--output", output) == 0
        scores[rescore] = sum(entry["score"] for entry in json.loads(output.read_text()))
    assert scores["max"] > scores["mean"]


def test_no_boxes(tmp_path):
    empty, output = tmp_path / "empty.json", tmp_path / "out.json"
    empty.write_text('{"images": [{"id": 0}], "annotations": []}')
    assert run(empty, "--output", output) == 0
    assert json.loads(output.read_text())["annotations"] == []


def test_nothing_is_overwritten_unasked(results, tmp_path, capsys):
    output = tmp_path / "out.json"
    output.write_text("mine")
    assert "exists; choose another --output or give --overwrite" in fails(capsys, results, "--output", output)
    assert output.read_text() == "mine"
    assert run(results, "--output", output, "--overwrite") == 0
    assert isinstance(json.loads(output.read_text()), list)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "results.json"]


BOX = {"image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("frame,x\n", "is no JSON file"),
        ("[" * 100_000, "is no JSON file"),
        ("{}", "has no boxes"),
        ("7", "has no boxes"),
        ("[7]", "box 0 (from 0): must be an object, got 7"),
        ([BOX, {"image_id": 1}], "box 1 (from 0): lacks category_id, bbox, score"),
        ([BOX | {"score": float("nan")}], "score must be 0 to 1, got nan"),
        ([BOX | {"score": 1.5}], "score must be 0 to 1, got 1.5"),
        ([BOX | {"score": "high"}], "score must be 0 to 1, got 'high'"),
        ([BOX | {"bbox": [1, 2, -3, 4]}], "width and height of at least 0, got [1, 2, -3, 4]"),
        ([BOX | {"bbox": [1, 2, float("inf"), 4]}], "bbox must be four numbers"),
        ([BOX | {"bbox": [1, 2, 3]}], "bbox must be four numbers"),
        ([BOX | {"bbox": None}], "bbox must be four numbers"),
        ([BOX | {"image_id": "a.jpg"}], "image_id must be a whole number from 0, got 'a.jpg'"),
        ([BOX | {"image_id": -1}], "image_id must be a whole number from 0, got -1"),
        ([BOX | {"image_id": 2**40}], "image_id must be a whole number from 0"),
        ([BOX | {"category_id": 1.5}], "category_id must be a whole number from 0, got 1.5"),
        ({"annotations": [BOX], "images": [{"id": 3}]}, "a box is of image 0, which is not among its images"),
        ({"annotations": [BOX], "images": [{"id": 0, "video_id": 1}, {"id": 1, "video_id": 2}]}, "is of 2 videos"),
        ({"annotations": [BOX], "images": [0]}, "every image must be an object with an id"),
        ({"annotations": [BOX], "info": []}, "is not in COCO's layout"),
        ({"annotations": [BOX], "categories": None}, "is not in COCO's layout"),
        ({"annotations": [BOX], "info": {"settings": {"postprocess": "seq-nms"}}}, "post-processed already"),
    ],
)
def test_files_that_are_wrong(tmp_path, capsys, content, message):
    path, output = tmp_path / "boxes.json", tmp_path / "out.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert message in fails(capsys, path, "--output", output)
    assert not output.exists()


def test_options_that_are_wrong(results, tmp_path, capsys):
    output = tmp_path / "out.json"
    assert "did you mean seq-nms+?" in fails(capsys, results, "--output", output, "--method", "seq-nm+")
    assert "unknown method 'none'" in fails(capsys, results, "--output", output, "--method", "none")
    assert "--rescore is an option of seq-nms" in fails(capsys, results, "--output", output, "--rescore", "max")
    wrong = ("--method", "seq-nms", "--rescore", "maximum")
    assert "did you mean max?" in fails(capsys, results, "--output", output, *wrong)
    assert "is a folder" in fails(capsys, results, "--output", tmp_path)
    assert "cannot read" in fails(capsys, tmp_path / "absent.json", "--output", output)
    assert "cannot write" in fails(capsys, results, "--output", tmp_path / "absent" / "out.json")
    assert not output.exists()


def test_equal_boxes_are_told_apart_by_their_order(tmp_path):
    # Boxes without area overlap nothing, so all stay.
    point = {**BOX, "bbox": [5, 5, 0, 0]}
    path, output = tmp_path / "points.json", tmp_path / "out.json"
    path.write_text(json.dumps([point | {"score": s, "note": n} for n, s in enumerate((0.1, 0.3, 0.2))]))
    assert run(path, "--output", output) == 0
    assert [(e["note"], e["score"]) for e in json.loads(output.read_text())] == [(0, 0.1), (1, 0.3), (2, 0.2)]
