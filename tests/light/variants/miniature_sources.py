"""The miniature's sources as far as their names go, and what manifests say of them."""

from tinyv_cli.variants.manifest import FileEntry

CHECKPOINT = "TinyGPT-V_for_Stage4.pth"
SOURCE_FILES = (
    "phi-2/config.json",
    "phi-2/tokenizer.json",
    "phi-2/model.safetensors",
    "eva_vit_g.pth",
    "blip2_pretrained_flant5xxl.pth",
    CHECKPOINT,
    "architecture.json",
)


def make_sources(checkpoint="b"):
    """What manifests say of sources whose config is the same and whose checkpoint is not."""
    return (
        FileEntry("phi-2/config.json", 3, "a" * 64, "source"),
        FileEntry(CHECKPOINT, 5, checkpoint * 64, "source"),
    )


def write_sources(folder):
    for name in SOURCE_FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return folder
