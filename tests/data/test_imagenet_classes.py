import re

from keywarp.data.imagenet_classes import IMAGENET_VID


def test_thirty_classes_in_alphabetical_order_each_with_its_own_identifier():
    assert len(IMAGENET_VID) == 30
    assert len(set(IMAGENET_VID.values())) == 30
    assert all(re.fullmatch(r"n\d{8}", identifier) for identifier in IMAGENET_VID.values())
    assert list(IMAGENET_VID) == sorted(IMAGENET_VID)
    assert IMAGENET_VID["zebra"] == "n02391049"
