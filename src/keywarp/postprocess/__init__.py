"""What is done to a whole video's detections, ours or anybody's: linking, rescoring, suppression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keywarp.errors import unknown
from keywarp.postprocess.seq_nms import seq_nms, seq_nms_plus
from keywarp.postprocess.streaming import StreamingSeqNMS
from keywarp.structures import VideoDetections

__all__ = ["POSTPROCESSES", "StreamingSeqNMS", "apply", "seq_nms", "seq_nms_plus"]


def unchanged(detections: VideoDetections) -> VideoDetections:
    """The detections as they are."""
    return detections


POSTPROCESSES: dict[str, Callable[..., VideoDetections]] = {
    "none": unchanged,
    "seq-nms": seq_nms,
    "seq-nms+": seq_nms_plus,
}


def apply(name: str, detections: VideoDetections, **options: Any) -> VideoDetections:
    """The detections after the post-processing of that name. Raises UserError for a name that is not known."""
    if name not in POSTPROCESSES:
        raise unknown("post-processing", name, POSTPROCESSES)
    return POSTPROCESSES[name](detections, **options)
