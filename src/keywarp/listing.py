"""What each method costs: parameters, multiply-accumulates, and the speed-up that follows (004, Eq. 5 to 7)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from keywarp.alignment.correspondence import Aligner
from keywarp.alignment.feature_flow import AdvancedFeatureFlow, BasicFeatureFlow
from keywarp.alignment.flownet import FLOW_NETWORKS
from keywarp.errors import UserError
from keywarp.methods import METHODS, dff, rfcn
from keywarp.model import VideoModel, frame_of
from keywarp.networks.description import readable
from keywarp.networks.download import sha256_of
from keywarp.networks.sharing import pull, pulled, push
from keywarp.networks.weight_files import read_description, read_header
from keywarp.partial_updating import PartialUpdater
from keywarp.published import PUBLISHED, Published
from keywarp.structures import Frame, Memory, Step

SIZE = (600, 1000)
WINDOW_RADIUS = 10
SFF_LATENCY = 2
"""With key frames in the middle of every five, `wrap`'s default."""
INTERVAL = 10
"""Taken for adaptive key frames."""


@dataclass(frozen=True)
class Cost:
    """A row of the list.

    parameters_mi: in units of 2^20, batch-norm statistics counted. gmac_key, gmac_non_key: 10^9 multiply-accumulates
    of a key and of a non-key frame at 600×1000 (convolutions and matrix products; None where every frame is a key
    frame; of a window, all that a frame costs). Partial updating is counted at no area updated. predicted_speedup: over
    the same network on every frame, as in Eq. 7. latency_frames: how many frames a result trails behind its frame.
    published: what the paper says. A wrapped detector's cost is the detector's own: None.
    """

    name: str
    parameters_mi: float | None
    gmac_key: float | None
    gmac_non_key: float | None
    predicted_speedup: float | None
    latency_frames: int
    published: Published | None = None


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


