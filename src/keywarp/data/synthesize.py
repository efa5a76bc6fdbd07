"""Writes the synthetic benchmark: clips as H.264 files, their annotations as COCO-VID JSON; and frame pairs with flow.

Legend: T frames · (H, W) pixels
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from keywarp.data.casting import LENGTH, RECIPE, SIZE, scene
from keywarp.data.emoji import ColourFont, find_font
from keywarp.data.imagenet_classes import IMAGENET_VID
from keywarp.data.pairs import pair_of_clip, pair_scene
from keywarp.data.video_writer import VideoWriter
from keywarp.errors import UserError, unknown
from keywarp.evaluation.motion import motion_iou, speed_shares
from keywarp.files import write_atomically

__all__ = ["SIZES", "SPLITS", "synthesize", "synthesize_pairs"]

SPLITS = ("train", "val", "test")
SIZES = {"tiny": ((6, 3, 3), 24), "small": ((300, 60, 60), LENGTH), "full": ((3000, 300, 300), LENGTH)}
"""Clips of each split, and frames of a clip."""

FPS = 25
FLO_MAGIC = 202021.25  # the first number of every .flo file
UNKNOWN = 1e9  # what a .flo file has where flow is not known
SETTINGS = "settings.json"  # what the folder was made with
UNFINISHED = ".unfinished"  # a folder in the output: the settings, and the annotations of the clips that are done


@dataclass(frozen=True)
class Clip:
    """One clip to make: what a process needs to know. `number` counts within the split."""

    output: Path
    font: Path
    seed: int
    split: str
    number: int
    length: int
    flow: bool
    masks: bool

    @property
    def name(self) -> str:
        return f"{self.number:05d}"

    @property
    def record(self) -> Path:
        """Its annotations, until those of the split are put together; there once the clip is done."""
        return self.output / UNFINISHED / self.split / f"{self.name}.json"


@dataclass(frozen=True)
class Pair:
    """One pair to make. number: from 1. size: (H, W). apart, objects: as of `synthesize_pairs`."""

    folder: Path
    font: Path
    seed: int
    number: int
    size: tuple[int, int]
    apart: int | None
    objects: float

    def file(self, part: str) -> Path:
        """img1.ppm, img2.ppm, or flow.flo, which is written last."""
        return self.folder / f"{self.number:05d}_{part}"


def synthesize(
    output: Path,
    *,
    size: str = "small",
    seed: int = 0,
    flow: bool = False,
    masks: bool = False,
    font: Path | None = None,
    workers: int | None = None,
) -> None:
    """Make the benchmark in the folder `output`, or go on with one that was interrupted.

    size: one of SIZES. flow: also OUTPUT/flow/SPLIT/NAME.npz with `flow` `[T, H, W, 2]` float16, (dx, dy) in pixels
    from each frame to the one before, zeros in frame 0. masks: also OUTPUT/masks/SPLIT/NAME/000000.png …, 0 the
    background, else the label + 1. workers: processes; the files do not depend on it. Raises UserError.
    """
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    found = _checked(font, seed, workers)
    counts, length = SIZES[size]
    info = {"recipe": RECIPE, "size": size, "seed": seed, "flow": flow, "masks": masks, "font": found.name}
    if not _prepared(output, {"description": "keywarp data synthesize", **info}):
        return
    clips = {
        split: [Clip(output, found, seed, split, n, length, flow, masks) for n in range(count)]
        for split, count in zip(SPLITS, counts, strict=True)
    }
    for split in SPLITS:
        for folder in _folders(output, split, flow, masks):
            folder.mkdir(parents=True, exist_ok=True)
    missing = [clip for split in SPLITS for clip in clips[split] if not clip.record.is_file()]
    _in_processes(_make_clip, missing, sum(counts), "clips", workers)
    for split in SPLITS:
        records = [json.loads(clip.record.read_text()) for clip in clips[split]]
        write_atomically(output / f"{split}.json", json.dumps(_coco_vid(split, records, info, length)))
        print(_told(split, records))
    _finish(output)


def synthesize_pairs(
    output: Path,
    *,
    pairs: int = 2000,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    apart: int | None = None,
    objects: float = 0.0,
    font: Path | None = None,
    workers: int | None = None,
) -> None:
    """Make frame pairs with exact flow in the folder `output`, laid out like Flying Chairs, or go on with them.

    Things move at random over a ground that moves too, in frames of `size` (H, W), by default 192 × 256; or, with
    `apart`, the pairs are frames of clips as of the benchmark, 1 to `apart` frames from each other. In the share
    `objects` of the pairs only the motion of things is known, that of the ground is not (1e9, as Middlebury has it):
    the ground has most of the pixels, and a network that learns from all of them hardly learns to see things move.

    data/00001_img1.ppm, 00001_img2.ppm and 00001_flow.flo, from the first to the second, (dx, dy) in pixels; and
    FlyingChairs_train_val.txt: a line for each pair, 1 = train, 2 = val, which is every tenth. Raises UserError.
    """
    if apart is not None and (size is not None or not 1 <= apart < LENGTH):
        limit = "no size, frames of clips have theirs" if size is not None else f"frames 1 to {LENGTH - 1} apart"
        raise UserError(f"wanted {limit}, got {size or apart}")
    size = size or ((192, 256) if apart is None else SIZE)
    if pairs < 1 or min(size) < 64:
        raise UserError(f"wanted at least 1 pair of at least 64×64 pixels, got {pairs} of {size[0]}×{size[1]}")
    if not 0 <= objects <= 1:
        raise UserError(f"wanted a share of pairs from 0 to 1 with only the objects' motion, got {objects}")
    found = _checked(font, seed, workers)
    info = {"recipe": RECIPE, "pairs": pairs, "seed": seed, "size": list(size), "apart": apart, "objects": objects}
    if not _prepared(output, {"description": "keywarp data synthesize-pairs", **info, "font": found.name}):
        return
    (output / "data").mkdir(exist_ok=True)
    wanted = [Pair(output / "data", found, seed, number, size, apart, objects) for number in range(1, pairs + 1)]
    missing = [pair for pair in wanted if not pair.file("flow.flo").is_file()]
    _in_processes(_make_pair, missing, pairs, "pairs", workers)
    lines = ["2" if number % 10 == 0 else "1" for number in range(1, pairs + 1)]
    write_atomically(output / "FlyingChairs_train_val.txt", "\n".join(lines) + "\n")
    _finish(output)
    print(f"{pairs} pairs of {size[0]}×{size[1]} pixels, {lines.count('2')} of them held out")


def _checked(font: Path | None, seed: int, workers: int | None) -> Path:
    """The font's file, once it is sure to hold all the classes: before anything is written."""
    if seed < 0:
        raise UserError(f"wanted a seed of 0 or more, got {seed}")
    if workers is not None and workers < 1:
        raise UserError(f"wanted at least 1 worker, got {workers}")
    return _opened(find_font(font)).path


