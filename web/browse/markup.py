"""HTML that is escaped by construction: what is not marked as HTML is a text, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

_VOID: Final = frozenset({"input", "link", "meta"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: str | int | bool | None) -> Html:
    """An element. Children are texts, elements, or lists of them; None is nothing.

    An attribute that is None or False is left out; `class_` and `for_` are written without their underscore.
    """
    written = "".join(
        f" {attribute.rstrip('_')}" + ("" if value is True else f'="{escape(str(value))}"')
        for attribute, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Html:
    """Texts and elements, one behind the other."""
    return Html("".join(map(_render, children)))


def _render(child: object) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, list | tuple):
        return join(child)
    return escape(str(child))
