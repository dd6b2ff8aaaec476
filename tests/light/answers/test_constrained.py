import json

import jsonschema
import numpy as np
import pytest

from tests.light.toy_decoder import ScriptedDecoder, ToyDecoder
from tests.light.toy_tokenizer import make_tokenizer
from tinyv_cli.answers.constrained import (
    make_choice_grammar,
    make_schema_grammar,
    read_schema,
    split_choices,
)
from tinyv_cli.answers.generate import Rules, generate
from tinyv_cli.answers.sampling import Sampler, SamplingOptions
from tinyv_cli.errors import DeviceError, InputError, UsageError

STOP_IDS = {257, 258, 262}  # ###, ` ###` and <|endoftext|> of the toy tokenizer
PAIR = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"type": "integer", "minimum": 100}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def run(tokenizer, grammar, decoder, n=40, prompt=(1,), **sampling):
    """Text, why it ends, and its tokens."""
    sampler = Sampler(SamplingOptions(**sampling))
    steps = generate(decoder, [prompt], Rules(sampler, STOP_IDS, n, grammar.start()))
    ids = []
    while True:
        try:
            ids += next(steps).tokens
        except StopIteration as end:
            return tokenizer.decode(ids), end.value, ids


def make_grammar(tokenizer, schema):
    return make_schema_grammar(tokenizer, json.dumps(schema))


class Wishful(ToyDecoder):
    """Likes the tokens of a text in their order, whatever was taken, and all others equally."""

    def __init__(self, wishes):
        super().__init__(300)
        self._wishes = dict(enumerate(wishes))
        self._n_prompt = None

    def compute_logits(self):
        self._n_prompt = self._n_prompt or self.length
        logits = np.zeros(300, np.float32)
        logits[self._wishes.get(self.length - self._n_prompt, 262)] = 9
        return logits


# Choices


@pytest.mark.parametrize("text", ["a", "ab", "abc"])
def test_a_choice_that_begins_another_can_be_chosen_and_so_can_the_other(tokenizer, text):
    grammar = make_choice_grammar(tokenizer, ["a", "ab", "abc"])
    decoder = Wishful([*text.encode(), 262])
    assert run(tokenizer, grammar, decoder)[:2] == (text, "stop")


def test_what_is_likely_but_no_choice_is_passed_over_for_the_best_that_is(tokenizer):
    grammar = make_choice_grammar(tokenizer, ["cat", "cow", "dog"])
    assert run(tokenizer, grammar, Wishful(b"cx"))[0] == "cat"  # of `a` and `o` the first
    assert run(tokenizer, grammar, Wishful(b"co"))[0] == "cow"
    assert run(tokenizer, grammar, Wishful([261]))[0] == " cat"  # one space before it may be


def test_an_answer_that_nothing_can_follow_ends_without_another_pass(tokenizer):
    decoder = ScriptedDecoder([*b"dog"])
    assert run(tokenizer, make_choice_grammar(tokenizer, ["dog"]), decoder)[:2] == ("dog", "stop")
    assert decoder.length == 1, "what is forced is not computed either"


def test_what_a_schema_forces_goes_through_in_one_pass(tokenizer):
    schema = {
        "type": "object",
        "properties": {"first key": {"type": "boolean"}, "second key": {"type": "boolean"}},
        "required": ["first key", "second key"],
        "additionalProperties": False,
    }
    constraint = make_grammar(tokenizer, schema).start()
    decoder = Wishful(b'{"first key": true, "second key": false}')
    steps = list(
        generate(decoder, [(1,)], Rules(Sampler(SamplingOptions()), STOP_IDS, 60, constraint))
    )
    text = tokenizer.decode([token for each in steps for token in each.tokens])
    assert text == '{"first key": true, "second key": false}'
    assert len(steps) == 3, "before the first value, between the two, and after the second"
    assert steps[-1].is_last


