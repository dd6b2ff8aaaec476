"""Ollama's dialect over a real connection, and what its clients send (reference: SERVER.md)."""

import json
import re
from datetime import datetime

import jsonschema
import pytest

from tests.light.serving.served import ENCODED, QUESTIONS, URLS, ask_of, ask_ollama

THINGS = {
    "type": "object",
    "properties": {"name": {"enum": ["cat", "dog"]}, "sure": {"type": "boolean"}},
    "required": ["name", "sure"],
}


def read_lines(response):
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


@pytest.mark.parametrize(("name", "question"), QUESTIONS)
def test_an_answer_is_that_of_ask_to_the_letter_streamed_or_not(client, said, name, question):
    expected = said[name, question]
    whole = client.post("/api/generate", json=ask_ollama(name, question)).json()
    assert whole["response"] == expected["answer"]
    assert (whole["done"], whole["done_reason"]) == (True, expected["finish_reason"])
    assert whole["eval_count"] == expected["usage"]["completion_tokens"]
    messages = [{"role": "user", "content": question, "images": [ENCODED[name]]}]
    *lines, last = read_lines(client.post("/api/chat", json={"messages": messages}))
    assert "".join(each["message"]["content"] for each in lines) == expected["answer"]
    assert all(each["done"] is False for each in lines)
    assert (last["done"], last["message"]["content"]) == (True, "")
    for key in ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"):
        assert isinstance(last[key], int)
    assert datetime.fromisoformat(last["created_at"]).tzinfo is not None


def test_version_tags_show_and_ps_are_as_clients_read_them(client):
    assert re.fullmatch(r"\d+\.\d+\.\d+", client.get("/api/version").json()["version"])
    (tag,) = client.get("/api/tags").json()["models"]
    assert tag["name"] == tag["model"] == "miniature:latest"
    assert re.fullmatch("[0-9a-f]{64}", tag["digest"])
    assert datetime.fromisoformat(tag["modified_at"]).tzinfo is not None
    assert tag["size"] > 1e6
    for key in ("model", "name"):
        shown = client.post("/api/show", json={key: "miniature"}).json()
        assert {"completion", "vision"} <= set(shown["capabilities"])
        assert shown["details"] == tag["details"]
        architecture = shown["model_info"]["general.architecture"]
        assert shown["model_info"][f"{architecture}.context_length"] == 2048
        assert ".Suffix" not in shown["template"]
        assert shown["parameters"] == ""
    client.post("/api/generate", json=ask_ollama("cat", "what is this?", keep_alive="5m"))
    (loaded,) = client.get("/api/ps").json()["models"]
    left = datetime.fromisoformat(loaded["expires_at"]) - datetime.now().astimezone()
    assert 240 < left.total_seconds() < 310
    assert loaded["context_length"] == 2048


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
def test_head_is_answered_as_get_without_a_body(client, path):
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == str(len(client.get(path).content))


