import numpy as np
import pytest

from keywarp.data.layers import Layer, Path, Pose, Wave, grid


def path(x=20.0, y=15.0, side=10.0, **others):
    return Path(Wave(x), Wave(y), Wave(np.log(side)), **others)


def block(h=10, w=10):
    """A white opaque sprite."""
    return np.concatenate([np.full((h, w, 3), 255, np.float32), np.ones((h, w, 1), np.float32)], axis=2)


@pytest.mark.parametrize("bend", [(0, 0), (0.05, 0), (0.04, -0.06)])
def test_frame_to_sprite_is_the_inverse_of_sprite_to_frame(bend):
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    pose = Pose(np.array([[40.0, -12, 100], [15, 35, 60]]), bend)
    np.testing.assert_allclose(pose.to_sprite(pose.to_frame(points)), points, atol=1e-5)


def test_bending_moves_points_and_keeps_areas():
    corner = np.array([0.1, 0.2])
    step = 1e-4
    pose = Pose(np.array([[40.0, -12, 100], [15, 35, 60]]), (0.05, 0.08))
    here, right, down = (pose.to_frame(corner + d) for d in ([0, 0], [step, 0], [0, step]))
    drawn = abs(np.linalg.det(np.stack([right - here, down - here]))) / step**2
    assert drawn == pytest.approx(pose.area, rel=1e-2)
    assert np.linalg.norm(here - Pose(pose.matrix).to_frame(corner)) > 1


def test_a_sprite_of_its_own_size_is_drawn_pixel_by_pixel():
    sprite = np.random.default_rng(0).uniform(0, 255, (9, 11, 4)).astype(np.float32)
    sprite[..., 3] = 1
    (rows, columns), drawn = Layer(sprite, path(20, 15, 11)).draw([0], (40, 50))
    frame = np.zeros((40, 50, 4), np.float32)
    frame[rows, columns] = drawn
    np.testing.assert_allclose(frame[11:20, 15:26], sprite, atol=1e-2)
    assert frame.sum() == pytest.approx(sprite.sum(), rel=1e-4)


def test_nothing_is_cut_off_by_the_place_it_is_drawn_in():
    bends = (Wave(0.06), Wave(0.06))
    turned = path(60, 50, 50, angle=Wave(0.7), shear=Wave(0.4), bends=bends)
    place, drawn = Layer(block(30, 40), turned).draw([0], (100, 120))
    assert not drawn[[0, -1]].any()
    assert not drawn[:, [0, -1]].any()
    assert drawn[..., 3].sum() == pytest.approx(Layer(block(30, 40), turned).area(0), rel=0.02)
    assert drawn.shape[:2] == tuple(s.stop - s.start for s in place)


def test_off_screen_there_is_nothing_to_draw():
    _, drawn = Layer(block(), path(-40, 15)).draw([0], (30, 40))
    assert drawn.size == 0


def test_several_instants_give_their_mean():
    moving = Layer(block(), Path(Wave(20, 8, 0.3), Wave(15, 5, 0.5), Wave(np.log(10), 0.2, 0.4), Wave(0, 1, 0.2)))
    total = np.zeros((30, 40, 4))
    for t in (1.0, 1.5, 2.0):
        place, drawn = moving.draw([t], (30, 40))
        total[place] += drawn / 3
    blurred = np.zeros((30, 40, 4))
    place, drawn = moving.draw([1.0, 1.5, 2.0], (30, 40))
    blurred[place] = drawn
    np.testing.assert_allclose(blurred, total, atol=1e-3)


def test_pace_passes_the_same_poses_and_keeps_the_middle_one():
    quick, slow = (Path(Wave(5, 9, 0.3, 1), Wave(7), Wave(2), Wave(0, 1, 0.2), pace=p, middle=10) for p in (1.0, 0.25))
    np.testing.assert_allclose(quick.pose(10).matrix, slow.pose(10).matrix)
    np.testing.assert_allclose(quick.pose(13).matrix, slow.pose(22).matrix)


def test_a_solid_layer_fills_the_frame_and_its_points_move_with_it():
    texture = np.random.default_rng(0).uniform(0, 255, (60, 80, 4)).astype(np.float32)
    texture[..., 3] = 1
    ground = Layer(texture, Path(Wave(20, 6, np.pi / 2), Wave(15), Wave(np.log(80))), solid=True)
    first, second = (ground.draw([t], (30, 40))[1] for t in (0, 1))  # 6 pixels to the right
    np.testing.assert_allclose(second[:, 6:], first[:, :-6], atol=0.1)
    assert (first[..., 3] > 0.99).all()


def test_grid():
    assert grid(slice(2, 4), slice(5, 8))[1, 2].tolist() == [7, 3]
