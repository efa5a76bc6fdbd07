"""Partial updating (001, section 3.2): what it costs to recompute a share of a frame's cells, against the whole frame.

    OMP_NUM_THREADS=1 python recipes/partial_updating.py VIDEO --plot docs/images/partial-updating.png

A frame of the clip, 5 frames after its key frame, is updated with masks of a given share: compact shapes, random
rectangles, and cells drawn one by one (the worst case, which no trained mask looks like). CPU time of one thread as a
multiple of the plain feature network's in the same round (folded, channels-last), medians over the rounds, all
candidates interleaved. Random weights: time does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from keywarp.alignment.classical import DISFlow
from keywarp.alignment.correspondence import FlowField
from keywarp.data.video import open_video
from keywarp.networks.resnet import ResNet, for_inference
from keywarp.partial_updating import CACHES, PartialUpdater
from keywarp.structures import Frame, Memory
from keywarp.transform import ImageTransform

SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.54, 0.6, 1.0)
GAP = 5


def compact(share: float, h: int, w: int) -> Tensor:
    """A mask `[h, w]` of a few round shapes: the highest cells of a smooth random surface."""
    surface = F.interpolate(torch.rand(1, 1, h // 8, w // 8), size=(h, w), mode="bicubic")[0, 0]
    return _highest(surface, share)


def rectangles(share: float, h: int, w: int) -> Tensor:
    """A mask `[h, w]` of random rectangles, 3 to 12 cells a side, the last one cut."""
    height = torch.zeros(h, w)
    for order in range(1000, 0, -1):
        if (height > 0).sum() >= round(share * h * w):
            break
        sides = torch.randint(3, 13, (2,)).tolist()
        y, x = (int(torch.randint(0, size - side + 1, ())) for size, side in zip((h, w), sides, strict=True))
        part = height[y : y + sides[0], x : x + sides[1]]
        part[part == 0] = order
    return _highest(height, share)


def single_cells(share: float, h: int, w: int) -> Tensor:
    """A mask `[h, w]` of cells drawn one by one."""
    return _highest(torch.rand(h, w), share)


def _highest(values: Tensor, share: float) -> Tensor:
    chosen = values.flatten().argsort(descending=True, stable=True)[: round(share * values.numel())]
    return torch.zeros(values.numel()).index_fill(0, chosen, 1).view_as(values)


CANDIDATES: dict[str, tuple[Callable[[float, int, int], Tensor], PartialUpdater]] = {
    "compact shapes": (compact, PartialUpdater()),
    "random rectangles": (rectangles, PartialUpdater()),
    "single cells": (single_cells, PartialUpdater()),
    "compact shapes, never whole": (compact, PartialUpdater(break_even=1)),
    "compact shapes, cache of stages": (compact, PartialUpdater(cache="stages")),
}


class Setting:
    """The network, a key frame of 600 × 1000 pixels, what it leaves for updates, and a frame after it."""

    def __init__(self, video: str, depth: int) -> None:
        with open_video(video) as source:
            first, *_, last = islice(source, GAP + 1)
        transform = ImageTransform(size=(600, 1000))
        key, now = transform(first.image)[None], transform(last.image)[None]
        self.key, self.now = key, Frame(now)
        self.network = for_inference(ResNet(depth))
        self.flow = DISFlow()(Memory(key, ()), self.now).flow
        self.memories: dict[str, Memory] = {}
        for cache in CACHES:
            features, layers = PartialUpdater(cache=cache).eval().key_features(self.network, key)
            self.memories[cache] = Memory(key, features, layers=layers)
            print(f"a cache of {cache}: {sum(x.nbytes for x in layers) / 1e6:.0f} MB")
        self.carried = FlowField(self.flow).propagate(features)

    def update(self, updater: PartialUpdater, mask: Tensor) -> Tensor:
        field = FlowField(self.flow, quality=0.5 - mask[None, None])
        memory = self.memories[updater.cache]
        return updater.eval()(self.carried, self.now, memory, field, self.network)[0][0]


def seconds(work: Callable[[], object]) -> float:
    """CPU time of the process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(setting: Setting, rounds: int) -> dict[str, list[list[float]]]:
    """For each candidate and share the ratios to the plain network's time, one a round."""
    ratios: dict[str, list[list[float]]] = {name: [[] for _ in SHARES] for name in CANDIDATES}
    keys: dict[str, list[float]] = {cache: [] for cache in CACHES}
    h, w = setting.carried[0].shape[-2:]
    setting.network(setting.key)
    plain = []
    for number in range(rounds):
        for i, share in enumerate(SHARES):
            # The network beside every share: the machine's speed drifts within a round.
            plain.append(seconds(lambda: setting.network(setting.now.image)))
            for name, (shape, updater) in CANDIDATES.items():
                mask = shape(share, h, w)
                ratios[name][i].append(seconds(partial(setting.update, updater, mask)) / plain[-1])
            print(f"round {number + 1}, {share:.0%}", file=sys.stderr)
        for cache in CACHES:
            updater = PartialUpdater(cache=cache).eval()
            keys[cache].append(seconds(partial(updater.key_features, setting.network, setting.key)) / plain[-1])
    print(f"the plain network: {statistics.median(plain) * 1000:.0f} ms ({min(plain):.2f}–{max(plain):.2f} s)")
    for name, times in keys.items():
        print(f"a key frame with a cache of {name}: {statistics.median(times):.2f}")
    return ratios


def largest_difference(setting: Setting) -> float:
    """Of the sparse to the dense implementation at a fifth of the area, over the largest feature."""
    mask = rectangles(0.2, *setting.carried[0].shape[-2:])
    dense, sparse = (setting.update(PartialUpdater(sparse=sparse), mask) for sparse in (False, True))
    return float((dense - sparse).abs().max() / dense.abs().max())


def plot(ratios: dict[str, list[list[float]]], path: Path) -> None:
    """The medians over the share, with the range of the rounds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    percent = [100 * share for share in SHARES]
    for name, rows in ratios.items():
        (line,) = axes.plot(percent, [statistics.median(r) for r in rows], marker=".", label=name)
        axes.fill_between(percent, [min(r) for r in rows], [max(r) for r in rows], alpha=0.15, color=line.get_color())
    axes.axhline(1, color="grey", linewidth=1, linestyle="--", label="the plain network")
    axes.set(xlabel="cells recomputed, %", ylabel="time, of the plain network's", xlim=(0, 100), ylim=(0, None))
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--depth", type=int, default=101)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        setting = Setting(arguments.video, arguments.depth)
        print(f"sparse and dense differ by {largest_difference(setting):.1e} of the largest feature")
        ratios = measure(setting, arguments.rounds)
    print("| recomputed | " + " | ".join(ratios) + " |\n|---|" + "---|" * len(ratios))
    for i, share in enumerate(SHARES):
        print(f"| {share:.0%} | " + " | ".join(f"{statistics.median(rows[i]):.3f}" for rows in ratios.values()) + " |")
    if arguments.plot is not None:
        plot(ratios, arguments.plot)


if __name__ == "__main__":
    main()
