"""The OpenAPI document as a page to read: plain HTML, without scripts, and from nobody but this worker."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from web.browse.markup import Html, tag

_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { margin: 0 auto; max-width: 60rem; padding: 1rem }
h1 { font-size: 1.5rem; margin: 0 }
h2 { border-bottom: 1px solid #8885; font-size: 1.25rem; margin: 2.5rem 0 1rem }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere }
h4 { font-size: .9rem; margin: 1rem 0 .25rem }
article { border: 1px solid #8886; border-radius: .5rem; margin: 1rem 0; padding: .75rem 1rem }
article:target { border-color: #37f; box-shadow: 0 0 0 1px #37f }
p { margin: .25rem 0 }
nav ul { columns: 24rem; list-style: none; margin: .25rem 0 1rem; padding: 0 }
nav li { break-inside: avoid; padding: .15rem 0 }
code, pre { font-family: ui-monospace, monospace; font-size: .9em }
code { background: #8882; border-radius: .25rem; overflow-wrap: anywhere; padding: 0 .2rem }
pre { border: 1px solid #8885; border-radius: .25rem; margin: .25rem 0; overflow-x: auto; padding: .5rem }
b { border-radius: .25rem; display: inline-block; font: 700 .75rem/1.6 ui-monospace, monospace; padding: 0 .4rem }
.get { background: #1463b4; color: #fff }
.post { background: #1a7036; color: #fff }
.put, .patch, .delete { background: #9a4b00; color: #fff }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: .25rem 0; width: 100% }
th, td { border-bottom: 1px solid #8884; padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top }
th { font-size: .8rem }
td:first-child code { white-space: nowrap }
td:last-child { min-width: 14rem }
details { margin: .25rem 0 }
summary { cursor: pointer }
.quiet { font-size: .85rem; opacity: .8 }
a { overflow-wrap: anywhere }
@media (max-width: 40rem) {
  table, tbody, tr, td { display: block }
  th { display: none }
  td { border: 0; padding: 0 }
  tr { border-bottom: 1px solid #8884; padding: .35rem 0 }
  td:last-child { min-width: 0 }
}
"""

