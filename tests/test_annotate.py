"""The work on videos, in process: results, resuming, interruption, failures midway."""

import json
import os
import signal
import threading
import weakref

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from keywarp import loading
from keywarp.alignment.codec import CodecMotion
from keywarp.annotate import annotate, detect
from keywarp.data.video import VideoSource, open_video
from keywarp.data.video_writer import VideoWriter
from keywarp.errors import InterruptedWorkError, UserError
from keywarp.methods import METHODS
from keywarp.model import TaskHead, VideoModel
from keywarp.options import BoxOptions, RunOptions
from keywarp.predictor import VideoPredictor
from keywarp.progress import Timer
from keywarp.scheduling import AdaptiveInterval, FixedInterval, SegmentCentre
from keywarp.transform import ImageTransform
from tiny import TinyFeatures, TinyFlow, tiny_model

FRAMES = 23
ALL = BoxOptions(threshold=0, csv=True, mot=True)


def write_clip(path, frames=FRAMES, size=(48, 64), noise=False):
    """Soft colours that drift and change, so that every frame has its own result; or noise, which fills disks."""
    random = np.random.default_rng(1)
    texture = F.interpolate(torch.rand(1, 3, 12, 16, generator=torch.manual_seed(2)), size, mode="bicubic")
    base = (texture[0].permute(1, 2, 0).clamp(0, 1).numpy() * 200).astype(np.uint8)
    with VideoWriter(path, width=size[1], height=size[0], fps=25) as video:
        for i in range(frames):
            image = np.roll(base, 2 * i, 1) + random.integers(0, 50, 3, np.uint8)
            image = random.integers(0, 255, image.shape, np.uint8) if noise else image.astype(np.uint8)
            video.write(image, i / 25)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "street.mp4")


@pytest.fixture
def use(monkeypatch):
    """Make `loading.load` give this model, whatever it is asked for."""

    def use(model):
        monkeypatch.setattr(loading, "load", lambda *_, **__: model)
        return model

    return use


class SegmentationHead(TaskHead):
    """Class scores are the first three channels."""

    def forward(self, features, image_sizes):
        return features[0][:, :3]


def segmentation_model():
    torch.manual_seed(0)
    return VideoModel(
        TinyFeatures(),
        SegmentationHead(),
        scheduler=FixedInterval(4),
        aligner=TinyFlow(),
        transform=ImageTransform(size=(32, 48)),
        classes=("a", "b", "c"),
    ).eval()


def content(path):
    """The JSON file without what differs from run to run."""
    values = json.loads(path.read_text())
    del values["info"]["milliseconds_per_frame"]
    return values


def pictures(path):
    with open_video(path) as video:
        return [frame.image for frame in video]


def assert_same_video(ours, theirs):
    """The same frames. Not bit for bit: libx264 decides a little differently from run to run on a busy machine."""
    ours, theirs = (np.stack(pictures(path)).astype(int) for path in (ours, theirs))  # [T, H, W, 3]
    apart = np.abs(theirs[1:] - theirs[:-1]).mean(axis=(1, 2, 3)).min()
    assert np.abs(ours - theirs).mean(axis=(1, 2, 3)).max() < apart / 2


def stop_after(monkeypatch, frames, act):
    """Call `act` when so many frames of a source have been decoded."""
    decode = VideoSource.__next__
    count = iter(range(10**6))

    def counting(self):
        if next(count) == frames:
            act()
        return decode(self)

    monkeypatch.setattr(VideoSource, "__next__", counting)


class Kill(BaseException):
    """Ends the process's work as kill −9 would: see `killed`."""


def killed(monkeypatch, frames, *arguments):
    """Run until so many frames are decoded, and leave everything as it lies then."""

    def kill():
        raise Kill

    with monkeypatch.context() as patch:
        stop_after(patch, frames, kill)
        patch.setattr("keywarp.outputs.Outputs.close", lambda *_, **__: None)
        with pytest.raises(Kill):
            annotate(*arguments)


def test_annotate_gives_what_the_predictor_gives(clip):
    model = tiny_model(FixedInterval(4))
    with open_video(clip) as video:
        expected = list(VideoPredictor(model, batch=1).run(video))
    results = list(detect(clip, model, batch=5))
    assert [r.index for r in results] == list(range(FRAMES))
    assert [r.is_key for r in results] == [i % 4 == 0 for i in range(FRAMES)]
    for ours, theirs in zip(results, expected, strict=True):
        torch.testing.assert_close(ours.boxes, theirs.boxes)


