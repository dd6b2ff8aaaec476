"""Writes random sources of any size in the public formats; for developers, in no wheel."""
