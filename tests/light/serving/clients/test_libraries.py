"""The libraries that people ask local models with, as they come from the registry.

Each lists models, asks about a picture at once and as a stream, goes on with a conversation, asks
for a form and a stop, and meets a wrong key, a model that is not there, a picture that is none, and
its own leaving. What `tinyv ask` answers to the same is what all of them have to hear.
"""

import gc
import json
from base64 import b64decode

import jsonschema
import pytest

from tests.light.serving.clients.asking import (
    AS_THEY_COME,
    BROKEN,
    FORM,
    KEY,
    LONG_FORM,
    NAME,
    QUESTION,
    SCHEMA,
    leaving,
)
from tests.light.serving.served import ENCODED, EXAMPLES, LONG, URLS, ask_of

pytestmark = AS_THEY_COME


class TestOpenai:
    @pytest.fixture
    def openai(self, keyed):
        library = pytest.importorskip("openai")
        with library.OpenAI(base_url=f"{keyed.url}/v1", api_key=KEY, max_retries=0) as client:
            yield client

    def ask(self, openai, name=NAME, question=QUESTION, **options):
        messages = ask_of(name, question)["messages"]
        options = {"model": "miniature", **options}
        return openai.chat.completions.create(messages=messages, **options)

    def test_it_asks(self, openai, expected):
        assert [each.id for each in openai.models.list()] == ["miniature"]
        assert openai.models.retrieve("miniature").object == "model"
        whole = self.ask(openai)
        assert whole.choices[0].message.content == expected
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        chunks = list(self.ask(openai, stream=True, stream_options={"include_usage": True}))
        assert "".join(e.choices[0].delta.content or "" for e in chunks if e.choices) == expected
        assert chunks[-1].usage == whole.usage.model_copy(
            update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}
        )

    def test_it_goes_on_and_keeps_to_forms_and_stops(self, openai, expected):
        messages = ask_of(NAME, QUESTION)["messages"]
        messages += [{"role": "assistant", "content": expected}]
        messages += [{"role": "user", "content": "[vqa] how many apples are there?"}]
        answer = openai.chat.completions.create(model="miniature", messages=messages)
        assert answer.choices[0].message.content
        whole = self.ask(openai, response_format=FORM)
        jsonschema.validate(json.loads(whole.choices[0].message.content), SCHEMA)
        first, second = expected.split()[:2]
        stopped = self.ask(openai, stop=f" {second}").choices[0].message.content
        assert stopped == first

    def test_it_parses_models_of_pydantic(self, openai):
        pydantic = pytest.importorskip("pydantic")

        class Count(pydantic.BaseModel):
            """A number of things."""

            n: int = pydantic.Field(ge=0, le=9)
            sure: bool

        messages = ask_of(NAME, "how many?")["messages"]
        parsed = openai.chat.completions.parse(
            model="miniature", messages=messages, response_format=Count
        )
        assert 0 <= parsed.choices[0].message.parsed.n <= 9
        helped = openai.responses.parse(model="miniature", input="how many?", text_format=Count)
        assert 0 <= helped.output_parsed.n <= 9

    def test_it_reads_responses(self, openai, expected):
        parts = [
            {"type": "input_image", "image_url": URLS[NAME]},
            {"type": "input_text", "text": QUESTION},
        ]
        asked = {"model": "miniature", "input": [{"role": "user", "content": parts}]}
        assert openai.responses.create(**asked).output_text == expected
        with openai.responses.stream(**asked) as stream:
            said = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
            assert said == expected
            assert stream.get_final_response().output_text == expected

    def test_it_hears_why_there_is_no_answer(self, openai, keyed):
        import openai as library

        with pytest.raises(library.NotFoundError, match="not found"):
            self.ask(openai, model="gpt-5")
        url = f"data:image/png;base64,{BROKEN}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}]
        with pytest.raises(library.BadRequestError, match="damaged"):
            openai.chat.completions.create(
                model="miniature", messages=[{"role": "user", "content": content}]
            )
        with (
            library.OpenAI(base_url=f"{keyed.url}/v1", api_key="wrong", max_retries=0) as other,
            pytest.raises(library.AuthenticationError, match="key"),
        ):
            other.models.list()

    def test_it_leaves(self, openai, keyed):
        with leaving(keyed):
            stream = self.ask(openai, response_format=LONG_FORM, max_tokens=1900, stream=True)
            next(iter(stream))
            stream.close()


