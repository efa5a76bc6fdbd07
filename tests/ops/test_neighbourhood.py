import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from keywarp.ops.neighbourhood import affinity, dense_offsets, gather_sum, sparse_offsets

NEIGHBOURHOODS = [sparse_offsets(2), dense_offsets(1), ((0, 0),), ((3, -1), (0, 0), (-2, 0))]
cases = pytest.mark.parametrize("offsets", NEIGHBOURHOODS)
batches = pytest.mark.parametrize(("N", "K"), [(1, 1), (3, 1), (3, 3)])
sizes = pytest.mark.parametrize("size", [(5, 6), (1, 1), (3, 2)])


def cells(offsets, h, w):
    """Every cell, each of its neighbours by number, and where that is, or None off the map."""
    for y in range(h):
        for x in range(w):
            for p, (dx, dy) in enumerate(offsets):
                there = (y + dy, x + dx)
                yield y, x, p, there if 0 <= there[0] < h and 0 <= there[1] < w else None


def affinity_typed_out(query, reference, offsets):
    """002, Eq. 1, cell by cell."""
    N, _, h, w = query.shape
    reference = reference.expand(N, -1, -1, -1)
    out = query.new_full((N, len(offsets), h, w), -torch.inf)
    for y, x, p, there in cells(offsets, h, w):
        if there:
            out[:, p, y, x] = (query[:, :, y, x] * reference[:, :, there[0], there[1]]).sum(1)
    return out


def gather_typed_out(features, weights, offsets):
    """002, Eq. 5, cell by cell."""
    N, _, h, w = weights.shape
    features = features.expand(N, -1, -1, -1)
    out = features.new_zeros(features.shape)
    for y, x, p, there in cells(offsets, h, w):
        if there:
            out[:, :, y, x] += weights[:, p, y, x, None] * features[:, :, there[0], there[1]]
    return out


def test_the_neighbourhood_of_equations_2_and_3():
    assert sparse_offsets(0) == dense_offsets(0) == ((0, 0),)
    assert sparse_offsets(1)[0] == (0, 0)
    assert set(sparse_offsets(1)) == set(dense_offsets(1))
    for d in (2, 3, 4, 5):
        sparse, dense = sparse_offsets(d), dense_offsets(d)
        assert len(sparse) == len(set(sparse)) == 1 + 8 * d
        assert len(dense) == len(set(dense)) == (2 * d + 1) ** 2
        assert set(sparse) < set(dense)
    picture = ["x..x..x", ".x.x.x.", "..xxx..", "xxxxxxx", "..xxx..", ".x.x.x.", "x..x..x"]  # 002, Figure 1, d = 3
    drawn = {(x - 3, y - 3) for y, row in enumerate(picture) for x, cell in enumerate(row) if cell == "x"}
    assert set(sparse_offsets(3)) == drawn


@cases
@batches
@sizes
def test_affinity_equals_the_equation_with_gradients(offsets, N, K, size):
    """At borders, and on maps smaller than the neighbourhood."""
    query = torch.randn(N, 3, *size, dtype=torch.double, requires_grad=True)
    reference = torch.randn(K, 3, *size, dtype=torch.double, requires_grad=True)
    results = []
    for form in (affinity, affinity_typed_out):
        out = form(query, reference, offsets)
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.double).view_as(out)
        inside = out.isfinite()
        results.append((out, *torch.autograd.grad((out[inside] * weight[inside]).sum(), (query, reference))))
    for ours, wanted in zip(*results, strict=True):
        torch.testing.assert_close(ours, wanted)


@cases
@batches
@sizes
def test_gathering_equals_the_equation_with_gradients(offsets, N, K, size):
    features = torch.randn(K, 4, *size, dtype=torch.double, requires_grad=True)
    weights = torch.randn(N, len(offsets), *size, dtype=torch.double, requires_grad=True)
    results = []
    for form in (gather_sum, gather_typed_out):
        out = form(features, weights, offsets)
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.double).view_as(out)
        results.append((out, *torch.autograd.grad((out * weight).sum(), (features, weights))))
    for ours, wanted in zip(*results, strict=True):
        torch.testing.assert_close(ours, wanted)


def test_gradients_by_differences():
    """Through the softmax, whose masked entries must not turn a gradient into NaN."""
    query, reference, features = (torch.randn(2, 2, 3, 4, dtype=torch.double, requires_grad=True) for _ in range(3))

    def attend(q, k, v):
        return gather_sum(v, affinity(q, k, sparse_offsets(2)).softmax(1), sparse_offsets(2))

    assert torch.autograd.gradcheck(attend, (query, reference, features))


