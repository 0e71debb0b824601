"""Commands that need no trainer."""
