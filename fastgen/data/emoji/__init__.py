"""Colour drawings of an emoji font on coloured backgrounds, and captions that name them."""

from fastgen.data.emoji.module import Emoji
from fastgen.data.emoji.moving import MovingEmoji

__all__ = ["Emoji", "MovingEmoji"]
