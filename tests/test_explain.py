import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from keywarp import methods
from keywarp.aggregation import EqualAggregator
from keywarp.cli import main
from keywarp.explain import drawn, explained, plan
from keywarp.model import VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import AdaptiveInterval, FixedInterval, Scheduler, SegmentCentre, SlidingWindow
from keywarp.structures import Memory, StepOutput
from tiny import TinyFlow, tiny_model

POOR = {3, 4, 11}
SVG = "{http://www.w3.org/2000/svg}"


def carried_out(scheduler: Scheduler, frames: int):
    """What a predictor does, a frame at a time: its steps, and after which frame each result came out."""
    model, steps, results = tiny_model(scheduler), [], {}

    def run(step, current, memories, accept):
        assert set(step.references) <= set(memories)
        features = model.feature_network(current.image)
        if step.is_key:
            steps.append(step)
            return StepOutput(features, Memory(current.image, features))
        kept = accept(torch.tensor([-1.0 if i in POOR else 1.0 for i in step.frames]).view(-1, 1, 1, 1))
        steps.append(step)
        return StepOutput(features if kept is None else tuple(f[:kept] for f in features), kept=kept)

    model.run = run
    predictor = VideoPredictor(model, batch=frames)
    for after in range(frames + 1):
        last = after == frames
        out = predictor.flush() if last else predictor.push([np.zeros((8, 8, 3), np.uint8)])
        results |= {result.index: after for result in out}
    return steps, results


@pytest.mark.parametrize("frames", [1, 7, 25])
@pytest.mark.parametrize(
    "scheduler",
    [FixedInterval(1), FixedInterval(10), SegmentCentre(10), SegmentCentre(5, 4), SlidingWindow(3), AdaptiveInterval()],
    ids=str,
)
def test_the_plan_is_what_a_predictor_does(scheduler, frames):
    steps, results = carried_out(scheduler, frames)
    planned = plan(scheduler, frames, adaptive_keys=POOR)
    assert [(s.frames + s.refused, s.is_key, s.references) for s in planned] == [
        (s.frames, s.is_key, s.references) for s in steps
    ]
    assert {i: s.after for s in planned for i in s.results} == results
    assert list(results) == list(range(frames))


def test_an_adaptive_plan_has_a_key_frame_where_the_check_refuses():
    steps = plan(AdaptiveInterval(), 13, adaptive_keys=POOR)
    assert [s.frames for s in steps if s.is_key] == [(0,), (3,), (4,), (11,)]
    assert [(s.refused, s.references) for s in steps if s.refused] == [((3,), (0,)), ((4,), (3,)), ((11,), (4,))]


def gathering(backbone: str, *, radius: int = 9) -> VideoModel:
    """Gathers <several> & joins."""
    model = tiny_model(SlidingWindow(radius))
    model.aggregator = EqualAggregator()
    return model


def recursive(backbone: str, *, interval: int = 10) -> VideoModel:
    """Joins key frames."""
    model = tiny_model(AdaptiveInterval(longest=interval), TinyFlow())
    model.aggregator, model.memory_gate = EqualAggregator(), 0.25
    return model


@pytest.fixture
def more(monkeypatch):
    monkeypatch.setitem(methods.METHODS, "gathering", gathering)
    monkeypatch.setitem(methods.METHODS, "recursive", recursive)


