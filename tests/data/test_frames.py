import pickle
import random

import av
import cv2
import numpy as np
import pytest
from coco_files import write_image
from video_clips import pan, write_clip

from keywarp.data import frames as frames_module
from keywarp.data.datasets import UnreadableFrameError
from keywarp.data.frames import ImageFrames, VideoFileFrames, read_label_map
from keywarp.data.video import open_video

OPEN_GOP = {"b_frames": 3, "x264_params": "keyint=8:min-keyint=8:open-gop=1:bframes=3:scenecut=0"}
IRREGULAR = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.09, 30))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("b-frames.mp4", "libx264", {"b_frames": 2, "gop": 8}),
        ("open-gop.mp4", "libx264", OPEN_GOP),
        ("open-gop.mkv", "libx264", OPEN_GOP),
        ("open-gop.ts", "libx264", OPEN_GOP),
        ("intra-refresh.mp4", "libx264", {"x264_params": "intra-refresh=1:keyint=8"}),
        ("irregular.mp4", "libx264", {"times": IRREGULAR, "b_frames": 2, "gop": 8}),
        ("rotated.mp4", "libx264", {"rotation": 90, "gop": 8}),
        ("one-key-frame.mp4", "libx264", {"gop": 99}),
        ("no-times.h264", "libx264", {"b_frames": 2, "gop": 8}),
        ("wrong-times.avi", "libx264", {"b_frames": 2, "gop": 8}),
        ("mpeg4.avi", "mpeg4", {"b_frames": 2, "gop": 8}),
        ("mpeg2.mpg", "mpeg2video", {"b_frames": 2, "gop": 8}),
        ("vp9.webm", "libvpx-vp9", {"gop": 8}),
        ("hevc.mp4", "libx265", {"x265_params": "keyint=8:open-gop=1:bframes=3:log-level=none"}),
    ],
)
def test_video_frames_are_those_of_open_video(tmp_path, name, codec, options):
    path = write_clip(tmp_path / name, pan(30), codec, **options)
    with open_video(path) as video:
        expected = [frame.image for frame in video]
    frames = pickle.loads(pickle.dumps(VideoFileFrames(path)))
    assert len(frames) == len(expected) == 30
    order = random.Random(0).sample(range(30), 30)
    for indices in [*([i] for i in order[:12]), order, [9, 3, 9]]:
        for index, image in zip(indices, frames.read(indices), strict=True):
            assert np.array_equal(image, expected[index]), f"{index} of {indices}"
    for index, frame in enumerate(frames.stream()):
        assert frame.index == index
        assert np.array_equal(frame.image, expected[index])
    assert index == 29


def test_a_cut_off_file_keeps_the_index_of_open_video(tmp_path):
    whole = write_clip(tmp_path / "whole.ts", pan(30), gop=8, b_frames=2)
    path = tmp_path / "cut.ts"
    data = bytearray(whole.read_bytes())
    path.write_bytes(data[len(data) // 3 // 188 * 188 : len(data) * 3 // 4])  # starts between key frames
    with open_video(path) as video:
        expected = [frame.image for frame in video]
    frames = VideoFileFrames(path)
    last = len(expected) - 1
    assert len(frames) == len(expected) < 25
    for index in (0, last // 2, last):
        assert np.array_equal(frames.read([index])[0], expected[index])


def test_a_damaged_file_is_counted_anew_when_damage_is_met(tmp_path):
    path = write_clip(tmp_path / "damaged.mkv", pan(30), gop=8, b_frames=2)
    with av.open(str(path)) as container:
        hit = [(p.pos, p.size) for p in container.demux(video=0) if p.pts is not None][8]
    data = bytearray(path.read_bytes())
    data[hit[0] + 4 : hit[0] + hit[1]] = bytes(hit[1] - 4)
    path.write_bytes(data)
    with open_video(path) as video:
        expected = [frame.image for frame in video]
    frames = VideoFileFrames(path)
    assert len(expected) < len(frames) == 30
    frames.read([8])
    assert len(frames) == len(expected)
    for index in (0, 9, len(expected) - 1):
        assert np.array_equal(frames.read([index])[0], expected[index])


def test_a_known_length_needs_no_file(tmp_path):
    assert len(VideoFileFrames(tmp_path / "absent.mp4", 7)) == 7


def test_one_read_decodes_each_stretch_once(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", pan(30), gop=10)
    frames = VideoFileFrames(path)
    frames.read([0])
    decoded = []
    plain = frames_module._frames

    def counting(container, times=()):
        for frame in plain(container, times):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(frames_module, "_frames", counting)
    frames.read([14, 12, 13, 11])
    assert len(decoded) == 5  # 10 to 14
    decoded.clear()
    frames.read([1, 29])
    assert len(decoded) == 2 + 10


@pytest.mark.parametrize(
    ("content", "index", "message"),
    [
        (None, 0, "is missing"),
        (b"", 0, "cannot be read as a video"),
        (b"no video at all" * 100, 0, "cannot be read as a video"),
        ("clip", 30, "has 30 frames; frame 30 is wanted"),
    ],
)
def test_unreadable_video_files_get_one_line(tmp_path, content, index, message):
    path = tmp_path / "clip.mp4"
    if content == "clip":
        write_clip(path, pan(30))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableFrameError, match=message) as error:
        VideoFileFrames(path).read([index])
    assert "\n" not in str(error.value)
    if content != "clip":
        with pytest.raises(UnreadableFrameError) as error:
            list(VideoFileFrames(path).stream())
        assert "\n" not in str(error.value)


def test_streams_give_every_frame_once_and_motion_where_it_is_asked_for(tmp_path):
    for value in range(40):
        write_image(tmp_path / f"{value:02}.png", value)
    stream = ImageFrames([f"{value:02}.png" for value in range(40)], tmp_path).stream(motion=True)
    assert [(frame.index, frame.image[0, 0, 0], frame.motion) for frame in stream] == [(i, i, None) for i in range(40)]
    path = write_clip(tmp_path / "clip.mp4", pan(6))
    assert [frame.motion is not None for frame in VideoFileFrames(path).stream(motion=True)] == [True] * 6


def test_image_frames_in_any_order(tmp_path):
    for value in range(4):
        write_image(tmp_path / f"{value}.png", value)
    frames = ImageFrames([f"{value}.png" for value in range(4)], tmp_path)
    assert len(frames) == 4
    assert [image[0, 0].tolist() for image in frames.read([3, 0, 3])] == [[3] * 3, [0] * 3, [3] * 3]
    assert frames.source == str(tmp_path)


def test_image_frames_are_rgb_as_stored(tmp_path):
    cv2.imwrite(str(tmp_path / "blue.png"), np.full((8, 8, 3), (255, 0, 0), np.uint8))
    assert ImageFrames([tmp_path / "blue.png"]).read([0])[0][0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "is missing"), (b"", "is empty"), (b"no image", "cannot be read as an image")]
)
def test_unreadable_images_get_one_line(tmp_path, content, message):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    for read in (lambda: ImageFrames(["a.png"], tmp_path).read([0]), lambda: read_label_map(path)):
        with pytest.raises(UnreadableFrameError, match=message):
            read()


def test_label_maps_must_hold_one_number_a_pixel(tmp_path):
    with pytest.raises(UnreadableFrameError, match="is no label map"):
        read_label_map(write_image(tmp_path / "colour.png"))
