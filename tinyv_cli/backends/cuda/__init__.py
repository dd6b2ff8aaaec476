"""A variant on a GPU, by torch and bitsandbytes."""
