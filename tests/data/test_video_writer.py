import os
import signal
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from video_clips import pan, streams, write_clip

from keywarp.data.video import open_video
from keywarp.data.video_writer import VideoWriter
from keywarp.errors import InterruptedWorkError, UserError


def write(path, frames, times=None, **options):
    h, w = frames[0].shape[:2]
    with VideoWriter(path, width=w, height=h, fps=25, **options) as writer:
        for i, frame in enumerate(frames):
            writer.write(frame, i / 25 if times is None else times[i])
    return writer


def read(path):
    with open_video(path) as video:
        return video, list(video)


def noise(count=10, size=(256, 256)):
    """Frames that do not compress."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3)).astype(np.uint8) for _ in range(count)]


def test_frames_come_back_with_their_times(tmp_path):
    frames = pan(30)
    path = tmp_path / "out.mp4"
    writer = write(path, frames)
    video, got = read(path)
    assert (video.frame_count, video.fps, video.warnings, writer.warnings) == (30, 25, [], [])
    np.testing.assert_allclose([f.time for f in got], np.arange(30) / 25, atol=1e-4)
    assert streams(path)["video"] == ("h264", 30, pytest.approx(30 / 25))
    for frame, expected in zip(got, frames, strict=True):
        assert np.abs(frame.image.astype(int) - expected).mean() < 8
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_browsers_play_it(tmp_path):
    write(tmp_path / "out.mp4", pan(3))
    data = (tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert b"moof" not in data
    with av.open(str(tmp_path / "out.mp4")) as file:
        codec = file.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")


def test_colours_are_kept(tmp_path):
    write(tmp_path / "out.mp4", [np.full((32, 32, 3), (200, 30, 60), np.uint8)] * 3)
    np.testing.assert_allclose(read(tmp_path / "out.mp4")[1][0].image[16, 16], (200, 30, 60), atol=4)


def test_variable_times_are_kept_from_the_first_frame_on(tmp_path):
    times = [2.0, 2.04, 2.5, 2.5, 4.0]  # two at once: the later one comes a tick after
    write(tmp_path / "out.mp4", pan(5), times)
    got = [f.time for f in read(tmp_path / "out.mp4")[1]]
    np.testing.assert_allclose(got, np.array(times) - 2, atol=1e-4)
    assert np.all(np.diff(got) > 0)
    assert streams(tmp_path / "out.mp4")["video"][2] == pytest.approx(2 + 1 / 25, abs=1e-3)


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), 12.5, 0.5, 240])
def test_the_frame_rate_is_announced(tmp_path, fps):
    with VideoWriter(tmp_path / "out.mp4", width=32, height=32, fps=fps) as writer:
        for i in range(6):
            writer.write(np.zeros((32, 32, 3), np.uint8), i / fps)
    assert float(read(tmp_path / "out.mp4")[0].fps) == pytest.approx(float(fps), rel=1e-3)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (17, 33), (2, 2), (4000, 3)])
def test_odd_and_tiny_sizes_gain_a_pixel(tmp_path, width, height):
    write(tmp_path / "out.mp4", [np.full((height, width, 3), 90, np.uint8)] * 3)
    video, got = read(tmp_path / "out.mp4")
    assert (video.width, video.height) == (width + width % 2, height + height % 2)
    assert np.abs(got[2].image.astype(int) - 90).max() < 4


def test_a_frame_of_another_size_is_fitted(tmp_path):
    write(tmp_path / "out.mp4", [*pan(2), *pan(1, size=(48, 80))])
    assert {f.image.shape for f in read(tmp_path / "out.mp4")[1]} == {(96, 160, 3)}


@pytest.mark.parametrize(
    ("sound", "suffix"), [("aac", "mp4"), ("aac", "ts"), ("mp3", "mkv"), ("ac3", "mkv"), ("opus", "mkv")]
)
def test_sound_is_copied(tmp_path, sound, suffix):
    path = write_clip(tmp_path / f"in.{suffix}", pan(50), sound="libopus" if sound == "opus" else sound)
    with open_video(path) as source:
        frames = list(source)
        writer = write(tmp_path / "out.mp4", [f.image for f in frames], [f.time for f in frames], source=source)
    assert writer.warnings == []
    codec, packets, seconds = streams(tmp_path / "out.mp4")["audio"]
    assert codec == sound
    assert packets > 20
    assert seconds == pytest.approx(2, abs=0.1)
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert sum(frame.samples for frame in file.decode(audio=0)) == pytest.approx(2 * 48000, rel=0.05)


def test_sound_is_cut_to_the_written_part(tmp_path):
    path = write_clip(tmp_path / "in.mp4", pan(100), sound="aac")
    with open_video(path, start=25, stop=75, stride=2) as source:
        frames = list(source)
        write(tmp_path / "out.mp4", [f.image for f in frames], [f.time for f in frames], source=source)
    found = streams(tmp_path / "out.mp4")
    assert found["video"][1] == 25
    assert found["audio"][2] == pytest.approx(2, abs=0.06)


def test_sound_that_mp4_cannot_hold_is_left_out_with_a_warning(tmp_path):
    path = write_clip(tmp_path / "in.mov", pan(10), sound="pcm_mulaw")
    with open_video(path) as source:
        writer = write(tmp_path / "out.mp4", [f.image for f in source], source=source)
    assert list(streams(tmp_path / "out.mp4")) == ["video"]
    assert len(writer.warnings) == 1
    assert "pcm_mulaw" in writer.warnings[0]


def test_a_video_without_sound_and_a_folder_are_sources_too(tmp_path):
    with open_video(write_clip(tmp_path / "in.mp4", pan(3))) as source:
        assert write(tmp_path / "out.mp4", pan(3), source=source).warnings == []
    assert list(streams(tmp_path / "out.mp4")) == ["video"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process the POSIX way")
def test_a_killed_process_leaves_a_playable_file(tmp_path):
    script = f"""
