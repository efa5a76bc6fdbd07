import pytest
import torch
import torch.nn.functional as F

from keywarp.listing import gmac
from keywarp.networks.transform_net import TransformNet


def test_as_figure_5_reads():
    net = TransformNet(inputs=6, channels=5, hidden=4)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.randn(2, 6, 7, 9)
    (out,) = net((x,))
    first, second, third = net[0], net[2], net[4]
    y = F.relu(F.conv2d(x, first.weight, first.bias))
    y = F.relu(F.conv2d(y, second.weight, second.bias, padding=1))
    torch.testing.assert_close(out, F.conv2d(y, third.weight, third.bias, padding=1))
    assert (out < 0).any(), "no activation at its end"


def test_its_size_is_what_table_3_adds_to_the_detector():
    with torch.device("meta"):
        net, low = TransformNet(1024, 1024), torch.empty(1, 1024, 38, 63)
        assert gmac(lambda: net((low,))) == pytest.approx(7.7, abs=0.05)
    parameters = sum(p.numel() for p in net.parameters())
    assert parameters == pytest.approx(3.213e6, rel=1e-3)
    assert (59.59 * 2**20 + parameters) / 2**20 == pytest.approx(62.7, abs=0.05)


def test_every_parameter_and_the_low_features_get_a_gradient():
    net, x = TransformNet(6, 5, hidden=8), torch.randn(2, 6, 7, 9, requires_grad=True)
    net((x,))[0].square().sum().backward()
    for name, p in [*net.named_parameters(), ("low features", x)]:
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_several_levels_are_not_its_task():
    level = torch.randn(1, 6, 3, 4)
    with pytest.raises(ValueError, match="too many values"):
        TransformNet(6, 5)((level, level))