def test_annotate_takes_a_part_and_reads_no_further(clip):
    results = detect(clip, tiny_model(FixedInterval(4)), batch=2, start=5, stop=15, stride=3)
    assert next(results).time == pytest.approx(5 / 25, abs=1e-4)
    assert [r.index for r in results] == [1, 2, 3]


def test_files_hold_every_frame(clip, tmp_path, use, capsys):
    model = use(tiny_model(FixedInterval(4)))
    assert annotate([str(clip)], RunOptions(output=tmp_path), ALL) == 0
    values = json.loads((tmp_path / "street.json").read_text())
    expected = list(detect(clip, model))
    assert [i["key"] for i in values["images"]] == [r.is_key for r in expected]
    assert len(values["annotations"]) == FRAMES
    for annotation, result in zip(values["annotations"], expected, strict=True):
        x, y, width, height = annotation["bbox"]
        assert [x, y, x + width, y + height] == pytest.approx(result.boxes[0].tolist(), abs=0.03)
    info = values["info"]
    assert info["complete"] is True
    assert (info["frames"], info["key_frames"]) == (FRAMES, 6)
    assert info["video"]["width"] == 64
    assert set(info["milliseconds_per_frame"]) == {"decode", "preprocess", "inference", "draw and write"}
    assert len(pictures(tmp_path / "street.mp4")) == FRAMES
    assert len((tmp_path / "street.txt").read_text().splitlines()) == FRAMES
    assert len((tmp_path / "street.csv").read_text().splitlines()) == FRAMES + 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["street.csv", "street.json", "street.mp4", "street.txt"]
    assert f"Results saved to {tmp_path}" in capsys.readouterr().out


def test_threshold_and_classes_choose_what_is_listed(clip, tmp_path, use):
    use(tiny_model(FixedInterval(4)))
    annotate([str(clip)], RunOptions(output=tmp_path / "none"), BoxOptions(threshold=0.99))
    assert json.loads((tmp_path / "none/street.json").read_text())["annotations"] == []
    annotate([str(clip)], RunOptions(output=tmp_path / "thing"), BoxOptions(threshold=0, classes=("0",)))
    assert len(json.loads((tmp_path / "thing/street.json").read_text())["annotations"]) == FRAMES


def test_other_classes_are_left_out(clip, tmp_path, use):
    model = use(tiny_model(FixedInterval(4)))
    model.classes = ("thing", "other")
    annotate([str(clip)], RunOptions(output=tmp_path), BoxOptions(threshold=0, classes=("other",)))
    assert json.loads((tmp_path / "street.json").read_text())["annotations"] == []


def test_frames_and_stride(clip, tmp_path, use):
    use(tiny_model(FixedInterval(4)))
    annotate([str(clip)], RunOptions(output=tmp_path, frames="3:15", stride=2), ALL)
    images = json.loads((tmp_path / "street.json").read_text())["images"]
    assert [i["id"] for i in images] == list(range(6))
    assert images[0]["time"] == pytest.approx(3 / 25, abs=1e-4)


