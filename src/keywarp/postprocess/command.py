"""`keywarp postprocess`: a file of boxes in, the same file with linked, rescored boxes out."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from keywarp.errors import UserError, unknown
from keywarp.postprocess import POSTPROCESSES, apply
from keywarp.postprocess.boxes_file import is_postprocessed, read, write
from keywarp.postprocess.seq_nms import RESCORES

METHODS = [name for name in POSTPROCESSES if name != "none"]


def postprocess(file: Path, *, method: str, rescore: str | None, output: Path, overwrite: bool) -> None:
    """Write `file`'s boxes to `output` as `method` leaves them, and print a line about it.

    rescore: of seq-nms, mean or max. Raises UserError for what cannot be read, done or written.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if rescore is not None and method != "seq-nms":
        raise UserError(f"--rescore is an option of seq-nms; {method} has its own rule, leave it out")
    if rescore is not None and rescore not in RESCORES:
        raise unknown("rescoring", rescore, RESCORES)
    if output.is_dir():
        raise UserError(f"{output} is a folder; give a file as --output")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; choose another --output or give --overwrite")
    options = {} if rescore is None else {"rescore": rescore}
    source = read(file)
    if is_postprocessed(source.head or {}):
        raise UserError(f"{file} has been post-processed already; make one with --postprocess none, and give that")
    began = time.perf_counter()
    kept = apply(method, source.detections, **options)
    seconds = time.perf_counter() - began
    write(output, source, kept, {"method": method, **options})
    assert kept.tracks is not None
    lengths = np.bincount(kept.tracks)
    print(
        f"{file.name}: {method}: {len(source.detections):,} boxes in, {len(kept):,} out, {len(lengths):,} tracks "
        f"({np.count_nonzero(lengths > 1):,} of two frames or more), {seconds:.1f} s. Results saved to {output}"
    )
