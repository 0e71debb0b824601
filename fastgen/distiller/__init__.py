"""The engine: the roles of a method, their turns and updates, and what is remembered of them."""
