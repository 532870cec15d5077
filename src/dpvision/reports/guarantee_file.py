"""The guarantee of a release for machines: what it states, what that rests on, and the digest of every file.

Only what the card says, and the digests of what is released beside it, enter it: nothing private.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

FILE = "guarantee.json"
FORMAT = 1

STATED = ("is_private", "epsilon", "delta", "neighboring_relation", "num_examples", "target_epsilon")
"""What is stated both here and on the card."""

FIELDS = {
    *("format", "not_private_because", "unit", "accountant", "events", "files"),
    *("proved", "measured", "assumed", *STATED),
}
"""All that guarantee.json has."""

FIXED_SEED = "the noise came from a fixed seed; whoever knows or guesses it can remove the noise"
"""A reason why a run is not private."""

_SAID_TO_BE_PUBLIC = "what else was learned of these images: they were said to be public"
"""How the sentence begins that cards have of it; what follows is not the same on older ones."""

UNPAID = (
    f"{_SAID_TO_BE_PUBLIC} (unpaid), so that this run is in no account of theirs; where they are private, "
    "nothing may be chosen by it"
)
"""What is not covered by the guarantee of a run that is on no account, for its card."""

_FIRST = "the private images that those of this run were made of"

_NEIGHBOURS = {
    "image": {
        "add_or_remove_one": "data sets that differ by the presence of one image",
        "replace_one": "data sets that differ by the content of one image",
    },
    "unit": {
        "add_or_remove_one": "data sets that differ by the presence of one unit: of all images of one "
        "person, say, any images and however many",
        "replace_one": "data sets that differ by the content of one unit: by all images of one person, say, "
        "any images and however many",
    },
}
_RANDOM_NOISE = (
    "AES-256 in counter mode, keyed by the operating system's entropy; added exactly, then rounded, so that "
    "the last digits tell nothing more"
)
_PAGES = "docs/guarantee/"


def guarantee_file(card: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """Return guarantee.json of a release.

    Args:
        card: the card.
        files: all other files of the release, the card too, by their names.
    """
    return canonical(
        {
            "format": FORMAT,
            **{name: card[name] for name in STATED},
            "not_private_because": not_private_because(card),
            "unit": unit_of(card),
            "accountant": card["accountant"],
            "events": events_of(card),
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
            **sentences(card),
        }
    )


def in_words(neighboring_relation: str, unit: str, broken_by: Sequence[str]) -> dict[str, str]:
    """Return how a card puts its relation and its noise.

    Args:
        neighboring_relation: one of the two.
        unit: what is protected, "image" or "unit".
        broken_by: why the run is not private.
    """
    return {
        "neighbours": neighbours(neighboring_relation, unit),
        "noise": "a fixed seed" if FIXED_SEED in broken_by else _RANDOM_NOISE,
    }


def neighbours(neighboring_relation: str, unit: str) -> str:
    """Say in words which data sets a relation is between, where "image" or "unit" is protected."""
    return _NEIGHBOURS[unit][neighboring_relation]


def canonical(fields: Mapping[str, Any]) -> bytes:
    """Return the one form in which these fields may be written: names in order, ASCII, no spaces."""
    return (json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode()


def unit_of(card: Mapping[str, Any]) -> str:
    """Return what is protected, "image" or "unit". A card that was written before there were units says
    nothing of it.
    """
    return str(card.get("unit", "image"))


def not_private_because(card: Mapping[str, Any]) -> list[str]:
    """Return why the release of a card is not private; empty if it is."""
    because = card.get("not_private_because", [])
    return list(because) if because or card["is_private"] else [FIXED_SEED]


def is_unpaid(card: Mapping[str, Any]) -> bool:
    """Say whether a card states that its run was on images said to be public, so that no account has it."""
    return any(str(one).startswith(_SAID_TO_BE_PUBLIC) for one in card["not_covered"])


def not_covered_of_release(guarantee: Mapping[str, Any]) -> str:
    """Return what the guarantee of a run does not cover whose images another run released, for its card.

    What is made of released images alone costs those that they were made of nothing more: post-processing. A
    run may be made of more, of a pool that is another release, say.

    Args:
        guarantee: that of the images' release, as `dpvision.images.released.stated_guarantee` has it.
    """
    if not guarantee["is_private"]:
        return f"{_FIRST}: the run that released these is NOT PRIVATE, and protects none of them"
    states = "epsilon {epsilon:.6g} and delta {delta:g} for each {unit}".format_map(guarantee)
    return f"{_FIRST}: their release states {states}, which holds for all that is made of it alone"


def events_of(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the events that a card states, each with its name and sensitivity. Of a card that was written
    before it had them, they are made of its mechanisms, with what is always right of replacing an example.
    """
    if "events" in card:
        return list(card["events"])
    facts = ("noise_multiplier", "sample_rate", "count")
    return [
        {
            "name": mechanism["name"],
            "sensitivity": mechanism["sensitivity"],
            "event": {name: mechanism[name] for name in facts},
        }
        for mechanism in card["mechanisms"]
    ]