SECURITY_POLICY: Final = (
    "default-src 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""No script, no picture, nothing from anywhere: but for the one style sheet, known by its hash."""

_REF_PREFIX: Final = "#/components/schemas/"
_EXAMPLE_VALUES: Final = {"topic": "iot", "partition": "0", "offset": "42", "table": "state", "key": "iot%2Fd-1"}
_TELLING: Final = 10**11
"""Bounds beyond it are those of a type, and say nothing to a reader."""
_CODE: Final = re.compile(r"`([^`]+)`")

Document = Mapping[str, Any]


def docs_page(openapi: Document) -> Html:
    """The page of an OpenAPI document."""
    info = openapi["info"]
    by_tag: dict[str, list[tuple[str, str, Document]]] = {}
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append((method, path, operation))
    body = [
        tag("h1", info["title"], " ", tag("span", info["version"], class_="quiet")),
        tag("p", _words(info["summary"])),
        tag("p", _words(info["description"])),
        tag(
            "p",
            "For machines: ",
            tag("a", "openapi.json", href="openapi.json"),
            ", ",
            tag("a", "asyncapi.json", href="asyncapi.json"),
            ". A token is sent as ",
            tag("code", "Authorization: Bearer …"),
            "; this page neither asks for one nor keeps one. In the lines to paste it is ",
            tag("code", "$TOKEN"),
            ", and ",
            tag("code", "$BASE"),
            " is where the worker is, such as ",
            tag("code", "http://127.0.0.1:6066"),
            ".",
        ),
        tag("nav", [_contents(name, operations) for name, operations in by_tag.items()]),
        [_section(name, operations) for name, operations in by_tag.items()],
        tag("h2", "Types", id="types"),
        [_type(name, schema) for name, schema in openapi["components"]["schemas"].items()],
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", info["title"]),
        tag("style", Html(_STYLE)),
    ]
    page = tag("html", tag("head", head), tag("body", tag("main", body)), lang="en")
    return Html(f"<!doctype html>\n{page}\n")


def _contents(name: str, operations: Iterable[tuple[str, str, Document]]) -> list[Html]:
    return [
        tag("p", name),
        tag(
            "ul",
            [
                tag("li", _method(method), " ", tag("a", path, href=f"#{operation['operationId']}"))
                for method, path, operation in operations
            ],
        ),
    ]


def _section(name: str, operations: Iterable[tuple[str, str, Document]]) -> Html:
    return tag(
        "section",
        tag("h2", name),
        [_operation(method, path, operation) for method, path, operation in operations],
    )


def _operation(method: str, path: str, operation: Document) -> Html:
    scopes = [scope for scheme in operation["security"] for names in scheme.values() for scope in names]
    return tag(
        "article",
        tag("h3", _method(method), " ", tag("code", path)),
        tag("p", _words(operation["summary"])),
        tag("p", _words(operation.get("description", ""))) if "description" in operation else None,
        tag("p", "Scope: ", [tag("code", scope) for scope in scopes] or "none, it is open to anyone", class_="quiet"),
        _parameters(operation.get("parameters", ())),
        _request(operation.get("requestBody")),
        _responses(operation["responses"]),
        tag("h4", "To paste"),
        tag("pre", _curl(method, path, operation)),
        id=operation["operationId"],
    )


def _method(method: str) -> Html:
    return tag("b", method.upper(), class_=method)


def _parameters(parameters: Iterable[Document]) -> list[Html] | None:
    rows = [
        tag(
            "tr",
            tag("td", tag("code", each["name"])),
            tag("td", each["in"], ", required" if each.get("required") else None),
            tag("td", _kind(each["schema"])),
            tag("td", _words(each.get("description", ""))),
        )
        for each in parameters
    ]
    return _grid("Parameters", ("name", "in", "what it takes", ""), rows) if rows else None


def _request(body: Document | None) -> list[Html] | None:
    if body is None:
        return None
    forms: list[Html] = []
    for media_type, content in body["content"].items():
        described = [tag("code", media_type), ": ", _kind(content["schema"])]
        if note := content["schema"].get("description"):
            described += [", ", _words(note)]
        schema, example = content["schema"], content.get("example")
        forms.append(
            tag(
                "details",
                tag("summary", described),
                _properties(schema) if "properties" in schema else None,
                None if example is None else tag("pre", example if isinstance(example, str) else _json(example)),
                open=not forms,
            )
        )
    return [tag("h4", "Body" if body["required"] else "Body, optional"), *forms]


def _responses(responses: Document) -> list[Html]:
    rows = []
    for status, response in responses.items():
        kinds: list[object] = []
        codes: list[str] = []
        for media_type, content in response.get("content", {}).items():
            schema = content["schema"]
            if "allOf" in schema:
                codes += schema["allOf"][1]["properties"]["code"]["enum"]
            else:
                kinds += [tag("p", tag("code", media_type), " ", _kind(schema))]
        headers = [tag("p", "header ", tag("code", name)) for name in response.get("headers", {})]
        rows.append(
            tag(
                "tr",
                tag("td", tag("code", status)),
                tag("td", _words(response["description"]), headers),
                tag("td", kinds, [[tag("code", code), " "] for code in codes]),
            )
        )
    return _grid("Answers", ("status", "", "what it holds, or the error's code"), rows)


def _type(name: str, schema: Document) -> Html:
    return tag(
        "article",
        tag("h3", name),
        tag("p", _words(schema["description"])) if "description" in schema else None,
        _properties(schema) if schema.get("properties") else tag("p", _kind(schema)),
        id=f"type-{name}",
    )


def _properties(schema: Document) -> list[Html]:
    required = schema.get("required", ())
    rows = [
        tag(
            "tr",
            tag("td", tag("code", name)),
            tag("td", _kind(each), ", required" if name in required else None),
            tag("td", _words(each.get("description", ""))),
        )
        for name, each in schema["properties"].items()
    ]
    return _grid(None, ("field", "what it is", ""), rows)


def _grid(title: str | None, names: Iterable[str], rows: Iterable[Html]) -> list[Html]:
    table = tag("table", tag("tr", [tag("th", name, scope="col") for name in names]), list(rows))
    heading = [] if title is None else [tag("h4", title)]
    return [*heading, tag("div", table, class_="wide")]


def _kind(schema: Document) -> list[object]:
    """What a schema takes, in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REF_PREFIX)
        return [tag("a", name, href=f"#type-{name}")]
    for word in ("anyOf", "oneOf"):
        if word in schema and "type" not in schema:
            return _between(" or ", [_kind(option) for option in schema[word]])
    if "enum" in schema:
        return _between(", ", [[tag("code", value)] for value in schema["enum"]])
    if "const" in schema:
        return [tag("code", json.dumps(schema["const"]))]
    kind = schema.get("type", "any JSON")
    words: list[object] = [kind]
    if kind == "array" and isinstance(items := schema.get("items"), Mapping):
        words = ["list of ", *_kind(items)]
    elif kind == "object" and isinstance(values := schema.get("additionalProperties"), Mapping):
        words = ["object of ", *_kind(values)]
    if format_ := schema.get("format", schema.get("contentEncoding")):
        words.append(f", {format_}")
    words += _bounds(schema)
    if "pattern" in schema:
        words += [", ", tag("code", schema["pattern"])]
    if schema.get("default") is not None:
        words += [", default ", tag("code", json.dumps(schema["default"]))]
    return words


def _between(word: str, kinds: Iterable[Iterable[object]]) -> list[object]:
    return [part for kind in kinds for part in (word, *kind)][1:]


def _bounds(schema: Document) -> list[str]:
    for least, most, unit in (("minimum", "maximum", ""), ("minLength", "maxLength", " characters")):
        low, high = (None if abs(bound or 0) > _TELLING else bound for bound in (schema.get(least), schema.get(most)))
        if low is not None and high is not None:
            return [f", {low:,} to {high:,}{unit}"]
        if low is not None:
            return [f", {low} or more{unit}"]
        if high is not None:
            return [f", up to {high}{unit}"]
    return []


def _curl(method: str, path: str, operation: Document) -> str:
    filled = re.sub(r"\{([a-z_]+)\}", lambda found: _EXAMPLE_VALUES.get(found[1], "…"), path)
    lines = ["curl -sS" if method == "get" else f"curl -sS -X {method.upper()}"]
    if operation["security"]:
        lines.append('-H "Authorization: Bearer $TOKEN"')
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        if (example := content.get("example")) is not None:
            lines.append(f"-H 'Content-Type: {media_type}'")
            text = example if isinstance(example, str) else json.dumps(example)
            lines.append("--data-binary '" + text.replace("'", r"'\''") + "'")
            break
    return " \\\n  ".join([*lines, f"$BASE{filled}"])


def _words(text: str) -> list[object]:
    """A text with what is between backticks as code."""
    return [tag("code", part) if position % 2 else part for position, part in enumerate(_CODE.split(text))]


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
