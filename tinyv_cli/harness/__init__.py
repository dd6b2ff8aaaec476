"""Evaluation harnesses of others ask tinyv; found by entry points, loaded by nothing else here."""
