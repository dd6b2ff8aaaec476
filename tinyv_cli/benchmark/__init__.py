"""How fast a variant answers on this machine: an open variant becomes times and rates."""
