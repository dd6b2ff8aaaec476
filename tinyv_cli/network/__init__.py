"""What the environment says of the network, checked before anything is asked."""
