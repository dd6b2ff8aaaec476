"""Sources of random bytes in repositories as the public ones lie, and the list that fits them."""

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path

from tests.light.pulling.hub_server import HubServer
from weights.pulling.catalog import Catalog, read_catalog
from weights.pulling.failures import RetryPolicy

SIZES = {
    "TinyGPT-V_for_Stage4.pth": 200_000,
    "eva_vit_g.pth": 300_000,
    "blip2_pretrained_flant5xxl.pth": 150_000,
    "pytorch_model.bin": 400_000,
}
SHARDS = {"model-00001-of-00002.safetensors": 120_000, "model-00002-of-00002.safetensors": 90_000}
CONFIG = {"model_type": "phi", "hidden_size": 8}
REPOSITORIES = ("Tyrannosaurus/TinyGPT-V", "susnato/phi-2", "microsoft/phi-2", "mirror/blip2")
FUSED_FILES = (
    "TinyGPT-V_for_Stage4.pth",
    "blip2_pretrained_flant5xxl.pth",
    "eva_vit_g.pth",
    "phi-2/config.json",
    "phi-2/tokenizer.json",
    "phi-2/pytorch_model.bin",
)
FAST = RetryPolicy(tries=3, first_wait_s=0.01, longest_wait_s=1.0, connect_s=2, read_s=2)


@dataclass
class ToyHub:
    """The things a pull test needs: the server, the list, and where the published files lie."""

    server: HubServer
    catalog_path: Path
    published: Path

    @property
    def catalog(self) -> Catalog:
        return read_catalog(self.catalog_path)

    def read(self, name):
        return next(self.published.rglob(name)).read_bytes()


def make_bytes(name, size):
    return random.Random(name).randbytes(size)


def publish(folder):
    """Writes the repositories, and what lies in the bucket under `plain/`."""
    places = {
        "TinyGPT-V_for_Stage4.pth": "Tyrannosaurus/TinyGPT-V",
        "eva_vit_g.pth": "plain",
        "blip2_pretrained_flant5xxl.pth": "plain",
        "pytorch_model.bin": "susnato/phi-2",
    }
    for name in (*REPOSITORIES, "plain"):
        (folder / name).mkdir(parents=True)
    for name, place in places.items():
        (folder / place / name).write_bytes(make_bytes(name, SIZES[name]))
    q_former = "blip2_pretrained_flant5xxl.pth"
    (folder / "mirror/blip2" / q_former).write_bytes(make_bytes(q_former, SIZES[q_former]))
    for name, size in SHARDS.items():
        (folder / "microsoft/phi-2" / name).write_bytes(make_bytes(name, size))
    weight_map = dict(zip(("lm_head.bias", "a"), SHARDS, strict=True))
    for repository in ("susnato/phi-2", "microsoft/phi-2"):
        (folder / repository / "config.json").write_text(json.dumps(CONFIG))
        (folder / repository / "tokenizer.json").write_text(json.dumps({"a": "b" * 100}))
    index = folder / "microsoft/phi-2/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


def write_catalog(path, published, url):
    """The list of the published toys, in the form of sources.toml."""
    plain = {name: f'{{ url = "{url}/plain/{name}" }}' for name in SIZES}
    hub = {r: f'{{ repository = "{r}", revision = "main" }}' for r in REPOSITORIES}
    phi = f"[{hub['susnato/phi-2']}, {hub['microsoft/phi-2']}]"
    bucket = "[" + ", ".join((plain["blip2_pretrained_flant5xxl.pth"], hub["mirror/blip2"])) + "]"
    parts = (
        _part("checkpoint", "TinyGPT-V_for_Stage4.pth", f"[{hub[REPOSITORIES[0]]}]", "stage = 4\n"),
        _part("Q-Former", "blip2_pretrained_flant5xxl.pth", bucket),
        _part("picture encoder", "eva_vit_g.pth", f"[{plain['eva_vit_g.pth']}]"),
        _part("numbers", "phi-2/config.json", phi),
        _part("tokenizer", "phi-2/tokenizer.json", phi),
        _part("weights", "phi-2/pytorch_model.bin", f"[{hub['susnato/phi-2']}]"),
        "[[part.form]]\nshards_bytes = 210000\n[[part.form.file]]\n"
        'path = "phi-2/model.safetensors.index.json"\nis_index = true\nabout_bytes = 200\n'
        f"origins = [{hub['microsoft/phi-2']}]\n",
    )
    path.write_text("\n".join(parts))


def _part(name, path, origins, extra=""):
    base = path.rpartition("/")[2]
    facts = "about_bytes = 200"
    if base in SIZES:
        content = make_bytes(base, SIZES[base])
        size = "about_bytes" if base == "eva_vit_g.pth" else "size_bytes"
        facts = f'{size} = {len(content)}\nsha256 = "{hashlib.sha256(content).hexdigest()}"'
    return (
        f'[[part]]\nname = "{name}"\n{extra}[[part.form]]\n[[part.form.file]]\n'
        f'path = "{path}"\n{facts}\norigins = {origins}\n'
    )
