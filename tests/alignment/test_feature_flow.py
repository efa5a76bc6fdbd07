import pytest
import torch
import torch.nn.functional as F
from torch import nn

from keywarp.alignment.feature_flow import AdvancedFeatureFlow, BasicFeatureFlow
from keywarp.listing import gmac
from keywarp.ops.correlation import correlation
from keywarp.structures import Frame, Memory

SMALL = {
    "basic": lambda: BasicFeatureFlow(channels=12, hidden=8),
    "advanced": lambda: AdvancedFeatureFlow(channels=12, hidden=8, relation=6, displacement=4, stride=2),
}
kinds = pytest.mark.parametrize("kind", SMALL)


def built(kind):
    """With biases and a flow that is not small, so that every part shows."""
    aligner = SMALL[kind]()
    for p in aligner.parameters():
        nn.init.normal_(p, std=0.3)
    return aligner


def features(count, size=(7, 9)):
    return torch.randn(count, 12, *size)


def memory(maps, work=None):
    return Memory(torch.empty(len(maps), 3, 1, 1), (maps,), work=work)


def frame(maps, work=None):
    return Frame(torch.empty(len(maps), 3, 1, 1), features=(maps,), work=work)


def figure_3(aligner, own, theirs):
    theirs = aligner.embed(theirs).expand(len(own), -1, -1, -1)
    return aligner.flow(torch.cat([aligner.embed(own), theirs], dim=1))


def figure_4(aligner, own, theirs):
    def block(eb, x):
        return F.relu(eb.residual[2](F.relu(eb.residual[0](x))) + eb.shortcut(x))

    own, theirs = block(aligner.embed, own), block(aligner.embed, theirs)
    related = F.relu(aligner.relation(correlation(own, theirs, displacement=4, stride=2)))
    return aligner.flow(F.relu(aligner.fuse(related + block(aligner.context, own))))


@pytest.mark.parametrize(("kind", "figure"), [("basic", figure_3), ("advanced", figure_4)])
@pytest.mark.parametrize("references", [1, 3])
def test_the_modules_as_their_figures_read(kind, figure, references):
    aligner, own, theirs = built(kind), features(3), features(references)
    field = aligner(memory(theirs), frame(own))
    assert field.scale is None
    assert field.quality is None
    assert field.flow.shape == (3, 2, 7, 9)
    torch.testing.assert_close(field.flow, figure(aligner, own, theirs), atol=1e-4, rtol=1e-4)


@kinds
def test_work_done_before_is_reused_and_changes_nothing(kind):
    aligner, own, theirs = built(kind), features(2), features(1)
    wanted = aligner(memory(theirs), frame(own)).flow
    kept, fresh = aligner.remember(frame(theirs)), aligner.remember(frame(own))
    nothing = torch.full_like(own, float("nan"))  # was it looked at again, the flow would show it
    for reference in (memory(theirs), memory(nothing[:1], kept)):
        for current in (frame(own), frame(nothing, fresh)):
            assert torch.equal(aligner(reference, current).flow, wanted)


@kinds
def test_every_split_of_the_batch_gives_the_same(kind):
    aligner, own, one, each = built(kind), features(5), features(1), features(5)
    for theirs in (one, each):
        together = aligner(memory(theirs), frame(own)).flow
        for cut in range(1, 5):
            parts = [
                aligner(memory(theirs if len(theirs) == 1 else theirs[part]), frame(own[part])).flow
                for part in (slice(None, cut), slice(cut, None))
            ]
            torch.testing.assert_close(torch.cat(parts), together, atol=1e-5, rtol=1e-5)


@kinds
def test_current_and_reference_are_not_interchangeable(kind):
    aligner, a, b = built(kind), features(1), features(1)
    assert not torch.allclose(aligner(memory(a), frame(b)).flow, aligner(memory(b), frame(a)).flow, atol=1e-2)


@kinds
def test_only_the_first_map_is_read(kind):
    aligner, own, theirs = built(kind), features(1), features(1)
    wanted = aligner(memory(theirs), frame(own)).flow
    more = torch.randn(1, 5, 7, 9)
    reference = Memory(torch.empty(1, 3, 1, 1), (theirs, more))
    assert torch.equal(aligner(reference, Frame(torch.empty(1, 3, 1, 1), features=(own, more))).flow, wanted)


@kinds
def test_every_parameter_and_both_features_get_a_gradient(kind):
    aligner, own, theirs = SMALL[kind](), features(2).requires_grad_(), features(1).requires_grad_()
    aligner(memory(theirs), frame(own)).flow.square().sum().backward()
    for name, p in [*aligner.named_parameters(), ("current", own), ("reference", theirs)]:
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", [BasicFeatureFlow, AdvancedFeatureFlow])
def test_training_starts_near_zero_flow(kind):
    maps = torch.randn(2, 1024, 6, 8).relu()
    flow = kind()(memory(maps[:1]), frame(maps[1:])).flow
    assert 0 < flow.square().mean().sqrt() < 0.2


def test_flow_is_learnt():
    """A few steps on shifts to either side bring the flow to them: direction, unit and gradient are right."""
    aligner = AdvancedFeatureFlow(channels=16, hidden=32, relation=16, displacement=2, stride=1)
    optimiser = torch.optim.Adam(aligner.parameters(), 3e-3)
    errors = []
    for _ in range(150):
        theirs = torch.randn(4, 16, 8, 10)
        own = torch.cat([theirs[:2].roll(-1, dims=3), theirs[2:].roll(2, dims=2)])  # reference at x + 1, at y − 2
        wanted = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, -2.0]] * 2).view(4, 2, 1, 1)
        error = (aligner(memory(theirs), frame(own)).flow - wanted)[..., 2:-2, 2:-2].norm(dim=1).mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert sum(errors[-10:]) / 10 < 0.4


def test_a_pair_costs_little_beside_flownets_12_9():
    """10^9 multiply-accumulates at 38 × 63 cells: of a frame, and of each of its pairs."""
    costs = []
    for kind in (BasicFeatureFlow, AdvancedFeatureFlow):
        with torch.device("meta"):
            aligner, maps = kind(), torch.empty(1, 1024, 38, 63)
            work = aligner.remember(frame(maps))
            costs.append(gmac(lambda a=aligner, m=maps: a.remember(frame(m))))
            costs.append(gmac(lambda a=aligner, m=maps, w=work: a(memory(m, w), frame(m, w))))
    assert costs == pytest.approx([6.95, 0, 8.83, 1.13], abs=0.01)
