"""What was observed of a frame, as panels.

Legend: (H, W) pixels of a panel's picture · (h, w) feature cells
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import cv2
import numpy as np

from keywarp.insight.available import estimates_quality, recomputes
from keywarp.insight.colours import Reach, flow_colours, heat, two_sided, wheel
from keywarp.insight.layout import GAP, Panel, blank, enlarged, picture_size, written
from keywarp.insight.observing import Observation
from keywarp.model import VideoModel
from keywarp.structures import FrameResult, VideoFrame
from keywarp.transform import Placement
from keywarp.visualize import draw

COMPUTED = np.array([255, 170, 40], np.float32)
"""The colour of cells that were computed anew."""


class Painter:
    """Panels of one video's frames, as many for every frame.

    kinds: those of `KINDS` that are painted. height, width: of the frames. threshold: smallest score that is drawn.
    Numbers of frames are those of the results.
    """

    def __init__(
        self, model: VideoModel, kinds: Collection[str], *, height: int, width: int, threshold: float = 0.5
    ) -> None:
        self._model = model
        self._kinds = kinds
        self._threshold = threshold
        self.size = picture_size(height, width)
        self._motion, self._quality = Reach(least=1.0), Reach()

    def panels(self, frame: VideoFrame, result: FrameResult, seen: Observation) -> list[Panel]:
        """The frame with its result, then the panels of each kind."""
        view = _View(frame.image, self._model.transform.place(*frame.image.shape[:2]), self.size)
        shift = result.index - seen.frame  # the scheduler counts anew when the frames' size changes
        seen = replace(
            seen,
            frame=result.index,
            reference=None if seen.reference is None else seen.reference + shift,
            weights={j + shift: values for j, values in seen.weights.items()},
        )
        panels = [_frame_panel(frame, kept(result, self._threshold), self.size)]
        if "features" in self._kinds:
            panels += self._features(view, seen)
        if "flow" in self._kinds:
            panels.append(self._flow(view, seen))
        if "weights" in self._kinds:
            panels.append(_weights(view, seen))
        if "updates" in self._kinds:
            panels += self._updates(view, seen)
        return panels

    def _features(self, view: _View, seen: Observation) -> Iterator[Panel]:
        """Of the reference; carried to the frame, where the head gets something else in the end; those it gets."""
        model, alone = self._model, blank(self.size, "nothing is carried:\nthe frame's own features")
        key, carried = (alone if maps is None else view.fitted(maps, cells=True) for maps in (seen.key, seen.carried))
        changed = model.aggregator is not None or model.updater is not None
        if model.aligner is not None:
            yield Panel("features of " + _named(seen.reference), key)
        if model.aligner is not None and changed:
            yield Panel(f"... carried to frame {seen.frame}", carried)
        yield Panel("features that the head gets", view.fitted(seen.result, cells=True))

    def _flow(self, view: _View, seen: Observation) -> Panel:
        if seen.flow is None:
            return Panel("motion", blank(self.size, "nothing is carried"))
        place = view.place
        pixels = seen.flow * (np.array(place.padded[::-1]) / place.scale).astype(np.float32)
        lengths = np.linalg.norm(view.fitted(pixels), axis=-1)
        reach = self._motion.with_frame(lengths)
        picture = view.fitted(flow_colours(pixels, reach), cells=True)
        known = lengths[np.isfinite(lengths)]
        mean = known.mean() if known.size else 0.0
        return Panel(f"motion to frame {seen.reference}; mean {mean:.1f} px", _with_wheel(picture, f"{reach:g} px"))

    def _updates(self, view: _View, seen: Observation) -> Iterator[Panel]:
        whole = "key frame:\nthe network computes all of it"
        if recomputes(self._model):
            mask = seen.mask if seen.mask is not None else np.ones((1, 1), np.float32)
            yield Panel(f"computed anew: {seen.computed:.0%}", view.marked(mask))
        if estimates_quality(self._model):
            if seen.quality is None:
                yield Panel("quality of the alignment", blank(self.size, whole))
                return
            threshold = getattr(self._model.updater, "threshold", 0.0)
            above = seen.quality - threshold
            reach = self._quality.with_frame(np.abs(view.fitted(above)))
            picture = view.over_grey(two_sided(above, reach))
            scale = two_sided(np.linspace(-reach, reach, 80)[None], reach)
            ends = f"{threshold - reach:g}", f"{threshold + reach:g}"
            yield Panel(f"quality of the alignment to frame {seen.reference}", _with_scale(picture, scale, ends))


class _View:
    """A frame's pixels on a panel, and how maps of the network's input come to lie on it."""

    def __init__(self, image: np.ndarray, place: Placement, size: tuple[int, int]) -> None:
        self.place = place
        self.size = size
        self._image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)

    def fitted(self, values: np.ndarray, *, cells: bool = False) -> np.ndarray:
        """A map `[h, w, …]` as `[H, W, …]`, without the input's padding; with `cells` each cell is a rectangle."""
        pairs = zip(self.size, self.place.padded, self.place.resized, strict=True)
        height, width = (max(side, round(side * padded / resized)) for side, padded, resized in pairs)
        return enlarged(values, (height, width), cells=cells)[: self.size[0], : self.size[1]]

    def over_grey(self, colours: np.ndarray) -> np.ndarray:
        """Colours `[h, w, 3]` over the frame in grey."""
        return cv2.addWeighted(self.fitted(colours, cells=True), 0.72, self._grey, 0.28, 0)

    def marked(self, mask: np.ndarray) -> np.ndarray:
        """The frame in grey and dark, in colour where the mask `[h, w]` is set."""
        on = self.fitted(mask.astype(np.float32), cells=True)[..., None]
        bright = 0.7 * self._image + 0.3 * COMPUTED
        return (on * bright + (1 - on) * 0.55 * self._grey).round().astype(np.uint8)

    @property
    def _grey(self) -> np.ndarray:
        return cv2.cvtColor(cv2.cvtColor(self._image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def kept(result: FrameResult, threshold: float) -> FrameResult:
    """The result with the detections of so high a score."""
    found = result.detections
    return result if found is None else replace(result, detections=found[found.scores >= threshold])


def _frame_panel(frame: VideoFrame, result: FrameResult, size: tuple[int, int]) -> Panel:
    small = cv2.resize(frame.image, size[::-1], interpolation=cv2.INTER_AREA)
    return Panel(f"frame {result.index}, {frame.time:.2f} s", draw(small, resized(result, frame.image, size)))


def resized(result: FrameResult, image: np.ndarray, size: tuple[int, int]) -> FrameResult:
    """The result for the image at (height, width)."""
    if result.segmentation is not None:
        return replace(result, segmentation=enlarged(result.segmentation, size, cells=True))
    assert result.detections is not None
    y, x = (to / side for to, side in zip(size, image.shape[:2], strict=True))
    boxes = result.detections.boxes * result.detections.boxes.new_tensor([x, y, x, y])
    return replace(result, detections=replace(result.detections, boxes=boxes))


def _named(reference: int | None) -> str:
    return "the reference" if reference is None else f"frame {reference}"


def _weights(view: _View, seen: Observation) -> Panel:
    """Of two candidates the first one's weight, the other has the rest; of more, all of them as tiles."""
    if not seen.weights:
        return Panel("weights", blank(view.size, "nothing is joined"))
    top = min(1.0, 2 / len(seen.weights))
    maps = {j: view.over_grey(heat(values, top)) for j, values in seen.weights.items()}
    scale = heat(np.linspace(0, top, 80)[None], top)
    if len(maps) <= 2:
        first = next(iter(maps))
        mean = float(view.fitted(seen.weights[first]).mean())
        picture = maps[first]
        title = f"weight of what comes from frame {first}; mean {mean:.2f}"
    else:
        picture = _tiled({f"{j - seen.frame:+d}": picture for j, picture in maps.items()})
        title = f"weights of frames {min(maps)} to {max(maps)}"
    return Panel(title, _with_scale(picture, scale, ("0", f"{top:.2g}")))


def _tiled(pictures: dict[str, np.ndarray]) -> np.ndarray:
    """Named pictures of one size as tiles of one picture of that size."""
    height, width = next(iter(pictures.values())).shape[:2]
    columns = int(np.ceil(len(pictures) ** 0.5))
    rows = -(-len(pictures) // columns)
    sheet = np.zeros((height, width, 3), np.uint8)
    for n, (name, picture) in enumerate(pictures.items()):
        top, bottom = (round((n // columns + more) * height / rows) for more in (0, 1))
        left, right = (round((n % columns + more) * width / columns) for more in (0, 1))
        size = max(1, right - left - 1), max(1, bottom - top - 1)
        small = written(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), name, (3, size[1] - 3))
        sheet[top : top + size[1], left : left + size[0]] = small
    return sheet


def _with_wheel(picture: np.ndarray, text: str) -> np.ndarray:
    """The colour wheel in the lower right corner, with what its rim stands for."""
    side = min(64, *(s // 3 for s in picture.shape[:2]))
    disc, inside = wheel(side)
    picture = picture.copy()
    corner = picture[-side - GAP : -GAP, -side - GAP : -GAP]
    corner[inside] = disc[inside]
    cv2.circle(picture, (picture.shape[1] - GAP - side // 2, picture.shape[0] - GAP - side // 2), side // 2, (0, 0, 0))
    return written(picture, text, (picture.shape[1] - side - 2 * GAP, picture.shape[0] - GAP), "rs")


def _with_scale(picture: np.ndarray, scale: np.ndarray, ends: tuple[str, str]) -> np.ndarray:
    """A scale of colours `[1, n, 3]` in the lower right corner, between its ends."""
    height, width = picture.shape[:2]
    wide = min(scale.shape[1], width // 3)
    top, left = height - 18, width - wide - 44
    picture = picture.copy()
    picture[top - 1 : top + 11, left - 1 : left + wide + 1] = 0
    picture[top : top + 10, left : left + wide] = enlarged(scale, (10, wide))
    picture = written(picture, ends[0], (left - 4, top + 10), "rs")
    return written(picture, ends[1], (left + wide + 4, top + 10), "ls")