import os, signal
import numpy as np
from pathlib import Path
from keywarp.data.video_writer import VideoWriter
writer = VideoWriter(Path({str(tmp_path / "out.mp4")!r}), width=64, height=64, fps=10)
for i in range(120):
    writer.write(np.full((64, 64, 3), i, np.uint8), i / 10)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == [".out.partial.mp4"]
    _, got = read(tmp_path / ".out.partial.mp4")
    assert len(got) >= 60
    assert abs(int(got[50].image.mean()) - 50) < 3


def test_leaving_with_an_exception_keeps_what_was_written(tmp_path):
    frames = [*pan(7), "interrupted"]
    with pytest.raises(AttributeError):
        write(tmp_path / "out.mp4", frames)
    assert len(read(tmp_path / "out.mp4")[1]) == 7


def test_a_closed_writer_takes_no_more_frames(tmp_path):
    writer = write(tmp_path / "out.mp4", pan(2))
    with pytest.raises(InterruptedWorkError, match="no more frames"):
        writer.write(pan(1)[0], 2.0)


def test_nothing_written_leaves_nothing(tmp_path):
    VideoWriter(tmp_path / "out.mp4", width=32, height=32, fps=5).close()
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    with VideoWriter(path, width=32, height=32, fps=5) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8), 0.0)
        assert path.read_bytes() == b"older"
    assert len(read(path)[1]) == 1


def test_what_cannot_be_written_is_said_before_any_work(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        VideoWriter(tmp_path / "missing" / "out.mp4", width=32, height=32, fps=5)
    with pytest.raises(UserError, match="size"):
        VideoWriter(tmp_path / "out.mp4", width=0, height=32, fps=5)
    path = write_clip(tmp_path / "in.mp4", pan(3))
    with open_video(path) as source, pytest.raises(UserError, match="being read"):
        VideoWriter(path, width=32, height=32, fps=5, source=source)


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of so many kilobytes."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(kilobytes):
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
        if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
            pytest.skip("mounting a small disk needs root on Linux")
        return place

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_full_disk_leaves_a_playable_file(small_disk, end):
    path, frames = small_disk(1500) / "out.mp4", noise()
    writer = VideoWriter(path, width=256, height=256, fps=10)

    def fill():
        for i in range(200):
            writer.write(frames[i % 10], i / 10)

    with pytest.raises(InterruptedWorkError, match="No space left") as error:
        fill()
    assert "\n" not in str(error.value)
    getattr(writer, end)()
    assert [p.name for p in path.parent.iterdir()] == ["out.mp4"]
    _, got = read(path)
    assert 10 < len(got) <= writer.frames_written
    assert [f.time for f in got] == pytest.approx([i / 10 for i in range(len(got))])


def test_no_room_for_the_final_file_keeps_the_fragmented_one(small_disk):
    path = small_disk(1300) / "out.mp4"
    writer = VideoWriter(path, width=256, height=256, fps=10)
    for i, frame in enumerate(noise(20)):
        writer.write(frame, i / 10)
    with pytest.raises(InterruptedWorkError, match="all 20 frames"):
        writer.close()
    assert [p.name for p in path.parent.iterdir()] == ["out.mp4"]
    assert len(read(path)[1]) == 20


def test_sound_that_cannot_be_decoded_is_left_out_with_a_warning(tmp_path):
    path = write_clip(tmp_path / "in.mp4", pan(10), sound="aac")
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"zzzz").replace(b"esds", b"free"))
    with open_video(path) as source:
        writer = write(tmp_path / "out.mp4", [f.image for f in source], source=source)
    assert list(streams(tmp_path / "out.mp4")) == ["video"]
    assert len(writer.warnings) == 1
