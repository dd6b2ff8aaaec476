"""TinyGPT-V at home: a picture and a question become an answer."""
