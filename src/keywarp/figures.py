"""Pictures of matplotlib, as files that are whole or absent."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from keywarp.errors import UserError
from keywarp.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = (".png", ".svg", ".pdf")


def check_figure(path: Path, kinds: tuple[str, ...] = KINDS) -> None:
    """Nothing. Raises UserError, before any work, where a figure could not be drawn into this file."""
    if path.suffix.lower() not in kinds:
        raise UserError(f"a plot must end in {', '.join(kinds)}, got {path.name!r}")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}; make it or choose another")
    check_matplotlib()


def check_matplotlib() -> None:
    """Nothing. Raises UserError, before any work, where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise UserError("plots need matplotlib: pip install 'keywarp[evaluate]'")


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    return data.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure of the kind that `path` ends in. Raises UserError when it cannot be written."""
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=120)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another place") from error
