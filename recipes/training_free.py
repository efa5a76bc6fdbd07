"""Shallow feature flow on real clips: what key frames save and what they cost, with weights as they are.

    python recipes/training_free.py VIDEO… --model yolox_nano.onnx [--truth MOT.txt …] --output table.md

For every clip, per frame and with key frames every 3, 5 and 10, carried by DIS and by the codec's motion vectors:
frames, agreement with the per-frame result (share of boxes scored 0.3 or more that have a partner of the same class at
IoU 0.5), person AP50 where a MOT ground truth named like the video is given, milliseconds a frame (one thread, CPU time
of the process) and for how many frames the codec's motion had to be estimated instead.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from keywarp.benchmarking.timing import part_times
from keywarp.data.datasets import Annotation
from keywarp.data.video import open_video
from keywarp.evaluation.average_precision import AveragePrecision
from keywarp.evaluation.detection import agreement, of_class
from keywarp.evaluation.truth import Truth
from keywarp.files import write_atomically
from keywarp.loading import load
from keywarp.predictor import VideoPredictor
from keywarp.structures import Detections, FrameResult, VideoDetections

THRESHOLD = 0.3
SETTINGS = [(1, "dis")] + [(interval, flow) for interval in (3, 5, 10) for flow in ("dis", "codec")]


def read_truth(path: Path) -> dict[int, np.ndarray]:
    """Boxes `[G, 4]` xyxy by 0-based frame, from MOT text (frame, id, x, y, w, h, …)."""
    rows = defaultdict(list)
    for line in path.read_text().splitlines():
        frame, _, x, y, w, h = (float(v) for v in line.split(",")[:6])
        rows[int(frame) - 1].append([x, y, x + w, y + h])
    return {frame: np.array(boxes, np.float32) for frame, boxes in rows.items()}


def run(
    video: str, model_name: str, interval: int, flow: str, key_position: int
) -> tuple[list[FrameResult], dict[str, float]]:
    """Results of a whole clip, and milliseconds a frame by part."""
    model = load(model_name, interval=interval, flow=flow, key_position=key_position)
    clock = time.process_time
    results: list[FrameResult] = []
    with open_video(video, motion=flow == "codec" and interval > 1) as source, part_times(model, clock) as spent:
        predictor = VideoPredictor(model)
        chunk, start = [], clock()
        decode = 0.0
        while True:
            before = clock()
            frame = next(source, None)
            decode += clock() - before
            if frame is not None:
                chunk.append(frame)
            if frame is None or len(chunk) == 8:
                results += predictor.push(chunk)
                chunk = []
            if frame is None:
                break
        results += predictor.flush()
        total = clock() - start
    parts = {"decode": decode, **spent}
    parts["rest"] = total - sum(parts.values())
    return results, {name: 1000 * seconds / len(results) for name, seconds in ({"total": total} | parts).items()}


def visible(result: FrameResult) -> Detections:
    assert result.detections is not None
    return result.detections[result.detections.scores >= THRESHOLD]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--truth", nargs="*", type=Path, default=[])
    parser.add_argument("--key-position", default="first", choices=["first", "centre"])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    truths = {path.name.split(".")[0]: read_truth(path) for path in arguments.truth}
    columns = [
        "clip",
        "key every",
        "flow",
        "frames",
        "agreement",
        "person AP50",
        "ms",
        "decode",
        "features",
        "flow ms",
        "head",
        "rest",
        "estimated",
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    print("\n".join(lines), flush=True)
    for video in arguments.videos:
        name = Path(video).stem
        truth = truths.get(name)
        reference = None
        for interval, flow in SETTINGS:
            position = interval // 2 if arguments.key_position == "centre" else 0
            results, ms = run(video, arguments.model, interval, flow, position)
            reference = reference or results
            same = agreement([visible(r) for r in results], [visible(r) for r in reference])
            precision = "–"
            if truth is not None:
                people = [of_class(r.detections, 0) for r in results if r.detections is not None]
                boxes = [truth.get(r.index, np.zeros((0, 4), np.float32)) for r in results]
                judged = AveragePrecision(1, threshold=0.5)
                there = Truth.of_frames([Annotation(each, np.zeros(len(each), np.int64)) for each in boxes])
                judged.add(VideoDetections.of(people), there)
                precision = f"{judged.result().mean['all']:.3f}"
            shares = np.array([r.flow_fallback for r in results if r.flow_fallback is not None])
            estimated = (
                f"{(shares == 1).sum()} whole, {((shares > 0) & (shares < 1)).sum()} in part" if len(shares) else "–"
            )
            cells = [name, interval, flow if interval > 1 else "–", len(results), f"{same:.3f}", precision]
            cells += [
                f"{ms.get(part, 0):.1f}" for part in ("total", "decode", "feature network", "alignment", "head", "rest")
            ]
            lines.append("| " + " | ".join(map(str, [*cells, estimated])) + " |")
            print(lines[-1], flush=True)
    if arguments.output:
        write_atomically(arguments.output, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
