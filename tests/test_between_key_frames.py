"""recipes/between_key_frames.py: what became of objects since the key frame, and what is lost of them."""

import json
import sys

import numpy as np
import pytest

from keywarp import evaluate as evaluating
from keywarp.evaluate import evaluate
from keywarp.evaluation.truth import Truth
from keywarp.options import EvaluateOptions
from recipe_files import recipe_module
from toy_files import colour_model, write_toy

recipe = recipe_module("between_key_frames")


def test_what_became_of_objects():
    boxes = {  # by track, of frames 3 (the key frame) and 4
        0: ([0, 0, 10, 10], [4, 0, 14, 10]),
        1: ([0, 0, 10, 10], [5, 0, 15, 10]),
        2: ([0, 0, 10, 10], [0, 0, 10, 6]),
        3: (None, [0, 0, 10, 10]),
    }
    rows = [(f, t, box) for f in (3, 4) for t, both in boxes.items() if (box := both[f - 3]) is not None]
    frames, tracks, at = (np.array(column) for column in zip(*rows, strict=True))
    truth = Truth(np.arange(6), frames, at, np.zeros(7), tracks, np.ones(7))
    names = [recipe.FATES[n] for n in recipe.fates(truth, 3)]
    assert names == ["at a key frame"] * 3 + ["stayed", "moved", "changed shape", "came into view"]


def test_the_table_is_of_both_evaluations(tmp_path, monkeypatch, capsys):
    data = write_toy(tmp_path / "toy")
    for name, interval in (("each", 1), ("carried", 12)):
        monkeypatch.setattr(evaluating, "load_model", lambda *_, k=interval, **__: colour_model(k))
        evaluate(str(data), EvaluateOptions(model="toy", output=tmp_path / name))
    folders = ["--per-frame", str(tmp_path / "each"), "--carried", str(tmp_path / "carried")]
    monkeypatch.setattr(sys, "argv", ["recipe", str(data), *folders, "--interval", "12"])
    capsys.readouterr()
    assert recipe.main() == 0
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in capsys.readouterr().out.splitlines()}
    objects, per_frame, carried, share = lines["all"][:4]
    assert per_frame == "100.0"
    assert float(carried) < 60
    assert share == "100 %"
    assert lines["at a key frame"][1:4] == ["100.0", "100.0", "0 %"]
    assert sum(int(lines[name][0]) for name in recipe.FATES) == int(objects)


def test_what_cannot_be_read_is_told(tmp_path, monkeypatch, capsys):
    data = write_toy(tmp_path / "toy")
    monkeypatch.setattr(sys, "argv", ["recipe", str(data), "--per-frame", "nowhere", "--carried", "nowhere"])
    assert recipe.main() == 2
    assert capsys.readouterr().err.startswith("between_key_frames: no such results: nowhere")


@pytest.mark.parametrize("lacking", ["tracks", "labels"])
def test_data_that_does_not_tell_every_objects_way_is_refused(tmp_path, monkeypatch, capsys, lacking):
    data = write_toy(tmp_path / "toy")
    document = json.loads((data / "val.json").read_text())
    if lacking == "labels":
        document["images"][3]["labelled"] = False
        document["annotations"] = [each for each in document["annotations"] if each["image_id"] != 3]
    else:
        del document["annotations"][3]["instance_id"]
    (data / "val.json").write_text(json.dumps(document))
    monkeypatch.setattr(sys, "argv", ["recipe", str(data), "--per-frame", "nowhere", "--carried", "nowhere"])
    assert recipe.main() == 2
    assert "all frames labelled and all objects tracked; toy-0 is none" in capsys.readouterr().err


def test_numbers_below_one_are_refused(monkeypatch, capsys):
    given = ["--per-frame", "a", "--carried", "b", "--interval", "0"]
    monkeypatch.setattr(sys, "argv", ["recipe", "data", *given])
    with pytest.raises(SystemExit, match="2"):
        recipe.main()
    assert "--interval must be at least 1, got 0" in capsys.readouterr().err


def test_an_evaluation_without_the_plain_row_is_told(tmp_path, monkeypatch, capsys):
    data = write_toy(tmp_path / "toy")
    monkeypatch.setattr(evaluating, "load_model", lambda *_, **__: colour_model(1))
    evaluate(str(data), EvaluateOptions(model="toy", output=tmp_path / "linked", postprocess=("seq-nms",)))
    folder = str(tmp_path / "linked")
    monkeypatch.setattr(sys, "argv", ["recipe", str(data), "--per-frame", folder, "--carried", folder])
    assert recipe.main() == 2
    assert "has no row without post-processing" in capsys.readouterr().err
