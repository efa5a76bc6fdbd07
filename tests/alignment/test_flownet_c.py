import pytest
import torch
import torch.nn.functional as F
from torch import nn

from keywarp.alignment.flownet import FLOW_NETWORKS
from keywarp.structures import Frame, Memory


@pytest.fixture(scope="module")
def network():
    """With random biases, so that every part shows."""
    torch.manual_seed(0)
    built = FLOW_NETWORKS["flownet-c"](scale_channels=5, quality=True).eval()
    for name, p in built.named_parameters():
        if name.endswith("bias") and name != "scale.bias":
            nn.init.normal_(p, std=0.1)
    return built


def images(count, size=(96, 128)):
    return (torch.rand(count, 3, *size) * 255).to(torch.uint8)


def typed_out(encoder, current, key):
    """FlowNet-C's encoder as its figure reads, the correlation one displacement at a time."""

    def towers(x):
        second = encoder.fine(x)
        return second, encoder.tower(second)

    (second, own), (_, theirs) = towers(current), towers(key)
    h, w = own.shape[-2:]
    around = F.pad(theirs, (20, 20, 20, 20))
    steps = range(0, 41, 2)
    related = [(own * around[..., dy : dy + h, dx : dx + w]).mean(1) for dy in steps for dx in steps]
    x = torch.cat([encoder.redirect(own), F.leaky_relu(torch.stack(related, 1), 0.1)], dim=1)
    assert x.shape[1] == 473
    maps = [second, encoder.join(x)]
    for level in encoder.levels:
        maps.append(level(maps[-1]))
    return maps


@pytest.mark.parametrize("keys", [1, 2])
def test_the_encoder_as_its_figure_reads(network, keys):
    current, key = torch.randn(2, 3, 128, 72), torch.randn(keys, 3, 128, 72)
    with torch.inference_mode():
        ours = network.encoder.pair(current, network.encoder.key(key))
        wanted = typed_out(network.encoder, current, key.expand(2, -1, -1, -1))
    assert [(m.shape[1], m.shape[2]) for m in ours] == [(128, 32), (256, 16), (512, 8), (512, 4), (1024, 2)]
    assert tuple(m.shape[1] for m in ours) == network.encoder.widths
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_published_layers(network):
    convolutions = [m for m in network.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.kernel_size[0], m.stride[0], m.out_channels) for m in convolutions] == [
        (3, 7, 2, 64),
        (64, 5, 2, 128),
        (128, 5, 2, 256),
        (256, 1, 1, 32),
        (473, 3, 1, 256),
        (256, 3, 2, 512),
        (512, 3, 1, 512),
        (512, 3, 2, 512),
        (512, 3, 1, 512),
        (512, 3, 2, 1024),
        (1024, 3, 1, 1024),
    ]


def test_flow_scale_and_quality_lie_on_the_feature_grid(network):
    with torch.inference_mode():
        field = network(Memory(images(1), ()), Frame(images(2)))
    assert field.flow.shape == (2, 2, 6, 8)
    assert field.scale.shape == (2, 5, 6, 8)
    assert (field.scale == 1).all(), "the scale field starts as one"
    assert field.quality.shape == (2, 1, 6, 8)


def test_any_image_size():
    with torch.device("meta"):
        network = FLOW_NETWORKS["flownet-c"](scale_channels=None)
        for height, width in [(1, 1), (17, 33), (141, 250), (600, 1000), *((n, 216 - n) for n in range(16, 201, 23))]:
            image = torch.empty(1, 3, height, width)
            flow = network(Memory(image, ()), Frame(image)).flow
            assert flow.shape == (1, 2, -(-height // 16), -(-width // 16)), (height, width)


def test_the_keys_tower_runs_once_and_is_shared(network):
    key, current = images(1), images(3)
    with torch.inference_mode():
        remembered = network.remember(Frame(key))
        assert remembered.shape == (1, 256, 6, 8)
        together = network(
            Memory(torch.empty(0), (), work=remembered), Frame(current)
        )  # the key image is not looked at
        for n in range(3):
            alone = network(Memory(key, ()), Frame(current[n : n + 1]))
            torch.testing.assert_close(together.flow[n], alone.flow[0], atol=1e-4, rtol=1e-4)


def test_every_parameter_gets_a_gradient_from_the_pyramid(network):
    flows = network.pyramid(Memory(images(1, (128, 128)), ()), Frame(images(1, (128, 128))))
    assert [f.shape[-1] for f in flows] == [1, 2, 4, 8, 8]
    sum(f.square().sum() for f in flows).backward()
    for name, p in network.named_parameters():
        if not name.startswith(("scale", "quality")):
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name
    network.zero_grad()
