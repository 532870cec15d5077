"""Write an entry of the registry as YAML that says the same to whoever reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

_WIDTH = 110


def registry_yaml(entry: Mapping[str, Any]) -> str:
    """Return the entry as YAML, in its order.

    Guarantee: `yaml.safe_load` gives the entry back, whatever its texts hold: characters that do not show,
    are line breaks to YAML alone or have no Unicode are escaped, texts that look like YAML are quoted.
    ``tests/reports/test_registry_yaml.py`` tries hostile and random ones.
    """
    return yaml.dump(
        dict(entry), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH, line_break="\n"
    )


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice twice."""
        return True

    def write_double_quoted(self, text: str, split: bool = True) -> None:
        """Escape all but ASCII: what turns the direction of text would otherwise stand as it is."""
        self.allow_unicode = False
        super().write_double_quoted(text, split)
        self.allow_unicode = True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    lines = text.split("\n")
    style = "|" if len(lines) > 1 else None
    if not all(line.isprintable() for line in lines):
        style = '"'  # which alone has escapes
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
