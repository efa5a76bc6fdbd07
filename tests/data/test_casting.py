from collections import Counter

import numpy as np
import pytest

from keywarp.data.casting import BLOCK, cast, scene
from keywarp.data.emoji import ColourFont, find_font
from keywarp.data.imagenet_classes import IMAGENET_VID
from keywarp.errors import UserError
from keywarp.evaluation.motion import motion_iou, speed_shares


@pytest.fixture(scope="module")
def font() -> ColourFont:
    try:
        return ColourFont(find_font())
    except UserError as error:
        pytest.skip(str(error))


def test_a_block_holds_every_class_twice_and_one_two_or_three_objects_equally_often():
    roles = [cast(5, 1, n) for n in range(BLOCK, 2 * BLOCK)]
    assert Counter(map(len, roles)) == {1: 10, 2: 10, 3: 10}
    assert Counter(role.name for clip in roles for role in clip) == dict.fromkeys(IMAGENET_VID, 2)


def test_a_block_holds_all_speeds_evenly():
    targets = [np.array([r.motion for n in range(BLOCK) for r in cast(s, 0, n)]) for s in (0, 1)]
    for target in targets:
        assert (target < 0.7).mean() == pytest.approx(0.2, abs=0.02)
        assert (target > 0.9).mean() == pytest.approx(0.445, abs=0.02)
    assert not np.array_equal(*targets)


def test_a_clip_depends_on_seed_split_and_number_alone(font):
    first, again = (scene(font, 3, 1, 4, 8) for _ in range(2))
    np.testing.assert_array_equal(first.frame(5).image, again.frame(5).image)
    for other in ((4, 1, 4), (3, 0, 4), (3, 1, 5)):
        assert not np.array_equal(scene(font, *other, 8).frame(5).image, first.frame(5).image)


def test_a_clip_has_the_cast_it_was_given(font):
    for number in range(4):
        names = sorted(role.name for role in cast(0, 0, number))
        labels = [layer.label for layer in scene(font, 0, 0, number, 8).layers if layer.label is not None]
        assert sorted(list(IMAGENET_VID)[label] for label in labels) == names


def track_speeds(film):
    """Motion IoU of the boxes of each layer."""
    things = [(t, thing.layer, *thing.box) for t in range(len(film)) for thing in film.objects(t, film.frame(t))]
    t, layer, x, y, w, h = np.array(things, float).reshape(-1, 6).T
    values = motion_iou(np.stack([x, y, x + w, y + h], axis=1), t, layer)
    return {int(number): values[layer == number] for number in np.unique(layer)}


def test_an_object_alone_has_the_motion_iou_that_was_wanted(font):
    singles = [number for number in range(BLOCK) if len(cast(0, 2, number)) == 1]
    films = {number: scene(font, 0, 2, number, 24) for number in singles}
    alone = {number: film for number, film in films.items() if len(film.layers) == 2}  # nothing that hides it
    assert alone
    for number, film in alone.items():
        (speeds,) = track_speeds(film).values()
        assert speeds.mean() == pytest.approx(cast(0, 2, number)[0].motion, abs=0.06)


@pytest.mark.slow
def test_the_shares_of_speeds_are_those_of_imagenet_vid(font):
    speeds = [track_speeds(scene(font, 0, 0, number, 48)) for number in range(120)]
    shares = speed_shares(np.concatenate([values for clip in speeds for values in clip.values()]))
    assert shares == pytest.approx({"slow": 0.38, "medium": 0.36, "fast": 0.26}, abs=0.03)
