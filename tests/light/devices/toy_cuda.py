"""A driver, a torch and variants for a GPU that is not there."""

from dataclasses import replace

from tests.light.toy_variant import make_entry, make_manifest, write_files
from tinyv_cli.devices.driver import DeviceProblem, Driver, Gpu
from tinyv_cli.devices.findings import KernelFindings, TorchFindings

NO_DRIVER = Driver(None, (), DeviceProblem("there is no NVIDIA driver", "install one"))
DRIVER = Driver("12.4", (Gpu("NVIDIA Toy 8G", 8 << 30, (8, 6)),), None)
TORCH = TorchFindings(
    version="2.9.0+cu126",
    cuda="12.6",
    architectures=("sm_80", "sm_86", "sm_90"),
    gpu_name="NVIDIA Toy 8G",
    capability=(8, 6),
    free_bytes=7 << 30,
)
TWO_GPUS = Driver("12.4", (*DRIVER.gpus, Gpu("NVIDIA Toy 6G", 6 << 30, (7, 5))), None)
SMALLER = replace(
    TORCH,
    architectures=("sm_75", "sm_86"),
    gpu_name="NVIDIA Toy 6G",
    capability=(7, 5),
    free_bytes=5 << 30,
)
ROW_ERRORS = {"nf4": 2e-4, "int8": 3e-4}
CUDA_ROLES = ("cuda-language", "cuda-vision")


def put_driver(monkeypatch, driver=NO_DRIVER):
    """Puts a driver in place."""
    monkeypatch.setattr("tinyv_cli.devices.driver.read_driver", lambda: driver)
    monkeypatch.setattr("tinyv_cli.devices.driver.has_gpu", lambda: bool(driver.gpus))


def put_gpus(monkeypatch, driver, *torches):
    """Puts a driver and torch's words on each GPU in place, whose kernels compute right.

    Returns:
        The numbers that torch is asked of.
    """
    asked = []
    put_driver(monkeypatch, driver)
    monkeypatch.setattr(
        "tinyv_cli.devices.choice.read_torch",
        lambda number: asked.append(number) or torches[number],
    )
    monkeypatch.setattr(
        "tinyv_cli.devices.choice.examine_kernels", lambda *_, again: KernelFindings(ROW_ERRORS)
    )
    return asked


def write_cuda_variant(folder, *, has_cpu=True):
    """Writes a variant with files for a GPU, and for the CPU or not."""
    write_files(folder)
    for role in CUDA_ROLES:
        (folder / f"{role}.safetensors").write_bytes(role.encode())
    manifest = make_manifest(folder)
    files = [*manifest.files, *(make_entry(folder, f"{r}.safetensors", r) for r in CUDA_ROLES)]
    if not has_cpu:
        files = [each for each in files if not each.role.startswith("decoder")]
    text = replace(manifest, files=tuple(files)).to_json()
    (folder / "manifest.json").write_text(text, "utf-8")
    return folder
