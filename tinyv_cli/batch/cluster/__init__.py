"""The same lines as a batch on one computer, from the workers of a Ray cluster."""
