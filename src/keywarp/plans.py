"""What a training clip consists of: which frames around the labelled one, and the steps that they go through.

The same steps, carried out by the same `VideoModel.run`, as at inference; a clip stands in for a video.
"""

from __future__ import annotations

from dataclasses import dataclass

from keywarp.structures import Step


@dataclass(frozen=True)
class TrainingPlan:
    """A clip and its steps.

    offsets: of every frame but the last, the labelled one, the range (first, last) relative to it from which the frame
    is drawn. distinct: the drawn offsets differ. steps: over the clip's frames 0 … len(offsets), the labelled one last.
    repeats_stills: a still image stands for every frame of its clip; otherwise it goes through one key step.
    """

    offsets: tuple[tuple[int, int], ...]
    steps: tuple[Step, ...]
    distinct: bool = False
    repeats_stills: bool = False

    @property
    def length(self) -> int:
        """Frames of a clip."""
        return len(self.offsets) + 1


SINGLE = TrainingPlan((), (Step((0,), is_key=True),))
"""The labelled frame alone: per-frame methods; and still images, where they are not repeated."""


def pair(interval: int) -> TrainingPlan:
    """Key frame k, then frame i with 0 ≤ i − k ≤ l − 1 (004, section 3; 001, section 3.4)."""
    steps = (Step((0,), is_key=True), Step((1,), is_key=False, references=(0,)))
    return TrainingPlan(((1 - interval, 0),), steps)


def triplet(interval: int) -> TrainingPlan:
    """Old key frame at [−l, −l/2], new key frame at [−l/2, l/2], then the current frame (002, 4.1; 003, 3.2)."""
    half = interval // 2
    steps = (
        Step((0,), is_key=True),
        Step((1,), is_key=True, references=(0,)),
        Step((2,), is_key=False, references=(1,)),
    )
    return TrainingPlan(((-interval, -half), (-half, half)), steps, repeats_stills=True)


def window(neighbours: int, radius: int = 9, *, with_current: bool) -> TrainingPlan:
    """Neighbours within ±radius, distinct, joined for the current frame (FGFA; 000, 4.1).

    with_current: the frame's own features are in the sum too. FGFA's authors leave them out in training.
    """
    frames = range(neighbours + 1)
    references = tuple(frames if with_current else frames[:-1])
    steps = (
        *(Step((t,), is_key=True, emits=False) for t in frames),
        Step((neighbours,), is_key=False, references=references),
    )
    return TrainingPlan(((-radius, radius),) * neighbours, steps, distinct=True, repeats_stills=True)
