"""The README's Python and commands run as they stand there, on the demo's clip and model."""

import re
import shlex
from pathlib import Path

import pytest

import keywarp
from keywarp.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CLIP = Path(keywarp.__file__).parent / "assets" / "demo.mp4"


def blocks(language):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [body for kind, body in found if kind == language]


def test_python_from_import_to_boxes(capsys):
    first, live = blocks("python")
    first, live = (code.replace("street.mp4", str(CLIP)).replace('"yolox-s"', '"demo"') for code in (first, live))
    names = {}
    exec(first, names)
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"0 (True|False) tensor\(", lines[0])
    with keywarp.open_video(CLIP, stop=7) as video:
        names["camera"] = [frame.image for frame in video]
    exec(live, names)
    assert names["result"].index == 6  # answered at once


@pytest.mark.parametrize(
    "line", [line for block in blocks("") for line in block.splitlines() if line.startswith("keywarp ")]
)
def test_commands(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "street.mp4").write_bytes(CLIP.read_bytes())
    line = line.replace("yolox-s", "demo").replace("person,car", "horse,bird")
    assert main(shlex.split(line)[1:]) == 0
    assert (tmp_path / "out/street.mp4").stat().st_size > 10_000
    assert (tmp_path / "out/street.json").exists()
