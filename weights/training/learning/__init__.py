"""Pictures, words and answers become a loss, and a loss trained parameters."""
