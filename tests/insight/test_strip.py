import numpy as np

from keywarp.insight import strip as module
from keywarp.insight.layout import GAP, LINE
from keywarp.insight.strip import BAR, BARS, KEY, MARKS, PART, READ, Strip


def count(picture, colour):
    return int((picture == colour).all(axis=-1).sum())


def test_bars_are_as_high_as_what_is_computed():
    strip = Strip(400, None)
    for frame, (computed, key) in enumerate([(1, True), (0.5, False), (0, False), (0.25, False)]):
        strip.add(frame, computed, key)
    picture = strip.drawn(3, [0])
    assert picture.shape == (LINE + BARS + MARKS + LINE, 400, 3)
    wide = BAR - 1
    assert count(picture, KEY) == BARS * wide
    assert count(picture, PART) == (BARS // 2 + BARS // 4) * wide
    assert count(picture, READ) == (MARKS - 1) * wide


def test_marks_are_under_the_frames_that_are_read():
    strip = Strip(400, None)
    for frame in range(20):
        strip.add(frame, 0, False)
    marks = (strip.drawn(10, [4, 12])[LINE + BARS + 2] == READ).all(axis=-1).nonzero()[0]
    wanted = {GAP + frame * BAR + x for frame in (4, 12) for x in range(BAR - 1)}
    assert set(marks.tolist()) == wanted


def test_a_video_that_fits_stays_in_place_and_a_longer_one_moves_on():
    for frames, last, bar in ((40, 39, 2 * BAR), (150, 149, 3), (5000, 300, BAR)):
        strip = Strip(600, frames)
        for frame in range(last + 1):
            strip.add(frame, 1.0, frame in (0, last))
        columns = np.unique((strip.drawn(last, [])[LINE:] == KEY).all(axis=-1).nonzero()[1])
        assert columns.max() < 600 - GAP
        if frames < 5000:
            assert columns.min() == GAP
            assert columns.max() == GAP + last * bar + bar - 2
        else:
            assert len(columns) == BAR - 1  # frame 0 is out of sight


def test_it_forgets_what_is_long_past(monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 50)
    strip = Strip(400, None)
    for frame in range(500):
        strip.add(frame, 0.5, False)
    assert len(strip._entries) == 50


def test_the_overview_has_every_frame():
    strip = Strip(400, None)
    for frame in range(450):
        strip.add(frame, 1.0, frame % 10 == 0)
    picture = strip.overview()
    assert count(picture, KEY) == 45 * BARS * (BAR - 1)
    assert count(picture, PART) == 405 * BARS * (BAR - 1)
    assert len(picture) == LINE + 3 * (BARS + MARKS + LINE)


def test_a_frame_that_comes_twice_counts_once():
    once, twice = Strip(600, 10), Strip(600, 10)
    for strip, times in ((once, 1), (twice, 2)):
        for frame in (2, 0, 1) * times:
            strip.add(frame, 1.0, True)
    assert np.array_equal(once.drawn(1, []), twice.drawn(1, []))


def test_frames_may_come_out_of_order():
    strip, ordered = Strip(400, 10), Strip(400, 10)
    for frame in (3, 0, 1, 2):
        strip.add(frame, frame / 3, frame == 3)
    for frame in range(4):
        ordered.add(frame, frame / 3, frame == 3)
    assert np.array_equal(strip.drawn(1, [3]), ordered.drawn(1, [3]))
