"""Files that are whole or absent, JSON, and files that are not what they should be."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keywarp.errors import UserError


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises UserError."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is no valid JSON: {error}") from None


@contextmanager
def laid_out_as(name: str, path: Path) -> Iterator[None]:
    """Turns what a malformed file leads to into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError, csv.Error) as error:
        what = f"an entry lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} is not laid out as {name}: {what}") from None


def told_apart(paths: Sequence[Path]) -> list[str]:
    """Names of files or folders: their own, or with as many folders before as it takes to differ."""
    whole = [path.resolve() for path in paths]
    for count in range(1, max((len(path.parts) for path in whole), default=0)):
        names = ["/".join(path.parts[-count:]) for path in whole]
        if len(set(names)) == len(set(whole)):
            return names
    return [str(path) for path in whole]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that is whole or absent."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a temporary file, of the same kind, which takes `path`'s place where the block ends without error."""
    temporary = path.with_name(f".{path.name}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
