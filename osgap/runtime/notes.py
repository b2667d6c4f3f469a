"""What was assumed where files do not say, or left out: told once, however many files leave it to be assumed."""

from __future__ import annotations

import logging
from collections.abc import Iterator


class Notes:
    """Sentences (without the full stop), each once, in the order in which they first were added."""

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}

    def add(self, *sentences: str) -> None:
        """Take note of what is not noted yet."""
        self._sentences |= dict.fromkeys(sentences)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sentences)

    def log(self, logger: logging.Logger, source: object) -> None:
        """Warn of each, by the file that it is about: for programs that have no other place to tell it."""
        for sentence in self:
            logger.warning("%s: %s", source, sentence)
