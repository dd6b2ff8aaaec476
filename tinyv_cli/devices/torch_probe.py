"""torch is asked about a GPU, and multiplies two small matrices there; opens no variant."""

import warnings
from importlib.util import find_spec

import torch

from tinyv_cli.devices.findings import TorchFindings

_SIDE = 64  # of the matrices of the proof
LARGEST_PRODUCT_ERROR = 1e-3  # float16 rounds what it gives by 2⁻¹¹, sums are kept in float32


def probe_torch(number: int) -> TorchFindings:
    """Asks torch for a GPU and bitsandbytes for its kernels.

    Where the GPU is reached, its context is made: what is free is free beside it.

    Args:
        number: of the GPU, as CUDA counts.
    """
    version, cuda = torch.__version__, torch.version.cuda
    if cuda is None:
        return TorchFindings(version)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if not torch.cuda.is_available():
            reason = _to_line(warned[0].message) if warned else "it finds no GPU"
            return TorchFindings(version, cuda, refusal=reason)
        if number >= torch.cuda.device_count():
            return TorchFindings(version, cuda, refusal=f"it finds no GPU {number}")
        try:
            capability = torch.cuda.get_device_capability(number)
            free_bytes, _ = torch.cuda.mem_get_info(number)
        except RuntimeError as error:
            return TorchFindings(version, cuda, refusal=_to_line(error))
    problem, told = _examine_bitsandbytes()
    return TorchFindings(
        version=version,
        cuda=cuda,
        architectures=tuple(torch.cuda.get_arch_list()),
        gpu_name=torch.cuda.get_device_name(number),
        capability=capability,
        free_bytes=free_bytes,
        bitsandbytes_problem=problem,
        bitsandbytes_told=told,
    )


def _examine_bitsandbytes() -> tuple[str | None, tuple[str, ...]]:
    """Returns why bitsandbytes cannot compute on a GPU, None where it can; and what it logged."""
    if find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed", ()
    # It imports without its CUDA library too, and would fail only at the first product.
    try:
        from tinyv_cli.devices.quiet_bitsandbytes import lib, told
    except (ImportError, OSError, RuntimeError) as error:
        return f"bitsandbytes cannot be imported: {_to_line(error)}", ()
    lines = tuple(map(_to_line, told))
    if not getattr(lib, "compiled_with_cuda", False):
        return "bitsandbytes found none of its CUDA libraries that fits this torch", lines
    return None, lines


def measure_product_error(device: str) -> float:
    """Multiplies two small float16 matrices on a device and compares with float32 on the CPU.

    Returns:
        The largest difference, relative to the largest element.

    Raises:
        RuntimeError: the product cannot be computed there.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn((2, _SIDE, _SIDE), generator=generator).half()
    expected = left.float() @ right.float()
    product = (left.to(device) @ right.to(device)).float().cpu()
    return float((product - expected).abs().max() / expected.abs().max())


def _to_line(reason: object) -> str:
    lines = str(reason).strip().splitlines()
    return lines[0] if lines else type(reason).__name__
