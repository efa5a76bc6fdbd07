"""What a model spends its time on, part by part. The parts know nothing of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, cast

import torch

from keywarp.alignment.correspondence import Correspondence
from keywarp.model import VideoModel
from keywarp.progress import TimedTransform, Timer
from keywarp.transform import ImageTransform

Clock = Callable[[], float]

_METHODS = (  # a part of the model, its method, and what that counts as
    ("feature_network", "forward", "feature network"),
    ("updater", "key_features", "feature network"),
    ("feature_network", "low", "lower layers"),
    ("transform_net", "forward", "transform net"),
    ("aligner", "forward", "alignment"),
    ("aligner", "remember", "alignment"),
    ("updater", "forward", "updating"),
    ("aggregator", "forward", "aggregation"),
    ("aggregator", "describe", "aggregation"),
    ("head", "forward", "head"),
)
REST = "the rest"
ORDER = (
    "decode",
    "preprocess",
    "feature network",
    "lower layers",
    "transform net",
    "alignment",
    "propagate",
    "updating",
    "aggregation",
    "head",
    "postprocess",
)


def in_order(parts: Iterable[str]) -> list[str]:
    """The names of parts, each once: in the order of the work, then those that it does not know, then the rest."""
    found = set(parts)
    return [*(p for p in ORDER if p in found), *sorted(found - {*ORDER, REST}), *({REST} & found)]


def clock_for(device: torch.device, threads: int) -> tuple[Clock, str]:
    """The clock that is disturbed least, and what it reads.

    On one thread the process's CPU time; on several, wall time; on a GPU wall time when all that was asked of it is
    done, so that every part gets its own.
    """
    if device.type == "cuda":

        def finished() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return finished, "wall time, GPU waited for"
    return (time.process_time, "CPU time") if threads == 1 else (time.perf_counter, "wall time")


@contextmanager
def part_times(model: VideoModel, clock: Clock) -> Iterator[dict[str, float]]:
    """Seconds that each part of the model has taken since the context was opened, of those that did something.

    preprocess: resizing. lower layers: what the transform net is fed with. alignment: estimating flow or attention.
    propagate: carrying features with it. head: with its suppression of overlapping boxes. postprocess: boxes back in
    the frame's own pixels and on the CPU, or classes of its pixels. A part inside another (the feature network that
    an update calls) counts once, as itself.
    """
    timer = Timer(clock)
    with ExitStack() as stack:

        def replace(owner: object, name: str, value: object) -> None:
            vars(owner)[name] = value
            stack.callback(vars(owner).pop, name)

        for part, method, name in _METHODS:
            if (owner := getattr(model, part)) is not None:
                replace(owner, method, _timed(timer, name, getattr(owner, method)))
        for kind in Correspondence.__subclasses__():
            stack.callback(setattr, kind, "propagate", kind.propagate)
            kind.propagate = _timed(timer, "propagate", kind.propagate)  # type: ignore[method-assign]
        plain, transform = model.transform, TimedTransform(model.transform, timer)
        replace(transform, "restore", _timed(timer, "postprocess", lambda *given: plain.restore(*given).cpu()))
        replace(transform, "restore_classes", _timed(timer, "postprocess", plain.restore_classes))
        stack.callback(setattr, model, "transform", plain)
        model.transform = cast(ImageTransform, transform)
        yield timer.seconds


def _timed(timer: Timer, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def timed(*arguments: Any) -> Any:
        with timer(part):
            return function(*arguments)

    return timed
