from dataclasses import replace

import pytest
import torch
from torch import nn

from keywarp.alignment.correspondence import FlowField
from keywarp.alignment.flownet import FLOW_NETWORKS
from keywarp.errors import UserError
from keywarp.losses import update_area
from keywarp.model import VideoModel
from keywarp.networks.resnet import ResNet
from keywarp.partial_updating import PartialUpdater, UpdateMask
from keywarp.plans import pair
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import AdaptiveInterval, FixedInterval
from keywarp.structures import Frame, Memory, StepOutput
from keywarp.transform import ImageTransform
from tiny import TinyHead

SIZE = (4, 6)  # of 64 × 96 pixels


def network():
    return ResNet(10, width=8, channels=8).eval()


def images(count):
    return (torch.rand(count, 3, 64, 96) * 255).to(torch.uint8)


def update(updater, quality, built=None, scale=None, keys=1):
    """Features, mask, the frames' own features and the carried ones, for a quality `[N, 1, 4, 6]`."""
    built, now = built or network(), images(len(quality))
    features, layers = updater.key_features(built, images(keys))
    field = FlowField(torch.randn(len(quality), 2, *SIZE), scale, quality)
    carried = field.propagate(features)
    updated, mask = updater(carried, Frame(now), Memory(images(1), features, layers=layers), field, built)
    return updated[0], mask, built(now)[0], carried[0]


def test_the_mask_is_where_quality_is_the_threshold_or_less():
    quality = torch.tensor([-2.0, -0.5, 0.0, 0.3, 0.5, 1.0])
    assert UpdateMask.apply(quality, 0.0).tolist() == [1, 1, 1, 0, 0, 0]
    assert UpdateMask.apply(quality, 0.4).tolist() == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_the_gradient_is_minus_one_near_the_threshold(threshold):
    quality = (torch.tensor([-1.01, -1.0, 0.0, 0.9, 1.0, 1.01]) + threshold).requires_grad_()
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    (UpdateMask.apply(quality, threshold) * upstream).sum().backward()
    assert quality.grad.tolist() == pytest.approx([0, -2, -3, -4, -5, 0])


def test_in_training_a_third_is_all_a_third_nothing_a_third_learnt():
    quality = torch.where(torch.rand(300, 1, *SIZE) < 0.5, -0.5, 0.5).requires_grad_()
    updated, mask, own, carried = update(PartialUpdater().train(), quality)
    share = mask.mean(dim=(1, 2, 3))
    learnt = (share > 0) & (share < 1)
    for count in ((share == 0).sum(), (share == 1).sum(), learnt.sum()):
        assert 70 < count < 130
    torch.testing.assert_close(updated, mask * own + (1 - mask) * carried)  # Eq. 6
    assert torch.equal(mask[learnt], (quality <= 0).float()[learnt])
    loss = update_area(2.0)(StepOutput((updated,), update_mask=mask))["update_area"]
    loss.backward()
    assert torch.equal(quality.grad, torch.where(learnt.view(-1, 1, 1, 1), -2.0 / mask.numel(), 0).expand_as(quality))


def test_features_teach_the_quality_too():
    quality = torch.zeros(30, 1, *SIZE).requires_grad_()
    updated, _, own, carried = update(PartialUpdater().train(), quality)
    updated.sum().backward()
    expected = -(own - carried).sum(dim=1, keepdim=True)  # dU/dQ = −1
    learnt = quality.grad.abs().sum(dim=(1, 2, 3)) > 0
    assert 0 < learnt.sum() < 30
    torch.testing.assert_close(quality.grad[learnt], expected[learnt])


@torch.inference_mode()
@pytest.mark.parametrize("cache", ["blocks", "stages"])
def test_in_evaluation_good_frames_keep_what_was_carried_and_poor_ones_are_recomputed(cache):
    quality = torch.ones(4, 1, *SIZE)
    quality[1] = -1
    quality[2, :, 1:3, 2:4] = -1
    quality[3, :, :, :5] = -1  # above the break-even
    updated, mask, own, carried = update(PartialUpdater(cache=cache).eval(), quality)
    assert torch.equal(updated[0], carried[0])
    torch.testing.assert_close(updated[[1, 3]], own[[1, 3]])
    assert mask.mean(dim=(1, 2, 3)).tolist() == pytest.approx([0, 1, 4 / 24, 1])
    active = (quality[2] <= 0).expand_as(carried[2])
    assert torch.equal(updated[2][~active], carried[2][~active])
    assert not torch.isclose(updated[2][active], carried[2][active]).all()


