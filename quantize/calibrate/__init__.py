"""Rounding that knows what the matrix will be multiplied with, and makes up for its own errors."""
