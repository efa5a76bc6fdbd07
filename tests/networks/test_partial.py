import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from keywarp.networks import partial
from keywarp.networks.partial import Region, layers_of, run_layers, update_densely, update_sparsely
from keywarp.networks.resnet import ResNet, for_inference
from keywarp.ops import warp

H, W = 150, 213  # no multiple of 16: 10 × 14 cells
SIZE = (10, 14)


def network(depth=18, task_layers=0, **options):
    built = ResNet(depth, **{"width": 16, "channels": 24} | options).eval()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, nn.Conv2d) and module is built.reduction[0]:
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.2)
    return built.split(task_layers)[0] if task_layers else built


def image(frames):
    return (torch.rand(frames, 3, H, W) * 255).to(torch.uint8)


MASKS = {
    "one cell": lambda frames: (
        torch.zeros(frames, 1, *SIZE).index_fill(3, torch.tensor(5), 1) * (torch.arange(10) == 4)[:, None]
    ),
    "corners": lambda frames: ((torch.arange(140) % 139).view(SIZE) == 0).float().expand(frames, 1, *SIZE).clone(),
    "a few": lambda frames: (torch.rand(frames, 1, *SIZE) < 0.05).float(),
    "half": lambda frames: (torch.rand(frames, 1, *SIZE) < 0.5).float(),
    "border": lambda frames: nn.functional.pad(torch.zeros(frames, 1, 8, 12), (1, 1, 1, 1), value=1.0),
    "all": lambda frames: torch.ones(frames, 1, *SIZE),
}


@torch.inference_mode()
def updates(built, cache, mask, flow=None, keys=1):
    """Features by both implementations, those of the frames alone, and those carried."""
    frames = len(mask)
    flow = torch.randn(frames, 2, *SIZE) * 2 if flow is None else flow
    features, maps = run_layers(built, image(keys), cache)
    carried, now = warp(features, flow), image(frames)
    arguments = built, layers_of(built, cache), now, maps, carried, Region(mask > 0, flow)
    return update_sparsely(*arguments), update_densely(*arguments), built(now)[0], carried


def assert_close(a, b):
    torch.testing.assert_close(a, b, atol=1e-4 * b.abs().max().item(), rtol=0)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("cache", ["blocks", "stages"])
def test_sparse_is_dense(cache, mask, frames):
    sparse, dense, own, carried = updates(network(), cache, MASKS[mask](frames))
    assert_close(sparse, dense)
    assert mask == "all" or not torch.allclose(dense, own, atol=1e-3 * own.max().item())
    assert not torch.allclose(dense, carried, atol=1e-3 * own.max().item())


