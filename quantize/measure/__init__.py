"""How far a variant is from full precision, measured on fixed probes."""
