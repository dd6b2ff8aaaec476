"""Questions that programs ask over HTTP, in OpenAI's and Ollama's words, and a page to ask on."""