class TestOllama:
    @pytest.fixture
    def ollama(self, keyed):
        library = pytest.importorskip("ollama")
        return library.Client(keyed.url, headers={"authorization": f"Bearer {KEY}"})

    def ask(self, ollama, **options):
        options = {"model": "miniature", "prompt": QUESTION, **options}
        return ollama.generate(images=[b64decode(ENCODED[NAME])], **options)

    def test_it_asks(self, ollama, expected):
        assert [each.model for each in ollama.list().models] == ["miniature:latest"]
        assert "vision" in ollama.show("miniature").capabilities
        whole = self.ask(ollama, options={"num_predict": -1, "num_ctx": 8192}, keep_alive=-1)
        assert whole.response == expected
        assert whole.done_reason == "stop"
        assert "".join(each.response for each in self.ask(ollama, stream=True)) == expected
        assert [each.model for each in ollama.ps().models] == ["miniature:latest"]

    def test_it_talks_and_keeps_to_forms_and_stops(self, ollama, expected):
        picture = str(EXAMPLES / f"{NAME}.png")
        messages = [{"role": "user", "content": QUESTION, "images": [picture]}]
        first = ollama.chat(model="miniature", messages=messages)
        assert first.message.content == expected
        messages += [first.message, {"role": "user", "content": "[vqa] how many apples are there?"}]
        pieces = list(ollama.chat(model="miniature", messages=messages, stream=True))
        assert pieces[-1].done
        assert "".join(each.message.content for each in pieces)
        jsonschema.validate(json.loads(self.ask(ollama, format=SCHEMA).response), SCHEMA)
        start, second = expected.split()[:2]
        assert self.ask(ollama, options={"stop": [f" {second}"]}).response == start
        assert ollama.pull("miniature").status == "success"

    def test_it_hears_why_there_is_no_answer(self, ollama, keyed):
        import ollama as library

        with pytest.raises(library.ResponseError, match="not found") as failed:
            ollama.chat(model="llava", messages=[{"role": "user", "content": "x"}])
        assert failed.value.status_code == 404
        with pytest.raises(library.ResponseError, match="damaged"):
            ollama.generate(model="miniature", prompt="what?", images=[b64decode(BROKEN)])
        with pytest.raises(library.ResponseError, match="key") as failed:
            library.Client(keyed.url).list()
        assert failed.value.status_code == 401

    def test_it_leaves(self, ollama, keyed):
        with leaving(keyed):
            stream = self.ask(ollama, format=LONG, options={"num_predict": 1900}, stream=True)
            next(iter(stream))
            stream.close()


