"""From plain data to objects: what may be named, what is built, and what is wrong with a config."""
