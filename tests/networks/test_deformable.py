import torch
import torch.nn.functional as F
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


def plain(x, offsets, weight, groups, dilation):
    """Sample by sample of the kernel: bilinear, zero outside the map; then the weighted sum."""
    N, _, h, w = x.shape
    y, x0 = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    offsets = offsets.view(N, groups, 9, 2, h, w)
    out = torch.zeros(N, weight.shape[0], h, w)
    for k in range(9):
        sampled = []
        for g, part in enumerate(x.chunk(groups, dim=1)):
            py = y + dilation * (k // 3 - 1) + offsets[:, g, k, 0]
            px = x0 + dilation * (k % 3 - 1) + offsets[:, g, k, 1]
            grid = torch.stack([px / (w - 1), py / (h - 1)], dim=-1) * 2 - 1
            sampled.append(F.grid_sample(part, grid, align_corners=True))
        out += torch.einsum("nchw,oc->nohw", torch.cat(sampled, dim=1), weight[:, :, k // 3, k % 3])
    return out


def test_samples_at_the_predicted_offsets():
    conv = nn.Conv2d(8, 6, 3, padding=2, dilation=2, bias=False)
    deformable = DeformableConv2d(conv)
    nn.init.normal_(deformable.offset.weight, std=0.1)
    x = torch.randn(2, 8, 9, 11)
    expected = plain(x, deformable.offset(x), conv.weight, groups=4, dilation=2)
    torch.testing.assert_close(deformable(x), expected, atol=1e-4, rtol=0)
    layout = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(deformable(layout), expected, atol=1e-4, rtol=0)
