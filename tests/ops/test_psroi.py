import pytest
import torch
from torchvision.ops import ps_roi_pool

from keywarp.ops.psroi import holds_cells, pool_bins


def scores_both_ways(features, regions, classes=4, group=7, scale=1 / 16):
    """Mean score of the pooled features, and of the pooled dense score maps (the plain way)."""
    conv = torch.nn.Conv2d(features.shape[1], group * group * classes, 1)
    dense = ps_roi_pool(conv(features), regions, group, scale).mean(dim=(2, 3))
    pooled, filled = pool_bins(features, regions, scale=scale, group=group)
    weight, bias = conv.weight.view(classes, group * group, -1), conv.bias.view(classes, -1)
    scores = torch.einsum("rbc,kbc->rk", pooled, weight) + filled.float() @ bias.T
    return scores / group**2, dense


def random_regions(count, images=1, width=1000, height=600):
    corners = torch.rand(count, 2) * torch.tensor([width, height])
    sizes = torch.rand(count, 2) ** 3 * torch.tensor([width, height])
    image = torch.randint(images, (count, 1)).float()
    ends = torch.minimum(corners + sizes, torch.tensor([width, height]).float())
    return torch.cat([image, corners, ends], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("images", [1, 3])
def test_pooling_before_scoring_equals_pooling_the_scores(images):
    features = torch.randn(images, 16, 38, 63).relu() + 3
    ours, dense = scores_both_ways(features, random_regions(300, images))
    torch.testing.assert_close(ours, dense, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    "region",
    [
        [0, 0, 0, 0],  # no area
        [5, 5, 5.5, 5.5],
        [0, 0, 320, 160],  # all
        [300, 150, 320, 160],  # the last cell
        [8, 8, 24, 24],  # halves, where rounding decides
        [40, 24, 56, 72],
    ],
)
def test_degenerate_regions(region):
    features = torch.randn(1, 8, 10, 20)
    ours, dense = scores_both_ways(features, torch.tensor([[0.0, *region]]))
    torch.testing.assert_close(ours, dense, atol=1e-5, rtol=0)


def test_no_regions():
    pooled, filled = pool_bins(torch.randn(1, 8, 10, 20), torch.zeros(0, 5), scale=1 / 16)
    assert pooled.shape == (0, 49, 8)
    assert filled.shape == (0, 49)


def test_a_constant_map_pools_to_the_constant():
    pooled, filled = pool_bins(torch.full((1, 2, 38, 63), 1000.0), random_regions(50), scale=1 / 16)
    assert filled.any()
    torch.testing.assert_close(pooled, filled[..., None].float().expand(-1, -1, 2) * 1000)


def test_boxes_without_a_filled_bin_are_known():
    regions = random_regions(2000, width=320, height=160)
    regions[:500, 1:3] += torch.tensor([290.0, 130.0])  # many at the right and lower edge
    _, filled = pool_bins(torch.ones(1, 1, 10, 20), regions, scale=1 / 16)
    holds = holds_cells(regions[:, 1:], (10, 20), scale=1 / 16)
    assert torch.equal(filled.any(1), holds)
    assert 0 < holds.sum() < 2000
