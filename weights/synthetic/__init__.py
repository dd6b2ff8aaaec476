"""Random sources of any size in the public formats; developers only."""
