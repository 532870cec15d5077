"""The card of a repository on the Hugging Face Hub: a head for its search and viewer, then text for people.

The head's fields are those of huggingface.co/docs/hub/model-cards and datasets-cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dpvision.privacy.errors import InputError
from dpvision.reports.markdown import card_markdown, card_template
from dpvision.reports.registry_yaml import registry_yaml

README = "README.md"

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


def check_license(license: str) -> None:
    """Raise InputError unless this may be the hub's name of a licence."""
    if not isinstance(license, str) or not _LICENSE.fullmatch(license):
        raise InputError(
            f"{license!r} is no name of a licence as the Hugging Face Hub has them; give one such as "
            "apache-2.0, cc-by-4.0 or other"
        )


def hub_card(card: Mapping[str, Any], license: str, images: str | None) -> str:
    """Return README.md of a repository.

    Args:
        card: the release's card. Nothing else of a run is known here.
        license: the hub's name of the licence.
        images: of synthetic images, the Parquet file within the repository; of a classifier None.
    """
    head = _of_classifier(card) if images is None else _of_images(card, images)
    tags = ["differential-privacy", "dpvision", card["method"]]
    text = card_markdown({**card, "of_card": card_template(card)}, "hub.md.j2")
    return f"---\n{registry_yaml({'license': license, **head, 'tags': tags})}---\n\n{text}\n"


def _of_classifier(card: Mapping[str, Any]) -> dict[str, Any]:
    head: dict[str, Any] = {"library_name": "dpvision", "pipeline_tag": "image-classification"}
    if card["test"]:  # exact, and on the card already, which says that no guarantee covers it
        accuracy = {"type": "accuracy", "value": card["test"]["accuracy"]}
        tested = {"type": "private", "name": card["made"]["data_name"] or "test images, not published"}
        task = {"type": "image-classification"}
        result = {"task": task, "dataset": tested, "metrics": [accuracy]}
        head |= {"metrics": ["accuracy"], "model-index": [{"name": card["method"], "results": [result]}]}
    return head


def _of_images(card: Mapping[str, Any], images: str) -> dict[str, Any]:
    names, count = card["generator"]["class_names"], card["images"]["count"]
    return {
        "task_categories": ["image-classification" if names else "unconditional-image-generation"],
        "annotations_creators": ["machine-generated"],
        "size_categories": [next((words for most, words in _SIZES if count < most), "n>1M")],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": images}]}],
    }
