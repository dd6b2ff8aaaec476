"""A conversation in a terminal or through pipes."""
