import cv2
import numpy as np

from keywarp.data.synthetic import CLASSES, synthetic_clip


def test_same_seed_same_clip():
    a, b = synthetic_clip(3), synthetic_clip(3)
    assert np.array_equal(a.frame(4), b.frame(4))
    assert np.array_equal(a.boxes(4)[0], b.boxes(4)[0])
    assert not np.array_equal(a.frame(4), synthetic_clip(4).frame(4))


def test_boxes_are_inside_the_picture_and_around_the_shapes():
    for seed in range(5):
        clip = synthetic_clip(seed, size=(120, 160))
        boxes, labels = clip.boxes(3)
        assert len(boxes) == len(labels)
        assert set(labels) <= set(range(len(CLASSES)))
        assert (boxes >= 0).all()
        assert (boxes <= [160, 120, 160, 120]).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        seen = clip.owner(3)
        for n, shape in enumerate(clip.shapes):
            x = np.nonzero(seen == n)[1]
            match = [b for b, lab in zip(boxes, labels, strict=True) if lab == shape.label]
            if len(match) == 1 and len(x):
                (box,) = match
                assert box[0] - 1 <= x.min()
                assert x.max() <= box[2] + 1


def test_flow_brings_one_frame_onto_the_other():
    better = 0
    for seed in range(6):
        clip = synthetic_clip(seed, size=(120, 160))
        then, now = clip.frame(2), clip.frame(6).astype(float)
        flow = clip.flow(6, 2)
        y, x = np.mgrid[:120, :160].astype(np.float32)
        carried = cv2.remap(then, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR)
        better += abs(carried - now).mean() < 0.8 * abs(then - now).mean()
    assert better == 6
    assert np.abs(clip.flow(3, 3)).max() < 1e-3
