import numpy as np
import pytest
import torch
from torch import nn

from keywarp.data.datasets import Annotation, Frames, Video, VideoDataset
from keywarp.errors import UserError
from keywarp.evaluation.segmentation import confusion, l_pairs, mean_iou
from keywarp.model import TaskHead, VideoModel
from keywarp.predictor import VideoPredictor
from keywarp.scheduling import FixedInterval
from keywarp.transform import ImageTransform
from tiny import TinyFeatures, TinyFlow, tiny_model

CLASSES = ("a", "b", "c")


def test_by_hand():
    predicted, truth = np.array([[0, 0, 1], [1, 2, 2]]), np.array([[0, 1, 1], [1, 255, 0]])
    counts = confusion(predicted, truth, 3)
    assert counts.tolist() == [[1, 0, 1], [1, 2, 0], [0, 0, 0]]
    # class 0: 1 of 3 pixels, class 1: 2 of 3, class 2 is only predicted: 0 of 1
    assert mean_iou(counts) == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)
    assert mean_iou(confusion(truth[:1], truth[:1], 3)) == 1  # classes 0 and 1 occur
    assert np.isnan(mean_iou(confusion(predicted, np.full((2, 3), 255), 3)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="one size"):
        confusion(np.zeros((2, 2), int), np.zeros((2, 3), int), 2)
    for predicted, truth in ((2, 0), (0, 2)):
        with pytest.raises(ValueError, match="labels must be below 2"):
            confusion(np.full((2, 2), predicted), np.full((2, 2), truth), 2)


class Maps(TaskHead):
    """Scores that are a mix of the first level's channels, different from place to place."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(8, len(CLASSES), 1, bias=False)

    def forward(self, features, image_sizes):
        x = features[0]
        return list(self.mix(x - x.mean(dim=(2, 3), keepdim=True)))


class Pictures(Frames):
    def __init__(self, seed, count):
        self.images = np.random.default_rng(seed).integers(0, 256, (count, 32, 48, 3), dtype=np.uint8)

    def __len__(self):
        return len(self.images)

    def read(self, indices):
        return [self.images[i] for i in indices]

    @property
    def source(self):
        return "memory"


class Snippet(Video):
    def __init__(self, seed, labelled, count=8):
        self.name, self.frames, self.labelled = str(seed), Pictures(seed, count), labelled

    def annotation(self, index):
        mask = np.random.default_rng(index).integers(0, 4, (32, 48)).astype(np.uint8)
        return Annotation(mask=np.where(mask == 3, 255, mask).astype(np.uint8))


def dataset(*videos):
    return VideoDataset("snippets", (), videos, CLASSES)


def model(aligner=None):
    torch.manual_seed(0)
    made = VideoModel(
        TinyFeatures(), Maps(), scheduler=FixedInterval(4), aligner=aligner, transform=ImageTransform(32, 48)
    )
    return made.eval()


def test_equals_a_predictor_that_starts_at_each_key_frame():
    videos = [Snippet(0, (5,)), Snippet(1, (7,)), Snippet(2, (1, 6))]
    network = model(TinyFlow(scale=3))
    expected, skipped = [], []
    for offset in range(4):
        counts = np.zeros((3, 3), np.int64)
        skipped.append(0)
        for video in videos:
            for i in video.labelled:
                if offset > i:
                    skipped[-1] += 1
                    continue
                pushed = [video.frames.images[j] for j in ([i - offset, i] if offset else [i])]
                predictor = VideoPredictor(network)
                results = predictor.push(pushed) + predictor.flush()
                assert [r.is_key for r in results] == [True, False][: len(pushed)]
                counts += confusion(results[-1].segmentation, video.annotation(i).mask, 3)
        expected.append(mean_iou(counts))
    found = l_pairs(network, dataset(*videos), 4)
    assert found.by_offset == tuple(expected)
    assert found.mean == pytest.approx(np.mean(expected))
    assert found.skipped == tuple(skipped) == (0, 0, 1, 1)
    assert len(set(expected)) == 4


def test_the_first_offset_is_the_key_frame_alone():
    data = dataset(Snippet(0, (5,)))
    assert l_pairs(model(TinyFlow(scale=3)), data, 3).by_offset[0] == l_pairs(model(), data, 1).mean


def test_no_snippet_reaches_back_far_enough():
    found = l_pairs(model(TinyFlow()), dataset(Snippet(0, (0,))), 2)
    assert found.skipped == (0, 1)
    assert np.isnan(found.by_offset[1])
    assert found.mean == found.by_offset[0]


@pytest.mark.parametrize(
    ("network", "data", "interval", "message"),
    [
        (lambda: model(), dataset(Snippet(0, (5,))), 2, "carries nothing from frame to frame"),
        (lambda: model(), dataset(Snippet(0, (5,))), 0, "interval must be at least 1, got 0"),
        (lambda: model(), VideoDataset("boxes", ("a",), []), 1, "boxes has no label maps"),
        (lambda: tiny_model(FixedInterval(1)), dataset(Snippet(0, (5,))), 1, "finds boxes"),
    ],
)
def test_what_cannot_be_measured_is_refused(network, data, interval, message):
    with pytest.raises(UserError, match=message):
        l_pairs(network(), data, interval)
