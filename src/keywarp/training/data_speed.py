"""`keywarp benchmark data`: how fast clips are read, and how long training waits for them."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from keywarp.doctor import machine
from keywarp.errors import UserError
from keywarp.files import write_atomically
from keywarp.options import TrainOptions
from keywarp.training.clips import Batch, Shares, TrainingClips, collate
from keywarp.training.loop import build_optimiser
from keywarp.training.recipes import recipe
from keywarp.training.tasks import VideoTask
from keywarp.training.train import build, configured, open_data

WARM_UP = 2
"""Steps before the clock starts: worker processes start in them."""


@dataclass
class Reading:
    """What was measured with so many worker processes; a value a round.

    clips: a second, with nothing else running. images: labelled frames a second in training. waiting: the share of
    training's time that it waits for data.
    """

    workers: int
    clips: list[float] = field(default_factory=list)
    images: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)


def benchmark_data(
    dataset: str,
    *,
    method: str,
    recipe_name: str | None,
    workers: Sequence[int],
    steps: int,
    rounds: int,
    threads: int,
    output: Path | None,
) -> list[Reading]:
    """Measure, print a table, and write JSON to `output` if given. Counts of workers are interleaved in each round."""
    if min(steps, rounds, threads) < 1 or min(workers, default=-1) < 0:
        got = f"{steps}, {rounds}, {threads} and {','.join(map(str, workers))}"
        raise UserError(f"wanted --steps, --rounds, --threads of 1 or more and --workers of 0 or more, got {got}")
    torch.set_num_threads(threads)
    options = TrainOptions(data=(dataset,), steps=WARM_UP + steps)
    config = configured(recipe(recipe_name, method), options)
    datasets = open_data(options.data)
    model = build(method, config, options, datasets)
    clips = TrainingClips(datasets, model.training_plan, model.transform, config)
    task = VideoTask(model)
    optimiser = build_optimiser(task, config)

    def train(batch: Batch) -> None:
        torch.stack(list(task(batch).values())).sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    def loader(count: int) -> DataLoader[Batch]:
        shares = Shares(config, start=0)
        return DataLoader(clips, batch_sampler=shares, collate_fn=collate, num_workers=count)  # type: ignore[arg-type]

    readings = [Reading(count) for count in workers]
    for _ in range(rounds):
        for reading in readings:
            total, _ = _timed(loader(reading.workers), None)
            reading.clips.append(steps * config.images_per_step / total)
            total, waited = _timed(loader(reading.workers), train)
            reading.images.append(steps * config.images_per_step / total)
            reading.waiting.append(waited / total)
    setting = {
        "data": Path(dataset).name,
        "method": method,
        "frames a clip": model.training_plan.length,
        "input": f"{model.transform.shorter}/{model.transform.longer}",
        "threads": threads,
        "rounds": rounds,
        "steps": steps,
        "torch": torch.__version__,
        "machine": machine(),
    }
    _print(readings, setting)
    if output is not None:
        rows = [asdict(reading) for reading in readings]
        write_atomically(output, json.dumps({"setting": setting, "rows": rows}, indent=1))
    return readings


def _timed(loader: DataLoader[Batch], work: object) -> tuple[float, float]:
    """Seconds for all batches after the first ones, and how many of them were spent waiting for the loader."""
    waited, begin = 0.0, time.perf_counter()
    batches = iter(loader)
    for step in range(len(loader)):
        start = time.perf_counter()
        if step == WARM_UP:
            waited, begin = 0.0, start
        batch = next(batches)
        waited += time.perf_counter() - start
        if callable(work):
            work(batch)
    return time.perf_counter() - begin, waited


def _print(readings: Sequence[Reading], setting: dict[str, object]) -> None:
    table = Table(title=", ".join(f"{k} {v}" for k, v in setting.items()), title_justify="left")
    for column in ("workers", "clips/s, reading alone", "images/s, training", "waiting for data"):
        table.add_column(column, justify="right")
    for r in readings:
        values = [statistics.median(v) for v in (r.clips, r.images, r.waiting)]
        table.add_row(str(r.workers), f"{values[0]:.1f}", f"{values[1]:.1f}", f"{values[2]:.0%}")
    Console().print(table)
