import pytest
import torch
from torch import nn

from keywarp.alignment.attention import PSLA, DensePSLA, GlobalAttention, LocalAttention, MatchTrans, Nonlocal
from keywarp.errors import UserError
from keywarp.ops.neighbourhood import dense_offsets, sparse_offsets
from keywarp.structures import Frame, Memory

C = 12
LOCAL = {"PSLA": PSLA, "DensePSLA": DensePSLA, "MatchTrans": MatchTrans}
kinds = pytest.mark.parametrize("kind", [*LOCAL, "Nonlocal"])
embeddings = pytest.mark.parametrize("embedding", [8, None])


def built(kind, embedding=8, displacement=2, cosine=None):
    """With f and g apart and a bias, so that every part shows."""
    if kind == "Nonlocal":
        aligner = Nonlocal(C, embedding=embedding, cosine=cosine)
    else:
        aligner = LOCAL[kind](C, displacement=displacement, embedding=embedding, cosine=cosine)
    for p in aligner.parameters():
        nn.init.normal_(p, std=0.3)
    return aligner


def features(count, size=(7, 9)):
    return torch.randn(count, C, *size)


def memory(maps, work=None):
    return Memory(torch.empty(len(maps), 3, 1, 1), (maps,), work=work)


def frame(maps):
    return Frame(torch.empty(len(maps), 3, 1, 1), features=(maps,))


def carried(aligner, own, theirs, values=None):
    (level,) = aligner(memory(theirs), frame(own)).propagate((theirs if values is None else values,))
    return level


def typed_out(kind, aligner, own, theirs):
    """002, Eq. 1 to 5, cell by cell: affinities to the cells in reach, weights, sum."""
    f, g = aligner.f(theirs).expand(len(own), -1, -1, -1), aligner.g(own)
    if aligner.cosine is not None:
        f, g = f / f.norm(dim=1, keepdim=True), aligner.cosine * g / g.norm(dim=1, keepdim=True)
    values = theirs.expand(len(own), -1, -1, -1)
    h, w = own.shape[2:]
    out = torch.empty_like(values)
    for n in range(len(own)):
        for y in range(h):
            for x in range(w):
                cells = [(b, a) for b in range(h) for a in range(w) if in_reach(kind, a - x, b - y)]
                c = torch.stack([(g[n, :, y, x] * f[n, :, b, a]).sum() for b, a in cells])
                if kind == "MatchTrans":
                    c = c.clamp(min=0)
                    if c.sum() == 0:
                        c = torch.tensor([float(cell == (y, x)) for cell in cells])
                    weights = c / c.sum()
                else:
                    weights = c.exp() / c.exp().sum()
                out[n, :, y, x] = sum(wt * values[n, :, b, a] for wt, (b, a) in zip(weights, cells, strict=True))
    return out


def in_reach(kind, a, b):
    if kind == "Nonlocal":
        return True
    if max(abs(a), abs(b)) > 2:
        return False
    return kind != "PSLA" or a == 0 or b == 0 or abs(a) == abs(b)


@kinds
@embeddings
@pytest.mark.parametrize("cosine", [None, 3.0])
@pytest.mark.parametrize("references", [1, 2])
@pytest.mark.parametrize("size", [(4, 5), (1, 1), (3, 2)])
def test_as_the_paper_reads(kind, embedding, cosine, references, size):
    aligner, own, theirs = built(kind, embedding, cosine=cosine), features(2, size), features(references, size)
    with torch.no_grad():
        ours, wanted = carried(aligner, own, theirs), typed_out(kind, aligner, own, theirs)
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", LOCAL)
@embeddings
def test_weights_sum_to_one_in_the_corners_too(kind, embedding):
    aligner = built(kind, embedding)
    correspondence = aligner(memory(features(1)), frame(features(3)))
    wanted = sparse_offsets(2) if kind == "PSLA" else dense_offsets(2)
    assert correspondence.offsets == wanted
    assert correspondence.weights.shape == (3, len(wanted), 7, 9)
    assert (correspondence.weights >= 0).all()
    torch.testing.assert_close(correspondence.weights.sum(1), torch.ones(3, 7, 9))
    ones = correspondence.propagate((torch.ones(1, 2, 7, 9),))
    torch.testing.assert_close(ones[0], torch.ones(3, 2, 7, 9))  # no weight fell off the map