@torch.inference_mode()
@pytest.mark.parametrize("cache", ["blocks", "stages"])
def test_sparse_is_dense(cache):
    quality, built, scale = torch.randn(3, 1, *SIZE), network(), torch.rand(3, 8, *SIZE)
    results = []
    for sparse in (True, False):
        torch.manual_seed(1)
        updater = PartialUpdater(cache=cache, sparse=sparse, break_even=1).eval()
        results.append(update(updater, quality, built, scale)[0])
    torch.testing.assert_close(*results, atol=1e-4 * results[1].abs().max().item(), rtol=0)


@torch.inference_mode()
def test_each_frame_may_have_its_own_key():
    quality, built, results = torch.randn(3, 1, *SIZE), network(), []
    quality[0] = 1
    for sparse in (True, False):
        torch.manual_seed(1)
        updater = PartialUpdater(sparse=sparse, break_even=1).eval()
        results.append(update(updater, quality, built, keys=3)[0])
    torch.testing.assert_close(*results, atol=1e-4 * results[1].abs().max().item(), rtol=0)
    updated, _, own, _ = update(PartialUpdater(break_even=0).eval(), quality, built, keys=3)
    torch.testing.assert_close(updated[1:], own[1:])


def video_model(scheduler):
    aligner = FLOW_NETWORKS["flownet-tiny"](None, quality=True)
    nn.init.normal_(aligner.quality.weight, std=0.5)
    return VideoModel(
        network(),
        TinyPooledHead(),
        scheduler=scheduler,
        transform=ImageTransform(size=(64, 96)),
        aligner=aligner,
        updater=PartialUpdater(),
        training=pair(10),
        losses=[update_area()],
    ).eval()


class TinyPooledHead(TinyHead):
    """TinyHead of one level."""

    def forward(self, features, image_sizes):
        return super().forward((features[0], features[0]), image_sizes)

    def loss(self, features, image_sizes, targets):
        return {"head": features[0].mean()}


@pytest.mark.parametrize("scheduler", [FixedInterval(4), AdaptiveInterval(gamma=0.6, longest=5)])
def test_a_video_is_the_same_live_and_in_batches(scheduler):
    model = video_model(scheduler)
    smooth = torch.nn.functional.interpolate(torch.rand(11, 3, 4, 6), size=(64, 96), mode="bicubic").clamp(0, 1)
    video = [(frame * 255).to(torch.uint8).permute(1, 2, 0).numpy() for frame in smooth]
    live, batched = (list(VideoPredictor(model, batch=batch).run(video)) for batch in (1, 4))
    assert [r.index for r in live] == list(range(11))
    for one, many in zip(live, batched, strict=True):
        torch.testing.assert_close(one.detections.scores, many.detections.scores, atol=1e-5, rtol=1e-4)
        assert torch.equal(one.boxes, many.boxes)


def test_training_reaches_every_parameter():
    model = video_model(FixedInterval(4)).train()
    clip = torch.rand(12, 2, 3, 64, 96) * 255
    losses = model.loss(clip, model.training_plan.steps, [{}] * 12)
    assert set(losses) == {"head", "update_area"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.aligner.quality.parameters())
    assert all(p.grad is not None for p in model.feature_network.parameters())


def test_user_errors_say_what_is_missing():
    with pytest.raises(UserError, match="unknown cache 'block'; did you mean blocks"):
        PartialUpdater(cache="block")
    with pytest.raises(UserError, match="break_even must be 0 to 1"):
        PartialUpdater(break_even=70)
    without = replace(FlowField(torch.zeros(1, 2, *SIZE)), quality=None)
    with pytest.raises(UserError, match="needs a flow with a quality"):
        PartialUpdater()((torch.zeros(1, 8, *SIZE),), Frame(images(1)), Memory(images(1), ()), without, network())
