import cv2
import numpy as np
import pytest
from video_clips import pan, write_clip

from keywarp.data.motion import LONGEST_CHAIN, bounded, motion_field, unknown_motion
from keywarp.data.orientation import Orientation
from keywarp.data.video import open_video

VECTOR = np.dtype(
    [(n, "i4") for n in ("source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y")] + [("motion_scale", "u2")]
)


def fields(path, **options):
    with open_video(path, motion=True, **options) as video:
        return [frame.motion for frame in video]


def share_right(motion, step):
    """(share of inner cells whose motion is the pan's, share of inner cells that are known)."""
    inner = np.stack([field[2:-2, 2:-2] for chain in motion for field in chain])
    return (np.abs(inner - step) < 0.5).all(-1).mean(), (~np.isnan(inner[..., 0])).mean()


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("mpeg4", {}),
        ("mpeg2video", {"b_frames": 2}),
        ("libx264", {"refs": 1}),
        ("libx264", {"refs": 1, "b_frames": 3, "x264_params": "b-adapt=0:b-pyramid=0"}),
        ("libx264", {"refs": 1, "b_frames": 3, "x264_params": "b-adapt=0"}),  # B-frames that others refer to
        ("libx264", {"preset": "veryfast", "b_frames": 3, "x264_params": "b-adapt=0:weightp=0"}),
    ],
)
@pytest.mark.parametrize("step", [(3, 2), (-4, 1)])
def test_a_pan_is_found_with_its_sign_and_speed(tmp_path, codec, options, step):
    path = write_clip(tmp_path / "pan.mp4", pan(24, step), codec, gop=30, **options)
    motion = fields(path)
    assert all(len(chain) == 1 and chain[0].shape == (12, 20, 2) for chain in motion)
    assert np.isnan(motion[0][0]).all()  # the I-frame
    right, known = share_right(motion[1:], step)
    assert right > 0.9 * known
    assert known > 0.85  # encoders code some new blocks without reference


def test_b_frames_whose_vectors_the_decoder_does_not_store_are_unknown(tmp_path):
    path = write_clip(tmp_path / "pan.mp4", pan(24), "mpeg4", gop=30, b_frames=2)
    right, known = share_right(fields(path)[1:], (3, 2))
    assert right > 0.95 * known
    assert known < 0.5


def test_the_share_of_a_vector_follows_the_frames_times(tmp_path):
    # Steady motion, but every fourth frame comes late: the pan's step per frame varies with the time between.
    times = np.cumsum([0] + [0.04, 0.04, 0.04, 0.12] * 6)
    at = np.round(times / 0.04).astype(int)
    frames = [pan(at[-1] + 1)[i] for i in at]
    path = write_clip(
        tmp_path / "vfr.mp4", frames, times=times, b_frames=3, gop=60, refs=1, x264_params="b-adapt=0:b-pyramid=0"
    )
    for gap, chain in zip(np.diff(at), fields(path)[1:], strict=True):
        found = np.nanmedian(chain[0].reshape(-1, 2), axis=0)
        np.testing.assert_allclose(found, np.array([3, 2]) * gap, atol=0.5)


def test_rotated_video_has_rotated_motion(tmp_path):
    path = write_clip(tmp_path / "turned.mp4", pan(8, (3, 2), (96, 160)), rotation=-90, refs=1)
    motion = fields(path)
    assert motion[1][0].shape == (20, 12, 2)
    # Turned clockwise, right becomes down and down becomes left: (3, 2) is shown as (−2, 3).
    assert share_right(motion[1:], (-2, 3))[0] > 0.9


def test_skipped_frames_are_in_the_chain(tmp_path):
    path = write_clip(tmp_path / "pan.mp4", pan(10), refs=1)
    assert [len(chain) for chain in fields(path, stride=4)] == [1, 4, 4]
    assert [len(chain) for chain in fields(path, start=3, stop=9, stride=2)] == [1, 2, 2]
    one_by_one = [chain[0] for chain in fields(path)]
    np.testing.assert_array_equal(np.stack(fields(path, stride=4)[1]), np.stack(one_by_one[1:5]))


