"""The benchmarks as data: prompts to the letter, slips included, and what was published of them."""

from dataclasses import dataclass

from tinyv_cli.prompts.prompt import TEMPLATES, Template

MAX_NEW_TOKENS = 20  # the published scripts' longest answer; nothing but the end id ends it before
END_MARK = "###"  # stands behind a choice that is ranked, as in training

# Source: TinyGPT-V's `eval_scripts`, April 2024. Nothing stands before the first `###`.
_GENERATED = TEMPLATES["human"]
# Ranking goes through training's own path: the end id first, a blank before the second mark.
_RANKED = Template("human-ranked", "<|endoftext|>", "###Human: ", " ###Assistant: ")

_SHORT_ANSWER = "[vqa] Based on the image, respond to this question with a short answer: {question}"
_ONE_WORD = "{question}\nAnswer the question using a single word or phrase."  # lmms-eval 0.7.3


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: of `--benchmark`.
        prompt: with `{question}` where the question goes.
        template: of the text around it.
        published: the paper's figure in per cent, None where it has none.
        ranks: whether choices are ranked by their loss, and no text is generated.
        words: texts whose likelihood as the first token is wanted beside the answer.
    """

    name: str
    prompt: str
    template: Template = _GENERATED
    published: float | None = None
    ranks: bool = False
    words: tuple[str, ...] = ()

    def write_prompt(self, question: str) -> str:
        """Writes the prompt of a question."""
        return self.prompt.replace("{question}", question)


BENCHMARKS = {
    each.name: each
    for each in (
        Benchmark("gqa", _SHORT_ANSWER, published=38.9),
        Benchmark(
            "vsr",
            "[vqa] Based on the image, is this statement true or false? {question}",
            published=54.7,
        ),
        Benchmark("iconqa", _SHORT_ANSWER, _RANKED, published=44.7, ranks=True),
        Benchmark(
            "vizwiz",
            "[vqa] The question is '{question}' Based on the image, answer the question with a "
            "single word or phrase. and reply 'unanswerable' when the provided information is "
            "insufficient",
            published=37.8,
        ),
        Benchmark(
            "hateful-memes",
            "This is an image writting '{question}'. Is this image hateful? Answer yes or no. "
            "Answer:",
            published=54.0,
            words=("yes", "no"),
        ),
        Benchmark("okvqa", _SHORT_ANSWER),
        Benchmark("refcoco", "[refer] give me the location of {question}"),
        Benchmark("refcoco+", "[refer] give me the location of {question}"),
        Benchmark("refcocog", "[refer] give me the location of {question}"),
        Benchmark("pope", _ONE_WORD),
        Benchmark("mme", _ONE_WORD),
    )
}

# Source: MME's own table of its categories.
MME_CATEGORIES = {
    "perception": (
        *("existence", "count", "position", "color", "posters", "celebrity", "scene"),
        *("landmark", "artwork", "OCR"),
    ),
    "cognition": (
        *("commonsense_reasoning", "numerical_calculation", "text_translation"),
        "code_reasoning",
    ),
}
