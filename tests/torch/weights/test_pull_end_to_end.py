"""From nothing to an answer: pulled from a server that speaks as the hub does, then quantised."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.golden import CASES, GOLDEN, needs_golden
from tests.light.pulling.hub_server import HubServer
from tests.light.pulling.toy_hub import point_at
from tests.torch.conftest import read_golden_case
from tests.torch.quantize.tiny_sources import write_tiny
from tinyv_cli.app import main
from tinyv_cli.commands.fetching.pull import pull_weights
from tinyv_cli.errors import WeightsError
from tinyv_cli.options.pull import PullArguments
from tinyv_cli.variants.manifest import read_variant
from weights.pulling.catalog import read_catalog
from weights.pulling.failures import RetryPolicy

QUICK = RetryPolicy(tries=2, first_wait_s=0.01)
REPOSITORY = '{ repository = "someone/sources", revision = "main" }'
SHARED = (
    "eva_vit_g.pth",
    "blip2_pretrained_flant5xxl.pth",
    "architecture.json",
    "phi-2/config.json",
    "phi-2/tokenizer.json",
)
FUSED, INDEX = "phi-2/pytorch_model.bin", "phi-2/model.safetensors.index.json"


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def describe(folder, path):
    """A file's entry in a list, with its hash where it is no small one."""
    content = (folder / path).read_bytes() if (folder / path).is_file() else b""
    facts = f'size_bytes = {len(content)}\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n'
    origin = REPOSITORY.replace(" }", f', name = "{path}" }}')
    index = "is_index = true\n" if path == INDEX else ""
    pinned = facts if content and not path.endswith(".json") else index
    entry = f'[[part.form.file]]\npath = "{path}"\n{pinned}about_bytes = 100000\n'
    return f"[[part.form]]\n{entry}origins = [{origin}]\n"


def write_list(path, folder, stage, pinned_phi=None):
    """A list of the sources in a folder; `pinned_phi` holds the fused file that it pins."""
    checkpoint = f"TinyGPT-V_for_Stage{stage}.pth"
    text = f'[[part]]\nname = "checkpoint"\nstage = {stage}\n{describe(folder, checkpoint)}'
    for name in SHARED:
        text += f'[[part]]\nname = "{name}"\n{describe(folder, name)}'
    text += f'[[part]]\nname = "Phi-2"\n{describe(pinned_phi or folder, FUSED)}'
    path.write_text(text + describe(folder, INDEX))
    return read_catalog(path)


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Opens a server of one repository and points the hub's library at it."""
    servers = []

    def open_server(folder):
        server = HubServer({"someone/sources": folder}, folder.parent)
        servers.append(server.__enter__())
        point_at(monkeypatch, server.url, tmp_path)
        return server

    yield open_server
    for server in servers:
        server.__exit__()


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    return str(tmp_path / "cat.png")


def read_numbers(folder):
    """Every file of a variant but the manifest, which names the sources."""
    names = [entry.path for entry in read_variant(folder).manifest.files]
    return {name: (folder / name).read_bytes() for name in names}


