"""`keywarp compare`: evaluations side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from keywarp.errors import UserError
from keywarp.figures import check_matplotlib
from keywarp.files import told_apart, write_atomically
from keywarp.report import curves, page, shown

SAME = {
    "videos": "number of videos",
    "names": "the videos' names",
    "iou": "--iou",
    "score": "--score",
    "motion": "--motion-file",
}
"""What evaluations must have in common to be compared, and what it is called."""


def compare(folders: Sequence[Path], output: Path | None = None) -> None:
    """Print the rows of several evaluations as one table, with differences to the first; `output`: also as HTML.

    folders: outputs of `evaluate`, or their evaluation.json. Raises UserError where they are not of the same data.
    """
    if len(folders) < 2:
        raise UserError(f"wanted two evaluations or more to compare, got {len(folders)}")
    if output is not None:
        check_matplotlib()
        check_page(output)
    documents = [read(folder) for folder in folders]
    for folder, document in zip(folders[1:], documents[1:], strict=True):
        for name, text in SAME.items():
            ours, theirs = documents[0]["setting"].get(name), document["setting"].get(name)
            if ours != theirs:
                raise UserError(f"{folders[0]} and {folder} differ in {text}: {ours!r} and {theirs!r}")
    rows = named(folders, documents)
    print_differences(rows)
    if output is not None:
        images = {"Precision and recall": curves(rows)} if any(row["curves"] for row in rows) else {}
        settings = {str(folder): d["setting"] for folder, d in zip(folders, documents, strict=True)}
        write_atomically(output, page(f"keywarp: {len(rows)} evaluations", settings, rows, images))
        print(output)


def check_page(path: Path) -> None:
    """Nothing. Raises UserError where no page can be written there."""
    if path.suffix != ".html" or path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--output must be an .html file in a folder that exists, got {path}")


def read(path: Path) -> dict[str, Any]:
    """An evaluation's document. Raises UserError."""
    file = path / "evaluation.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_bytes())
        _ = document["setting"]["dataset"], [row["measures"] for row in document["rows"]]
    except OSError:
        raise UserError(f"{path} holds no evaluation.json; give the --output of keywarp evaluate") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} was not written by keywarp evaluate: {error}") from None
    return document


def named(folders: Sequence[Path], documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All rows, named after their folder, and after themselves where it has several."""
    rows = []
    names = told_apart([folder if folder.suffix != ".json" else folder.parent for folder in folders])
    for name, document in zip(names, documents, strict=True):
        for row in document["rows"]:
            several = len(document["rows"]) > 1
            rows.append({**row, "name": f"{name} {row['name']}" if several else name})
    return rows


def print_differences(rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows as a table on standard output; each but the first with its difference to the first."""
    grid = Table()
    grid.add_column("")
    for row in rows:
        grid.add_column(row["name"], justify="right")
    for name in dict.fromkeys(name for row in rows for name in row["measures"]):
        values = [row["measures"].get(name) for row in rows]
        cells = [shown(name, values[0])]
        for value in values[1:]:
            known = value is not None and values[0] is not None
            cells.append(shown(name, value) + (f" ({_signed(name, value - values[0])})" if known else ""))
        grid.add_row(name, *cells)
    Console(width=None if sys.stdout.isatty() else 160).print(grid)


def _signed(name: str, difference: float) -> str:
    text = shown(name, abs(difference))
    return ("−" if difference < 0 else "+") + text
