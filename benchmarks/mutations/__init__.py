"""Mistakes that someone could make, applied one at a time: do the tests notice?"""
