import numpy as np
import pytest

from keywarp.benchmarking.pictures import STEP, Pictures, pictures
from keywarp.errors import UserError


def test_the_synthetic_picture_has_the_size_asked_for_and_moves():
    frames = pictures(None, "48x64").read(4)
    assert [f.image.shape for f in frames] == [(48, 64, 3)] * 4
    assert [f.index for f in frames] == [0, 1, 2, 3]
    for t, frame in enumerate(frames):
        moved = np.roll(frames[0].image, (STEP[0] * t, STEP[1] * t), axis=(0, 1))
        assert (frame.image == moved).all()
    assert frames[0].image.std() > 5
    assert (frames[0].image != frames[1].image).mean() > 0.3


@pytest.mark.parametrize(
    ("video", "size", "said"),
    [
        (None, None, "got neither"),
        ("clip.mp4", "48x64", "got both"),
        (None, "48", "got '48'"),
        (None, "48x", "got '48x'"),
        (None, "-48x64", "such as 600x1000"),
        (None, "0x64", "32 to 8192 pixels"),
        (None, "48x99999", "32 to 8192 pixels"),
    ],
)
def test_a_video_or_a_size(video, size, said):
    with pytest.raises(UserError, match=said):
        pictures(video, size)


def test_a_synthetic_picture_has_no_codec():
    with pytest.raises(UserError, match="give --video"):
        Pictures(size=(48, 64)).read(2, motion=True)
