"""Files on disk: whole or not there, sealed, read without running anything."""
