"""The model and the clip that ship with keywarp."""

import json
import re
import subprocess
from pathlib import Path

import av
import pytest

import keywarp
from keywarp import demo
from keywarp.cli import main
from keywarp.data.imagenet_classes import IMAGENET_VID
from keywarp.data.reading import open_dataset
from keywarp.errors import UserError
from keywarp.loading import load
from keywarp.networks.download import sha256_of
from keywarp.networks.weight_files import read_description
from recipe_files import recipe_module

ASSETS = Path(keywarp.__file__).parent / "assets"
ROOT = Path(__file__).parents[1]


def test_assets_are_small():
    assert (ASSETS / "demo.mp4").stat().st_size < 10**6
    assert (ASSETS / "demo.safetensors").stat().st_size < 10**7


def test_the_weights_tell_how_they_were_trained():
    about = read_description(ASSETS / "demo.safetensors")
    assert about["method"] == "impression-d"
    assert about["training"]["config"]["steps"] > 100
    names = [f"mAP {way}, {split}" for split in ("val", "test") for way in demo.WAYS]
    assert list(about["metrics"]) == names
    assert all(0.3 < value < 1 for value in about["metrics"].values())


def test_the_clip_has_its_truth():
    dataset = open_dataset(ASSETS / "demo.json", "all")
    assert len(dataset.classes) == len(IMAGENET_VID)
    (clip,) = dataset.videos
    assert list(clip.labelled) == list(range(len(clip.frames)))
    assert load("demo", device="cpu").classes == tuple(dataset.classes)


def test_three_ways_side_by_side(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "ROUNDS", 1)
    assert main(["demo", "--output", str(tmp_path), "--device", "cpu"]) == 0
    figures = json.loads((tmp_path / "demo.json").read_text())
    assert list(figures) == ["per frame", "fast", "accurate"]
    for own in figures.values():
        assert own["frames/s"] > 0
        assert own["boxes"] > 10
        assert own["mAP"] > 0.3
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5].startswith("fast: ")
    assert lines[-4].startswith("accurate: ")
    assert lines[-2].startswith("mAP on 60 test clips: per frame ")
    with av.open(str(tmp_path / "demo.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == len(open_dataset(ASSETS / "demo.json", "all").videos[0].frames)
    assert main(["demo", "--output", str(tmp_path), "--device", "cpu"]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({}, ""),
        ({"dataset": "shapes:test"}, "must be of `keywarp evaluate DATA:val"),
        ({"method": "dff"}, "--method sff --flow codec --interval 10 --key-position 5 --postprocess none"),
        ({"arguments": {"flow": "codec", "interval": 5, "key_position": 5}}, "--interval 10 --key-position 5"),
        ({"sha256": {"model.safetensors": "0"}}, "must be of"),
        ({"row": "seq-nms"}, "must be of"),
        ({"videos": 20}, "DATA:val --videos 60 --model"),
        ({"iou": "0.5"}, "must be of"),
        ({"arguments": None}, "is not laid out as an evaluation of keywarp"),
    ],
)
def test_what_ships_is_made_of_its_own_evaluations(tmp_path, changed, refused):
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"weights")
    of_model = {
        "method": "sff",
        "arguments": {"flow": "codec", "interval": 10, "key_position": 5},
        "sha256": {"model.safetensors": sha256_of(model)},
    }
    setting = {"dataset": "shapes:val", "videos": 60, "iou": "vid", "model": of_model | changed} | changed
    row = {"name": changed.get("row", "none"), "measures": {"mAP": 0.5}}
    (tmp_path / "evaluation.json").write_text(json.dumps({"setting": setting, "rows": [row]}))
    measured = recipe_module("demo").measured
    if not refused:
        assert measured(tmp_path, "val", model, "fast") == 0.5
        return
    with pytest.raises(UserError, match=re.escape(refused)):
        measured(tmp_path, "val", model, "fast")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ([], "keywarp demo "),
        (["VIDEO=my.mp4"], 'keywarp detect "my.mp4" --model "yolox-nano"'),
        (["VIDEO=my.mp4", "MODEL=a.onnx"], 'keywarp detect "my.mp4" --model "a.onnx"'),
        (["MODEL=a.onnx"], 'echo "MODEL is for a video of yours: make demo VIDEO=my.mp4 MODEL=a.onnx"; exit 2'),
    ],
)
def test_make_demo(variables, expected):
    """The bundled clip is compared; a video of the user's is detected in, with YOLOX-nano by default."""
    command = ["make", "--dry-run", "demo", *variables]
    assert expected in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