@lru_cache(maxsize=1)
def _opened(font: Path) -> ColourFont:
    """The font, read once in each process."""
    return ColourFont(font)


def _finish(output: Path) -> None:
    """Leave the settings alone of what an unfinished run has beside its results."""
    os.replace(output / UNFINISHED / SETTINGS, output / SETTINGS)
    shutil.rmtree(output / UNFINISHED)


def _prepared(output: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder is ready to be filled, or filled on, with what these settings make; False where it is full."""
    marker = output / UNFINISHED / SETTINGS
    wanted = json.dumps(settings)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; name a new folder")
    if (output / SETTINGS).is_file() and (output / SETTINGS).read_text() == wanted:
        shutil.rmtree(output / UNFINISHED, ignore_errors=True)
        print(f"{output} is complete already")
        return False
    if marker.is_file():
        if marker.read_text() != wanted:
            raise UserError(f"{output} holds an unfinished run of other settings; name a new folder or delete it")
    elif output.exists() and any(output.iterdir()):
        raise UserError(f"{output} is not empty; name a new folder")
    else:
        try:
            marker.parent.mkdir(parents=True)
            write_atomically(marker, wanted)
        except OSError as error:
            raise UserError(f"cannot write into {output}: {error.strerror}; name another folder") from None
    return True


def _folders(output: Path, split: str, flow: bool, masks: bool) -> Iterator[Path]:
    yield output / UNFINISHED / split
    yield output / "videos" / split
    if flow:
        yield output / "flow" / split
    if masks:
        yield output / "masks" / split


def _make_clip(clip: Clip) -> None:
    """Write the clip's files, its record last."""
    drama = scene(_opened(clip.font), clip.seed, SPLITS.index(clip.split), clip.number, clip.length)
    record: list[list[dict[str, Any]]] = []
    flows = []
    with VideoWriter(
        clip.output / "videos" / clip.split / f"{clip.name}.mp4",
        width=SIZE[1],
        height=SIZE[0],
        fps=FPS,
        crf=drama.camera.crf,
        threads=1,
    ) as writer:
        for t in range(clip.length):
            frame = drama.frame(t)
            writer.write(frame.image, t / FPS)
            record.append([asdict(thing) for thing in drama.objects(t, frame)])
            if clip.flow:
                flows.append(drama.flow(t, t - 1, frame) if t else np.zeros((*SIZE, 2)))
            if clip.masks:
                _write_mask(clip, t, drama.mask(frame))
    if clip.flow:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, flow=np.stack(flows).astype(np.float16))
        write_atomically(clip.output / "flow" / clip.split / f"{clip.name}.npz", buffer.getvalue())
    write_atomically(clip.record, json.dumps(record))


