import numpy as np
import pytest
import torch

from alignment.test_classical import panning
from keywarp.alignment.codec import CodecMotion, accumulate, accumulate_backwards
from keywarp.structures import Frame, Memory, MotionChain

ROWS, COLUMNS = 12, 20


def uniform(dx, dy):
    return np.broadcast_to(np.array([dx, dy], np.float32), (ROWS, COLUMNS, 2)).copy()


def test_uniform_motion_adds_up():
    totals = accumulate([uniform(-3, 1), uniform(-2, 0.5), uniform(1, 1)], ROWS, COLUMNS)
    assert np.isnan(totals[0]).all()
    for total, want in zip(totals[1:], [(-3, 1), (-5, 1.5), (-4, 2.5)], strict=True):
        np.testing.assert_allclose(total, uniform(*want), atol=1e-5)


def test_motion_is_fetched_from_where_it_came_from():
    first = uniform(0, 0)
    first[:, :10] = (-8, 0)  # the left half moved, the right half stood still
    totals = accumulate([first, uniform(-16, 0)], ROWS, COLUMNS)  # then all moved by two cells
    np.testing.assert_allclose(totals[2][:, :12], uniform(-24, 0)[:, :12])
    np.testing.assert_allclose(totals[2][:, 12:], uniform(-16, 0)[:, 12:])


def test_unknown_motion_stays_unknown_along_the_way():
    first = uniform(0, 0)
    first[3, 4] = np.nan
    second = uniform(8, 0)  # one cell to the right in the frame before
    second[0, 0] = np.nan
    unknown = np.isnan(accumulate([first, second], ROWS, COLUMNS)[2][..., 0])
    assert sorted(zip(*np.nonzero(unknown), strict=True)) == [(0, 0), (3, 3)]


def test_holes_are_filled_by_the_fallback_and_counted():
    key, one, two = panning(3, (4, 0))
    complete, holed = uniform(-4, 0), uniform(-4, 0)
    holed[:6] = np.nan
    field = CodecMotion()(
        Memory(key, ()), Frame(torch.cat([one, two]), motion=[MotionChain([complete]), MotionChain([complete, holed])])
    )
    assert field.fallback == (0.0, 0.5)
    assert torch.equal(field.flow[0, 0], torch.full((ROWS, COLUMNS), -0.5)), "cells are 8 pixels"
    assert field.flow[1, 0, 6:].unique().tolist() == [-1.0]
    assert field.flow[1, 0, 1:5, 3:-3].median().item() == pytest.approx(-1.0, abs=0.1)


@pytest.mark.parametrize("motion", [None, [MotionChain()], [MotionChain(backwards=True)]])
def test_without_vectors_everything_is_the_fallback(motion):
    key, one = panning(2, (4, 0))
    field = CodecMotion()(Memory(key, ()), Frame(one, motion=motion))
    assert field.fallback == (1.0,)
    assert torch.isfinite(field.flow).all()


def test_backwards_motion_is_reversed_from_where_it_ends():
    totals = accumulate_backwards([uniform(-8, 0), uniform(-16, 8)], ROWS, COLUMNS)  # the key is the last frame
    np.testing.assert_allclose(totals[1][1:, :-2], uniform(16, -8)[1:, :-2])
    assert np.isnan(totals[1][0]).all(), "the first row's content enters before the key: it comes from no cell"
    assert np.isnan(totals[1][:, -2:]).all()
    np.testing.assert_allclose(totals[2][1:, :-3], uniform(24, -8)[1:, :-3])


def test_frames_on_both_sides_of_the_key():
    before, key, after = panning(3, (8, 0))
    step = uniform(-8, 0)
    chains = [MotionChain([step], backwards=True), MotionChain([step])]
    field = CodecMotion()(Memory(key, ()), Frame(torch.cat([before, after]), motion=chains))
    assert field.flow[0, 0, :, :-1].unique().tolist() == [1.0]
    assert field.flow[1, 0].unique().tolist() == [-1.0]
    assert field.fallback == (pytest.approx(1 / COLUMNS), 0.0)
