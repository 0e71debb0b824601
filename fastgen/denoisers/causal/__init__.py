"""Denoisers of clips whose frames see no later chunk, and what earlier chunks leave behind for them."""
