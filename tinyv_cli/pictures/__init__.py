"""A word becomes a picture: a file, URL, page or frame; and a picture the pixels the model sees."""
