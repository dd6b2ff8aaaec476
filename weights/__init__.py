"""Where the numbers come from: foreign files become named float32 tensors."""
