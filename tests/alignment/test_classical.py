import cv2
import numpy as np
import pytest
import torch

from keywarp.alignment.classical import DISFlow, RAFTFlow
from keywarp.errors import UserError
from keywarp.structures import Frame, Memory


def panning(count, step, size=(96, 160), seed=0):
    """Images `[1, 3, H, W]` of a texture whose content moves by (dx, dy) = `step` pixels a frame."""
    rng = np.random.default_rng(seed)
    h, w = size
    noise = rng.normal(0, 1, (h + 80, w + 80, 3)).astype(np.float32)
    scales = [cv2.GaussianBlur(noise, None, sigma) for sigma in (2, 5, 12)]
    texture = (128 + 20 * sum(s / s.std() for s in scales)).clip(0, 255).astype(np.uint8)
    views = [texture[40 - step[1] * t :, 40 - step[0] * t :][:h, :w] for t in range(count)]
    return [torch.from_numpy(np.ascontiguousarray(v)).permute(2, 0, 1)[None] for v in views]


@pytest.mark.parametrize("longer", [160, 120])
def test_flow_points_from_the_current_frame_to_the_key(longer):
    key, current = panning(2, (6, -4), size=(192, 320))
    field = DISFlow(longer=longer)(Memory(key, ()), Frame(current))
    shrink = 320 / longer
    middle = field.flow[0, :, 4:-4, 4:-4] * shrink
    assert middle[0].median() == pytest.approx(-6, abs=0.5)
    assert middle[1].median() == pytest.approx(4, abs=0.5)


def test_carried_features_match_the_current_frame_on_every_level():
    key, current = panning(2, (16, 0), size=(192, 320))
    features = [tuple(torch.nn.functional.avg_pool2d(i.float(), s) for s in (4, 8, 16)) for i in (key, current)]
    carried = DISFlow()(Memory(key, ()), Frame(current)).propagate(features[0])
    for before, after, want in zip(features[0], carried, features[1], strict=True):
        inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
        assert (after - want)[inner].abs().mean() < 0.5 * (before - want)[inner].abs().mean()


def test_many_frames_share_one_key_and_its_remembered_image():
    key, *others = panning(4, (3, 1))
    aligner = DISFlow()
    together = aligner(Memory(key, (), work=aligner.remember(Frame(key))), Frame(torch.cat(others)))
    for n, image in enumerate(others):
        alone = aligner(Memory(key, ()), Frame(image))
        assert torch.equal(together.flow[n], alone.flow[0])


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (8, 400), (400, 8), (200, 8000)])
def test_any_image_size(size):
    image = torch.zeros(1, 3, *size, dtype=torch.uint8)
    assert torch.isfinite(DISFlow()(Memory(image, ()), Frame(image)).flow).all()


def test_unknown_preset_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean medium"):
        DISFlow(preset="medum")


def test_raft_takes_any_image_and_weights_from_a_file(tmp_path):
    key, current = panning(2, (4, 0))
    aligner = RAFTFlow(weights=None, updates=2).eval()
    with torch.inference_mode():
        flow = aligner(Memory(key, ()), Frame(torch.cat([current, current]))).flow
    assert flow.shape == (2, 2, 128, 160), "sides are multiples of 8 and at least 128"
    torch.save(aligner.network.state_dict(), tmp_path / "raft.pth")
    again = RAFTFlow(weights=tmp_path / "raft.pth", updates=2).eval()
    with torch.inference_mode():
        same = again(Memory(key, ()), Frame(current)).flow[0]
    torch.testing.assert_close(same, flow[0], atol=1e-3, rtol=0)
