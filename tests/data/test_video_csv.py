import pytest
from coco_files import write_image
from video_clips import pan, write_clip

from keywarp.data.reading import open_dataset, splits
from keywarp.errors import UserError

HEADER = "video,frame,class,x1,y1,x2,y2,track\n"


@pytest.fixture
def folder(tmp_path):
    write_clip(tmp_path / "a.mp4", pan(6))
    for frame in (2, 10, 1):
        write_image(tmp_path / f"b/{frame}.png", frame)
    return tmp_path


def test_one_table(folder):
    lines = ["a.mp4,4,dog,1,2,3.5,4,7", "a.mp4,0,,,,,,", "b,2,cat,5,6,7,8,", "a.mp4,4,cat,0,0,9,9,8"]
    (folder / "labels.csv").write_text(HEADER + "\n".join(lines))
    assert splits(folder) == ("all",)
    dataset = open_dataset(folder, "all")
    assert dataset.classes == ("cat", "dog")
    a, b = dataset.videos
    assert (a.name, len(a.frames), list(a.labelled)) == ("a.mp4", 6, [0, 4])
    found = a.annotation(4)
    assert (found.boxes.tolist(), found.labels.tolist(), found.tracks.tolist()) == (
        [[1, 2, 3.5, 4], [0, 0, 9, 9]],
        [1, 0],
        [7, 8],
    )
    assert a.annotation(0).boxes.shape == (0, 4)
    assert b.annotation(2).tracks.tolist() == [-1]
    assert [image[0, 0, 0] for image in b.frames.read([0, 1, 2])] == [1, 2, 10]  # natural order


def test_splits_share_their_classes_and_tracks_are_optional(folder):
    header = "video,frame,class,x1,y1,x2,y2\n"
    (folder / "train.csv").write_text(header + "a.mp4,0,dog,1,2,3,4\n")
    (folder / "val.csv").write_text(header + "b,0,cat,1,2,3,4\n")
    assert splits(folder) == ("train", "val")
    train, val = open_dataset(folder), open_dataset(folder, "val")
    assert train.classes == val.classes == ("cat", "dog")
    assert train.videos[0].annotation(0).labels.tolist() == [1]
    (folder / "classes.txt").write_text("dog\ncat\n")
    assert open_dataset(folder).classes == ("dog", "cat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,frame\n", "lacks the columns class, x1, y1, x2, y2"),
        ("", "lacks the columns video"),
        (HEADER + "a.mp4,0,dog,1,2,3,4,1\na.mp4,0.5,dog,1,2,3,4,1\n", "line 3: wanted video, frame number from 0"),
        (HEADER + "a.mp4,-1,dog,1,2,3,4,1\n", "line 2: wanted video, frame number from 0"),
        (HEADER + "a.mp4,0,dog,1,2,3\n", "line 2: wanted video, frame number from 0"),
        (HEADER + "c.mp4,0,dog,1,2,3,4,1\n", "is neither a video nor a folder of images"),
        (HEADER, "lists no videos"),
    ],
)
def test_malformed_tables_get_one_line(folder, text, message):
    (folder / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        open_dataset(folder, "all")
    assert "\n" not in str(error.value)


def test_a_class_that_classes_txt_lacks(folder):
    (folder / "labels.csv").write_text(HEADER + "a.mp4,0,dgo,1,2,3,4,1\n")
    (folder / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(UserError, match=r"classes\.txt: unknown class 'dgo'; did you mean dog"):
        open_dataset(folder, "all")


def test_a_table_in_another_encoding(folder):
    (folder / "labels.csv").write_bytes((HEADER + "a.mp4,0,Löwe,1,2,3,4,1\n").encode("cp1252"))
    with pytest.raises(UserError, match="is not in UTF-8"):
        open_dataset(folder, "all")
