"""keywarp: fast, steady object detection and segmentation in video."""

__version__ = "0.1.0"
