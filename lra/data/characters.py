"""Texts to ids: bytes as in LRA, or characters as in the S4 family."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

TOKENS = ("bytes", "chars")
CODE_POINTS = 0x110000
UNKNOWN = 1


class Codec(Protocol):
    """What makes ids of texts (UTF-8); 0 pads.

    Attributes:
        vocab: number of ids.
    """

    vocab: int

    def encode(self, texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Flat ids, and the length of each text: ``max_length`` at most, its EOS included."""


class Bytes:
    """Id = byte + 1: 257 ids, as TFDS's ``ByteTextEncoder``; EOS, where asked for, is id 257.

    A text is cut to ``max_length`` bytes, be it inside a character.
    """

    def __init__(self, max_length: int, eos: bool):
        self.vocab = 257 + eos
        self._cut, self._eos = max_length - eos, eos

    def encode(self, texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        parts = [text[: self._cut] for text in texts]
        ids = np.frombuffer(b"".join(parts), np.uint8).astype(np.uint16) + np.uint16(1)
        lengths = np.array([len(part) for part in parts], np.int32)
        return _with_eos(ids, lengths, 257) if self._eos else (ids, lengths)


class Chars:
    """Ids of characters: 1 unknown, 2 EOS where asked for, then those of ``symbols`` in order.

    A text is cut to ``max_length`` characters.
    """

    def __init__(self, max_length: int, eos: bool, symbols: str):
        first = UNKNOWN + 1 + eos
        self.vocab = first + len(symbols)
        self._cut, self._eos = max_length - eos, eos
        self._ids = np.full(CODE_POINTS, UNKNOWN, np.uint8 if self.vocab <= 256 else np.uint16)
        self._ids[_points(symbols)] = np.arange(first, self.vocab)

    def encode(self, texts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        parts = [text.decode()[: self._cut] for text in texts]
        ids = self._ids[_points("".join(parts))]
        lengths = np.array([len(part) for part in parts], np.int32)
        return _with_eos(ids, lengths, UNKNOWN + 1) if self._eos else (ids, lengths)


def vocabulary(texts: Iterable[list[bytes]], cut: int, min_freq: int) -> str:
    """The characters that occur at least ``min_freq`` times within the first ``cut`` of every text:
    the most frequent first, of equally frequent ones the lower code point (torchtext's order)."""
    counts = np.zeros(CODE_POINTS, np.int64)
    for part in texts:
        points = _points("".join(text.decode()[:cut] for text in part))
        counts += np.bincount(points, minlength=CODE_POINTS)
    known = np.flatnonzero(counts >= min_freq)
    order = known[np.lexsort((known, -counts[known]))]
    return "".join(map(chr, order.tolist()))


@dataclass(frozen=True)
class Reading:
    """How texts become ids: what the knobs of a task say of it.

    Attributes:
        tokens: one of ``TOKENS``.
        eos: whether an end-of-sequence id follows.
        max_length: most ids of a text, EOS included.
        min_freq: occurrences that make a character known; ``chars`` only.
    """

    tokens: str
    eos: bool
    max_length: int
    min_freq: int

    def asked(self) -> dict[str, Any]:
        """All of it that decides the ids."""
        asked = {"tokens": self.tokens, "eos": self.eos, "max_length": self.max_length}
        return {**asked, "min_freq": self.min_freq} if self.tokens == "chars" else asked

    def codec(self, train: Callable[[], Iterable[list[bytes]]]) -> tuple[Codec, dict[str, Any]]:
        """What encodes, and its facts for a manifest.

        Args:
            train: gives the texts that are counted for ``chars``.
        """
        if self.tokens == "bytes":
            bytes_ = Bytes(self.max_length, self.eos)
            return bytes_, {**self.asked(), "vocab": bytes_.vocab}
        symbols = vocabulary(train(), self.max_length - self.eos, self.min_freq)
        chars = Chars(self.max_length, self.eos, symbols)
        return chars, {**self.asked(), "vocab": chars.vocab, "characters": symbols}


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _with_eos(ids: np.ndarray, lengths: np.ndarray, eos: int) -> tuple[np.ndarray, np.ndarray]:
    return np.insert(ids, np.cumsum(lengths), eos), lengths + np.int32(1)


def not_utf8(text: bytes) -> str | None:
    """What is wrong with a text that is not UTF-8, or None."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 text (byte {text[error.start]:#04x} at {error.start})"
    return None
