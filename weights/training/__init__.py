"""Seeds become scenes, pictures, questions and answers for the miniature to learn from."""