def test_fields_do_not_vary_from_run_to_run(tmp_path):
    path = write_clip(tmp_path / "pan.mp4", pan(30, (5, 3)), b_frames=3)
    first, second = fields(path), fields(path)
    np.testing.assert_array_equal(np.stack([c[0] for c in first]), np.stack([c[0] for c in second]))


def test_images_have_unknown_motion(tmp_path):
    for i, frame in enumerate(pan(3)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), frame)
    assert all(len(chain) == 1 and np.isnan(chain[0]).all() for chain in fields(tmp_path))


def test_a_long_chain_becomes_one_unknown_field():
    field = np.ones((2, 3, 2), np.float32)
    assert len(bounded((field,) * LONGEST_CHAIN)) == LONGEST_CHAIN
    (only,) = bounded((field,) * (LONGEST_CHAIN + 1))
    assert only.shape == field.shape
    assert np.isnan(only).all()


def vectors(*rows):
    """rows: (source, w, h, centre x, centre y, motion x, motion y) in whole pixels."""
    return np.array([(*row, 1) for row in rows], VECTOR)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("mirror_x", [False, True])
@pytest.mark.parametrize("mirror_y", [False, True])
def test_field_of_a_turned_frame_is_the_turned_field(transposed, mirror_x, mirror_y):
    turn = Orientation(transposed, mirror_x, mirror_y)
    given = vectors(
        (-1, 16, 16, 8, 8, 1, 2), (-1, 16, 8, 24, 4, 3, 4), (-1, 8, 16, 4, 24, 5, 6), (-1, 8, 8, 44, 28, 7, 8)
    )
    plain = motion_field(given, 32, 48, 1.0, np.nan, Orientation())
    turned = motion_field(given, 32, 48, 1.0, np.nan, turn)
    expected = turn.vectors(turn.image(plain).reshape(-1, 2)).reshape(turned.shape)
    np.testing.assert_array_equal(turned, expected)


def test_blocks_cover_their_cells_and_overhang_is_dropped():
    given = vectors((-1, 16, 8, 8, 12, 1, 2), (-1, 16, 16, 24, 24, 3, 4))
    field = motion_field(given, 20, 18, 1.0, np.nan, Orientation())  # 3 × 3 cells; the second block overhangs
    expected = unknown_motion(20, 18)
    expected[1, :2] = (1, 2)
    expected[2, 2] = (3, 4)
    np.testing.assert_array_equal(field, expected)


def test_past_vectors_are_kept_before_future_ones_and_both_are_scaled():
    given = vectors((-1, 16, 16, 8, 8, 6, 3), (1, 16, 16, 8, 8, 99, 99), (1, 16, 16, 24, 8, 4, 8))
    field = motion_field(given, 16, 32, 1 / 3, 1 / 4, Orientation())
    np.testing.assert_allclose(field[0, 0], (2, 1))
    np.testing.assert_allclose(field[0, 2], (-1, -2))


def test_the_zero_of_an_unused_direction_gives_way():
    given = vectors((-1, 8, 8, 4, 4, 0, 0), (1, 8, 8, 4, 4, 4, 8), (-1, 8, 8, 12, 4, 0, 0), (1, 8, 8, 12, 4, 0, 0))
    field = motion_field(given, 8, 16, 1.0, 1.0, Orientation())
    np.testing.assert_allclose(field[0], [(-4, -8), (0, 0)])


@pytest.mark.parametrize(
    ("clip", "start"),
    [("bikes", 0), ("car-detection", 0), ("carphone_pristine", 0), ("one-by-one-person-detection", 200)],
)
def test_motion_of_real_clips_brings_the_frame_before_nearer(shared, clip, start):
    still, moved, before = [], [], None
    with open_video(shared / "clips" / f"{clip}.mp4", motion=True, start=start, stop=start + 60) as video:
        for frame in video:
            image = frame.image.astype(np.float32)
            h, w = image.shape[:2]
            field = frame.motion[0].repeat(8, 0).repeat(8, 1)[:h, :w]
            known = ~np.isnan(field[..., 0])
            if before is not None and known.any():
                y, x = np.mgrid[:h, :w].astype(np.float32)
                flow = np.nan_to_num(field)
                warped = cv2.remap(before, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=1)
                still.append(np.abs(image - before)[known].mean())
                moved.append(np.abs(image - warped)[known].mean())
            before = image
    assert np.mean(moved) < 0.9 * np.mean(still)
