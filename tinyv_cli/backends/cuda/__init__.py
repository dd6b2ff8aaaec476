"""A variant on a CUDA card, by torch and bitsandbytes."""