class TestLitellm:
    @pytest.fixture
    def litellm(self):
        library = pytest.importorskip("litellm")
        library.telemetry = False
        library.num_retries = 0
        yield library
        library.in_memory_llm_clients_cache.flush_cache()  # it keeps its connections for ever
        gc.collect()

    @pytest.fixture(params=["openai", "ollama_chat", "ollama"])
    def route(self, request, keyed):
        base = f"{keyed.url}/v1" if request.param == "openai" else keyed.url
        options = {"api_base": base, "api_key": KEY, "model": f"{request.param}/miniature"}
        options["extra_headers"] = {"Authorization": f"Bearer {KEY}"}
        return options

    def test_it_asks(self, litellm, route, expected):
        messages = ask_of(NAME, QUESTION)["messages"]
        whole = litellm.completion(messages=messages, **route)
        assert whole.choices[0].message.content == expected
        assert whole.usage.prompt_tokens > 32
        pieces = litellm.completion(messages=messages, stream=True, **route)
        assert "".join(each.choices[0].delta.content or "" for each in pieces) == expected

    def test_it_goes_on(self, litellm, route, expected):
        messages = ask_of(NAME, QUESTION)["messages"]
        messages += [{"role": "assistant", "content": expected}]
        messages += [{"role": "user", "content": "[vqa] how many apples are there?"}]
        assert litellm.completion(messages=messages, **route).choices[0].message.content

    def test_it_leaves(self, litellm, route, keyed):
        """In a text: litellm keeps an object from its caller until it is whole."""
        schema = {"name": "long", "schema": LONG["properties"]["a"]}
        long = {"response_format": {"type": "json_schema", "json_schema": schema}}
        long |= {"max_tokens": 1900, "stream": True}
        messages = ask_of(NAME, QUESTION)["messages"]
        with leaving(keyed):
            stream = litellm.completion(messages=messages, **long, **route)
            while not next(stream).choices[0].delta.content:
                pass
            stream.close()

    def test_it_keeps_to_a_form_and_a_stop(self, litellm, route, expected):
        messages = ask_of(NAME, QUESTION)["messages"]
        whole = litellm.completion(messages=messages, response_format=FORM, **route)
        assert isinstance(json.loads(whole.choices[0].message.content), dict)
        first, second = expected.split()[:2]
        stopped = litellm.completion(messages=messages, stop=[f" {second}"], **route)
        assert stopped.choices[0].message.content == first

    def test_it_hears_why_there_is_no_answer(self, litellm, route):
        messages = ask_of(NAME, QUESTION)["messages"]
        kind = route["model"].partition("/")[0]
        with pytest.raises(Exception, match="not found"):
            litellm.completion(messages=messages, **{**route, "model": f"{kind}/llava"})
        url = f"data:image/png;base64,{BROKEN}"
        content = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": url}}]
        with pytest.raises(Exception, match="damaged"):
            litellm.completion(messages=[{"role": "user", "content": content}], **route)
        headers = {"Authorization": "Bearer wrong"}
        with pytest.raises(Exception, match="key"):
            litellm.completion(
                messages=messages, **{**route, "api_key": "wrong", "extra_headers": headers}
            )


class TestLangchain:
    @pytest.fixture(params=["openai", "ollama"])
    def chat(self, request, keyed):
        if request.param == "openai":
            library = pytest.importorskip("langchain_openai")
            return lambda model="miniature", key=KEY, **options: library.ChatOpenAI(
                base_url=f"{keyed.url}/v1", api_key=key, model=model, max_retries=0, **options
            )
        library = pytest.importorskip("langchain_ollama")

        def make(model="miniature", key=KEY, **options):
            headers = {"headers": {"Authorization": f"Bearer {key}"}}
            return library.ChatOllama(
                base_url=keyed.url, model=model, client_kwargs=headers, **options
            )

        return make

    def test_it_asks(self, chat, expected):
        messages = ask_of(NAME, QUESTION)["messages"]
        whole = chat().invoke(messages)
        assert whole.content == expected
        assert whole.usage_metadata["output_tokens"] > 0
        assert "".join(each.content for each in chat().stream(messages)) == expected
        messages += [{"role": "assistant", "content": expected}]
        messages += [{"role": "user", "content": "[vqa] how many apples are there?"}]
        assert chat().invoke(messages).content

    def test_it_keeps_to_a_form_and_a_stop(self, chat, expected):
        messages = ask_of(NAME, QUESTION)["messages"]
        schema = {"title": "count", "description": "a number", **SCHEMA}
        found = chat().with_structured_output(schema, method="json_schema").invoke(messages)
        jsonschema.validate(found, SCHEMA)
        first, second = expected.split()[:2]
        assert chat().invoke(messages, stop=[f" {second}"]).content.strip() == first

    def test_it_hears_why_there_is_no_answer(self, chat):
        messages = ask_of(NAME, QUESTION)["messages"]
        with pytest.raises(Exception, match="not found"):
            chat("llava").invoke(messages)
        with pytest.raises(Exception, match="key"):
            chat(key="wrong").invoke(messages)
        messages[0]["content"][0]["image_url"]["url"] = f"data:image/png;base64,{BROKEN}"
        with pytest.raises(Exception, match="damaged"):
            chat().invoke(messages)

    def test_it_leaves(self, chat, keyed):
        openai = {"max_tokens": 1900, "model_kwargs": {"response_format": LONG_FORM}}
        ollama = {"num_predict": 1900, "format": LONG}
        is_openai = "OpenAI" in type(chat()).__name__
        with leaving(keyed):
            asking = chat(**(openai if is_openai else ollama))
            stream = asking.stream(ask_of(NAME, QUESTION)["messages"])
            while not next(stream).content:
                pass
            stream.close()
