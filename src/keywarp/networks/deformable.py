"""Deformable convolution (Dai et al. 2017) in place of a plain one."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class DeformableConv2d(nn.Conv2d):
    """A convolution that samples at learnt offsets; starts as the convolution it replaces.

    groups: of offsets, each for a share of the input channels. The offsets are predicted by a convolution of the same
    kernel, stride and dilation, from zero weights. At the border torchvision's rule holds, which differs from that of
    the papers' MXNet (this matters for imported weights only).
    """

    def __init__(self, conv: nn.Conv2d, groups: int = 4) -> None:
        shape = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        super().__init__(conv.in_channels, conv.out_channels, conv.kernel_size, bias=conv.bias is not None, **shape)
        self.weight, self.bias = conv.weight, conv.bias
        # (dy, dx) for each of the kernel's positions and each group
        offsets = 2 * groups * conv.kernel_size[0] * conv.kernel_size[1]
        self.offset = nn.Conv2d(conv.in_channels, offsets, conv.kernel_size, **shape)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, h, w]` to `[N, C_out, h', w']`."""
        return deform_conv2d(x, self.offset(x), self.weight, self.bias, self.stride, self.padding, self.dilation)
