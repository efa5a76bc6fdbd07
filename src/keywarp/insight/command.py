"""`keywarp visualize`: pictures of what a method does, or of two models' results, as a video and PNGs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from keywarp import loading
from keywarp.allocation import keep_freed_memory
from keywarp.data.contact_sheet import spread
from keywarp.data.video import VideoSource, is_live_address, open_video
from keywarp.errors import UserError
from keywarp.files import told_apart
from keywarp.insight.available import chosen
from keywarp.insight.comparing import Comparison, Running, Stored, read_results
from keywarp.insight.inside import Inside, Picture
from keywarp.insight.options import VisualizeOptions
from keywarp.insight.writing import PictureFiles
from keywarp.interruption import StopRequest
from keywarp.methods import METHODS, preset
from keywarp.options import ModelOptions
from keywarp.progress import ProgressBar

PICTURES = 4
"""Frames kept as PNG where none are named."""


def visualize(source: str, options: VisualizeOptions) -> int:
    """The exit code of `keywarp visualize`: 0, or 130 when it was interrupted; the pictures so far are whole then.

    Raises UserError before any work, InterruptedWorkError for failures midway.
    """
    start, stop = options.span
    if options.results:
        named = zip(options.results, told_apart(options.results), strict=True)
        sides = [read_results(path, name) for path, name in named]
        start, stop, stride = _same_frames(sides)
        with open_video(source, start=start, stop=stop, stride=stride) as video:
            for side in sides:
                side.check(video)
            return write_pictures(video, options, lambda: Comparison(sides, threshold=options.threshold))
    if options.keep_memory:
        keep_freed_memory()
    live = is_live_address(source)
    batch = 1 if live else options.batch
    wanted = [options, _second(options)] if options.compares_models else [options]
    models = [loading.load(each.model, live=live, **each.choices) for each in wanted]
    kinds = [] if options.compares_models else chosen(models[0], options.show)
    motion = any(model.uses_codec_motion for model in models)
    with open_video(source, start=start, stop=stop, stride=options.stride, motion=motion) as video:

        def show() -> Inside | Comparison:
            if options.compares_models:
                return Comparison([Running(model, batch=batch) for model in models], threshold=options.threshold)
            return Inside(models[0], video, kinds, level=options.level, threshold=options.threshold, batch=batch)

        return write_pictures(video, options, show)


def _second(options: VisualizeOptions) -> ModelOptions:
    """The model to compare with: another one with its own settings, or the first one with some changed.

    A method of its own gets what it takes of the first one's settings.
    """
    kept, method = options.choices, options.against_method
    if options.against not in (None, options.model):
        kept = {name: kept[name] for name in ("device", "half")}
    elif method in METHODS:
        takes = loading.options_of(method) | {"method", "weights", "device", "half"}
        if "gamma" in takes:  # then its key frames go by γ or by an interval
            takes -= {"interval"} if preset(method).get("adaptive", True) else {"gamma"}
        kept = {name: value for name, value in kept.items() if name in takes}
    given = {"method": method, "flow": options.against_flow, "interval": options.against_interval}
    changed = {name: value for name, value in given.items() if value is not None}
    try:
        return ModelOptions(model=options.against or options.model, **(kept | changed))
    except UserError as error:
        raise UserError(f"of the second model, {error}") from None


def _same_frames(sides: list[Stored]) -> tuple[int, int | None, int]:
    """(start, stop, stride) of the frames that both results are of."""
    (frames, stride), other = ((side.frames, side.stride) for side in sides)
    if (frames, stride) != other:
        raise UserError(
            f"the results are of different frames (--frames {frames} --stride {stride}, and --frames {other[0]} "
            f"--stride {other[1]}); run `detect` with the same"
        )
    return *VisualizeOptions(frames=frames).span, stride


def write_pictures(video: VideoSource, options: VisualizeOptions, show: Callable[[], Inside | Comparison]) -> int:
    """Write the pictures of a video; the exit code."""
    pictures = options.pictures or spread(video.frame_count or 0, PICTURES) or [0]
    with (
        PictureFiles(options.output, _name(video), video, pictures=pictures, overwrite=options.overwrite) as files,
        StopRequest() as stop,
        ProgressBar(video.name, video.frame_count) as bar,
        show() as shown,
    ):

        def add(ready: Iterable[Picture]) -> None:
            for picture in ready:
                files.add(*picture)
                bar.show(files.count, files.count, shown.key_frames)

        for frame in video:
            add(shown.push(frame))
            if stop.requested:
                break
        add(shown.flush())
        if not files.count:
            raise UserError(f"{video.name} has no frame to work on; check --frames and --stride")
        if (overview := shown.overview()) is not None:
            files.save("keys", overview)
    for warning in (*video.warnings, *files.warnings):
        print(f"warning: {warning}")
    print(f"{files.count} frames in {files.video}; pictures: {', '.join(path.name for path in files.saved) or 'none'}")
    return 130 if stop.requested else 0


def _name(video: VideoSource) -> str:
    """A file name without ending."""
    if video.path is not None:
        return video.path.stem if video.path.is_file() else video.path.resolve().name
    return re.sub(r"\W+", "-", video.name.split("://")[-1].split("?")[0]).strip("-")
