"""The newest picture of a source that does not wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from keywarp.data.decoding import Picture
from keywarp.data.motion import bounded


class Newest:
    """Hands out the newest of pictures that arrive in the background; late ones are dropped and counted.

    The motion of dropped pictures is handed out with the next one, so that the chain of motion has no gap.
    finish: called in the background when the pictures end or `close` was called.
    """

    def __init__(self, pictures: Iterator[Picture], finish: Callable[[], None]) -> None:
        self.dropped = 0
        self._pictures = pictures
        self._finish = finish
        self._waiting: Picture | None = None
        self._ended = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="live video")
        self._thread.start()

    def __iter__(self) -> Iterator[Picture]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._ended)
                picture, self._waiting = self._waiting, None
            if picture is None:
                if self._error is not None:
                    raise self._error
                return
            yield picture

    def close(self) -> None:
        """Stop following the source."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join(timeout=2)  # a connection that hangs ends at its own timeout

    def _follow(self) -> None:
        try:
            for picture in self._pictures:
                with self._changed:
                    if self._ended:
                        return
                    if self._waiting is not None:
                        self.dropped += 1
                        picture = replace(picture, motion=bounded(self._waiting.motion + picture.motion))
                    self._waiting = picture
                    self._changed.notify_all()
        except Exception as error:  # for who waits for pictures
            self._error = error
        finally:
            self._finish()
            with self._changed:
                self._ended = True
                self._changed.notify_all()
