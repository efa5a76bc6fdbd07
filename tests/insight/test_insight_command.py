"""`keywarp visualize` from the command line, on the demo and on tiny models of each family."""

import os
import signal

import av
import numpy as np
import pytest
from PIL import Image
from test_observing import tiny

import keywarp
from keywarp import loading
from keywarp.cli import main
from keywarp.data.video import open_video
from keywarp.errors import UserError
from keywarp.insight.available import kinds_of, methods_with
from keywarp.insight.inside import Inside
from keywarp.insight.layout import GAP, arranged
from keywarp.insight.options import KINDS
from keywarp.methods import METHODS
from keywarp.scheduling import AdaptiveInterval, FixedInterval, SegmentCentre, SlidingWindow
from test_annotate import write_clip
from test_every_method import saved
from tiny import tiny_model

DEMO = f"{keywarp.__path__[0]}/assets/demo.mp4"


def frames_of(path):
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


@pytest.fixture
def look(tmp_path):
    """Run the command into a folder; the exit code."""

    def look(*arguments, output=tmp_path / "out"):
        return main(["visualize", *map(str, arguments), "--output", str(output), "--device", "cpu"])

    return look


@pytest.mark.parametrize("name", ["rfcn", "fgfa", "thp-c3", "impression-d", "psla-c", "iff-c"])
def test_every_family_is_shown_to_the_end(name, look, tmp_path):
    path, _ = saved(name, tmp_path)
    video = write_clip(tmp_path / "street.mp4", 7)
    assert look(video, "--model", path, "--threshold", "0", "--pictures", "0", "5") == 0
    assert frames_of(tmp_path / "out/street.mp4") == 7
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["street-000000.png", "street-000005.png", "street-keys.png", "street.mp4"]


def test_a_segmentation_is_shown_too(look, tmp_path):
    path, _ = saved("dff", tmp_path, task="segmentation")
    assert look(write_clip(tmp_path / "street.mp4", 3), "--model", path) == 0
    assert frames_of(tmp_path / "out/street.mp4") == 3


def test_the_demo_and_its_pictures(look, tmp_path, capsys):
    assert look(DEMO, "--model", "demo", "--frames", "10:18", "--show", "flow,keys") == 0
    said = capsys.readouterr().out
    assert "8 frames in" in said
    assert "demo-000001.png, demo-000003.png, demo-000005.png, demo-000007.png, demo-keys.png" in said
    with Image.open(tmp_path / "out/demo-000003.png") as picture, av.open(str(tmp_path / "out/demo.mp4")) as video:
        size = video.streams.video[0].width, video.streams.video[0].height
        assert [a + a % 2 for a in picture.size] == list(size)


def test_two_settings_of_a_model_side_by_side(look, tmp_path):
    common = (DEMO, "--model", "demo", "--frames", ":6", "--pictures", "5", "--threshold", "0.2")
    assert look(*common, "--interval", "1", "--against-interval", "6") == 0
    assert frames_of(tmp_path / "out/demo.mp4") == 6
    sheet = np.array(Image.open(tmp_path / "out/demo-000005.png"))
    wide = (sheet.shape[1] - 3 * GAP) // 2
    left, right = sheet[30:, GAP : GAP + wide], sheet[30:, -GAP - wide : -GAP]
    assert (left != right).any(axis=-1).mean() > 0.001  # the same picture, other boxes
    assert (left != right).any(axis=-1).mean() < 0.5


UNTRAINED = ["--model", "fgfa", "--weights", "random", "--backbone", "resnet-tiny", "--flow", "flownet-tiny"]
THP = [*UNTRAINED[2:], "--model"]


@pytest.mark.parametrize(
    ("arguments", "schedulers"),
    [
        (
            ["--model", "demo", "--interval", "6", "--key-position", "2", "--against-interval", "4"],
            [SegmentCentre(6, 2), SegmentCentre(4, 2)],
        ),
        (
            ["--model", "demo", "--interval", "6", "--key-position", "2", "--against", "fgfa"],
            [SegmentCentre(6, 2), SlidingWindow(10)],
        ),
        ([*UNTRAINED, "--radius", "1", "--against-flow", "flownet-half"], [SlidingWindow(1), SlidingWindow(1)]),
        ([*UNTRAINED, "--radius", "1", "--against-method", "dff"], [SlidingWindow(1), FixedInterval(10)]),
        ([*THP, "thp-c2", "--interval", "5", "--against-method", "thp-c3"], [FixedInterval(5), AdaptiveInterval()]),
        ([*THP, "thp-c3", "--gamma", "0.5", "--against-method", "thp-c2"], [AdaptiveInterval(0.5), FixedInterval(10)]),
    ],
)
def test_the_second_side_differs_in_what_is_given_for_it(arguments, schedulers, look, tmp_path, monkeypatch):
    load, found = loading.load, []

    def loaded(name, **choices):
        if "--against" in arguments and name == "fgfa":
            name = saved("fgfa", tmp_path)[0]
        found.append(load(name, **choices).scheduler)
        if len(found) == 2:
            raise UserError("enough")

    monkeypatch.setattr(loading, "load", loaded)
    assert look(DEMO, *arguments) == 2
    assert found == schedulers


