"""Files that are whole or absent, and JSON."""

from __future__ import annotations

import json
import os
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


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then rename it."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        else:
            temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
