"""Every method learns two clips by heart: the loss falls to nearly nothing, and the boxes are right.

`pytest -m "slow or long" -rP` tells from which loss to which, and the AP.
"""

from dataclasses import replace

import pytest
import torch

from keywarp.loading import options_of
from keywarp.methods import METHODS
from keywarp.training.clips import TrainingClips, collate
from keywarp.training.config import TrainConfig
from keywarp.training.loop import Run, fit
from keywarp.training.processes import Processes
from keywarp.training.tasks import VideoTask
from keywarp.training.validation import validation
from test_papers import tiny_flow
from training.test_loop import rows
from training.toy import toy

NETWORK = {
    "backbone": "resnet-tiny",
    "num_classes": 3,
    "shorter": 128,
    "longer": 192,
    "anchor_scales": (2, 3, 4),
    "bins": 3,
    "hard_examples": False,
    "fixed": (),  # of variants that fix a part too: their composition can learn
}
CONFIG = TrainConfig(
    steps=400,
    images_per_step=2,
    rate_per_image=1e-3,
    optimiser="adamw",
    weight_decay=0.0,
    cosine=True,
    warmup=20,
    clip_norm=10.0,
    rates={"feature_network.": 0.5, "aligner.": 0.1, ".offset.": 0.05},
    frozen_norms=False,
    flip=0.0,
    validate_every=10**6,
    save_every=10**6,
)
ALIKE = {
    "dff-fix-n": "dff",
    "dff-fix-f": "dff",
    "dff-separate": "rfcn",
    "dff-half": "dff",
    "dff-inception": "dff",
    "thp-c1": "thp-c3",
    "thp-c2": "thp-c3",
    "impression-a": "rfcn",
    "impression-e": "impression-d",
    "iff-d": "iff-c",
    "iff-e": "iff-c",
    "optflow-a": "optflow-b",
}
"""Names that train the same composition as another here, where all parts train and flow networks are tiny."""
ALWAYS = ("dff",)
"""Tested always; the others with `pytest -m long`, one to five minutes each."""
FROM_DETECTOR = ("psla-a", "psla-b", "psla-dense-s", "psla-nonlocal-s")
"""Attention without a frame's own features beside it: of untrained features it is a mean of all neighbours, from which
little is learnt. As in practice a detector is trained first."""


def names():
    for name in METHODS:
        marks = [pytest.mark.long] * (name not in ALWAYS)
        if name != "sff" and name not in ALIKE:
            yield pytest.param(name, marks=marks)


def learn(model, data, config, folder):
    """Train; the losses."""
    clips = TrainingClips([data], model.training_plan, model.transform, config)
    fit(Run(VideoTask(model.train()), clips, collate, config, folder, lambda *_: None, workers=0))
    # A third of THP's clips is computed anew as a whole, so the area stays.
    return [row["loss"] - row.get("update_area", 0) for row in rows(folder)]


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_two_clips_by_heart(name, tmp_path):
    torch.manual_seed(0)
    options = NETWORK | tiny_flow(name, {}) | ({"deformable": 3} if name in ("iff-f", "iff-g", "iff-h") else {})
    options |= {"interval": 4} if "interval" in options_of(name) else {}
    data = toy(2, length=9, first=7, step=9)  # one labelled frame each: no key frame, in the second segment
    model = METHODS[name](**options)
    course, config = [], CONFIG
    if name in FROM_DETECTOR:
        detector = METHODS["rfcn"](**NETWORK)
        course += learn(detector, data, CONFIG, tmp_path / "detector")
        model.load_state_dict(detector.state_dict(), strict=False)
        config = replace(CONFIG, rate_per_image=2e-4, rates=CONFIG.rates | {"aligner.": 1.0})
    course += learn(model, data, config, tmp_path)
    first, last = sum(course[:10]) / 10, sum(course[-10:]) / 10
    # A tenth is what the moved copies of the true boxes leave, which are others in every step.
    precision = validation(data, Processes("cpu"))(model.eval())["mAP"]
    print(f"{name}: {first:.2f} → {last:.2f}, AP {precision:.2f}")  # with -rP
    assert last < 0.15 * first
    assert precision == 1
