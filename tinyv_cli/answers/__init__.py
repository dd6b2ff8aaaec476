"""Logits become tokens, tokens text, text an answer."""
