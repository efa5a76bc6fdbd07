import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from keywarp.errors import InterruptedWorkError, UserError
from keywarp.plans import SINGLE, pair, triplet, window
from keywarp.training.clips import Shares, TrainingClips, collate, frame_indices
from keywarp.training.config import TrainConfig
from keywarp.transform import ImageTransform
from training.toy import SIZE, box, toy

CONFIG = TrainConfig(steps=10, images_per_step=4, flip=0.0)
SAME = ImageTransform(64, 96)


def clips(datasets=None, plan=SINGLE, config=CONFIG, transform=SAME):
    return TrainingClips([toy()] if datasets is None else datasets, plan, transform, config)


def drawn(plan, t, length, count=400):
    rng = np.random.default_rng(0)
    return [frame_indices(plan, t, length, rng) for _ in range(count)]


@pytest.mark.parametrize(
    ("plan", "ranges"),
    [
        (pair(10), [range(-9, 1)]),  # 0 ≤ i − k ≤ l − 1
        (triplet(10), [range(-10, -4), range(-5, 6)]),
        (window(2, 9, with_current=False), [range(-9, 10)] * 2),
        (window(4, 10, with_current=True), [range(-10, 11)] * 4),
    ],
)
def test_offsets_are_those_of_the_plan(plan, ranges):
    found = drawn(plan, 50, 100, 3000)
    for place, wanted in enumerate(ranges):
        assert {c[place] - 50 for c in found if len(c) > 1} >= set(wanted) - {0}
        assert {c[place] - 50 for c in found if len(c) > 1} <= set(wanted)
    assert all(c[-1] == 50 for c in found)
    if plan.distinct:
        assert all(len(set(c[:-1])) == len(c) - 1 for c in found)


@pytest.mark.parametrize("plan", [pair(10), triplet(10), window(2, with_current=False)])
@pytest.mark.parametrize("t", [0, 1, 4])
def test_clips_stay_inside_short_videos(plan, t):
    assert all(0 <= i < 5 for c in drawn(plan, t, 5) for i in c)


def test_a_key_frame_that_is_the_frame_itself_and_a_still_are_single():
    assert [7] in drawn(pair(10), 7, 100)
    assert all(c == [0] for c in drawn(pair(10), 0, 1))


@pytest.mark.parametrize("plan", [triplet(10), window(2, with_current=True), window(2, with_current=False)])
def test_a_still_stands_for_all_three_images(plan):
    """002, 4.1; 003, 4: "if sampled from DET, all images are same"; so do FGFA's authors."""
    assert all(c == [0, 0, 0] for c in drawn(plan, 0, 1))
    stills = toy(2, length=1)
    sample = clips([stills], plan)[0]
    assert sample.frames.shape[0] == 3
    assert (sample.frames == sample.frames[0]).all()


def test_every_labelled_frame_comes_once_an_epoch():
    data = toy(3, step=5)  # frames 0, 5 and 10 of each
    source = clips([data])
    names = [source[n].name for n in range(27)]
    for epoch in range(3):
        assert Counter(names[9 * epoch : 9 * epoch + 9]) == {
            f"toy-{v} frame {t}": 1 for v in range(3) for t in (0, 5, 10)
        }
    assert names[:9] != names[9:18]


def test_data_sets_mix_at_their_ratio():
    videos, stills = toy(2), toy(3, length=1)
    source = clips([videos, stills], pair(4), replace(CONFIG, ratios=(2, 1)))
    kinds = [int(source[n].name.endswith("frame 0") and len(source[n].frames) == 1) for n in range(9)]
    assert [source._draw(n, 0, np.random.default_rng(0))[0] for n in range(6)] == [0, 0, 1, 0, 0, 1]
    assert sum(kinds) >= 3
    with pytest.raises(UserError, match="ratios must be one a data set"):
        clips([videos, stills], SINGLE, replace(CONFIG, ratios=(2, 1, 1)))


def test_a_clip_depends_on_seed_and_number_alone():
    config = replace(CONFIG, flip=0.5, zoom=(0.7, 1.5), colour=0.5, degrade=0.5)
    first, second = clips(plan=pair(5), config=config), pickle.loads(pickle.dumps(clips(plan=pair(5), config=config)))
    for n in (11, 3, 7):
        a, b = first[n], second[n]
        assert a.name == b.name
        assert torch.equal(a.frames, b.frames)
        assert torch.equal(a.target["boxes"], b.target["boxes"])
    other = clips(plan=pair(5), config=replace(config, seed=1))
    assert any(other[n].name != first[n].name for n in range(5))


def test_frames_and_boxes_are_resized_alike():
    sample = clips(transform=ImageTransform(32, 48))[0]
    video, frame = (int(part) for part in sample.name.removeprefix("toy-").split(" frame "))
    assert sample.frames.shape == (1, 3, 32, 48)
    assert sample.target["boxes"][0].tolist() == [v / 2 for v in box(video, frame)]


def test_the_shorter_side_of_a_step_is_one_of_the_given():
    source = clips(config=replace(CONFIG, shorter=(32, 48, 64)))
    heights = [source[n].frames.shape[-2] for n in range(40)]
    assert set(heights) == {32, 48, 64}
    assert all(len(set(heights[s : s + 4])) == 1 for s in range(0, 40, 4))


def test_unreadable_clips_are_replaced_and_told():
    source = clips([toy(2, broken=(2, 3))], SINGLE)
    samples = [source[n] for n in range(24)]
    assert any("frame 2 is broken; another clip is taken" in w for s in samples for w in s.warnings)
    assert not any(s.name.endswith((" 2", " 3")) for s in samples)


def test_nothing_usable_is_an_error():
    with pytest.raises(InterruptedWorkError, match="20 training clips in a row are of no use: toy-0: frame 0"):
        clips([toy(1, length=1, broken=(0,))])[0]
    with pytest.raises(InterruptedWorkError, match="frames without objects"):
        clips([toy(1, empty=True)])[0]
    assert not len(clips([toy(1, empty=True)], config=replace(CONFIG, skip_empty=False))[0].target["labels"])
    with pytest.raises(UserError, match="toy has no labelled frame"):
        clips([toy(0)])


def test_batches_hold_groups_of_one_shape():
    source = clips([toy(2), toy(2, length=1)], pair(4), replace(CONFIG, flip=0.5))
    samples = [source[n] for n in range(8)]
    batch = collate(samples)
    assert sum(len(g.clips) for g in batch.groups) == len(batch) == 8
    assert {g.clips.shape[1] for g in batch.groups} == {1, 2}
    assert all(len(g.targets) == len(g.clips) for g in batch.groups)


def test_masks_follow_the_picture():
    sample = clips([toy(masks=True)], config=replace(CONFIG, zoom=(0.6, 0.6)))[0]
    mask = sample.target["mask"]
    assert mask.shape == SIZE
    assert 255 in mask
    grey = (sample.frames[0] == 114).all(0)
    assert ((mask == 255) == grey).float().mean() > 0.97
    x0, y0, x1, y1 = sample.target["boxes"][0].round().int().tolist()
    inside = mask[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1]
    assert (inside > 0).all()


def test_shares_of_processes_make_up_the_whole():
    config = replace(CONFIG, images_per_step=8, steps=3, accumulate=2)
    whole = [n for part in Shares(config, start=1) for n in part]
    assert whole == list(range(8, 24))
    ranks = [list(Shares(config, start=1, rank=r, world=2)) for r in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == list(Shares(config, start=1))
    assert len(Shares(config, start=1)) == 4
    with pytest.raises(UserError, match="must divide by processes"):
        Shares(config, start=0, world=3)
