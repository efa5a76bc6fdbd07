"""What this installation can do, measured in a few seconds, and what to do about what it cannot."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F

from keywarp.data.video import open_video
from keywarp.data.video_writer import VideoWriter
from keywarp.networks.download import cache_folder

_PACKAGES = ("keywarp", "torch", "torchvision", "av", "opencv-python-headless", "onnxruntime", "supervision")
_DECODERS = ("h264", "hevc", "av1", "mpeg4")
ABSENT = "not installed"
_BUDGET = 0.8  # seconds for each speed


def examine() -> None:
    """Print versions, devices, codecs, speeds and problems with their remedies."""
    problems: list[str] = []
    for title, rows in (
        ("versions", versions(problems)),
        ("devices", devices(problems)),
        ("codecs", codecs(problems)),
        ("speed", speeds(problems)),
    ):
        print(title)
        for name, value in rows.items():
            print(f"  {name:<24}{value}")
    print("\n".join(["problems", *(f"  {p}" for p in problems)]) if problems else "no problems found")


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions by package. One may be there under another name, as onnxruntime-gpu is for onnxruntime."""
    found = dict.fromkeys(packages, ABSENT)
    for package in found:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def versions(problems: list[str]) -> dict[str, str]:
    """Of Python, the packages that matter and FFmpeg's libraries."""
    found = {"python": f"{platform.python_version()} on {platform.system()} {platform.machine()}"}
    found |= installed(_PACKAGES)
    absent = [package for package in _PACKAGES if found[package] == ABSENT]
    problems += [f"{package} is not installed as such: pip install {package}" for package in absent]
    ffmpeg = {name: ".".join(map(str, number)) for name, number in av.library_versions.items()}
    return found | {"FFmpeg": ", ".join(f"{name} {number}" for name, number in ffmpeg.items() if "av" in name)}


def devices(problems: list[str]) -> dict[str, str]:
    """The processor, its memory, CUDA devices, and where downloaded weights lie."""
    found = {
        "CPU": cpu_name(),
        "cores, threads used": f"{os.cpu_count()}, {torch.get_num_threads()}",
        "memory": _memory(),
        "CUDA": "none; networks run on the CPU",
    }
    for i in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(i)
        found["CUDA" if i == 0 else f"CUDA {i}"] = f"{device.name}, {device.total_memory / 2**30:.1f} GiB"
    if Path("/proc/driver/nvidia").exists() and not torch.cuda.is_available():
        problems.append("an NVIDIA driver is there, but torch has no CUDA: install the CUDA build from pytorch.org")
    cache = cache_folder()
    existing = next(p for p in (cache, *cache.parents) if p.exists())
    if not os.access(existing, os.W_OK):
        problems.append(f"weights cannot be stored in {cache}: set KEYWARP_CACHE to a folder that can be written")
    return found | {"cache of weights": str(cache)}


def codecs(problems: list[str]) -> dict[str, str]:
    """Whether the video formats that matter can be written and read."""
    found = {"write h264 (libx264)": "yes" if _has("libx264", "w") else "no"}
    found |= {f"read {name}": "yes" if _has(name, "r") else "no" for name in _DECODERS}
    missing = [name for name, answer in found.items() if answer == "no"]
    if missing:
        problems.append(f"the installed av cannot {', '.join(missing)}: pip install --force-reinstall av")
    return found


def speeds(problems: list[str]) -> dict[str, str]:
    """Of convolution on one and on all threads, of copying, and of decoding."""
    found, threads, rates = {}, torch.get_num_threads(), {}
    image, kernel = torch.rand(1, 64, 96, 96), torch.rand(64, 64, 3, 3)
    giga = 2 * 64 * 64 * 9 * 96 * 96 / 1e9
    for used in sorted({1, threads}):
        torch.set_num_threads(used)
        rates[used] = giga * _per_second(lambda: F.conv2d(image, kernel, padding=1))
        found[f"convolution, {used} thread{'s' * (used > 1)}"] = f"{rates[used]:.0f} GFLOP/s"
    if rates[threads] < rates[1]:
        problems.append(f"{threads} threads are slower than one: the processor is busy; try OMP_NUM_THREADS=1")
    block = torch.zeros(2**24)  # 64 MiB, beyond the caches of most
    copy = torch.empty_like(block)
    found["copying"] = f"{_per_second(lambda: copy.copy_(block)) * 2 * block.nbytes / 1e9:.1f} GB/s"
    decoded = _decoding_speed()
    found["decoding 640×360 h264"] = f"{decoded:.0f} frames/s"
    if decoded < 60:
        problems.append("decoding is slow: close other programs, or take fewer frames with --stride")
    return found


def _per_second(work: Callable[[], object]) -> float:
    work()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < _BUDGET:
        work()
        count += 1
    return count / (time.perf_counter() - start)


def _decoding_speed() -> float:
    """Frames a second of a clip of moving noise, made for this."""
    noise = np.random.default_rng(0).integers(0, 255, (45, 80, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with VideoWriter(path, width=640, height=360, fps=25) as video:
            for i in range(50):
                video.write(np.roll(noise, 3 * i, axis=1), i / 25)
        start = time.perf_counter()
        with open_video(path) as clip:
            return sum(1 for _ in clip) / (time.perf_counter() - start)


def _has(codec: str, mode: str) -> bool:
    try:
        av.codec.Codec(codec, mode)
    except ValueError:
        return False
    return True


def machine(device: torch.device | None = None) -> str:
    """Processor and cores, and before them the GPU where `device` is one, for the head of figures."""
    cpu = f"{cpu_name()}, {os.cpu_count()} cores"
    return cpu if device is None or device.type != "cuda" else f"{torch.cuda.get_device_name(device)}, {cpu}"


def cpu_name() -> str:
    """The processor, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        return "unknown"
