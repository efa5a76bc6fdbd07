import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from torchvision.datasets import FlyingChairs

from keywarp.cli import main
from keywarp.data import synthesize as synthesizing
from keywarp.data.emoji import find_font
from keywarp.data.flow_pairs import open_flow_pairs
from keywarp.data.imagenet_classes import IMAGENET_VID
from keywarp.data.reading import open_dataset
from keywarp.data.synthesize import SIZES, synthesize, synthesize_pairs
from keywarp.data.video import open_video
from keywarp.errors import UserError

COUNTS, LENGTH = (2, 1, 1), 4


@pytest.fixture(autouse=True)
def _small_enough(monkeypatch):
    try:
        find_font()
    except UserError as error:
        pytest.skip(str(error))
    monkeypatch.setitem(SIZES, "tiny", (COUNTS, LENGTH))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthesized") / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", (COUNTS, LENGTH))
        synthesize(folder, size="tiny", seed=3, flow=True, masks=True, workers=1)
    return folder


def test_what_is_written(made):
    names = contents(made)
    assert {"train.json", "val.json", "test.json", "videos/train/00001.mp4", "videos/test/00000.mp4"} <= names.keys()
    assert {"flow/val/00000.npz", "masks/val/00000/000003.png"} <= names.keys()
    assert not [name for name in names if Path(name).name.startswith(".") or ".unfinished" in name]


def test_annotations_are_coco_vid(made):
    train = json.loads((made / "train.json").read_text())
    assert [c["name"] for c in train["categories"]] == list(IMAGENET_VID)
    assert [c["id"] for c in train["categories"]] == list(range(1, 31))
    assert len(train["videos"]) == 2
    assert [(i["video_id"], i["frame_id"]) for i in train["images"]] == [(v, t) for v in (1, 2) for t in range(LENGTH)]
    for key in ("images", "annotations"):
        assert [entry["id"] for entry in train[key]] == list(range(1, len(train[key]) + 1))
    instances: dict[int, set] = {}
    for a in train["annotations"]:
        image = train["images"][a["image_id"] - 1]
        x, y, w, h = a["bbox"]
        assert 0 <= x < x + w <= image["width"]
        assert 0 <= y < y + h <= image["height"]
        assert a["area"] == w * h
        assert image["video_id"] == a["video_id"]
        assert 0 <= a["occluded"] <= 1
        instances.setdefault(a["instance_id"], set()).add((a["video_id"], a["category_id"]))
    assert all(len(owners) == 1 for owners in instances.values()), "a track is one object of one video"
    assert len({(a["image_id"], a["instance_id"]) for a in train["annotations"]}) == len(train["annotations"])


def test_videos_hold_the_frames(made):
    for video in json.loads((made / "train.json").read_text())["videos"]:
        with open_video(made / video["file_name"]) as opened:
            frames = list(opened)
        assert len(frames) == video["length"] == LENGTH
        assert frames[0].image.shape == (video["height"], video["width"], 3)
        assert frames[0].image.std() > 5


def test_it_is_read_as_a_data_set(made):
    dataset = open_dataset(made, "val")
    assert dataset.classes == tuple(IMAGENET_VID)
    assert dataset.mask_classes == ("background", *IMAGENET_VID)
    (video,) = dataset.videos
    assert list(video.labelled) == list(range(LENGTH))
    assert video.frames.read([LENGTH - 1])[0].shape == (192, 320, 3)
    annotation = video.annotation(2)
    assert annotation.mask is not None
    for (x1, y1, x2, y2), label in zip(annotation.boxes.astype(int), annotation.labels, strict=True):
        assert (annotation.mask[y1:y2, x1:x2] == label + 1).mean() > 0.1


def test_boxes_hold_their_class_in_the_masks(made):
    train = json.loads((made / "train.json").read_text())
    for a in train["annotations"]:
        image = train["images"][a["image_id"] - 1]
        mask = cv2.imread(str(made / image["mask_file"]), cv2.IMREAD_UNCHANGED)
        x, y, w, h = a["bbox"]
        here = mask[y : y + h, x : x + w] == a["category_id"]
        assert here[0].any()
        assert here[-1].any()
        assert here[:, 0].any()
        assert here[:, -1].any()


