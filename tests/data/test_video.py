import functools
import http.server
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from video_clips import copy_stream, pan, write_clip

from keywarp.data.decoding import Picture
from keywarp.data.live import Newest
from keywarp.data.video import expand_sources, open_video
from keywarp.errors import UserError


def read(path, **options):
    with open_video(path, **options) as video:
        frames = list(video)
    return video, frames


def near(image, frame):
    return np.abs(image.astype(int) - frame).mean() < 8


@pytest.mark.parametrize(
    ("clip", "count"),
    [
        ("one-by-one-person-detection.mp4", 1394),
        ("car-detection.mp4", 377),
        ("bikes.mp4", 250),
        ("carphone_pristine.mp4", 120),
        ("mmtracking_demo.mp4", 8),
        ("ILSVRC2015_val_00007010", 144),
    ],
)
def test_every_frame_of_real_clips_comes(shared, clip, count):
    with open_video(shared / "clips" / clip) as video:
        assert video.frame_count == count
        indices = [frame.index for frame in video]
    assert indices == list(range(count))
    assert video.warnings == []


@pytest.mark.parametrize(
    ("codec", "suffix"), [("mpeg4", "mp4"), ("libx264", "mp4"), ("libx264", "mkv"), ("mpeg4", "avi")]
)
def test_frames_come_in_order_with_their_times(tmp_path, codec, suffix):
    frames = pan(12)
    path = write_clip(tmp_path / f"street.{suffix}", frames, codec, sound="aac" if suffix != "avi" else None)
    video, got = read(path)
    assert (video.name, video.width, video.height, video.fps) == (path.name, 160, 96, 25)
    assert (video.is_live, video.path, video.dropped, video.warnings) == (False, path, 0, [])
    assert video.frame_count == 12 if suffix != "mkv" else video.frame_count - 12 in (0, 1)  # Matroska tells a duration
    assert [f.index for f in got] == list(range(12))
    np.testing.assert_allclose([f.time for f in got], np.arange(12) / 25, atol=1e-3)
    for frame, expected in zip(got, frames, strict=True):
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert frame.motion is None
        assert near(frame.image, expected)


def test_variable_frame_rate_is_kept(tmp_path):
    times = [0, 0.04, 0.3, 0.31, 1.0]
    _, got = read(write_clip(tmp_path / "vfr.mp4", pan(5), times=times))
    np.testing.assert_allclose([f.time for f in got], times, atol=1e-3)


def test_time_counts_from_the_first_frame(tmp_path):
    _, got = read(write_clip(tmp_path / "late.mkv", pan(3), times=[5, 5.5, 6]))
    np.testing.assert_allclose([f.time for f in got], [0, 0.5, 1], atol=1e-3)


@pytest.mark.parametrize(("rotation", "turns"), [(-90, -1), (90, 1), (180, 2)])
def test_video_is_upright(tmp_path, rotation, turns):
    frames = pan(2)
    video, got = read(write_clip(tmp_path / "turned.mp4", frames, rotation=rotation))
    expected = np.rot90(frames[0], turns)
    assert (video.height, video.width) == expected.shape[:2]
    assert got[0].image.flags.c_contiguous
    assert near(got[0].image, expected)


@pytest.mark.parametrize("options", [{"start": 4}, {"stop": 5}, {"stride": 3}, {"start": 2, "stop": 9, "stride": 3}])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_start_stop_and_stride_select_decoded_frames(tmp_path, options, kind):
    frames = pan(10)
    if kind == "file":
        source = write_clip(tmp_path / "pan.mp4", frames, b_frames=2, gop=4)
    else:
        source = tmp_path
        for i, frame in enumerate(frames):
            cv2.imwrite(str(tmp_path / f"{i}.png"), frame[..., ::-1])
    video, got = read(source, **options)
    expected = range(10)[slice(options.get("start"), options.get("stop"), options.get("stride"))]
    assert [f.index for f in got] == list(range(len(expected)))
    assert video.frame_count == len(expected)
    assert video.fps == pytest.approx(25 / options.get("stride", 1))
    for frame, position in zip(got, expected, strict=True):
        assert frame.time == pytest.approx(position / 25, abs=1e-3)
        assert near(frame.image, frames[position])


