"""A watched model gives what it gives unwatched, and what was seen is what it did."""

import math

import numpy as np
import pytest
import torch

from keywarp.alignment.attention import GlobalAttention, LocalAttention
from keywarp.alignment.correspondence import FlowField
from keywarp.errors import UserError
from keywarp.insight.observing import Observer, displacement
from keywarp.insight.options import KINDS
from keywarp.ops.neighbourhood import dense_offsets
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import FixedInterval, SegmentCentre
from keywarp.structures import Frame, Step
from test_papers import build, clip, parts, tiny_flow
from tiny import tiny_model

FAMILIES = ["rfcn", "dff", "fgfa", "thp-c1", "thp-c2", "thp-c3", "impression-d"]
FAMILIES += ["psla-b", "psla-c", "psla-nonlocal-f", "psla-matchtrans-f", "iff-b", "iff-c"]
LENGTH = 12


def tiny(name):
    options = {"radius": 2} if name in ("fgfa", "iff-b", "iff-c") else {}
    if name == "thp-c3":
        options = {"gamma": 0.8}
    return build(name, **(tiny_flow(name, {}) | options))


def watched(model, frames, batch=1, **options):
    """The results and the observations, frame by frame; as many go together as `batch` says."""
    with Observer(model, KINDS, **options) as observer:
        predictor = VideoPredictor(observer.model, batch=batch)
        chunks = [frames[at : at + batch] for at in range(0, len(frames), batch)]
        pairs = [(result, observer.next()) for chunk in chunks for result in predictor.push(chunk)]
        pairs += [(result, observer.next()) for result in predictor.flush()]
        assert not observer.known()
    return pairs


@pytest.mark.parametrize("name", FAMILIES)
def test_watching_changes_nothing_and_what_is_seen_fits_together(name):
    model, frames = tiny(name), clip(LENGTH)
    pairs = watched(model, frames)
    assert "run" not in vars(model)
    assert not any(module._forward_hooks for module in model.modules())
    assert [seen.frame for _, seen in pairs] == list(range(LENGTH))
    for (result, seen), wanted in zip(pairs, VideoPredictor(model, batch=1).run(frames), strict=True):
        assert torch.equal(result.boxes, wanted.boxes)
        assert torch.equal(result.detections.scores, wanted.detections.scores)
        assert seen.whole == result.is_key == wanted.is_key
        _fits_together(seen)
    joins = model.aggregator is not None
    assert any(seen.weights for _, seen in pairs) == joins
    assert any(seen.flow is not None for _, seen in pairs) == (model.aligner is not None)
    assert any(seen.mask is not None for _, seen in pairs) == (name in ("thp-c2", "thp-c3"))


def _fits_together(seen):
    h, w = 4, 6
    assert seen.result.shape == (h, w, 3)
    assert 0 <= seen.computed <= 1
    for maps in (seen.key, seen.carried):
        assert (maps is None) == (seen.reference is None) == (seen.flow is None)
        assert maps is None or maps.shape == (h, w, 3)
    if seen.weights:
        assert np.allclose(sum(seen.weights.values()), 1, atol=1e-5)
        assert all(values.shape == (h, w) for values in seen.weights.values())
        assert seen.weights.keys() <= {*seen.references, seen.frame}
    if seen.references:
        assert seen.reference in seen.references
    if seen.mask is not None:
        assert math.isclose(seen.computed, seen.mask.mean(), rel_tol=1e-6)


def test_the_flow_is_the_aligners_as_a_share_of_the_input():
    model, frames = tiny("dff"), clip(5)
    p = parts(model, frames)
    *_, (_, seen) = watched(model, frames)
    flow = p.flow(0, 4).flow[0].permute(1, 2, 0).detach().numpy()
    assert seen.reference == 0
    assert np.allclose(seen.flow * [6, 4], flow, atol=1e-5)


def test_a_window_shows_its_farthest_frame_and_all_weights():
    pairs = watched(tiny("fgfa"), clip(LENGTH))
    seen = pairs[6][1]
    assert seen.references == (4, 5, 7, 8)
    assert seen.reference == 4
    assert list(seen.weights) == [4, 5, 6, 7, 8]
    assert pairs[0][1].reference == 2


def test_the_mask_is_that_of_the_step():
    model, frames = tiny("thp-c2"), clip(LENGTH)
    pairs = watched(model, frames)
    images = [torch.from_numpy(f).permute(2, 0, 1)[None] for f in frames]
    with torch.inference_mode():
        memory = model.run(Step((0,), True), Frame(images[0]), {}).memory
        for i in (3, 7):
            output = model.run(Step((i,), False, (0,)), Frame(images[i]), {0: memory})
            assert np.array_equal(pairs[i][1].mask, output.update_mask[0, 0].numpy())
            assert np.allclose(pairs[i][1].quality, output.quality[0, 0].numpy(), atol=1e-6)


