import pytest
from coco_files import coco_document, write_coco

from keywarp.data.reading import open_dataset, splits
from keywarp.errors import UserError


def test_what_is_no_data_set_gets_one_line(tmp_path):
    with pytest.raises(UserError, match="no such data set"):
        splits(tmp_path / "absent")
    with pytest.raises(UserError, match=r"looked for ImageSets/VID .*labels\.csv .*gt/gt\.txt") as error:
        open_dataset(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UserError, match="holds no data set"):
        open_dataset(tmp_path / "a.mp4")


def test_splits_that_are_not_there(tmp_path):
    path = write_coco(tmp_path, coco_document(), "val.json")
    with pytest.raises(UserError, match="has no split 'train'; it has val"):
        open_dataset(tmp_path)
    with pytest.raises(UserError, match="it is one whole, named 'all'"):
        open_dataset(path, "train")


def test_two_files_of_one_split(tmp_path):
    write_coco(tmp_path, coco_document(), "annotations/a_train.json")
    write_coco(tmp_path, coco_document(), "annotations/b_train.json")
    with pytest.raises(UserError, match=r"b_train\.json are both the split train; give the file itself"):
        open_dataset(tmp_path)
