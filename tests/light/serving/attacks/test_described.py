"""Every endpoint as it is described here, asked with what schemathesis makes of the description:
what fits it, and what does not. Nothing of it may be an error of the server's own."""

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from hypothesis import HealthCheck, settings  # noqa: E402 - behind the skip

TEXT = {"type": "string"}
NUMBER = {"type": ["number", "null"]}
FLAG = {"type": ["boolean", "null"]}
SCHEMA = {"enum": [{"type": "object"}, {"enum": ["yes", "no"]}, {"type": "nonsense"}, {}]}
PICTURE = {"enum": ["data:image/png;base64,aGVsbG8=", "data:,", "file:///etc/passwd", "x", ""]}


def describe_object(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required)}


def describe_list(item, most=3):
    return {"type": "array", "items": item, "maxItems": most}


URL = {"anyOf": [PICTURE, describe_object(["url"], url=PICTURE, detail=TEXT)]}
KINDS = {"enum": ["text", "image_url", "input_text", "input_image", "audio"]}
PART = describe_object(["type"], type=KINDS, text=TEXT, image_url=URL)
CONTENT = {"anyOf": [TEXT, {"type": "null"}, describe_list(PART)]}
ROLE = {"enum": ["system", "developer", "user", "assistant", "tool"]}
MESSAGES = describe_list(describe_object(["role"], role=ROLE, content=CONTENT))
MODEL = {"enum": ["miniature", "miniature:latest", "nothing", "../etc", ""]}
# The answers are short, so that the test is.
SHORT = {"enum": [1, 2, 0, -1, 1.0, "1", None]}
STOP = {"anyOf": [TEXT, describe_list(TEXT), {"type": "null"}]}
SAMPLING = {"temperature": NUMBER, "top_p": NUMBER, "seed": NUMBER, "top_k": NUMBER, "stop": STOP}
SAMPLING |= {"min_p": NUMBER, "repeat_penalty": NUMBER, "presence_penalty": NUMBER}
KIND = {"enum": ["text", "json_object", "json_schema", "xml"]}
FORM = describe_object(["type"], type=KIND, json_schema=describe_object(schema=SCHEMA, name=TEXT))
IMAGES = describe_list(PICTURE)
TURN = describe_object(["role"], role=ROLE, content={"type": ["string", "null"]}, images=IMAGES)
DURATION = {"enum": ["5m", "1h30m", -1, -1.0, "-1", 300, "soon", None]}
FORMAT = {"anyOf": [{"enum": ["", "json", "xml", None]}, SCHEMA]}
OLLAMA = {"model": MODEL, "stream": FLAG, "keep_alive": DURATION, "format": FORMAT, "think": FLAG}
OPTIONS = describe_object(["num_predict"], num_predict=SHORT, num_ctx=NUMBER, **SAMPLING)
OLLAMA |= {"options": OPTIONS, "tools": describe_list({"type": "object"}, 1)}
ITEM = describe_object(["role"], role=ROLE, content=CONTENT)
BODIES = {
    "/v1/chat/completions": describe_object(
        ["messages", "max_tokens"],
        model=MODEL,
        messages=MESSAGES,
        max_tokens=SHORT,
        stream=FLAG,
        stream_options=describe_object(include_usage=FLAG),
        response_format=FORM,
        n=NUMBER,
        logprobs=FLAG,
        **SAMPLING,
    ),
    "/v1/responses": describe_object(
        ["input", "max_output_tokens"],
        model=MODEL,
        input={"anyOf": [TEXT, describe_list(ITEM)]},
        instructions=TEXT,
        max_output_tokens=SHORT,
        stream=FLAG,
        text=describe_object(format=describe_object(["type"], type=KIND, schema=SCHEMA)),
    ),
    "/api/chat": describe_object(["options"], messages=describe_list(TURN), **OLLAMA),
    "/api/generate": describe_object(
        ["options"], prompt=TEXT, system=TEXT, images=IMAGES, raw=FLAG, suffix=TEXT, **OLLAMA
    ),
    "/api/show": describe_object(model=MODEL, name=MODEL),
    "/api/pull": describe_object(model=MODEL, name=MODEL, stream=FLAG),
}
READS = ["/", "/health", "/ready", "/metrics", "/props", "/v1/models"]
READS += ["/api/version", "/api/tags", "/api/ps"]
ANY = {"responses": {"default": {"description": "whatever it is, no error of the server's own"}}}
NAME = {"name": "name", "in": "path", "required": True, "schema": TEXT}
PATHS = {path: {"get": ANY} for path in READS}
PATHS |= {"/v1/models/{name}": {"get": {"parameters": [NAME], **ANY}}}
PATHS |= {
    path: {
        "post": {
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            **ANY,
        }
    }
    for path, body in BODIES.items()
}
DOCUMENT = {"openapi": "3.1.0", "info": {"title": "tinyv", "version": "1"}, "paths": PATHS}
described = schemathesis.openapi.from_dict(DOCUMENT)
EXAMPLES = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@described.parametrize()
@EXAMPLES
def test_nothing_that_is_sent_is_the_servers_own_error(served, case):
    response = case.call(base_url=served.url)
    assert response.status_code < 500, response.text


def test_after_all_of_it_a_question_is_answered(served, client):
    from tests.light.serving.served import ask_of

    answer = client.post("/v1/chat/completions", json=ask_of("cat", "what is this?")).json()
    assert answer["choices"][0]["message"]["content"] == "a cat"
    assert "Traceback" not in "".join(served.lines)
