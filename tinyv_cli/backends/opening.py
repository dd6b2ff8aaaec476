"""A variant and a device become something that encodes pictures and decodes tokens.

The seam between light code and runtimes: each backend's module imports its own runtime and is
itself imported only here, when chosen.
"""

from tinyv_cli.backends.backend import Backend, BackendOptions, OnEncoder, prefetch_nothing
from tinyv_cli.devices.names import is_cuda
from tinyv_cli.disk.paths import check_utf8
from tinyv_cli.errors import UsageError
from tinyv_cli.variants.manifest import Variant


def open_backend(
    variant: Variant,
    options: BackendOptions,
    on_encoder: OnEncoder = prefetch_nothing,
) -> Backend:
    """Opens a variant on a device.

    Args:
        variant: a variant whose files have been checked.
        options: device (`cpu`, `cuda` or `cuda:N`), threads, context and memory.
        on_encoder: is given the encoder before the decoder is opened, and may use it in a thread.

    Raises:
        DeviceError: the device cannot be used.
        UsageError: there is no such device, or the context is longer than the model's.
        WeightsError: the runtime cannot read the variant's files, or their folder's name.
    """
    check_utf8(variant.folder)
    if options.device == "cpu":
        from tinyv_cli.backends.cpu.onnx_cpu import open_cpu

        return open_cpu(variant, options, on_encoder)
    if is_cuda(options.device):
        from tinyv_cli.backends.cuda.torch_cuda import open_torch

        return open_torch(variant, options, on_encoder, device=options.device)
    hint = "use `--device` with cpu, cuda or cuda:N"
    raise UsageError(f"there is no device {options.device}", hint)
