"""Consistency models: students that agree with themselves along the flow."""
