import pytest
import torch
import torch.nn.functional as F
from torch import nn

from keywarp.alignment.flownet import FLOW_NETWORKS, simple_encoder
from keywarp.structures import Frame, Memory


def images(count, size=(96, 128)):
    return (torch.rand(count, 3, *size) * 255).to(torch.uint8)


@pytest.mark.parametrize("name", FLOW_NETWORKS)
def test_flow_and_scale_lie_on_the_feature_grid(name):
    network = FLOW_NETWORKS[name](scale_channels=12)
    with torch.inference_mode():
        field = network(Memory(images(1), ()), Frame(images(2)))
    assert field.flow.shape == (2, 2, 6, 8)
    assert field.scale.shape == (2, 12, 6, 8)
    assert (field.scale == 1).all(), "the scale field starts as one"
    assert FLOW_NETWORKS[name](scale_channels=None)(Memory(images(1), ()), Frame(images(1))).scale is None


def test_any_image_size():
    network = FLOW_NETWORKS["flownet-tiny"](scale_channels=None).eval()
    with torch.inference_mode():
        for height, width in [
            (16, 16),
            (17, 33),
            (141, 250),
            (100, 31),
            (65, 190),
            (1, 1),
            *((n, 200 - n) for n in range(20, 60)),
        ]:
            image = images(1, (height, width))
            flow = network(Memory(image, ()), Frame(image)).flow
            assert flow.shape[-2:] == (-(-height // 16), -(-width // 16)), (height, width)


def test_the_keys_half_is_computed_once_and_shared():
    network = FLOW_NETWORKS["flownet-tiny"](scale_channels=4).eval()
    key, current = images(1), images(3)
    with torch.inference_mode():
        remembered = network.remember(Frame(key))
        together = network(Memory(key, (), remembered), Frame(current))
        for n in range(3):
            alone = network(Memory(key, ()), Frame(current[n : n + 1]))
            torch.testing.assert_close(together.flow[n], alone.flow[0], atol=1e-5, rtol=0)


def test_the_first_convolution_is_over_both_images_current_first():
    network = FLOW_NETWORKS["flownet-tiny"](scale_channels=None).eval()
    key, current = images(1), images(1)
    half = [F.avg_pool2d(i.float() - network.mean, 2, ceil_mode=True) / 255 for i in (current, key)]
    plain = network.encoder.first(torch.cat(half, dim=1))
    split = F.conv2d(network._half(current), network.encoder.first.weight[:, :3], network.encoder.first.bias, 2, 3)
    torch.testing.assert_close(split + network.remember(Frame(key)), plain, atol=1e-5, rtol=0)


def test_published_layers():
    convolutions = [m for m in simple_encoder().modules() if isinstance(m, nn.Conv2d)]
    assert [(m.kernel_size[0], m.stride[0], m.out_channels) for m in convolutions] == [
        (7, 2, 64),
        (5, 2, 128),
        (5, 2, 256),
        (3, 1, 256),
        (3, 2, 512),
        (3, 1, 512),
        (3, 2, 512),
        (3, 1, 512),
        (3, 2, 1024),
        (3, 1, 1024),
    ]
    half = [m.out_channels for m in simple_encoder(0.5).modules() if isinstance(m, nn.Conv2d)]
    assert half == [32, 64, 128, 128, 256, 256, 256, 256, 512, 512]
    inception = FLOW_NETWORKS["flownet-inception"]().encoder(torch.zeros(1, 32, 64, 64))
    assert [(m.shape[1], m.shape[2]) for m in inception] == [(64, 32), (128, 16), (256, 8), (384, 4), (512, 2)]


@pytest.mark.parametrize("name", ["flownet-tiny", "flownet-inception"])
def test_every_parameter_gets_a_gradient_but_the_scale_bias(name):
    network = FLOW_NETWORKS[name](scale_channels=4)
    field = network(Memory(images(2), ()), Frame(images(2)))
    (field.flow.square().sum() + (field.scale * torch.randn_like(field.scale)).sum()).backward()
    for parameter_name, p in network.named_parameters():
        if parameter_name == "scale.bias":
            assert not p.requires_grad
        else:
            assert p.grad is not None, parameter_name
            assert p.grad.abs().sum() > 0, parameter_name


def test_every_level_predicts_in_cells_of_its_own_grid():
    network = FLOW_NETWORKS["flownet-tiny"](scale_channels=None)
    flows = network.pyramid(Memory(images(1, (256, 256)), ()), Frame(images(1, (256, 256))))
    assert [f.shape[-1] for f in flows] == [2, 4, 8, 16, 16]


def test_flow_is_learnt():
    """A few steps on one shift bring the flow to it: direction, unit and gradient are right."""
    torch.manual_seed(0)
    network = FLOW_NETWORKS["flownet-tiny"](scale_channels=None)
    texture = F.interpolate(torch.rand(1, 3, 16, 24) * 255, size=(128, 192), mode="bicubic").clamp(0, 255)
    key, current = texture[..., :96, :128], texture[..., :96, 16:144]  # content moves 16 pixels to the left
    want = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)  # so it lies one cell to the right in the key
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(60):
        optimiser.zero_grad()
        error = (network(Memory(key, ()), Frame(current)).flow - want).norm(dim=1).mean()
        error.backward()
        optimiser.step()
    assert error < 0.3
