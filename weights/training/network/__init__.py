"""Sources become a network to train, and a trained one sources again."""