@pytest.mark.parametrize("kind", ["PSLA", "DensePSLA", "Nonlocal"])
def test_identical_frames_with_distinct_cells_are_the_identity(kind):
    maps = nn.functional.normalize(features(2), dim=1) * 30
    torch.testing.assert_close(carried(built(kind, None), maps, maps), maps, atol=1e-3, rtol=0)


@kinds
def test_motion_is_followed(kind):
    """The content moved by (2, 2) cells, which every neighbourhood holds; what is carried is another map."""
    basis = torch.eye(7 * 9 * 2)[: 7 * 9].T.reshape(1, -1, 7, 9) * 20  # no two cells alike
    moved = basis.roll((2, 2), dims=(2, 3))  # current (y, x) = reference (y − 2, x − 2)
    values = torch.randn(1, 3, 7, 9)
    aligner = Nonlocal(1, embedding=None) if kind == "Nonlocal" else LOCAL[kind](1, displacement=3, embedding=None)
    out = carried(aligner, moved, basis, values)
    torch.testing.assert_close(out[:, :, 2:, 2:], values[:, :, :-2, :-2])


def test_what_resembles_nothing_stays_in_matchtrans():
    theirs = features(1).abs()
    torch.testing.assert_close(
        carried(built("MatchTrans", None), -features(2).abs(), theirs), theirs.expand(2, -1, -1, -1)
    )


@kinds
@embeddings
def test_work_done_before_is_reused_and_changes_nothing(kind, embedding):
    aligner, own, theirs = built(kind, embedding), features(2), features(1)
    kept = aligner.remember(frame(theirs))
    nothing = torch.full_like(theirs, float("nan"))  # was it looked at again, the result would show it
    (wanted,) = aligner(memory(theirs), frame(own)).propagate((theirs,))
    assert torch.equal(aligner(memory(nothing, kept), frame(own)).propagate((theirs,))[0], wanted)


@kinds
def test_only_the_first_map_is_compared(kind):
    aligner, own, theirs, more = built(kind), features(1), features(1), features(1)
    wanted = carried(aligner, own, theirs)
    reference = Memory(torch.empty(1, 3, 1, 1), (theirs, more))
    current = Frame(torch.empty(1, 3, 1, 1), features=(own, more))
    assert torch.equal(aligner(reference, current).propagate((theirs,))[0], wanted)
    assert torch.equal(aligner.remember(Frame(reference.image, features=(theirs, more))), aligner.f(theirs))


@kinds
def test_several_maps_are_carried_alike(kind):
    correspondence = built(kind)(memory(features(1)), frame(features(2)))
    levels = (torch.randn(1, 4, 7, 9), torch.randn(1, 1, 7, 9), torch.randn(1, 6, 7, 9))
    together = correspondence.propagate(levels)
    assert len(together) == 3
    for level, out in zip(levels, together, strict=True):
        torch.testing.assert_close(out, correspondence.propagate((level,))[0])
    assert correspondence.quality is None
    assert correspondence.fallback == ()


@kinds
def test_every_split_and_order_of_the_batch_gives_the_same(kind):
    aligner, own, one, each = built(kind), features(4), features(1), features(4)
    order = torch.tensor([2, 0, 3, 1])
    for theirs in (one, each):
        together = carried(aligner, own, theirs)
        singly = [carried(aligner, own[i : i + 1], theirs if theirs is one else theirs[i : i + 1]) for i in range(4)]
        torch.testing.assert_close(torch.cat(singly), together)
        permuted = carried(aligner, own[order], theirs if theirs is one else theirs[order])
        torch.testing.assert_close(permuted, together[order])


@kinds
@pytest.mark.parametrize("references", [1, 3])
def test_the_first_of_several_frames(kind, references):
    aligner, own, theirs = built(kind), features(3), features(references)
    correspondence = aligner(memory(theirs), frame(own))
    assert isinstance(correspondence, GlobalAttention if kind == "Nonlocal" else LocalAttention)
    (wanted,) = correspondence.propagate((theirs,))
    first = theirs if references == 1 else theirs[:2]
    torch.testing.assert_close(correspondence.first(2).propagate((first,))[0], wanted[:2])


