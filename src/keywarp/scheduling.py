"""Which frames are key frames, and in which order frames are processed. Integers only, no tensors, no state.

A scheduler is asked again and again for the next `Step`, given
    pending   the frames that have arrived and have no result yet, ascending
    last_key  the key frame processed last, None at the start of a video
    ended     no further frame will come
    key_due   the quality check (`accept`) has just refused the first pending frame
and answers None when it has to wait for more frames. Frames are numbered from 0 at the start of a video.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from keywarp.errors import UserError
from keywarp.structures import Step

SIGNS = {"interval": "l", "radius": "r", "gamma": "γ"}
"""What tables call a scheduler's parameters."""


class Scheduler(ABC):
    """The order of work. `latency` is how many frames a result may trail behind its frame."""

    latency: int = 0

    @abstractmethod
    def next_step(
        self, pending: Sequence[int], last_key: int | None, ended: bool, key_due: bool = False
    ) -> Step | None:
        """The next step, or None while more frames are needed."""

    def accept(self, quality: Tensor | None) -> int | None:
        """How many frames of a non-key step stand, counted from its first; None = all of them.

        quality: `[N, 1, h, w]` of the step's alignment.
        """
        return None

    def expires(self, index: int, pending_start: int, last_key: int) -> bool:
        """Whether the memory of frame `index` can be dropped, now that results before `pending_start` are out."""
        return index != last_key


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class FixedInterval(Scheduler):
    """A key frame every `interval` frames, the first of its segment (004, Algorithm 1; interval 1 = every frame).

    Latency 0: a live frame is answered at once. The non-key frames of a segment that have arrived go in one step.
    """

    interval: int

    def __post_init__(self) -> None:
        _positive("interval", self.interval)

    def next_step(
        self, pending: Sequence[int], last_key: int | None, ended: bool, key_due: bool = False
    ) -> Step | None:
        return _segment_step(pending, last_key, ended, self.interval, position=0)


@dataclass(frozen=True)
class SegmentCentre(Scheduler):
    """A key frame at `position` of every segment of `interval` frames, by default the middle one (002, 003).

    Frames before the key wait for it; `position` = 0 … interval − 1, default interval // 2 − 1 (PSLA: 4 of 10;
    Impression Network: 5 of 10). In a last, shorter segment the key is its last frame at the latest.
    """

    interval: int
    position: int | None = None

    def __post_init__(self) -> None:
        _positive("interval", self.interval)
        if not 0 <= self.key < self.interval:
            raise UserError(f"position must be 0 to {self.interval - 1} for interval {self.interval}, got {self.key}")

    @property
    def key(self) -> int:
        """The key frame's position in its segment."""
        return max(self.interval // 2 - 1, 0) if self.position is None else self.position

    @property
    def latency(self) -> int:  # type: ignore[override]
        return self.key

    def next_step(
        self, pending: Sequence[int], last_key: int | None, ended: bool, key_due: bool = False
    ) -> Step | None:
        return _segment_step(pending, last_key, ended, self.interval, self.key)


def _segment_step(
    pending: Sequence[int], last_key: int | None, ended: bool, interval: int, position: int
) -> Step | None:
    if not pending:
        return None
    start = pending[0] // interval * interval  # first frame of the segment of the next result
    if last_key is None or last_key < start:
        key = start + position
        if pending[-1] < key:
            if not ended:
                return None
            key = pending[-1]
        return Step((key,), is_key=True, references=() if last_key is None else (last_key,))
    return Step(tuple(i for i in pending if i < start + interval), is_key=False, references=(last_key,))


@dataclass(frozen=True)
class SlidingWindow(Scheduler):
    """Every frame gathers from the frames within `radius` before and after it, itself included (FGFA, IFF-Net).

    A frame's features are computed once (a key step that emits nothing) and stay in the window; its result follows
    when the window is full. At the ends of the video the window is cut.
    """

    radius: int

    def __post_init__(self) -> None:
        if self.radius < 0:
            raise UserError(f"radius must be at least 0, got {self.radius}")

    @property
    def latency(self) -> int:  # type: ignore[override]
        return self.radius

    def next_step(
        self, pending: Sequence[int], last_key: int | None, ended: bool, key_due: bool = False
    ) -> Step | None:
        if not pending:
            return None
        current, last = pending[0], pending[-1]
        computed = -1 if last_key is None else last_key
        wanted = min(current + self.radius, last)
        if computed < wanted:
            return Step((computed + 1,), is_key=True, emits=False)
        if wanted < current + self.radius and not ended:
            return None
        window = tuple(range(max(current - self.radius, 0), wanted + 1))
        return Step((current,), is_key=False, references=window)

    def expires(self, index: int, pending_start: int, last_key: int) -> bool:
        return index < pending_start - self.radius


@dataclass(frozen=True)
class AdaptiveInterval(Scheduler):
    """A new key frame where the alignment to the last one gets poor (001, Eq. 9): mean(quality ≤ τ) > γ.

    gamma: largest share of poor cells. threshold: τ. longest: a key frame comes after so many frames in any case,
    which also bounds memory. One frame is aligned after the key frame, then two in one step, four and so on; those
    before the first poor one stand, so that what is aligned in vain is never more than what stands, and one frame.
    """

    gamma: float = 0.2
    threshold: float = 0.0
    longest: int = 100

    def __post_init__(self) -> None:
        _positive("longest", self.longest)
        if not 0 <= self.gamma <= 1:
            raise UserError(f"gamma must be 0 to 1 (a share of the cells), got {self.gamma}")

    def next_step(
        self, pending: Sequence[int], last_key: int | None, ended: bool, key_due: bool = False
    ) -> Step | None:
        if not pending:
            return None
        if last_key is None or key_due or pending[0] >= last_key + self.longest:
            return Step((pending[0],), is_key=True, references=() if last_key is None else (last_key,))
        ahead = min(2 * pending[0] - last_key, last_key + self.longest)
        return Step(tuple(i for i in pending if i < ahead), is_key=False, references=(last_key,))

    def accept(self, quality: Tensor | None) -> int | None:
        if quality is None:
            raise UserError(
                "AdaptiveInterval needs an aligner that estimates quality (001, Sec. 3.2); this one has none"
            )
        poor = (quality <= self.threshold).float().mean(dim=(1, 2, 3)) > self.gamma  # [N], Eq. 9
        return int(poor.int().argmax()) if bool(poor.any()) else None


@dataclass(frozen=True)
class KnownKeys(Scheduler):
    """Key frames that are known beforehand: an oracle's (001, section 3.3) or a shot detector's. Frame 0 is always one.

    keys: their indices. The non-key frames after one refer to it.
    """

    keys: frozenset[int]

    def next_step(
        self, pending: Sequence[int], last_key: int | None, ended: bool, key_due: bool = False
    ) -> Step | None:
        if not pending:
            return None
        current = pending[0]
        if last_key is None or (current in self.keys and current > last_key):
            return Step((current,), is_key=True, references=() if last_key is None else (last_key,))
        until = next((n for n, i in enumerate(pending) if i in self.keys), len(pending))
        return Step(tuple(pending[:until]), is_key=False, references=(last_key,))
