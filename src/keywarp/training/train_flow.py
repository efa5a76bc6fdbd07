"""`keywarp train-flow`: a flow network from pairs with exact flow, before it is trained along with a method.

Legend: N pairs · (H, W) pixels · (h, w) cells of a prediction
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keywarp.alignment.flownet import FLOW_NETWORKS, FlowNet
from keywarp.data.datasets import UnreadableFrameError
from keywarp.data.flow_pairs import FlowPairs, flow_splits, open_flow_pairs
from keywarp.errors import InterruptedWorkError, UserError, unknown
from keywarp.networks.weight_files import save_model
from keywarp.options import TrainFlowOptions
from keywarp.structures import Frame, Memory
from keywarp.training.config import TrainConfig
from keywarp.training.flow_recipes import flow_recipe
from keywarp.training.flow_samples import FlowBatch, FlowSamples, collate_flow
from keywarp.training.flow_weights import load_flow
from keywarp.training.loop import Run, fit
from keywarp.training.processes import Processes
from keywarp.training.tasks import Task
from keywarp.training.train import configured, plan_of, prepare, say, trained

__all__ = ["FlowTask", "load_flow", "multi_scale_error", "train_flow"]

STRIDES = (128, 64, 32, 16, 16)
"""Pixels that a cell of each prediction spans, coarsest first."""

WEIGHTS = (0.25, 0.25, 0.25, 0.5, 1.0)
"""FlowNet's 0.32, 0.08, 0.02, 0.01, 0.005 of sums over cells, as weights of means: each level has four times the cells
of the one before."""


def train_flow(name: str, options: TrainFlowOptions) -> None:
    """Train the flow network of this name; weights, checkpoints and logs go to `options.output`."""
    if name not in FLOW_NETWORKS:
        raise unknown("flow network", name, FLOW_NETWORKS)
    if options.threads:
        torch.set_num_threads(options.threads)
    processes = Processes(options.device)
    config = _configured(options)
    pairs = open_flow_pairs(options.data)
    held_out_in = options.val or (options.data if "val" in flow_splits(options.data) else None)
    held_out = None if held_out_in is None else open_flow_pairs(held_out_in, "val")
    torch.manual_seed(config.seed)
    network = FLOW_NETWORKS[name](scale_channels=None).train()
    if options.init is None:
        _stand_still(network)
    else:
        load_flow(network, options.init)
    prepare(options.output, options.resume)
    run = Run(
        task=FlowTask(network),
        samples=FlowSamples(pairs, config),
        collate=collate_flow,
        config=config,
        folder=options.output,
        save=_saving(name, options.output, config, options.data),
        validate=None if held_out is None else end_point_error(held_out, processes),
        workers=options.workers,
        resume=options.resume,
        processes=processes,
    )
    if processes.rank == 0:
        say(f"{name} on {options.data}: {len(pairs)} pairs, {trained(network)}")
        say(plan_of(config))
    fit(run)


class FlowTask(Task):
    """A flow network's end-point error at every level of its refinement."""

    def __init__(self, network: FlowNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: FlowBatch) -> dict[str, Tensor]:
        assert isinstance(self.network, FlowNet)
        current, reference = batch.images.unbind(1)
        return multi_scale_error(self.network.pyramid(Memory(reference, ()), Frame(current)), batch.flow)


def multi_scale_error(predictions: Sequence[Tensor], flow: Tensor) -> dict[str, Tensor]:
    """FlowNet's loss (Dosovitskiy et al. 2015, 5.1): end-point errors in pixels, weighted, by the levels' names.

    predictions: of `FlowNet.pyramid`, each `[N, 2, h, w]` in cells. flow: `[N, 2, H, W]` in pixels, NaN where unknown;
    a cell's is the mean over what is known in it, and it counts by how much that is.
    """
    losses = {}
    for level, (prediction, stride, weight) in enumerate(zip(predictions, STRIDES, WEIGHTS, strict=True)):
        wanted, share = of_cells(flow, stride)
        error = (prediction.float() * stride - wanted).norm(dim=1, keepdim=True)
        name = "EPE" if level + 1 == len(STRIDES) else f"EPE {stride}"
        losses[name] = weight * (error * share).sum() / share.sum().clamp(min=1e-6)
    return losses


