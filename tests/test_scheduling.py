import pytest
import torch

from keywarp.scheduling import AdaptiveInterval, FixedInterval, KnownKeys, SegmentCentre, SlidingWindow


def play(scheduler, length, chunk):
    """Feed frames in chunks; return the steps in processing order and the largest delay of a result."""
    steps, done, pending, last_key, delay = [], set(), [], None, 0
    for arrived in [*range(chunk, length, chunk), length]:
        pending = [i for i in range(arrived) if i not in done]
        while step := scheduler.next_step(pending, last_key, ended=arrived == length):
            steps.append(step)
            if step.is_key:
                last_key = step.frames[0]
            if step.emits:
                assert not done & set(step.frames), "a frame's result is made once"
                done |= set(step.frames)
            pending = [i for i in pending if i not in done]
        if chunk == 1 and arrived < length:
            delay = max(delay, arrived - min(set(range(length)) - done))
    assert done == set(range(length)), "every frame gets its result"
    return steps, delay


def keys(steps):
    return [s.frames[0] for s in steps if s.is_key]


@pytest.mark.parametrize("chunk", [1, 4, 7, 23])
@pytest.mark.parametrize("length", [1, 9, 10, 11, 23])
@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (FixedInterval(1), lambda n: list(range(n))),
        (FixedInterval(10), lambda n: list(range(0, n, 10))),
        (SegmentCentre(10), lambda n: [min(k + 4, n - 1) for k in range(0, n, 10)]),
        (SegmentCentre(10, position=5), lambda n: [min(k + 5, n - 1) for k in range(0, n, 10)]),
        (SegmentCentre(10, position=9), lambda n: [min(k + 9, n - 1) for k in range(0, n, 10)]),
        (SegmentCentre(1), lambda n: list(range(n))),
    ],
)
def test_key_frames(scheduler, expected, length, chunk):
    steps, delay = play(scheduler, length, chunk)
    assert keys(steps) == expected(length)
    assert delay <= scheduler.latency
    for step in steps:
        if not step.is_key:
            (key,) = step.references
            assert all(i // scheduler.interval == key // scheduler.interval for i in step.frames)


def test_non_key_frames_of_a_segment_share_a_step():
    steps, _ = play(FixedInterval(5), 10, chunk=10)
    assert [s.frames for s in steps] == [(0,), (1, 2, 3, 4), (5,), (6, 7, 8, 9)]


def test_frames_on_both_sides_of_a_central_key_go_together():
    steps, _ = play(SegmentCentre(5), 5, chunk=5)
    assert [s.frames for s in steps] == [(1,), (0, 2, 3, 4)]


@pytest.mark.parametrize("chunk", [1, 3, 50])
@pytest.mark.parametrize("length", [1, 2, 5, 12])
def test_sliding_window(length, chunk):
    steps, delay = play(SlidingWindow(2), length, chunk)
    assert keys(steps) == list(range(length)), "every frame's features are computed once, in order"
    results = [s for s in steps if s.emits]
    assert [s.frames[0] for s in results] == list(range(length))
    for step in results:
        i = step.frames[0]
        assert step.references == tuple(range(max(0, i - 2), min(length - 1, i + 2) + 1))
    assert delay <= 2


def test_sliding_window_forgets_what_no_window_reaches():
    scheduler = SlidingWindow(2)
    assert scheduler.expires(4, pending_start=7, last_key=9)
    assert not scheduler.expires(5, pending_start=7, last_key=9)


def test_adaptive_interval_accepts_up_to_the_first_poor_frame():
    scheduler = AdaptiveInterval(gamma=0.2)
    quality = torch.ones(4, 1, 2, 5)
    assert scheduler.accept(quality) is None
    quality[2, 0, 0, :2] = -1  # 20 % poor: not more than γ
    assert scheduler.accept(quality) is None
    quality[2, 0, 0, 2] = 0  # Q ≤ τ counts
    assert scheduler.accept(quality) == 2
    step = scheduler.next_step([7, 8, 9], last_key=4, ended=False, key_due=True)
    assert step.is_key
    assert step.frames == (7,)


def test_adaptive_interval_is_bounded():
    step = AdaptiveInterval(longest=3).next_step([2, 3, 4], last_key=0, ended=False)
    assert step.frames == (2,)
    assert AdaptiveInterval(longest=3).next_step([3, 4], last_key=0, ended=False).is_key


def test_adaptive_interval_looks_ahead_as_far_as_it_has_come():
    frames, first, steps = list(range(41, 80)), 0, []
    while first < len(frames):
        step = AdaptiveInterval().next_step(frames[first:], last_key=40, ended=True)
        steps.append(step.frames)
        first += len(step.frames)
    assert [len(each) for each in steps] == [1, 2, 4, 8, 16, 8]
    assert [i for each in steps for i in each] == frames


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedInterval(0),
        lambda: SegmentCentre(5, position=5),
        lambda: SlidingWindow(-1),
        lambda: AdaptiveInterval(gamma=2.0),
        lambda: AdaptiveInterval().accept(None),
    ],
)
def test_wrong_settings_are_named(make):
    with pytest.raises(ValueError, match=r"must be|needs"):
        make()


@pytest.mark.parametrize("chunk", [1, 4, 7, 23])
@pytest.mark.parametrize("chosen", [set(), {0}, {3, 4, 11}, {22}, set(range(23))])
def test_known_keys(chosen, chunk):
    steps, delay = play(KnownKeys(frozenset(chosen)), 23, chunk)
    assert keys(steps) == sorted({0} | chosen)
    assert delay == 0
    for step in steps:
        if not step.is_key:
            assert step.references == (max(k for k in {0} | chosen if k < step.frames[0]),)
