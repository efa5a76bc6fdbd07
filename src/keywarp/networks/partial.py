"""A ResNet that recomputes only part of its cells, layer by layer (001, section 3.2).

    F̂^(n) = U ⊙ N^(n)(F̂^(n−1)) + (1 − U) ⊙ warp(F_k^(n))

The layers N^(n) are the stem (conv1 to the pool), every residual block, or every stage, and the reduction. U is the
update mask, by nearest neighbours on each layer's grid. A layer reads F̂^(n−1): cells that the layer before recomputed,
where those are active; elsewhere the key frame's map F_k^(n−1), warped. The stem reads the frame's own image. Within a
layer nothing is mixed: what its inner convolutions need around the active cells is computed from what it reads. So a
block reads the active cells and the ring around them that its 3×3 needs; a stage as many rings as it has 3×3.

`update_densely` computes every layer everywhere and mixes; `update_sparsely` gives the same from rows of cells alone.

Legend: N frames · K = 1 or N keys · C channels · (h, w) cells of a map, cell (n, y, x) numbered (n·h + y)·w + x ·
M cells in a list · A active cells
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from keywarp.networks.deformable import DeformableConv2d
from keywarp.networks.resnet import ResNet
from keywarp.ops import resize_flow, warp
from keywarp.ops.warping import corners

Unit: TypeAlias = "BasicBlock | Bottleneck | nn.Sequential"
"""A residual block, or the reduction: a convolution and its activation."""
Size = tuple[int, int]
Geometry = tuple[int, int, int, int]
"""Kernel, stride, padding and dilation, of a square convolution."""

BREAK_EVEN = 0.8
"""Share of a layer's multiply-accumulates above which it is faster to compute it everywhere."""
GATHERED = 1 << 19
"""Numbers gathered at a time: 2 MB stay in the CPU's cache, and a batch needs no more memory than a frame."""
ROWS = 512
"""Rows gathered at a time at least: for fewer, reading the weights would take longer than the product."""


def layers_of(network: ResNet, cache: str) -> list[nn.Sequential]:
    """The layers after the stem, each a chain of residual blocks or the reduction.

    cache: "blocks" makes every block a layer, "stages" every stage.
    """
    stages = [s for s in (network.layer1, network.layer2, network.layer3, network.layer4) if len(s)]
    layers = stages if cache == "stages" else [nn.Sequential(block) for stage in stages for block in stage]
    return layers if isinstance(network.reduction, nn.Identity) else [*layers, nn.Sequential(network.reduction)]