def test_frames_before_the_key_frame_read_it():
    pairs = watched(tiny_model(SegmentCentre(4, 2)), clip(8))
    assert [seen.references for _, seen in pairs] == [(2,), (2,), (), (2,), (6,), (6,), (), (6,)]


@pytest.mark.parametrize("name", ["dff", "fgfa", "thp-c2", "thp-c3", "impression-d", "psla-c"])
def test_frames_together_are_seen_as_one_by_one(name):
    model, frames = tiny(name), clip(LENGTH)
    for (_, one), (_, other) in zip(watched(model, frames), watched(model, frames, batch=5), strict=True):
        assert (one.frame, one.references, one.reference) == (other.frame, other.references, other.reference)
        assert one.computed == pytest.approx(other.computed)
        for name in ("result", "key", "carried", "flow", "quality", "mask"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None) == (b is None)
            assert a is None or np.allclose(a.astype(float), b, atol=1 if a.dtype == np.uint8 else 1e-4)
        assert one.weights.keys() == other.weights.keys()
        assert all(np.allclose(one.weights[j], other.weights[j], atol=1e-4) for j in one.weights)


def test_levels_count_from_the_finest():
    frames = [frame[:32, :48] for frame in clip(3)]
    sizes = {level: watched(tiny_model(FixedInterval(2)), frames, level=level)[1][1].result.shape for level in (0, 1)}
    assert sizes == {0: (8, 12, 3), 1: (4, 6, 3)}
    with pytest.raises(UserError, match="--level must be below 2"):
        watched(tiny_model(FixedInterval(2)), frames, level=2)


def test_alike_features_have_alike_colours_in_every_frame():
    frames = [clip(1)[0]] * 4
    pairs = watched(tiny("rfcn"), frames)
    assert all(np.array_equal(seen.result, pairs[0][1].result) for _, seen in pairs)
    assert np.ptp(pairs[0][1].result) > 100


def test_another_size_midway_starts_anew():
    frames = clip(5) + [frame[:48, :80] for frame in clip(6)]
    pairs = watched(tiny("impression-d"), frames)
    assert [result.index for result, _ in pairs] == list(range(11))
    assert [seen.frame for _, seen in pairs] == [*range(5), *range(6)]


def test_a_window_of_one_frame_is_followed():
    model = build("fgfa", **(tiny_flow("fgfa", {}) | {"radius": 0}))
    assert [seen.frame for _, seen in watched(model, clip(4))] == [0, 1, 2, 3]


def test_a_short_clip_before_another_size_is_followed():
    frames = clip(2) + [frame[:48, :80] for frame in clip(3)] + clip(7)
    assert [seen.frame for _, seen in watched(tiny("psla-b"), frames)] == [0, 1, 0, 1, 2, *range(7)]


def test_displacement_of_a_flow_is_the_flow():
    flow = torch.randn(2, 2, 5, 7)
    assert torch.equal(displacement(FlowField(flow), torch.zeros(2, 9, 5, 7)), flow)


def test_displacement_of_local_attention_is_the_weighted_sum_of_offsets():
    offsets = dense_offsets(1)
    scores = torch.randn(2, 9, 4, 5)
    for p, (dx, dy) in enumerate(offsets):
        for y in range(4):
            for x in range(5):
                if not (0 <= x + dx < 5 and 0 <= y + dy < 4):
                    scores[:, p, y, x] = -torch.inf
    weights = scores.softmax(dim=1)
    wanted = torch.einsum("npyx,pc->ncyx", weights, torch.tensor(offsets).float())
    assert torch.allclose(displacement(LocalAttention(weights, offsets), torch.zeros(2, 3, 4, 5)), wanted, atol=1e-5)


def test_displacement_of_global_attention_finds_the_cell_that_matches():
    keys = torch.eye(12).view(1, 12, 3, 4) * 50
    query = torch.roll(keys, 1, dims=3)  # each cell is what its left neighbour was
    found = displacement(GlobalAttention(query, keys), torch.zeros(1, 8, 3, 4))
    assert torch.allclose(found[0, 0, :, 1:], torch.tensor(-1.0), atol=1e-4)
    assert torch.allclose(found[0, 1], torch.tensor(0.0), atol=1e-4)
