"""Folders of samples as the scripts of external judges read them."""