def test_flow_leads_to_the_frame_before(made):
    flow = np.load(made / "flow/train/00000.npz")["flow"]
    assert flow.shape == (LENGTH, 192, 320, 2)
    assert flow.dtype == np.float16
    assert not flow[0].any()
    assert flow[1:].any()
    masks = [cv2.imread(str(made / f"masks/train/00000/{t:06d}.png"), cv2.IMREAD_UNCHANGED) for t in (2, 3)]
    where = np.stack(np.meshgrid(np.arange(320), np.arange(192)), axis=-1) + flow[3]
    before = cv2.remap(masks[0], where.astype(np.float32), None, cv2.INTER_NEAREST)
    assert (before == masks[1]).mean() > 0.97


def test_the_same_seed_makes_the_same_files(made, tmp_path):
    synthesize(tmp_path / "again", size="tiny", seed=3, flow=True, masks=True, workers=1)
    assert contents(tmp_path / "again") == contents(made)
    synthesize(tmp_path / "other", size="tiny", seed=4, workers=1)
    assert contents(tmp_path / "other")["videos/train/00000.mp4"] != contents(made)["videos/train/00000.mp4"]


@pytest.mark.slow
def test_several_processes_make_the_same_files(made, tmp_path):
    synthesize(tmp_path / "two", size="tiny", seed=3, flow=True, masks=True, workers=2)
    assert contents(tmp_path / "two") == contents(made)


