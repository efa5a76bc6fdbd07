"""Runs a model over one video and owns all that must be remembered: images, memories, order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from keywarp.model import VideoModel, frame_of
from keywarp.structures import Detections, FrameResult, Memory, MotionChain, MotionField, Step, VideoFrame
from keywarp.transform import Placement


class VideoPredictor:
    """The state of one video. Any number of predictors may share a model.

        predictor = VideoPredictor(model)
        for result in predictor.run(video):       # a whole file, or
            ...
        results = predictor.push([frame])         # live: results that are ready, in order
        results += predictor.flush()              # the end of the video

    batch: at most so many frames go through the networks together. device: where the model lies by default.
    What is kept is bounded by the scheduler's window, never by the video's length. A frame of another size than the
    one before starts anew with a key frame.
    """

    def __init__(self, model: VideoModel, *, batch: int = 8, device: torch.device | str | None = None) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.model = model
        self.batch = batch
        self.device = torch.device(device) if device is not None else model.device
        self._pushed = 0
        self._restart()

    def _restart(self) -> None:
        self._origin = self._pushed  # frames are numbered from here for the scheduler
        self._next = 0  # the next result to go out
        self._frames: dict[int, tuple[int, float]] = {}  # (index, time), until their result is out
        self._inputs: dict[int, torch.Tensor] = {}  # [3, H, W] uint8, until their step is done
        self._motion: dict[int, list[MotionField]] = {}  # codec motion of the current segment's frames
        self._memories: dict[int, Memory] = {}
        self._done: dict[int, FrameResult] = {}
        self._last_key: int | None = None
        self._key_due = False
        self._place: Placement | None = None

    def run(self, video: Iterable[VideoFrame | np.ndarray]) -> Iterator[FrameResult]:
        """Results of a whole video, one by one as they are ready; at most a batch of frames is read ahead."""
        chunk: list[VideoFrame | np.ndarray] = []
        for frame in video:
            chunk.append(frame)
            if len(chunk) == self.batch:
                yield from self.push(chunk)
                chunk = []
        yield from self.push(chunk)
        yield from self.flush()

    def push(self, frames: Sequence[VideoFrame | np.ndarray]) -> list[FrameResult]:
        """Results that are complete now, in order. frames: the next ones, `[H, W, 3]` uint8 RGB or `VideoFrame`."""
        results: list[FrameResult] = []
        for given in frames:
            frame = given if isinstance(given, VideoFrame) else VideoFrame(given, index=self._pushed)
            image = frame.image
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
                raise ValueError(f"a frame must be [H, W, 3] uint8 RGB, got {list(image.shape)} {image.dtype}")
            place = self.model.transform.place(*image.shape[:2])
            if self._place is not None and place != self._place:
                results += self.flush()
            self._place = place
            i = self._pushed - self._origin
            self._inputs[i] = self.model.transform(image)
            if frame.motion is not None:
                self._motion[i] = [self.model.transform.motion(field, place) for field in frame.motion]
            self._frames[i] = (frame.index, frame.time)
            self._pushed += 1
            if len(self._inputs) >= self.batch + self.model.scheduler.latency:  # bounds a large push
                results += self._advance(ended=False)
        return results + self._advance(ended=False)

    def flush(self) -> list[FrameResult]:
        """The remaining results. The predictor is then as new, for another video."""
        results = self._advance(ended=True)
        self._restart()
        return results

    def _advance(self, ended: bool) -> list[FrameResult]:
        """Carry out every step that can be; hand out the results that are next in order."""
        scheduler = self.model.scheduler
        while True:
            pending = [i for i in sorted(self._frames) if i not in self._done]
            step = scheduler.next_step(pending, self._last_key, ended, self._key_due)
            if step is None:
                break
            self._carry_out(Step(step.frames[: self.batch], step.is_key, step.references, step.emits))
        results = []
        while self._next in self._done:
            results.append(self._done.pop(self._next))
            del self._frames[self._next]
            self._next += 1
        return results

    def _carry_out(self, step: Step) -> None:
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.model.half_precision)
        with torch.inference_mode(), half:
            self._compute(step)

    def _compute(self, step: Step) -> None:
        model, frames = self.model, step.frames
        image = torch.stack([self._inputs[i] for i in frames]).to(self.device, non_blocking=True)
        current = frame_of(image, self._memories.get(frames[0]), motion=self._motion_to_key(frames))
        output = model.run(step, current, self._memories, model.scheduler.accept)
        kept = len(frames) if output.kept is None else output.kept
        if step.is_key:
            assert output.memory is not None
            self._memories[frames[0]] = output.memory
            self._last_key, self._key_due = frames[0], False
        else:
            self._key_due = kept < len(frames)
        if step.emits and kept:
            is_key = step.is_key or current.features is not None  # a window's frames were key steps before
            self._finish(frames[:kept], output.features, is_key, output.fallback)
        self._forget(frames[:kept], step.emits)

    def _finish(
        self, frames: Sequence[int], features: tuple[torch.Tensor, ...], is_key: bool, fallback: tuple[float, ...]
    ) -> None:
        place, model = self._place, self.model
        assert place is not None
        outputs = model.head(features, [place.resized] * len(frames))
        (rows, columns), (height, width) = place.cells
        picture = height * width / (rows * columns)  # the padding's motion is known to be none
        for n, (i, output) in enumerate(zip(frames, outputs, strict=True)):
            index, time = self._frames[i]
            detections, segmentation = None, None
            if isinstance(output, Detections):
                detections = model.transform.restore(output, place).cpu()
            else:
                segmentation = model.transform.restore_classes(output, place)
            self._done[i] = FrameResult(
                index,
                time,
                is_key,
                detections,
                segmentation,
                flow_fallback=min(1.0, round(fallback[n] / picture, 6)) if fallback else None,
                classes=model.classes,
            )

    def _forget(self, frames: Sequence[int], emitted: bool) -> None:
        if emitted:
            for i in frames:
                del self._inputs[i]
        assert self._last_key is not None
        start = min((i for i in self._frames if i not in self._done), default=self._pushed - self._origin)
        expires = self.model.scheduler.expires
        for i in [i for i in self._memories if expires(i, start, self._last_key)]:
            del self._memories[i]
        # A frame's chain spans all between it and its key frame: both the key's and the pending frames' stay.
        for i in [i for i in self._motion if i < start and i <= self._last_key]:
            del self._motion[i]

    def _motion_to_key(self, frames: Sequence[int]) -> list[MotionChain] | None:
        """Each frame's chain of codec motion to the last key frame; None where the source gives no motion."""
        key = self._last_key
        if not self._motion or key is None:
            return None
        chains = []
        for i in frames:
            between = range(min(i, key) + 1, max(i, key) + 1)
            chains.append(MotionChain([field for j in between for field in self._motion.get(j, [])], i < key))
        return chains