def of_cells(flow: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """The mean flow in each cell, `[N, 2, h, w]`, and the share of the cell where flow is known, `[N, 1, h, w]`."""
    known = ~flow.isnan().any(dim=1, keepdim=True)
    share = F.avg_pool2d(known.float(), stride, ceil_mode=True)
    return F.avg_pool2d(flow.where(known, 0), stride, ceil_mode=True) / share.clamp(min=1e-6), share


def end_point_error(pairs: FlowPairs, processes: Processes) -> Callable[[nn.Module], dict[str, float]]:
    """A function from a flow network to its measures on all pairs, each process running its share of them.

    EPE: mean over all pixels of the distance between the flow that the network gives, resized to the images, and the
    exact one, in pixels. zero: the same of no motion at all. ratio: of the two. explained: 1 − ratio. cells: the ratio
    at the cells in which the flow is used, where the exact flow is the mean over the cell.
    """

    @torch.inference_mode()
    def measure(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        sums = torch.zeros(5, dtype=torch.float64)
        for index in range(processes.rank, len(pairs), processes.world):
            try:
                pair = pairs[index]
            except UnreadableFrameError:
                continue
            current, reference, exact = (
                torch.from_numpy(array.copy()).permute(2, 0, 1)[None].to(device) for array in vars(pair).values()
            )
            cells = network(Memory(reference, ()), Frame(current)).flow
            sums += _errors(cells, exact).cpu()
        error, zero, count, in_cells, zero_in_cells = torch.stack(processes.gather(sums)).sum(0).tolist()
        if not count:
            raise InterruptedWorkError(f"none of the {len(pairs)} pairs of {pairs.name} can be read")
        ratio = error / max(zero, 1e-9)
        return {
            "explained": 1 - ratio,
            "EPE": error / count,
            "zero": zero / count,
            "ratio": ratio,
            "cells": in_cells / max(zero_in_cells, 1e-9),
        }

    return measure


def _errors(cells: Tensor, exact: Tensor) -> Tensor:
    """`[5]`: summed over pixels the errors of this flow in cells and of none, and 1; the errors summed over cells."""
    known = ~exact.isnan().any(dim=1)
    pixels = [(in_pixels(cells, exact.shape[-2:]) - exact).norm(dim=1)[known], exact.norm(dim=1)[known], known]
    wanted, share = of_cells(exact, STRIDES[-1])
    coarse = [(flow.norm(dim=1, keepdim=True) * share) for flow in (cells * STRIDES[-1] - wanted, wanted)]
    return torch.stack([values.sum().double() for values in (*pixels, *coarse)])


def in_pixels(flow: Tensor, size: Sequence[int]) -> Tensor:
    """Flow `[N, 2, h, w]` in feature cells as `[N, 2, H, W]` in pixels, bilinear between the cells' middles."""
    stride = STRIDES[-1]
    whole = F.interpolate(flow.float() * stride, scale_factor=stride, mode="bilinear", align_corners=False)
    return whole[..., : size[0], : size[1]]


def _stand_still(network: FlowNet) -> None:
    """Let the network start from no motion: from random flow, the first steps would go into undoing that."""
    for head in (*network.decoder.flows, network.flow):
        assert isinstance(head, nn.Conv2d)
        nn.init.zeros_(head.weight)


def _configured(options: TrainFlowOptions) -> TrainConfig:
    config = configured(flow_recipe(options.recipe), options)
    if options.crop is not None:
        config = replace(config, model={**config.model, "crop": options.crop})
    crop = config.model.get("crop", ())
    if len(crop) != 2 or any(side < 64 or side % 64 for side in crop):
        raise UserError(f"--crop must be a height and a width that are multiples of 64, got {tuple(crop)}")
    return config


def _saving(name: str, folder: Path, config: TrainConfig, data: str) -> Callable[..., None]:
    """A function that writes the network's weights with how they came about."""

    def save(network: nn.Module, file: str, measures: dict[str, float], step: int) -> None:
        path = folder / f"{file}.safetensors"
        training = {"data": [data], "step": step, "config": config.to_json()}
        digest = save_model(path, network, {"flow": name, "metrics": measures, "training": training})
        say(f"{path}: SHA-256 {digest}")

    return save
