"""Codes become bytes as onnxruntime's MatMulNBits lays them out, and back; knows no rounding.

Source: operator documentation of com.microsoft.MatMulNBits (onnxruntime, ContribOperators.md):
B is (N, G, group · bits / 8) with the code of the lower column in the lower nibble; zero points are
(N, ⌈G · bits / 8⌉) packed the same way.
"""

import numpy as np
import torch

from quantize.groupwise import GroupedCodes


def to_matmul_nbits(rounded: GroupedCodes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lays a rounded matrix out for MatMulNBits.

    Args:
        rounded: a matrix at 4 or 8 bits.

    Returns:
        B (N, G, group · bits / 8) uint8, scales (N · G) float32, zero points (N · ⌈G · bits / 8⌉)
        uint8.
    """
    n_rows, n_groups = rounded.scales.shape
    codes, zero_points = rounded.codes, rounded.zero_points
    if rounded.rounding.bits == 4:
        codes = _to_nibbles(codes)
        zero_points = _to_nibbles(torch.nn.functional.pad(zero_points, (0, n_groups % 2)))
    return (
        codes.view(n_rows, n_groups, -1).numpy(),
        rounded.scales.flatten().numpy(),
        zero_points.flatten().numpy(),
    )


def from_nibbles(packed: np.ndarray) -> np.ndarray:
    """Opens bytes (…, n) into their 4-bit codes (…, 2n), the lower nibble first."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _to_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Closes 4-bit codes (N, 2n) into bytes (N, n), the lower nibble first."""
    return codes[:, ::2] | (codes[:, 1::2] << 4)
