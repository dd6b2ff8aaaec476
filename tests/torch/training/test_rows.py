"""Questions that share a picture in one row are learnt as if each stood alone."""

import pytest
import torch

from tests.torch.quantize.tiny_sources import write_tiny
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.model.phi import Layout
from tinyv_cli.model.tinygptv import load_model
from tinyv_cli.prompts.prompt import TEMPLATES, Turn, make_prompt
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources
from weights.training.language.dialogues import Dialogue
from weights.training.learning.rows import Branch, Row, compute_answer_loss, tokenize

N_IMAGE = 5
SHORT = Dialogue((), "[vqa] what?", "the image")
LONG = Dialogue((Turn("what is the image?", "the image"),), "why?", "of what is of the image")
OTHER = Dialogue((), "is the image of what?", "is")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("rows") / "sources", 1)


@pytest.fixture(scope="module")
def tokenizer(sources) -> Tokenizer:
    return Tokenizer(sources / "phi-2" / "tokenizer.json")


@pytest.fixture(scope="module")
def language(sources):
    with open_weights(resolve_sources(sources)) as weights:
        return load_model(weights.spec, weights.read).language


def make_images(language, n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, N_IMAGE, language.spec.width, generator=generator)


def compute_alone(language, image, row: Row, branch: Branch) -> tuple[torch.Tensor, int]:
    """The loss of one answer by the plain forward pass, and its number of tokens."""
    embed = language.embed_tokens
    rest = torch.tensor([*branch.given, *branch.answer])
    text = torch.cat([embed(torch.tensor(row.before)), image, embed(rest)])
    n = len(branch.answer)
    logits = language(text[None])[0, -n - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(branch.answer)), n


def test_a_row_of_one_is_the_plain_loss(language, tokenizer):
    row = tokenize([SHORT], tokenizer, "human-system")
    images = make_images(language, 1)
    alone, n = compute_alone(language, images[0], row, row.branches[0])
    assert n == len(tokenizer.encode("the image")) + 1
    loss = compute_answer_loss(language, images, [row])
    torch.testing.assert_close(loss, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("template", TEMPLATES)
def test_rows_of_several_are_the_mean_of_each_alone(template, language, tokenizer):
    rows = [
        tokenize([SHORT, LONG, OTHER], tokenizer, template),
        tokenize([LONG], tokenizer, template),
    ]
    images = make_images(language, 2)
    pairs = [
        compute_alone(language, image, row, branch)
        for image, row in zip(images, rows, strict=True)
        for branch in row.branches
    ]
    expected = sum(loss * n**0.5 for loss, n in pairs) / sum(n**0.5 for _, n in pairs)
    loss = compute_answer_loss(language, images, rows)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    turned = compute_answer_loss(language, images.flip(0), rows[::-1])
    torch.testing.assert_close(turned, loss, rtol=1e-5, atol=1e-5)


def test_the_loss_reaches_every_image_token(language, tokenizer):
    images = make_images(language, 1).requires_grad_()
    compute_answer_loss(language, images, [tokenize([OTHER, SHORT], tokenizer, "inst")]).backward()
    assert (images.grad.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_row_is_laid_out_as_the_prompt_is_when_asked(template, tokenizer):
    row = tokenize([LONG, SHORT], tokenizer, template)
    end = tokenizer.find_special("<|endoftext|>")
    assert row.before[0] == end
    assert all(end not in branch.answer for branch in row.branches)
    for branch, dialogue in zip(row.branches, (LONG, SHORT), strict=True):
        before, after = make_prompt(TEMPLATES[template], dialogue.turns, dialogue.question).pieces
        assert list(branch.given) == tokenizer.encode(after)
        assert tokenizer.decode(branch.answer) == f"{dialogue.answer}###"
        assert list(row.before)[-len(tokenizer.encode(before)) :] == tokenizer.encode(before)


def test_a_layout_that_says_nothing_new_changes_nothing(language):
    embeddings = make_images(language, 2)
    places = torch.arange(N_IMAGE)[None].expand(2, -1)
    mask = torch.ones(N_IMAGE, N_IMAGE, dtype=torch.bool).tril().expand(2, 1, -1, -1)
    laid_out = language.compute_hidden(embeddings, layout=Layout(places, mask))
    torch.testing.assert_close(laid_out, language.compute_hidden(embeddings), rtol=1e-5, atol=1e-5)
