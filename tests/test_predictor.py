import cv2
import numpy as np
import pytest
import torch

from keywarp.alignment.codec import CodecMotion
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import AdaptiveInterval, FixedInterval, SegmentCentre
from keywarp.structures import Frame, Memory, VideoFrame
from keywarp.transform import ImageTransform
from tiny import TinyFlow, tiny_model


def video(length, size=(40, 60), seed=0):
    """A drifting pattern, so that neighbouring frames resemble each other."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((size[0], size[1] + 2 * length, 3)).astype(np.float32)
    base = (128 + 500 * cv2.GaussianBlur(noise, None, 8)).clip(0, 255).astype(np.uint8)
    return [np.ascontiguousarray(base[:, 2 * t : 2 * t + size[1]]) for t in range(length)]


def in_chunks(model, frames, chunk, batch=8):
    predictor = VideoPredictor(model, batch=batch)
    results = []
    for start in range(0, len(frames), chunk):
        results += predictor.push(frames[start : start + chunk])
    return results + predictor.flush()


def paper_loop(model, frames, interval, position=0):
    """Deep feature flow (004, Algorithm 1), typed out: one frame at a time, the key frame where the segment has it."""
    results = []
    inputs = [model.transform(f)[None] for f in frames]
    place = model.transform.place(*frames[0].shape[:2])
    with torch.inference_mode():
        for i, image in enumerate(inputs):
            k = min(i // interval * interval + position, len(frames) - 1)
            f_k = model.feature_network(inputs[k])
            f_i = f_k if i == k else model.aligner(Memory(inputs[k], f_k), Frame(image)).propagate(f_k)
            (detections,) = model.head(f_i, [place.resized])
            results.append(model.transform.restore(detections, place))
    return results


def assert_same(results, expected):
    assert [r.index for r in results] == list(range(len(expected)))
    for result, want in zip(results, expected, strict=True):
        torch.testing.assert_close(result.detections.boxes, want.boxes, atol=1e-4, rtol=0)
        torch.testing.assert_close(result.detections.scores, want.scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("chunk", [1, 4, 7, 23])
@pytest.mark.parametrize(
    ("scheduler", "interval", "position"),
    [
        (FixedInterval(1), 1, 0),
        (FixedInterval(5), 5, 0),
        (SegmentCentre(5), 5, 1),
        (SegmentCentre(4, position=3), 4, 3),
    ],
)
def test_every_chunk_size_gives_what_the_papers_loop_gives(scheduler, interval, position, chunk):
    frames = video(23)
    model = tiny_model(scheduler)
    assert_same(in_chunks(model, frames, chunk), paper_loop(model, frames, interval, position))


def test_the_feature_network_runs_on_key_frames_only():
    model = tiny_model(FixedInterval(5))
    results = in_chunks(model, video(12), chunk=12)
    assert model.feature_network.images == 3
    assert [r.index for r in results if r.is_key] == [0, 5, 10]


def test_one_model_serves_interleaved_videos():
    model = tiny_model(FixedInterval(4))
    a, b = video(9, seed=1), video(9, seed=2)
    first, second = VideoPredictor(model), VideoPredictor(model)
    results_a, results_b = [], []
    for x, y in zip(a, b, strict=True):
        results_a += first.push([x])
        results_b += second.push([y])
    assert_same(results_a + first.flush(), paper_loop(model, a, 4))
    assert_same(results_b + second.flush(), paper_loop(model, b, 4))


@pytest.mark.parametrize("chunk", [1, 5, 30])
def test_adaptive_key_frames_do_not_depend_on_chunks(chunk):
    frames = video(12) + [255 - f for f in video(12)]  # a cut in the middle
    model = tiny_model(AdaptiveInterval(gamma=0.2), aligner=TinyFlow(scale=0.1))
    reference = in_chunks(model, frames, chunk=1)
    keys = [r.index for r in reference if r.is_key]
    assert 12 in keys, "the cut is seen at once"
    assert len(keys) < len(frames), "and not every frame is a key frame"
    results = in_chunks(model, frames, chunk)
    assert [r.index for r in results if r.is_key] == keys
    assert_same(results, [r.detections for r in reference])


def test_live_latency_is_what_the_scheduler_says():
    predictor = VideoPredictor(tiny_model(SegmentCentre(5)))  # the key is frame 1 of 5
    out = [[r.index for r in predictor.push([f])] for f in video(7)]
    assert out == [[], [0, 1], [2], [3], [4], [], [5, 6]]


def test_state_is_bounded_however_much_is_pushed():
    model = tiny_model(FixedInterval(10))
    predictor = VideoPredictor(model, batch=4)
    for _ in range(5):
        assert len(predictor.push(video(40))) == 40
        assert len(predictor._memories) == 1
        assert not predictor._inputs
        assert not predictor._done
        assert not predictor._frames
    seen = []
    run, model.run = model.run, lambda step, *a: seen.append(len(step.frames)) or run(step, *a)
    predictor.push(video(40))
    assert max(seen) <= 4


def test_codec_motion_reaches_the_aligner_as_a_chain_back_to_the_key():
    chains = []

    class Spy(TinyFlow):
        def forward(self, reference, current):
            chains.extend([(len(c.fields), c.backwards) for c in current.motion])
            return super().forward(reference, current)

    frames = [VideoFrame(f, i, i / 25, motion=(np.zeros((5, 8, 2), np.float32),)) for i, f in enumerate(video(7))]
    for chunk in (1, 3, 7):
        chains.clear()
        in_chunks(tiny_model(FixedInterval(4), Spy()), frames, chunk)
        assert chains == [(1, False), (2, False), (3, False), (1, False), (2, False)]
        chains.clear()
        in_chunks(tiny_model(SegmentCentre(4, position=2), Spy()), frames, chunk)
        assert chains == [(2, True), (1, True), (1, False), (2, True), (1, True)]


def test_another_frame_size_starts_with_a_key_frame():
    frames = video(3) + video(3, size=(80, 50))
    results = in_chunks(tiny_model(FixedInterval(10)), frames, chunk=6)
    assert [r.index for r in results] == list(range(6))
    assert [r.index for r in results if r.is_key] == [0, 3]


def test_empty_video_and_single_frame():
    model = tiny_model(SegmentCentre(5))
    assert list(VideoPredictor(model).run([])) == []
    assert len(list(VideoPredictor(model).run(video(1)))) == 1


def test_results_are_generated_lazily():
    taken = []

    def frames():
        for i, f in enumerate(video(30)):
            taken.append(i)
            yield f

    results = VideoPredictor(tiny_model(FixedInterval(5)), batch=2).run(frames())
    next(results)
    assert len(taken) == 2


@pytest.mark.parametrize("frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_a_wrong_frame_is_named(frame):
    with pytest.raises(ValueError, match=r"must be \[H, W, 3\] uint8 RGB"):
        VideoPredictor(tiny_model(FixedInterval(1))).push([frame])


def test_predictor_is_new_after_flush():
    frames, model = video(6), tiny_model(FixedInterval(4))
    predictor = VideoPredictor(model)
    list(predictor.run(frames))
    again = list(predictor.run(frames))
    assert [r.is_key for r in again] == [True, False, False, False, True, False]


def test_missing_codec_motion_is_a_share_of_the_picture_not_of_its_padding():
    model = tiny_model(FixedInterval(4), CodecMotion())
    model.transform = ImageTransform(size=(64, 64), letterbox=True)
    unknown = (np.full((4, 8, 2), np.nan, np.float32),)
    frames = [VideoFrame(f, i, i / 25, motion=unknown) for i, f in enumerate(video(4, size=(32, 64)))]
    results = in_chunks(model, frames, chunk=4)
    assert [r.flow_fallback for r in results] == [None, 1.0, 1.0, 1.0]
