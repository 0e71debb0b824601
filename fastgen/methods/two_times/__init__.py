"""Students that are told both ends of a jump, one paper per file."""