def _write_mask(clip: Clip, t: int, mask: np.ndarray) -> None:
    path = clip.output / _mask_file(clip.split, clip.name, t)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, cv2.imencode(".png", mask)[1].tobytes())


def _make_pair(pair: Pair) -> None:
    """Write the pair's files, the flow last."""
    font, t, to = _opened(pair.font), 0, 1
    if pair.apart is None:
        drama = pair_scene(font, pair.seed, pair.number, pair.size)
    else:
        drama, t, to = pair_of_clip(font, pair.seed, pair.number, pair.apart)
    frames = drama.frame(t), drama.frame(to)
    for part, frame in zip(("img1.ppm", "img2.ppm"), frames, strict=True):
        write_atomically(pair.file(part), cv2.imencode(".ppm", frame.image[..., ::-1])[1].tobytes())
    flow = drama.flow(t, to, frames[0]).astype("<f4")
    things = frames[0].owner > 0
    if things.any() and np.random.default_rng([pair.seed, pair.number, 0, 1]).random() < pair.objects:
        flow[~things] = UNKNOWN
    head = np.float32(FLO_MAGIC).astype("<f4").tobytes() + np.array(pair.size[::-1], "<i4").tobytes()
    write_atomically(pair.file("flow.flo"), head + flow.tobytes())


def _mask_file(split: str, name: str, t: int) -> str:
    return f"masks/{split}/{name}/{t:06d}.png"


def _coco_vid(split: str, records: list[list[Any]], info: dict[str, Any], length: int) -> dict[str, Any]:
    """The annotations of a split as mmtracking lays them out, but for the frames: they are in each video's file."""
    size = {"width": SIZE[1], "height": SIZE[0]}
    videos: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    instances: dict[tuple[int, int], int] = {}
    for number, record in enumerate(records):
        name, video = f"{number:05d}", number + 1
        file = f"videos/{split}/{name}.mp4"
        videos.append({"id": video, "name": name, **size, "fps": FPS, "length": length, "file_name": file})
        for t, objects in enumerate(record):
            image = {"id": len(images) + 1, "video_id": video, "frame_id": t, **size}
            images.append(image | {"mask_file": _mask_file(split, name, t)} if info["masks"] else image)
            for thing in objects:
                instance = instances.setdefault((video, thing["layer"]), len(instances) + 1)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image["id"],
                        "video_id": video,
                        "category_id": thing["label"] + 1,
                        "bbox": thing["box"],
                        "area": thing["box"][2] * thing["box"][3],
                        "iscrowd": 0,
                        "instance_id": instance,
                        **{key: thing[key] for key in ("occluded", "truncated", "blur")},
                    }
                )
    return {
        "info": {"description": "keywarp data synthesize", **info, "split": split},
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(IMAGENET_VID)],
        "videos": videos,
        "images": images,
        "annotations": annotations,
    }


def _told(split: str, records: list[list[Any]]) -> str:
    """How many objects there are, and how fast they are, in one line."""
    values = [np.zeros(0)]
    for record in records:
        things = [(t, thing["layer"], *thing["box"]) for t, objects in enumerate(record) for thing in objects]
        t, track, x, y, w, h = np.array(things, float).reshape(-1, 6).T
        values.append(motion_iou(np.stack([x, y, x + w, y + h], axis=1), t, track))
    speeds = np.concatenate(values)
    shares = ", ".join(f"{name} {share:.1%}" for name, share in speed_shares(speeds).items())
    return f"{split}: {len(records)} clips, {len(speeds)} boxes: {shares}"


def _in_processes(make: Callable[[Any], None], items: list[Any], total: int, unit: str, workers: int | None) -> None:
    """Make every item in `workers` processes; a bar on standard error where that is a terminal."""
    count = min(workers or os.cpu_count() or 1, max(len(items), 1))
    columns = TextColumn(unit), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar:
        task = bar.add_task(unit, total=total, completed=total - len(items))
        with closing(_done(make, items, count)) as done:
            for _ in done:
                bar.advance(task)


def _done(make: Callable[[Any], None], items: list[Any], count: int) -> Generator[None]:
    if count == 1:
        yield from map(make, items)
        return
    # Not forked: a fork in a process with threads, which numerical libraries start, may lock up.
    with multiprocessing.get_context("spawn").Pool(count, _prepare_process) as pool:
        yield from pool.imap_unordered(make, items)


def _prepare_process() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
