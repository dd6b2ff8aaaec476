"""OpenAI's dialect over a real connection, answered by the miniature."""

import json

import jsonschema
import pytest

from tests.light.serving.served import ENCODED, QUESTIONS, URLS, ask_of, read_events

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(("name", "question"), QUESTIONS)
def test_an_answer_is_that_of_ask_to_the_letter_streamed_or_not(client, said, name, question):
    expected = said[name, question]
    whole = client.post(CHAT, json=ask_of(name, question)).json()
    assert whole["choices"][0]["message"]["content"] == expected["answer"]
    assert whole["choices"][0]["finish_reason"] == expected["finish_reason"]
    assert whole["usage"]["completion_tokens"] == expected["usage"]["completion_tokens"]
    assert whole["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]
    response = client.post(CHAT, json=ask_of(name, question, stream=True))
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["x-accel-buffering"] == "no"
    *chunks, done = read_events(response)
    assert done == "[DONE]"
    deltas = [each["choices"][0]["delta"] for each in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(each.get("content", "") for each in deltas) == expected["answer"]
    reasons = [each["choices"][0]["finish_reason"] for each in chunks]
    assert reasons == [None] * (len(chunks) - 1) + [expected["finish_reason"]]
    assert all("usage" not in each for each in chunks)
    assert len({each["id"] for each in chunks}) == 1


def test_usage_comes_last_in_a_stream_where_it_is_asked_for(client):
    body = ask_of("cat", "what is this?", stream=True, stream_options={"include_usage": True})
    *chunks, usage, _ = read_events(client.post(CHAT, json=body))
    assert all(each["usage"] is None for each in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == sum(
        usage["usage"][key] for key in ("prompt_tokens", "completion_tokens")
    )


def test_models_are_listed_and_shown_under_each_of_their_names(client):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("miniature", "model", "tinyv")
    assert isinstance(model["created"], int)
    assert model["max_model_len"] == model["meta"]["n_ctx"] == 2048
    for name in ("miniature", "miniature:latest"):
        assert client.get(f"/v1/models/{name}").json() == model
        assert (
            client.post(CHAT, json=ask_of("cat", "what is this?", model=name)).json()["model"]
            == name
        )


@pytest.mark.parametrize("path", ["/chat/completions", "//v1//chat/completions/", CHAT + "/"])
def test_paths_are_tidied_without_a_redirect(client, path):
    response = client.post(path, content=json.dumps(ask_of("cat", "what is this?")))
    assert response.json()["choices"][0]["message"]["content"] == "a cat"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": URLS["cat"]},
        {"type": "image_url", "image_url": {"url": URLS["cat"], "detail": "low"}},
        {"type": "input_image", "image_url": URLS["cat"]},
        {"type": "image_url", "image_url": {"url": f"data:;base64,{ENCODED['cat']}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/heic;base64,{ENCODED['cat']}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png,{ENCODED['cat']}"}},
    ],
)
def test_a_picture_may_come_in_every_form_that_clients_send(client, part):
    content = [part, {"type": "text", "text": "\nwhat is this?\n\n"}]
    body = {"messages": [{"role": "user", "content": content}]}
    assert client.post(CHAT, json=body).json()["choices"][0]["message"]["content"] == "a cat"


def test_empty_values_are_values_that_were_not_given(client):
    nothing = {
        "tools": [],
        "stop": None,
        "response_format": {},
        "n": 1,
        "user": "me",
        "store": False,
    }
    nothing |= {"frequency_penalty": 0, "logit_bias": {}, "tool_choice": "none", "stop": []}
    nothing |= {"max_tokens": None, "temperature": None, "reasoning_effort": "low", "seed": 7}
    body = ask_of("cat", "what is this?", **nothing)
    assert client.post(CHAT, json=body).json()["choices"][0]["message"]["content"] == "a cat"


SCHEMA = {
    "title": "Thing",
    "type": "object",
    "properties": {
        "name": {"enum": ["cat", "dog"], "title": "Name"},
        "sure": {"$ref": "#/$defs/Sure"},
    },
    "required": ["name", "sure"],
    "additionalProperties": False,
    "$defs": {"Sure": {"type": "boolean", "description": "whether it is certain"}},
}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_keeps_to_a_schema(client, stream):
    form = {"type": "json_schema", "json_schema": {"name": "t", "schema": SCHEMA, "strict": True}}
    body = ask_of("cat", "what is this?", response_format=form, stream=stream)
    response = client.post(CHAT, json=body)
    if stream:
        text = "".join(
            each["choices"][0]["delta"].get("content", "") for each in read_events(response)[:-1]
        )
    else:
        text = response.json()["choices"][0]["message"]["content"]
    jsonschema.validate(json.loads(text), SCHEMA)


def test_an_answer_is_any_object_where_one_is_asked_for(client):
    body = ask_of("cat", "what?", response_format={"type": "json_object"}, max_tokens=40)
    text = client.post(CHAT, json=body).json()["choices"][0]["message"]["content"]
    assert isinstance(json.loads(text), dict)


def test_the_smaller_of_two_lengths_counts_and_is_told(client):
    body = ask_of("three-apples", "[caption] describe this image.", max_tokens=3)
    choice = client.post(CHAT, json={**body, "max_completion_tokens": 50}).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    usage = client.post(CHAT, json={**body, "max_completion_tokens": 2}).json()["usage"]
    assert usage["completion_tokens"] == 2


def test_an_answer_ends_before_a_stop_text(client, said):
    name, question = "three-apples", "[caption] describe this image."
    first, second = said[name, question]["answer"].split()[:2]
    body = ask_of(name, question, stop=["nowhere", f" {second}", "x", "y", "z"])
    assert client.post(CHAT, json=body).json()["choices"][0]["message"]["content"] == first


def test_a_conversation_goes_on_and_a_new_picture_begins_another(client, said):
    first = ask_of("cat", "what is this?")["messages"]
    client.post(CHAT, json={"messages": first})
    answer = {"role": "assistant", "content": "a cat"}
    turns = [*first, answer, {"role": "user", "content": "what colour is it?"}]
    whole = client.post(CHAT, json={"messages": turns}).json()
    n_first = said["cat", "what is this?"]["usage"]["prompt_tokens"]
    assert whole["usage"]["prompt_tokens"] > n_first + 5
    assert whole["usage"]["prompt_tokens_details"]["cached_tokens"] > 32
    question = "[vqa] how many apples are there?"
    other = [*turns, answer, *ask_of("three-apples", question)["messages"]]
    expected = said["three-apples", question]
    whole = client.post(CHAT, json={"messages": other}).json()
    assert whole["choices"][0]["message"]["content"] == expected["answer"]
    assert whole["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]


def test_what_a_system_says_is_part_of_the_prompt_behind_the_task(client, said):
    question = "[refer] where is the red car?"
    body = ask_of("car-and-tree", question)
    system = {"role": "system", "content": "Answer briefly."}
    whole = client.post(CHAT, json={"messages": [system, *body["messages"]]}).json()
    n_alone = said["car-and-tree", question]["usage"]["prompt_tokens"]
    assert whole["usage"]["prompt_tokens"] > n_alone
    assert whole["choices"][0]["message"]["content"].startswith("{<")


TEXT = {"role": "user", "content": "hello"}
BROKEN = "data:image/png;base64," + ENCODED["cat"][:400]


def picture(url):
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}]}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"messages": [TEXT], "model": "nothing"}, 404, "not found"),
        ({"messages": [TEXT], "model": "../../etc"}, 404, "not found"),
        ({"messages": []}, 400, "question"),
        ({"messages": [TEXT, {"role": "assistant", "content": "yes"}]}, 400, "question"),
        ({"messages": [{"role": "user", "content": "  "}]}, 400, "blank"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [TEXT], "n": 2}, 400, "`n`"),
        ({"messages": [TEXT], "logprobs": True}, 400, "logprobs"),
        ({"messages": [TEXT], "tools": [{"type": "function"}]}, 400, "tools"),
        ({"messages": [TEXT], "logit_bias": {"5": 1}}, 400, "logit_bias"),
        ({"messages": [TEXT], "temperature": -1}, 400, "temperature"),
        ({"messages": [TEXT], "temperature": 1e400}, 400, "temperature"),
        ({"messages": [TEXT], "top_p": 2}, 400, "top_p"),
        ({"messages": [TEXT], "max_tokens": 0}, 400, "max_tokens"),
        ({"messages": [TEXT], "max_tokens": 2.5}, 400, "max_tokens"),
        ({"messages": [TEXT], "response_format": {"type": "yaml"}}, 400, "type"),
        ({"messages": [TEXT], "response_format": {"type": "json_schema"}}, 400, "schema"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, 400, "type"),
        (picture(BROKEN), 400, "damaged"),
        (picture("data:image/png;base64,!!!!"), 400, "base64"),
        (picture("data:image/png;base64,aGVsbG8="), 400, "picture"),
        (picture("file:///etc/passwd"), 400, "picture"),
        (picture("http://169.254.169.254/latest/meta-data"), 400, "be fetched"),
        (picture("http://127.0.0.1:1/x.png"), 400, "be fetched"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, 400, "NUL"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, 400, "positions"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_answered_is_refused_in_the_dialect(client, body, status, words, stream):
    content = json.dumps({**body, "stream": stream}).replace("Infinity", "1e400")
    response = client.post(CHAT, content=content)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert words in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert "/work" not in response.text
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/completions", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", CHAT, 405),
        ("GET", "/v1/models/nothing", 404),
        ("GET", "/page.js/../../../../etc/passwd", 404),
        ("GET", "/..%2f..%2fetc/passwd", 404),
    ],
)
def test_other_paths_and_methods_are_refused_in_the_dialect(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["message"]
    assert ("allow" in response.headers) == (status == 405)
