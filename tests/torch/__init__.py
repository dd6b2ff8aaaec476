"""Tests that need torch: tiny random models and the golden cases."""
