"""Collect the documentation of methods and their settings from docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
from dataclasses import dataclass
from typing import Any

from dpvision.methods.method import Method
from dpvision.methods.settings import setting_types
from dpvision.privacy.values import in_words


@dataclass(frozen=True)
class Setting:
    """One setting of a method: its name, its type in words, and what it does. Its default is a matter of
    :meth:`Method.default_config`, for it may follow from public facts.
    """

    name: str
    type: str
    help: str

    def to_json(self) -> dict[str, Any]:
        """Return all but the name."""
        return {"type": self.type, "help": self.help}


def summary(method: Method) -> str:
    """Return the first sentence of a method's docstring, on one line."""
    text = " ".join((inspect.getdoc(type(method)) or "").split())
    return re.split(r"\.(?:\s(?=[A-Z])|$)", text, maxsplit=1)[0]


def documented_settings(config_class: type) -> list[Setting]:
    """Return the settings of a class of them, in their order, with what the docstrings say of each."""
    helps = _helps(config_class)
    types = setting_types(config_class)
    return [
        Setting(one.name, in_words(types[one.name]), helps.get(one.name, ""))
        for one in sorted(dataclasses.fields(config_class), key=lambda one: list(helps).index(one.name))
    ]


def _helps(config_class: type) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of attributes, the class's own first."""
    found: dict[str, str] = {}
    for one in config_class.__mro__:
        section = re.search(r"Attributes:\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(one.__doc__ or ""), re.S)
        for names, text in re.findall(
            r"^    (\w[\w, ]*): (.*(?:\n     .*)*)", section[1] if section else "", re.M
        ):
            for name in names.split(", "):
                found.setdefault(name, _plain(text))
    return found


def _plain(text: str) -> str:
    """Return the text without the marks of the documentation's language, on one line."""
    text = re.sub(r":(?:class|func|meth|mod|data):`[~.]*([^`]*)`", r"\1", text)
    return " ".join(text.split())
