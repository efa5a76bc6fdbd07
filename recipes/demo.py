"""Makes what ships for `keywarp demo`: half-precision weights, and a test clip of the synthetic benchmark.

    python recipes/demo.py MODEL.safetensors DATA --evaluations RFCN DFF IMPRESSION

The evaluations are `keywarp evaluate`'s of the three ways of `keywarp.demo`, whose mAP goes into the file. MODEL is an
Impression Network of `keywarp train`; its file also holds an R-FCN and a Deep Feature Flow. docs/weights.md says how it
was trained.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from keywarp.demo import WAYS
from keywarp.files import write_atomically
from keywarp.methods import METHODS
from keywarp.networks.weight_files import load_weights, read_description, save_model

CLIP = 35
"""Of the test clips with several classes, the one whose AP per frame is nearest to their median: a typical one."""


def main() -> None:
    """Writes demo.safetensors, demo.mp4 and demo.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--evaluations", type=Path, nargs=len(WAYS), required=True)
    parser.add_argument("--output", type=Path, default=Path("src/keywarp/assets"))
    options = parser.parse_args()
    truth = json.loads((options.data / "test.json").read_text())
    about, made = read_description(options.model), truth["info"]
    path = options.output / "demo.safetensors"
    for way, folder in zip(WAYS, options.evaluations, strict=True):
        about["metrics"][f"mAP {way}"] = json.loads((folder / "evaluation.json").read_text())["rows"][0]["measures"][
            "mAP"
        ]
    about["training"]["data"] = [f"keywarp data synthesize {' '.join(f'--{k} {made[k]}' for k in ('size', 'seed'))}"]
    model = METHODS[about["method"]](**about["arguments"], classes=about["classes"])
    load_weights(model, options.model)
    print(path, save_model(path, model, about, half=True), path.stat().st_size)
    video = truth["videos"][CLIP]
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
