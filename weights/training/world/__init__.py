"""A seed becomes a scene, and a scene a picture."""
