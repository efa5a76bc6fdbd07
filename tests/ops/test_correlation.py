import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from keywarp.ops.correlation import correlation


def typed_out(current, reference, displacement, stride):
    """000, Eq. 2, cell by cell."""
    N, C, h, w = current.shape
    reference = reference.expand(N, -1, -1, -1)
    steps = [stride * k for k in range(-(displacement // stride), displacement // stride + 1)]
    maps = []
    for dy in steps:
        for dx in steps:
            zero = current.new_zeros(N)
            cells = [
                (current[:, :, y, x] * reference[:, :, y + dy, x + dx]).sum(1) / C
                if 0 <= y + dy < h and 0 <= x + dx < w
                else zero
                for y in range(h)
                for x in range(w)
            ]
            maps.append(torch.stack(cells, 1).view(N, h, w))
    return torch.stack(maps, 1)


@pytest.mark.parametrize(("displacement", "stride"), [(0, 1), (2, 1), (3, 2), (4, 2), (6, 3), (1, 4)])
@pytest.mark.parametrize(("N", "K"), [(1, 1), (3, 1), (3, 3)])
@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 1), (2, 9)])
def test_equals_the_equation_with_gradients(displacement, stride, N, K, size):
    """At borders, on maps that the stride does not divide and on maps smaller than the displacement too."""
    current = torch.randn(N, 3, *size, dtype=torch.double, requires_grad=True)
    reference = torch.randn(K, 3, *size, dtype=torch.double, requires_grad=True)
    results = []
    for form in (
        lambda: correlation(current, reference, displacement=displacement, stride=stride),
        lambda: typed_out(current, reference, displacement, stride),
    ):
        out = form()
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.double).view_as(out)
        results.append((out, *torch.autograd.grad((out * weight).sum(), (current, reference))))
    for ours, wanted in zip(*results, strict=True):
        torch.testing.assert_close(ours, wanted)


def test_gradients_by_differences():
    current, reference = (torch.randn(2, 2, 3, 4, dtype=torch.double, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: correlation(a, b, displacement=2, stride=2), (current, reference))


@pytest.mark.parametrize(("displacement", "stride", "maps"), [(4, 1, 81), (10, 2, 121)])
def test_equals_the_operator_of_the_reference(shared, displacement, stride, maps):
    reference = np.load(shared / "reference/mx_ops_ref.npz")
    a, b, wanted = (torch.from_numpy(reference[f"corr_{k}"]) for k in ("a", "b", f"md{displacement}_s{stride}"))
    assert wanted.shape[1] == maps
    ours = correlation(a, b, displacement=displacement, stride=stride)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)


def test_the_peak_lies_at_the_displacement():
    reference = torch.nn.functional.normalize(torch.randn(1, 32, 12, 16), dim=1)
    current = reference.roll((-2, 4), dims=(2, 3))  # current (y, x) = reference (y + 2, x − 4)
    best = correlation(current, reference, displacement=4, stride=2)[:, :, 4:8, 4:12].argmax(1)
    assert (best == 3 * 5 + 0).all(), "dy = 2 is step 3 of −4, −2, 0, 2, 4 and dx = −4 is step 0"


def test_half_precision_and_channels_last():
    current, reference = torch.randn(2, 1, 8, 9, 10)
    wanted = correlation(current, reference, displacement=3)
    last = (x.contiguous(memory_format=torch.channels_last) for x in (current, reference))
    torch.testing.assert_close(correlation(*last, displacement=3), wanted)
    half = correlation(current.bfloat16(), reference.bfloat16(), displacement=3)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), wanted, atol=0.03, rtol=0.03)


def test_every_map_is_written_for_no_frames_too():
    assert correlation(torch.empty(0, 4, 5, 6), torch.empty(1, 4, 5, 6), displacement=2).shape == (0, 25, 5, 6)


def test_memory_grows_with_the_cells_not_with_their_square():
    """On a long strip: all pairs of its cells would take 1280 times what the maps take."""
    with torch.device("meta"):
        current = torch.empty(1, 8, 64, 500)
        with LargestTensor() as largest:
            out = correlation(current, current, displacement=2)
    assert largest.elements <= 40 * out.numel()


class LargestTensor(TorchDispatchMode):
    """Sees every tensor that an operator makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize(
    ("shape", "said"), [((2, 4, 5, 6), "K = 3 or 1"), ((1, 5, 5, 6), r"\[K, 4, 5, 6\]"), ((1, 4, 5, 7), "4, 5, 6")]
)
def test_maps_that_do_not_match_are_refused(shape, said):
    with pytest.raises(ValueError, match=said):
        correlation(torch.zeros(3, 4, 5, 6), torch.zeros(shape), displacement=2)
