"""The three flow networks of Deep Feature Flow with their scale field (004, section 4 and Tables 6 to 8).

All take the two images at half resolution and predict on the grid of stride-16 features. FlowNet and FlowNet Half are
the "simple" network of Dosovitskiy et al., whose "correlation" network differs in the encoder alone (`flownet_c`);
FlowNet Inception has its own encoder and the same decoder, narrower.
Legend: N current frames · K = 1 or N key frames · C feature channels · (H, W) pixels · (h, w) feature cells
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keywarp.alignment.correspondence import Aligner, FlowField
from keywarp.structures import Frame, Memory

MEAN = (123.15, 115.90, 103.06)
FLOW_SCALE = 2.5
"""FlowNet predicts a twentieth of the flow in pixels of its half-resolution input, of which a feature cell spans 8."""


class PairEncoder(nn.Module, ABC):
    """Features of both half-resolution images together, at strides 4, 8, 16, 32 and 64 of them.

    widths: the five maps' channels.
    """

    widths: tuple[int, ...]

    @abstractmethod
    def key(self, image: Tensor) -> Tensor:
        """What is computed of the key images `[K, 3, H, W]` alone."""

    @abstractmethod
    def pair(self, image: Tensor, key: Tensor) -> list[Tensor]:
        """The five maps, finest first, of the current images `[N, 3, H, W]` and what `key` gave."""


class Encoder(PairEncoder):
    """One chain of convolutions over both images side by side.

    first: the convolution over [current, key], stride 2, before its activation. levels: from each map to the next.
    """

    def __init__(self, first: nn.Conv2d, levels: Sequence[nn.Module], widths: Sequence[int]) -> None:
        super().__init__()
        self.first = first
        self.levels = nn.ModuleList(levels)
        self.widths = tuple(widths)

    def key(self, image: Tensor) -> Tensor:
        """The key's half of the first convolution: one over [current, key] is the sum of one over each."""
        return F.conv2d(image, self.first.weight[:, 3:], None, 2, 3)

    def pair(self, image: Tensor, key: Tensor) -> list[Tensor]:
        return self(F.leaky_relu(F.conv2d(image, self.first.weight[:, :3], self.first.bias, 2, 3) + key, 0.1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The five maps, finest first, of the activated first convolution's output."""
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution and its activation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.LeakyReLU(0.1))


def simple_encoder(width: float = 1.0) -> Encoder:
    """FlowNet's ten convolutions (Table 6), every width times `width` (Table 7: one half)."""
    c = [round(n * width) for n in (64, 128, 256, 512, 512, 1024)]
    levels = [
        conv(c[0], c[1], 5, stride=2),
        nn.Sequential(conv(c[1], c[2], 5, stride=2), conv(c[2], c[2], 3)),
        nn.Sequential(conv(c[2], c[3], 3, stride=2), conv(c[3], c[3], 3)),
        nn.Sequential(conv(c[3], c[4], 3, stride=2), conv(c[4], c[4], 3)),
        nn.Sequential(conv(c[4], c[5], 3, stride=2), conv(c[5], c[5], 3)),
    ]
    return Encoder(nn.Conv2d(6, c[0], 7, stride=2, padding=3), levels, c[1:])


class Inception(nn.Module):
    """Branches side by side (Table 8): #1×1, #1×1-#3×3, #1×1-#3×3-#3×3, and in a reduction (stride 2) #pool.

    In a reduction the last convolution of each branch has the stride, and the pool branch comes in.
    """

    def __init__(self, inputs: int, one: int, two: tuple[int, int], three: tuple[int, int, int], pool: int = 0) -> None:
        super().__init__()
        stride = 2 if pool else 1
        branches = [
            nn.Sequential(conv(inputs, two[0], 1), conv(two[0], two[1], 3, stride)),
            nn.Sequential(conv(inputs, three[0], 1), conv(three[0], three[1], 3), conv(three[1], three[2], 3, stride)),
        ]
        if one:
            branches.insert(0, conv(inputs, one, 1, stride))
        if pool:
            branches.append(nn.Sequential(nn.MaxPool2d(3, 2, padding=1), conv(inputs, pool, 1)))
        self.branches = nn.ModuleList(branches)
        self.outputs = one + two[1] + three[2] + pool

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def inception_encoder() -> Encoder:
    """FlowNet Inception's (Table 8, its columns as their sums prove them)."""
    levels = [
        nn.Sequential(nn.MaxPool2d(3, 2, padding=1), Inception(32, 0, (24, 32), (24, 32, 32))),
        nn.Sequential(
            conv(64, 128, 3, stride=2),
            Inception(128, 48, (32, 64), (8, 16, 16)),
            Inception(128, 48, (48, 64), (12, 16, 16)),
        ),
        nn.Sequential(
            Inception(128, 32, (112, 128), (28, 32, 32), pool=64), Inception(256, 96, (112, 128), (28, 32, 32))
        ),
        nn.Sequential(
            Inception(256, 48, (96, 192), (36, 48, 48), pool=96), Inception(384, 144, (96, 192), (36, 48, 48))
        ),
        nn.Sequential(
            Inception(384, 64, (192, 256), (48, 64, 64), pool=128), Inception(512, 192, (192, 256), (48, 64, 64))
        ),
    ]
    return Encoder(nn.Conv2d(6, 32, 7, stride=2, padding=3), levels, (64, 128, 256, 384, 512))


class Decoder(nn.Module):
    """FlowNet's refinement: coarse flow and features, step by step joined to the finer maps of the encoder.

    widths: of its deconvolutions, coarsest first (FlowNet: 512, 256, 128, 64).
    """

    def __init__(self, encoder_widths: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.flows, self.deconvolutions, self.upsamplings = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        inputs = encoder_widths[-1]
        for skip, width in zip(reversed(encoder_widths[:-1]), widths, strict=True):
            self.flows.append(nn.Conv2d(inputs, 2, 3, padding=1))
            self.deconvolutions.append(nn.ConvTranspose2d(inputs, width, 4, stride=2))
            self.upsamplings.append(nn.ConvTranspose2d(2, 2, 4, stride=2))
            inputs = skip + width + 2
        self.outputs = inputs

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Features at stride 4 of the half-resolution images, and the coarser flows on the way, coarsest first."""
        x, flows = maps[-1], []
        for skip, flow, deconvolve, upsample in zip(
            reversed(maps[:-1]), self.flows, self.deconvolutions, self.upsamplings, strict=True
        ):
            flows.append(flow(x))
            finer = F.leaky_relu(_crop(deconvolve(x), skip), 0.1)
            x = torch.cat([skip, finer, _crop(upsample(flows[-1]), skip)], dim=1)
        return x, flows


def _crop(x: Tensor, like: Tensor) -> Tensor:
    """The part of a deconvolution's output that lies on `like`'s grid: from (1, 1), which is padding 1."""
    h, w = like.shape[-2:]
    return x[..., 1 : h + 1, 1 : w + 1]


class FlowNet(Aligner):
    """Flow from the current frame to the key frame, and the scale field (004, Eq. 3).

    scale_channels: channels C of the features to modulate; None = no scale field. Its weights start at 0 and its
    biases at 1, which stay: it starts as one everywhere.

    Flow and scale are predicted after the last features are pooled to the feature grid, as the authors' code does,
    which is cheaper than resizing them. N current frames may share one key, whose own part of the encoder is then
    computed once (`remember`).

    quality: also estimate the feature consistency Q, high where propagated features can be trusted (001, Eq. 5), by
    one more 3×3 convolution over the last features.
    """

    mean: Tensor

    def __init__(
        self, encoder: PairEncoder, decoder_widths: Sequence[int], scale_channels: int | None, quality: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.encoder = encoder
        self.decoder = Decoder(encoder.widths, decoder_widths)
        self.flow = nn.Conv2d(self.decoder.outputs, 2, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.scale = None
        if scale_channels is not None:
            self.scale = nn.Conv2d(self.decoder.outputs, scale_channels, 1)
            nn.init.zeros_(self.scale.weight)
            assert self.scale.bias is not None
            nn.init.ones_(self.scale.bias).requires_grad_(False)
        self.quality = None
        if quality:
            self.quality = nn.Conv2d(self.decoder.outputs, 1, 3, padding=1)
            nn.init.normal_(self.quality.weight, std=0.01)
            assert self.quality.bias is not None
            nn.init.zeros_(self.quality.bias)

    def forward(self, reference: Memory, current: Frame) -> FlowField:
        """Flow `[N, 2, h, w]`, scale `[N, C, h, w]`, quality `[N, 1, h, w]`, with h, w = ceil(H/16), ceil(W/16)."""
        features, _ = self._decode(reference, current)
        flow = self.flow(features) * FLOW_SCALE
        scale = None if self.scale is None else self.scale(features)
        return FlowField(flow, scale, None if self.quality is None else self.quality(features))

    def remember(self, frame: Frame) -> Tensor:
        """The key frame's own part of the encoder."""
        return self.encoder.key(self._half(frame.image))

    def pyramid(self, reference: Memory, current: Frame) -> list[Tensor]:
        """All flow predictions, coarsest first, each in cells of its own grid: for training on exact flow.

        At strides 64, 32, 16, 8 of the half-resolution images, and 8 again for the one that is used.
        """
        features, coarse = self._decode(reference, current)
        strides = (64, 32, 16, 8)
        return [f * (20 / s) for f, s in zip(coarse, strides, strict=True)] + [self.flow(features) * FLOW_SCALE]

    def _decode(self, reference: Memory, current: Frame) -> tuple[Tensor, list[Tensor]]:
        """The last features, pooled to the feature grid, and the coarser flows."""
        key = reference.work if reference.work is not None else self.remember(Frame(reference.image))
        features, flows = self.decoder(self.encoder.pair(self._half(current.image), key))
        return F.avg_pool2d(features, 2, ceil_mode=True), flows

    def _half(self, image: Tensor) -> Tensor:
        """The images `[N, 3, H, W]` RGB 0…255 as the network takes them, at half resolution."""
        x = F.avg_pool2d(image.to(self.mean.dtype), 2, ceil_mode=True)
        return (x - self.mean) / 255


def _flownet(width: float) -> Callable[..., FlowNet]:
    def build(scale_channels: int | None = 1024, quality: bool = False) -> FlowNet:
        widths = [round(n * width) for n in (512, 256, 128, 64)]
        return FlowNet(simple_encoder(width), widths, scale_channels, quality)

    return build


def _flownet_inception(scale_channels: int | None = 1024, quality: bool = False) -> FlowNet:
    # The paper leaves the decoder's widths out. An eighth of FlowNet's gives, with the scale field, the complexity
    # ratios of its Table 2 to 2 %; a half or more is ruled out by them.
    return FlowNet(inception_encoder(), (64, 32, 16, 8), scale_channels, quality)


def _flownet_c(scale_channels: int | None = 1024, quality: bool = False) -> FlowNet:
    from keywarp.alignment.flownet_c import CorrelationEncoder  # which is made of what stands above

    return FlowNet(CorrelationEncoder(), (512, 256, 128, 64), scale_channels, quality)


def _flownet_matching(scale_channels: int | None = 1024, quality: bool = False) -> FlowNet:
    from keywarp.alignment.flownet_matching import MatchingEncoder

    return FlowNet(MatchingEncoder(), (64, 48, 32, 16), scale_channels, quality)


FLOW_NETWORKS: dict[str, Callable[..., FlowNet]] = {
    "flownet-s": _flownet(1),
    "flownet-half": _flownet(1 / 2),
    "flownet-inception": _flownet_inception,
    "flownet-c": _flownet_c,
    # Ours: small, and quickly trained.
    "flownet-tiny": _flownet(1 / 8),
    "flownet-matching": _flownet_matching,
}
"""Builders by name; each takes `scale_channels` and `quality`."""
