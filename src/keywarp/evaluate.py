"""`keywarp evaluate`: how good detections are on an annotated data set, of a model that runs now or stored ones."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from keywarp.allocation import keep_freed_memory
from keywarp.data.datasets import UnreadableFrameError, VideoDataset
from keywarp.data.reading import open_dataset, split_of
from keywarp.doctor import cpu_name
from keywarp.errors import UserError
from keywarp.evaluation.measures import Measures, Row
from keywarp.evaluation.motion_file import by_video, read_motion
from keywarp.evaluation.results_files import INDEX, Results, class_map, load, read_results, relabelled, save
from keywarp.evaluation.segmentation import confusion, l_pairs, mean_iou
from keywarp.evaluation.truth import Truth
from keywarp.evaluation.worst import WorstFrames
from keywarp.figures import check_matplotlib
from keywarp.files import write_atomically
from keywarp.interfaces import with_parts
from keywarp.loading import load as load_model
from keywarp.model import VideoModel
from keywarp.networks.weight_files import sha256_of
from keywarp.options import EvaluateOptions
from keywarp.postprocess import POSTPROCESSES, apply
from keywarp.predictor import VideoPredictor
from keywarp.progress import ProgressBar, Timer
from keywarp.report import draw_worst, shown, write_report
from keywarp.running import detect_video, results
from keywarp.sinks import check_same
from keywarp.structures import VideoDetections

DOCUMENT = "evaluation.json"


def evaluate(address: str, options: EvaluateOptions) -> list[Row]:
    """The rows of the table, which is printed and written to `options.output` with a report.

    address: a data set, FOLDER or FOLDER:SPLIT (by default the split val). Raises UserError before any work, and
    InterruptedWorkError where a frame cannot be read midway.
    """
    if bool(options.model) == bool(options.results):
        raise UserError("give --model, a model to run, or --results, stored detections")
    for name in options.postprocess:
        apply(name, VideoDetections.of([]))  # whether it is known and can run
    check_matplotlib()
    dataset = chosen(open_dataset(*split_of(address, "val")), options.videos)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.keep_memory:
        keep_freed_memory()
    pictures: list[dict[str, str]] = []
    setting = {"dataset": address, "videos": len(dataset.videos), "iou": options.iou, "score": options.score}
    if options.model:
        model = load_model(options.model, **options.choices)
        setting |= {"model": _described(model, options)}
        prepare(options.output, {**_index(dataset, options, model), "setting": setting}, options)
        if model.description["arguments"].get("task") == "segmentation":
            rows, run = _segmentation(model, dataset, options)
        else:
            run = run_model(model, dataset, options)
            kept = {name: _kept(options.output / name) for name in options.postprocess}
            rows, pictures = judge(kept, dataset, options)
    else:
        stored: dict[str, Results] = {}
        for path in options.results:
            stored |= read_results(path, dataset, options.renamed)
        setting |= {"results": [str(path) for path in options.results], "postprocess": list(options.postprocess)}
        prepare(options.output, {"setting": setting}, options)
        (rows, pictures), run = judge(_postprocessed(stored, options.postprocess), dataset, options), {}
    document = {
        "setting": setting | run | machine(),
        "rows": [row.as_json() for row in rows],
        "worst": pictures,
    }
    write_atomically(options.output / DOCUMENT, json.dumps(document, indent=1, ensure_ascii=False))
    print_rows(rows)
    write_report(options.output)
    print(f"{options.output / 'report.html'}")
    return rows


def chosen(dataset: VideoDataset, count: int | None) -> VideoDataset:
    """So many of its videos, evenly spread; all for None. Raises UserError where files of them are missing."""
    if count is not None and count < len(dataset.videos):
        positions = np.linspace(0, len(dataset.videos) - 1, count).astype(int)
        dataset = replace(dataset, videos=[dataset.videos[int(p)] for p in positions])
    missing = [video.frames.source for video in dataset.videos if not Path(video.frames.source).exists()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(dataset.videos)} videos of {dataset.name} are missing, first {missing[0]}; "
            "keywarp data check tells more"
        )
    return dataset


def prepare(folder: Path, index: Mapping[str, Any], options: EvaluateOptions) -> None:
    """Make the folder ready, with what its detections are of. Raises UserError where it holds something else."""
    path = folder / INDEX
    if path.exists() or (folder / DOCUMENT).exists():
        if not (options.overwrite or options.resume):
            raise UserError(
                f"{folder} holds an evaluation; go on with --resume, replace it with --overwrite, or give another "
                "--output"
            )
        if options.resume and path.exists():
            check_same(json.loads(path.read_text(encoding="utf-8")), index, path)
        if options.overwrite:
            for name in POSTPROCESSES:
                shutil.rmtree(folder / name, ignore_errors=True)
    for name in options.postprocess if options.model else ():
        (folder / name).mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(index, indent=1, ensure_ascii=False))


def run_model(model: VideoModel, dataset: VideoDataset, options: EvaluateOptions) -> dict[str, float]:
    """Run the model over the videos that have no stored detections yet, and store theirs; what that took.

    Of the boxes, those of the data set's classes are kept. Post-processing starts from all that the head scores, also
    for the row without: its suppression is then done afterwards.
    """
    labels = class_map(model.classes, dataset, options.renamed)
    _warn_of_unknown(dataset, labels)
    suppression = POSTPROCESSES["none"]
    if set(options.postprocess) != {"none"}:
        head, suppression = model.head.unsuppressed()
        model = with_parts(model, head=head)
    done, worked, keys = 0, 0, 0
    with ProgressBar(Path(dataset.name).name, sum(len(video.frames) for video in dataset.videos)) as bar:
        for number, video in enumerate(dataset.videos):
            paths = {name: _file(options.output / name, number) for name in options.postprocess}
            done += len(video.frames)
            if all(path.exists() for path in paths.values()):
                continue
            run = detect_video(model, video, options.batch)
            detections = relabelled(run.detections, labels)
            for name, path in paths.items():
                ready = suppression(detections) if name == "none" else apply(name, detections)
                save(path, ready, count=run.frames, keys=run.keys, seconds=run.seconds)
            worked += run.frames
            keys += run.keys
            bar.show(done, worked, keys)
    return _run_summary([_file(options.output / options.postprocess[0], n) for n in range(len(dataset.videos))])


def judge(
    rows: Mapping[str, Results], dataset: VideoDataset, options: EvaluateOptions
) -> tuple[list[Row], list[dict[str, str]]]:
    """The measures of each set of detections; the worst frames of the first, drawn into OUTPUT/worst."""
    motion = None
    if options.motion_file is not None:
        motion = by_video(read_motion(options.motion_file), dataset.videos)
    measures = {name: Measures(dataset.classes, iou=options.finds, score=options.score) for name in rows}
    worst = WorstFrames(options.worst, score=options.score)
    first = next(iter(rows))
    for number, video in enumerate(dataset.videos):
        try:
            truth = Truth.of(video, None if motion is None else motion[number])
        except UnreadableFrameError as error:
            raise UserError(f"{video.name}: {error}") from None
        for name, stored in rows.items():
            detections = stored(number)
            measures[name].add(detections, truth)
            if name == first:
                worst.add(number, detections, truth)
    pictures = draw_worst(worst.result(), dataset, options.output / "worst")
    return [measures[name].result(name) for name in rows], pictures


def _segmentation(
    model: VideoModel, dataset: VideoDataset, options: EvaluateOptions
) -> tuple[list[Row], dict[str, float]]:
    """mIoU of a segmentation model on the labelled frames; the pixels of each video are counted once and kept."""
    if not dataset.mask_classes:
        raise UserError(f"{dataset.name} has no masks, which a segmentation model is measured by")
    if set(options.postprocess) != {"none"}:
        raise UserError("--postprocess is for detections; a segmentation model gives label maps")
    classes = dataset.mask_classes
    if len(model.classes) != len(classes):
        raise UserError(
            f"the model has {len(model.classes)} classes, {dataset.name} {len(classes)}; give a fitting one"
        )
    total = np.zeros((len(classes), len(classes)), np.int64)
    files = [options.output / "none" / f"{number:05d}.json" for number in range(len(dataset.videos))]
    with ProgressBar(Path(dataset.name).name, len(files)) as bar:
        for number, (video, path) in enumerate(zip(dataset.videos, files, strict=True)):
            if not path.exists():
                timer, frames, counts = Timer(), 0, np.zeros_like(total)
                labelled = set(video.labelled)
                for result in results(VideoPredictor(model, batch=options.batch), video, timer):
                    frames += 1
                    truth = video.annotation(result.index).mask if result.index in labelled else None
                    if truth is not None and result.segmentation is not None:
                        counts += confusion(result.segmentation, truth, len(classes))
                seconds = timer.seconds["model"]
                write_atomically(path, json.dumps({"counts": counts.tolist(), "frames": frames, "seconds": seconds}))
            total += np.array(json.loads(path.read_text())["counts"])
            bar.show(number + 1, number + 1, 0)
    hits = np.diag(total)
    union = total.sum(axis=0) + total.sum(axis=1) - hits
    measures = {"mIoU": mean_iou(total), "pixel accuracy": float(hits.sum() / max(total.sum(), 1))}
    if options.l_pairs is not None:
        pairs = l_pairs(model, dataset, options.l_pairs)
        measures["mIoU of l-pairs"] = pairs.mean
        measures |= {f"mIoU, key frame {o} before": value for o, value in enumerate(pairs.by_offset)}
    by_class = {name: {"IoU": float(hits[c] / union[c])} for c, name in enumerate(classes) if union[c]}
    stored = [json.loads(path.read_text()) for path in files]
    frames, seconds = (sum(each[key] for each in stored) for key in ("frames", "seconds"))
    run = {"frames": frames, "frames_per_second": round(frames / max(seconds, 1e-9), 2)}
    return [Row("none", measures, by_class, {})], run


def print_rows(rows: Sequence[Row]) -> None:
    """The rows as a table on standard output: a line a measure."""
    grid = Table()
    grid.add_column("")
    for row in rows:
        grid.add_column(row.name, justify="right")
    for name in rows[0].measures:
        grid.add_row(name, *(shown(name, row.measures.get(name, float("nan"))) for row in rows))
    Console(width=None if sys.stdout.isatty() else 160).print(grid)


def _kept(folder: Path) -> Results:
    return lambda video: load(_file(folder, video))[0]


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.npz"


def _postprocessed(stored: Mapping[str, Results], names: Sequence[str]) -> dict[str, Results]:
    """Each set of detections after each post-processing; names of rows say which where there are several."""

    def after(results: Results, name: str) -> Results:
        return lambda video: apply(name, results(video))

    return {
        (row if name == "none" else f"{row} {name}"): after(results, name)
        for row, results in stored.items()
        for name in names
    }


def _run_summary(files: Sequence[Path]) -> dict[str, float]:
    """Of the stored detections: frames, share of key frames, and frames/s as they were (no benchmark)."""
    numbers = [load(path)[1] for path in files]
    frames, keys, seconds = (sum(each[key] for each in numbers) for key in ("count", "keys", "seconds"))
    return {
        "frames": int(frames),
        "key_frame_share": round(keys / max(frames, 1), 4),
        "frames_per_second": round(frames / max(seconds, 1e-9), 2),
    }


def _warn_of_unknown(dataset: VideoDataset, labels: np.ndarray) -> None:
    absent = [name for label, name in enumerate(dataset.classes) if label not in labels]
    if absent:
        Console(stderr=True).print(
            f"the model does not know {len(absent)} of the {len(dataset.classes)} classes: {', '.join(absent[:8])}"
            f"{' …' if len(absent) > 8 else ''}; they count with AP 0 (--rename gives other names)",
            soft_wrap=True,
        )


def _index(dataset: VideoDataset, options: EvaluateOptions, model: VideoModel) -> dict[str, Any]:
    """What stored detections are of."""
    return {
        "classes": list(dataset.classes),
        "videos": [video.name for video in dataset.videos],
        "postprocess": list(options.postprocess),
        "rename": options.renamed,
    }


def _described(model: VideoModel, options: EvaluateOptions) -> dict[str, Any]:
    """The model, for the head of the results: what built it, and the SHA-256 of its files."""
    files = [Path(name) for name in (options.model, options.weights) if name and Path(name).is_file()]
    plain = json.loads(json.dumps(model.description, default=str))
    return {
        "model": Path(options.model).name,
        "method": plain.get("method"),
        "arguments": plain.get("arguments", {}),
        "sha256": {path.name: sha256_of(path) for path in files},
    }


def machine() -> dict[str, Any]:
    """Where figures were made, and with what."""
    return {
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("keywarp", "torch", "numpy")},
    }
