import json

import numpy as np
import pytest

from adapters.test_yolox import yolox_like
from keywarp.alignment.classical import DISFlow
from keywarp.benchmark import benchmark
from keywarp.benchmarking.candidates import candidates
from keywarp.cli import main
from keywarp.data.video_writer import VideoWriter
from keywarp.errors import UserError
from test_every_method import saved

TINY = {"backbone": "resnet-tiny", "device": "cpu", "rounds": 1}


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(path, width=64, height=48, fps=25) as writer:
        for t in range(6):
            writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), t / 25)
    return str(path)


def test_every_candidate_is_compared_with_the_same_network_on_every_frame(clip, tmp_path, capsys):
    output, plot = tmp_path / "figures.json", tmp_path / "figures.png"
    rows = benchmark(
        clip, flows=["flownet-tiny"], intervals=[1, 2, 3], **(TINY | {"rounds": 2}), output=output, plot=plot
    )
    assert [r.name for r in rows] == ["rfcn per frame", "dff flownet-tiny l=2", "dff flownet-tiny l=3"]
    assert rows[0].speedup == 1
    for row in rows:
        assert row.smallest <= row.milliseconds <= row.largest
        assert row.frames_per_second == pytest.approx(1000 / row.milliseconds)
        parts = sum(v for name, v in row.parts.items() if name != "total")
        assert parts == pytest.approx(row.milliseconds, rel=0.5)  # medians do not add up
        assert {"decode", "preprocess", "feature network", "head", "postprocess", "the rest"} < set(row.parts)
    for row in rows[1:]:
        assert row.share_of_bound == pytest.approx(row.speedup / row.bound)
        assert 1 < row.bound < 3
        assert row.parts["alignment"] > row.parts["propagate"] > 0
    written = json.loads(output.read_text())
    assert written["setting"]["rounds"] == 2
    assert [r["name"] for r in written["rows"]] == [r.name for r in rows]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "figures.json", "figures.png"]
    assert "dff flownet-tiny l=3" in capsys.readouterr().out


def test_from_the_command_line(clip, capsys):
    lists = ["--methods", "dff,iff-a", "--flows", "flownet-tiny", "flownet-half", "--intervals", "1,2", "--radii", "1"]
    assert main(["benchmark", clip, *lists, "--backbone", "resnet-tiny", "--rounds", "1", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    for name in ("rfcn per frame", "dff flownet-tiny l=2", "dff flownet-half l=2", "iff-a r=1"):
        assert out.count(name) == 2


def test_a_synthetic_picture_peak_memory_and_a_whole_videos_boxes():
    (row,) = benchmark(size="48x64", methods=["rfcn"], memory=True, postprocess="seq-nms", **TINY)
    assert row.name == "rfcn per frame"
    assert row.peak_memory > 50 * 2**20
    assert "decode" not in row.parts
    assert row.parts["seq-nms"] > 0


def test_no_postprocessing_is_as_if_not_given(monkeypatch):
    monkeypatch.setattr(
        "keywarp.heads.rfcn.RFCNHead.unsuppressed", lambda self: pytest.fail("boxes must be suppressed")
    )
    (row,) = benchmark(size="48x64", methods=["rfcn"], postprocess="none", **TINY)
    assert "none" not in row.parts
    assert "head" in row.parts


def test_those_that_differ_in_their_key_frames_alone_share_their_weights():
    found = candidates(["dff", "psla-a", "demo"], ["flownet-tiny", "dis"], [1, 2, 4], [1], "resnet-tiny", "cpu")
    by_name = {c.name: c for c in found}
    assert list(by_name) == [
        "rfcn per frame",
        "dff flownet-tiny l=2",
        "dff flownet-tiny l=4",
        "psla-a l=2",
        "psla-a l=4",
        "demo per frame",
        "demo l=2",
        "demo l=4",
    ]
    for name in ("dff flownet-tiny", "psla-a", "demo"):
        two, four = by_name[f"{name} l=2"], by_name[f"{name} l=4"]
        assert two.model.feature_network is four.model.feature_network
        assert (two.model.scheduler.interval, four.model.scheduler.interval) == (2, 4)
        assert two.bound < four.bound or name == "psla-a"
        assert four.model.scheduler == four.build().scheduler


def test_adaptive_key_frames_have_no_interval(tmp_path):
    path, _ = saved("thp-c3", tmp_path)
    found = candidates(["thp-c3", str(path)], ["flownet-tiny"], [2, 4], [1], "resnet-tiny", "cpu")
    assert [c.name for c in found] == [
        "rfcn per frame",
        "thp-c3 flownet-tiny γ=0.2",
        f"{path.name} per frame",
        f"{path.name} γ=0.2",
    ]
    assert (found[1].count, found[1].bound) == (4, None)
    assert found[1].build().scheduler == found[1].model.scheduler


def test_what_takes_none_of_the_flows_runs_with_its_own(tmp_path):
    path, _, _ = yolox_like(tmp_path / "net.onnx")
    found = candidates([str(path), "dff"], ["flownet-tiny"], [2], [1], "resnet-tiny", "cpu")
    assert [c.name for c in found] == [
        "net.onnx per frame",
        "net.onnx l=2",
        "rfcn per frame",
        "dff flownet-tiny l=2",
    ]
    assert isinstance(found[1].model.aligner, DISFlow)
    _, dff = candidates(["dff"], ["dis"], [2], [1], "resnet-tiny", "cpu")
    assert dff.name == "dff l=2"
    assert "flow" not in dff.build().description["arguments"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"flows": ["flownet-t"]}, "did you mean flownet-s"),
        ({"methods": ["dfff"]}, "did you mean dff"),
        ({"methods": ["sff"]}, "name that one in its place"),
        ({"methods": []}, "give --methods"),
        ({"backbone": "resnet-tyni"}, "did you mean resnet-tiny"),
        ({"intervals": [0]}, "must be 1 or more"),
        ({"rounds": 0}, "must be 1 or more"),
        ({"postprocess": "seq-nm"}, "did you mean seq-nms"),
        ({"plot": "figures.txt"}, "must end in .png"),
        ({"plot": "no-such-folder/figures.png"}, "there is no folder"),
        ({"output": "no-such-folder/figures.json"}, "there is no folder"),
    ],
)
def test_mistakes(options, said, clip, tmp_path):
    paths = {name: tmp_path / options[name] for name in ("plot", "output") if name in options}
    with pytest.raises(UserError, match=said):
        benchmark(clip, **(TINY | {"methods": ["rfcn"]} | options | paths))


def test_neither_a_video_nor_a_size(capsys):
    assert main(["benchmark", "--models", "dff"]) == 2
    assert "got neither" in capsys.readouterr().err


def test_files_are_told_apart_by_name(tmp_path):
    paths = [tmp_path / folder / "model.onnx" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.touch()
    with pytest.raises(UserError, match="must differ in their names"):
        benchmark(size="48x64", **(TINY | {"methods": [str(path) for path in paths]}))
