"""The workshop: a folder of sources becomes a variant."""
