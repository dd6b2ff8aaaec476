"""Pictures become lines of a file: found, made ready ahead, answered, kept."""
