"""A driver, a torch and variants for a graphics card that is not there."""

from dataclasses import replace

from tests.light.toy_variant import make_entry, make_manifest, write_files
from tinyv_cli.devices import TorchFindings
from tinyv_cli.nvidia_driver import Card, Driver, Obstacle

NO_DRIVER = Driver(None, (), Obstacle("there is no NVIDIA driver", "install one"))
DRIVER = Driver("12.4", (Card("NVIDIA Toy 8G", 8 << 30, (8, 6)),), None)
TORCH = TorchFindings(
    version="2.9.0+cu126",
    cuda="12.6",
    architectures=("sm_80", "sm_86", "sm_90"),
    card_name="NVIDIA Toy 8G",
    capability=(8, 6),
    free_bytes=7 << 30,
)
CUDA_ROLES = ("cuda-language", "cuda-vision")


def write_cuda_variant(folder, *, has_cpu=True):
    """Writes a variant with files for a card, and for the CPU or not."""
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