def test_stored_results_side_by_side(look, tmp_path, capsys):
    for name, interval in (("a", "1"), ("b", "5")):
        detect = ["detect", DEMO, "--model", "demo", "--interval", interval, "--frames", "4:9", "--no-video"]
        assert main([*detect, "--output", str(tmp_path / name), "--device", "cpu"]) == 0
    results = [tmp_path / name / "demo.json" for name in "ab"]
    assert look(DEMO, "--results", *results) == 0
    assert frames_of(tmp_path / "out/demo.mp4") == 5
    assert main(["detect", DEMO, "--model", "demo", "--frames", ":3", "--no-video", "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    assert look(DEMO, "--results", results[0], tmp_path / "demo.json", output=tmp_path / "other") == 2
    assert "different frames (--frames 4:9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--show", "weights"], "dff has no weights (how much each candidate counts where features are joined)"),
        (["--show", "wieghts"], "did you mean weights?"),
        (["--level", "3"], "--level must be below 1"),
        (["--level", "-1"], "give 0 or more"),
        (["--threshold", "2"], "--threshold must be 0 to 1"),
        (["--frames", "5:2"], "--frames must be A:B"),
        (["--show", "flow", "--against", "demo"], "--show looks into one model"),
        (["--results", "a.json"], "--results takes two files"),
        (["--results", "a.json", "b.json", "--stride", "2"], "--results tell their own frames"),
        (["--results", "a.json", "b.json"], "cannot read a.json"),
        (
            ["--interval", "6", "--key-position", "4", "--against-interval", "3"],
            "of the second model, --key-position must be 0 to --interval − 1, got 4 with interval 3",
        ),
        (["--against-method", "dfff"], "did you mean dff"),
        (["--against", "nothing-such"], "unknown model 'nothing-such'"),
        (["--frames", "5000:"], "past the end"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(arguments, message, look, tmp_path, capsys):
    assert look(DEMO, "--model", "demo", "--method", "dff", *arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_what_exists_is_replaced_only_when_asked(look, tmp_path, capsys):
    common = (DEMO, "--model", "demo", "--frames", ":2", "--show", "keys")
    assert look(*common) == 0
    before = (tmp_path / "out/demo.mp4").read_bytes()
    assert look(*common) == 2
    assert "replace it with --overwrite" in capsys.readouterr().err
    assert (tmp_path / "out/demo.mp4").read_bytes() == before
    assert look(*common, "--overwrite") == 0


def test_interrupted_it_leaves_whole_files(look, tmp_path, monkeypatch):
    def interrupting(*arguments):
        if len(list((tmp_path / "out").glob("demo-*.png"))) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return arranged(*arguments)

    monkeypatch.setattr("keywarp.insight.inside.arranged", interrupting)
    assert look(DEMO, "--model", "demo", "--method", "dff", "--pictures", "0", "2") == 130
    assert 3 <= frames_of(tmp_path / "out/demo.mp4") <= 5
    assert (tmp_path / "out/demo-keys.png").exists()


def test_no_more_is_held_than_the_methods_latency(tmp_path):
    model = tiny_model(SegmentCentre(6, 4))
    path = write_clip(tmp_path / "street.mp4", 30)
    with open_video(path) as video, Inside(model, video, kinds_of(model)) as inside:
        held, count = 0, 0
        for frame in video:
            count += len(list(inside.push(frame)))
            held = max(held, len(inside._waiting), len(inside._observer._seen))
        count += len(list(inside.flush()))
    assert held == model.scheduler.latency
    assert count == 30


def test_each_kind_has_the_methods_that_have_it():
    assert methods_with("keys") == methods_with("features") == list(METHODS)
    assert set(METHODS) - set(methods_with("flow")) == {"rfcn", "impression-a"}
    assert methods_with("updates") == ["thp-c1", "thp-c2", "thp-c3"]
    without = set(METHODS) - set(methods_with("weights"))
    assert {"rfcn", "dff", "sff", "psla-a", "impression-b"} <= without
    assert not {"fgfa", "thp-c1", "impression-c", "psla-b", "iff-a"} & without


@pytest.mark.parametrize("name", ["rfcn", "dff", "thp-c2", "psla-a"])
def test_an_outline_has_what_the_model_has(name):
    has = kinds_of(tiny(name))
    assert [kind for kind in KINDS if name in methods_with(kind)] == has
