"""Write a card as one HTML file for people: it loads nothing, prints on A4 and is read on a phone."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from dpvision.images.text import written_out
from dpvision.reports.beside import result_charts
from dpvision.reports.card_charts import attack_chart, bars
from dpvision.reports.guarantee_file import events_of, sentences
from dpvision.reports.settings_rows import settings_rows
from dpvision.reports.shares_found import shares_found

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_RELATIONS = {
    "add_or_remove_one": "data sets that differ by the presence of one",
    "replace_one": "data sets that differ by the content of one",
}


def card_html(card: Mapping[str, Any], sheet: bytes | None = None) -> str:
    """Return the card as a page.

    Args:
        card: the card, of this version.
        sheet: a PNG of the first synthetic images, where there are any.
    """
    strength = card["strength"]
    with_pool = strength["with_pool"]
    alone = dict(zip(_names(card), strength["alone"], strict=True))
    several = len(alone) > 1 and None not in alone.values()
    model = card.get("model") or card.get("embedding") or {}
    with_charts = {
        **card,
        "css": Markup(resources.files("dpvision.reports").joinpath("card.css").read_text()),
        "attack_chart": Markup(attack_chart(strength)),
        "shares_chart": Markup(bars("ε of each mechanism by itself", alone, "ε alone")) if several else "",
        "at": strength["at"],
        "hits": shares_found(strength),
        "pool_hits": shares_found(strength, with_pool) if with_pool else {},
        "relations": _RELATIONS,
        "columns": ("name", "noise_multiplier", "sample_rate", "sensitivity", "count"),
        "tuned": _tuned(card),
        "encoder": model.get("encoder"),
        "sheet": base64.b64encode(sheet).decode() if sheet else "",
        "sentences": sentences(card),
        "charts": {name: Markup(svg) for name, svg in result_charts(card.get("beside", {})).items()},
        "settings": settings_rows(card["config"]),
    }
    return _environment().get_template("card.html.j2").render(with_charts)


@cache
def _environment() -> jinja2.Environment:
    """Return what the templates are read by; it keeps those that it has compiled."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dpvision", "reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )
    environment.filters |= {"number": number, "percent": percent}
    return environment


def number(value: float | None) -> str:
    """Write a number to four digits, with a power of ten where it is far from one."""
    if value is None:
        return "no useful bound"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    digits, power = f"{value:.3g}".split("e") if "e" in f"{value:.3g}" else f"{value:.2e}".split("e")
    raised = str(int(power)).translate(_RAISED)
    return f"10{raised}" if float(digits) == 1 else f"{float(digits):g} · 10{raised}"


def percent(share: float | None) -> str:
    """Write a share in per cent, to three digits."""
    return "all" if share is None else f"{100 * share:.3g} %"


def _names(card: Mapping[str, Any]) -> list[str]:
    """Return names of the mechanisms, each its own: by number, where they are many or long."""
    return [f"mechanism {place}" for place, _ in enumerate(card["mechanisms"], 1)]


def _tuned(card: Mapping[str, Any]) -> str:
    if "tuning" not in card:
        if any(one["event"].get("kind") == "selection" for one in events_of(card)):
            return "that of an earlier release, which is paid for"
        return "none on the private images; that settings were not chosen by looking at them is assumed"
    return (
        f"paid for: the best of {card['tuning']['expected_trials']:g} trials on average "
        f"({card['tuning']['law']})"
    )


def _shown(value: Any) -> Any:
    """Return a value as it is shown: what others wrote has no characters that act."""
    if isinstance(value, Markup) or not isinstance(value, str | list | tuple | dict):
        return value
    return written_out(str(value))
