"""HTML that cannot forget to escape: text becomes markup only through ``el``."""

from __future__ import annotations

from html import escape

__all__ = ["Html", "el", "join"]

_VOID = frozenset({"br", "circle", "line", "meta", "path", "polyline", "rect"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def el(name: str, /, *children: object, **attributes: object) -> Html:
    """An element.

    Args:
        name: Its tag.
        children: What is in it; whatever is not ``Html`` is escaped, and None is left out.
        attributes: By name, ``_`` standing for ``-`` and at the end for nothing (``class_``);
            those that are None are left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Html(f"<{name}{written}>") if name in ("br", "meta") else Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*parts: object) -> Html:
    """Parts one after the other, escaped where they are not markup."""
    return Html(
        "".join(
            part if isinstance(part, Html) else escape(str(part))
            for part in parts
            if part is not None
        )
    )
