"""What each method costs: parameters, multiply-accumulates, and the speed-up that follows (004, Eq. 5 to 7)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from math import prod

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from keywarp.alignment.flownet import FLOW_NETWORKS
from keywarp.methods import dff, rfcn
from keywarp.model import VideoModel
from keywarp.structures import Frame, Memory

SIZE = (600, 1000)


@dataclass(frozen=True)
class Cost:
    """A row of the list.

    parameters_mi: in units of 2^20, batch-norm statistics counted. gmac_key, gmac_non_key: 10^9 multiply-accumulates
    of a key and of a non-key frame at 600×1000 (convolutions and matrix products; None where every frame is a key
    frame). predicted_speedup: over the same network on every frame, Eq. 7. latency_frames: how many frames a result
    trails behind its frame.
    """

    name: str
    parameters_mi: float
    gmac_key: float
    gmac_non_key: float | None
    predicted_speedup: float
    latency_frames: int


def parameters_mi(model: nn.Module) -> float:
    """Parameters in units of 2^20, with the batch norms' running means and variances."""
    statistics = sum(b.numel() for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var")))
    return (sum(p.numel() for p in model.parameters()) + statistics) / 2**20


def _deformable_flops(x: list[int], weight: list[int], *_: object, out_shape: list[int], **__: object) -> int:
    return 2 * prod(out_shape) * prod(weight[1:])


def gmac(run: Callable[[], object]) -> float:
    """10^9 multiply-accumulates of a call; on the meta device nothing is computed."""
    ours = {torch.ops.torchvision.deform_conv2d: _deformable_flops}
    with FlopCounterMode(display=False, custom_mapping=ours) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 2e9


def speedup(r: float, interval: int) -> float:
    """Eq. 7: of key frames every `interval`, with a non-key frame costing r of a key frame."""
    return interval / (1 + (interval - 1) * r)


def cost(name: str, build: Callable[[], VideoModel], interval: int = 1) -> Cost:
    """The row of a model of the papers, from its networks run on the meta device."""
    with torch.device("meta"):
        model = build().eval()
        image = torch.zeros(1, 3, *SIZE)
        with torch.no_grad():
            features = model.feature_network(image)
        maps: Callable[..., object] = model.head.maps  # type: ignore[assignment]
        task = gmac(lambda: maps(features))
        key = gmac(lambda: model.feature_network(image)) + task
        non_key = None
        if model.aligner is not None:
            aligner = model.aligner
            non_key = gmac(lambda: aligner(Memory(image, features), Frame(image))) + task
    r = 1.0 if non_key is None else non_key / key
    return Cost(name, parameters_mi(model), key, non_key, speedup(r, interval), model.scheduler.latency)


def rows() -> Iterator[Cost]:
    """Every method with its variants: backbones, flow networks, deformable layers, split points."""
    for backbone in ("resnet-18", "resnet-34", "resnet-50", "resnet-101"):
        yield cost(f"rfcn {backbone}", partial(rfcn, backbone))
        for flow in FLOW_NETWORKS:
            if flow != "flownet-tiny":
                yield cost(f"dff {backbone} {flow}", partial(dff, backbone, flow=flow), interval=10)
    for deformable in (3, 6):
        yield cost(f"rfcn resnet-101 deformable {deformable}", partial(rfcn, deformable=deformable))
        yield cost(
            f"dff resnet-101 flownet-s deformable {deformable}", partial(dff, deformable=deformable), interval=10
        )
    yield cost("dff resnet-101 flownet-s without scale field", partial(dff, scale_field=False), interval=10)
    for layers in (0, 5, 12, 21):
        yield cost(f"dff resnet-101 flownet-s task layers {layers}", partial(dff, task_layers=layers), interval=10)


def print_models(as_json: bool = False) -> None:
    """The list on standard output, as a table or as JSON."""
    table = list(rows())
    if as_json:
        print(json.dumps([asdict(row) for row in table], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    from keywarp.methods import known_models

    title = (
        "Methods and variants: parameters (Mi = 2^20), 10^9 multiply-accumulates of a key and of a non-key frame at "
        "600×1000,\nspeed-up over every frame predicted by Eq. 7 (key frames every 10 for dff), latency in frames"
    )
    grid = Table(title=title, title_justify="left")
    grid.add_column("name", no_wrap=True)
    for column in ("Mi", "GMAC", "non-key", "Eq. 7", "latency"):
        grid.add_column(column, justify="right", no_wrap=True)
    for row in table:
        non_key = "–" if row.gmac_non_key is None else f"{row.gmac_non_key:.2f}"
        grid.add_row(
            row.name,
            f"{row.parameters_mi:.2f}",
            f"{row.gmac_key:.1f}",
            non_key,
            f"{row.predicted_speedup:.2f}",
            str(row.latency_frames),
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(grid)
    console.print("With weights, for --model: " + ", ".join(known_models()[:-2]) + ", and any torchvision/NAME")
    console.print("demo: trained on synthetic shapes (disc, square, triangle, star); of no use on real video")
