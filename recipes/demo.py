"""Trains the small R-FCN / Deep Feature Flow pair of the demo, and makes the demo's clip.

    python recipes/demo.py --output src/keywarp/assets       (about 25 minutes on two CPU cores)

On synthetic clips of shapes (`keywarp.data.synthetic`), in five steps: the feature network on what each cell shows (in
place of ImageNet: R-FCN alone does not learn from scratch in so short a time); the R-FCN head on its features, then
both together, on single frames; the flow network on exact flow; then all on pairs 0 ≤ i − k ≤ 4 (004, section 3). From
the second step on the batch norms' statistics stay fixed, as in the papers. Training clips have seeds below 10⁶; the
demo's clip and the printed AP use seeds from 10⁶ on, which no training step sees. The weights that ship print mAP
0.877 per frame and 0.775, 0.595 and 0.309 with key frames every 3, 5 and 10.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from keywarp.alignment.flownet import FlowNet
from keywarp.data.datasets import Annotation
from keywarp.data.synthetic import CLASSES, SyntheticClip, synthetic_clip
from keywarp.data.video_writer import VideoWriter
from keywarp.evaluation.average_precision import AveragePrecision
from keywarp.evaluation.truth import Truth
from keywarp.methods import dff
from keywarp.model import VideoModel
from keywarp.networks.resnet import freeze
from keywarp.networks.weight_files import save_model
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import FixedInterval
from keywarp.structures import Frame, Memory, Step, VideoDetections

HELD_OUT = 1_000_000
SIZE = (240, 320)
KEY = (Step((0,), is_key=True),)
PAIR = (Step((0,), is_key=True), Step((1,), is_key=False, references=(0,)))


def build() -> VideoModel:
    """The demo's model, untrained."""
    return dff(
        "resnet-tiny",
        flow="flownet-tiny",
        interval=3,
        num_classes=len(CLASSES),
        classes=CLASSES,
        shorter=SIZE[0],
        longer=SIZE[1],
        anchor_scales=(1.5, 3, 6),
    )


Batch = tuple[Tensor, list[dict[str, Tensor]], Tensor, Tensor]


