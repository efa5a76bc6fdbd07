"""`keywarp benchmark postprocess`: the random tubes, and what the command reports."""

import json

import numpy as np
import pytest

from keywarp.benchmarking.postprocessing import benchmark_postprocess, random_tubes
from keywarp.cli import main
from keywarp.errors import UserError
from keywarp.postprocess import seq_nms_plus

SMALL = {"frames": 20, "boxes": 40, "classes": 5, "score": 0.01, "seed": 3}


def test_random_tubes_are_what_they_say():
    found = random_tubes(**SMALL)
    assert np.unique(found.frames).tolist() == list(range(20))
    assert set(found.labels.tolist()) == set(range(5))
    assert (found.scores > 0.01).all()
    assert (found.scores < 1).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert np.bincount(found.frames).max() <= 40 * 5
    again, other = random_tubes(**SMALL), random_tubes(**SMALL | {"seed": 4})
    np.testing.assert_array_equal(found.boxes, again.boxes)
    assert not np.array_equal(found.scores[:50], other.scores[:50])
    assert len(random_tubes(**SMALL | {"score": 0.2})) < len(found)


def test_random_tubes_hold_objects_that_can_be_followed():
    linked = seq_nms_plus(random_tubes(**SMALL | {"score": 0.3}))
    assert np.bincount(linked.tracks).max() > 10


def test_the_command_reports_both_methods(tmp_path, capsys):
    output = tmp_path / "figures.json"
    arguments = [f"--{name}={value}" for name, value in SMALL.items()]
    assert main(["benchmark", "postprocess", *arguments, "--rounds", "2", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    written = json.loads(output.read_text())
    assert [row["method"] for row in written["rows"]] == ["seq-nms+", "seq-nms"]
    found = random_tubes(**SMALL)
    for row in written["rows"]:
        assert row["method"] in printed
        assert row["smallest"] <= row["seconds"] <= row["largest"]
        assert row["boxes"] == len(found)
    assert written["rows"][0]["kept"] == len(seq_nms_plus(found))
    assert written["rows"][0]["tracks"] == len(np.unique(seq_nms_plus(found).tracks))
    assert written["setting"]["rounds"] == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": 0}, "wanted --frames, --boxes, --classes and --rounds of 1 or more, got 0"),
        ({"rounds": 0}, "--rounds of 1 or more"),
        ({"score": 1.0}, "--score must be at least 0 and below 1, got 1.0"),
    ],
)
def test_options_out_of_range(wrong, message):
    with pytest.raises(UserError, match=message):
        benchmark_postprocess(**{**SMALL, "rounds": 1, "output": None} | wrong)


def test_no_folder_for_the_figures(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        benchmark_postprocess(**SMALL, rounds=1, output=tmp_path / "absent" / "figures.json")
