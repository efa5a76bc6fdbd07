"""The model and the clip that ship with keywarp."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keywarp
from keywarp.loading import load

ASSETS = Path(keywarp.__file__).parent / "assets"
ROOT = Path(__file__).parents[1]


def test_assets_are_small():
    assert (ASSETS / "demo.mp4").stat().st_size < 2**20
    assert (ASSETS / "demo.safetensors").stat().st_size < 10 * 2**20


@pytest.mark.parametrize("method", ["dff", "rfcn"])
def test_the_demo_finds_the_shapes(method):
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        import demo
    finally:
        sys.path.pop(0)
    model = load("demo", method=method, device="cpu")
    assert model.classes == ("disc", "square", "triangle", "star")
    interval = 3 if method == "dff" else 1
    assert demo.mean_ap(model, interval, clips=3) > (0.55 if method == "dff" else 0.7)


def test_the_clip_is_what_its_seed_draws():
    from keywarp.data.synthetic import synthetic_clip

    with keywarp.open_video(ASSETS / "demo.mp4") as video:
        frames = [frame.image for frame in video]
    clip = synthetic_clip(1_000_500, length=len(frames), size=(240, 320))
    for t in (0, 75, 149):
        assert np.abs(frames[t].astype(float) - clip.frame(t)).mean() < 6


def test_make_demo_names_the_right_model():
    """`make demo` takes the bundled pair for the bundled clip, and YOLOX-nano for a video of the user's."""
    for variables, expected in (([], '--model "demo"'), (["VIDEO=my.mp4"], '--model "yolox-nano"')):
        printed = subprocess.run(
            ["make", "--dry-run", "demo", *variables], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert expected in printed
