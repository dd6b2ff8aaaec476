"""Weights come onto this computer, or into a folder that others fetch them from."""
