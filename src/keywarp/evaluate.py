"""`keywarp evaluate`: how good detections are on an annotated data set, of a model that runs now or stored ones."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from keywarp.allocation import keep_freed_memory
from keywarp.data.datasets import UnreadableFrameError, VideoDataset, spread
from keywarp.data.reading import open_dataset, split_of
from keywarp.doctor import installed, machine
from keywarp.errors import UserError
from keywarp.evaluation.measures import Measures, Row
from keywarp.evaluation.motion_file import by_video, read_motion
from keywarp.evaluation.results_files import Results, class_map, file_of, load, read_results, save
from keywarp.evaluation.segmentation import check_carries, class_iou, confusion, l_pairs, mean_iou
from keywarp.evaluation.truth import Truth
from keywarp.evaluation.worst import WorstFrames
from keywarp.figures import check_matplotlib
from keywarp.files import write_atomically
from keywarp.loading import identified
from keywarp.loading import load as load_model
from keywarp.model import VideoModel
from keywarp.networks.download import sha256_of
from keywarp.options import EvaluateOptions
from keywarp.oracle import FOLLOWERS, can_follow, check_labels, scheduled_by_truth
from keywarp.outputs import check_writable, claim
from keywarp.postprocess import apply
from keywarp.predictor import VideoPredictor
from keywarp.progress import ProgressBar, Timer
from keywarp.report import draw_worst, shown, write_report
from keywarp.running import detect_video, results
from keywarp.structures import VideoDetections

DOCUMENT = "evaluation.json"
WHAT = "an evaluation"
WORST = "worst"


def evaluate(address: str, options: EvaluateOptions) -> list[Row]:
    """The rows of the table, which is printed and written to `options.output` with a report.

    address: a data set, FOLDER or FOLDER:SPLIT (by default the split val). Raises UserError before any work, and
    InterruptedWorkError where a frame cannot be read midway.
    """
    _check(options)
    whole = open_dataset(*split_of(address, "val"))
    positions = spread(len(whole.videos), options.videos)
    dataset = chosen(whole, positions)
    motion = None if options.motion_file is None else read_motion(options.motion_file)
    truths = Truths(dataset, None if motion is None else [by_video(motion, whole.videos)[p] for p in positions])
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.keep_memory:
        keep_freed_memory()
    pictures: list[dict[str, str]] = []
    run: dict[str, float] = {}
    setting = _setting(address, dataset, options)
    anew = {"overwrite": options.overwrite, "resume": options.resume}
    if options.model:
        model = load_model(options.model, **options.choices)
        setting |= {"model": described(model, options.model, options.weights)}
        setting |= {"oracle": True} if options.oracle else {}
        _check_task(model, dataset, options)
        known = replace(dataset, classes=dataset.mask_classes) if model.head.segments else dataset
        labels = class_map(model.classes, known, options.renamed)
        index: dict[str, Any] = {"classes": list(dataset.classes), "videos": [video.name for video in dataset.videos]}
        index |= {"postprocess": list(options.postprocess), "rename": options.renamed, "setting": setting}
        if not model.head.segments:
            _warn_of_unknown(dataset, labels)
        claim(options.output, index, (*options.postprocess, WORST), what=WHAT, document=DOCUMENT, **anew)
        if model.head.segments:
            rows, run = _segmentation(model, dataset, labels, options)
        else:
            run = run_model(model, dataset, labels, options)
            kept = {name: _kept(options.output / name) for name in options.postprocess}
            rows, pictures = judge(kept, dataset, truths, options)
    else:
        stored = _stored(whole, positions, options)
        setting |= {"results": [str(path) for path in options.results], "postprocess": list(options.postprocess)}
        claim(options.output, {"setting": setting}, (WORST,), what=WHAT, document=DOCUMENT, **anew)
        rows, pictures = judge(_postprocessed(stored, options.postprocess), dataset, truths, options)
    document = {
        "setting": setting | run | made_by(),
        "rows": [row.as_json() for row in rows],
        "worst": pictures,
    }
    write_atomically(options.output / DOCUMENT, json.dumps(document, indent=1, ensure_ascii=False))
    print_rows(rows)
    write_report(options.output)
    print(f"{options.output / 'report.html'}")
    return rows


class Truths:
    """The ground truth of a data set's videos, read when it is asked for.

    motion: of each video the motion IoU of its objects, as of `Truth.of`, where it comes from a file.
    """

    def __init__(self, dataset: VideoDataset, motion: Sequence[Sequence[np.ndarray]] | None = None) -> None:
        self.dataset = dataset
        self.motion = motion

    def __getitem__(self, number: int) -> Truth:
        video = self.dataset.videos[number]
        try:
            return Truth.of(video, None if self.motion is None else self.motion[number])
        except UnreadableFrameError as error:
            raise UserError(f"{video.name}: {error}") from None
        except ValueError as error:
            raise UserError(str(error)) from None


def chosen(dataset: VideoDataset, positions: Sequence[int]) -> VideoDataset:
    """The data set with these videos alone. Raises UserError where files of them are missing."""
    dataset = replace(dataset, videos=[dataset.videos[p] for p in positions])
    missing = [video.frames.source for video in dataset.videos if not Path(video.frames.source).exists()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(dataset.videos)} videos of {dataset.name} are missing, first {missing[0]}; "
            "keywarp data check tells more"
        )
    return dataset


def _check(options: EvaluateOptions) -> None:
    """What can be told before anything is read."""
    if bool(options.model) == bool(options.results):
        raise UserError("give either --model, a model to run, or --results, stored detections")
    choices = options.choices | {"oracle": options.oracle}
    given = [name for name, value in choices.items() if not (value is None or value is False or value == "auto")]
    if options.results and given:
        raise UserError(f"--{given[0].replace('_', '-')} chooses a model, and --results runs none; leave it out")
    for name in options.postprocess:
        apply(name, VideoDetections.of([]))  # whether it is known and can run
    check_matplotlib()
    Measures((), iou=options.finds)
    check_writable(options.output)


def _check_task(model: VideoModel, dataset: VideoDataset, options: EvaluateOptions) -> None:
    """Refuse what is not for this model."""
    if options.oracle:
        if model.head.segments or not can_follow(model):
            raise UserError(FOLLOWERS)
        check_labels(dataset)
    if not model.head.segments:
        if options.l_pairs is not None:
            raise UserError("--l-pairs is for segmentation; the model finds boxes")
        if not dataset.classes:
            raise UserError(f"{dataset.name} has label maps and no boxes; give a segmentation model")
        return
    if options.l_pairs is not None:
        check_carries(model, options.l_pairs)
    if not dataset.mask_classes:
        raise UserError(f"{dataset.name} has no masks, which a segmentation model is measured by")
    if set(options.postprocess) != {"none"}:
        raise UserError("--postprocess is for detections; a segmentation model gives label maps")
    if options.motion_file is not None:
        raise UserError("--motion-file is for detections; a segmentation model gives label maps")


def _setting(address: str, dataset: VideoDataset, options: EvaluateOptions) -> dict[str, Any]:
    """What evaluations must have in common to be compared, and what they are called."""
    names = "\n".join(video.name for video in dataset.videos)
    motion = options.motion_file
    return {
        "dataset": address,
        "videos": len(dataset.videos),
        "names": hashlib.sha256(names.encode()).hexdigest(),
        "iou": options.iou,
        "score": options.score,
        "motion": "tracks" if motion is None else {"file": motion.name, "sha256": sha256_of(motion)},
    }


def _stored(whole: VideoDataset, positions: Sequence[int], options: EvaluateOptions) -> dict[str, Results]:
    """The stored detections by row, each read once so that a mistake is told before any work."""
    rows: dict[str, Results] = {}
    plain = set(options.postprocess) == {"none"}
    for path in options.results:
        if path.resolve() == options.output.resolve():
            raise UserError(f"{path} is read and would be written; choose another --output")
        for name, of_video in read_results(path, whole, options.renamed, positions, linked=plain).items():
            if name in rows:
                raise UserError(f"several results are named {name}; rename a file or folder to tell them apart")
            rows[name] = of_video
            for place in range(len(positions)):
                of_video(place)
    return rows


def run_model(
    model: VideoModel, dataset: VideoDataset, labels: np.ndarray, options: EvaluateOptions
) -> dict[str, float]:
    """Run the model over the videos that have no stored detections yet, and store theirs; what that took.

    labels: the data set's of each of the model's; boxes of those that it has not are dropped. Post-processing starts
    from what the head has before its own suppression.
    """
    linked = set(options.postprocess) != {"none"}
    done, worked, keys = 0, 0, 0
    with ProgressBar(Path(dataset.name).name, sum(len(video.frames) for video in dataset.videos)) as bar:
        for number, video in enumerate(dataset.videos):
            paths = {name: file_of(options.output / name, number) for name in options.postprocess}
            done += len(video.frames)
            if all(path.exists() for path in paths.values()):
                continue
            scheduled = scheduled_by_truth(model, video, labels) if options.oracle else model
            run = detect_video(scheduled, video, options.batch, unsuppressed=linked)
            for name, path in paths.items():
                save(path, run.after(name, labels), count=run.frames, keys=run.keys, seconds=run.seconds)
            worked += run.frames
            keys += run.keys
            bar.show(done, worked, keys)
    return _run_summary([file_of(options.output / options.postprocess[0], n) for n in range(len(dataset.videos))])


def judge(
    rows: Mapping[str, Results], dataset: VideoDataset, truths: Truths, options: EvaluateOptions
) -> tuple[list[Row], list[dict[str, str]]]:
    """The measures of each set of detections; the worst frames of the first, drawn into OUTPUT/worst."""
    measures = {name: Measures(dataset.classes, iou=options.finds, score=options.score) for name in rows}
    worst = WorstFrames(options.worst, score=options.score)
    first = next(iter(rows))
    for number in range(len(dataset.videos)):
        truth = truths[number]
        for name, stored in rows.items():
            detections = stored(number)
            measures[name].add(detections, truth)
            if name == first:
                worst.add(number, detections, truth)
    pictures = draw_worst(worst.result(), dataset, options.output / WORST)
    return [measures[name].result(name) for name in rows], pictures


def _segmentation(
    model: VideoModel, dataset: VideoDataset, labels: np.ndarray, options: EvaluateOptions
) -> tuple[list[Row], dict[str, float]]:
    """mIoU of a segmentation model on the labelled frames; the pixels of each video are counted once and kept.

    labels: the data set's of each of the model's; what is taken for one that the data set has not is wrong.
    """
    classes = dataset.mask_classes
    labels = np.where(labels < 0, len(classes), labels)
    total = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
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
                        counts += confusion(labels[result.segmentation], truth, len(classes) + 1)
                seconds = timer.seconds["model"]
                write_atomically(path, json.dumps({"counts": counts.tolist(), "frames": frames, "seconds": seconds}))
            total += np.array(json.loads(path.read_text())["counts"])
            bar.show(number + 1, number + 1, 0)
    measures = {
        "mIoU": mean_iou(total, len(classes)),
        "pixel accuracy": float(np.diag(total).sum() / max(total.sum(), 1)),
    }
    if options.l_pairs is not None:
        pairs = l_pairs(model, dataset, options.l_pairs, labels)
        measures["mIoU of l-pairs"] = pairs.mean
        measures |= {f"mIoU, key frame {o} before": value for o, value in enumerate(pairs.by_offset)}
        measures["snippets too short"] = sum(pairs.skipped)
    overlaps = zip(classes, class_iou(total)[: len(classes)].tolist(), strict=True)
    by_class = {name: {"IoU": value} for name, value in overlaps if not np.isnan(value)}
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
    return lambda video: load(file_of(folder, video))[0]


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


def described(model: VideoModel, name: str, weights: str | None = None) -> dict[str, Any]:
    """A model for the head of results: what built it, its precision, and the SHA-256 of its files."""
    plain = json.loads(json.dumps(model.description, default=str))
    return {
        **identified(name, weights),
        "method": plain.get("method"),
        "arguments": plain.get("arguments", {}),
        **({"half": True} if model.half_precision else {}),
    }


def made_by() -> dict[str, Any]:
    """Where figures were made, and with what."""
    return {
        "machine": machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "versions": installed(("keywarp", "torch", "numpy")),
    }
