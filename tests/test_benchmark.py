import json

import numpy as np
import pytest

from keywarp.benchmark import benchmark
from keywarp.cli import main
from keywarp.data.video_writer import VideoWriter
from keywarp.errors import UserError


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(path, width=64, height=48, fps=25) as writer:
        for t in range(6):
            writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), t / 25)
    return str(path)


def test_every_candidate_is_compared_with_the_same_network_on_every_frame(clip, tmp_path, capsys):
    output = tmp_path / "figures.json"
    rows = benchmark(
        clip, flows=["flownet-tiny"], intervals=[2, 3], backbone="resnet-tiny", rounds=2, device="cpu", output=output
    )
    assert [r.name for r in rows] == ["rfcn per frame", "dff flownet-tiny l=2", "dff flownet-tiny l=3"]
    assert rows[0].speedup == 1
    for row in rows[1:]:
        assert row.smallest <= row.milliseconds <= row.largest
        assert row.share_of_bound == pytest.approx(row.speedup / row.bound)
        assert 1 < row.bound < 3
        parts = sum(v for name, v in row.parts.items() if name != "total")
        assert parts == pytest.approx(row.milliseconds, rel=0.5)
    written = json.loads(output.read_text())
    assert written["setting"]["rounds"] == 2
    assert [r["name"] for r in written["rows"]] == [r.name for r in rows]
    assert "dff flownet-tiny l=3" in capsys.readouterr().out


def test_from_the_command_line(clip, capsys):
    arguments = ["benchmark", clip, "--backbone", "resnet-tiny", "--flows", "flownet-tiny", "--intervals", "2"]
    assert main([*arguments, "--rounds", "1", "--device", "cpu"]) == 0
    assert "flownet-tiny l=2" in capsys.readouterr().out


def test_an_unknown_flow_is_an_error(clip):
    with pytest.raises(UserError, match="did you mean flownet-s"):
        benchmark(clip, flows=["flownet-t"], intervals=[2], backbone="resnet-tiny", device="cpu")