@pytest.mark.parametrize(("width", "height"), [(1, 1), (17, 33), (8000, 200)])
def test_odd_sizes(tmp_path, width, height):
    frame = np.full((height, width, 3), (200, 30, 60), np.uint8)
    _, got = read(write_clip(tmp_path / "odd.mkv", [frame] * 2, "ffv1"))
    assert got[0].image.shape == frame.shape
    assert near(got[1].image, frame)


def test_images_come_in_natural_order_and_upright(tmp_path):
    for i in (10, 9, 1):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((4, 6, 3), i, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    video, got = read(tmp_path)
    assert [int(f.image[0, 0, 0]) for f in got] == [1, 9, 10]
    assert [f.time for f in got] == [0, 1 / 25, 2 / 25]
    assert (video.name, video.frame_count, video.width, video.height) == (tmp_path.name, 3, 6, 4)


def test_exif_orientation_is_respected(tmp_path):
    image = np.zeros((32, 64, 3), np.uint8)
    image[:16] = 255  # the top as recorded
    data = cv2.imencode(".jpg", image)[1].tobytes()
    # An APP1 segment with the one tag Orientation = 6: to be shown turned clockwise, so that the top is on the right.
    tag = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    exif = b"Exif\0\0" + tag
    (tmp_path / "a.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + data[2:])
    video, got = read(tmp_path)
    assert (video.width, video.height) == (32, 64)
    assert got[0].image[:, 20:].mean() > 200
    assert got[0].image[:, :12].mean() < 50


def test_a_broken_image_is_skipped_with_a_warning(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "1.png").write_bytes(b"broken")
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((4, 4, 3), np.uint8))
    video, got = read(tmp_path)
    assert [f.time for f in got] == [0, 2 / 25]
    assert len(video.warnings) == 1
    assert "1.png" in video.warnings[0]


def broken_source(tmp_path, kind):
    path = tmp_path / "input.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("these are words, not pictures\n" * 50)
    elif kind == "no video":
        copy_stream(write_clip(tmp_path / "both.mkv", pan(5), sound="aac"), path, "audio")
    elif kind == "no index":
        data = write_clip(tmp_path / "whole.mp4", pan(10)).read_bytes()
        path.write_bytes(data[: data.index(b"moov") - 4])
    elif kind == "no frames":
        whole = write_clip(tmp_path / "whole.mp4", pan(1)).read_bytes()
        at = whole.index(b"mdat") + 4
        path.write_bytes(whole[:at] + bytes(whole.index(b"moov") - 4 - at) + whole[whole.index(b"moov") - 4 :])
    elif kind == "empty folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"),
        ("empty", "is empty"),
        ("text", "cannot be read as a video|no video stream"),
        ("no video", "no video stream"),
        ("no index", "cut off"),
        ("no frames", "no frame that can be decoded"),
        ("empty folder", "holds no images"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path, kind, message):
    with pytest.raises(UserError, match=message) as error:
        open_video(broken_source(tmp_path, kind))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["camera:93", "camera:front", "http://127.0.0.1:9/x.mp4", "rtsp://127.0.0.1:9/x"])
def test_cameras_and_addresses_that_do_not_answer(source):
    with pytest.raises(UserError):
        open_video(source)


@pytest.mark.parametrize("options", [{"start": -1}, {"stride": 0}, {"start": 5, "stop": 5}])
def test_selections_that_make_no_sense(tmp_path, options):
    with pytest.raises(UserError, match="start"):
        open_video(tmp_path, **options)


def test_a_start_past_the_end(tmp_path):
    path = write_clip(tmp_path / "short.mp4", pan(5))
    with pytest.raises(UserError, match="5 frames"), open_video(path, start=7) as video:
        list(video)


def test_a_file_that_ends_early_gives_what_it_has(tmp_path):
    whole = write_clip(tmp_path / "whole.mp4", pan(40), gop=5)
    data = copy_stream(whole, tmp_path / "fast.mp4", "video").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    video, got = read(tmp_path / "cut.mp4")
    assert 10 < len(got) < 40
    assert f"{len(got)} of 40 announced frames" in video.warnings[-1]


