"""Videos in, results out: `detect` in Python, and the work behind `keywarp detect` and `keywarp segment`."""

from __future__ import annotations

import copy
import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import av
import torch

from keywarp.allocation import keep_freed_memory
from keywarp.data.video import VideoSource, expand_sources, is_live_address, open_video
from keywarp.errors import InterruptedWorkError, UserError, unknown
from keywarp.interfaces import with_parts
from keywarp.interruption import StopRequest
from keywarp.loading import identified
from keywarp.model import VideoModel
from keywarp.options import BoxOptions, RunOptions
from keywarp.outputs import Outputs, Paths, already_complete, plan
from keywarp.postprocess import apply
from keywarp.postprocess.streaming import StreamingSeqNMS
from keywarp.predictor import VideoPredictor
from keywarp.progress import ProgressBar, TimedTransform, Timer
from keywarp.structures import FrameResult, VideoDetections, VideoFrame
from keywarp.summary import measured, summary
from keywarp.transform import ImageTransform

LOWEST = 0.01
"""Score of the boxes that post-processing starts from; lower ones would fill the disk and change next to nothing."""


def detect(
    source: str | Path,
    model: VideoModel,
    *,
    batch: int = 8,
    start: int = 0,
    stop: int | None = None,
    stride: int = 1,
) -> Iterator[FrameResult]:
    """The results of a video, one by one as they are ready; neither frames nor results pile up.

    source: as for `open_video`. batch: frames computed together; a live source always takes 1. start, stop, stride:
    every stride-th of the frames start … stop − 1. Raises UserError when the source cannot be read.
    """
    with open_video(source, start=start, stop=stop, stride=stride, motion=model.uses_codec_motion) as video:
        yield from VideoPredictor(model, batch=1 if video.is_live else batch).run(video)


def annotate(sources: Sequence[str], options: RunOptions, boxes: BoxOptions | None = None) -> int:
    """The exit code of `keywarp detect`, or without `boxes` of `keywarp segment`: results of all sources in files.

    0: all done. 1: some sources failed. 130: interrupted. Raises UserError before any work, and for a single source
    also what made it fail.
    """
    from keywarp import loading

    if boxes:
        apply(boxes.postprocess, VideoDetections.of([]))  # whether it is known and can run
    if options.keep_memory:
        keep_freed_memory()
    task = "segment" if boxes is None else "detect"
    found = expand_sources(sources)
    folder = options.output or Path("runs") / task
    planned = plan(found, folder, options, boxes)
    live = any(map(is_live_address, found))
    model = loading.load(options.model, task="segmentation" if boxes is None else None, live=live, **options.choices)
    if boxes and boxes.postprocess != "none":
        head, _ = model.head.unsuppressed()
        model = with_parts(model, head=head)
    run = Run(model, options, boxes, _labels(model.classes, boxes.classes) if boxes else None)
    failed = False
    with StopRequest() as stop:
        for source, paths in zip(found, planned, strict=True):
            try:
                run.video(source, paths, stop)
            except (UserError, InterruptedWorkError) as error:
                if len(found) == 1:
                    raise
                print(f"keywarp: {error}", file=sys.stderr)
                failed = True
            if stop.requested:
                return 130
    _tell(f"Results saved to {folder}", options)
    return 1 if failed else 0


