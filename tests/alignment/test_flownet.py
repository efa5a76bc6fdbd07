import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from keywarp.alignment.flownet import FLOW_NETWORKS, Inception, simple_encoder
from keywarp.networks.resnet import ResNet
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


@pytest.mark.parametrize(("name", "step"), [("flownet-tiny", 1), ("flownet-inception", 7)])
def test_any_image_size(name, step):
    """The flow's grid is the features' for every size: on the meta device, where only shapes are computed."""
    with torch.device("meta"):
        network, features = FLOW_NETWORKS[name](scale_channels=4), ResNet(10, width=8, channels=4).eval()
        for height, width in [(1, 1), (141, 250), (600, 1000), *((n, 216 - n) for n in range(16, 201, step))]:
            image = torch.empty(1, 3, height, width)
            field = network(Memory(image, ()), Frame(image))
            assert field.flow.shape[-2:] == field.scale.shape[-2:] == features(image)[0].shape[-2:], (height, width)


def test_odd_sizes_compute():
    network = FLOW_NETWORKS["flownet-tiny"](scale_channels=None)
    for size in [(1, 1), (17, 33), (141, 250)]:
        assert network(Memory(images(1, size), ()), Frame(images(1, size))).flow.isfinite().all()


def typed_out(network, current, key):
    """FlowNet as its table reads, for sizes that stay even: a six-channel input, deconvolutions with padding 1."""
    x = (torch.cat([current, key], dim=1) - network.mean.repeat(1, 2, 1, 1)) / 255
    x = F.leaky_relu(network.encoder.first(F.avg_pool2d(x, 2)), 0.1)
    maps = []
    for level in network.encoder.levels:
        x = level(x)
        maps.append(x)
    decoder = network.decoder
    for n, skip in enumerate(maps[-2::-1]):
        flow, deconvolve, upsample = (part[n] for part in (decoder.flows, decoder.deconvolutions, decoder.upsamplings))
        finer = F.leaky_relu(F.conv_transpose2d(x, deconvolve.weight, deconvolve.bias, stride=2, padding=1), 0.1)
        up = F.conv_transpose2d(flow(x), upsample.weight, upsample.bias, stride=2, padding=1)
        x = torch.cat([skip, finer, up], dim=1)
    x = F.avg_pool2d(x, 2)
    return 2.5 * network.flow(x), network.scale(x)


@pytest.mark.parametrize("name", ["flownet-tiny", "flownet-half", "flownet-inception"])
def test_the_network_as_its_table_reads(name):
    network = FLOW_NETWORKS[name](scale_channels=5).eval()
    nn.init.normal_(network.scale.weight, std=0.1)
    for parameter_name, p in network.named_parameters():
        if parameter_name.endswith("bias"):
            nn.init.normal_(p, std=0.1)
    key, current = images(2, (128, 256)), images(2, (128, 256))
    with torch.inference_mode():
        field = network(Memory(key, ()), Frame(current))
        flow, scale = typed_out(network, current.float(), key.float())
    torch.testing.assert_close(field.flow, flow, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(field.scale, scale, atol=1e-4, rtol=1e-4)


def test_no_motion_carries_the_features_unchanged():
    network = FLOW_NETWORKS["flownet-tiny"](scale_channels=7)
    nn.init.zeros_(network.flow.weight)
    features = torch.randn(1, 7, 6, 8)
    (carried,) = network(Memory(images(1), ()), Frame(images(3))).propagate((features,))
    assert torch.equal(carried, features.expand(3, -1, -1, -1))


def test_the_keys_half_is_computed_once_and_shared():
    network = FLOW_NETWORKS["flownet-tiny"](scale_channels=4).eval()
    key, current = images(1), images(3)
    with torch.inference_mode():
        remembered = network.remember(Frame(key))
        together = network(Memory(key, (), work=remembered), Frame(current))
        for n in range(3):
            alone = network(Memory(key, ()), Frame(current[n : n + 1]))
            torch.testing.assert_close(together.flow[n], alone.flow[0], atol=1e-5, rtol=0)


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
    # Table 8: the outputs of its modules are the sums of their branches.
    modules = [m.outputs for m in FLOW_NETWORKS["flownet-inception"]().modules() if isinstance(m, Inception)]
    assert modules == [64, 128, 128, 256, 256, 384, 384, 512, 512]
    inception = FLOW_NETWORKS["flownet-inception"]().encoder(torch.zeros(1, 32, 64, 64))
    assert [(m.shape[1], m.shape[2]) for m in inception] == [(64, 32), (128, 16), (256, 8), (384, 4), (512, 2)]


@pytest.mark.parametrize(
    ("name", "gmac", "ratios", "tolerance"),
    [
        ("flownet-s", 12.898, (9.20, 12.71), 0.003),
        ("flownet-half", 3.534, (33.56, 46.30), 0.003),
        ("flownet-inception", 1.757, (68.97, 95.24), 0.021),  # its decoder is our choice
    ],
)
def test_complexity_of_the_papers(name, gmac, ratios, tolerance):
    """004, Table 2: of ResNet-50 (118.67) and ResNet-101 (164.01) to the flow networks."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        image = torch.empty(1, 3, 600, 1000)
        FLOW_NETWORKS[name]()(Memory(image, ()), Frame(image))
    ours = counter.get_total_flops() / 2e9
    assert ours == pytest.approx(gmac, abs=0.001)
    assert (118.67 / ours, 164.01 / ours) == pytest.approx(ratios, rel=tolerance)


def test_parameters_of_the_papers():
    """003, Table 1: Deep Feature Flow has 96.6 · 2^20, of which R-FCN 59.6."""
    with torch.device("meta"):
        count = sum(p.numel() for p in FLOW_NETWORKS["flownet-s"]().parameters())
    assert count / 2**20 == pytest.approx(96.67 - 59.59, abs=0.01)


@pytest.mark.parametrize("name", ["flownet-tiny", "flownet-inception", "flownet-matching"])
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
    # The same motion, as a twentieth of it in pixels of the half-resolution input.
    for predictor in (*network.decoder.flows, network.flow):
        nn.init.zeros_(predictor.weight)
        nn.init.constant_(predictor.bias, 3.2)
    flows = network.pyramid(Memory(images(1), ()), Frame(images(1)))
    assert [f.mean().item() for f in flows] == pytest.approx([64 / s for s in (64, 32, 16, 8, 8)])


def test_flow_is_learnt():
    """A few steps on one shift bring the flow to it: direction, unit and gradient are right."""
    torch.set_num_threads(1)  # much faster on small tensors where other work runs
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