def _leave_out_norms(model: nn.Module) -> None:
    """Batch norms, which count for nothing at inference, take half of the time on the meta device."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())


def cost(name: str, build: Callable[[], VideoModel]) -> Cost:
    """The row of a model of the papers, from its steps carried out on the meta device."""
    with torch.device("meta"):
        model = build().eval()
        if isinstance(model.updater, PartialUpdater):
            model.updater.at_inference = False
        parameters = parameters_mi(model)
        _leave_out_norms(model)
        image = torch.zeros(1, 3, *SIZE)
        with torch.no_grad():
            key = model.run(Step((0,), is_key=True), Frame(image), {})
        assert key.memory is not None
        memory = key.memory
        task = gmac(lambda: model.head.maps(key.features))
        frame = gmac(lambda: model.feature_network(image)) + task  # the network on every frame
        radius = getattr(model.scheduler, "radius", None)
        if radius is not None:
            own = frame_of(image, memory)

            def around(r: int) -> float:
                frames = tuple(range(2 * r + 1))
                step = Step((r,), is_key=False, references=frames)
                return gmac(lambda: model.run(step, own, dict.fromkeys(frames, memory)))

            three, five = around(1), around(2)  # frames; one more always costs the same
            each = three + (radius - 1) * (five - three) + task
            each += gmac(lambda: model.run(Step((0,), is_key=True), Frame(image), {}))
            return Cost(name, parameters, each, None, frame / each, radius)
        later = {0: memory}
        key_cost = gmac(lambda: model.run(Step((1,), is_key=True, references=(0,)), Frame(image), later)) + task
        if model.aligner is None:
            return Cost(name, parameters, key_cost, None, 1.0, model.scheduler.latency)
        non_key = gmac(lambda: model.run(Step((1,), is_key=False, references=(0,)), Frame(image), later)) + task
    interval = getattr(model.scheduler, "interval", INTERVAL)
    ratio = interval * frame / (key_cost + (interval - 1) * non_key)  # 004, Eq. 7
    return Cost(name, parameters, key_cost, non_key, ratio, model.scheduler.latency)


def rows() -> Iterator[Cost]:
    """Every method, then variants: backbones, flow networks, deformable layers, split points, embeddings."""
    for name, build in METHODS.items():
        row = Cost(name, None, None, None, None, SFF_LATENCY) if name == "sff" else cost(name, build)
        yield replace(row, published=PUBLISHED.get(name))
    for backbone in ("mobilenet-v2", "resnet-18", "resnet-34", "resnet-50"):
        yield cost(f"rfcn {backbone}", partial(rfcn, backbone))
        for flow in ("flownet-s", "flownet-half", "flownet-inception"):
            yield cost(f"dff {backbone} {flow}", partial(dff, backbone, flow=flow))
    for deformable in (3, 6):
        yield cost(f"rfcn deformable {deformable}", partial(rfcn, deformable=deformable))
        yield cost(f"dff deformable {deformable}", partial(dff, deformable=deformable))
    yield cost("dff without scale field", partial(dff, scale_field=False))
    for layers in (0, 5, 12, 21):
        yield cost(f"dff task layers {layers}", partial(dff, task_layers=layers))
    yield cost("thp-c1 flownet-c", partial(METHODS["thp-c1"], flow="flownet-c"))
    for name in ("psla-a", "psla-b", "psla-c"):
        yield cost(f"{name} without embeddings", partial(METHODS[name], embedding=None))


def pair_costs() -> dict[str, tuple[float, float]]:
    """10^9 multiply-accumulates of relating a frame to one of its window, at 600×1000: once a frame, and for each pair.

    Of IFF-Net's modules (000, Table 5) and of the flow networks; without the warp and the sum, which are alike for all.
    """
    costs = {}
    with torch.device("meta"):
        image, features = torch.zeros(1, 3, *SIZE), (torch.zeros(1, 1024, 38, 63),)
        networks: dict[str, Aligner] = {
            "IFF basic": BasicFeatureFlow(),
            "IFF advanced": AdvancedFeatureFlow(),
            "FlowNet": FLOW_NETWORKS["flownet-s"](None),
            "FlowNet-C": FLOW_NETWORKS["flownet-c"](None),
        }
        for name, network in networks.items():
            work = network.remember(Frame(image, features=features))
            frame = Frame(image, features=features, work=work)
            once = gmac(lambda network=network, frame=frame: network.remember(frame))  # type: ignore[misc]
            memory = Memory(image, features, work=work)
            each = gmac(lambda network=network, frame=frame, memory=memory: network(memory, frame))  # type: ignore[misc]
            costs[name] = (once, each)
    return costs


def print_models(as_json: bool = False) -> None:
    """The list on standard output, as a table or as JSON."""
    from rich.console import Console

    with Console(stderr=True).status("Counting what each method computes: half a minute"):
        table = list(rows())
    if as_json:
        print(json.dumps([asdict(row) for row in table], indent=1))
        return
    from rich.table import Table

    from keywarp.loading import with_weights

    title = (
        "Methods and variants, ResNet-101 where nothing is said: parameters (Mi = 2^20), 10^9 multiply-accumulates of "
        "a key and of a non-key frame at 600×1000\n(of each frame, for windows), speed-up over every frame that "
        "follows (004, Eq. 7; key frames every 10), latency in frames; and what the paper reports"
    )
    grid = Table(title=title, title_justify="left")
    grid.add_column("name", no_wrap=True)
    for column in ("Mi", "GMAC", "non-key", "Eq. 7", "latency", "mAP"):
        grid.add_column(column, justify="right", no_wrap=True)
    for column in ("frames/s", "in the paper"):
        grid.add_column(column, no_wrap=True)
    for row in table:
        grid.add_row(
            row.name,
            _cell(row.parameters_mi, 2),
            _cell(row.gmac_key, 1),
            _cell(row.gmac_non_key, 2),
            _cell(row.predicted_speedup, 2),
            str(row.latency_frames),
            *_reported(row.published),
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(grid)
    window = 2 * WINDOW_RADIUS
    for name, (once, each) in pair_costs().items():
        console.print(
            f"{name}: {once:.2f} GMAC a frame, {each:.2f} a pair, {once + window * each:.1f} for {window} pairs"
        )
    console.print("With weights, for --model: " + ", ".join(with_weights()) + ", and any torchvision/NAME")
    for model in pulled():
        console.print(f"Pulled: {model.name} from {model.address}", soft_wrap=True)
    console.print(
        "demo: Impression Network (--method impression-d, dff, sff or rfcn) with MobileNetV2 from ImageNet weights, "
        "trained at 192×320 on moving emoji of ImageNet VID's 30 classes (`keywarp data synthesize --size full --seed "
        "0`); for trying things out: of no use on real video, on other classes, or on much smaller things",
        soft_wrap=True,
    )


def show_model(model: str, as_json: bool = False) -> None:
    """What a weight file, the demo's or a pulled one by name, says of its model, on standard output."""
    from keywarp.loading import local_file

    file = local_file(model)
    if file is None:
        raise UserError(f"no weight file and no pulled model {model}; `keywarp models` lists what there is")
    description, digest = read_header(file), sha256_of(file)
    if as_json:
        print(json.dumps(description | {"sha256": digest}, indent=1, ensure_ascii=False))
        return
    for name, text in [*readable(description), ("SHA-256", digest)]:
        print(f"{name:14} {text}")


def pull_model(address: str, name: str | None, sha256: str | None) -> None:
    """Download a model into the cache, and say how to run it."""
    from keywarp.loading import known_models

    model = pull(address, name=name, sha256=sha256, taken=known_models())
    description = read_description(model.path)
    command = "segment" if description["arguments"].get("task") == "segmentation" else "detect"
    print(f"{model.path}: {description['method']}, {len(description['classes'])} classes, SHA-256 {model.sha256}")
    print(f"keywarp {command} VIDEO --model {model.name}")


def push_model(file: Path, address: str, private: bool) -> None:
    """Publish a weight file, and say how to get it."""
    target = push(file, address, private=private)
    print(f"{file}: SHA-256 {sha256_of(file)}")
    print(f"keywarp models pull {target}")


def _cell(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _reported(published: Published | None) -> tuple[str, str, str]:
    """Accuracy, speed, and name and source, as cells of the table."""
    if published is None:
        return "", "", ""
    accuracy = "–" if published.mean_ap is None else f"{published.mean_ap:.1f}"
    after = f" + {published.postprocess}" if published.postprocess else ""
    return accuracy, published.speed.split(",")[0], f"{published.title}{after} ({published.source})"
