"""OpenAI's responses over a real connection."""

import json

import pytest

from tests.light.serving.served import URLS, read_events

QUESTION = "[caption] describe this image."


def ask(**options):
    parts = [
        {"type": "input_image", "image_url": URLS["three-apples"]},
        {"type": "input_text", "text": QUESTION},
    ]
    return {"input": [{"role": "user", "content": parts}], "model": "miniature", **options}


def test_an_answer_is_that_of_ask_streamed_or_not(client, said):
    expected = said["three-apples", QUESTION]
    whole = client.post("/v1/responses", json=ask(store=True)).json()
    assert (whole["object"], whole["status"], whole["error"]) == ("response", "completed", None)
    assert whole["output"][0]["content"][0]["text"] == expected["answer"]
    assert whole["usage"]["output_tokens"] == expected["usage"]["completion_tokens"]
    events = read_events(client.post("/v1/responses", json=ask(stream=True)))
    names = [each["type"].removeprefix("response.") for each in events]
    before = ["created", "in_progress", "output_item.added", "content_part.added"]
    after = ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert names[:4] == before
    assert names[-4:] == after
    assert set(names[4:-4]) == {"output_text.delta"}
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    deltas = [each["delta"] for each in events if each["type"] == "response.output_text.delta"]
    assert "".join(deltas) == expected["answer"]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == expected["answer"]


def test_an_answer_that_is_cut_is_incomplete(client):
    whole = client.post("/v1/responses", json=ask(max_output_tokens=2)).json()
    assert whole["status"] == "incomplete"
    assert whole["incomplete_details"] == {"reason": "max_output_tokens"}


def test_an_answer_keeps_to_a_schema(client):
    schema = {"type": "object", "properties": {"n": {"enum": [3, 4]}}, "required": ["n"]}
    form = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    whole = client.post("/v1/responses", json=ask(text=form, instructions="Count.")).json()
    assert json.loads(whole["output"][0]["content"][0]["text"])["n"] in (3, 4)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"previous_response_id": "resp_1"}, "stored"),
        ({"input": []}, "question"),
        ({"input": ""}, "question"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"text": {"format": {"type": "json_schema"}}}, "schema"),
    ],
)
def test_what_cannot_be_answered_is_refused(client, body, words):
    response = client.post("/v1/responses", json={**ask(), **body})
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_a_question_may_be_a_text_alone(client):
    whole = client.post("/v1/responses", json={"input": "hello"}).json()
    assert whole["status"] in ("completed", "incomplete")