def sentences(card: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Return what is proved, what is measured and what is assumed, with what in the repository says so."""
    return {
        "proved": _proved(card) if card["is_private"] else [],
        "measured": _measured(card),
        "assumed": _assumed(card),
    }


def _of(says: str, see: str) -> dict[str, str]:
    return {"says": says, "see": see}


def _proved(card: Mapping[str, Any]) -> list[dict[str, str]]:
    events = [one["event"] for one in events_of(card)]
    is_sampled = any(one.get("sample_rate", 1) != 1 for event in events for one in _within(event))
    is_tuned = any(event.get("kind") == "selection" for event in events)
    return [
        _of("releases that cost what the events say, composed, cost no more than ε", f"{_PAGES}verify.md"),
        *(
            [
                _of(
                    "the worst pairs of distributions of a sum over a Poisson sample are those composed",
                    "src/dpvision/privacy/sampled_gaussian.py",
                ),
                _of(
                    "who else is in the data moves none of the numbers that one draws for batches and views",
                    "src/dpvision/privacy/by_example.py",
                ),
            ]
            if is_sampled
            else []
        ),
        *(
            [
                _of(
                    "the best of a random number of trials costs no more than its event",
                    "src/dpvision/privacy/events/selection.py",
                )
            ]
            if is_tuned
            else []
        ),
        _of(
            "the last digits of released numbers tell nothing more, and noise is Gaussian to within "
            "2^-158 for each pair of numbers",
            f"{_PAGES}noise.md",
        ),
        _of("what is made of released sums and of public data costs nothing more", f"{_PAGES}index.md"),
    ]


def _within(event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the events that a selection's trials release, or the event itself."""
    return [one for trial in event["trials"] for one in trial] if "trials" in event else [event]


def _measured(card: Mapping[str, Any]) -> list[dict[str, str]]:
    timed = card.get("training_seconds") is not None
    return [
        _of(
            f"one {unit_of(card)} moves a sum by no more than the sensitivity stated",
            "tests/testing/test_methods.py",
        ),
        _of(
            "nothing enters the release but noisy sums and public facts"
            + (", and the training time to one digit" if timed else ""),
            "tests/testing/test_methods.py",
        ),
        _of("rounding takes less from δ than is given away for it", "tests/privacy/test_accounting.py"),
        _of("the noise that is drawn passes statistical tests", "tests/checks/test_noise.py"),
        _of("a release is in the ledger before its noise is drawn", "tests/privacy/test_ledger.py"),
        _of("each of many faults that were put into the code made a test fail", "docs/mutants.md"),
    ]


def _assumed(card: Mapping[str, Any]) -> list[dict[str, str]]:
    encoder = (card.get("model") or card.get("embedding") or {}).get("encoder")
    pool = card.get("pool") or {}
    of_private = pool.get("guarantee")
    declared = [
        *([f"the encoder {encoder['name']} was not made of the private images"] if encoder else []),
        *(["the pool of public images holds none of the private ones"] if pool and not of_private else []),
    ]
    settings = "settings to search" if "tuning" in card else "settings"
    whose = (
        "one image is protected, not one person who has several"
        if unit_of(card) == "image"
        else "all images of whom a unit is to protect are in that unit"
    )
    return [
        _of("AES-256 cannot be told from random bits", f"{_PAGES}noise.md"),
        *(
            [_of("nor can SHA-256 of a secret key and the place of a draw", f"{_PAGES}noise.md")]
            if "tuning" in card
            else []
        ),
        _of("the operating system's entropy, which keys it, is known to nobody", f"{_PAGES}noise.md"),
        _of("logarithm, sine and cosine are as exact as their libraries say", f"{_PAGES}noise.md"),
        _of("margins are wide enough for sums that are rounded in another order", f"{_PAGES}noise.md"),
        _of("the program ran as it is published, and released what it recorded", f"{_PAGES}verify.md"),
        _of(f"{settings} were not chosen by looking at what is private", f"{_PAGES}index.md"),
        _of(whose, f"{_PAGES}index.md"),
        *([_of(_beside_a_pool(of_private), f"{_PAGES}index.md")] if of_private else []),
        *[_of(f"declared public: {what}", f"{_PAGES}index.md") for what in declared],
        *[_of(f"taken as public: {fact}", f"{_PAGES}index.md") for fact in card["taken_as_public"]],
        *[_of(f"not covered: {read}", f"{_PAGES}index.md") for read in card["not_covered"]],
    ]


def _beside_a_pool(guarantee: Mapping[str, Any]) -> str:
    """Say what ε stands for where the pool was made of private images, which may be the same."""
    first = f"epsilon {guarantee['epsilon']:.6g} and delta {guarantee['delta']:g}"
    said = (
        f"the pool was made of private images as its card says, at {first}, and epsilon here is of what was "
        "released beside it"
    )
    both = guarantee["with_this_run"]
    if not both:
        return said
    return f"{said}; of one in both runs, both cost epsilon {both['epsilon']:.6g} at delta {both['delta']:g}"
