"""The training loop, from the first step to the last: for detectors, segmentation and flow networks alike."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from keywarp.errors import InterruptedWorkError, UserError
from keywarp.interruption import StopRequest, terminable
from keywarp.training.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from keywarp.training.clips import Shares
from keywarp.training.config import TrainConfig
from keywarp.training.log import TrainingLog
from keywarp.training.processes import Processes
from keywarp.training.tasks import Task


@dataclass
class Progress:
    """How far a run is, as kept in its checkpoints. step: done so far. best, stale: the best validation, and how many
    have come since. measures, validated: of the last validation, and its step."""

    step: int = 0
    best: float = -math.inf
    stale: int = 0
    measures: dict[str, float] = field(default_factory=dict)
    validated: int = 0

    def is_due(self, config: TrainConfig) -> bool:
        """Whether a validation comes now that has not been done."""
        now = self.step >= config.steps or self.step % config.validate_every == 0
        return now and self.validated != self.step

    def is_over(self, config: TrainConfig) -> bool:
        """Whether all steps are done, or the recipe's patience is."""
        return self.step >= config.steps or 0 < config.patience <= self.stale


@dataclass(frozen=True)
class Run:
    """What a training run works with.

    task: the network with its loss. samples: number n to training sample. collate: samples to a batch with `to`,
    `names` and `warnings`. validate: measures of the network by name, the first one (the higher the better) decides
    which weights are the best. save: writes the network's weights under a name, with the measures.
    """

    task: Task
    samples: Dataset[Any]
    collate: Callable[[Any], Any]
    config: TrainConfig
    folder: Path
    save: Callable[[nn.Module, str, dict[str, float], int], None]
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    workers: int = 1
    resume: bool = False
    processes: Processes = field(default_factory=Processes)


@terminable()
def fit(run: Run) -> Progress:
    """Train; returns where it ended. Leaves in the folder last.ckpt, best and final weights, and log.jsonl.

    The result depends on the configuration and the data alone, not on interruptions: every step draws from its own
    seed, and is done whole or not at all. Raises InterruptedWorkError when the loss is not a number, naming the clips.
    """
    config, fabric = run.config, run.processes.start(run.config.precision)
    network = run.task.network
    optimiser = build_optimiser(run.task, config)
    mean = _running_mean(network, config)
    progress = Progress()
    if run.resume and (kept := read_checkpoint(run.folder / "last.ckpt")) is not None:
        progress = _restore(kept, network, optimiser, mean, config)
    task, optimiser = fabric.setup(run.task, optimiser)
    loader = _loader(run, progress.step, fabric.global_rank, fabric.world_size)
    log = TrainingLog(run.folder, config, progress.step, quiet=not fabric.is_global_zero)

    def checkpoint() -> None:
        if fabric.is_global_zero:
            averaged = None if mean is None else mean.module.state_dict()
            kept = Checkpoint(vars(progress), network.state_dict(), optimiser.state_dict(), averaged, config.to_json())
            log.guard("checkpoint", lambda: write_checkpoint(run.folder / "last.ckpt", kept))

    def judge() -> None:
        """Validate, and keep the weights if they are the best so far."""
        judged = network if mean is None else mean.module
        measures = _validated(run, judged)
        progress.measures = measures
        log.validation(progress.step, measures)
        value = next(iter(measures.values()))
        progress.validated = progress.step
        progress.stale = 0 if value > progress.best else progress.stale + 1
        if value > progress.best:
            progress.best = value
            if fabric.is_global_zero:
                log.guard("best weights", lambda: run.save(judged, "best", measures, progress.step))

    whole = True  # whether the network is as after a whole step
    batches: Iterator[Any] = iter(())
    try:
        batches = iter(loader)
        if run.validate is not None and progress.is_due(config):  # the run was interrupted in it
            judge()
            checkpoint()
        while not progress.is_over(config):
            with StopRequest() as stop:
                whole = False
                seed_step(config.seed, progress.step, fabric.global_rank)
                factor = config.factor(progress.step)
                for group in optimiser.param_groups:
                    group["lr"] = config.rate * group["share"] * factor
                sums: dict[str, float] = {}
                for part in range(config.accumulate):
                    with log.waiting():
                        batch = _next(batches)
                    log.warn(batch.warnings)
                    batch = batch.to(fabric.device)
                    with fabric.no_backward_sync(task, enabled=part + 1 < config.accumulate):
                        losses = task(batch)
                        total = torch.stack(list(losses.values())).sum()
                        _check(losses, batch.names, progress.step)
                        fabric.backward(total / config.accumulate)
                    for name, loss in losses.items():
                        sums[name] = sums.get(name, 0.0) + loss.item() / config.accumulate
                if config.clip_norm is not None:
                    fabric.clip_gradients(task, optimiser, max_norm=config.clip_norm, error_if_nonfinite=False)
                optimiser.step()
                optimiser.zero_grad()
                if mean is not None:
                    mean.update_parameters(network)
                progress.step += 1
                log.step(progress.step, run.processes.mean(sums), config.rate * factor)
                whole = True
            if any(run.processes.gather(stop.requested)):
                raise KeyboardInterrupt
            if run.validate is not None and progress.is_due(config):
                judge()
            if progress.is_over(config) or progress.step % config.save_every == 0:
                checkpoint()
        if progress.step < config.steps:
            log.say(f"no better validation in {progress.stale}: stopped at step {progress.step}")
    except KeyboardInterrupt:
        if whole:
            checkpoint()
        log.say(
            f"interrupted at step {progress.step}; --resume goes on from {'there' if whole else 'the last checkpoint'}"
        )
        raise
    finally:
        log.close()
        # A traceback that holds the iterator would keep the workers, for which Python waits at its end.
        getattr(batches, "_shutdown_workers", lambda: None)()
    if fabric.is_global_zero:
        run.save(network if mean is None else mean.module, "model", progress.measures, progress.step)
    fabric.barrier()
    return progress