def test_broken_frames_in_the_middle_are_skipped_and_counted(tmp_path):
    frames = pan(30)
    path = write_clip(tmp_path / "damaged.mp4", frames, gop=5)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    video, got = read(path)
    assert 10 < len(got) < 30
    assert near(got[-1].image, frames[-1])
    assert any("broken" in line for line in video.warnings)


def test_memory_stays_constant_with_motion(tmp_path):
    path = write_clip(tmp_path / "long.mp4", pan(2, size=(360, 640)) * 150, preset="ultrafast")
    used = []
    with open_video(path, motion=True) as video:
        for frame in video:
            if frame.index in (60, 299):
                used.append(psutil.Process().memory_info().rss)
    assert used[1] - used[0] < 40 * 2**20  # 240 frames are 160 MB


def test_a_file_over_http_waits_for_its_reader(tmp_path):
    write_clip(tmp_path / "web.mp4", pan(8))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        video, got = read(f"http://127.0.0.1:{server.server_port}/web.mp4")
        with pytest.raises(UserError, match="Not Found"):
            open_video(f"http://127.0.0.1:{server.server_port}/none.mp4")
    finally:
        server.shutdown()
        server.server_close()
    assert (video.is_live, video.path, len(got)) == (False, None, 8)


def test_live_video_drops_late_pictures_and_keeps_their_motion():
    image, ready, finished = np.zeros((8, 8, 3), np.uint8), threading.Event(), threading.Event()

    def camera():
        for i in range(3):
            yield Picture(image, float(i), (np.full((1, 1, 2), i, np.float32),))
        ready.wait()  # the reader takes the third picture, having missed two
        yield Picture(image, 3.0, (np.full((1, 1, 2), 3, np.float32),))

    newest = Newest(camera(), finished.set)
    deadline = time.monotonic() + 5
    while newest.dropped < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    pictures = iter(newest)
    first = next(pictures)
    assert (first.time, newest.dropped) == (2.0, 2)
    assert [int(field[0, 0, 0]) for field in first.motion] == [0, 1, 2]
    ready.set()
    second = next(pictures)
    assert (second.time, newest.dropped, len(second.motion)) == (3.0, 2, 1)
    assert next(pictures, None) is None
    assert finished.wait(5)


def test_what_goes_wrong_in_a_live_video_is_raised_where_it_is_read():
    def camera():
        yield Picture(np.zeros((8, 8, 3), np.uint8), 0.0)
        raise UserError("the camera was unplugged")

    with pytest.raises(UserError, match="unplugged"):
        list(Newest(camera(), lambda: None))


def test_closing_ends_a_live_video():
    def camera():
        while True:
            time.sleep(0.001)
            yield Picture(np.zeros((8, 8, 3), np.uint8), 0.0)

    finished = threading.Event()
    newest = Newest(camera(), finished.set)
    pictures = iter(newest)
    next(pictures)
    newest.close()
    assert finished.wait(5)
    assert len(list(pictures)) <= 1


def test_expand_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("videos", "images", "other"):
        (tmp_path / folder).mkdir()
    for name in ("videos/b10.mp4", "videos/b9.MP4", "videos/notes.txt", "images/1.jpg", "other/notes.txt"):
        (tmp_path / name).touch()
    videos = [str(Path("videos") / name) for name in ("b9.MP4", "b10.mp4")]
    assert expand_sources(["videos"]) == videos
    assert expand_sources(["images"]) == ["images"]
    assert expand_sources(["videos/*.mp4", "camera:0", "rtsp://host/1"]) == [videos[1], "camera:0", "rtsp://host/1"]
    assert expand_sources(["*"]) == ["images", *videos]
    assert expand_sources(["videos/notes.txt"]) == ["videos/notes.txt"]
    assert expand_sources(["videos", "videos/b9.MP4"]) == videos
    for nothing in ("none/*.mp4", "missing.mp4", "other"):
        with pytest.raises(UserError, match=nothing.split("*")[0]):
            expand_sources([nothing])