def test_forced_text_leaves_room_for_what_has_to_follow(tokenizer):
    grammar = make_grammar(tokenizer, PAIR)
    for n in range(19, 40):
        text, _, ids = run(tokenizer, grammar, Wishful(b'{"a": "' + b"x" * 90), n=n)
        assert len(ids) <= n
        assert set(json.loads(text)) == {"a", "b"}


def test_random_choices_are_choices_at_any_length(tokenizer):
    choices = ["a", "ab", "abc", "über", "日本", "C++ (x|y)", "é日", "what ### is", "a.b\\c"]
    grammar = make_choice_grammar(tokenizer, choices)
    seen = set()
    for seed in range(150):
        n = 1 + seed % 12
        decoder = ToyDecoder(tokenizer.vocab_size)
        text, _, ids = run(tokenizer, grammar, decoder, n, (seed,), temperature=seed % 3, seed=seed)
        assert text.removeprefix(" ") in choices
        assert len(ids) <= n
        seen.add(text.removeprefix(" "))
    assert len(seen) > 4


def test_choices_that_do_not_fit_are_refused_before_the_prompt_is_computed(tokenizer):
    decoder = ToyDecoder()
    grammar = make_choice_grammar(tokenizer, ["zebra", "tiger!"])
    with pytest.raises(InputError, match="takes 5 tokens, there is room for 4") as caught:
        run(tokenizer, grammar, decoder, n=4)
    assert "-n 10" in caught.value.hint
    assert decoder.n_computed == 0


def test_the_context_bounds_an_answer_as_n_does(tokenizer):
    grammar = make_choice_grammar(tokenizer, ["zebra"])
    decoder = ToyDecoder(context_length=6)
    assert run(tokenizer, grammar, decoder, prompt=(1, 2))[0] == "zebra"
    with pytest.raises(InputError, match="room for 4"):
        run(tokenizer, grammar, ToyDecoder(context_length=6), prompt=(1, 2, 3))


def test_choices_are_split_at_commas():
    assert split_choices("yes, no ,don't know") == ("yes", "no", "don't know")
    for text in ("", "a,,b", ",", "a,b,a", " "):
        with pytest.raises(UsageError):
            split_choices(text)


# Schemas


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": ["cat", 'a "dog"', 3, None, {"x": [1]}]},
        PAIR,
        {"type": "array", "items": {"type": "number"}, "minItems": 2},
        {"type": "object"},
        {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
        {"type": "string", "format": "date-time"},
        {"type": "string", "minLength": 5, "maxLength": 7},
        {"type": "integer", "multipleOf": 7, "minimum": 30, "maximum": 1000},
        {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/x"}], "$defs": {"x": {"const": [1, "é"]}}},
        {"allOf": [PAIR | {"additionalProperties": True}, {"required": ["b"]}]},
        {},
    ],
    ids=str,
)
def test_random_answers_validate_at_any_length(tokenizer, schema):
    grammar = make_grammar(tokenizer, schema)
    n_cut = 0
    for seed in range(30):
        n = (35, 50, 80)[seed % 3]
        decoder = ToyDecoder(tokenizer.vocab_size)
        text, reason, ids = run(
            tokenizer, grammar, decoder, n, (seed,), temperature=seed % 2 * 2, seed=seed
        )
        jsonschema.validate(json.loads(text), schema)
        assert len(ids) <= n
        n_cut += reason == "length"
    assert n_cut > 0 or schema != PAIR


def test_an_answer_without_an_end_is_brought_to_one_and_told_as_cut(tokenizer):
    grammar = make_grammar(tokenizer, PAIR)
    text, reason, ids = run(tokenizer, grammar, Wishful(b'{"a": "' + b"x" * 90), n=40)
    assert reason == "length"
    assert json.loads(text) == {"a": "x" * len(json.loads(text)["a"]), "b": 100}
    assert len(json.loads(text)["a"]) > 10
    assert len(ids) == 40


