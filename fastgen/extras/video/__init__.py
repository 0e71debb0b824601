"""Terms of students that make clips."""