def run_layers(network: ResNet, image: Tensor, cache: str) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The features `[K, C, h, w]`, and the maps F_k^(n) that the layers after the stem read, channels-last."""
    maps = [network.stem(image)]
    for layer in layers_of(network, cache):
        maps.append(layer(maps[-1]))
    *read, features = (x.contiguous(memory_format=torch.channels_last) for x in maps)
    return features, tuple(read)


class Region:
    """The cells to recompute, and the flow that carries the others, on the grid of any layer.

    mask: `[N, 1, h, w]` bool. flow: `[N, 2, h, w]` to the key frame, in cells of its own grid.
    """

    def __init__(self, mask: Tensor, flow: Tensor) -> None:
        self._mask, self._flow = mask, flow
        self._masks: dict[Size, Tensor] = {}
        self._flows: dict[Size, Tensor] = {}

    def mask(self, size: Size) -> Tensor:
        """U `[N, 1, h, w]` by nearest neighbours."""
        if size not in self._masks:
            self._masks[size] = F.interpolate(self._mask.float(), size=size) > 0
        return self._masks[size]

    def flow(self, size: Size) -> Tensor:
        """The flow `[N, 2, h, w]` in cells of that grid."""
        if size not in self._flows:
            self._flows[size] = resize_flow(self._flow, size)
        return self._flows[size]

    def cells(self, size: Size) -> Tensor:
        """The active cells `[A]`, ascending."""
        return self.mask(size).flatten().nonzero()[:, 0]

    def gathered(self, read: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """The cells `[M]` that occur in `read`, active ones first; and for each in `read` its position among them.

        The position of what lies outside the map (−1) is M.
        """
        active = self.mask(size).flatten()
        occurs = active.new_zeros(len(active) + 1)
        occurs[read] = True
        occurs = occurs[:-1]
        cells = torch.cat([(occurs & active).nonzero()[:, 0], (occurs & ~active).nonzero()[:, 0]])
        return cells, self.positions(cells, size)[read]

    def positions(self, cells: Tensor, size: Size) -> Tensor:
        """Where each cell of the N maps stands in the list `cells` `[M]`; M where it does not. At −1: M."""
        positions = cells.new_full((self.mask(size).numel() + 1,), len(cells))
        positions[cells] = torch.arange(len(cells), device=cells.device)
        return positions


def update_densely(
    network: ResNet, layers: Sequence[nn.Sequential], image: Tensor, maps: Sequence[Tensor], carried: Tensor, on: Region
) -> Tensor:
    """The updated features `[N, C, h, w]`, every layer computed everywhere: the definition, and slower than no update.

    image: `[N, 3, H, W]`. maps: of the key frame(s), `[K, C, h, w]` each (`run_layers`). carried: the warped features.
    """
    x = network.stem(image)
    for layer, key in zip(layers, maps, strict=True):
        size = _size(key)
        x = layer(torch.where(on.mask(size), x, warp(key, on.flow(size))))
    return torch.where(on.mask(_size(carried)), x, carried)


def update_sparsely(
    network: ResNet, layers: Sequence[nn.Sequential], image: Tensor, maps: Sequence[Tensor], carried: Tensor, on: Region
) -> Tensor:
    """The same, each layer computed for the active cells alone.

    The active cells of all N frames are the rows of one table. A 1×1 convolution is a product of it and a matrix, a
    3×3 one gathers nine neighbours first. A layer is computed everywhere where that is faster, and where it has a
    deformable convolution, which may read any cell.
    """
    plans: dict[tuple[Size, tuple[Geometry, ...]], LayerPlan] = {}
    rows = _stem_rows(network, image, on, _size(maps[0]))
    for layer, key in zip(layers, maps, strict=True):
        size = _size(key)
        if any(isinstance(module, DeformableConv2d) for module in layer.modules()):
            rows = _everywhere(layer, rows, key, on)
            continue
        shape = size, tuple(_geometry(conv) for unit in layer for conv, _ in _convolutions(unit))
        if shape not in plans:  # the blocks of a stage share one
            plans[shape] = _plan(layer, on, size, len(key))
        plan = plans[shape]
        if plan.share > BREAK_EVEN:
            rows = _everywhere(layer, rows, key, on)
            continue
        rows = torch.cat([rows.index_select(0, plan.kept), plan.fetch(key)])
        for unit, unit_plan in zip(layer, plan.units, strict=True):
            rows = _unit_rows(unit, rows, unit_plan)
    updated = _table(carried).index_copy(0, on.cells(_size(carried)), rows.to(carried.dtype))
    return _map(updated, carried)


@dataclass(frozen=True)
class UnitPlan:
    """Which rows a residual block's (or the reduction's) convolutions read.

    gathers: of each convolution the positions `[M, kernel²]` among its input's rows, None = each row its own.
    shortcut: `[M]`, the input row that is added to each output row.
    """

    gathers: list[Tensor | None]
    shortcut: Tensor


@dataclass(frozen=True)
class LayerPlan:
    """Which rows a layer reads: `kept` of the active ones before it, then cells warped from the key frame's map.

    corners: `[M, 4]` rows of the key's table for each warped cell. weights: `[M, 4]`, theirs. share: of the layer's
    multiply-accumulates.
    """

    kept: Tensor
    corners: Tensor
    weights: Tensor
    units: list[UnitPlan]
    share: float

    def fetch(self, key: Tensor) -> Tensor:
        """The warped cells `[M, C]` of the key frame's map `[K, C, h, w]`."""
        table = _table(key)
        return F.embedding_bag(self.corners, table, mode="sum", per_sample_weights=self.weights.to(table.dtype))


