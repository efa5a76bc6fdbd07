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
        kernel, shape = conv.kernel_size, (conv.stride, conv.padding, conv.dilation)
        super().__init__(conv.in_channels, conv.out_channels, kernel, *shape, bias=conv.bias is not None)  # type: ignore[arg-type]
        self.weight, self.bias = conv.weight, conv.bias
        # (dy, dx) for each of the kernel's positions and each group
        self.offset = nn.Conv2d(conv.in_channels, 2 * groups * kernel[0] * kernel[1], kernel, *shape)  # type: ignore[arg-type]
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C_in, h, w]` to `[N, C_out, h', w']`."""
        return deform_conv2d(x, self.offset(x), self.weight, self.bias, self.stride, self.padding, self.dilation)
