"""The inner loops of linking and suppression, compiled by numba; import it only where they run.

Legend: n boxes of one class, by ascending frame · G groups, the boxes of one frame each, group g being the boxes
`starts[g]` … `starts[g + 1] − 1` · `boxes` `[5, n]`: left, top, right, bottom, area, and `scores` `[n]`, float64

Nothing is approximate: what `best_paths` finds is what a search from scratch after every path would find. Sums only
fall as boxes go, so a box's sum stays as it is while the box it continues keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

FREE, SUPPRESSED = -1, -2


def compiled(function: Callable[..., Any]) -> Any:
    """The function, compiled at its first call and kept on disk where there is a place for it."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither beside the package nor in the user's cache folder
        return numba.njit(nogil=True)(function)


@compiled
def overlap(boxes, i, j):  # type: ignore[no-untyped-def]
    """Intersection over union of two boxes; 0 where they only touch or have no area."""
    width = min(boxes[2, i], boxes[2, j]) - max(boxes[0, i], boxes[0, j])
    height = min(boxes[3, i], boxes[3, j]) - max(boxes[1, i], boxes[1, j])
    if width <= 0.0 or height <= 0.0:
        return 0.0
    shared = width * height
    return shared / (boxes[4, i] + boxes[4, j] - shared)


@compiled
def mark_near(boxes, i, start, end, iou, near):  # type: ignore[no-untyped-def]
    """Set `near[k]` to False where the overlap of box i and box start + k surely stays below `iou`, else to True.

    Most of the millions of pairs are far apart: without a division or a branch, processors clear several at once.
    """
    left, top, right, bottom, area = boxes[0, i], boxes[1, i], boxes[2, i], boxes[3, i], boxes[4, i]
    lefts, tops, rights = boxes[0, start:end], boxes[1, start:end], boxes[2, start:end]
    bottoms, areas = boxes[3, start:end], boxes[4, start:end]
    for k in range(len(lefts)):
        width = (right if right < rights[k] else rights[k]) - (left if left > lefts[k] else lefts[k])
        height = (bottom if bottom < bottoms[k] else bottoms[k]) - (top if top > tops[k] else tops[k])
        shared = (width if width > 0.0 else 0.0) * (height if height > 0.0 else 0.0)
        near[k] = shared * (1.0 + iou) >= (1.0 - 1e-9) * iou * (area + areas[k])


@compiled
def link(boxes, i, start, end, iou, near, before, count):  # type: ignore[no-untyped-def]
    """Write the near boxes that box i may continue to `before` from position `count` on; the position after them."""
    for j in range(start, end):
        if near[j - start] and overlap(boxes, i, j) >= iou:
            before[count] = j
            count += 1
    return count


@compiled
def links(starts, adjacent, boxes, iou):  # type: ignore[no-untyped-def]
    """Which boxes each box may continue: those of box i are `before[first[i] : first[i + 1]]`, ascending.

    adjacent: `[G]`, group g is of the frame right after group g − 1's.
    """
    n = boxes.shape[1]
    near, first, before = np.empty(n, np.bool_), np.zeros(n + 1, np.int64), np.empty(4 * n, np.int32)
    for g in range(len(starts) - 1):
        for i in range(starts[g], starts[g + 1]):
            first[i + 1] = first[i]
            if adjacent[g]:
                start, end = starts[g - 1], starts[g]
                if first[i] + end - start > len(before):
                    larger = np.empty(2 * len(before) + end - start, np.int32)
                    for k in range(first[i]):  # a slice would take seconds to compile
                        larger[k] = before[k]
                    before = larger
                mark_near(boxes, i, start, end, iou, near)
                first[i + 1] = link(boxes, i, start, end, iou, near, before, first[i])
    return first, before


