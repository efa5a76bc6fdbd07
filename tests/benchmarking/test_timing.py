"""Parts that take known time on a clock that only they move."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from keywarp.alignment.correspondence import Aligner, Correspondence
from keywarp.benchmarking.timing import clock_for, in_order, part_times
from keywarp.model import VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import FixedInterval
from keywarp.structures import Step
from keywarp.transform import ImageTransform
from keywarp.updating import Updater
from tiny import TinyFeatures, TinyFlow, TinyHead

now = 0.0
PICTURE = np.zeros((32, 48, 3), np.uint8)


def takes(seconds):
    global now
    now += seconds


class SlowFeatures(TinyFeatures):
    def forward(self, image):
        takes(64)
        return super().forward(image)


@dataclass(frozen=True)
class Still(Correspondence):
    """What was in a place stays there."""

    count: int
    quality: torch.Tensor | None = None
    fallback: tuple[float, ...] = ()

    def propagate(self, features):
        takes(4)
        return tuple(level.expand(self.count, -1, -1, -1) for level in features)

    def first(self, count):
        return replace(self, count=count)


class SlowAligner(Aligner):
    def forward(self, reference, current):
        takes(16)
        return Still(len(current.image), quality=torch.ones(len(current.image), 1, 4, 6))

    def remember(self, frame):
        takes(1)


class Anew(Updater):
    """Computes everything anew, with the whole feature network."""

    def forward(self, propagated, current, reference, correspondence, feature_network):
        takes(2)
        return feature_network(current.image), None


class SlowHead(TinyHead):
    def forward(self, features, image_sizes):
        takes(8)
        return super().forward(features, image_sizes)


@dataclass(frozen=True)
class SlowTransform(ImageTransform):
    def __call__(self, image):
        takes(0.25)
        return super().__call__(image)

    def restore(self, detections, place):
        takes(0.5)
        return super().restore(detections, place)


def model(**parts):
    given = {"scheduler": FixedInterval(3), "aligner": SlowAligner(), "transform": SlowTransform(size=(32, 48))}
    return VideoModel(SlowFeatures(), SlowHead(), **(given | parts)).eval()


def spent_on_three_frames(video_model):
    with part_times(video_model, lambda: now) as spent:
        VideoPredictor(video_model).push([PICTURE] * 3)
    return dict(spent)


FRAMES = {"preprocess": 3 * 0.25, "feature network": 64, "postprocess": 3 * 0.5}


def test_a_key_frame_and_two_others():
    assert spent_on_three_frames(model()) == FRAMES | {"alignment": 1 + 16, "propagate": 4, "head": 2 * 8}


def test_a_part_inside_another_counts_once_as_itself():
    spent = spent_on_three_frames(model(updater=Anew()))
    assert spent["updating"] == 2
    assert spent["feature network"] == 64 + 64
    before = now
    VideoPredictor(model(updater=Anew())).push([PICTURE] * 3)
    assert sum(spent.values()) == now - before


def test_what_is_left_of_a_step_counts_too():
    class FirstOfTwo(FixedInterval):
        def next_step(self, pending, last_key, ended, key_due=False):
            if key_due:
                return Step((pending[0],), is_key=True, references=(last_key,))
            return super().next_step(pending, last_key, ended)

        def accept(self, quality):
            return 1 if len(quality) == 2 else None

    spent = spent_on_three_frames(model(scheduler=FirstOfTwo(3)))
    assert spent["propagate"] == 4
    assert spent["feature network"] == 2 * 64


def test_the_same_results_and_nothing_stays_behind():
    tried = model(aligner=TinyFlow())
    frames = list(np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8))
    plain = VideoPredictor(tried).push(frames)
    before = [(part, set(vars(part))) for part in tried.modules()]
    carries, transform = Still.propagate, tried.transform
    with part_times(tried, lambda: now):
        timed = VideoPredictor(tried).push(frames)
        assert Still.propagate is not carries
    assert [r.boxes.tolist() for r in timed] == [r.boxes.tolist() for r in plain]
    with pytest.raises(KeyError), part_times(tried, lambda: now):
        raise KeyError
    for part, attributes in before:
        assert set(vars(part)) == attributes
    assert Still.propagate is carries
    assert tried.transform is transform


def test_parts_come_in_the_order_of_the_work():
    assert in_order(["the rest", "head", "seq-nms", "decode", "alignment", "head"]) == [
        "decode",
        "alignment",
        "head",
        "seq-nms",
        "the rest",
    ]


def test_the_clock_goes_with_the_threads():
    cpu = torch.device("cpu")
    assert [clock_for(cpu, threads)[1] for threads in (1, 2)] == ["CPU time", "wall time"]
