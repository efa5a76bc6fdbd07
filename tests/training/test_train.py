"""`keywarp train` from the command line, on a small data set on disk."""

import csv
import json

import cv2
import pytest
import torch

from keywarp.cli import main
from keywarp.errors import UserError
from keywarp.loading import DEMO
from keywarp.methods import METHODS
from keywarp.networks.weight_files import load_weights, read_description, read_state_dict
from keywarp.options import TrainOptions
from keywarp.training.config import TrainConfig
from keywarp.training.train import build, open_data
from training.toy import ToyVideo

RECIPE = """
from __future__ import annotations

from dataclasses import dataclass

from keywarp.training.config import TrainConfig


@dataclass
class Budget:
    steps: int = 3


def tiny():
    model = {"backbone": "resnet-tiny", "flow": "flownet-tiny", "shorter": 64, "longer": 96}
    model["anchor_scales"] = (1, 1.5, 2)
    often = {"validate_every": 2, "save_every": 2}
    return TrainConfig(steps=Budget().steps, images_per_step=2, model=model, frozen_stages=0, **often)


def broken():
    return 3
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three videos of images with boxes, two to train on and one held out; and label maps beside them."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "classes.txt").write_text("red\ngreen\nblue\n")
    for split, seeds in {"train": (0, 1), "val": (2,)}.items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["video", "frame", "class", "x1", "y1", "x2", "y2"])
            for seed in seeds:
                video = ToyVideo(seed, length=6)
                (folder / f"v{seed}").mkdir()
                for t, image in enumerate(video.frames.read(range(6))):
                    cv2.imwrite(str(folder / f"v{seed}" / f"{t:03d}.png"), image[..., ::-1])
                    writer.writerow([f"v{seed}", t, ("red", "green", "blue")[seed % 3], *video.annotation(t).boxes[0]])
    (folder / "recipe.py").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def detector(data, tmp_path_factory):
    """A trained per-frame detector's folder."""
    output = tmp_path_factory.mktemp("runs") / "rfcn"
    assert train(data, output) == 0
    return output


def train(data, output, method="rfcn", *more) -> int:
    recipe = f"{data / 'recipe.py'}:tiny"
    given = ["--data", str(data), "--recipe", recipe, "--output", str(output), "--workers", "0", "--device", "cpu"]
    return main(["train", method, *given, *more])


def test_norms_are_fixed_where_trained_weights_come_first(detector, data, tmp_path, capsys):
    assert read_description(detector / "model.safetensors")["training"]["config"]["frozen_norms"] is False
    assert train(data, tmp_path / "on", "rfcn", "--init", str(detector / "model.safetensors")) == 0
    assert read_description(tmp_path / "on/model.safetensors")["training"]["config"]["frozen_norms"] is True
    assert "from random weights" not in capsys.readouterr().err
    assert train(data, tmp_path / "new", "rfcn", "--steps", "1") == 0
    assert "from random weights: all norms and stages train" in capsys.readouterr().err


