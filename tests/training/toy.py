"""A small annotated data set in memory: coloured rectangles that move, one class a colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keywarp.data.datasets import Annotation, Frames, UnreadableFrameError, Video, VideoDataset

COLOURS = np.array([[220, 40, 40], [40, 200, 40], [50, 70, 230]], np.uint8)
SIZE = (64, 96)


class ToyFrames(Frames):
    def __init__(self, seed: int, length: int, broken: Sequence[int] = ()) -> None:
        self.seed, self.length, self.broken = seed, length, broken

    def __len__(self) -> int:
        return self.length

    @property
    def source(self) -> str:
        return f"toy-{self.seed}"

    def read(self, indices: Sequence[int]) -> list[np.ndarray]:
        if set(indices) & set(self.broken):
            raise UnreadableFrameError(f"{self.source}: frame {min(set(indices) & set(self.broken))} is broken")
        images = []
        for t in indices:
            image = np.random.default_rng(self.seed).integers(90, 130, (*SIZE, 3)).astype(np.uint8)
            x0, y0, x1, y1 = box(self.seed, t)
            image[y0:y1, x0:x1] = COLOURS[self.seed % 3]
            images.append(image)
        return images


class ToyVideo(Video):
    def __init__(
        self,
        seed: int,
        length: int = 12,
        first: int = 0,
        step: int = 1,
        broken: Sequence[int] = (),
        empty: bool = False,
    ) -> None:
        self.name = f"toy-{seed}"
        self.seed = seed
        self.frames = ToyFrames(seed, length, broken)
        self.labelled = range(first, length, step)
        self.empty = empty

    def annotation(self, index: int) -> Annotation:
        if self.empty:
            return Annotation()
        x0, y0, x1, y1 = box(self.seed, index)
        mask = np.zeros(SIZE, np.uint8)
        mask[y0:y1, x0:x1] = self.seed % 3 + 1
        return Annotation(
            np.array([[x0, y0, x1, y1]], np.float32), np.array([self.seed % 3]), np.array([self.seed]), mask
        )


def box(seed: int, t: int) -> tuple[int, int, int, int]:
    """The rectangle of a video at a time: it drifts right."""
    rng = np.random.default_rng([seed, 7])
    x, y, w, h = rng.integers([4, 4, 24, 24], [30, 24, 36, 36])
    return int(x + 2 * t), int(y), int(x + 2 * t + w), int(min(y + h, SIZE[0]))


def toy(videos: int = 3, *, masks: bool = False, **options) -> VideoDataset:
    made = [ToyVideo(seed, **options) for seed in range(videos)]
    return VideoDataset("toy", ("red", "green", "blue"), made, ("ground", "red", "green", "blue") if masks else ())
