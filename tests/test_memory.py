import numpy as np
import psutil
import pytest
import torch

from keywarp.methods import dff
from keywarp.predictor import VideoPredictor


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = dff(
        "resnet-tiny", flow="flownet-tiny", num_classes=2, shorter=32, longer=64, anchor_scales=(1, 2, 3)
    ).eval()
    model.head.dense.proposals = 20
    noise = np.random.default_rng(0).integers(0, 256, (32, 96, 3), dtype=np.uint8)
    video = (noise[:, i % 48 : i % 48 + 48].copy() for i in range(20_000))
    process, resident = psutil.Process(), {}
    for result in VideoPredictor(model).run(video):
        if result.index in (1_000, 19_999):
            resident[result.index] = process.memory_info().rss / 2**20
    assert abs(resident[19_999] - resident[1_000]) < 50