def test_health_checks_find_the_words_they_look_for(client):
    assert "Ollama is running" in client.get("/", headers={"accept": "*/*"}).text
    page = client.get("/", headers={"accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("given", "least_s", "most_s"),
    [
        ("5m", 250, 310),
        (300, 250, 310),
        ("1h30m", 5300, 5500),
        (-1, 1e9, 1e12),
        (-1.0, 1e9, 1e12),
        ("-1", 1e9, 1e12),
        ("-1m", 1e9, 1e12),
        (1800, 1700, 1900),
        ("300", 250, 310),
    ],
)
def test_keep_alive_is_read_in_every_form(client, given, least_s, most_s):
    body = ask_ollama("cat", "what is this?", keep_alive=given)
    assert client.post("/api/generate", json=body).json()["response"] == "a cat"
    (loaded,) = client.get("/api/ps").json()["models"]
    left = datetime.fromisoformat(loaded["expires_at"]) - datetime.now().astimezone()
    assert least_s < left.total_seconds() < most_s


@pytest.mark.parametrize("given", [0, 0.0, "0", "0s"])
def test_a_model_is_unloaded_at_once_and_loaded_again_when_it_is_asked(client, given):
    body = ask_ollama("cat", "what is this?", keep_alive=given)
    assert client.post("/api/generate", json=body).json()["response"] == "a cat"
    assert client.get("/ready").status_code == 200
    for _ in range(100):
        if not client.get("/api/ps").json()["models"]:
            break
    assert client.get("/api/ps").json() == {"models": []}
    whole = client.post("/api/generate", json=ask_ollama("cat", "what is this?")).json()
    assert whole["load_duration"] > 0
    assert whole["response"] == "a cat"


@pytest.mark.parametrize(("path", "key"), [("/api/generate", "prompt"), ("/api/chat", "messages")])
def test_nothing_asked_loads_and_unloads(client, path, key):
    empty = "" if key == "prompt" else []
    loaded = client.post(path, json={"model": "miniature", key: empty, "stream": False}).json()
    assert (loaded["done"], loaded["done_reason"]) == (True, "load")
    assert client.get("/api/ps").json()["models"]
    body = {"model": "miniature", "keep_alive": 0, "stream": False}
    assert client.post(path, json=body).json()["done_reason"] == "unload"
    assert client.post(path, json=body).json()["done_reason"] == "unload"


@pytest.mark.parametrize("image", [ENCODED["cat"], URLS["cat"], f"\n{ENCODED['cat']}\n"])
def test_pictures_come_as_base64_with_or_without_a_prefix(client, image):
    body = {"prompt": "\nwhat is this?", "images": [image], "stream": False}
    assert client.post("/api/generate", json=body).json()["response"] == "a cat"


def test_the_frame_that_litellm_puts_around_a_prompt_is_taken_off(client, said):
    question = "[refer] where is the red car?"
    body = ask_ollama("car-and-tree", f"### User:\n{question}\n\n")
    expected = said["car-and-tree", question]["answer"]
    assert client.post("/api/generate", json=body).json()["response"] == expected


def test_photoprism_gets_one_json_object(client):
    body = ask_ollama("cat", "list labels", format="json", system="You list things.", think="false")
    body |= {"suffix": "", "id": "1", "version": "latest", "url": "x", "model": "miniature:latest"}
    body["options"] = {"temperature": 0.1, "top_p": 0.9, "stop": ["\n\n"], "num_predict": 40}
    whole = client.post("/api/generate", json=body).json()
    assert isinstance(json.loads(whole["response"]), dict)


def test_frigate_gets_a_review_about_a_sequence_of_frames(client):
    schema = {
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 20},
            "observations": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "potential_threat_level": {"type": "integer", "minimum": 0, "maximum": 2},
        },
        "required": ["title", "potential_threat_level"],
    }
    body = ask_ollama(
        "cat", "word " * 200 + "what happens in the sequence of images?", format=schema
    )
    body["images"] = [ENCODED["cat"], ENCODED["three-apples"], ENCODED["breakfast"]]
    body["options"] = {"temperature": 0.5, "repeat_penalty": 1.05, "presence_penalty": 0.3}
    body["options"] |= {"num_predict": 100, "seed": 1}
    whole = client.post("/api/generate", json=body).json()
    jsonschema.validate(json.loads(whole["response"]), schema)
    assert whole["prompt_eval_count"] > 3 * 32 + 200


def test_home_assistant_streams_with_more_context_than_there_is(client, said):
    messages = [
        {"role": "system", "content": "You are a voice assistant."},
        {"role": "user", "content": "what is this?", "images": [ENCODED["cat"]]},
    ]
    body = {"model": "miniature:latest", "messages": messages, "stream": True, "keep_alive": -1.0}
    body |= {"options": {"num_ctx": 8192}, "tools": None, "think": False, "format": None}
    *_, last = read_lines(client.post("/api/chat", json=body))
    assert last["done_reason"] == "stop"
    assert last["prompt_eval_count"] > said["cat", "what is this?"]["usage"]["prompt_tokens"]


def test_open_webuis_own_questions_are_answered_briefly(client):
    task = "### Task:\nGenerate a concise title.\n### Output:\nJSON\n"
    messages = [{"role": "user", "content": task}]
    whole = client.post("/api/chat", json={"messages": messages, "stream": False}).json()
    assert whole["eval_count"] <= 64
    assert client.get("/v1//models").status_code == 200


def test_continue_gets_whole_lines_for_as_long_as_it_asks(client):
    body = {"name": "miniature", "model": "miniature", "keep_alive": 1800, "raw": False}
    body["messages"] = [{"role": "user", "content": "what is this?", "images": [ENCODED["cat"]]}]
    body["options"] = {"num_predict": -1, "num_ctx": 4096, "stop": []}
    lines = read_lines(client.post("/api/chat", json=body))
    assert lines[-1]["done"]


