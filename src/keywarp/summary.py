"""What came out of a video, for the head of its JSON file and for the user."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from keywarp.data.video import VideoSource
from keywarp.doctor import installed
from keywarp.outputs import Outputs
from keywarp.progress import Timer


def measured(outputs: Outputs, video: VideoSource, timer: Timer) -> dict[str, Any]:
    """What came out, for the head of the JSON file."""
    journal = outputs.journal
    measured: dict[str, Any] = {
        "frames": journal.count,
        "key_frames": journal.key_frames,
        "key_frame_share": round(journal.key_frames / max(journal.count, 1), 4),
        "detections": dict(outputs.results.detections.most_common()),
        "milliseconds_per_frame": timer.milliseconds(journal.count - journal.stored),
        "versions": _versions(),
        "warnings": video.warnings + outputs.warnings,
    }
    if video.is_live:
        measured["dropped_frames"] = video.dropped
    if journal.codec_frames:
        measured["codec_motion"] = {
            "frames": journal.codec_frames,
            "frames_without_motion": journal.frames_without_motion,
            "mean_share_without_motion": round(journal.fallback / journal.codec_frames, 4),
        }
    return measured


def _versions() -> dict[str, str]:
    names = ("keywarp", "torch", "torchvision", "av", "onnxruntime", "opencv-python-headless")
    return {"python": platform.python_version()} | installed(names)


def summary(info: Mapping[str, Any], seconds: float, worked: int) -> str:
    """What a user wants to know of a finished video."""
    lines = [
        f"{info['video']['name']}: {info['frames']} frames, {info['key_frames']} key frames "
        f"({info['key_frame_share']:.0%}), {worked / seconds:.1f} frames/s",
        "  ms a frame: " + ", ".join(f"{part} {ms:.1f}" for part, ms in info["milliseconds_per_frame"].items()),
    ]
    if info["detections"]:
        lines.append("  detections: " + ", ".join(f"{name} {count}" for name, count in info["detections"].items()))
    if motion := info.get("codec_motion"):
        lines.append(
            f"  codec motion: missing for {motion['mean_share_without_motion']:.0%} of the area, "
            f"wholly for {motion['frames_without_motion']} of {motion['frames']} frames; estimated there"
        )
    if info.get("dropped_frames"):
        lines.append(f"  {info['dropped_frames']} frames came faster than they could be worked on and were dropped")
    return "\n".join(lines + [f"  warning: {warning}" for warning in info["warnings"]])