@needs_golden
@pytest.mark.parametrize("case", CASES)
def test_pulled_then_quantised_gives_the_golden_answer(case, own_home, serve, tmp_path, capsys):
    golden = read_golden_case(case)
    stage = 4 if case == "stage4" else 3
    serve(GOLDEN / case)
    catalog = write_list(tmp_path / "list.toml", GOLDEN / case, stage)
    pull_weights(PullArguments(stage=stage), catalog, QUICK)
    assert main(["quantize", "--bits", "32", "-q", "-t", "1"]) == 0
    first = golden.turns[0]
    words = [str(golden.folder / "image.png"), first["question"], "--json", "-n", "24"]
    capsys.readouterr()
    assert main(["ask", *words, "--template", golden.facts["template"]]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == first["greedy_ids"]


def test_fused_and_split_give_the_same_variant(own_home, serve, tmp_path, capsys):
    fused = write_tiny(tmp_path / "fused", seed=3)
    split = write_tiny(
        tmp_path / "split", seed=3, phi_layout="split", container="safetensors-sharded"
    )
    made = []
    for folder in (fused, split):
        serve(folder)
        catalog = write_list(tmp_path / "list.toml", folder, 4, pinned_phi=fused)
        target = tmp_path / f"pulled-{folder.name}"
        pull_weights(PullArguments(to=str(target)), catalog, QUICK)
        words = ["quantize", "--sources", str(target), "-o", folder.name, "-q", "-t", "1"]
        assert main(words) == 0
        made.append(read_numbers(own_home / "variants" / folder.name))
    assert made[0] == made[1]
    assert (tmp_path / "pulled-split" / INDEX).is_file()
    assert not (tmp_path / "pulled-split" / FUSED).exists()


def test_a_finished_variant_answers_without_its_sources(
    own_home, serve, tiny_model, picture, capsys
):
    serve(tiny_model)
    pull_weights(PullArguments(variant="someone/sources", to="shared"), retry_policy=QUICK)
    assert read_numbers(own_home / "variants/shared") == read_numbers(tiny_model)
    capsys.readouterr()
    answers = []
    for model in ("shared", str(tiny_model)):
        assert main(["ask", picture, "what?", "-m", model, "-n", "6", "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out)["tokens"])
    assert answers[0] == answers[1]


@pytest.fixture
def resaved(tmp_path):
    """(list, attic): sources that someone saved again, under other names."""
    published = write_tiny(tmp_path / "published", seed=5)
    catalog = write_list(tmp_path / "list.toml", published, 4)
    attic = tmp_path / "attic"
    attic.mkdir()
    for name, odd in (
        ("TinyGPT-V_for_Stage4.pth", "mine.pth"),
        ("eva_vit_g.pth", "vit.pt"),
        ("blip2_pretrained_flant5xxl.pth", "qf.bin"),
    ):
        content = torch.load(published / name, weights_only=True)
        torch.save(content, attic / odd)
        assert (attic / odd).read_bytes() != (published / name).read_bytes()
    phi = torch.load(published / FUSED, weights_only=True)
    save_file({name: t.contiguous() for name, t in phi.items()}, attic / "phi.safetensors")
    for name in ("phi-2/config.json", "phi-2/tokenizer.json", "architecture.json"):
        shutil.copy(published / name, attic / Path(name).name)
    torch.save({"something": torch.zeros(3)}, attic / "other.pth")
    (attic / "broken.pth").write_bytes(b"PK\x03\x04 no file")
    return catalog, attic


def test_files_that_were_saved_again_are_told_by_their_tensors(own_home, resaved, picture, capsys):
    catalog, attic = resaved
    pull_weights(PullArguments(from_=str(attic)), catalog, QUICK)
    assert "told by its tensors" in capsys.readouterr().err
    assert (own_home / "sources/phi-2/model.safetensors").is_file()
    pull_weights(PullArguments(verify=True), catalog, QUICK)
    pull_weights(PullArguments(offline=True), catalog, QUICK)
    assert main(["quantize", "-o", "mine", "-q", "-t", "1"]) == 0
    assert main(["ask", picture, "what?", "-m", "mine", "-n", "3"]) == 0


def test_a_file_that_lacks_a_tensor_is_not_used(own_home, resaved, capsys):
    catalog, attic = resaved
    content = torch.load(attic / "vit.pt", weights_only=True)
    del content["blocks.0.norm1.weight"]
    torch.save(content, attic / "vit.pt")
    with pytest.raises(WeightsError, match=r"blocks\.0\.norm1\.weight"):
        pull_weights(PullArguments(from_=str(attic)), catalog, QUICK)
    assert not (own_home / "sources/eva_vit_g.pth").exists()


def test_files_that_do_not_belong_together_are_refused_each_time_and_left_nowhere(
    own_home, resaved, tmp_path, capsys
):
    """Seen in: nfs-ganesha, issue 4: between two links of one file a rename does nothing."""
    catalog, attic = resaved
    whole = torch.load(attic / "vit.pt", weights_only=True)
    cut = {name: tensor[..., :-1].contiguous() for name, tensor in whole.items()}
    torch.save(cut, attic / "vit.pt")
    sources = own_home / "sources"
    for _ in range(3):
        with pytest.raises(WeightsError, match=r"eva_vit_g\.pth"):
            pull_weights(PullArguments(from_=str(attic)), catalog, QUICK)
        names = {path.relative_to(sources).as_posix() for path in sources.rglob("*")}
        assert not names & {"eva_vit_g.pth", "phi-2/model.safetensors", "phi-2/config.json"}
    torch.save(whole, attic / "vit.pt")
    pull_weights(PullArguments(from_=str(attic)), catalog, QUICK)
    pull_weights(PullArguments(verify=True), catalog, QUICK)
    assert main(["quantize", "--bits", "8", "-o", "mine", "-q", "-t", "1"]) == 0


def test_a_file_that_does_not_belong_to_what_the_hub_has_is_found_out_and_fetched(
    own_home, resaved, serve, tmp_path
):
    catalog, attic = resaved
    serve(tmp_path / "published")
    whole = torch.load(attic / "vit.pt", weights_only=True)
    (tmp_path / "other").mkdir()
    torch.save({n: t[..., :-1].contiguous() for n, t in whole.items()}, tmp_path / "other/vit.pt")
    with pytest.raises(WeightsError, match="does not hold"):
        pull_weights(PullArguments(from_=str(tmp_path / "other")), catalog, QUICK)
    with pytest.raises(WeightsError, match=r"eva_vit_g\.pth"):
        pull_weights(PullArguments(), catalog, QUICK)
    pull_weights(PullArguments(), catalog, QUICK)
    published = (tmp_path / "published/eva_vit_g.pth").read_bytes()
    assert (own_home / "sources/eva_vit_g.pth").read_bytes() == published
    assert main(["quantize", "--bits", "8", "-o", "mine", "-q", "-t", "1"]) == 0


def test_of_two_configs_the_one_beside_weights_that_were_saved_again_is_taken(
    own_home, resaved, tmp_path
):
    catalog, attic = resaved
    (attic / "a").mkdir()
    (attic / "a/config.json").write_text('{"model_type": "phi", "hidden_size": 99}')
    pull_weights(PullArguments(from_=str(attic)), catalog, QUICK)
    taken = own_home / "sources/phi-2/config.json"
    assert taken.read_bytes() == (attic / "config.json").read_bytes()


def test_nothing_is_unpickled_from_the_users_files(own_home, resaved, tmp_path):
    catalog, attic = resaved
    witness = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (witness,))

    torch.save({"cls_token": Evil(), "patch_embed.proj.weight": Evil()}, attic / "vit.pt")
    with pytest.raises(WeightsError, match=r"eva_vit_g\.pth"):
        pull_weights(PullArguments(from_=str(attic)), catalog, QUICK)
    assert not witness.exists()
