import numpy as np
import pytest
import torch
from torchvision.utils import flow_to_image

from keywarp.insight.colours import BAD, GOOD, NEUTRAL, FeatureColours, Reach, flow_colours, heat, two_sided, wheel


def test_the_strongest_component_is_red_and_the_next_ones_green_and_blue():
    spread = torch.diag(torch.tensor([0.1, 30.0, 0.2, 3.0, 10.0]))
    features = (torch.randn(400, 5) @ spread).T.reshape(5, 20, 20)
    shown = FeatureColours(features)(features).reshape(-1, 3).astype(float)
    for colour, channel in enumerate((1, 4, 3)):
        related = np.corrcoef(shown[:, colour], features[channel].flatten().numpy())[0, 1]
        assert related > 0.98  # with a sign that does not depend on chance: the largest entry of an axis is positive


def test_the_colours_are_those_of_the_first_features():
    features = torch.randn(6, 9, 11)
    colours = FeatureColours(features)
    moved = torch.roll(features, 3, dims=2)
    assert np.array_equal(colours(moved), np.roll(colours(features), 3, axis=1))
    assert (colours(features + 100) != colours(features)).mean() > 0.5


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_few_channels_and_flat_maps_are_shown_too(channels):
    features = torch.rand(channels, 4, 5)
    assert FeatureColours(features)(features).shape == (4, 5, 3)
    flat = torch.zeros(channels, 4, 5)
    assert len(np.unique(FeatureColours(flat)(flat))) == 1


@pytest.mark.parametrize(("value", "wanted"), [(0.9, 1), (1.1, 2), (4.9, 5), (5.1, 10), (37, 50), (0.03, 0.05)])
def test_reach_is_one_two_or_five_times_a_power_of_ten(value, wanted):
    assert Reach().with_frame(np.full((3, 4), value)) == wanted


def test_reach_stays_while_it_fits():
    reach = Reach()
    reaches = [reach.with_frame(np.full(10, value)) for value in (3, 4.5, 1.1, 6, 3, 40, 0.9, 4, 0)]
    assert reaches == [5, 5, 5, 10, 10, 50, 1, 5, 1e-6]
    assert Reach(least=1.0).with_frame(np.zeros(3)) == 1


def test_reach_passes_over_what_is_unknown_and_over_few_outliers():
    values = np.full(1000, 1.5)
    values[:10], values[10:200] = 1e4, np.nan
    assert Reach().with_frame(values) == 2
    assert Reach(least=3.0).with_frame(np.full(4, np.nan)) == 5


def test_flow_colours_are_torchvisions_where_the_longest_vector_is_the_reach():
    flow = torch.randn(2, 6, 8)
    longest = float(flow.norm(dim=0).max())
    shown = flow_colours(flow.permute(1, 2, 0).numpy(), longest)
    wanted = flow_to_image(flow).permute(1, 2, 0).numpy()
    assert np.abs(shown.astype(int) - wanted).max() <= 1


def test_flow_colours_tell_direction_and_length_on_one_scale():
    row = np.array([[[0, 0], [2, 0], [4, 0], [8, 0], [-4, 0], [np.nan, 1]]], np.float32)
    none, half, full, longer, back, unknown = flow_colours(row, 4.0)[0].astype(int)
    assert none.min() == 255
    assert np.array_equal(longer, full)
    assert np.abs(full - back).max() > 100
    assert full.min() < half.min() < 255
    assert np.array_equal(flow_colours(row * 7, 28.0), flow_colours(row, 4.0))
    assert unknown.shape == (3,)


def test_the_wheel_is_white_in_the_middle_and_full_at_its_rim():
    disc, inside = wheel(41)
    assert inside[20].all()
    assert not inside[0, 0]
    assert disc[20, 20].min() == 255
    assert disc[20, 0].min() < 30
    assert disc[0, 20].min() < 30


def test_heat_rises_from_dark_to_bright():
    brightness = heat(np.linspace(-0.5, 1.5, 60)[None], 1.0)[0].astype(int).sum(axis=1)
    assert (np.diff(brightness) >= -1).all()
    assert brightness[0] < 20
    assert brightness[-1] > 500


def test_two_sided_has_its_colours_at_the_ends_and_in_the_middle():
    shown = two_sided(np.array([[-9.0, -2, 0, 2, 9]]), 2.0)[0]
    assert np.array_equal(shown, np.stack([BAD, BAD, NEUTRAL, GOOD, GOOD]).astype(np.uint8))