def test_a_run_leaves_weights_checkpoint_and_log(detector):
    files = {path.name for path in detector.iterdir()}
    assert files == {"best.safetensors", "model.safetensors", "last.ckpt", "log.jsonl", "tensorboard"}
    rows = [json.loads(line) for line in (detector / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
    assert [row["step"] for row in rows if "validation" in row] == [2, 3]
    about = read_description(detector / "model.safetensors")
    assert about["classes"] == ["red", "green", "blue"]
    assert about["training"]["step"] == 3
    assert about["training"]["config"]["images_per_step"] == 2
    assert "mAP" in about["metrics"]


def test_the_weights_run_on_a_video_by_themselves(detector, data, tmp_path):
    given = ["--model", str(detector / "model.safetensors"), "--output", str(tmp_path), "--device", "cpu"]
    assert main(["detect", str(data / "v2"), *given]) == 0
    assert len(json.loads((tmp_path / "v2.json").read_text())["images"]) == 6


def test_the_first_lines_tell_the_learning_rate(data, tmp_path, capsys):
    assert train(data, tmp_path / "run", "rfcn", "--images-per-step", "4", "--steps", "1") == 0
    assert "1 steps of 4 images; learning rate 0.001 = 0.00025 × 4 images a step" in capsys.readouterr().err


def test_dff_starts_from_a_detector(detector, data, tmp_path):
    init = str(detector / "model.safetensors")
    assert train(data, tmp_path / "dff", "dff", "--init", init, "--rate", "0", "--interval", "4") == 0
    before, after = read_state_dict(init), read_state_dict(tmp_path / "dff" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(name.startswith("aligner.") for name in after)
    assert read_description(tmp_path / "dff" / "model.safetensors")["arguments"]["interval"] == 4


def test_a_detector_starts_from_dff(detector, data, tmp_path):
    assert train(data, tmp_path / "dff", "dff", "--steps", "1") == 0
    assert train(data, tmp_path / "rfcn", "rfcn", "--init", str(tmp_path / "dff" / "model.safetensors")) == 0


def test_a_method_starts_from_one_of_another_family(data, tmp_path, capsys):
    init = tmp_path / "impression" / "model.safetensors"
    assert train(data, init.parent, "impression-d", "--steps", "1") == 0
    capsys.readouterr()
    assert train(data, tmp_path / "thp", "thp-c3", "--init", str(init), "--rate", "0") == 0
    assert f"as {init} has none that fit: aggregator, aligner.quality\n" in capsys.readouterr().err
    assert train(data, tmp_path / "flow", "thp-c3", "--init", str(init), "--init-flow", str(init), "--steps", "1") == 0
    assert f"as {init} has none that fit: aggregator, aligner.quality\n" in capsys.readouterr().err
    before, after = read_state_dict(init), read_state_dict(tmp_path / "thp" / "model.safetensors")
    taken = [name for name in before if not name.startswith(("aggregator.", "aligner.scale."))]
    assert all(torch.equal(before[name], after[name]) for name in taken)


def test_other_classes_learn_their_layers_anew(data, tmp_path, capsys):
    more = ("--shorter", "64", "--longer", "96", "--steps", "1", "--rate", "0")
    assert train(data, tmp_path / "own", "rfcn", "--init", "demo", *more) == 0
    assert "as demo has none that fit: head.auxiliary, head.score_maps.cls\n" in capsys.readouterr().err
    before, after = read_state_dict(DEMO), read_state_dict(tmp_path / "own" / "model.safetensors")
    assert torch.equal(before["head.score_maps.bbox.weight"].float(), after["head.score_maps.bbox.weight"])
    assert not torch.equal(before["head.score_maps.cls.weight"][:36].float(), after["head.score_maps.cls.weight"])


def test_a_file_of_another_network_is_refused(detector, data, tmp_path, capsys):
    init = str(detector / "model.safetensors")
    assert train(data, tmp_path / "run", "rfcn", "--init", init, "--backbone", "resnet-18") == 2
    assert f"{init} do not fit this VideoModel" in capsys.readouterr().err


def test_a_backbone_from_a_file(detector, data, tmp_path):
    init = str(detector / "model.safetensors")
    assert train(data, tmp_path / "run", "rfcn", "--init-backbone", init, "--rate", "0") == 0
    before, after = read_state_dict(init), read_state_dict(tmp_path / "run" / "model.safetensors")
    assert torch.equal(before["feature_network.conv1.weight"], after["feature_network.conv1.weight"])
    assert not torch.equal(before["head.score_maps.cls.weight"], after["head.score_maps.cls.weight"])


def test_what_is_fixed_stays(detector, data, tmp_path):
    init = str(detector / "model.safetensors")
    assert train(data, tmp_path / "run", "dff-fix-n", "--init", init) == 0
    before, after = read_state_dict(init), read_state_dict(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before if not name.endswith("num_batches_tracked"))


def test_segmentation(tmp_path, data):
    for split, seeds in {"train": (0, 1), "val": (2,)}.items():
        (tmp_path / split).mkdir()
        (tmp_path / f"{split}annot").mkdir()
        for seed in seeds:
            video = ToyVideo(seed, length=3)
            for t, image in enumerate(video.frames.read(range(3))):
                name = f"{seed:04d}_{t:05d}.png"
                cv2.imwrite(str(tmp_path / split / name), image[..., ::-1])
                cv2.imwrite(str(tmp_path / f"{split}annot" / name), video.annotation(t).mask)
    given = ["--recipe", f"{data / 'recipe.py'}:tiny", "--output", str(tmp_path / "run"), "--workers", "0"]
    assert main(["train", "dff", "--data", str(tmp_path), "--task", "segmentation", *given]) == 0
    about = read_description(tmp_path / "run" / "model.safetensors")
    assert "mIoU" in about["metrics"]
    assert about["arguments"]["task"] == "segmentation"
    model = METHODS[about["method"]](**(about["arguments"] | {"classes": about["classes"]}))
    load_weights(model, tmp_path / "run" / "model.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "dfff", "--data", "{data}"], "did you mean dff?"),
        (["train", "sff", "--data", "{data}"], "unknown method to train 'sff'"),
        (["train", "dff", "--data", "{data}/nowhere"], "no such data set"),
        (["train", "dff", "--data", "{data}:test"], "test"),
        (["train", "dff", "--data", "{data}", "--recipe", "dfff"], "unknown recipe 'dfff'; did you mean dff?"),
        (["train", "dff", "--data", "{data}", "--recipe", "nowhere.py:x"], "or FILE.py:FUNCTION"),
        (["train", "dff", "--data", "{data}", "--recipe", "{data}/recipe.py:broken"], "must return a TrainConfig"),
        (["train", "dff", "--data", "{data}", "--recipe", "{data}/recipe.py:none"], "AttributeError"),
        (["train", "dff", "--data", "{data}", "--images-per-step", "0"], "images_per_step must be 1 or more, got 0"),
        (["train", "dff", "--data", "{data}", "--precision", "16"], "unknown precision '16'"),
        (["train", "rfcn", "--data", "{data}", "--flow", "flownet-s"], "method rfcn has no flow; leave --flow out"),
        (["train", "dff", "--data", "{data}", "--init", "nowhere.safetensors"], "nowhere.safetensors"),
        (["train", "dff", "--data", "{data}", "--task", "segmentation"], "no masks to learn segmentation from"),
        (["train", "dff", "--data", "{data}", "--device", "cuda:9"], "--device must be auto, cpu or cuda"),
    ],
)
def test_mistakes_are_one_line(arguments, message, data, tmp_path, capsys):
    given = [a.format(data=data) for a in arguments]
    assert main([*given, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_with_a_run_is_not_written_over(detector, data, capsys):
    assert train(data, detector) == 2
    assert "holds a training run; --resume goes on with it" in capsys.readouterr().err
    before = read_description(detector / "model.safetensors")
    assert train(data, detector, "rfcn", "--resume") == 0
    assert read_description(detector / "model.safetensors") == before


def test_other_classes_are_told(data, tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("video,frame,class,x1,y1,x2,y2\nv0,0,cat,1,1,9,9\n")
    (tmp_path / "v0").symlink_to(data / "v0")
    assert train(data, tmp_path / "run", "rfcn", "--val", str(tmp_path)) == 2
    assert "has other classes than" in capsys.readouterr().err


def test_a_recipe_leaves_alone_what_a_methods_name_stands_for(data):
    config = TrainConfig(steps=1, model={"backbone": "resnet-tiny", "flow": "flownet-tiny"})
    options = TrainOptions(data=[str(data)])
    flows = [
        build(name, config, options, open_data(options.data)).description["arguments"]["flow"]
        for name in ("dff", "dff-half")
    ]
    assert flows == ["flownet-tiny", "flownet-half"]


def test_a_run_that_starts_from_another_variant_is_of_its_own(detector, data, tmp_path):
    init = tmp_path / "run" / "model.safetensors"
    assert train(data, init.parent, "dff-fix-n", "--init", str(detector / "model.safetensors"), "--interval", "3") == 0
    options = TrainOptions(data=[str(data)], init=init)
    model = build("dff", TrainConfig(steps=1, frozen_stages=0), options, open_data(options.data))
    assert "fixed" not in model.description["arguments"]
    assert model.description["arguments"]["interval"] == 3
    assert all(parameter.requires_grad for parameter in model.head.parameters())


def test_a_misspelt_argument_of_a_recipes_model_is_told(data):
    config = TrainConfig(steps=1, model={"backbone": "resnet-tiny", "scale_feld": False})
    options = TrainOptions(data=[str(data)])
    with pytest.raises(UserError, match="'scale_feld'; did you mean scale_field"):
        build("dff", config, options, open_data(options.data))


@pytest.mark.parametrize("options", [{"threads": 0}, {"shorter": 0}, {"longer": -5}, {"val_videos": 0}])
def test_numbers_below_one_are_refused(options):
    (name,) = options
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} must be at least 1"):
        TrainOptions(data=("shapes",), **options)