def _plan(layer: nn.Sequential, on: Region, size: Size, keys: int) -> LayerPlan:
    """What a layer reads for its active cells, worked out from its last convolution to its first."""
    convolutions = [[conv for conv, _ in _convolutions(unit)] for unit in layer]
    sizes = [size]  # of every convolution's input, and of the last one's output
    for conv in itertools.chain(*convolutions):
        sizes.append(_size_after(sizes[-1], _geometry(conv)))
    cells = on.cells(sizes[-1])
    units: list[UnitPlan] = []
    work = total = 0
    for unit in reversed(convolutions):
        outputs, after, stride = cells, sizes[-1], 1
        gathers: list[Tensor | None] = []
        for conv in reversed(unit):
            outer, inner = sizes.pop(), sizes[-1]
            work += len(cells) * conv.weight.numel()
            total += on.mask(outer).numel() * conv.weight.numel()
            geometry, gather = _geometry(conv), None
            if geometry[:2] != (1, 1):
                cells, gather = on.gathered(_reads(cells, geometry, outer, inner), inner)
            gathers.insert(0, gather)
            stride *= geometry[1]
        centres = _reads(outputs, (1, stride, 0, 1), after, sizes[-1])[:, 0]
        units.insert(0, UnitPlan(gathers, on.positions(cells, sizes[-1])[centres]))
    active = on.mask(size).flatten()[cells]
    kept = on.positions(on.cells(size), size)[cells[active]]
    return LayerPlan(kept, *_corners(cells[~active], on.flow(size), keys), units, work / total)


def _reads(cells: Tensor, geometry: Geometry, outer: Size, inner: Size) -> Tensor:
    """For each output cell `[M]` of a convolution the input cells `[M, kernel²]` that it reads; −1 outside the map."""
    kernel, stride, padding, dilation = geometry
    taps = torch.arange(kernel, device=cells.device) * dilation - padding
    n, y, x = _unravel(cells, outer)
    ys, xs = (y * stride)[:, None] + taps, (x * stride)[:, None] + taps  # [M, kernel]
    inside = ((ys >= 0) & (ys < inner[0]))[:, :, None] & ((xs >= 0) & (xs < inner[1]))[:, None, :]
    read = ((n * inner[0])[:, None] + ys)[:, :, None] * inner[1] + xs[:, None, :]
    return torch.where(inside, read, -1).flatten(1)


def _corners(cells: Tensor, flow: Tensor, keys: int) -> tuple[Tensor, Tensor]:
    """Rows `[M, 4]` of the key's table around where the flow points, and their weights: `warp`, cell by cell."""
    h, w = _size(flow)
    n, y, x = _unravel(cells, (h, w))
    dx, dy = flow.to(torch.promote_types(flow.dtype, torch.float32)).permute(1, 0, 2, 3).flatten(1)[:, cells]
    return corners(x + dx, y + dy, (h, w), n * (h * w) if keys > 1 else torch.zeros_like(n))


