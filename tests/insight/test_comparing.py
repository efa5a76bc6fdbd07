"""Two sides of different delay meet at each frame; stored results are read back as they were."""

import json

import numpy as np
import pytest

from keywarp.annotate import annotate
from keywarp.data.video import open_video
from keywarp.errors import UserError
from keywarp.insight.comparing import Comparison, Running, read_results
from keywarp.options import BoxOptions, RunOptions
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import FixedInterval, SegmentCentre
from keywarp.structures import VideoFrame
from test_annotate import write_clip
from test_papers import clip
from tiny import tiny_model


class Reversed:
    """Gives the results of its frames only at the end."""

    name, milliseconds = "late", None

    def __init__(self, model):
        self._predictor, self._results = VideoPredictor(model), []

    def push(self, frame):
        self._results += self._predictor.push([frame])
        return []

    def flush(self):
        return self._results + self._predictor.flush()


def shown(sides, frames):
    comparison = Comparison(sides, threshold=0.0)
    pictures = [p for i, image in enumerate(frames) for p in comparison.push(VideoFrame(image, i, i / 10))]
    held = len(frames) - len(pictures)
    return pictures + list(comparison.flush()), held, comparison


def test_sides_of_different_delay_meet_at_each_frame():
    frames = clip(9)
    models = [tiny_model(FixedInterval(3)), tiny_model(SegmentCentre(4, 2))]
    pictures, held, comparison = shown([Running(model) for model in models], frames)
    late, all_held, _ = shown([Reversed(model) for model in models], frames)
    assert [picture.frame for picture in pictures] == list(range(9)) == [picture.frame for picture in late]
    assert all_held == 9
    assert held <= 3
    assert comparison.key_frames == 3 + 3
    for one, other in zip(pictures, late, strict=True):
        assert one.image.shape == other.image.shape
        assert np.array_equal(one.image[30:], other.image[30:])  # but for the titles
    assert not np.array_equal(pictures[1].image[30:], pictures[2].image[30:])


def test_a_side_is_called_by_its_file_method_and_plan():
    model = tiny_model(FixedInterval(3))
    model.description = {"model": "/long/way/to/street.onnx", "method": "sff"}
    assert Running(model).name == "street.onnx (sff), FixedInterval(interval=3)"


def test_time_a_frame_is_measured():
    side = Running(tiny_model(FixedInterval(2)))
    assert side.milliseconds is None
    side.push(VideoFrame(clip(1)[0]))
    assert side.milliseconds > 0


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A video, and what `detect` wrote about it."""
    folder = tmp_path_factory.mktemp("stored")
    video = write_clip(folder / "street.mp4", 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keywarp.loading.load", lambda *_, **__: tiny_model(FixedInterval(2)))
        annotate([str(video)], RunOptions(output=folder / "out"), BoxOptions(threshold=0))
    return video, folder / "out/street.json"


def test_stored_results_are_those_of_the_model(stored):
    video, path = stored
    side = read_results(path)
    with open_video(video) as frames:
        side.check(frames)
        again = list(frames)
    plain = VideoPredictor(tiny_model(FixedInterval(2)), batch=1).run(again)
    for frame, wanted in zip(again, plain, strict=True):
        (result,) = side.push(frame)
        assert result.is_key == wanted.is_key
        assert np.allclose(result.boxes, wanted.boxes, atol=0.01)
        assert np.allclose(result.detections.scores, wanted.detections.scores, atol=1e-4)
        assert result.classes == ["thing"]
    assert side.flush() == []
    assert side.milliseconds > 0


def test_frames_without_a_stored_result_have_no_boxes(stored):
    (result,) = read_results(stored[1]).push(VideoFrame(clip(1)[0], index=99))
    assert (result.index, len(result.boxes), result.is_key) == (99, 0, False)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"info": {}, "categories": 3}', "no JSON"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match="holds no results of `keywarp detect`"):
        read_results(path)
    with pytest.raises(UserError, match="cannot read"):
        read_results(tmp_path / "b.json")


def test_a_video_of_another_size_is_refused(stored, tmp_path):
    other = write_clip(tmp_path / "other.mp4", 2, size=(32, 32))
    with open_video(other) as video, pytest.raises(UserError, match=r"64×48 pixels, other\.mp4 has 32×32"):
        read_results(stored[1]).check(video)


def test_results_tell_which_frames_they_are_of(stored, tmp_path):
    document = json.loads(stored[1].read_text())
    document["info"]["settings"] |= {"frames": "2:", "stride": 3}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    side = read_results(path)
    assert (side.frames, side.stride, side.size) == ("2:", 3, (48, 64))
