import torch
from torch import nn

from keywarp.networks.deformable import DeformableConv2d


def test_starts_as_the_convolution_it_replaces():
    conv = nn.Conv2d(8, 6, 3, padding=2, dilation=2, bias=False)
    x = torch.randn(2, 8, 9, 11)
    torch.testing.assert_close(DeformableConv2d(conv)(x), conv(x), atol=1e-5, rtol=0)


def test_an_offset_moves_the_samples():
    conv = nn.Conv2d(4, 3, 3, padding=1)
    deformable = DeformableConv2d(conv, groups=1)
    with torch.no_grad():
        deformable.offset.bias.view(9, 2)[:, 1] = 1  # one column to the right
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(deformable(x)[..., :, 1:6], conv(x)[..., :, 2:7], atol=1e-5, rtol=0)
