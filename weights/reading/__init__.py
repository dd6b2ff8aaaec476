"""Public files become one merged network."""
