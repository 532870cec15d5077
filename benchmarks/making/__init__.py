"""Data sets that are made: one module for each, with `NAMES` of its classes and `make(labels, random)`."""
