"""Programs that make the numbers in the documentation and the small files that ship with fastgen.

Run them from the root of the repository, e.g. ``python -m benchmarks.train_digits_classifier``. Each prints its
result and says where it was written.
"""
