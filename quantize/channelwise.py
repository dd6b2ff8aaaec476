"""A float32 matrix becomes 8-bit codes with one scale an output channel; activations likewise.

onnxruntime's DynamicQuantizeMatMul computes with these: weights symmetric, codes -127 … 127, one
scale for each row; activations with one scale and one zero point for the whole array. It is fast,
and poor where a few input channels are much larger than the rest: the scale is theirs. A weight is
off by half a scale at most, as a test holds.

Source: ONNX DynamicQuantizeLinear, from which the operator takes its activations' scale.
"""

from dataclasses import dataclass

import torch

LARGEST_CODE = 127  # -128 is left out: the range is the same on both sides of zero
_TOP = 255  # of an activation's code


@dataclass(frozen=True)
class ChannelCodes:
    """A rounded matrix of N rows and K columns.

    Attributes:
        codes: (N, K) int8.
        scales: (N) float32, positive.
    """

    codes: torch.Tensor
    scales: torch.Tensor

    def to_matrix(self) -> torch.Tensor:
        """Returns the rounded matrix in float32, (N, K)."""
        return self.codes.float() * self.scales[:, None]


def round_channels(matrix: torch.Tensor) -> ChannelCodes:
    """Rounds a matrix so that the largest weight of each row is a code of ±127.

    Args:
        matrix: (N, K) float32, finite.
    """
    largest = matrix.abs().amax(1)
    scales = torch.where(largest > 0, largest / LARGEST_CODE, torch.ones_like(largest))
    codes = (matrix / scales[:, None]).round_().clamp_(-LARGEST_CODE, LARGEST_CODE)
    return ChannelCodes(codes.to(torch.int8), scales)


def round_activations(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Rounds activations as the operator does when all of them lie between two numbers.

    Args:
        x: float32.
        low: the smallest activation.
        high: the largest one.

    Returns:
        The rounded activations in float32, of the same shape.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return torch.zeros_like(x)
    scale = (high - low) / _TOP
    zero_point = min(max(round(-low / scale), 0), _TOP)
    codes = (x / scale).round_().add_(zero_point).clamp_(0, _TOP)
    return codes.sub_(zero_point).mul_(scale)
