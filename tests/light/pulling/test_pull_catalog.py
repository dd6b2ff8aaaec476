"""The list of public files: what comes with tinyv, and lists that cannot be."""

import pytest

from tests.light.pulling.toy_hub import QFORMER, VISION
from tests.light.weights.toy_sources import (
    FUSED_FILES,
)
from tinyv_cli.errors import WeightsError
from weights.pulling.catalog import read_catalog
from weights.reading.sources import STAGES


def test_the_list_that_comes_with_tinyv_has_all_stages_and_the_hashes_that_are_known():
    catalog = read_catalog()
    for stage in STAGES:
        paths = [p.forms[0].files[0].path for p in catalog.list_parts(stage)]
        assert paths[0] == f"TinyGPT-V_for_Stage{stage}.pth"
        assert paths[1:] == [QFORMER, VISION, *FUSED_FILES[3:]]
    pinned = [file for file in catalog.list_files() if file.sha256]
    assert len(pinned) == 7
    assert all(file.origins for file in catalog.list_files())
    certain = {o.label for f in pinned for o in f.origins if o.certain}
    assert {"Tyrannosaurus/TinyGPT-V @ main", "susnato/phi-2 @ f3d2d295eea9"} < certain
    # LAVIS's own loader names these two; what other people's instructions name stays doubtful.
    bucket = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
    assert {label for label in certain if label.startswith(bucket)} == {
        f"{bucket}{name}" for name in (QFORMER, VISION)
    }
    doubted = {o.label for file in catalog.list_files() for o in file.origins if not o.certain}
    assert {label.partition(" ")[0] for label in doubted} == {
        "ckpt/minigpt4",
        "lainxx/eva_vit_g",
        "microsoft/phi-2",  # the index of its shards
    }


@pytest.mark.parametrize(
    "line",
    [
        'path = "../out"\norigins = [{ url = "https://a/b" }]',
        'path = "/abs"\norigins = [{ url = "https://a/b" }]',
        'path = "a"\norigins = [{ url = "file:///etc/passwd" }]',
        'path = "a"\norigins = [{ certain = true }]',
        'path = "a"\nsha256 = "abc"\norigins = [{ url = "https://a/b" }]',
        'path = "a"\ncolour = 1\norigins = [{ url = "https://a/b" }]',
        'path = "a"\norigins = []',
    ],
)
def test_a_list_that_cannot_be_is_refused(tmp_path, line):
    path = tmp_path / "list.toml"
    path.write_text(f'[[part]]\nname = "a"\n[[part.form]]\n[[part.form.file]]\n{line}\n')
    with pytest.raises(WeightsError):
        read_catalog(path)