@kinds
def test_every_parameter_and_both_features_get_a_gradient(kind):
    torch.manual_seed(1)
    aligner = Nonlocal(C) if kind == "Nonlocal" else LOCAL[kind](C)
    own, theirs = (features(2) / 10).requires_grad_(), (features(1) / 10).requires_grad_()
    carried(aligner, own, theirs, features(1)).square().sum().backward()
    for name, p in [*aligner.named_parameters(), ("current", own), ("reference", theirs)]:
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().sum() > 0, name


@kinds
def test_training_starts_with_like_attracting_like(kind):
    """The embedded products are the raw ones but for a factor and what the projection loses."""
    aligner = (Nonlocal if kind == "Nonlocal" else LOCAL[kind])(64, embedding=256)
    maps = torch.randn(2, 64, 5, 6)
    products, raw = (a.flatten(2).mT @ b.flatten(2) for a, b in ((aligner.g(maps), aligner.f(maps)), (maps, maps)))
    assert torch.corrcoef(torch.stack([products.flatten(), raw.flatten()]))[0, 1] > 0.95
    assert aligner.g.weight is not aligner.f.weight


@pytest.mark.parametrize("kind", ["PSLA", "DensePSLA", "Nonlocal"])
def test_unit_vectors_find_a_cell_again_beside_larger_ones(kind):
    """Raw inner products of features that grow from cell to cell all go to the largest in reach."""
    maps = nn.functional.normalize(torch.randn(1, 64, 5, 6), dim=1) * torch.arange(1.0, 31).view(1, 1, 5, 6)
    build = Nonlocal if kind == "Nonlocal" else LOCAL[kind]
    apart = [(carried(build(64, embedding=None, cosine=c), maps, maps) - maps).norm(dim=1) for c in (50.0, None)]
    assert (apart[0] < 0.1 * maps.norm(dim=1)).all()
    assert (apart[1] > 0.5 * maps.norm(dim=1)).any()


@kinds
@pytest.mark.parametrize("cosine", [0, -1.0])
def test_a_cosine_that_is_not_positive_is_refused(kind, cosine):
    with pytest.raises(UserError, match="cosine must be more than 0, or None"):
        built(kind, cosine=cosine)


@pytest.mark.parametrize("kind", LOCAL)
def test_a_negative_displacement_is_refused(kind):
    with pytest.raises(UserError, match="0 or more cells, got -1"):
        LOCAL[kind](C, displacement=-1)


def test_published_sizes():
    """Table 3's model sizes leave no room for embeddings; section 3.5 has two of 256 channels."""
    assert sum(p.numel() for p in PSLA(1024, embedding=None).parameters()) == 0
    assert sum(p.numel() for p in PSLA(1024).parameters()) == 2 * 1024 * 256 + 256


@kinds
def test_half_precision_keeps_its_head(kind):
    """Raw inner products of hundreds of channels: in bfloat16 alone a step between two of them is 4 or more."""
    own, theirs = (nn.functional.normalize(torch.randn(1, 256, 5, 6), dim=1).bfloat16() * 25 for _ in range(2))
    own = (own + theirs) / 2
    aligner = (Nonlocal if kind == "Nonlocal" else LOCAL[kind])(256, embedding=None)
    wanted = carried(aligner, own.double(), theirs.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = carried(aligner, own, theirs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), wanted, atol=0.05, rtol=0.02)


def test_a_shift_is_learnt():
    """A few steps teach f and g which cells belong together where raw features do not tell."""
    aligner = PSLA(16, displacement=2, embedding=16)
    mixing = torch.linalg.qr(torch.randn(16, 16)).Q
    optimiser = torch.optim.Adam(aligner.parameters(), 1e-2)
    errors = []
    for _ in range(150):
        theirs = torch.randn(4, 16, 7, 8)
        own = torch.einsum("ij,njhw->nihw", mixing, theirs.roll((1, -1), dims=(2, 3)))  # reference at (x + 1, y − 1)
        error = (carried(aligner, own, theirs) - theirs.roll((1, -1), dims=(2, 3)))[..., 2:-2, 2:-2].abs().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert errors[0] > 0.6
    assert sum(errors[-10:]) / 10 < 0.2
