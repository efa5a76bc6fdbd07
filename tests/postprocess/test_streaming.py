"""Live post-processing beside what the functions for whole videos say of the frames so far."""

import numpy as np
import pytest
import torch

from keywarp.errors import UserError
from keywarp.postprocess import StreamingSeqNMS, seq_nms, seq_nms_plus
from keywarp.structures import Detections, VideoDetections
from postprocess.test_seq_nms import tubes

OFFLINE = {True: seq_nms_plus, False: seq_nms}


def rows(boxes, scores, labels=None):
    labels = torch.zeros(len(boxes), dtype=torch.long) if labels is None else labels
    return Detections(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(scores), labels)


@pytest.mark.parametrize("plus", [True, False])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_an_answer_is_the_last_frame_of_the_window_post_processed(plus, window):
    changed = 0
    for seed in range(30):
        frames = tubes(seed).by_frame(8)
        stream = StreamingSeqNMS(window=window, plus=plus)
        for t, frame in enumerate(frames):
            found, tracks = stream.push(frame)
            seen = frames[max(0, t + 1 - window) : t + 1]
            offline = OFFLINE[plus](VideoDetections.of(seen))
            last = offline[offline.frames == len(seen) - 1]
            np.testing.assert_array_equal(found.boxes, last.boxes)
            np.testing.assert_array_equal(found.scores, last.scores)
            np.testing.assert_array_equal(found.labels, last.labels)
            assert tracks.dtype == torch.int64
            assert len(set(tracks.tolist())) == len(found)
            changed += not set(found.scores.tolist()) <= set(frame.scores.tolist())
    assert (changed > 0) == (window > 1)


@pytest.mark.parametrize("plus", [True, False])
def test_the_last_score_of_a_lone_tube_is_that_of_the_whole_tube(plus):
    tube = [rows([[3 * t, 0, 3 * t + 40, 40]], [s]) for t, s in enumerate([0.9, 0.1, 0.6, 0.3])]
    stream = StreamingSeqNMS(window=4, plus=plus)
    answers = [stream.push(frame) for frame in tube]
    whole = OFFLINE[plus](VideoDetections.of(tube))
    assert answers[-1][0].scores.item() == whole.scores[-1]
    assert answers[0][0].scores.item() == np.float32(0.9)
    assert [t.tolist() for _, t in answers] == [[0]] * 4


@pytest.mark.parametrize("plus", [True, False])
def test_tracks_stay_with_their_objects_far_beyond_the_window(plus):
    rng = np.random.default_rng(0)
    stream = StreamingSeqNMS(window=3, plus=plus)
    seen = {}
    for t in range(50):
        objects = [0, 1, 2] if t < 20 else [1, 2, 3]  # one leaves, one comes
        rng.shuffle(objects)
        boxes = [[100 * k + t, 10, 100 * k + t + 60, 70] for k in objects]
        found, tracks = stream.push(rows(boxes, rng.uniform(0.3, 1, 3).astype(np.float32)))
        for box, track in zip(found.boxes.tolist(), tracks.tolist(), strict=True):
            seen.setdefault(round((box[0] - t) / 100), set()).add(track)
    assert sorted(seen) == [0, 1, 2, 3]
    assert all(len(tracks) == 1 for tracks in seen.values())
    assert len(set.union(*seen.values())) == 4


def test_a_frame_without_boxes_ends_a_track():
    stream = StreamingSeqNMS()
    box = rows([[0, 0, 10, 10]], [0.5])
    tracks = [stream.push(frame)[1].tolist() for frame in (box, box, Detections.empty(), box)]
    assert tracks == [[0], [0], [], [1]]


def test_a_track_goes_on_past_a_frame_in_which_its_box_was_suppressed():
    # Seq-NMS: in the middle frame a strong neighbour suppresses the weak tube's box; when the tube has proved longer
    # its path goes through that box, which was not answered.
    tube = [rows([[0, 0, 100, 100]], [0.5]), rows([[0, 0, 100, 100], [38, 0, 138, 100]], [0.1, 0.9])]
    tube += [rows([[0, 0, 100, 100]], [0.5])]
    stream = StreamingSeqNMS(plus=False)
    tracks = [stream.push(frame)[1].tolist() for frame in tube]
    assert tracks[0] == [0]
    assert tracks[1] == [1]
    assert tracks[2] == [0]


def test_memory_is_that_of_the_window():
    stream = StreamingSeqNMS(window=5)
    for t in range(40):
        stream.push(rows([[t, 0, t + 20, 20]], [0.5]))
        assert len(stream._past) == min(t + 1, 5)


def test_options_out_of_range():
    with pytest.raises(UserError, match="window must be at least 1 frame, got 0"):
        StreamingSeqNMS(window=0)
    with pytest.raises(UserError, match="nms_iou must be above 0"):
        StreamingSeqNMS(nms_iou=-0.1)
