import numpy as np
import pytest
from random_videos import random_video

from keywarp.evaluation.delay import Delay
from keywarp.evaluation.matching import matches
from keywarp.evaluation.truth import Truth
from keywarp.structures import VideoDetections

BOX = np.array([0.0, 0, 100, 100])


def video(tracks, found, labelled=None):
    """Tracks {number: frames}, each at a place of its own; detections of rows (track, frame[, score[, label]])."""
    rows = [(track, frame) for track, frames in tracks.items() for frame in frames]
    labelled = sorted({frame for _, frame in rows}) if labelled is None else labelled
    at = {track: BOX + 200 * place for place, track in enumerate(tracks)}
    boxes = [at[track] for track, _ in rows]
    truth = Truth(
        labelled,
        [frame for _, frame in rows],
        np.reshape(boxes, (-1, 4)),
        np.zeros(len(rows)),
        [track for track, _ in rows],
        np.ones(len(rows)),
    )
    found = [(*row, 0.9, 0)[: max(len(row), 2)] + (0.9, 0)[max(len(row), 2) - 2 :] for row in found]
    boxes = [at[track] for track, *_ in found]
    return (
        VideoDetections(
            [row[1] for row in found], np.reshape(boxes, (-1, 4)), [row[2] for row in found], [row[3] for row in found]
        ),
        truth,
    )


NAN = float("nan")


@pytest.mark.parametrize(
    ("tracks", "found", "mean", "median", "never"),
    [
        ({1: [0, 1, 2]}, [(1, 0)], 0, 0, 0),
        ({1: [0, 1, 2]}, [(1, 2)], 2, 2, 0),
        ({1: [3, 4, 9]}, [(1, 9)], 6, 6, 0),  # frames, whether labelled or not
        ({1: [0, 1, 2]}, [(1, 0, 0.4), (1, 1, 0.5)], 1, 1, 0),  # the first one's score is too low
        ({1: [0, 1, 2]}, [(1, 0, 0.9, 1), (1, 2)], 2, 2, 0),  # the first one is of another class
        ({1: [0, 1], 2: [1, 2], 3: [0, 4]}, [(1, 0), (2, 2), (3, 4)], 5 / 3, 1, 0),
        ({1: [0, 1], 2: [1, 2]}, [(2, 1)], 0, 0, 1 / 2),
        ({1: [0, 1]}, [], NAN, NAN, 1),
        ({-1: [0, 1]}, [(-1, 0)], NAN, NAN, NAN),  # no track
        ({}, [], NAN, NAN, NAN),
    ],
)
def test_by_hand(tracks, found, mean, median, never):
    delay = Delay()
    delay.add(*video(tracks, found))
    expected = {"delay mean": mean, "delay median": median, "never found": never}
    assert delay.result() == pytest.approx(expected, nan_ok=True)


def test_tracks_of_two_videos_are_different_objects():
    delay = Delay()
    delay.add(*video({1: [0, 1, 2]}, [(1, 2)]))
    delay.add(*video({1: [0, 1, 2]}, []))
    assert delay.result() == {"delay mean": 2, "delay median": 2, "never found": 0.5}


def test_equals_the_definition_typed_out():
    delay, expected = Delay(score=0.3), []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        detections, truth = random_video(rng, frames=12)
        tracks = rng.integers(-1, 3, len(truth))
        truth = Truth(truth.labelled, truth.frames, truth.boxes, truth.labels, tracks, truth.motion)
        delay.add(detections, truth)
        sure = detections[detections.scores >= 0.3]
        hit = set(matches(sure, truth, 0.5).tolist())
        for track in {int(t) for t in tracks} - {-1}:
            rows = [g for g in range(len(truth)) if tracks[g] == track]
            found = [truth.frames[g] for g in rows if g in hit]
            expected.append(min(found) - min(truth.frames[g] for g in rows) if found else None)
    known = [e for e in expected if e is not None]
    assert delay.result() == pytest.approx(
        {
            "delay mean": np.mean(known),
            "delay median": np.median(known),
            "never found": (len(expected) - len(known)) / len(expected),
        }
    )
    assert len(known) > 10
