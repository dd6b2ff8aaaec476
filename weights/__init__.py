"""Public files are fetched, checked and read as named float32 tensors."""