def test_an_answer_with_room_to_spare_is_left_alone(tokenizer):
    said = '{"a": "x\\"]}", "b": 123}'
    grammar = make_grammar(tokenizer, PAIR)
    ids = [*said.encode()]
    assert run(tokenizer, grammar, Wishful(ids), n=60) == (said, "stop", ids)


def test_a_whole_answer_that_would_go_on_past_its_room_ends_there(tokenizer):
    grammar = make_grammar(tokenizer, {"type": "integer"})
    assert run(tokenizer, grammar, Wishful(b"1" * 9), n=4)[:2] == ("1111", "length")
    grammar = make_grammar(tokenizer, {"type": "number"})
    assert run(tokenizer, grammar, Wishful(b"12.5"), n=3)[:2] == ("12", "length")


def test_a_stop_id_inside_a_text_is_not_taken_for_an_end(tokenizer):
    wishes = [*b'"a', 258, *b"b", 257, *b'"']
    text, reason, _ = run(tokenizer, make_grammar(tokenizer, {"type": "string"}), Wishful(wishes))
    assert json.loads(text)[0] == "a"
    assert reason == "stop"


def test_a_choice_that_holds_a_stop_mark_is_said_whole(tokenizer):
    for choice in ("what ### is", "###", "a###"):
        grammar = make_choice_grammar(tokenizer, [choice])
        assert run(tokenizer, grammar, Wishful([262] * 20))[0].strip() == choice


def test_a_character_in_pieces_is_completed(tokenizer):
    for n in range(3, 9):
        wishes = '"日本日本'.encode()
        grammar = make_grammar(tokenizer, {"type": "string"})
        text, reason, ids = run(tokenizer, grammar, Wishful(wishes), n=n)
        assert isinstance(json.loads(text), str)
        assert (reason, len(ids) <= n) == ("length", True)


def test_what_cannot_be_brought_to_an_end_is_refused_at_the_end(tokenizer):
    endless = {"type": "string", "pattern": "^(a|q)*xyz!$"}
    with pytest.raises(InputError, match="did not come to its end within 12 tokens") as caught:
        run(tokenizer, make_grammar(tokenizer, endless), Wishful(b'"' + b"q" * 90), n=12)
    assert "-n 24" in caught.value.hint


def test_a_grammar_can_be_begun_again(tokenizer):
    grammar = make_choice_grammar(tokenizer, ["yes", "no"])
    for said in ("yes", "no", "yes"):
        assert run(tokenizer, grammar, Wishful(said.encode()))[0] == said


def test_a_network_with_more_ids_than_tokens_is_kept_to_tokens(tokenizer):
    decoder = ScriptedDecoder([51199, 51199, 51199])
    assert run(tokenizer, make_choice_grammar(tokenizer, ["ab"]), decoder)[0].strip() == "ab"


def test_a_broken_network_is_told_as_without_a_grammar(tokenizer):
    class Broken(ToyDecoder):
        def compute_logits(self):
            return np.full(300, np.nan, np.float32)

    with pytest.raises(DeviceError):
        run(tokenizer, make_choice_grammar(tokenizer, ["ab"]), Broken())


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "strin"}, "strin"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "Unsatisfiable"),
        ({"$ref": "http://127.0.0.1:1/x"}, "does not fetch"),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_kept_to_is_refused(tokenizer, schema, reason):
    with pytest.raises(InputError, match=reason) as caught:
        make_grammar(tokenizer, schema)
    assert "\n" not in caught.value.problem


def test_a_schema_is_read_from_a_file_or_from_the_word_itself(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text('{"type": "string"}')
    assert read_schema(str(path)) == read_schema('{"type": "string"}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    for word in ("{", str(tmp_path / "none.json"), str(tmp_path), '{"a": }', "x" * 5000, "a\0b"):
        with pytest.raises(InputError):
            read_schema(word)
    for name in ("list.json", "bytes.json"):
        with pytest.raises(InputError, match=name):
            read_schema(str(tmp_path / name))
