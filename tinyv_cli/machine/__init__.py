"""What this computer has, whatever computes on it."""