def test_the_peak_lies_at_the_offset():
    reference = torch.nn.functional.normalize(torch.randn(1, 32, 12, 16), dim=1)
    current = reference.roll((-2, 0), dims=(2, 3))  # current (y, x) = reference (y + 2, x)
    offsets = sparse_offsets(3)
    best = affinity(current, reference, offsets)[:, :, :9].argmax(1)
    assert (best == offsets.index((0, 2))).all()


def test_a_weight_of_one_shifts_exactly():
    features, offsets = torch.randn(1, 5, 6, 7), sparse_offsets(2)
    weights = torch.zeros(1, len(offsets), 6, 7)
    weights[:, offsets.index((2, -2))] = 1
    out = gather_sum(features, weights, offsets)
    assert torch.equal(out[:, :, 2:, :-2], features[:, :, :-2, 2:])
    assert not out[:, :, :2].any()
    assert not out[..., -2:].any()


def test_layouts_and_half_precision():
    query, reference = torch.randn(2, 1, 64, 8, 9) * 10
    offsets = dense_offsets(2)
    # In double precision: of single, processors add the products of other layouts up in other orders.
    wanted = affinity(query.double(), reference.double(), offsets)
    last = [x.double().contiguous(memory_format=torch.channels_last) for x in (query, reference)]
    torch.testing.assert_close(affinity(*last, offsets), wanted)
    weights = torch.rand(1, 25, 8, 9)
    torch.testing.assert_close(gather_sum(last[1].float(), weights, offsets), gather_sum(reference, weights, offsets))

    half = [x.bfloat16() for x in (query, reference)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        products = affinity(*half, offsets)
    wanted = affinity(*(x.double() for x in half), offsets)
    assert wanted[wanted.isfinite()].abs().max() > 2048, "bfloat16 would round to steps of 16"
    assert products.dtype == torch.float32
    torch.testing.assert_close(products.double(), wanted, atol=1e-2, rtol=0)
    out = gather_sum(half[1], weights, offsets)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), gather_sum(reference, weights, offsets), atol=1, rtol=0.02)


def test_no_frames():
    offsets = sparse_offsets(1)
    none = affinity(torch.empty(0, 4, 5, 6), torch.empty(1, 4, 5, 6), offsets)
    assert none.shape == (0, 9, 5, 6)
    assert gather_sum(torch.empty(1, 3, 5, 6), none, offsets).shape == (0, 3, 5, 6)


def test_memory_grows_with_the_cells_not_with_their_square():
    """On a long strip: all pairs of its cells would take 4000 times what a map takes."""
    offsets = sparse_offsets(2)
    with torch.device("meta"):
        maps = torch.empty(1, 8, 64, 500)
        with LargestTensor() as largest:
            weights = affinity(maps, maps, offsets).softmax(1)
            gather_sum(maps, weights, offsets)
    assert largest.elements <= 60 * weights.numel()


class LargestTensor(TorchDispatchMode):
    """Sees every tensor that an operator makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize(
    ("features", "weights"),
    [((1, 4, 5, 7), (2, 9, 5, 6)), ((1, 4, 5, 6), (2, 8, 5, 6)), ((2, 4, 5, 6), (3, 9, 5, 6))],
)
def test_weights_that_do_not_match_are_refused(features, weights):
    with pytest.raises(ValueError, match=r"weights must be \[N, 9, 5, .\] for 9 offsets"):
        gather_sum(torch.zeros(features), torch.zeros(weights), sparse_offsets(1))


def test_maps_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"reference must be \[K, 4, 5, 6\]"):
        affinity(torch.zeros(2, 4, 5, 6), torch.zeros(1, 4, 5, 7), sparse_offsets(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_on_a_gpu():
    query, reference, features = torch.randn(3, 8, 9, 11), torch.randn(1, 8, 9, 11), torch.randn(1, 6, 9, 11)
    results = []
    for device in ("cpu", "cuda"):
        q, k, v = (x.to(device).requires_grad_() for x in (query, reference, features))
        out = gather_sum(v, affinity(q, k, sparse_offsets(3)).softmax(1), sparse_offsets(3))
        results.append([x.cpu() for x in (out, *torch.autograd.grad(out.square().sum(), (q, k, v)))])
    for ours, wanted in zip(*results, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
