"""Every method is a `Method`, and only what has a session can see private images."""

from __future__ import annotations

import inspect
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest
import torch

from dpvision.images import Images, ImageSet
from dpvision.methods import Learned, Method, Session, find_method, known_methods
from dpvision.methods.documentation import documented_settings, summary
from dpvision.privacy import Account, InputError, PublicFacts

PRIVATE = (Images, ImageSet, Session, Account)
WITHOUT_IMAGES = ("default_config", "stages", "estimate", "finish")


def mentions(hint: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a type is one of these, or made of one."""
    arguments = getattr(hint, "__args__", ())
    return hint in kinds or any(mentions(argument, kinds) for argument in arguments)


@pytest.mark.parametrize("name", known_methods())
def test_nothing_but_learning_takes_private_images(name: str) -> None:
    method = find_method(name)
    for verb in WITHOUT_IMAGES:
        hints = get_type_hints(getattr(method, verb))
        declared = inspect.signature(getattr(Method, verb)).parameters
        assert hints.keys() == declared.keys() - {"self"} | {"return"}, "everything has a type"
        assert not any(mentions(hint, PRIVATE) for hint in hints.values()), verb
    hints = get_type_hints(method.learn)
    assert (hints["session"], hints["return"]) == (Session, Learned)


@pytest.mark.parametrize("name", known_methods())
def test_methods_say_what_they_are(name: str) -> None:
    method = find_method(name)
    assert method.name == name
    assert is_dataclass(method.config_class)
    assert len(summary(method)) > 20
    settings = documented_settings(method.config_class)
    assert {one.name for one in settings} == {one.name for one in fields(method.config_class)}


def test_facts_hold_nothing_of_images() -> None:
    facts = PublicFacts(3, (1, 4, 4), ("a", "b"))
    kinds = (torch.Tensor, Images)
    assert not any(mentions(hint, kinds) for hint in get_type_hints(PublicFacts).values())
    assert PublicFacts.from_json(facts.to_json()) == facts


@pytest.mark.parametrize(
    "change",
    [
        {"num_examples": 0},
        {"num_examples": True},
        {"num_examples": 2.0},
        {"image_shape": [1, 4]},
        {"image_shape": [0, 4, 4]},
        {"class_names": [1]},
        {"unit": "person"},
    ],
)
def test_facts_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    fields_of = PublicFacts(3, (1, 4, 4), ("a", "b")).to_json()
    with pytest.raises((InputError, TypeError)):
        PublicFacts.from_json(fields_of | change)


def test_a_method_for_something_else_is_refused() -> None:
    with pytest.raises(InputError, match="no method 'dp-mepf' that makes a classifier; choose one of dp"):
        find_method("dp-mepf", "a classifier")
    with pytest.raises(InputError, match="no method 'magic'; choose one of dp-sgd, "):
        find_method("magic")
