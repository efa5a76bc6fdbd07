import pytest
import torch
import torchvision
from torch import nn

from keywarp.errors import UserError
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
    ours = ResNet(depth, imagenet_weights=tmp_path / "imagenet.pth").eval()
    x = (torch.rand(1, 3, 64, 64) * 255 - ours.mean) / ours.std
    with torch.inference_mode():
        theirs_conv4 = theirs.layer3(
            theirs.layer2(theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))))
        )
        ours_conv4 = ours.layer3(ours.layer2(ours.layer1(ours.maxpool(torch.relu(ours.bn1(ours.conv1(x)))))))
    torch.testing.assert_close(ours_conv4, theirs_conv4)
    assert torch.equal(ours.layer4[0].conv1.weight, theirs.layer4[0].conv1.weight)


def test_conv5_is_dilated_instead_of_strided():
    for depth in (18, 50):
        stage = ResNet(depth).layer4
        for module in stage.modules():
            if isinstance(module, nn.Conv2d):
                assert module.stride == (1, 1)
                assert module.dilation == ((2, 2) if module.kernel_size == (3, 3) else (1, 1))


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


@pytest.mark.parametrize("deformable", [0, 3])
def test_folded_network_gives_the_same(deformable):
    network = randomise_norms(tiny(50, deformable=deformable))
    with torch.inference_mode():
        (before,) = network(IMAGE)
        (after,) = for_inference(network)(IMAGE)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    torch.testing.assert_close(after, before, atol=1e-4 * before.abs().max().item(), rtol=0)


def test_frozen_parts_stay_frozen_in_training():
    network = ResNet(18, width=8, channels=16)
    freeze(network)
    network.train()
    before = {n: b.clone() for n, b in network.named_buffers()}
    network(torch.rand(2, 3, 64, 64) * 255)[0].sum().backward()
    assert all(torch.equal(b, before[n]) for n, b in network.named_buffers())
    for name, p in network.named_parameters():
        frozen = name.startswith(("conv1", "bn1", "layer1"))
        assert (p.grad is None) == frozen, name


def test_every_parameter_gets_a_gradient():
    network = ResNet(50, width=8, channels=16, deformable=6).train()
    network(torch.rand(2, 3, 64, 96) * 255)[0].square().sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name
