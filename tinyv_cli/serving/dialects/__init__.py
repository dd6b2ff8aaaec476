"""What clients say and read, in OpenAI's words and in Ollama's; each becomes the same question."""
