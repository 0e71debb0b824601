"""Every method on problems whose truth is known; ``python -m benchmarks.oracle --help``."""
