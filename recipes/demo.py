"""Makes what ships for `keywarp demo`: half-precision weights, and a test clip of the synthetic benchmark.

    python recipes/demo.py MODEL.safetensors DATA --val RFCN DFF IMPRESSION --test RFCN DFF IMPRESSION

Both are `keywarp evaluate`'s folders of the three ways of `keywarp.demo`: the mAP on val goes into the file, and by the
results on test the clip is chosen. MODEL is an Impression Network of `keywarp train`; its file also holds an R-FCN and
a Deep Feature Flow. docs/weights.md says how it was trained.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keywarp.data.datasets import spread
from keywarp.data.reading import open_dataset
from keywarp.demo import WAYS
from keywarp.evaluation.measures import Measures
from keywarp.evaluation.results_files import read_results
from keywarp.evaluation.truth import Truth
from keywarp.files import write_atomically
from keywarp.methods import METHODS
from keywarp.networks.weight_files import load_weights, read_description, save_model


def typical(data: Path, folders: Sequence[Path]) -> int:
    """Of the measured test clips with several classes, the position of the one whose mAP in each way is nearest, all
    ways together, to the clips' median in that way."""
    whole = open_dataset(data, "test")
    count = json.loads((folders[0] / "evaluation.json").read_text())["setting"]["videos"]
    positions = spread(len(whole.videos), count)
    results = [read_results(folder, whole, {}, positions)[folder.name] for folder in folders]
    found: dict[int, list[float]] = {}
    for place, position in enumerate(positions):
        truth = Truth.of(whole.videos[position])
        if len(np.unique(truth.labels)) < 2:
            continue
        found[position] = []
        for of_video in results:
            measures = Measures(whole.classes)
            measures.add(of_video(place), truth)
            found[position].append(measures.result("").measures["mAP"])
    medians = np.median(list(found.values()), axis=0)
    return min(found, key=lambda position: float(np.abs(found[position] - medians).sum()))


def main() -> None:
    """Writes demo.safetensors, demo.mp4 and demo.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--val", type=Path, nargs=len(WAYS), required=True)
    parser.add_argument("--test", type=Path, nargs=len(WAYS), required=True)
    parser.add_argument("--output", type=Path, default=Path("src/keywarp/assets"))
    options = parser.parse_args()
    truth = json.loads((options.data / "test.json").read_text())
    about, made = read_description(options.model), truth["info"]
    path = options.output / "demo.safetensors"
    about["metrics"] = {}
    for way, folder in zip(WAYS, options.val, strict=True):
        rows = json.loads((folder / "evaluation.json").read_text())["rows"]
        about["metrics"][f"mAP {way}"] = rows[0]["measures"]["mAP"]
    about["training"]["data"] = [f"keywarp data synthesize {' '.join(f'--{k} {made[k]}' for k in ('size', 'seed'))}"]
    model = METHODS[about["method"]](**about["arguments"], classes=about["classes"])
    load_weights(model, options.model)
    print(path, save_model(path, model, about, half=True), path.stat().st_size)
    video = truth["videos"][typical(options.data, options.test)]
    shutil.copyfile(options.data / video["file_name"], options.output / "demo.mp4")
    images = [image for image in truth["images"] if image["video_id"] == video["id"]]
    shown = {image["id"] for image in images}
    clip = {
        "info": truth["info"],
        "categories": truth["categories"],
        "videos": [video | {"name": "demo", "file_name": "demo.mp4"}],
        "images": images,
        "annotations": [each for each in truth["annotations"] if each["image_id"] in shown],
    }
    write_atomically(options.output / "demo.json", json.dumps(clip))


if __name__ == "__main__":
    main()
