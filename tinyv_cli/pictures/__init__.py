"""Where pictures come from, what the model sees of them, and how they are drawn and shown."""