@dataclass(frozen=True)
class Run:
    """A model with what was asked for; `video` does one video. labels: the classes that are kept, None = all."""

    model: VideoModel
    options: RunOptions
    boxes: BoxOptions | None
    labels: tuple[int, ...] | None

    def video(self, source: str, paths: Paths, stop: StopRequest) -> None:
        """Results of one source in its files; a summary is printed. Raises UserError or InterruptedWorkError."""
        options, timer, began = self.options, Timer(), time.perf_counter()
        start, end = options.span
        motion = self.model.uses_codec_motion
        with open_video(source, start=start, stop=end, stride=options.stride, motion=motion) as video:
            header = self._header(video)
            if options.resume and video.is_live and paths.journal.exists():
                raise UserError(f"{video.name} is live and cannot be resumed; start again with --overwrite")
            if options.resume and already_complete(paths, header):
                _tell(f"{video.name}: complete already", options)
                return
            whole = self._linked is not None and not video.is_live
            if whole and options.stream:
                raise UserError("--stream tells frames as they finish, --postprocess changes them at the end; take one")
            working = replace(paths, video=None) if whole else paths
            outputs = Outputs(working, video, header, self.model.classes, overwrite=options.overwrite)
            journal = outputs.journal

            def info(complete: bool) -> dict[str, Any]:
                return {**header, **measured(outputs, video, timer), "complete": complete}

            try:
                with ProgressBar(video.name, video.frame_count) as bar:
                    for _ in self._frames(video, outputs, timer, stop):
                        bar.show(journal.count, journal.count - journal.stored, journal.key_frames)
                if whole and journal.count:
                    self._finish(source, paths, outputs, stop)
            except BaseException:
                with suppress(InterruptedWorkError):
                    outputs.close(lambda: info(False), complete=False, resumable=not video.is_live)
                raise
            complete = not stop.requested
            outputs.close(lambda: info(complete), complete=complete, resumable=not video.is_live)
            if complete and journal.count == 0:
                raise UserError(f"{video.name} has no frame to work on; check --frames and --stride")
            if complete:
                _tell(summary(info(complete), time.perf_counter() - began, journal.count - journal.stored), options)
            else:
                _report_stop(video, outputs)

    @property
    def _linked(self) -> str | None:
        """The post-processing over time that was asked for."""
        return self.boxes.postprocess if self.boxes and self.boxes.postprocess != "none" else None

    def _finish(self, source: str, paths: Paths, outputs: Outputs, stop: StopRequest) -> None:
        """Post-process all boxes so far, and draw what comes out in a second pass through the video, unless stopped."""
        assert self.boxes is not None
        assert self._linked is not None
        outputs.finish(partial(apply, self._linked), self.boxes.threshold)
        if stop.requested or paths.video is None:
            return
        options, (start, end) = self.options, self.options.span
        with (
            open_video(source, start=start, stop=end, stride=options.stride) as video,
            outputs.drawing(paths.video, video),
            ProgressBar(f"{video.name}: drawing", outputs.journal.count) as bar,
        ):
            for done, (frame, result) in enumerate(zip(video, outputs.stored(), strict=False), start=1):
                if stop.requested:
                    break
                outputs.draw(frame, result)
                bar.show(done, done, outputs.journal.key_frames)
            if stop.requested:
                outputs.drop_video()

    def _frames(self, video: VideoSource, outputs: Outputs, timer: Timer, stop: StopRequest) -> Iterator[None]:
        """Do the work, yielding after each frame: stored results are drawn again, the network does the rest.

        The network starts again at the last key frame and, where key frames lie inside their segments, the frames of
        its segment before it; so every key frame falls where it would have without the interruption. A memory that
        gathers over key frames is filled anew from several of them.
        """
        journal, batch = outputs.journal, 1 if video.is_live else self.options.batch
        predictor = VideoPredictor(_timed(self.model, timer), batch=batch)
        first = 0 if self.model.aggregator is not None else -1
        restart = max((journal.keys[first] if journal.keys else 0) - self.model.scheduler.latency, 0)
        stored = outputs.stored()
        waiting: deque[VideoFrame] = deque()  # without a result: at most the batch and the scheduler's latency
        chunk: list[VideoFrame] = []
        ended = False
        linking = StreamingSeqNMS(plus=self._linked == "seq-nms+") if self._linked and video.is_live else None
        while not (stop.requested or ended):
            with timer("decode"):
                frame = _next(video, journal.count)
            ended = frame is None
            if frame is not None and frame.index < journal.stored:
                outputs.draw(frame, next(stored))
                yield
            if frame is not None and frame.index >= restart:
                chunk.append(frame)
                waiting.append(frame)
            if len(chunk) == batch or ended:
                with timer("inference"):
                    results = predictor.push(chunk) + (predictor.flush() if ended else [])
                chunk = []
                for result in results:
                    done = waiting.popleft()
                    if done.index >= journal.stored:
                        with timer("draw and write"):
                            self._add(outputs, done, self._kept(result, linking), video.name)
                        yield

    def _add(self, outputs: Outputs, frame: VideoFrame, result: FrameResult, name: str) -> None:
        record = outputs.add(frame, result)
        if self.options.stream:
            print(json.dumps({"video": name, **record}, ensure_ascii=False), flush=True)

    def _kept(self, result: FrameResult, linking: StreamingSeqNMS | None) -> FrameResult:
        """The result with the detections that were asked for; those of a live video linked with the frames before."""
        found = result.detections
        if found is None or self.boxes is None:
            return result
        keep = found.scores >= (self.boxes.threshold if self._linked is None else LOWEST)
        if self.labels is not None:
            keep &= torch.isin(found.labels, torch.tensor(self.labels))
        if linking is None:
            return replace(result, detections=found[keep])
        found, tracks = linking.push(found[keep])
        keep = found.scores >= self.boxes.threshold
        return replace(result, detections=found[keep], tracks=tracks[keep])

    def _header(self, video: VideoSource) -> dict[str, Any]:
        """What results belong to; a run can only be resumed with the same."""
        options = self.options
        settings: dict[str, Any] = {"frames": options.frames, "stride": options.stride, "half": options.half}
        if self.boxes:
            kept = None if self.labels is None else [self.model.classes[label] for label in self.labels]
            settings |= {"threshold": self.boxes.threshold, "classes": kept}
            if self._linked:
                settings["postprocess"] = self._linked
        header = {
            "settings": settings,
            "video": {
                "name": video.name,
                "width": video.width,
                "height": video.height,
                "fps": round(float(video.fps), 4),
                "frames": video.frame_count,
                "bytes": video.path.stat().st_size if video.path and video.path.is_file() else None,
            },
            "model": {**self.model.description, **identified(options.model, options.weights)},
        }
        return cast(dict[str, Any], json.loads(json.dumps(header, default=str)))


