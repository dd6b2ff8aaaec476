"""Activations are multiplied with quantised weights, by bitsandbytes' kernels.

The modules stand where the network has a Linear, an Embedding or a LayerNorm. What they hold was
quantised when the variant was made.
"""

from copy import copy

import torch
from torch import Tensor, nn

from tinyv_cli.devices.quiet_bitsandbytes import (
    QuantState,
    dequantize_4bit,
    int8_linear_matmul,
    int8_mm_dequant,
    int8_vectorwise_quant,
    matmul_4bit,
)

LARGEST_CODE = 127


class Nf4Linear(nn.Module):
    """A matrix in NF4: codes of 4 bits, one scale to 64 neighbours of a row.

    One position takes bitsandbytes' kernel for vectors, which reads codes; several are multiplied
    with it or with the matrix in full, as it chooses.

    Source: arXiv 2305.14314, section 3.

    Args:
        packed: (N · K / 2, 1) uint8, two codes each.
        state: scales, shape (N, K) and block size.
        bias: (N,), of the activations' dtype.
    """

    packed: Tensor
    bias: Tensor

    def __init__(self, packed: Tensor, state: QuantState, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.state = state

    def forward(self, activations: Tensor) -> Tensor:
        """(…, K) → (…, N), of the same dtype."""
        if activations.device.type == "cpu":
            matrix = read_nf4(self.packed, self.state, activations.dtype)
            return nn.functional.linear(activations, matrix, self.bias)
        packed = self.packed.t()  # as bitsandbytes before 0.50 asks for it; later ones take both
        out: Tensor = matmul_4bit(activations, packed, quant_state=self.state, bias=self.bias)
        return out


def read_nf4(packed: Tensor, state: QuantState, dtype: torch.dtype) -> Tensor:
    """Unpacks a matrix on the CPU, as if it were one row.

    With bitsandbytes 0.50's kernels for a CPU, rows of 96, 160 or 224 come back wrong otherwise,
    by a fifth of their norm and more; one row is right whatever its length.

    Args:
        packed: (N · K / 2, 1) uint8.
        state: scales, shape (N, K) and block size.
        dtype: of the result.

    Returns:
        (N, K).
    """
    flat = copy(state)
    flat.shape, flat.dtype = torch.Size((1, state.shape.numel())), dtype
    matrix: Tensor = dequantize_4bit(packed, flat)
    return matrix.view(state.shape)


class Int8Linear(nn.Module):
    """A matrix in int8 with one scale a row, multiplied in int8 with activations of 16 bits.

    A position's activations are rounded to int8 by one scale, and what rounding left over by a
    second one. Both go through the matrix at once, which is read no more often for it. So large
    columns cost their neighbours nothing, and need not be found: LLM.int8 multiplies them apart in
    float16, and which they are depends on the data, so that its steps cannot be recorded.

    Source: arXiv 2208.07339, section 2.2, for the vector-wise product and its kernels.

    Args:
        codes: (N, K) int8.
        scales: (N,) float32, the largest magnitude of a row, which stands for 127.
        bias: (N,) float16.
    """

    codes: Tensor
    scales: Tensor
    half_bias: Tensor

    def __init__(self, codes: Tensor, scales: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("half_bias", bias / 2, persistent=False)  # it is added twice

    def forward(self, activations: Tensor) -> Tensor:
        """(…, K) → (…, N), of the same dtype; the kernels take and give float16."""
        rows = activations.reshape(-1, activations.shape[-1]).to(torch.float16)  # (T, K)
        rows = rows.contiguous()  # the kernels are given its address alone
        codes, largest, _ = int8_vectorwise_quant(rows)
        rest = torch.addcmul(rows, codes, largest[:, None], value=-1 / LARGEST_CODE)  # float32
        rest_codes, rest_largest, _ = int8_vectorwise_quant(rest.to(torch.float16))
        sums = int8_linear_matmul(torch.cat((codes, rest_codes)), self.codes)  # (2T, N) int32
        scales = torch.cat((largest, rest_largest))
        products = int8_mm_dequant(sums, scales, self.scales, bias=self.half_bias)
        first, second = products.chunk(2)
        out: Tensor = (first + second).to(activations.dtype)
        return out.view(*activations.shape[:-1], -1)


class Int8Embedding(nn.Module):
    """A table in int8 with one scale a row, of which rows are looked up.

    Args:
        weight: (V, D) int8.
        scales: (V,) float32, by which a row's codes are multiplied.
    """

    weight: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(T,) → (T, D) float32."""
        rows: Tensor = self.weight[ids] * self.scales[ids][:, None]
        return rows


class Int8WeightLinear(nn.Module):
    """A matrix in int8 with one scale a row, read back before each product.

    Activations are not rounded: a vision tower has channels a hundred times as large as others.
    What reading back costs is little beside the product with a picture's thousand positions.

    Args:
        codes: (N, K) int8.
        scales: (N,) float32, by which a row's codes are multiplied.
        bias: (N,) of the activations' dtype.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor

    def __init__(self, codes: Tensor, scales: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, activations: Tensor) -> Tensor:
        """(…, K) → (…, N), of the same dtype."""
        matrix = torch.empty_like(self.codes, dtype=activations.dtype)
        torch.mul(self.codes, self.scales[:, None], out=matrix)  # in float32, as small scales need
        return nn.functional.linear(activations, matrix, self.bias)


class NarrowingNorm(nn.LayerNorm):
    """A LayerNorm in float32 whose result is what matrices take.

    Hidden states are sums over all layers and stay in float32; only branches run in float16.

    Args:
        norm: whose width and eps it has.
        dtype: of the result.
    """

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        super().__init__(norm.normalized_shape, eps=norm.eps, device="meta")
        self._dtype = dtype

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, D) float32 → (…, D)."""
        return super().forward(hidden).to(self._dtype)
