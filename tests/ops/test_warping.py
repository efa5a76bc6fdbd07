import numpy as np
import pytest
import torch
import torch.nn.functional as F

from keywarp.ops import resize_flow, warp


def by_grid_sample(features, flow):
    h, w = features.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    grid = torch.stack([(flow[:, 0] + x) * 2 / (w - 1) - 1, (flow[:, 1] + y) * 2 / (h - 1) - 1], dim=-1)
    features = features.expand(len(flow), -1, -1, -1)
    return F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def test_zero_flow_is_the_identity():
    features = torch.randn(2, 5, 7, 9)
    assert torch.equal(warp(features, torch.zeros(2, 2, 7, 9)), features)


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (-2, 3), (0, -1)])
def test_an_integer_shift_is_exact_and_zero_comes_in(dx, dy):
    features = torch.randn(1, 3, 8, 10)
    flow = torch.tensor([dx, dy]).view(1, 2, 1, 1).expand(1, 2, 8, 10).float()
    expected = torch.zeros_like(features)
    for y in range(8):
        for x in range(10):
            if 0 <= y + dy < 8 and 0 <= x + dx < 10:
                expected[..., y, x] = features[..., y + dy, x + dx]
    assert torch.equal(warp(features, flow), expected)


@pytest.mark.parametrize("references", [1, 3])
def test_equals_grid_sample_with_gradients(references):
    torch.manual_seed(1)
    features = torch.randn(references, 6, 9, 13, dtype=torch.double, requires_grad=True)
    flow = (3 * torch.randn(3, 2, 9, 13, dtype=torch.double)).requires_grad_()
    weight = torch.randn(3, 6, 9, 13, dtype=torch.double)
    results = []
    for function in (warp, by_grid_sample):
        out = function(features, flow)
        results.append([out, *torch.autograd.grad((out * weight).sum(), [features, flow])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_full_size():
    features, flow = torch.randn(1, 1024, 38, 63), 4 * torch.randn(2, 2, 38, 63)
    torch.testing.assert_close(warp(features, flow), by_grid_sample(features, flow), atol=1e-4, rtol=0)


def test_gradient_is_that_of_the_values():
    features = torch.randn(1, 2, 4, 5, dtype=torch.double, requires_grad=True)
    flow = torch.rand(2, 2, 4, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(warp, (features, flow))


def test_a_flow_that_is_not_finite_fetches_zero():
    flow = torch.zeros(1, 2, 2, 2)
    flow[0, 0, 0, 0], flow[0, 1, 1, 1] = float("nan"), float("inf")
    out = warp(torch.ones(1, 1, 2, 2), flow)
    assert out.flatten().tolist() == [0, 1, 1, 0]


def test_half_precision_keeps_positions_exact():
    features = torch.randn(1, 4, 6, 200).bfloat16()
    flow = torch.full((1, 2, 6, 200), 0.0)
    assert torch.equal(warp(features, flow), features)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"flow must be \[N, 2, 4, 5\]"):
        warp(torch.zeros(2, 3, 4, 5), torch.zeros(3, 2, 4, 5))


def test_the_authors_operator(shared):
    reference = {n: torch.from_numpy(a) for n, a in np.load(shared / "reference/mx_ops_ref.npz").items()}
    features = reference["warp_feat"].clone().requires_grad_()
    flow = reference["warp_flow"].clone().requires_grad_()
    out = warp(features, flow)
    torch.testing.assert_close(out, reference["warp_out"], atol=1e-5, rtol=0)
    out.backward(reference["warp_gout"])
    for ours, name in ((features.grad, "warp_gfeat"), (flow.grad, "warp_gflow")):
        torch.testing.assert_close(ours, reference[name], atol=1e-5, rtol=1e-5)


def test_resized_flow_describes_the_same_motion():
    flow = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 8, 12)
    half = resize_flow(flow, (4, 6))
    assert half.shape == (1, 2, 4, 6)
    torch.testing.assert_close(half, flow[..., :4, :6] / 2)
    torch.testing.assert_close(resize_flow(half, (8, 12)), flow)
    assert resize_flow(flow, (8, 12)) is flow
