"""Trains the miniature from nothing; run from a checkout, in no wheel."""
