import cv2
import numpy as np
import pytest

from keywarp.data.layers import Layer, Path, Wave
from keywarp.data.scenes import Camera, Scene
from keywarp.data.textures import texture

SIZE = (60, 80)


def camera(length=4, **changes):
    settings = {"exposure": 0.0, "defocus": 0.0, "gain": 1.0, "noise": 0.0} | changes
    return Camera(**{name: np.full(length, value) for name, value in settings.items()}, crf=20, seed=0)


def ground(speed=0.0):
    sprite = texture(np.random.default_rng(0), (120, 160))
    return Layer(sprite, Path(Wave(40, speed / 0.01, 0.01), Wave(30), Wave(np.log(160))), solid=True)


def square(x, y, side=20.0, label=None, speed=0.0, seed=1, **others):
    """A textured square whose speed is in pixels a frame, to the right."""
    sprite = np.pad(texture(np.random.default_rng(seed), (24, 24)), ((2, 2), (2, 2), (0, 0)))
    # The picture with its rim of 2 has 28 pixels, the square itself 24 of them.
    path = Path(Wave(x, speed / 0.01, 0.01), Wave(y), Wave(np.log(side * 28 / 24)), **others)
    return Layer(sprite, path, label)


def seen(*layers, t=0, **changes):
    scene = Scene(SIZE, [ground(), *layers], camera(**changes))
    return scene.objects(t, scene.frame(t))


def test_the_box_holds_the_visible_pixels_and_only_labelled_layers_have_one():
    (thing,) = seen(square(39.5, 29.5, label=7), square(10, 10))
    assert (thing.layer, thing.label) == (1, 7)
    assert thing.box == (30, 20, 20, 20)
    assert thing.occluded == thing.blur == 0
    assert thing.truncated == pytest.approx(0, abs=0.03)


def test_what_is_behind_another_has_a_smaller_box():
    (thing,) = seen(square(39.5, 29.5, label=7), square(29.5, 29.5, 20))  # its left half is hidden
    assert thing.box == (40, 20, 10, 20)
    assert thing.occluded == pytest.approx(0.5, abs=0.03)


def test_what_is_partly_off_screen_is_cut_at_the_edge():
    (thing,) = seen(square(-0.5, 29.5, label=7))
    assert thing.box == (0, 20, 10, 20)
    assert thing.truncated == pytest.approx(0.5, abs=0.03)
    assert thing.occluded == 0


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([square(-20, 29.5, label=7)], "off screen"),
        ([square(39.5, 29.5, label=7), square(39.5, 29.5, 19)], "less than a fifth is visible"),
        ([square(39.5, 29.5, 7, label=7)], "narrower than 8 pixels"),
    ],
)
def test_what_is_hardly_seen_is_not_annotated(layers, why):
    assert seen(*layers) == [], why


def test_blur_is_the_path_during_the_exposure_and_the_disc_of_defocus():
    (thing,) = seen(square(30, 30, label=7, speed=6), exposure=0.5, defocus=2)
    assert thing.blur == pytest.approx(3 + 4, abs=0.05)


def test_motion_smears_the_picture_along_the_motion_but_not_the_truth():
    layers = [ground(), square(39.5, 29.5, label=7, speed=8)]
    sharp, blurred = (Scene(SIZE, layers, camera(exposure=e)) for e in (0, 1.5))
    first, second = sharp.frame(0), blurred.frame(0)
    np.testing.assert_array_equal(first.owner, second.owner)
    detail = [np.abs(np.diff(f.image[24:36, 36:44].astype(float), axis=1)).mean() for f in (first, second)]
    assert detail[1] < 0.6 * detail[0]
    changed = (first.image != second.image).any(-1).nonzero()
    assert changed[0].min() >= 19
    assert changed[0].max() <= 40
    assert changed[1].min() < 27, "half of 12 pixels before the square's edge at 30"


def test_darkness_defocus_and_noise_are_the_cameras():
    layers = [ground(), square(39.5, 29.5)]
    plain, dark, soft = (Scene(SIZE, layers, camera(**c)).frame(1).image for c in ({}, {"gain": 0.25}, {"defocus": 3}))
    assert dark.mean() == pytest.approx(0.25 * plain.mean(), rel=0.02)
    assert np.abs(np.diff(soft.astype(float), axis=0)).mean() < np.abs(np.diff(plain.astype(float), axis=0)).mean()
    noisy = Scene(SIZE, layers, camera(noise=9.0))
    np.testing.assert_array_equal(noisy.frame(1).image, noisy.frame(1).image)
    assert (noisy.frame(1).image != plain).mean() > 0.8


def test_flow_leads_to_the_same_points_in_the_frame_before():
    bends = (Wave(0, 0.05, 0.6), Wave(0, 0.05, 0.5))
    turning = square(36, 30, 40, speed=2.5, angle=Wave(0, 0.5, 0.3), shear=Wave(0, 0.2, 0.4), bends=bends)
    scene = Scene(SIZE, [ground(3), turning, square(10, 50, 16, speed=-2, seed=3)], camera())
    before, now = scene.frame(2), scene.frame(3)
    flow = scene.flow(3, 2, now)
    where = flow + np.stack(np.meshgrid(np.arange(80), np.arange(60)), axis=-1)
    where = where.astype(np.float32)
    moved = cv2.remap(before.image, where, None, cv2.INTER_LINEAR)
    owner = cv2.remap(before.owner.astype(np.float32), where, None, cv2.INTER_LINEAR, borderValue=-1)
    same = owner == now.owner  # the point was seen then too, and away from the outlines
    assert same.mean() > 0.7
    assert np.abs(moved.astype(float) - now.image)[same].mean() < 2
    assert np.abs(before.image.astype(float) - now.image)[same].mean() > 6, "without it the frames differ"
    assert flow[same & (now.owner == 2)].mean(0) == pytest.approx([2, 0], abs=0.01)


def test_the_mask_counts_labels_from_one():
    scene = Scene(SIZE, [ground(), square(20, 30, label=0), square(60, 30, label=29), square(40, 10)], camera())
    frame = scene.frame(0)
    mask = scene.mask(frame)
    assert np.unique(mask).tolist() == [0, 1, 30]
    np.testing.assert_array_equal(mask == 30, frame.owner == 2)