def _stem_rows(network: ResNet, image: Tensor, on: Region, size: Size) -> Tensor:
    """The stem's output at its active cells, `[A, C]`."""
    kernel, stride, padding, _ = geometry = _geometry(network.conv1)
    x = F.pad(network.normalised(image), (padding,) * 4).permute(0, 2, 3, 1).contiguous()
    N, H, W, C = x.shape
    inner = _size_after((image.shape[-2], image.shape[-1]), geometry)
    read = _reads(on.cells(size), (3, 2, 1, 1), size, inner)  # by the pool
    cells, positions = on.gathered(read, inner)
    # A kernel's line is 21 numbers side by side in memory: seven rows of overlapping strips are its window.
    strips = x.as_strided((N * H * W - kernel + 1, kernel * C), (C, 1))
    lines = _reads(cells, (1, stride, 0, 1), inner, (H, W)) + torch.arange(kernel, device=x.device) * W
    windows = strips.index_select(0, lines.flatten()).view(len(cells), -1)
    rows = _product(windows, None, network.conv1, network.bn1).relu_()
    # Nothing is below zero after the activation, so that a zero does for what lies outside.
    return F.pad(rows, (0, 0, 0, 1))[positions].amax(dim=1)


def _unit_rows(unit: Unit, x: Tensor, plan: UnitPlan) -> Tensor:
    """A residual block's or the reduction's output rows."""
    y = x
    for (conv, norm), gather in zip(_convolutions(unit), plan.gathers, strict=True):
        inputs = y if y is x else y.relu_()
        y = _product(inputs, gather, conv, norm)
    if not isinstance(unit, nn.Sequential):
        shortcut = x.index_select(0, plan.shortcut)
        y = y + (shortcut if unit.downsample is None else _product(shortcut, None, *unit.downsample))
    return y.relu_()


def _everywhere(layer: nn.Sequential, rows: Tensor, key: Tensor, on: Region) -> Tensor:
    """A layer's output rows, computed everywhere."""
    read = warp(key, on.flow(_size(key)))
    x = _table(read).index_copy(0, on.cells(_size(key)), rows.to(read.dtype))
    y = layer(_map(x, read))
    return _table(y)[on.cells(_size(y))]


def _product(rows: Tensor, gather: Tensor | None, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """A convolution of rows `[M, C]` and its batch norm (the identity when folded).

    gather: `[M', kernel²]`, the rows that each output reads; position M is a row of zeros.
    """
    weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # a view of channels-last weights
    if gather is None:
        y = F.linear(rows, weight, conv.bias)
    else:
        rows = F.pad(rows, (0, 0, 0, 1))
        parts = gather.split(max(ROWS, GATHERED // weight.shape[1]))
        windows = (rows.index_select(0, part.flatten()).view(len(part), -1) for part in parts)
        y = torch.cat([F.linear(window, weight, conv.bias) for window in windows])
    return norm(y[:, :, None, None])[:, :, 0, 0]


def _convolutions(unit: Unit) -> list[tuple[nn.Conv2d, nn.Module]]:
    """The convolutions of a residual block, or of the reduction, and what normalises each."""
    if isinstance(unit, nn.Sequential):
        conv = unit[0]
        assert isinstance(conv, nn.Conv2d)
        return [(conv, nn.Identity())]
    pairs = [(unit.conv1, unit.bn1), (unit.conv2, unit.bn2)]
    return [*pairs, (unit.conv3, unit.bn3)] if isinstance(unit, Bottleneck) else pairs


def _geometry(conv: nn.Conv2d) -> Geometry:
    kernel, stride, padding, dilation = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    return kernel[0], stride[0], int(padding[0]), dilation[0]


def _size_after(size: Size, geometry: Geometry) -> Size:
    """The size of a convolution's output."""
    kernel, stride, padding, dilation = geometry
    h, w = ((side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side in size)
    return h, w


def _unravel(cells: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Frame, y and x of each cell."""
    h, w = size
    return cells // (h * w), cells // w % h, cells % w


def _size(x: Tensor) -> Size:
    return x.shape[-2], x.shape[-1]


def _table(x: Tensor) -> Tensor:
    """Maps `[N, C, h, w]` as rows `[N·h·w, C]`: a view of channels-last ones."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _map(table: Tensor, like: Tensor) -> Tensor:
    """Rows `[N·h·w, C]` as maps `[N, C, h, w]`, channels-last."""
    N, _, h, w = like.shape
    return table.view(N, h, w, -1).permute(0, 3, 1, 2)
