"""A tokenizer of few words."""

from __future__ import annotations

from pathlib import Path

from transformers import CLIPTokenizer, T5Tokenizer

from fastgen.data.emoji import MovingEmoji
from fastgen.miniatures.__main__ import main
from fastgen.miniatures.tokens import END, START, make_t5_tokenizer, make_tokenizer, merges, write_tokenizer

EMOJI = Path(__file__).parents[1] / "data" / "emoji"
WORDS = ["a", "red", "apple", "on", "green", "t", "-", "shirt", ",", "café"]


def test_every_word_is_one_token() -> None:
    tokenizer = make_tokenizer(WORDS, length=12)
    assert tokenizer.model_max_length == 12 and (tokenizer.bos_token, tokenizer.eos_token) == (START, END)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 1)
    ids = tokenizer("A red apple, on green t-shirt café").input_ids
    assert tokenizer.convert_ids_to_tokens(ids[1:-1])[:3] == ["a</w>", "red</w>", "apple</w>"] and len(ids) == 2 + 10
    padded = tokenizer("red", padding="max_length", truncation=True).input_ids
    assert len(padded) == 12 and padded[3:] == [1] * 9
    unknown = tokenizer("grapple").input_ids
    assert len(unknown) > 3 and tokenizer.decode(unknown, skip_special_tokens=True) == "grapple"


def test_merges_end_when_words_are_whole() -> None:
    found = list(merges(["hug", "pug", "hugs"]))
    assert found[0] == ("h", "u"), "the first of the frequent ones"
    assert {"hug</w>", "pug</w>", "hugs</w>"} <= set(map("".join, found)) and len(found) == len(set(found))
    assert list(merges(["a", ""])) == []


def test_old_and_new_files_hold_the_same(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, WORDS, 12)
    new = CLIPTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    old = CLIPTokenizer.from_pretrained(tmp_path)
    for text in ("a red apple", "grapple, café", ""):
        assert new(text).input_ids == old(text).input_ids
    assert old.model_max_length == 12


def test_every_word_is_one_token_of_t5() -> None:
    tokenizer = make_t5_tokenizer(WORDS, length=12)
    ids = tokenizer("a red apple, on green t-shirt caf\u00e9").input_ids
    assert len(ids) == 10 + 1 and ids[-1] == tokenizer.eos_token_id == 1 and tokenizer.unk_token_id not in ids
    padded = tokenizer("red", padding="max_length", truncation=True, max_length=12)
    assert padded.input_ids[2:] == [0] * 10 and sum(padded.attention_mask) == 2
    assert len(tokenizer("grapple").input_ids) > 3 and tokenizer.unk_token_id not in tokenizer("grapple").input_ids


def test_captions_of_clips_are_words(tmp_path: Path) -> None:
    drawings = EMOJI / "drawings.txt"
    assert main(["tokenizer", "--kind=t5", f"--drawings={drawings}", f"--out={tmp_path}", "--length=24"]) == 0
    tokenizer = T5Tokenizer.from_pretrained(tmp_path)
    captions = MovingEmoji(str(EMOJI), str(drawings)).sources[0].captions(range(200))
    for caption in captions:
        words = caption.replace(",", " ,").split()
        assert len(tokenizer(caption).input_ids) == len(words) + 1 <= 24, caption
