import pytest
import torch
from torch import nn

from keywarp.alignment.flownet import FLOW_NETWORKS
from keywarp.alignment.flownet_matching import MatchingEncoder, distinct
from keywarp.structures import Frame, Memory


def test_features_that_are_matched():
    x = torch.randn(2, 6, 5, 7)
    y = distinct(x)
    torch.testing.assert_close(y.square().mean(dim=1), torch.full((2, 5, 7), 3.0))
    torch.testing.assert_close(distinct(x + torch.randn(2, 6, 1, 1)), y)  # what all cells share says nothing


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, 0), (-2, 5)])
def test_the_best_match_is_where_the_content_went(dx, dy):
    """On random dots the untrained encoder finds it: nothing needs to be learnt for that."""
    torch.manual_seed(0)
    encoder = MatchingEncoder(width=16, reach=8)
    nn.init.constant_(encoder.sharpness, 60.0)
    key = torch.rand(1, 3, 160, 192) - 0.5
    current = key.roll((-4 * dy, -4 * dx), dims=(2, 3))
    with torch.inference_mode():
        (first, *_) = encoder.pair(current, encoder.key(key))
    expected = first[0, -3:-1, 10:-10, 10:-10] * 8 / 4  # cells of stride 4
    median = expected.flatten(1).median(dim=1).values
    assert median.tolist() == pytest.approx([dx, dy], abs=0.2)
    assert first.shape[1] == encoder.widths[0]


def test_the_keys_features_are_computed_once_and_shared():
    torch.manual_seed(0)
    network = FLOW_NETWORKS["flownet-matching"](scale_channels=5, quality=True).eval()
    key, current = (torch.randint(0, 256, (n, 3, 96, 128), dtype=torch.uint8) for n in (1, 3))
    with torch.inference_mode():
        remembered = network.remember(Frame(key))
        together = network(Memory(torch.empty(0), (), work=remembered), Frame(current))
        assert together.flow.shape == (3, 2, 6, 8)
        assert together.scale.shape == (3, 5, 6, 8)
        assert together.quality.shape == (3, 1, 6, 8)
        for n in range(3):
            alone = network(Memory(key, ()), Frame(current[n : n + 1]))
            torch.testing.assert_close(together.flow[n], alone.flow[0], atol=1e-4, rtol=1e-4)