@pytest.mark.parametrize("cache", ["blocks", "stages"])
@pytest.mark.parametrize(
    "options",
    [
        {"depth": 10},
        {"depth": 34},
        {"depth": 50},
        {"depth": 50, "stride_in_1x1": True},
        {"depth": 50, "deformable": 3},
        {"depth": 18, "deformable": 3},
        {"depth": 18, "task_layers": 12},
        {"depth": 50, "task_layers": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("folded", [False, True], ids=["norms", "folded"])
def test_every_network(options, cache, folded):
    built = network(**options)
    for module in built.modules():
        if isinstance(getattr(module, "offset", None), nn.Conv2d):
            nn.init.normal_(module.offset.weight, std=0.02)
    sparse, dense, _, _ = updates(for_inference(built) if folded else built, cache, MASKS["a few"](2))
    assert_close(sparse, dense)


@pytest.mark.parametrize("cache", ["blocks", "stages"])
def test_all_active_is_the_network_itself(cache):
    sparse, dense, own, _ = updates(network(), cache, MASKS["all"](2))
    assert_close(sparse, own)
    assert_close(dense, own)


def test_inactive_cells_are_the_carried_ones():
    mask = MASKS["half"](2)
    sparse, _, _, carried = updates(network(), "blocks", mask)
    outside = (mask == 0).expand_as(carried)
    assert torch.equal(sparse[outside], carried[outside])


def test_a_still_video_without_motion_gives_the_key_features_everywhere():
    built, still = network(), image(1)
    features, maps = run_layers(built, still, "blocks")
    region = Region(MASKS["half"](1) > 0, torch.zeros(1, 2, *SIZE))
    with torch.inference_mode():
        updated = update_sparsely(built, layers_of(built, "blocks"), still, maps, features, region)
    assert_close(updated, features)


def test_each_frame_may_have_its_own_key():
    sparse, dense, _, _ = updates(network(), "blocks", MASKS["a few"](3), keys=3)
    assert_close(sparse, dense)


def test_a_flow_that_is_unknown_or_leads_outside_fetches_zero():
    flow = torch.randn(1, 2, *SIZE)
    flow[:, :, :3], flow[:, :, 7] = 1000, float("nan")
    mask = torch.zeros(1, 1, *SIZE)
    mask[:, :, 2:8, 3:6] = 1
    sparse, dense, _, _ = updates(network(), "blocks", mask, flow)
    assert_close(sparse, dense)


def test_frames_do_not_see_each_other():
    built, flow, now = network(), torch.randn(3, 2, *SIZE), image(3)
    mask = MASKS["a few"](3) > 0
    features, maps = run_layers(built, image(1), "blocks")
    carried, layers = warp(features, flow), layers_of(built, "blocks")
    with torch.inference_mode():
        together = update_sparsely(built, layers, now, maps, carried, Region(mask, flow))
        for i in range(3):
            one = slice(i, i + 1)
            alone = update_sparsely(built, layers, now[one], maps, carried[one], Region(mask[one], flow[one]))
            assert_close(together[one], alone)


def test_the_network_runs_the_same_when_its_maps_are_kept():
    built, frame = for_inference(network(50)), image(1)
    for cache, count in (("blocks", 17), ("stages", 5)):
        features, maps = run_layers(built, frame, cache)
        assert torch.equal(features, built(frame)[0])
        assert len(maps) == count == len(layers_of(built, cache))
        assert all(x.is_contiguous(memory_format=torch.channels_last) for x in (features, *maps))


def test_cells_that_no_layer_reads_are_not_touched():
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., 4, 5] = 1  # columns 18 to 25 of the stem's map, with two rings
    built, flow = network(), torch.zeros(1, 2, *SIZE)
    features, maps = run_layers(built, image(1), "blocks")
    maps[0][..., 28:] = float("nan")
    with torch.inference_mode():
        arguments = built, layers_of(built, "blocks"), image(1), maps, features, Region(mask > 0, flow)
        assert update_sparsely(*arguments).isfinite().all()
        maps[0][..., 24:] = float("nan")
        assert not update_sparsely(*arguments).isfinite().all()


def test_gathering_in_parts_changes_nothing(monkeypatch):
    built, mask, flow = network(), MASKS["a few"](2), torch.randn(2, 2, *SIZE)
    features, maps = run_layers(built, image(1), "blocks")
    carried = warp(features, flow)
    arguments = built, layers_of(built, "blocks"), image(2), maps, carried, Region(mask > 0, flow)
    whole = update_sparsely(*arguments)
    monkeypatch.setattr(partial, "GATHERED", 5000)
    monkeypatch.setattr(partial, "ROWS", 1)
    assert_close(update_sparsely(*arguments), whole)


def test_layers_computed_everywhere_change_nothing(monkeypatch):
    built, mask = network(50), MASKS["a few"](2)
    monkeypatch.setattr(partial, "BREAK_EVEN", 0)
    for cache in ("blocks", "stages"):
        sparse, dense, _, _ = updates(built, cache, mask)
        assert_close(sparse, dense)


@pytest.mark.parametrize(("side", "most"), [(2, 0.02), (8, 0.14), (12, 0.28), (27, 1.0)])
def test_work_follows_the_area(side, most):
    """Multiply-accumulates of a square of side² of 27 × 27 cells, as a share of the network's."""
    built, now = for_inference(network(50)), torch.zeros(1, 3, 432, 432)
    features, maps = run_layers(built, now, "blocks")
    mask = torch.zeros(1, 1, 27, 27, dtype=torch.bool)
    mask[..., :side, :side] = True
    with torch.inference_mode(), FlopCounterMode(display=False) as dense:
        built(now)
    with torch.inference_mode(), FlopCounterMode(display=False) as sparse:
        region = Region(mask, torch.zeros(1, 2, 27, 27))
        update_sparsely(built, layers_of(built, "blocks"), now, maps, features, region)
    assert 0 < sparse.get_total_flops() <= most * dense.get_total_flops()


def test_half_precision():
    with torch.autocast("cpu", torch.bfloat16):
        sparse, dense, _, _ = updates(for_inference(network()), "blocks", MASKS["a few"](2))
    assert sparse.dtype == dense.dtype
    assert (sparse - dense).abs().max() < 0.05 * dense.abs().max()
