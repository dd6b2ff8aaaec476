"""Words, a task and a box become a question, and a question a prompt."""
