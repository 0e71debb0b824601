"""Distribution matching along a student's own few steps."""
