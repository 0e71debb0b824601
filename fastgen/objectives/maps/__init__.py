"""What flow maps of two times learn."""
