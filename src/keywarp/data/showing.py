"""Videos one by one, with a bar on standard error where that is a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import track

from keywarp.data.datasets import Video


def shown(videos: Sequence[Video], name: str) -> Iterator[Video]:
    """These videos, each made when its turn comes."""
    console = Console(stderr=True)
    each = (videos[position] for position in range(len(videos)))
    hidden = not console.is_terminal
    yield from track(each, name, total=len(videos), console=console, transient=True, disable=hidden)