def test_librechat_names_every_penalty(client):
    body = ask_of("cat", "what is this?", model="miniature", user="1", stop=None)
    body |= {"frequency_penalty": 0, "presence_penalty": 0, "top_p": 1, "temperature": 0}
    response = client.post("/v1/chat/completions", json=body)
    assert response.json()["choices"][0]["message"]["content"] == "a cat"


def test_litellm_sends_no_content_type(served):
    body = json.dumps(ask_ollama("cat", "what is this?")).encode()
    with served.client() as client:
        request = client.build_request("POST", "/api/generate", content=body)
        request.headers.pop("content-type", None)
        assert client.send(request).json()["response"] == "a cat"


def test_a_body_may_come_in_chunks_and_wait_for_a_go(served):
    body = json.dumps(ask_ollama("cat", "what is this?")).encode()
    pieces = (body[i : i + 1000] for i in range(0, len(body), 1000))
    with served.client() as client:
        headers = {"expect": "100-continue"}
        response = client.post("/api/generate", content=pieces, headers=headers)
        assert response.json()["response"] == "a cat"


def test_an_answer_keeps_to_a_schema(client):
    body = ask_ollama("cat", "what is this?", format=THINGS)
    jsonschema.validate(
        json.loads(client.post("/api/generate", json=body).json()["response"]), THINGS
    )


@pytest.mark.parametrize("path", ["/api/pull", "/api/show"])
def test_a_model_that_is_there_can_be_pulled_and_another_cannot(client, path):
    assert client.post(path, json={"model": "miniature", "stream": False}).status_code == 200
    response = client.post(path, json={"model": "llava"})
    assert response.status_code == 404
    assert "not found" in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/generate", {"prompt": "x", "model": "nothing"}, 404, "'nothing' not found"),
        ("/api/generate", {"prompt": "x", "think": True}, 400, "thinking"),
        ("/api/generate", {"prompt": "x", "tools": [{}]}, 400, "tools"),
        ("/api/generate", {"prompt": "x", "raw": True}, 400, "raw"),
        ("/api/generate", {"prompt": "x", "images": ["/etc/passwd"]}, 400, "picture"),
        ("/api/generate", {"prompt": "x", "images": [ENCODED["cat"][:500]]}, 400, "damaged"),
        ("/api/generate", {"prompt": "x", "images": [7]}, 400, "images"),
        ("/api/generate", {"prompt": "x", "images": 7}, 400, "images"),
        ("/api/generate", {"prompt": "x", "keep_alive": "soon"}, 400, "keep_alive"),
        ("/api/generate", {"prompt": "x", "keep_alive": True}, 400, "keep_alive"),
        ("/api/generate", {"prompt": "x", "format": "xml"}, 400, "format"),
        ("/api/generate", {"prompt": "x", "options": {"num_predict": 0}}, 400, "num_predict"),
        ("/api/generate", {"prompt": "x", "options": {"top_p": "high"}}, 400, "options.top_p"),
        ("/api/generate", {"prompt": "x", "options": []}, 200, ""),
        ("/api/generate", {"prompt": "x", "format": {"type": "nothing"}}, 400, "schema"),
        ("/api/chat", {"messages": [{"role": "assistant", "content": "x"}]}, 400, "question"),
        ("/api/chat", {"messages": ["x"]}, 400, "messages[0]"),
        ("/api/chat", {"messages": [{"role": "narrator", "content": "x"}]}, 400, "[0].role"),
        ("/api/embed", {"input": "x"}, 404, "path"),
        ("/api/show", {}, 400, "model"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_the_dialect(client, path, body, status, words):
    response = client.post(path, json={"stream": False, **body})
    assert response.status_code == status, response.text
    if status != 200:
        assert response.json().keys() == {"error"}
        assert words in response.json()["error"]


def test_more_pictures_than_the_context_holds_are_refused_with_the_number_that_fits(client):
    body = {"prompt": "what?", "images": [ENCODED["cat"]] * 60, "stream": False}
    response = client.post("/api/generate", json=body)
    assert response.status_code == 400
    n_fit = int(re.search(r"context, (\d+) do", response.json()["error"])[1])
    body["images"] = [ENCODED["cat"]] * n_fit
    assert client.post("/api/generate", json=body).status_code == 200
