"""How a release was made, for an entry of the registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dpvision.reports.guarantee_file import unit_of
from dpvision.reports.markdown import in_markdown
from dpvision.reports.registry_facts import RegistryFacts
from dpvision.reports.registry_privacy_loss import Verified
from dpvision.reports.registry_words import bullets, paragraphs, shape


def implementation(card: Mapping[str, Any], verified: Verified, facts: RegistryFacts) -> dict[str, Any]:
    """Return the part of the entry.

    Args:
        card: the release's card.
        verified: what verifying the release has found.
        facts: what a person said.
    """
    return {
        "preprocessing_and_hyperparameter_tuning": paragraphs(
            facts.preprocessing, _fitting(card), _tuning(card), facts.tuning
        ),
        "mechanisms": paragraphs(_mechanisms(card), _guarded(facts)),
        "composition": _composition(card),
        "post_processing": _post_processing(card),
        "justification": _justification(verified, facts),
        "utility": paragraphs(_utility(card), facts.utility),
        "additional_information": paragraphs(facts.additional, _additional(card, verified)),
    }


def _fitting(card: Mapping[str, Any]) -> str:
    made_of = card.get("model") or card["generator"]
    how = made_of.get("resize")
    return (
        f"The program made all images the same shape, {shape(made_of)}, each by itself"
        + (f"; those of another size by the choice resize = {in_markdown(how)}" if how else "")
        + "."
    )


def _tuning(card: Mapping[str, Any]) -> str:
    tuning = card.get("tuning")
    if not tuning:
        return (
            "The program tuned no setting on the private images. That settings were not chosen by looking at "
            "them, or at what earlier runs released of them without counting that, is assumed."
        )
    searched = [
        f"{in_markdown(name)}: {in_markdown(', '.join(map(str, values)))}"
        for name, values in tuning["search"].items()
    ]
    return paragraphs(
        "Settings were tuned on the private images, within the guarantee: those of the best of a random "
        f"number of trials, {tuning['expected_trials']:g} on average ({in_markdown(tuning['law'])}), by a "
        "score with noise. All of it is paid for by one selection mechanism. What was searched:",
        bullets(searched),
    )


def _mechanisms(card: Mapping[str, Any]) -> str:
    return paragraphs(
        "Every access to the private images, but for what is not covered, went through:",
        bullets(map(_mechanism, card["mechanisms"])),
        f"Sampler, as run: {in_markdown(card['sampler'])}. As accounted: {_as_accounted(card)}",
        f"Noise: {in_markdown(card['noise'])}.",
        "No number that is released is one which only one of two neighbours could give in floating point. "
        "Sums are in double precision, with a margin for their rounding. Time is not covered: it is not "
        "constant, and nobody but the curator sees it, but for what is listed as unprotected.",
        "Library: "
        + ", ".join(f"{in_markdown(name)} {in_markdown(value)}" for name, value in card["versions"].items())
        + ". Noise is added in one place, dpvision/privacy/mechanisms.py; dp-accounting does the accounting "
        "alone.",
    )


def _guarded(facts: RegistryFacts) -> str:
    return (
        f"How the private images are guarded: {facts.security}\n\nWhat the run keeps of them is in a folder "
        "that its owner alone may read, and files from others are read without running code in them."
    )


def _mechanism(mechanism: Mapping[str, Any]) -> str:
    told = ("name", "sensitivity", "count")
    facts = [
        f"{in_markdown(name.replace('_', ' '))} "
        + (f"{value:.6g}" if isinstance(value, float) else str(in_markdown(value)))
        for name, value in mechanism.items()
        if name not in told
    ]
    return (
        f"{in_markdown(mechanism['name'])}: {mechanism['count']} times, L2 sensitivity "
        f"{mechanism['sensitivity']:.6g}" + "".join(f", {fact}" for fact in facts)
    )


def _as_accounted(card: Mapping[str, Any]) -> str:
    rates = {one["sample_rate"] for one in card["mechanisms"] if "sample_rate" in one}
    if not rates:
        return "as the selection's trials say."
    everyone = f"every {unit_of(card)} enters every release, so that sampling amplifies nothing."
    if rates == {1}:
        return everyone
    poisson = "Poisson sampling at the rates above, with its amplification"
    return f"{poisson}; at rate 1, {everyone}" if 1 in rates else f"{poisson}."


def _composition(card: Mapping[str, Any]) -> str:
    accountant = card["accountant"]
    lost = card["lost_steps"]
    return paragraphs(
        f"All releases of the list of mechanisms, in one account, by {in_markdown(accountant['epsilon_by'])} "
        f"({in_markdown(accountant['version'])}). The composition is adaptive: what is released later may "
        "depend on what was released before. The order does not matter. Each release is written to a ledger "
        "before its noise is drawn.",
        f"{lost} releases were paid for but lost in an interruption; they are counted." if lost else None,
    )


def _post_processing(card: Mapping[str, Any]) -> str:
    if "images" in card:
        made = "The generator, the synthetic images and all other files of the release were"
    else:
        made = "The weights of the classifier and all other files of the release were"
    return (
        f"{made} computed from what the mechanisms gave out and from what is public, without another look at "
        "the private images, but for what is listed as unprotected. What anyone computes from them costs "
        "nothing more."
    )


def _justification(verified: Verified, facts: RegistryFacts) -> str:
    said = {"Proved": verified.proved, "Measured, not proved": verified.measured}
    lists = [
        paragraphs(
            f"{title}:", bullets(f"{in_markdown(one['says'])} ({in_markdown(one['see'])})" for one in found)
        )
        for title, found in said.items()
        if found
    ]
    return paragraphs(
        facts.justification,
        "The release was verified when this entry was written (`dpvision verify`): every file has the digest "
        "that is stated, the card says what the guarantee says, and ε was recomputed by a second accountant.",
        *lists,
    )


def _utility(card: Mapping[str, Any]) -> str:
    test = card.get("test")
    if not test:
        return "The release states no figure of its utility."
    low, high = test["interval_95"]
    return (
        f"Test accuracy {100 * test['accuracy']:.2f} %, 95 % interval {100 * low:.2f} to {100 * high:.2f} "
        f"(Clopper and Pearson; {test['correct']} of {test['total']} test images, one run). It is exact: no "
        "noise protects the test images, and the guarantee does not cover them."
    )


def _additional(card: Mapping[str, Any], verified: Verified) -> str:
    return paragraphs(
        "Anyone can check the release from itself alone: `dpvision verify RELEASE`. SHA-256 of its "
        f"guarantee.json: {verified.sha256}",
        *_provenance(card),
    )


def _provenance(card: Mapping[str, Any]) -> Iterator[str]:
    made = card.get("made")  # which a card of an earlier version has not
    if made:
        yield (
            f"The run began on {in_markdown(made['began'])}. A command that makes such a run: "
            f"{in_markdown(made['command'])}"
        )
    encoder = (card.get("model") or card.get("embedding") or {}).get("encoder")
    for what, one in (("The encoder", encoder), ("The pool of images", card.get("pool"))):
        if one and one.get("provenance"):
            yield f"{what}, where it came from:"
            yield bullets(
                f"{in_markdown(name)}: {in_markdown(value)}" for name, value in one["provenance"].items()
            )
