import pytest
import torch

from keywarp.evaluation.detection import agreement, of_class
from keywarp.structures import Detections

A, B, FAR = [0.0, 0, 10, 10], [20.0, 0, 30, 10], [50.0, 50, 60, 60]


def found(*rows):
    """Detections from rows (box, score) or (box, score, label)."""
    if not rows:
        return Detections.empty()
    labels = [r[2] if len(r) > 2 else 0 for r in rows]
    return Detections(torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows]), torch.tensor(labels))


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (found((A, 0.9), (B, 0.8)), found((B, 0.5), (A, 0.4)), 1.0),
        (found((A, 0.9)), found((A, 0.9, 1)), 0.0),
        (found((A, 0.9), (FAR, 0.9)), found((A, 0.3)), 2 / 3),
        (found(), found(), 1.0),
        (found(), found((A, 0.9)), 0.0),
    ],
)
def test_agreement_by_hand(ours, theirs, expected):
    assert agreement([ours], [theirs]) == pytest.approx(expected)


def test_of_class():
    picked = of_class(found((A, 0.9, 0), (B, 0.2, 0), (FAR, 0.9, 1)), 0, threshold=0.5)
    assert picked.boxes.tolist() == [A]