@pytest.mark.parametrize(
    ("scheduler", "killed_at"),
    [
        (FixedInterval(4), 17),
        (FixedInterval(4), 12),
        (FixedInterval(1), 9),
        (SegmentCentre(5), 11),
        (SegmentCentre(5), 13),
        (SegmentCentre(5, 4), 17),
        (AdaptiveInterval(gamma=0.6), 11),
        (FixedInterval(4), 0),
    ],
)
def test_a_killed_run_goes_on_to_the_same_end(clip, tmp_path, use, monkeypatch, scheduler, killed_at):
    use(tiny_model(scheduler))
    whole, cut = (RunOptions(output=tmp_path / name, batch=3) for name in ("whole", "cut"))
    annotate([str(clip)], whole, ALL)
    killed(monkeypatch, killed_at, [str(clip)], cut, ALL)
    with open(tmp_path / "cut/.street.partial.jsonl", "ab") as journal:
        journal.write(b'{"image_id": 99, "ti')
    assert annotate([str(clip)], RunOptions(output=tmp_path / "cut", batch=3, resume=True), ALL) == 0
    assert content(tmp_path / "cut/street.json") == content(tmp_path / "whole/street.json")
    for name in ("street.csv", "street.txt"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert_same_video(tmp_path / "cut/street.mp4", tmp_path / "whole/street.mp4")
    assert not (tmp_path / "cut/.street.partial.jsonl").exists()


def test_a_recursive_memory_is_filled_again(clip, tmp_path, use, monkeypatch):
    torch.manual_seed(0)
    tiny = {"backbone": "resnet-tiny", "num_classes": 2, "shorter": 64, "longer": 96, "flow": "flownet-tiny"}
    use(METHODS["impression-d"](**tiny, interval=4, classes=("one", "two")).eval())
    some = BoxOptions(threshold=0.3)
    annotate([str(clip)], RunOptions(output=tmp_path / "whole", batch=3), some)
    killed(monkeypatch, 17, [str(clip)], RunOptions(output=tmp_path / "cut", batch=3), some)
    annotate([str(clip)], RunOptions(output=tmp_path / "cut", batch=3, resume=True), some)
    whole, cut = (content(tmp_path / name / "street.json")["annotations"] for name in ("whole", "cut"))
    assert len(whole) > FRAMES
    assert len(cut) == len(whole)
    for ours, theirs in zip(cut, whole, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)


def test_the_adaptive_case_above_is_adaptive(clip):
    keys = [r.index for r in detect(clip, tiny_model(AdaptiveInterval(gamma=0.6))) if r.is_key]
    assert 2 < len(keys) < FRAMES


def test_codec_motion_goes_on_to_the_same_end(clip, tmp_path, use, monkeypatch):
    use(tiny_model(FixedInterval(6), CodecMotion()))
    annotate([str(clip)], RunOptions(output=tmp_path / "whole", batch=4), ALL)
    killed(monkeypatch, 16, [str(clip)], RunOptions(output=tmp_path / "cut", batch=4), ALL)
    annotate([str(clip)], RunOptions(output=tmp_path / "cut", batch=4, resume=True), ALL)
    values = content(tmp_path / "cut/street.json")
    assert values == content(tmp_path / "whole/street.json")
    assert values["info"]["codec_motion"]["frames"] == FRAMES - 4


def test_resuming_runs_the_network_from_the_last_key_frame_only(clip, tmp_path, use, monkeypatch):
    model = use(tiny_model(FixedInterval(4)))
    killed(monkeypatch, 14, [str(clip)], RunOptions(output=tmp_path, batch=1), ALL)
    model.feature_network.images = 0
    annotate([str(clip)], RunOptions(output=tmp_path, batch=1, resume=True), ALL)
    assert model.feature_network.images == 3  # frames 12, 16 and 20


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_valid_files_and_resume_goes_on(clip, tmp_path, use, monkeypatch, capsys, name):
    use(tiny_model(FixedInterval(4)))
    before = signal.getsignal(name)
    with monkeypatch.context() as patch:
        stop_after(patch, 10, lambda: os.kill(os.getpid(), name))
        assert annotate([str(clip)] * 2, RunOptions(output=tmp_path, batch=1), ALL) == 130
    assert signal.getsignal(name) is before
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"stopped after 11 of {FRAMES} frames of street.mp4" in error
    assert "--resume" in error
    values = json.loads((tmp_path / "street.json").read_text())
    assert values["info"]["complete"] is False
    assert len(values["images"]) == 11
    assert len(pictures(tmp_path / "street.mp4")) == 11
    assert (tmp_path / ".street.partial.jsonl").exists()
    assert annotate([str(clip)], RunOptions(output=tmp_path, batch=1, resume=True), ALL) == 0
    assert len(json.loads((tmp_path / "street.json").read_text())["images"]) == FRAMES


def test_stopping_a_live_source_leaves_nothing_to_resume(clip, tmp_path, use, monkeypatch, capsys):
    use(tiny_model(FixedInterval(4)))

    def live(*arguments, **options):
        video = open_video(*arguments, **options)
        video.is_live, video.frame_count = True, None
        return video

    monkeypatch.setattr("keywarp.annotate.open_video", live)
    stop_after(monkeypatch, 6, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert annotate([str(clip)], RunOptions(output=tmp_path, batch=8), ALL) == 130
    assert capsys.readouterr().err == "keywarp: stopped after 7 frames of street.mp4\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["street.csv", "street.json", "street.mp4", "street.txt"]
    assert len(json.loads((tmp_path / "street.json").read_text())["images"]) == 7


def test_stopping_while_stored_frames_are_drawn_again_loses_none(clip, tmp_path, use, monkeypatch):
    use(tiny_model(FixedInterval(4)))
    options = RunOptions(output=tmp_path, batch=1, resume=True)
    killed(monkeypatch, 14, [str(clip)], options, ALL)
    with monkeypatch.context() as patch:
        stop_after(patch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert annotate([str(clip)], options, ALL) == 130
    assert len(json.loads((tmp_path / "street.json").read_text())["images"]) == 14
    assert annotate([str(clip)], options, ALL) == 0
    assert len(pictures(tmp_path / "street.mp4")) == FRAMES


def test_it_runs_outside_the_main_thread(clip, tmp_path, use):
    use(tiny_model(FixedInterval(4)))
    codes = []
    thread = threading.Thread(target=lambda: codes.append(annotate([str(clip)], RunOptions(output=tmp_path), ALL)))
    thread.start()
    thread.join()
    assert codes == [0]


def test_resume_of_a_complete_run_does_nothing(clip, tmp_path, use, capsys):
    model = use(tiny_model(FixedInterval(4)))
    annotate([str(clip)], RunOptions(output=tmp_path), ALL)
    model.feature_network.images = 0
    assert annotate([str(clip)], RunOptions(output=tmp_path, resume=True), ALL) == 0
    assert model.feature_network.images == 0
    assert "complete already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"threshold was 0 and is 0.5 now"):
        annotate([str(clip)], RunOptions(output=tmp_path, resume=True), BoxOptions())


def test_resume_refuses_other_settings(clip, tmp_path, use, monkeypatch):
    use(tiny_model(FixedInterval(4)))
    killed(monkeypatch, 10, [str(clip)], RunOptions(output=tmp_path), ALL)
    with pytest.raises(UserError, match="settings stride was 1 and is 2 now"):
        annotate([str(clip)], RunOptions(output=tmp_path, resume=True, stride=2), ALL)
    use(tiny_model(FixedInterval(5))).description = {"arguments": {"interval": 5}}
    with pytest.raises(UserError, match="model arguments interval"):
        annotate([str(clip)], RunOptions(output=tmp_path, resume=True), ALL)


def test_existing_results_are_not_overwritten_unasked(clip, tmp_path, use):
    use(tiny_model(FixedInterval(4)))
    (tmp_path / "street.json").write_text("mine")
    with pytest.raises(UserError, match=r"street.json exists; .*--overwrite .*--resume"):
        annotate([str(clip)], RunOptions(output=tmp_path), ALL)
    assert (tmp_path / "street.json").read_text() == "mine"
    assert annotate([str(clip)], RunOptions(output=tmp_path, overwrite=True), ALL) == 0
    assert json.loads((tmp_path / "street.json").read_text())["info"]["complete"]


def test_an_interrupted_run_is_not_thrown_away_unasked(clip, tmp_path, use, monkeypatch):
    use(tiny_model(FixedInterval(4)))
    killed(monkeypatch, 10, [str(clip)], RunOptions(output=tmp_path), ALL)
    with pytest.raises(UserError, match="interrupted run of street"):
        annotate([str(clip)], RunOptions(output=tmp_path), ALL)
    assert annotate([str(clip)], RunOptions(output=tmp_path, overwrite=True), ALL) == 0


def test_the_source_itself_is_never_overwritten(clip, use):
    use(tiny_model(FixedInterval(4)))
    before = clip.read_bytes()
    with pytest.raises(UserError, match="would overwrite a source"):
        annotate([str(clip)], RunOptions(output=clip.parent, overwrite=True), ALL)
    assert clip.read_bytes() == before


def test_another_source_is_never_overwritten(clip, tmp_path, use):
    use(tiny_model(FixedInterval(4)))
    for name in ("a.avi", "a.mp4"):
        (tmp_path / name).write_bytes(clip.read_bytes())
    with pytest.raises(UserError, match=r"a\.mp4 would overwrite a source"):
        annotate([str(tmp_path / "a.avi"), str(tmp_path / "a.mp4")], RunOptions(output=tmp_path, overwrite=True), ALL)
    assert (tmp_path / "a.mp4").read_bytes() == clip.read_bytes()


def test_sources_of_one_name_get_names_that_differ(clip, tmp_path, use):
    use(tiny_model(FixedInterval(4)))
    other = tmp_path / "b/street.mp4"
    other.parent.mkdir()
    write_clip(other, frames=5)
    out = tmp_path / "out"
    assert annotate([str(clip), str(other)], RunOptions(output=out, no_video=True), ALL) == 0
    assert len(json.loads((out / "street.json").read_text())["images"]) == FRAMES
    assert len(json.loads((out / "street-2.json").read_text())["images"]) == 5


def test_a_folder_of_images_keeps_its_name_and_theirs(tmp_path, use, clip):
    use(tiny_model(FixedInterval(4)))
    folder = tmp_path / "walk.v2"
    folder.mkdir()
    with av.open(str(clip)) as container:
        for i, frame in zip(range(5), container.decode(video=0), strict=False):
            frame.to_image().save(folder / f"{i}.png")
    assert annotate([str(folder)], RunOptions(output=tmp_path / "out"), ALL) == 0
    assert len(pictures(tmp_path / "out/walk.v2.mp4")) == 5
    written = json.loads((tmp_path / "out/walk.v2.json").read_text())
    assert [image["file_name"] for image in written["images"]] == [f"{i}.png" for i in range(5)]


def test_a_source_that_breaks_midway_leaves_what_was_done(clip, tmp_path, use, monkeypatch):
    use(tiny_model(FixedInterval(4)))

    def fail():
        raise OSError(5, "Input/output error")

    stop_after(monkeypatch, 10, fail)
    with pytest.raises(InterruptedWorkError, match=r"reading street.mp4 broke off after 10 .*Input/output"):
        annotate([str(clip)], RunOptions(output=tmp_path, batch=1), ALL)
    values = json.loads((tmp_path / "street.json").read_text())
    assert values["info"]["complete"] is False
    assert len(values["images"]) == len(pictures(tmp_path / "street.mp4")) == 10


def test_one_bad_source_does_not_stop_the_others(clip, tmp_path, use, capsys):
    use(tiny_model(FixedInterval(4)))
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    assert annotate([str(bad), str(clip)], RunOptions(output=tmp_path / "out"), ALL) == 1
    assert capsys.readouterr().err.startswith("keywarp: bad.mp4 cannot be read")
    assert (tmp_path / "out/street.json").exists()
    assert not list((tmp_path / "out").glob("*bad*"))


def test_segment_writes_label_maps_and_resumes(clip, tmp_path, use, monkeypatch):
    model = use(segmentation_model())
    annotate([str(clip)], RunOptions(output=tmp_path / "whole"))
    killed(monkeypatch, 14, [str(clip)], RunOptions(output=tmp_path / "cut", batch=3))
    annotate([str(clip)], RunOptions(output=tmp_path / "cut", batch=3, resume=True))
    assert content(tmp_path / "cut/street.json") == content(tmp_path / "whole/street.json")
    from PIL import Image

    for result in detect(clip, model):
        for run in ("cut", "whole"):
            stored = Image.open(tmp_path / run / f"street/{result.index:06d}.png")
            assert stored.mode == "P"
            np.testing.assert_array_equal(np.array(stored), result.segmentation)
    assert_same_video(tmp_path / "cut/street.mp4", tmp_path / "whole/street.mp4")


def test_the_wrong_command_for_a_model_is_refused_and_leaves_nothing(clip, tmp_path, use):
    use(segmentation_model())
    with pytest.raises(UserError, match="use keywarp segment"):
        annotate([str(clip)], RunOptions(output=tmp_path), ALL)
    use(tiny_model(FixedInterval(4)))
    with pytest.raises(UserError, match="use keywarp detect"):
        annotate([str(clip)], RunOptions(output=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_frames_held_are_bounded(clip, tmp_path, use, monkeypatch):
    """At most the batch, the scheduler's latency and the frame just read exist at any time."""
    use(tiny_model(SegmentCentre(6, 3)))
    decode = VideoSource.__next__
    handed_out, most = [], []

    def watched(self):
        frame = decode(self)
        handed_out.append(weakref.ref(frame))
        most.append(sum(ref() is not None for ref in handed_out))
        return frame

    monkeypatch.setattr(VideoSource, "__next__", watched)
    annotate([str(clip)], RunOptions(output=tmp_path, batch=2), ALL)
    assert len(handed_out) == FRAMES
    assert max(most) <= 2 + 3 + 1


def test_timer_counts_the_innermost_part():
    timer = Timer()
    with timer("outer"):
        with timer("inner"):
            threading.Event().wait(0.05)
        threading.Event().wait(0.01)
    assert timer.seconds["inner"] >= 0.05
    assert 0.01 <= timer.seconds["outer"] < 0.04
    assert timer.milliseconds(2)["inner"] >= 25
