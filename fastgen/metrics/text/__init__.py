"""How well pictures fit their prompts, and how much they look alike."""
