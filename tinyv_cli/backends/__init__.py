"""Backends that run a variant, the cache of image tokens, and prefetching."""
