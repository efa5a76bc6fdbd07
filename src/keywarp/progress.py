"""How far the work is, and where the time goes."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from keywarp.transform import ImageTransform


class Timer:
    """Seconds spent in each part of the work; time in a part inside another counts for the inner one only.

    with timer("decode"):
        ...

    clock: seconds since whenever.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._clock = clock
        self._inner = 0.0

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        outer, self._inner = self._inner, 0.0
        start = self._clock()
        try:
            yield
        finally:
            spent = self._clock() - start
            self.seconds[part] += spent - self._inner
            self._inner = outer + spent

    def milliseconds(self, frames: int) -> dict[str, float]:
        """By part, for each of so many frames."""
        return {part: round(1000 * spent / max(frames, 1), 2) for part, spent in self.seconds.items()}


class TimedTransform:
    """A model's transform, whose work on a frame is the timer's part "preprocess"."""

    def __init__(self, transform: ImageTransform, timer: Timer) -> None:
        self._transform = transform
        self._timer = timer

    def __call__(self, image: Any) -> Tensor:
        with self._timer("preprocess"):
            return self._transform(image)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transform, name)


class ProgressBar:
    """A bar on standard error: frames a second, key frames, time left; nothing where that is no terminal."""

    def __init__(self, name: str, total: int | None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.fields[of]}  {task.fields[speed]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(name, total=total, of=total or "?", speed="")
        self._start = time.perf_counter()

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, done: int, worked: int, key_frames: int) -> None:
        """done: frames finished in all. worked: of them in this run."""
        rate = worked / (time.perf_counter() - self._start)
        speed = f"{rate:.1f} frames/s  {key_frames / max(done, 1):.0%} key frames"
        self._progress.update(self._task, completed=done, speed=speed)
