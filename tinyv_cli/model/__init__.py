"""TinyGPT-V in torch, in float32 and unrounded: for reference, export and training."""
