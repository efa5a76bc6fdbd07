from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from keywarp.errors import UserError
from keywarp.heads.rfcn import RFCNHead
from keywarp.networks.deformable import DeformableConv2d
from keywarp.networks.resnet import ResNet, for_inference, freeze

IMAGE = (torch.rand(1, 3, 90, 130) * 255).to(torch.uint8)


def tiny(depth=10, **options):
    return ResNet(depth, **{"width": 8, "channels": 24} | options).eval()


def randomise_norms(network):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


@pytest.mark.parametrize("depth", [10, 18, 34, 50, 101])
def test_stride_16_at_every_depth(depth):
    (features,) = tiny(depth)(IMAGE)
    assert features.shape == (1, 24, 6, 9)  # ceil(90 / 16), ceil(130 / 16)
    assert (features >= 0).all()


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (141, 250)])
def test_feature_size_is_the_ceiling(size):
    (features,) = tiny()(torch.zeros(1, 3, *size))
    assert features.shape[-2:] == (-(-size[0] // 16), -(-size[1] // 16))


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvisions_weights_load_by_name_and_mean_the_same(depth, tmp_path):
    theirs = randomise_norms(torchvision.models.get_model(f"resnet{depth}", weights=None)).eval()
    torch.save(theirs.state_dict(), tmp_path / "imagenet.pth")
    ours = ResNet(depth, imagenet_weights=tmp_path / "imagenet.pth", channels=16).eval()
    for module in theirs.layer4.modules():  # conv5 is dilated instead of strided
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (2, 2)
    x = torchvision.transforms.functional.normalize(IMAGE / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.inference_mode():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        x = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))
        reduction = ours.reduction[0]
        x = F.conv2d(x, reduction.weight, reduction.bias, padding=6, dilation=6).relu()
        (features,) = ours(IMAGE)
    torch.testing.assert_close(features, x, atol=1e-5 * x.max().item(), rtol=0)


def test_names_are_torchvisions():
    for depth in (18, 34, 50, 101):
        with torch.device("meta"):
            ours = ResNet(depth).state_dict()
            theirs = torchvision.models.get_model(f"resnet{depth}", weights=None).state_dict()
        assert {n for n in ours if not n.startswith("reduction.")} == {n for n in theirs if not n.startswith("fc.")}


@pytest.mark.parametrize(("depth", "million"), [(50, 118.67), (101, 164.01)])
def test_multiply_accumulates_of_the_papers(depth, million):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ResNet(depth, stride_in_1x1=True)(torch.zeros(1, 3, 600, 1000))
    assert counter.get_total_flops() / 2e9 == pytest.approx(million, abs=0.01)


def test_parameters_of_the_papers():
    """R-FCN on ResNet-101 has 59.6 · 2^20 (paper 003, Table 1), running statistics counted."""
    with torch.device("meta"):
        tensors = ResNet(101).state_dict() | RFCNHead(30).state_dict()
    count = sum(t.numel() for n, t in tensors.items() if not n.endswith("num_batches_tracked"))
    assert count / 2**20 == pytest.approx(59.59, abs=0.01)


def test_caffe_layout_strides_in_the_1x1():
    block = ResNet(50, stride_in_1x1=True).layer3[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    assert (ResNet(50).layer3[0].conv1.stride, ResNet(50).layer3[0].conv2.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize(("task_layers", "channels", "blocks"), [(5, 2048, 1), (12, 1024, 3), (21, 1024, 6)])
def test_split_networks_compose_to_the_whole(task_layers, channels, blocks):
    torch.manual_seed(0)
    network = randomise_norms(tiny(50, width=8))
    with torch.inference_mode():
        (whole,) = network(IMAGE)
        trunk, tail = network.split(task_layers)
        (features,) = trunk(IMAGE)
        torch.testing.assert_close(tail(features), whole)
    assert len(tail) == blocks + 1
    assert trunk.channels == features.shape[1] == channels // 8


def test_unknown_settings_are_named():
    for make in (
        lambda: ResNet(19),
        lambda: ResNet(18, deformable=2),
        lambda: tiny(10, deformable=6),  # conv4 and conv5 have four 3×3 layers
        lambda: tiny(50).split(7),
        lambda: tiny(10).split(21),
    ):
        with pytest.raises(UserError, match=r"must be|too shallow"):
            make()


@pytest.mark.parametrize(("depth", "count"), [(50, 3), (50, 6), (18, 6), (101, 6)])
def test_the_last_convolutions_are_deformable(depth, count):
    network = ResNet(depth, width=8, channels=16, deformable=count)
    names = [name for name, m in network.named_modules() if isinstance(m, DeformableConv2d)]
    assert len(names) == count
    if count == 3:
        assert names == [f"layer4.{block}.conv2" for block in range(3)]
    assert all(name.startswith(("layer3", "layer4")) for name in names)


def test_weights_that_cannot_be_had(monkeypatch):
    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=r"https://\S+/resnet18-\w+\.pth .*give the file"):
        ResNet(18, imagenet_weights="DEFAULT")
    with pytest.raises(UserError, match="unknown weights 'IMAGENET'; did you mean IMAGENET1K_V1"):
        ResNet(18, imagenet_weights="IMAGENET")
    with pytest.raises(UserError, match="no weights for resnet10; give a file"):
        ResNet(10, imagenet_weights="DEFAULT")


@pytest.mark.parametrize("options", [{}, {"deformable": 3}, {"stride_in_1x1": True}])
def test_folded_network_gives_the_same(options):
    network = randomise_norms(tiny(50, **options))
    for module in network.modules():
        if isinstance(module, DeformableConv2d):
            nn.init.normal_(module.offset.bias)
    with torch.inference_mode():
        (before,) = network(IMAGE)
        (after,) = for_inference(network)(IMAGE)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert after.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(after, before, atol=1e-4 * before.abs().max().item(), rtol=0)


def test_frozen_parts_stay_frozen_in_training():
    """Also the part that a split moved into the task network."""
    model = nn.Sequential(*ResNet(18, width=8, channels=16).split(5))
    freeze(model)
    model.train()
    before = {n: b.clone() for n, b in model.named_buffers()}
    model[1](model[0](torch.rand(2, 3, 64, 64) * 255)[0]).sum().backward()
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())
    for name, p in model.named_parameters():
        frozen = name.startswith(("0.conv1", "0.bn1", "0.layer1"))
        assert (p.grad is None) == frozen, name


def test_statistics_move_unless_frozen():
    network = tiny().train()
    network(IMAGE)
    assert network.bn1.num_batches_tracked == 1
    assert network.layer4[0].bn2.num_batches_tracked == 1


def test_every_parameter_gets_a_gradient():
    network = ResNet(50, width=8, channels=16, deformable=6).train()
    network(torch.rand(2, 3, 64, 96) * 255)[0].square().sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name