@compiled
def extend(i, scores, sums, previous, path, first, before):  # type: ignore[no-untyped-def]
    """Set the box's best sum and the free box it continues for it: the first of the highest, −1 for none."""
    best, top = -1, -1.0
    for k in range(first[i], first[i + 1]):
        j = before[k]
        if path[j] == FREE and sums[j] > top:
            best, top = j, sums[j]
    previous[i] = best
    sums[i] = scores[i] + (top if best >= 0 else 0.0)


@compiled
def enter_best(g, starts, sums, path, tree):  # type: ignore[no-untyped-def]
    """Enter the group's free box of the highest sum into the tournament `tree`; of equals the first box wins."""
    best = -1
    for i in range(starts[g], starts[g + 1]):
        if path[i] == FREE and (best < 0 or sums[i] > sums[best]):
            best = i
    node = len(tree) // 2 + g
    tree[node] = best
    while node > 1:
        node //= 2
        left, right = tree[2 * node], tree[2 * node + 1]
        tree[node] = left if right < 0 or (left >= 0 and sums[left] >= sums[right]) else right


@compiled
def best_paths(starts, boxes, scores, first, before, smallest_sum, suppress_iou):  # type: ignore[no-untyped-def]
    """`[n]`: the number of the path that each box went to, `FREE`, or `SUPPRESSED`.

    Again and again the path with the highest sum of scores is taken out, and with it the boxes that overlap it by
    `suppress_iou` or more in their frame (above 1: none), until no links are left or the sum is below `smallest_sum`.
    """
    n, G = len(scores), len(starts) - 1
    sums, previous = np.zeros(n), np.full(n, -1, np.int32)
    path, changed = np.full(n, FREE, np.int32), np.full(n, -1, np.int32)
    group, chain = np.empty(n, np.int32), np.empty(G, np.int32)
    leaves = 1
    while leaves < G:
        leaves *= 2
    tree = np.full(2 * leaves, -1, np.int32)
    linked = 0  # free boxes that continue a free box
    for g in range(G):
        for i in range(starts[g], starts[g + 1]):
            group[i] = g
            extend(i, scores, sums, previous, path, first, before)
            linked += previous[i] >= 0
        enter_best(g, starts, sums, path, tree)
    number = 0
    while linked > 0:
        box = tree[1]
        if sums[box] < smallest_sum:
            break
        last, length = group[box], 0
        while box >= 0:
            chain[length] = box
            length += 1
            box = previous[box]
        for g in range(last - length + 1, G):
            touched = False
            if g <= last:
                taken = chain[last - g]
                for i in range(starts[g], starts[g + 1]):
                    if path[i] == FREE and (
                        i == taken or (suppress_iou <= 1.0 and overlap(boxes, i, taken) >= suppress_iou)
                    ):
                        path[i] = number if i == taken else SUPPRESSED
                        changed[i] = number
                        linked -= previous[i] >= 0
                        touched = True
            for i in range(starts[g], starts[g + 1]):
                if path[i] == FREE and previous[i] >= 0 and changed[previous[i]] == number:
                    sum_before = sums[i]
                    extend(i, scores, sums, previous, path, first, before)
                    linked -= previous[i] < 0
                    if sums[i] != sum_before:
                        changed[i] = number
                        touched = True
            if touched:
                enter_best(g, starts, sums, path, tree)
            elif g >= last:
                break
        number += 1
    return path


@compiled
def suppressed_in_groups(starts, boxes, order, iou):  # type: ignore[no-untyped-def]
    """`[n]` mask of the boxes that non-maximum suppression takes away, each group for itself.

    order: `[n]` each group's boxes by falling score.
    """
    gone = np.zeros(len(order), np.bool_)
    for g in range(len(starts) - 1):
        for a in range(starts[g], starts[g + 1]):
            if not gone[order[a]]:
                for b in range(a + 1, starts[g + 1]):
                    if not gone[order[b]] and overlap(boxes, order[a], order[b]) > iou:
                        gone[order[b]] = True
    return gone
