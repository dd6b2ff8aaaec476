"""What runs the model, and what stands around its image encoder."""
