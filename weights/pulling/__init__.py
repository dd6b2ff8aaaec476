"""Public files, or a finished variant, come onto this computer and are checked."""
