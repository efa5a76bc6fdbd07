"""Small random videos with what was found in them, full of cases at the edge."""

import numpy as np

from keywarp.evaluation.truth import Truth
from keywarp.structures import VideoDetections


def random_video(rng, classes=2, frames=5):
    """A few objects; detections near them, near others' boxes, anywhere, with equal scores and degenerate boxes."""
    labelled = np.flatnonzero(rng.random(frames) < 0.8)
    count = int(rng.integers(0, 8)) if len(labelled) else 0
    corner = rng.integers(0, 60, (count, 2)).astype(float)
    boxes = np.concatenate([corner, corner + rng.integers(0, 60, (count, 2))], axis=1)
    at = rng.choice(labelled, count) if count else np.zeros(0, int)
    motion = rng.choice([0.0, 0.3, 0.7, 0.8, 0.9, 0.95, 1, np.nan], count)
    truth = Truth(labelled, at, boxes, rng.integers(0, classes, count), np.full(count, -1), motion)
    found = int(rng.integers(0, 30))
    corner = rng.integers(0, 60, (found, 2)).astype(float)
    guesses = np.concatenate([corner, corner + rng.integers(-4, 60, (found, 2))], axis=1)
    frame, label = rng.integers(0, frames, found), rng.integers(0, classes, found)
    if count:
        near, which = rng.random(found) < 0.7, rng.integers(0, count, found)
        guesses[near] = truth.boxes[which[near]] + rng.integers(-4, 5, (near.sum(), 4))
        frame[near] = truth.frames[which[near]]
        same = near & (rng.random(found) < 0.7)
        label[same] = truth.labels[which[same]]
    return VideoDetections(frame, guesses, rng.integers(1, 10, found) / 10, label), truth
