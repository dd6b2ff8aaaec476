"""What runs a variant; `open_backend` is the seam between light code and runtimes."""