def _next(video: VideoSource, done: int) -> VideoFrame | None:
    try:
        return next(video, None)
    except (OSError, av.error.FFmpegError) as error:
        raise InterruptedWorkError(f"reading {video.name} broke off after {done} finished frames: {error}") from error


def _timed(model: VideoModel, timer: Timer) -> VideoModel:
    """The same model, weights shared, that times its transform."""
    timed = copy.copy(model)
    timed.transform = cast(ImageTransform, TimedTransform(model.transform, timer))
    return timed


def _labels(known: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...] | None:
    """Class indices of names or ids, each of `wanted` one or several with commas; None when there are none."""
    lower = [name.lower() for name in known]
    labels = set()
    for name in (part.strip() for each in wanted for part in each.split(",") if part.strip()):
        if name.lower() in lower:
            labels.add(lower.index(name.lower()))
        elif name.isdecimal() and int(name) < len(known):
            labels.add(int(name))
        elif name.isdecimal():
            raise UserError(f"--classes {name} is no class id; the model has 0 to {len(known) - 1}")
        else:
            raise unknown("class", name, known)
    if wanted and not labels:
        raise UserError("--classes names no class; leave it out for all")
    return tuple(sorted(labels)) or None


def _report_stop(video: VideoSource, outputs: Outputs) -> None:
    done = outputs.journal.count
    of = "" if video.frame_count is None else f" of {video.frame_count}"
    more = "" if video.is_live else "; the same command with --resume goes on"
    print(f"keywarp: stopped after {done}{of} frames of {video.name}{more}", file=sys.stderr)


def _tell(text: str, options: RunOptions) -> None:
    """Print for people: standard output, unless that carries the stream."""
    print(text, file=sys.stderr if options.stream else sys.stdout, flush=True)
