"""Flow pairs by torchvision's readers: every layout, the right images with the right flow, and what is wrong told."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from keywarp.data.datasets import UnreadableFrameError
from keywarp.data.flow_pairs import flow_splits, open_flow_pairs
from keywarp.errors import UserError

SIZE = (64, 96)


def write_flo(path: Path, flow: np.ndarray) -> None:
    """Middlebury's format: a magic number, width, height, then (dx, dy) row by row."""
    height, width = flow.shape[:2]
    path.write_bytes(b"PIEH" + np.array([width, height], "<i4").tobytes() + flow.astype("<f4").tobytes())


def pair_of(number: int, size=SIZE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise that moves as a whole by a whole number of pixels: two images and the flow from the first to the second."""
    rng = np.random.default_rng(number)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (size[0] + 16, size[1] + 16, 3)).astype(np.uint8), (0, 0), 1.5)
    dx, dy = (int(d) for d in rng.integers(-8, 9, 2))
    height, width = size
    first = noise[8 : 8 + height, 8 : 8 + width]
    second = noise[8 - dy : 8 - dy + height, 8 - dx : 8 - dx + width]
    return first, second, np.broadcast_to(np.float32([dx, dy]), (*size, 2))


def write_chairs(folder: Path, count: int = 10, size=SIZE) -> Path:
    (folder / "data").mkdir(parents=True)
    for number in range(1, count + 1):
        first, second, flow = pair_of(number, size)
        start = f"{folder}/data/{number:05d}"
        Image.fromarray(first).save(f"{start}_img1.ppm")
        Image.fromarray(second).save(f"{start}_img2.ppm")
        write_flo(Path(f"{start}_flow.flo"), flow)
    lines = ["2" if number % 5 == 0 else "1" for number in range(1, count + 1)]
    (folder / "FlyingChairs_train_val.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_sintel(folder: Path, frames: int = 3) -> Path:
    for scene in ("alley", "bamboo"):
        for name in ("clean", "flow"):
            (folder / "training" / name / scene).mkdir(parents=True)
        for t in range(1, frames + 1):
            image = Image.fromarray(np.full((*SIZE, 3), 40 * t, np.uint8))
            image.save(folder / f"training/clean/{scene}/frame_{t:04d}.png")
            if t < frames:
                write_flo(folder / f"training/flow/{scene}/frame_{t:04d}.flo", np.full((*SIZE, 2), t))
    return folder


def write_things(folder: Path) -> Path:
    for part in ("TRAIN", "TEST"):
        images = folder / "frames_cleanpass" / part / "A/0000/left"
        images.mkdir(parents=True)
        for t in (6, 7, 8):
            Image.fromarray(np.full((*SIZE, 3), 10 * t, np.uint8)).save(images / f"{t:04d}.png")
            for way, name in (("into_future", "OpticalFlowIntoFuture"), ("into_past", "OpticalFlowIntoPast")):
                flows = folder / "optical_flow" / part / "A/0000" / way / "left"
                flows.mkdir(parents=True, exist_ok=True)
                field = np.zeros((*SIZE, 3), "<f4")
                field[..., 0] = t if way == "into_future" else -t
                field[0, 0, 0] = 5000
                header = f"PF\n{SIZE[1]} {SIZE[0]}\n-1.0\n".encode()
                (flows / f"{name}_{t:04d}_L.pfm").write_bytes(header + field[::-1].tobytes())
    return folder


@pytest.mark.parametrize("name", ["FlyingChairs", "pairs of mine"])
def test_chairs_whatever_the_folder_is_called(tmp_path, name):
    folder = write_chairs(tmp_path / name)
    assert flow_splits(folder) == ("train", "val")
    train, val = (open_flow_pairs(folder, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (8, 2)
    assert [Path(val.file(i)).name for i in range(2)] == ["00005_flow.flo", "00010_flow.flo"]
    for got, wanted in zip(vars(val[1]).values(), pair_of(10), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_chairs_in_the_folder_above(tmp_path):
    write_chairs(tmp_path / "FlyingChairs")
    assert len(open_flow_pairs(tmp_path, "train")) == 8


def test_the_flow_leads_from_the_current_image_to_the_reference(tmp_path):
    pair = open_flow_pairs(write_chairs(tmp_path / "pairs"))[0]
    dx, dy = (int(d) for d in pair.flow[0, 0])
    assert (dx, dy) != (0, 0)
    y, x = 30, 40
    np.testing.assert_array_equal(pair.current[y, x], pair.reference[y + dy, x + dx])


def test_a_missing_file_costs_that_pair_alone(tmp_path):
    folder = write_chairs(tmp_path / "pairs")
    (folder / "data/00002_img2.ppm").unlink()
    (folder / "data/00003_flow.flo").write_bytes(b"not a flow")
    pairs = open_flow_pairs(folder)
    for index in (1, 2):
        with pytest.raises(UnreadableFrameError, match=rf"0000{index + 1}_flow.flo: the pair cannot be read"):
            pairs[index]
    np.testing.assert_array_equal(pairs[3].flow, pair_of(4)[2])


def test_images_of_another_size_than_the_flow_are_told(tmp_path):
    folder = write_chairs(tmp_path / "pairs")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "data/00001_img2.ppm")
    with pytest.raises(UnreadableFrameError, match="must be of one size"):
        open_flow_pairs(folder)[0]


def test_sintel_has_training_pairs_only(tmp_path):
    folder = write_sintel(tmp_path / "Sintel")
    pairs = open_flow_pairs(folder)
    assert len(pairs) == 4
    for index in range(4):
        t = int(pairs[index].flow[0, 0, 0])
        assert (pairs[index].current == 40 * t).all()
        assert (pairs[index].reference == 40 * (t + 1)).all()
    with pytest.raises(UserError, match="has no split 'val' with flow; it has train"):
        open_flow_pairs(folder, "val")


def test_a_frame_missing_in_sintel_is_told(tmp_path):
    folder = write_sintel(tmp_path / "Sintel", frames=4)
    (folder / "training/clean/alley/frame_0001.png").unlink()
    (folder / "training/flow/alley/frame_0003.flo").unlink()
    with pytest.raises(UserError, match=r"incomplete: .* do not go together from .*frame_0001\.flo on"):
        open_flow_pairs(folder)
    (folder / "training/flow/alley/frame_0001.flo").unlink()
    with pytest.raises(UserError, match="incomplete"):
        open_flow_pairs(folder)


def test_an_image_missing_in_things_is_told(tmp_path):
    folder = write_things(tmp_path / "FlyingThings3D")
    (folder / "frames_cleanpass/TEST/A/0000/left/0008.png").unlink()
    with pytest.raises(UserError, match="incomplete"):
        open_flow_pairs(folder, "val")


def test_things_go_both_ways_and_what_moves_too_far_is_not_known(tmp_path):
    folder = write_things(tmp_path / "FlyingThings3D")
    pairs = open_flow_pairs(folder, "val")
    seen = set()
    for index in range(len(pairs)):
        pair = pairs[index]
        now, then, dx = pair.current[0, 0, 0] // 10, pair.reference[0, 0, 0] // 10, int(pair.flow[5, 5, 0])
        assert dx == (now if then > now else -int(now))
        assert np.isnan(pair.flow[0, 0]).all()
        assert np.isnan(pair.flow).any(axis=-1).sum() == 1
        seen.add((int(now), int(then)))
    assert seen == {(6, 7), (7, 8), (7, 6), (8, 7)}


def test_what_is_no_flow_data_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no flow pairs; wanted a folder with FlyingChairs_train_val"):
        open_flow_pairs(tmp_path)
    with pytest.raises(UserError, match="must be called Sintel"):
        open_flow_pairs(write_sintel(tmp_path / "sintel-complete"))
    folder = write_chairs(tmp_path / "pairs", count=4)
    with pytest.raises(UserError, match="lists no pairs in the split val"):
        open_flow_pairs(folder, "val")
    (folder / "FlyingChairs_train_val.txt").write_text("train\n")
    with pytest.raises(UserError, match="must hold 1"):
        open_flow_pairs(folder)
