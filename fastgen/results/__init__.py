"""The files that a run leaves for people and tools: rows of numbers and what the numbers mean; nothing needs torch."""
