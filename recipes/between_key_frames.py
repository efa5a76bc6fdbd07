"""What a method loses between its key frames, and on which objects: two evaluations of the same videos, compared.

    keywarp evaluate DATA:val --model rfcn.safetensors --output per-frame …
    keywarp evaluate DATA:val --model dff.safetensors --interval 10 --output dff …
    python recipes/between_key_frames.py DATA:val --per-frame per-frame --carried dff --interval 10 [--videos 60]

An object of a frame is found if a detection of its class scores `--score` or more and overlaps it by half. Objects are
told apart by what became of them since the last key frame, the first that is true: they came into view (no box then);
their box changed shape (moved onto each other, the two boxes overlap by less than 0.7: they turned, came nearer, were
covered); they moved by half their size or more; they stayed. Key frames are taken to be 0, l, 2 l …, as Deep Feature
Flow's and THP's are; Impression Network's and PSLA's lie in the middle, unless evaluated with `--key-position 0`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keywarp.data.datasets import VideoDataset, spread
from keywarp.data.reading import open_dataset, split_of
from keywarp.errors import UserError
from keywarp.evaluation.matching import matches
from keywarp.evaluation.motion import FAST_BELOW, box_area, paired_iou
from keywarp.evaluation.results_files import Results, read_results
from keywarp.evaluation.truth import Truth

FATES = ("at a key frame", "came into view", "changed shape", "moved", "stayed")
DISTANCES = {"1 to 3 frames after one": (1, 3), "4 to 6": (4, 6), "7 and more": (7, 10**6)}


def fates(truth: Truth, interval: int) -> np.ndarray:
    """`[G]` for each object of each frame the position in FATES; key frames are 0, `interval`, …

    All frames are labelled and all objects tracked.
    """
    boxes = {(f, track): box for f, track, box in zip(truth.frames, truth.tracks, truth.boxes, strict=True)}
    keys = truth.frames - truth.frames % interval
    nowhere = np.full(4, np.nan)
    then = np.array([boxes.get(at, nowhere) for at in zip(keys, truth.tracks, strict=True)]).reshape(-1, 4)
    centres, centres_then = ((each[:, :2] + each[:, 2:]) / 2 for each in (truth.boxes, then))
    shape = paired_iou(truth.boxes - np.tile(centres, 2), then - np.tile(centres_then, 2))
    moved = np.linalg.norm(centres - centres_then, axis=1) / np.sqrt(box_area(truth.boxes))
    tests = [truth.frames == keys, np.isnan(shape), shape < 0.7, moved >= 0.5]
    return np.select(tests, range(len(tests)), len(tests))


def found(results: Results, truths: Sequence[Truth], score: float) -> tuple[np.ndarray, float]:
    """`[G]` of all videos, whether each object is found; and how many detections a frame find nothing."""
    hits, wrong = [], 0
    for place, truth in enumerate(truths):
        detections = results(place)
        taken = matches(detections[detections.scores >= score], truth, 0.5)
        hits.append(np.isin(np.arange(len(truth)), taken))
        wrong += int((taken < 0).sum())
    return np.concatenate(hits), wrong / sum(len(truth.labelled) for truth in truths)


def unlinked(folder: Path, dataset: VideoDataset, positions: Sequence[int]) -> Results:
    """The detections of an evaluation without post-processing. Raises UserError."""
    rows = read_results(folder, dataset, {}, positions)
    if folder.name not in rows:
        raise UserError(f"{folder} has no row without post-processing; evaluate with --postprocess none")
    return rows[folder.name]


def table(options: argparse.Namespace) -> str:
    """Recall of both, by fate and by distance, of all objects and of fast ones, in Markdown. Raises UserError."""
    whole = open_dataset(*split_of(options.data, "val"))
    positions = spread(len(whole.videos), options.videos)
    videos = [whole.videos[position] for position in positions]
    truths = [Truth.of(video) for video in videos]
    for video, truth in zip(videos, truths, strict=True):
        if len(truth.labelled) < len(video.frames) or (truth.tracks < 0).any():
            raise UserError(f"wanted videos with all frames labelled and all objects tracked; {video.name} is none")
    (there, wrong), (carried, wrong_carried) = (
        found(unlinked(folder, whole, positions), truths, options.score)
        for folder in (options.per_frame, options.carried)
    )
    of_each = np.concatenate([fates(t, options.interval) for t in truths])
    distance = np.concatenate([t.frames % options.interval for t in truths])
    fast = np.concatenate([t.motion < FAST_BELOW for t in truths])
    groups = {"all": np.ones(len(fast), bool)} | {name: of_each == n for n, name in enumerate(FATES)}
    groups |= {name: (low <= distance) & (distance <= high) for name, (low, high) in DISTANCES.items()}
    lines = [
        f"| {options.data}, score {options.score} | objects | per frame | carried | share of what is lost "
        "| fast objects | per frame | carried | share of what is lost |",
        "|---" * 9 + "|",
    ]
    for name, group in groups.items():
        cells = [name]
        for kind in (np.ones_like(fast), fast):
            chosen = group & kind
            lost, all_lost = ((there[x].sum() - carried[x].sum()) for x in (chosen, kind))
            recalls = (f"{100 * hit[chosen].mean():.1f}" if chosen.any() else "–" for hit in (there, carried))
            cells += [str(chosen.sum()), *recalls, f"{100 * lost / all_lost:.0f} %" if all_lost > 0 else "–"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Wrong detections a frame: {wrong:.2f} per frame, {wrong_carried:.2f} carried.", ""])


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="FOLDER:SPLIT, with tracks")
    parser.add_argument("--per-frame", type=Path, required=True, help="a folder of keywarp evaluate")
    parser.add_argument("--carried", type=Path, required=True, help="another")
    parser.add_argument("--interval", type=int, default=10, help="of the latter's key frames")
    parser.add_argument("--videos", type=int, help="as evaluate had it")
    parser.add_argument("--score", type=float, default=0.5)
    options = parser.parse_args()
    for name in ("interval", "videos"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    try:
        print(table(options))
    except UserError as error:
        print(f"between_key_frames: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
