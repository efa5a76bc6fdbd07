"""Motion IoU from a file, as ImageNet VID's is published; and `keywarp data motion`, which shows its shares."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from keywarp.data.datasets import UnreadableFrameError, Video
from keywarp.data.reading import open_dataset, splits
from keywarp.data.showing import shown
from keywarp.errors import UserError
from keywarp.evaluation.motion import FAST_BELOW, SLOW_ABOVE, speed_shares
from keywarp.evaluation.truth import Truth

__all__ = ["by_video", "read_motion", "show_motion"]

VARIABLE = "motion_iou"

MEANINGS = {
    "slow": f"motion IoU above {SLOW_ABOVE:g}",
    "medium": f"{FAST_BELOW:g} to {SLOW_ABOVE:g}",
    "fast": f"below {FAST_BELOW:g}",
}


def read_motion(path: Path) -> list[np.ndarray]:
    """For each frame the motion IoU of its objects, `[M]` float64, in the order of the file.

    The file is MATLAB's with the cells `motion_iou` `[frames, 1]`, each `[M, 1]`, or `[1, 0]` in a frame without
    objects. That of ImageNet VID's validation videos has the frames of VID_val_frames.txt in their order, and the
    objects in that of the XML files. Raises UserError.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError:
        raise UserError("a .mat file needs scipy: pip install 'keywarp[evaluate]'") from None
    if not path.is_file():
        raise UserError(f"no motion file {path}; give ImageNet VID's .mat file")
    try:
        cells = loadmat(path, variable_names=[VARIABLE]).get(VARIABLE)
    except (OSError, ValueError, TypeError, IndexError, NotImplementedError, zlib.error, MatReadError) as error:
        raise UserError(f"{path} cannot be read as a MATLAB file before version 7.3: {error}") from None
    if cells is None or cells.dtype != object or cells.ndim != 2 or cells.shape[1] != 1:
        got = "none" if cells is None else f"{cells.dtype} {list(cells.shape)}"
        raise UserError(f"{path} must have cells {VARIABLE!r} [frames, 1], got {got}; give ImageNet VID's file")
    frames = [np.asarray(cell) for cell in cells[:, 0]]
    for number, frame in enumerate(frames):
        known = frame.size == 0 or (frame.ndim == 2 and frame.shape[1] == 1 and frame.dtype.kind in "fiu")
        if not known or ((frame < 0) | (frame > 1)).any():
            raise UserError(f"{path} must hold motion IoU in 0…1, [objects, 1] for each frame; frame {number} does not")
    return [frame.reshape(-1).astype(np.float64) for frame in frames]


def by_video(values: Sequence[np.ndarray], videos: Sequence[Video]) -> list[list[np.ndarray]]:
    """The values of a file, for each video in its order those of its labelled frames, as `Truth.of` takes them.

    Raises UserError when there are not as many frames.
    """
    ends = np.cumsum([0, *(len(videos[position].labelled) for position in range(len(videos)))]).tolist()
    if ends[-1] != len(values):
        raise UserError(
            f"the motion file is of {len(values)} frames, the {len(videos)} videos have {ends[-1]} labelled ones; "
            "give the file and the data set of the same split"
        )
    return [list(values[begin:end]) for begin, end in pairwise(ends)]


def show_motion(address: str, *, split: str = "all", as_json: bool = False) -> None:
    """Print how many objects are slow, medium and fast: of a .mat file, or of a data set with tracks.

    Raises UserError.
    """
    path = Path(address)
    if path.suffix.lower() == ".mat":
        if not path.is_file():
            raise UserError(f"no such file: {path}; give a .mat file or a data set")
        values = read_motion(path)
    else:
        values = _computed(address, split)
    joined = np.concatenate([np.zeros(0), *values])
    known = int((~np.isnan(joined)).sum())
    if not len(joined):
        raise UserError(f"{address} has no boxes, so there is no motion to measure; give a data set for detection")
    if not known:
        raise UserError(f"the {len(joined)} objects of {address} have no tracks; without them their motion is unknown")
    shares = speed_shares(joined)
    if as_json:
        unknown = {"unknown": len(joined) - known} if known < len(joined) else {}
        print(json.dumps({"objects": known, **{name: round(value, 4) for name, value in shares.items()}, **unknown}))
        return
    table = Table(f"{known:,} objects", "share", "")
    for name, share in shares.items():
        table.add_row(name, f"{share:.2%}", MEANINGS[name])
    console = Console()
    console.print(table)
    if known < len(joined):
        console.print(f"and {len(joined) - known:,} objects without a track")


def _computed(address: str, split: str) -> list[np.ndarray]:
    """The motion IoU of every video's objects."""
    values = []
    for name in splits(address) if split == "all" else (split,):
        for video in shown(open_dataset(address, name).videos, f"{address} {name}"):
            try:
                values.append(Truth.of(video).motion)
            except (UnreadableFrameError, ValueError) as error:
                raise UserError(f"{error}; see `keywarp data check`") from None
    return values
