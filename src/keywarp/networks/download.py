"""Weights from the network, kept in a folder: fetched once, checked at every load."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from keywarp.errors import UserError, unknown

YOLOX_BASE_URL = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"
"""The authors' release of YOLOX (Apache-2.0); the environment variable KEYWARP_WEIGHTS_URL names a mirror of it."""

YOLOX = {
    "yolox-nano": "c789161ed43c8269fcd4e67c67eeeb4e80c622da2eb296a20bc6007bd18a0b7d",
    "yolox-tiny": "427cc366d34e27ff7a03e2899b5e3671425c262ea2291f88bb942bc1cc70b0f7",
    "yolox-s": "c5c2d13e59ae883e6af3b45daea64af4833a4951c92d116ec270d9ddbe998063",
    "yolox-m": "21ff6cfdeb53b013bac2249599e55f00bff3cfdfdab37ed7a4620818c1d15b3f",
    "yolox-l": "7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411",
    "yolox-x": "c892d7aaf1c4746d8a4d675bec669a4db4f434b4ee1efb654bc9b353379c7c55",
}
"""SHA-256 of the release's ONNX files by model name (yolox-nano is the file yolox_nano.onnx).

The release itself prints none; each of these is what at least three unrelated public projects pin for its address.
"""


def weights_path(name: str) -> Path:
    """The ONNX file of a YOLOX model, downloaded where it is not yet in the cache. name: of `YOLOX`."""
    if name not in YOLOX:
        raise unknown("model", name, YOLOX)
    base = os.environ.get("KEYWARP_WEIGHTS_URL") or YOLOX_BASE_URL
    return fetch(f"{base.rstrip('/')}/{name.replace('-', '_')}.onnx", sha256=YOLOX[name])


def fetch(url: str, *, sha256: str, folder: Path | None = None) -> Path:
    """The local copy of a file, downloaded once.

    folder: by default `$KEYWARP_CACHE` or `~/.cache/keywarp`.
    Raises UserError where the address cannot be reached, the folder cannot be written or the hash differs; a
    download that is not complete and correct leaves nothing behind.
    """
    folder = folder or cache_folder()
    path = folder / Path(urlsplit(url).path).name
    if path.exists():
        if (got := sha256_of(path)) != sha256:
            raise UserError(f"{path} should have SHA-256 {sha256}, has {got}; delete it to download it again")
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            part = Path(scratch) / path.name
            download(url, part)
            if (got := sha256_of(part)) != sha256:
                raise UserError(
                    f"{url} should have SHA-256 {sha256}, came with {got}; nothing was kept: "
                    "try again, or give a local copy with --model FILE"
                )
            os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}); set KEYWARP_CACHE to another folder") from error
    return path


def cache_folder() -> Path:
    """Where downloads are kept."""
    return Path(os.environ.get("KEYWARP_CACHE") or Path.home() / ".cache" / "keywarp")


def download(url: str, part: Path) -> None:
    """Write what lies at `url` to `part`, with a progress bar on a terminal. Raises UserError."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with part.open("wb") as file, bar as progress:
        task = progress.add_task(part.name, total=None)
        for block, total in _blocks(url):
            file.write(block)
            progress.update(task, advance=len(block), total=total)


def _blocks(url: str) -> Iterator[tuple[bytes, int | None]]:
    """What lies at `url`, piece by piece, each with the size of the whole where the server tells it."""
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            length = response.headers["Content-Length"]
            total = int(length) if length else None
            received = 0
            while block := response.read(1 << 18):
                received += len(block)
                yield block, total
            # A connection that ends early reads like the end of the file.
            if total is not None and received < total:
                raise ConnectionError(f"the connection ended after {received} of {total} bytes")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) if not isinstance(error, urllib.error.HTTPError) else None
        raise UserError(
            f"could not download {url} ({reason or error}); "
            f"give a local copy with --model FILE, or put it into {cache_folder()} (KEYWARP_CACHE)"
        ) from error


def sha256_of(path: Path) -> str:
    """The file's SHA-256, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