def test_an_interrupted_run_goes_on_where_it_was(made, tmp_path, monkeypatch):
    folder, real, done = tmp_path / "set", synthesizing._make_clip, []

    def until_the_third(clip):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append((clip.split, clip.number))
        real(clip)

    monkeypatch.setattr(synthesizing, "_make_clip", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        synthesize(folder, size="tiny", seed=3, flow=True, masks=True, workers=1)
    with pytest.raises(UserError, match="other settings"):
        synthesize(folder, size="tiny", seed=8, flow=True, masks=True, workers=1)
    made_before = done.copy()
    monkeypatch.setattr(synthesizing, "_make_clip", lambda clip: (done.append((clip.split, clip.number)), real(clip)))
    synthesize(folder, size="tiny", seed=3, flow=True, masks=True, workers=1)
    assert len(done) == len(set(done)) == 4 > len(made_before), "finished clips are not made again"
    assert contents(folder) == contents(made)
    synthesize(folder, size="tiny", seed=3, flow=True, masks=True, workers=1)
    assert len(done) == 4, "it is complete already"


@pytest.mark.slow
def test_sigterm_ends_every_process_and_says_one_line(tmp_path):
    command = ("data", "synthesize", str(tmp_path / "set"), "--size", "small", "--workers", "2")
    child = subprocess.Popen([sys.executable, "-m", "keywarp", *command], stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while not list(tmp_path.rglob("*.mp4")) and time.time() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=60)  # which ends when no process holds the pipe any more
    assert said == "keywarp: interrupted\n"
    assert child.returncode == 130


def test_the_command_tells_the_shares_of_speeds(tmp_path, capsys):
    assert main(["data", "synthesize", str(tmp_path / "set"), "--size", "tiny", "--workers", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert re.fullmatch(r"train: 2 clips, \d+ boxes: slow [\d.]+%, medium [\d.]+%, fast [\d.]+%", out[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "smal"], "did you mean small?"),
        (["--seed", "-1"], "seed of 0 or more"),
        (["--workers", "0"], "at least 1 worker"),
        (["--font", "absent.ttf"], "no font file absent.ttf"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(tmp_path, capsys, arguments, message):
    assert main(["data", "synthesize", str(tmp_path / "set"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_a_folder_with_other_things_is_left_alone(made, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        synthesize(tmp_path, size="tiny", workers=1)
    with pytest.raises(UserError, match="is not empty"):
        synthesize(made, size="tiny", seed=3, workers=1)
    with pytest.raises(UserError, match="is a file"):
        synthesize(tmp_path / "notes.txt", size="tiny", workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_pairs_are_read_as_flying_chairs(tmp_path):
    synthesize_pairs(tmp_path / "FlyingChairs", pairs=10, size=(96, 128), workers=1)
    train, val = (FlyingChairs(str(tmp_path), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (9, 1)
    for first, second, flow in (train[0], train[4], val[0]):
        assert flow.shape == (2, 96, 128)
        first, second = np.asarray(first, float), np.asarray(second)
        where = np.stack(np.meshgrid(np.arange(128), np.arange(96)), axis=-1).astype(np.float32)
        moved = cv2.remap(second, where + flow.transpose(1, 2, 0), None, cv2.INTER_LINEAR)
        # But for what is hidden in the second frame, off it, or on an outline.
        assert (np.abs(moved - first).max(-1) < 12).mean() > 0.6
        assert np.median(np.abs(moved - first)) < 0.5 * np.median(np.abs(second - first)) + 0.5


def test_pairs_of_clips_are_a_few_frames_apart(tmp_path):
    synthesize_pairs(tmp_path / "FlyingChairs", pairs=10, apart=10, workers=1)
    moved = []
    for first, second, flow in FlyingChairs(str(tmp_path), "train"):
        assert flow.shape == (2, 192, 320)
        first, second = (np.asarray(image, np.float32) for image in (first, second))
        where = np.stack(np.meshgrid(np.arange(320), np.arange(192)), axis=-1).astype(np.float32)
        carried = cv2.remap(second, where + flow.transpose(1, 2, 0), None, cv2.INTER_LINEAR)
        inside = ((where + flow.transpose(1, 2, 0) >= 0) & (where + flow.transpose(1, 2, 0) < [320, 192])).all(-1)
        # Noise, blur and what is hidden stay.
        assert np.abs(carried - first)[inside].mean() < np.abs(second - first).mean()
        moved.append(np.hypot(*flow).mean())
    assert 3 < np.mean(moved) < 40
    assert len(set(np.round(moved, 3))) == 9


def test_in_a_share_of_the_pairs_only_the_motion_of_things_is_known(tmp_path):
    synthesize_pairs(tmp_path / "whole", pairs=20, apart=10, workers=1)
    synthesize_pairs(tmp_path / "things", pairs=20, apart=10, objects=0.5, workers=1)
    whole, things = (open_flow_pairs(tmp_path / name, "train") for name in ("whole", "things"))
    shares = []
    for n in range(18):
        assert np.array_equal(whole[n].current, things[n].current)
        known = ~np.isnan(things[n].flow).any(-1)
        assert np.array_equal(whole[n].flow[known], things[n].flow[known])
        shares.append(known.mean())
    assert all(0 < share < 0.8 or share == 1 for share in shares)
    assert 4 <= sum(share < 1 for share in shares) <= 14
    for share in (-0.1, 1.1):
        with pytest.raises(UserError, match="share of pairs from 0 to 1"):
            synthesize_pairs(tmp_path / "c", objects=share, workers=1)


def test_the_ground_of_pairs_moves_more_than_things_against_it(tmp_path):
    synthesize_pairs(tmp_path / "FlyingChairs", pairs=25, size=(64, 256), workers=1)
    flows = np.stack([flow for _, _, flow in FlyingChairs(str(tmp_path), "train")])  # [P, 2, H, W]
    length = np.hypot(flows[:, 0], flows[:, 1])
    assert 4 < np.median(length) < 9
    assert 11 < np.percentile(length, 99) < 40
    ground = np.median(flows, axis=(2, 3), keepdims=True)
    assert 0.5 < np.hypot(*(flows - ground).swapaxes(0, 1)).mean() < 0.8 * length.mean()


def test_pairs_are_the_same_for_the_same_seed_and_go_on(tmp_path):
    synthesize_pairs(tmp_path / "a", pairs=3, seed=1, size=(64, 64), workers=1)
    synthesize_pairs(tmp_path / "b", pairs=3, seed=1, size=(64, 64), workers=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    before = (tmp_path / "a/data/00001_flow.flo").stat().st_mtime_ns
    synthesize_pairs(tmp_path / "a", pairs=3, seed=1, size=(64, 64), workers=1)
    assert (tmp_path / "a/data/00001_flow.flo").stat().st_mtime_ns == before, "it is complete already"
    with pytest.raises(UserError, match="is not empty"):
        synthesize_pairs(tmp_path / "a", pairs=4, seed=1, size=(64, 64), workers=1)
    with pytest.raises(UserError, match="at least 1 pair"):
        synthesize_pairs(tmp_path / "c", pairs=0, workers=1)
    for options, fault in (({"size": (64, 64)}, "wanted no size, frames of clips have theirs"), ({}, "1 to 47 apart")):
        with pytest.raises(UserError, match=fault):
            synthesize_pairs(tmp_path / "c", apart=48, workers=1, **options)
    assert not (tmp_path / "c").exists()
