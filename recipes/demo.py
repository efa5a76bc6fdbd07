"""Makes what ships for `keywarp demo`: half-precision weights, and a test clip of the synthetic benchmark.

    python recipes/demo.py MODEL.safetensors DATA --val RFCN SFF IMPRESSION --test RFCN SFF IMPRESSION

Both are `keywarp evaluate`'s folders of the three ways of `keywarp.demo`, in their order: the mAP on both goes into the
file, and by the results on test the clip is chosen. MODEL is an Impression Network of `keywarp train`; its file also
holds an R-FCN and a Deep Feature Flow. docs/weights.md has the commands.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keywarp.data.datasets import spread
from keywarp.data.reading import open_dataset
from keywarp.demo import CLIPS, WAYS
from keywarp.errors import UserError
from keywarp.evaluation.measures import Measures
from keywarp.evaluation.results_files import read_results
from keywarp.evaluation.truth import Truth
from keywarp.files import laid_out_as, read_json, write_atomically
from keywarp.methods import METHODS
from keywarp.networks.download import sha256_of
from keywarp.networks.weight_files import load_weights, read_description, save_model


def measured(folder: Path, split: str, model: Path, way: str) -> float:
    """The mAP without post-processing of an evaluation that must be of the model, run that way on `CLIPS` clips.

    Raises UserError.
    """
    path = folder / "evaluation.json"
    about = read_json(path)
    with laid_out_as("an evaluation of keywarp", path):
        setting, ran = about["setting"], about["setting"]["model"]
        is_it = (
            setting["dataset"].endswith(f":{split}"),
            setting["videos"] == CLIPS,
            setting["iou"] == "vid",
            set(ran["sha256"].values()) == {sha256_of(model)},
            all((ran | ran["arguments"]).get(name) == value for name, value in WAYS[way].items()),
        )
        values = {row["name"]: row["measures"]["mAP"] for row in about["rows"]}
        if all(is_it) and "none" in values:
            return float(values["none"])
    given = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in WAYS[way].items())
    wanted = f"keywarp evaluate DATA:{split} --videos {CLIPS} --model {model} {given} --postprocess none …"
    raise UserError(f"{folder} must be of `{wanted}`")


def typical(data: Path, folders: Sequence[Path]) -> int:
    """Of the measured test clips with several classes, the position of the one whose mAP in each way is nearest, all
    ways together, to the clips' median in that way."""
    whole = open_dataset(data, "test")
    positions = spread(len(whole.videos), CLIPS)
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


def main() -> int:
    """Writes demo.safetensors, demo.mp4 and demo.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--val", type=Path, nargs=len(WAYS), required=True)
    parser.add_argument("--test", type=Path, nargs=len(WAYS), required=True)
    parser.add_argument("--output", type=Path, default=Path("src/keywarp/assets"))
    options = parser.parse_args()
    try:
        write(options)
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0


def write(options: argparse.Namespace) -> None:
    """All three, once the evaluations are found to be the right ones. Raises UserError."""
    folders = {"val": options.val, "test": options.test}
    metrics = {
        f"mAP {way}, {split}": measured(folder, split, options.model, way)
        for split, of_ways in folders.items()
        for way, folder in zip(WAYS, of_ways, strict=True)
    }
    truth = read_json(options.data / "test.json")
    video = truth["videos"][typical(options.data, options.test)]
    about, made = read_description(options.model), truth["info"]
    path = options.output / "demo.safetensors"
    about["metrics"] = metrics
    about["training"].setdefault("commit", about["versions"].get("commit", "unknown"))  # saving names the present one
    about["training"]["data"] = [f"keywarp data synthesize {' '.join(f'--{k} {made[k]}' for k in ('size', 'seed'))}"]
    model = METHODS[about["method"]](**about["arguments"], classes=about["classes"])
    load_weights(model, options.model)
    print(path, save_model(path, model, about, half=True), path.stat().st_size)
    write_atomically(options.output / "demo.mp4", (options.data / video["file_name"]).read_bytes())
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
    raise SystemExit(main())
