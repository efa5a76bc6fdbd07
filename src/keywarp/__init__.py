"""keywarp: fast, steady object detection and segmentation in video."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Where each public name lives. They are imported at first use: torch takes seconds, `keywarp --help` should not.
_HOME = {
    "load": "keywarp.loading",
    "wrap": "keywarp.methods",
    "rfcn": "keywarp.methods",
    "dff": "keywarp.methods",
    "METHODS": "keywarp.methods",
    "detect": "keywarp.annotate",
    "open_video": "keywarp.data.video",
    "VideoWriter": "keywarp.data.video_writer",
    "VideoPredictor": "keywarp.predictor",
    "VideoModel": "keywarp.model",
    "FeatureNetwork": "keywarp.model",
    "TaskHead": "keywarp.model",
    "Parts": "keywarp.adapters",
    "ImageTransform": "keywarp.transform",
    "Detections": "keywarp.structures",
    "FrameResult": "keywarp.structures",
    "VideoFrame": "keywarp.structures",
    "UserError": "keywarp.errors",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'keywarp' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
