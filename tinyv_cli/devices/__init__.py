"""Which of this computer's devices computes."""
