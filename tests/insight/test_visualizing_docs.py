"""The page's commands and Python run as they stand there, on the demo's clip and model."""

import re
import shlex
from pathlib import Path

import pytest

import keywarp
from keywarp.cli import main
from keywarp.insight.options import KINDS
from test_every_method import saved

PAGE = (Path(__file__).parents[2] / "docs/visualizing.md").read_text()
CLIP = Path(keywarp.__file__).parent / "assets/demo.mp4"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, body in BLOCKS if kind == "bash" for line in body.splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("street.mp4").write_bytes(CLIP.read_bytes())
    if "thp.safetensors" in line:
        saved("thp-c3", tmp_path)[0].rename("thp.safetensors")
    for name in "ab" if "--results" in line else "":
        assert main(["detect", "street.mp4", "--model", "demo", "--frames", ":3", "--no-video", "--output", name]) == 0
    few = [] if "--results" in line else ["--frames", ":3"]
    assert main([*shlex.split(line.replace("yolox-nano", "demo"), comments=True)[1:], *few]) == 0
    assert Path("runs/visualize/street.mp4").stat().st_size > 1000


def test_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ((_, code),) = [block for block in BLOCKS if block[0] == "python"]
    exec(code.replace('"street.mp4"', f"{str(CLIP)!r}, stop=4"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["0 (3,) 0.0 True", "1 (3,) 0.0 True", "2 (3,) 0.0 True", "3 () 1.0 False"]


def test_the_table_has_all_that_can_be_shown():
    assert re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE) == list(KINDS)
