"""What lies on disk: variants, their hashes, and the memory they need."""