class Pairs(IterableDataset[Batch]):
    """Endless batches drawn from a seed: clips `[B, 2, 3, H, W]` of a key frame and one up to `furthest` frames later,
    the later one's targets, its flow to the key `[B, 2, H, W]` in pixels, and what its cells show `[B, 5, h, w]`."""

    def __init__(self, seed: int, furthest: int = 9, batch: int = 8) -> None:
        self.seed = seed
        self.furthest = furthest
        self.batch = batch

    def __iter__(self) -> Iterator[Batch]:
        rng = np.random.default_rng(self.seed)
        while True:
            images, targets, flows, cells = [], [], [], []
            for _ in range(self.batch):
                clip = synthetic_clip(int(rng.integers(HELD_OUT)), size=SIZE)
                k = int(rng.integers(10))
                i = k + int(rng.integers(self.furthest + 1))
                boxes, labels = clip.boxes(i)
                images.append(np.stack([clip.frame(k), clip.frame(i)]))
                targets.append({"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)})
                flows.append(clip.flow(i, k))
                cells.append(shown(clip, i))
            clips = torch.from_numpy(np.stack(images)).permute(0, 1, 4, 2, 3)
            exact = torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2)
            yield clips, targets, exact, torch.from_numpy(np.stack(cells))


def shown(clip: SyntheticClip, t: int) -> np.ndarray:
    """For the centre of each cell its class (0 = background) and the distances to its object's edges in cells.

    `[5, h, w]`: class, left, top, right, bottom.
    """
    owner = clip.owner(t)[8::16, 8::16]
    y, x = np.mgrid[: owner.shape[0], : owner.shape[1]] * 16.0 + 8
    out = np.zeros((5, *owner.shape), np.float32)
    for n, shape in enumerate(clip.shapes):
        (x0, y0), (x1, y1) = shape.outline(t).min(0), shape.outline(t).max(0)
        edges = np.stack([x - x0, y - y0, x1 - x, y1 - y]) / 16
        out[:, owner == n] = np.concatenate([np.full_like(x, shape.label + 1)[None], edges])[:, owner == n]
    return out


def optimise(
    name: str,
    modules: list[nn.Module],
    losses_of: Callable[[Batch], dict[str, Tensor]],
    *,
    steps: int,
    rate: float,
    seed: int,
    furthest: int = 9,
) -> None:
    """AdamW with one cosine cycle on the sum of the losses."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.05)
    batches = DataLoader(Pairs(seed, furthest), batch_size=None, num_workers=1, prefetch_factor=8)
    start, smooth = time.time(), 0.0
    for step, batch in zip(range(1, steps + 1), batches, strict=False):
        loss = torch.stack(list(losses_of(batch).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10)
        optimiser.step()
        schedule.step()
        smooth = loss.item() if step == 1 else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0 or step == steps:
            print(f"{name} {step}/{steps}: loss {smooth:.3f}, {(time.time() - start) / step:.2f} s a step", flush=True)


def train(model: VideoModel, scale: float = 1.0) -> None:
    """The five steps, all shortened by `scale`."""
    aligner = model.aligner
    assert isinstance(aligner, FlowNet)

    cell_head = nn.Conv2d(model.feature_network.channels, 1 + len(CLASSES) + 4, 1)

    def cells(batch: Batch) -> dict[str, Tensor]:
        clips, _, _, wanted = batch
        predicted = cell_head(model.feature_network(clips[:, 1])[0])
        label, edges = wanted[:, 0].long(), wanted[:, 1:]
        error = F.smooth_l1_loss(predicted[:, -4:], edges, reduction="none").sum(1)[label > 0].sum()
        weight = torch.tensor([0.2] + [1.0] * len(CLASSES))
        return {
            "class": F.cross_entropy(predicted[:, :-4], label, weight),
            "edges": error / (label > 0).sum().clamp(min=1),
        }

    def per_frame(batch: Batch) -> dict[str, Tensor]:
        clips, targets, _, _ = batch
        return model.loss(clips[:, 1:], KEY, targets)

    def flow(batch: Batch) -> dict[str, Tensor]:
        clips, _, exact, _ = batch
        losses = {}
        for level, predicted in enumerate(aligner.pyramid(Memory(clips[:, 0], ()), Frame(clips[:, 1]))):
            size = predicted.shape[-2:]
            target = F.interpolate(exact, size, mode="area") * (size[1] / SIZE[1])  # in the level's cells
            losses[f"end-point error {level}"] = (predicted - target).norm(dim=1).mean()
        return losses

    def both(batch: Batch) -> dict[str, Tensor]:
        clips, targets, _, _ = batch
        # The end-point error stays in as an anchor: the clips are few steps long, the flow must not forget.
        return model.loss(clips, PAIR, targets) | flow(batch)

    detector = [model.feature_network, model.head]
    model.train()
    optimise("cells", [model.feature_network, cell_head], cells, steps=round(1200 * scale), rate=2e-3, seed=0)
    freeze(model, stages=0)
    optimise("R-FCN head", [model.head], per_frame, steps=round(600 * scale), rate=2e-3, seed=1)
    report(model, 1)
    optimise("R-FCN", detector, per_frame, steps=round(1200 * scale), rate=2e-4, seed=2)
    report(model, 1)
    optimise("flow", [aligner], flow, steps=round(2000 * scale), rate=6e-4, seed=3)
    report(model, 3)
    optimise("DFF", [model], both, steps=round(400 * scale), rate=1e-4, seed=4, furthest=4)
    model.eval()


def mean_ap(model: VideoModel, interval: int, clips: int = 20) -> float:
    """AP at IoU 0.5, mean over the classes, on held-out clips."""
    model.scheduler = FixedInterval(interval)
    precision = AveragePrecision(len(CLASSES), threshold=0.5)
    for seed in range(HELD_OUT, HELD_OUT + clips):
        clip = synthetic_clip(seed, size=SIZE)
        results = VideoPredictor(model).run(clip.frame(t) for t in range(clip.length))
        found = VideoDetections.of([r.detections for r in results if r.detections is not None])
        precision.add(found, Truth.of_frames([Annotation(*clip.boxes(t)) for t in range(clip.length)]))
    return precision.result().mean["all"]


def report(model: VideoModel, interval: int) -> None:
    """Print how good the model is on held-out clips."""
    training = model.training
    value = mean_ap(model.eval(), interval)
    print(f"mAP at IoU 0.5 on held-out clips, key frame every {interval}: {value:.3f}", flush=True)
    model.train(training)


def make_clip(path: Path, seed: int, length: int = 150) -> None:
    """The demo's clip as H.264, 25 frames a second."""
    clip: SyntheticClip = synthetic_clip(seed, length=length, size=SIZE)
    with VideoWriter(path, width=SIZE[1], height=SIZE[0], fps=25) as writer:
        for t in range(length):
            writer.write(clip.frame(t), t / 25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the training steps")
    parser.add_argument("--clip-only", action="store_true")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    make_clip(arguments.output / "demo.mp4", seed=HELD_OUT + 500)
    if arguments.clip_only:
        return
    torch.manual_seed(0)
    torch.set_num_threads(1)  # drawing the clips takes the other core
    model = build()
    train(model, arguments.scale)
    for interval in (1, 3, 5, 10):
        report(model, interval)
    path = arguments.output / "demo.safetensors"
    print(path, "SHA-256", save_model(path, model, model.description | {"classes": CLASSES}, half=True))


if __name__ == "__main__":
    main()
