"""What a training run tells: a line now and then, log.jsonl and TensorBoard, warnings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from keywarp.files import write_atomically
from keywarp.training.config import TrainConfig

EVERY = 20.0
"""Seconds between two lines."""

WARNINGS = 20
"""So many are printed in full."""


class TrainingLog:
    """Writes every step to FOLDER/log.jsonl and TensorBoard's files; prints a line every `EVERY` seconds.

    start: the step that the run goes on from; later ones in the files are of a run that was killed, and are dropped.
    quiet: prints and writes nothing (of all processes but the first).
    """

    def __init__(self, folder: Path, config: TrainConfig, start: int, *, quiet: bool) -> None:
        self.config = config
        self.quiet = quiet
        self._console = Console(stderr=True, quiet=quiet)
        self._begin = self._shown = time.perf_counter()
        self._start = self._shown_step = start
        self._waited = self._waited_before = 0.0
        self._smooth: dict[str, float] = {}
        self._warnings = 0
        self._file: Any = None
        self._board: Any = None
        if not quiet:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "log.jsonl"
            kept = _until(path, start) if start and path.exists() else []
            write_atomically(path, "".join(kept))
            self._file = path.open("a", encoding="utf-8")
            self._board = _board(folder, start)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent here is time that training waits for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def step(self, step: int, losses: dict[str, float], rate: float) -> None:
        """One step was done; losses of it by name."""
        total = sum(losses.values())
        self._write({"step": step, "loss": total, "rate": rate} | losses)
        if self._board is not None:
            self.guard("TensorBoard's file", lambda: self._scalars({"loss": total, "rate": rate} | losses, step))
        for name, value in ({"loss": total} | losses).items():
            self._smooth[name] = 0.95 * self._smooth.get(name, value) + 0.05 * value
        now = time.perf_counter()
        if now - self._shown >= EVERY or step == self.config.steps or step == self._start + 1:
            self._line(step, now, rate)

    def _line(self, step: int, now: float, rate: float) -> None:
        spent, done = max(now - self._shown, 1e-9), step - self._shown_step
        waited = (self._waited - self._waited_before) / spent
        left = (self.config.steps - step) * (now - self._begin) / max(step - self._start, 1)
        parts = " ".join(f"{name} {value:.3f}" for name, value in self._smooth.items())
        speed = f"{done * self.config.images_per_step / spent:.1f} images/s, {waited:.0%} waiting for data"
        self.say(f"{step}/{self.config.steps}  {parts}  rate {rate:.2g}  {speed}, {_memory()}, {_duration(left)} left")
        self._shown, self._shown_step, self._waited_before = now, step, self._waited

    def validation(self, step: int, measures: dict[str, float]) -> None:
        """A validation was done."""
        self._write({"step": step, "validation": measures})
        if self._board is not None:
            named = {f"validation/{name}": value for name, value in measures.items()}
            self.guard("TensorBoard's file", lambda: self._scalars(named, step))
        self.say(f"{step}/{self.config.steps}  validation: " + " ".join(f"{n} {v:.4g}" for n, v in measures.items()))
        self._shown = time.perf_counter()

    def warn(self, warnings: Sequence[str]) -> None:
        """Things that went wrong without stopping the run."""
        for warning in warnings:
            self._warnings += 1
            if self._warnings <= WARNINGS:
                self.say(f"warning: {warning}")
            if self._warnings == WARNINGS:
                self.say("further warnings go to log.jsonl only")
            self._write({"warning": warning})

    def guard(self, what: str, write: Callable[[], None]) -> None:
        """Write; a full disk costs that file and a warning, not the run."""
        try:
            write()
        except OSError as error:
            self.say(f"warning: {what} could not be written ({error.strerror or error}); training goes on")

    def say(self, line: str) -> None:
        """Print a line to standard error."""
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def close(self) -> None:
        """Close the files."""
        for file in (self._file, self._board):
            if file is not None:
                self.guard("the log", file.close)

    def _write(self, row: dict[str, Any]) -> None:
        if self._file is not None:

            def write() -> None:
                self._file.write(json.dumps(row) + "\n")
                self._file.flush()

            self.guard("log.jsonl", write)

    def _scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def _until(path: Path, step: int) -> list[str]:
    """The lines of a log up to a step."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:  # the last line of a killed run
            break
        if row.get("step", 0) > step:
            break
        kept.append(line)
    return kept


def _board(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)


def _memory() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of GPU memory"
    import psutil

    return f"{psutil.Process().memory_info().rss / 2**30:.1f} GiB"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
