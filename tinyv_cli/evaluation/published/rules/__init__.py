"""Answers and records become scores, by each rule that is in use; knows no file and no model."""
