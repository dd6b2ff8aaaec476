"""This computer becomes the device that is trained on."""

import torch


def choose_device() -> torch.device:
    """A CUDA card where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
