import json
import sys

import numpy as np
import pytest
from scipy.io import savemat

from keywarp.cli import main
from keywarp.data.datasets import Annotation
from keywarp.errors import UserError
from keywarp.evaluation.motion_file import by_video, read_motion
from keywarp.evaluation.truth import Truth


def cells(*frames):
    """As MATLAB's cells: `[M, 1]` a frame, `[1, 0]` without objects."""
    made = np.empty((len(frames), 1), object)
    for number, values in enumerate(frames):
        made[number, 0] = np.array(values).reshape(-1, 1) if len(values) else np.zeros((1, 0))
    return made


def write(path, **variables):
    savemat(path, variables)
    return path


def test_frames_with_two_one_and_no_objects(tmp_path):
    path = write(tmp_path / "a.mat", motion_iou=cells([0.25, 0.95], [], [1]), other=np.zeros(3))
    values = read_motion(path)
    assert [v.tolist() for v in values] == [[0.25, 0.95], [], [1]]
    assert {v.dtype for v in values} == {np.dtype(np.float64)}


def test_the_published_file(shared, capsys):
    path = shared / "reference/imagenet_vid_groundtruth_motion_iou.mat"
    if not path.exists():
        pytest.skip("the file is absent")
    assert main(["data", "motion", str(path), "--json"]) == 0
    assert capsys.readouterr().out == '{"objects": 273505, "slow": 0.3793, "medium": 0.3591, "fast": 0.2616}\n'


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"motion": np.zeros(3)}, r"must have cells 'motion_iou' \[frames, 1\], got none"),
        ({"motion_iou": np.zeros((3, 1))}, r"got float64 \[3, 1\]"),
        ({"motion_iou": cells([0.5], [0.5]).T}, r"got object \[1, 2\]"),
        ({"motion_iou": cells([0.5], [1.5])}, "frame 1 does not"),
        ({"motion_iou": cells([0.5], ["a"])}, "frame 1 does not"),
    ],
)
def test_another_content_is_refused(tmp_path, variables, message):
    with pytest.raises(UserError, match=message):
        read_motion(write(tmp_path / "a.mat", **variables))


@pytest.mark.parametrize("content", [b"", b"text, and no more than that" * 20, b"\x89HDF\r\n\x1a\n" * 40])
def test_what_is_no_such_file_is_one_line(tmp_path, capsys, content):
    (tmp_path / "a.mat").write_bytes(content)
    assert main(["data", "motion", str(tmp_path / "a.mat")]) == 2
    error = capsys.readouterr().err
    assert "a.mat cannot be read as a MATLAB file" in error
    assert error.count("\n") == 1


def test_a_file_that_is_cut_off(tmp_path):
    path = write(tmp_path / "a.mat", motion_iou=cells(*[[0.5]] * 50))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be read"):
        read_motion(path)


def test_an_absent_file(tmp_path, capsys):
    assert main(["data", "motion", str(tmp_path / "b.mat")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_without_scipy_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UserError, match=r"pip install 'keywarp\[evaluate\]'"):
        read_motion(tmp_path / "a.mat")


def tracked(boxes, track=True):
    """One video in which an object has these boxes (x, y, w, h)."""
    images = [{"id": i, "video_id": 1, "frame_id": i, "file_name": f"v/{i}.png"} for i in range(len(boxes))]
    objects = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": box} | ({"instance_id": 3} if track else {})
        for i, box in enumerate(boxes)
    ]
    document = {"categories": [{"id": 1, "name": "dog"}], "videos": [{"id": 1, "name": "v"}]}
    return document | {"images": images, "annotations": objects}


def write_coco(folder, document):
    """The JSON file; its images are only looked for, not read."""
    (folder / "v").mkdir(exist_ok=True)
    for image in document["images"]:
        (folder / image["file_name"]).touch()
    (folder / "labels.json").write_text(json.dumps(document))
    return folder / "labels.json"


def test_of_a_data_set_computed_from_its_tracks(tmp_path, capsys):
    # Motion IoU: (1 + 1/3) / 2 of the first two, 1/3 of the last.
    path = write_coco(tmp_path, tracked([[0, 0, 20, 20], [0, 0, 20, 20], [10, 0, 20, 20]]))
    assert main(["data", "motion", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"objects": 3, "slow": 0, "medium": 0, "fast": 1}
    path = write_coco(tmp_path, tracked([[0, 0, 20, 20], [0, 0, 20, 20]]))
    assert main(["data", "motion", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "2 objects" in printed
    assert "100.00%" in printed


def test_objects_without_a_track_are_told_apart(tmp_path, capsys):
    document = tracked([[0, 0, 20, 20], [0, 0, 20, 20]])
    document["annotations"][1].pop("instance_id")
    path = write_coco(tmp_path, document)
    assert main(["data", "motion", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"objects": 1, "slow": 1, "medium": 0, "fast": 0, "unknown": 1}
    assert main(["data", "motion", str(write_coco(tmp_path, tracked([[0, 0, 20, 20]], track=False)))]) == 2
    assert "have no tracks" in capsys.readouterr().err
    document["annotations"] = []
    assert main(["data", "motion", str(write_coco(tmp_path, document))]) == 2
    assert "has no boxes" in capsys.readouterr().err


class Clip:
    name = "clip"

    def __init__(self, *counts):
        self.labelled, self.counts = range(len(counts)), counts

    def annotation(self, index):
        count = self.counts[index]
        return Annotation(np.zeros((count, 4), np.float32), np.zeros(count, int), np.arange(count))


def test_a_file_goes_with_the_videos_in_their_order():
    videos = [Clip(1, 0, 2), Clip(3)]
    values = [np.array(v) for v in ([0.1], [], [0.2, 0.3], [0.4, 0.5, 0.6])]
    parts = by_video(values, videos)
    assert Truth.of(videos[0], parts[0]).motion.tolist() == [0.1, 0.2, 0.3]
    assert Truth.of(videos[1], parts[1]).motion.tolist() == [0.4, 0.5, 0.6]
    with pytest.raises(UserError, match=r"of 3 frames, the 2 videos have 4 labelled ones"):
        by_video(values[1:], videos)