def build_optimiser(task: Task, config: TrainConfig) -> torch.optim.Optimizer:
    """The recipe's optimiser over what trains; each group keeps its `share` of the learning rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in task.network.named_parameters():
        if not parameter.requires_grad:
            continue
        share = config.share(name)
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((share, decay), []).append(parameter)
    if not groups:
        raise UserError("nothing trains: every part of this model is fixed; give a method with a part that is not")
    options = [{"params": p, "share": share, "weight_decay": decay} for (share, decay), p in groups.items()]
    if config.optimiser == "adamw":
        return torch.optim.AdamW(options, config.rate)
    return torch.optim.SGD(options, config.rate, momentum=config.momentum)


def seed_step(seed: int, step: int, rank: int) -> None:
    """What is random inside the network at this step (anchors, forced updates) is so whether or not it was resumed."""
    torch.manual_seed((seed * 1_000_003 + step) * 4099 + rank)


def _loader(run: Run, step: int, rank: int, world: int) -> DataLoader[Any]:
    shares = Shares(run.config, start=step, rank=rank, world=world)
    return DataLoader(
        run.samples,
        batch_sampler=shares,
        collate_fn=run.collate,
        num_workers=run.workers,
        prefetch_factor=4 if run.workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_outlive_one_signal,
    )


def _outlive_one_signal(worker: int) -> None:
    """Ctrl-C and a cluster's SIGTERM reach every process of a job: the training process ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _next(batches: Iterator[Any]) -> Any:
    """The next batch. A reading process wraps its error's message in a traceback; it comes out as it was."""
    try:
        return next(batches)
    except (InterruptedWorkError, UserError) as error:
        kind = type(error)
        raise kind(str(error).rstrip().rsplit(f"{kind.__name__}: ", 1)[-1]) from None


def _running_mean(network: nn.Module, config: TrainConfig) -> AveragedModel | None:
    if not config.ema:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=False)


def _restore(
    kept: Checkpoint,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    mean: AveragedModel | None,
    config: TrainConfig,
) -> Progress:
    differing = [name for name, value in config.to_json().items() if kept.config.get(name) != value]
    if differing:
        pairs = ", ".join(f"{n} {kept.config.get(n)} (now {config.to_json()[n]})" for n in differing[:3])
        raise UserError(f"--resume: the run was started with {pairs}; give the same, or another --output")
    network.load_state_dict(kept.network)
    optimiser.load_state_dict(dict(kept.optimiser))
    if mean is not None and kept.mean is not None:
        mean.module.load_state_dict(kept.mean)
        mean.n_averaged.fill_(kept.progress["step"])
    return Progress(**kept.progress)


def _check(losses: dict[str, torch.Tensor], names: list[str], step: int) -> None:
    broken = [name for name, loss in losses.items() if not torch.isfinite(loss)]
    if broken:
        raise InterruptedWorkError(
            f"the loss {', '.join(broken)} is not a number at step {step}, on {', '.join(names)}; "
            "lower the learning rate (--rate), or look at these clips"
        )


def _validated(run: Run, network: nn.Module) -> dict[str, float]:
    assert run.validate is not None
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    start = time.perf_counter()
    measures = run.validate(network)
    for module, mode in modes:
        module.training = mode
    return {n: float(v) for n, v in measures.items()} | {"seconds": round(time.perf_counter() - start, 1)}