def shown(capsys, *arguments):
    """Rows of the printed table by name, as lists of cells, and the whole text."""
    assert main(["explain", *arguments]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    assert "\x1b" not in text
    table = {row[:8].strip(): row[8:].split() for row in text.splitlines() if re.match(r"^(\w+ +[←→\d]|  +[K·])", row)}
    return table, text


def test_deep_feature_flow(capsys):
    table, text = shown(capsys, "dff")
    assert table["frame"] == table["result"] == [str(i) for i in range(25)]
    assert "".join(table[""]) == "K·········K·········K····"
    assert table["reads"] == ["←0"] * 9 + ["←10"] * 9 + ["←20"] * 4
    assert text.startswith("dff: Deep Feature Flow (004, Algorithm 1).\n")
    assert re.search(r"^alignment +FlowNet: Flow from the current frame to the key frame", text, re.M)
    assert re.search(r"^latency +none", text, re.M)


def test_frames_before_their_key_frame_wait_for_it(capsys):
    table, text = shown(capsys, "sff", "--interval", "4", "--frames", "7")
    assert "".join(table[""]) == "··K···K"
    assert table["reads"] == ["→2", "→2", "←2", "→6", "→6"]
    assert table["result"] == ["2", "2", "2", "3", "6", "6", "6"]
    assert "trails its frame by up to 2 frames" in text


def test_a_window(capsys, more):
    table, text = shown(capsys, "gathering", "--radius", "2", "--frames", "6")
    assert "".join(table[""]) == "KKKKKK"
    assert table["from"] == ["0", "0", "0", "1", "2", "3"]
    assert table["to"] == ["2", "3", "4", "5", "5", "5"]
    assert table["result"] == ["2", "3", "4", "5", "end", "end"]
    assert "drawn for frame 3" in text


def test_key_frames_that_join_those_before_and_an_example_of_poor_alignment(capsys, more):
    table, text = shown(capsys, "recursive", "--frames", "20")
    assert "".join(table[""]) == "K······K·········K·K"
    assert table["reads"] == ["←0"] * 7 + ["←7"] * 10 + ["←17"] * 2
    assert "as an example, the alignment is taken to be poor at 7, 19" in " ".join(text.split())
    assert "0.25: a key frame leaves 0.75·own + 0.25·joined features to the next one" in text


def test_long_plans_are_broken(capsys):
    _, text = shown(capsys, "rfcn", "--frames", "60")
    frames = [row.split()[1:] for row in text.splitlines() if row.startswith("frame")]
    assert [len(row) for row in frames] == [25, 25, 10]
    assert "reads" not in text


@pytest.mark.parametrize(
    ("method", "keys", "arrows", "last"),
    [("dff", 3, 22, "24"), ("sff", 5, 20, "24"), ("gathering", 25, 18, "end"), ("recursive", 5, 24, "24")],
)
def test_the_picture(tmp_path, more, method, keys, arrows, last):
    path = tmp_path / "plan.svg"
    assert main(["explain", method, "--svg", str(path)]) == 0
    root = ElementTree.parse(path).getroot()
    boxes = [b.get("fill") for b in root.iter(f"{SVG}rect") if b.get("rx")]
    assert (len(boxes), boxes.count("#2563eb")) == (25, keys)
    assert len([p for p in root.iter(f"{SVG}path") if p.get("marker-end")]) == arrows
    texts = [t.text for t in root.iter(f"{SVG}text")]
    dots = {c.get("cx") for c in root.iter(f"{SVG}circle")}
    assert {line.get("x2") for line in root.iter(f"{SVG}line")} == dots
    assert last in texts
    assert texts[0] == explained(method).title  # `<` and `&` come back as they were
    width, height = float(root.get("width")), float(root.get("height"))
    for element in root.iter(f"{SVG}text"):
        assert 0 < float(element.get("x")) < width
        assert 0 < float(element.get("y")) < height


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dfff"], "unknown method 'dfff'; did you mean dff?"),
        (["rfcn", "--interval", "3"], "rfcn has no interval; leave --interval out"),
        (["dff", "--radius", "3"], "dff has no radius; leave --radius out"),
        (["thp-c3", "--interval", "3"], "leave --interval out"),
        (["dff", "--frames", "0"], "--frames must be at least 1, got 0"),
        (["dff", "--interval", "0"], "interval must be at least 1, got 0"),
        (["dff", "--svg", "/nowhere/at/all.svg"], "cannot write /nowhere/at/all.svg: No such file or directory"),
    ],
)
def test_mistakes(capsys, arguments, message):
    assert main(["explain", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_every_method_is_explained(name):
    picture = drawn(explained(name, frames=5))
    assert ElementTree.fromstring(picture).tag == f"{SVG}svg"
