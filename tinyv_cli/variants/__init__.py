"""Variants on disk, their hashes, and the memory they need."""
