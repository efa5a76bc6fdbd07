"""Every method by its name, from a weight file, through the command line, on videos of 1, 2 and 11 frames."""

import json

import numpy as np
import pytest

from keywarp.cli import main
from keywarp.data.video_writer import VideoWriter
from keywarp.loading import load
from keywarp.methods import METHODS
from keywarp.networks.weight_files import save_model
from test_papers import build, clip, tiny_flow

NAMES = sorted(set(METHODS) - {"sff"})


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for length in (1, 2, 11):
        with VideoWriter(folder / f"{length}.mp4", width=96, height=64, fps=25) as writer:
            for t, image in enumerate(clip(length)):
                writer.write(image, t / 25)
    return folder


def saved(name, folder, **options):
    model = build(name, **(tiny_flow(name, {}) | options))
    path = folder / f"{name}.safetensors"
    save_model(path, model, model.description | {"classes": list(model.classes)})
    return path, model


@pytest.mark.parametrize("name", NAMES)
def test_detects_to_the_end(name, videos, tmp_path):
    path, _ = saved(name, tmp_path)
    sources = [str(videos / f"{length}.mp4") for length in (1, 2, 11)]
    arguments = ["detect", *sources, "--model", str(path), "--threshold", "0", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--device", "cpu"]) == 0
    for length in (1, 2, 11):
        result = json.loads((tmp_path / f"out/{length}.json").read_text())
        assert len(result["images"]) == length
        assert result["info"]["model"]["method"] == name


@pytest.mark.parametrize("name", ["dff", "fgfa", "thp-c2", "impression-d", "psla-c", "iff-c"])
def test_segments_to_the_end(name, videos, tmp_path):
    path, _ = saved(name, tmp_path, task="segmentation")
    arguments = ["segment", str(videos / "11.mp4"), "--model", str(path), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--device", "cpu"]) == 0
    assert len(list((tmp_path / "out/11").glob("*.png"))) == 11


@pytest.mark.parametrize("name", ["thp-c3", "psla-c", "iff-e", "dff-fix-f"])
def test_a_file_gives_the_model_back(name, tmp_path):
    path, model = saved(name, tmp_path)
    again = load(path, device="cpu")
    assert again.description["method"] == name
    assert again.scheduler == model.scheduler


def test_a_simpler_method_takes_what_it_needs_of_a_richer_one(tmp_path):
    path, model = saved("thp-c3", tmp_path)
    for name in ("thp-c1", "rfcn"):
        simple = load(path, method=name, device="cpu")
        assert np.isclose(
            simple.head.score_maps.cls.weight.detach().numpy(), model.head.score_maps.cls.weight.detach().numpy()
        ).all()


def test_an_option_that_a_method_has_not_is_named(capsys, videos, tmp_path):
    path, _ = saved("fgfa", tmp_path)
    assert main(["detect", str(videos / "1.mp4"), "--model", str(path), "--interval", "5"]) == 2
    assert "method fgfa has no interval" in capsys.readouterr().err
