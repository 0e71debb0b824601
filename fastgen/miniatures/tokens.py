"""Tokenizers of few words, each of which is one token; other words fall into pieces. CLIP's and T5's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgen.storage.files import write_json, write_text

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, T5Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
"""The first tokens, 0 and 1; texts are filled up with the second, as in Stable Diffusion."""
LENGTH = 20
"""Tokens of a text, start and end included."""
END_OF_WORD = "</w>"


def letters() -> list[str]:
    """How CLIP writes the 256 bytes: those that print as they are, the others as letters from U+0100 on."""
    printing = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printing else next(others)) for byte in range(256)]


def merges(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The merges of byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909) until every word is one piece.

    Among pairs that are equally frequent the first in the alphabet comes first.
    """
    pieces = [[*word[:-1], word[-1] + END_OF_WORD] for word in words if word]
    while counts := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        yield best
        pieces = [merged(word, best) for word in pieces]


def merged(word: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """The pieces of a word with every occurrence of ``pair`` as one piece."""
    result: list[str] = []
    for piece in word:
        if result and (result[-1], piece) == pair:
            result[-1] += piece
        else:
            result.append(piece)
    return result


def joins_of(words: Sequence[str]) -> list[tuple[str, str]]:
    """:func:`merges` of the bytes of different words, whatever their order, each once."""
    letter = letters()
    return list(dict.fromkeys(merges(["".join(letter[byte] for byte in word.encode()) for word in sorted(set(words))])))


def make_tokenizer(words: Sequence[str], length: int = LENGTH) -> CLIPTokenizer:
    """A tokenizer that knows ``words``, in small letters.

    Args:
        words: Each becomes one token.
        length: Tokens of a text, start and end included.
    """
    from transformers import CLIPTokenizer

    joins = joins_of(words)
    pieces = [START, END, *letters(), *(letter + END_OF_WORD for letter in letters()), *map("".join, joins)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    options: dict[str, Any] = {"merges": joins, "model_max_length": length}
    options |= {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    return CLIPTokenizer(vocab=vocabulary, **options)


def write_tokenizer(folder: Path, words: Sequence[str], length: int = LENGTH) -> None:
    """Write :func:`make_tokenizer` with the files that old and new versions of transformers read."""
    tokenizer = make_tokenizer(words, length)
    tokenizer.save_pretrained(folder)
    write_json(folder / "vocab.json", tokenizer.get_vocab())
    lines = [" ".join(pair) for pair in joins_of(words)]
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *lines, ""]))


WORD, PIECE, LETTER = -1.0, -2.0, -10.0
"""Logarithms of probabilities of a unigram model: whole words before their pieces, letters where nothing else is."""


def make_t5_tokenizer(words: Sequence[str], length: int) -> T5Tokenizer:
    """A T5 tokenizer, a unigram model (Kudo 2018, arXiv 1804.10959), that knows ``words``, in small letters.

    Args:
        words: Each becomes one token, at the beginning of a word of a text; with other characters before it another.
        length: Tokens of a text, the end included.
    """
    from transformers import T5Tokenizer

    known = sorted({word.lower() for word in words if word})
    begin = "\N{LOWER ONE EIGHTH BLOCK}"
    pieces = dict.fromkeys(["<pad>", "</s>", "<unk>"], 0.0)
    letters_there = {begin, *"abcdefghijklmnopqrstuvwxyz0123456789,.-'", *"".join(known)}
    pieces |= {letter: LETTER for letter in sorted(letters_there)}
    pieces |= {word: PIECE for word in known} | {begin + word: WORD for word in known}
    return T5Tokenizer(vocab=list(pieces.items()), extra_ids=0, model_max_length=length)
