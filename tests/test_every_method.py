"""Every method by its name, from a weight file, through the command line, on videos of 1, 2 and 11 frames."""

import json

import numpy as np
import pytest

from keywarp.cli import main
from keywarp.data.video_writer import VideoWriter
from keywarp.errors import UserError
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


@pytest.mark.parametrize(
    ("of_file", "asked"),
    [
        ("thp-c1", "thp-c3"),
        ("thp-c1", "thp-c2"),
        ("thp-c2", "thp-c1"),
        ("dff-fix-n", "dff"),
        ("psla-c", "psla-a"),
        ("impression-d", "impression-b"),
    ],
)
def test_a_family_shares_weights_and_each_runs_as_itself(of_file, asked, tmp_path):
    path, _ = saved(of_file, tmp_path)
    model, wanted = load(path, method=asked, device="cpu"), build(asked, **tiny_flow(asked, {}))
    assert model.description["method"] == asked
    assert model.scheduler == wanted.scheduler
    parts = ("aligner", "aggregator", "updater", "transform_net", "aggregate_every_frame")
    assert [type(getattr(model, part)) for part in parts] == [type(getattr(wanted, part)) for part in parts]
    assert getattr(model.updater, "at_inference", None) == getattr(wanted.updater, "at_inference", None)


def test_the_key_frames_of_a_family_are_chosen_by_interval_or_by_gamma(tmp_path):
    path, _ = saved("thp-c3", tmp_path)
    assert load(path, gamma=0.5, device="cpu").scheduler.gamma == 0.5
    assert load(path, method="thp-c2", interval=3, device="cpu").scheduler.interval == 3
    with pytest.raises(UserError, match=r"thp-c3 chooses its key frames by γ .* leave --interval out"):
        load(path, interval=3, device="cpu")
    with pytest.raises(UserError, match="thp-c2 has key frames at an --interval; leave --gamma out"):
        load(path, method="thp-c2", gamma=0.5, device="cpu")
    with pytest.raises(UserError, match="rfcn has no gamma; leave --gamma out"):
        load(path, method="rfcn", gamma=0.5, device="cpu")
    with pytest.raises(UserError, match="gamma must be 0 to 1"):
        load(path, gamma=1.5, device="cpu")


def test_what_is_no_part_of_a_methods_name_stays(tmp_path):
    path, _ = saved("psla-c", tmp_path, displacement=3)
    assert load(path, method="psla-a", device="cpu").description["arguments"]["displacement"] == 3


@pytest.mark.parametrize(
    ("of_file", "asked", "lacking"),
    [
        ("psla-a", "psla-c", "aggregator"),
        ("impression-b", "impression-d", "aggregator"),
        ("iff-a", "iff-c", "aligner"),
    ],
)
def test_a_method_that_needs_more_than_a_file_has_is_refused(of_file, asked, lacking, tmp_path):
    path, _ = saved(of_file, tmp_path)
    with pytest.raises(UserError, match=rf"{lacking}\."):
        load(path, method=asked, device="cpu")


def test_an_option_that_a_method_has_not_is_named(capsys, videos, tmp_path):
    path, _ = saved("fgfa", tmp_path)
    assert main(["detect", str(videos / "1.mp4"), "--model", str(path), "--interval", "5"]) == 2
    assert "method fgfa has no interval" in capsys.readouterr().err
