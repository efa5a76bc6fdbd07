"""The command line from the outside: exit codes, what is printed where, and files."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from keywarp import doctor, loading
from keywarp.cli import main
from keywarp.errors import UserError
from keywarp.scheduling import FixedInterval
from test_annotate import FRAMES, assert_same_video, pictures, write_clip
from tiny import tiny_model


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_clip(tmp_path_factory.mktemp("clip") / "street.mp4"))


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """`loading.load` gives the tiny model and notes what it was asked for."""
    asked = {}

    def load(model, **options):
        asked.update(model=model, **options)
        return tiny_model(FixedInterval(4))

    monkeypatch.setattr(loading, "load", load)
    return asked


def fails(capsys, code, *arguments):
    """The one line that a failing command prints."""
    assert main(list(arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("keywarp: ")
    return captured.err


def test_annotate_end_to_end(clip, tmp_path, capsys, asked):
    arguments = ["--model", "yolox-s", "--interval", "4", "--flow", "dis", "--device", "cpu", "--threshold", "0"]
    assert main(["detect", clip, *arguments, "--output", str(tmp_path), "--csv", "--mot"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"street.mp4: {FRAMES} frames, 6 key frames (26%)" in captured.out
    assert "ms a frame: decode" in captured.out
    assert f"detections: thing {FRAMES}" in captured.out
    assert captured.out.rstrip().endswith(f"Results saved to {tmp_path}")
    expected = {"model": "yolox-s", "interval": 4, "flow": "dis", "device": "cpu", "method": None, "half": False}
    assert {k: asked[k] for k in expected} == expected
    assert {p.name for p in tmp_path.iterdir()} == {"street.mp4", "street.json", "street.csv", "street.txt"}


def test_results_go_to_runs_by_default(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["detect", clip, "--no-video"]) == 0
    assert (tmp_path / "runs/detect/street.json").exists()
    assert not (tmp_path / "runs/detect/street.mp4").exists()


def test_stream_is_all_that_goes_to_standard_output(clip, tmp_path, capsys):
    assert main(["detect", clip, "--stream", "--threshold", "0", "--output", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert [line["image_id"] for line in lines] == list(range(FRAMES))
    assert lines[0]["video"] == "street.mp4"
    assert lines[0]["key"] is True
    assert lines[0]["detections"][0]["category"] == "thing"
    assert "Results saved" in captured.err


@pytest.mark.parametrize("arguments", [["--classes", "thing,THING"], ["--classes", "0", "--classes", "thing"]])
def test_classes_by_name_or_id(clip, tmp_path, arguments):
    assert main(["detect", clip, *arguments, "--threshold", "0", "--output", str(tmp_path)]) == 0
    values = json.loads((tmp_path / "street.json").read_text())
    assert values["info"]["settings"]["classes"] == ["thing"]
    assert len(values["annotations"]) == FRAMES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "1.5"], "--threshold must be 0 to 1, got 1.5"),
        (["--threshold", "high"], 'unable to convert "high" into float'),
        (["--stride", "0"], "--stride must be at least 1, got 0"),
        (["--interval", "0"], "--interval must be at least 1, got 0"),
        (["--interval", "4", "--key-position", "4"], "--key-position must be 0 to --interval − 1, got 4"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--frames", "7"], "--frames must be A:B with A below B, such as 100:200 or 100:, got '7'"),
        (["--frames", "9:3"], "--frames must be A:B"),
        (["--frames", ":"], "--frames must be A:B"),
        (["--frames=-3:9"], "--frames must be A:B"),
        (["--frames", "100:"], "start 100 is past the end: street.mp4 has 23 frames"),
        (["--tresholdd", "0.3"], "Did you mean --threshold?"),
        (["--classes", "thin"], "unknown class 'thin'; did you mean thing?"),
        (["--classes", " , "], "--classes names no class; leave it out for all"),
        (["--classes", "7"], "--classes 7 is no class id; the model has 0 to 0"),
        (["--overwrite", "--resume"], "give one of them"),
    ],
)
def test_mistakes_in_options(clip, tmp_path, capsys, arguments, message):
    assert message in fails(capsys, 2, "detect", clip, "--output", str(tmp_path / "out"), *arguments)
    assert not list(tmp_path.glob("out/*"))


def test_a_mistake_in_the_command(capsys):
    assert 'Did you mean "detect"?' in fails(capsys, 2, "detcet", "a.mp4")
    assert "requires an argument" in fails(capsys, 2, "detect")


def test_a_model_that_cannot_be_loaded(clip, tmp_path, capsys, monkeypatch):
    def load(*_, **__):
        raise UserError("unknown model 'yolox-nan'; did you mean yolox-nano?")

    monkeypatch.setattr(loading, "load", load)
    error = fails(capsys, 2, "detect", clip, "--model", "yolox-nan", "--output", str(tmp_path / "out"))
    assert "did you mean yolox-nano?" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [None, b"", b"not a video at all"])
def test_sources_that_cannot_be_read(tmp_path, capsys, make):
    path = tmp_path / "clip.mp4"
    if make is not None:
        path.write_bytes(make)
    assert "clip.mp4" in fails(capsys, 2, "detect", str(path), "--output", str(tmp_path / "out"))
    assert not list(tmp_path.glob("out/*"))


def test_an_output_that_is_no_folder(clip, tmp_path, capsys, asked):
    (tmp_path / "file").write_text("")
    error = fails(capsys, 2, "detect", clip, "--output", str(tmp_path / "file/deep"))
    assert "choose another --output" in error
    assert asked == {}, "found before any work"


def test_existing_results(clip, tmp_path, capsys):
    assert main(["detect", clip, "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    error = fails(capsys, 2, "detect", clip, "--output", str(tmp_path))
    assert "street.json" in error
    assert "--overwrite" in error
    assert "--resume" in error
    assert main(["detect", clip, "--output", str(tmp_path), "--overwrite"]) == 0


def test_an_unexpected_failure_is_one_line_and_a_traceback_only_on_demand(clip, tmp_path, capsys, monkeypatch):
    def load(*_, **__):
        raise RuntimeError("some\nlong story")

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.delenv("KEYWARP_DEBUG", raising=False)
    error = fails(capsys, 1, "detect", clip, "--output", str(tmp_path / "out"))
    assert error == "keywarp: unexpected RuntimeError: some long story (run with KEYWARP_DEBUG=1 for the traceback)\n"
    monkeypatch.setenv("KEYWARP_DEBUG", "1")
    with pytest.raises(RuntimeError, match="long story"):
        main(["detect", clip, "--output", str(tmp_path / "out")])


def test_a_place_that_cannot_be_used_is_a_mistake_in_what_was_asked(clip, tmp_path, capsys, monkeypatch):
    def load(*_, **__):
        (tmp_path / "none/model").read_bytes()

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.delenv("KEYWARP_DEBUG", raising=False)
    error = fails(capsys, 2, "detect", clip, "--output", str(tmp_path / "out"))
    assert f"cannot read or write {tmp_path / 'none/model'}: No such file or directory; check" in error


def test_a_full_disk_leaves_what_was_done(tmp_path, capsys):
    """On a file system of 300 KB; the clip's results do not fit."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        clip = write_clip(tmp_path / "noise.mp4", frames=60, size=(240, 320), noise=True)
        error = fails(capsys, 1, "detect", str(clip), "--threshold", "0", "--output", str(disk))
        assert "No space left" in error
        assert 0 < len(pictures(disk / "noise.mp4")) < 60
        journal = (disk / ".noise.partial.jsonl").read_text().splitlines()
        assert 0 < len([json.loads(line) for line in journal]) - 1 < 60
    finally:
        subprocess.run(["umount", str(disk)], check=True)


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from tiny import tiny_model
from keywarp import loading
from keywarp.cli import main
from keywarp.scheduling import FixedInterval
model = tiny_model(FixedInterval(4))
model.head.register_forward_hook(lambda *_: time.sleep(0.05))
loading.load = lambda *_, **__: model
sys.exit(main({arguments!r}))
"""


def test_a_process_that_was_killed_can_be_resumed(clip, tmp_path, capsys):
    arguments = ["detect", clip, "--threshold", "0", "--batch", "2", "--output", str(tmp_path / "cut")]
    code = KILLED.format(tests=str(Path(__file__).parent), arguments=arguments)
    journal = tmp_path / "cut/.street.partial.jsonl"
    process = subprocess.Popen([sys.executable, "-c", code])
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 10):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert 10 < journal.read_bytes().count(b"\n") < FRAMES
    assert main([*arguments, "--resume"]) == 0
    assert main([*arguments[:-1], str(tmp_path / "whole")]) == 0
    cut, whole = (json.loads((tmp_path / name / "street.json").read_text()) for name in ("cut", "whole"))
    assert cut["annotations"] == whole["annotations"]
    assert cut["images"] == whole["images"]
    assert_same_video(tmp_path / "cut/street.mp4", tmp_path / "whole/street.mp4")


def test_a_reader_that_leaves_early_is_no_failure_to_talk_about(clip, tmp_path):
    arguments = ["detect", clip, "--threshold", "0", "--stream", "--no-video", "--output", str(tmp_path)]
    code = KILLED.format(tests=str(Path(__file__).parent), arguments=arguments)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""
    assert json.loads((tmp_path / "street.json").read_text())["info"]["complete"] is False


def test_the_command_line_starts_without_torch():
    code = "import sys, keywarp.cli; sys.exit(any(m in sys.modules for m in ('torch', 'cv2', 'av', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    assert "segment" in capsys.readouterr().out
    assert main(["detect", "--help"]) == 0
    assert "--key-position" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


def test_a_package_that_is_not_there_is_told():
    assert doctor.installed(["torch", "no-such-package"]) == {
        "torch": version("torch"),
        "no-such-package": "not installed",
    }


def test_doctor_names_versions_devices_codecs_and_speed(capsys, monkeypatch):
    monkeypatch.setattr("keywarp.doctor._BUDGET", 0.01)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("torch", "opencv", "FFmpeg", "cores", "CUDA", "libx264", "read h264", "GFLOP/s", "frames/s"):
        assert word in out
