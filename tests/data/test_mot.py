import pytest
from coco_files import write_image
from video_clips import pan, write_clip

from keywarp.data.reading import open_dataset, splits
from keywarp.errors import UserError


def write_sequence(root, name, lines, count=3, info=None):
    for frame in range(1, count + 1):
        write_image(root / name / f"img1/{frame:06d}.jpg", 10 * frame)
    (root / name / "gt").mkdir(parents=True)
    (root / name / "gt/gt.txt").write_text("\n".join(lines))
    if info is not None:
        (root / name / "seqinfo.ini").write_text(info)


def test_mot17_layout(tmp_path):
    lines = ["1,4,10,20,5,6,1,1,0.9", "3,4,11,20,5,6,1,1,1", "3,5,0,0,9,9,1,3,1", "3,6,0,0,9,9,0,1,1"]
    info = "[Sequence]\nname=A\nimDir=img1\nframeRate=14\nseqLength=3\nimWidth=64\nimHeight=48\n"
    write_sequence(tmp_path / "train", "A", lines, info=info)
    assert splits(tmp_path) == ("train",)
    assert splits(tmp_path / "train") == ("all",)
    dataset = open_dataset(tmp_path)
    assert dataset.classes[:3] == ("person", "person on vehicle", "car")
    (video,) = dataset.videos
    assert (video.name, list(video.labelled), video.size, video.fps) == ("A", [0, 1, 2], (48, 64), 14)
    assert video.annotation(0).boxes.tolist() == [[10, 20, 15, 26]]
    assert video.annotation(1).boxes.tolist() == []
    found = video.annotation(2)  # the last line has flag 0
    assert (found.labels.tolist(), found.tracks.tolist()) == ([0, 2], [4, 5])
    assert abs(int(video.frames.read([2])[0][0, 0, 0]) - 30) < 3


def test_mot15_layouts(tmp_path):
    write_clip(tmp_path / "B.mp4", pan(4))
    (tmp_path / "B.gt.txt").write_text("2,1,10,20,5,6,1,-1,-1,-1\n")
    write_image(tmp_path / "C/000001.jpg")
    (tmp_path / "C.gt.txt").write_text("1,1,1,2,3,4,1,-1,-1,-1\n")
    dataset = open_dataset(tmp_path, "all")
    assert dataset.classes == ("person",)
    assert [(v.name, len(v.frames)) for v in dataset.videos] == [("B", 4), ("C", 1)]
    assert dataset.videos[0].annotation(1).boxes.tolist() == [[10, 20, 15, 26]]


def test_tud(shared):
    dataset = open_dataset(shared / "annotated/mot15", "all")
    counts = [sum(len(v.annotation(i).boxes) for i in v.labelled) for v in dataset.videos]
    assert [(v.name, len(v.frames)) for v in dataset.videos] == [("TUD-Campus", 71), ("TUD-Stadtmitte", 179)]
    assert counts == [359, 1156]
    assert dataset.videos[1].frames.read([178])[0].shape == (480, 640, 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,4,10,20,5", r"line 2: wanted frame,track,left"),
        ("1,4,ten,20,5,6,1,1,1", r"line 2: wanted frame,track,left"),
        ("0,4,10,20,5,6,1,1,1", "line 2: frames and classes are numbered from 1"),
        ("1,4,10,20,5,6,1,99,1", "line 2: frames and classes are numbered from 1"),
        ("nan,4,10,20,5,6,1,1,1", "not laid out as SEQUENCE/gt"),
        ("9,4,10,20,5,6,1,1,1", "a box is in frame 9, but A has 3 frames"),
    ],
)
def test_malformed_lines(tmp_path, line, message):
    write_sequence(tmp_path, "A", ["1,4,10,20,5,6,1,1,1", line])
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path, "all")


def test_sequences_without_pictures_and_bad_information(tmp_path):
    (tmp_path / "A.gt.txt").write_text("1,4,10,20,5,6,1,1,1")
    with pytest.raises(UserError, match="neither images nor a video of A"):
        open_dataset(tmp_path, "all")
    write_sequence(tmp_path / "val", "B", [], info="no section\n")
    with pytest.raises(UserError, match=r"seqinfo\.ini cannot be read"):
        open_dataset(tmp_path / "val", "all")
    write_sequence(tmp_path / "test", "C", [], info="[Sequence]\nimWidth=abc\nimHeight=48\n")
    with pytest.raises(UserError, match=r"not laid out as SEQUENCE/gt.*abc"):
        open_dataset(tmp_path / "test", "all")
