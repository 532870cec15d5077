"""dpvision audit and membership."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpvision import api
from dpvision.api.options import AuditOptions, check_shadow_models
from dpvision.cli.interruption import interruptible
from dpvision.cli.options import AsJson, Device, Run, checks, command, help_of, require
from dpvision.cli.output import show
from dpvision.cli.progress import work_bars
from dpvision.images.places import check_exists
from dpvision.privacy.errors import InputError
from dpvision.runs.places import find_release

if TYPE_CHECKING:
    from dpvision.evaluation.blind import Blind


@command(AuditOptions, is_run=False)
def audit(
    found: dict[str, Any],
    as_json: bool,
    canaries: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|KIND",
            help="How many (default: 1000; of mislabelled ones at most a tenth of the images), or which.",
            show_default=False,
        ),
    ] = None,
    canary_kind: Annotated[
        str | None,
        typer.Option(help=help_of(AuditOptions, "canary_kind"), show_default=False),
    ] = None,
) -> None:
    """Train with canaries, as train or synthesize would, and bound ε from below by what comes out.

    Examples:

        dpvision audit photos/ --epsilon 2

        dpvision audit photos/ --epsilon 2 --canaries images

        dpvision audit --config recipe.toml --canaries 10000

        dpvision audit photos/ --epsilon 2 --canary-kind mislabelled --json

    A bound above the ε that is tested means that the run leaks more than it claims. Mislabelled canaries test
    replace_one, whose ε is larger than that of add_or_remove_one. THE RESULT IS PRIVATE: ε does not cover it.
    The run spends ε of the data's budget, as any other, and is in the ledger; it keeps no model and writes no
    release.
    """
    number, kind = _number_and_kind(canaries, canary_kind)
    found |= {"canary_kind": kind} if number is None else {"canary_kind": kind, "canaries": number}
    require(AuditOptions, found)
    with interruptible("what was spent stays in the ledger"), work_bars() as progress:
        result = api.audit(found.pop("data"), **found, progress=progress)
    _show(result, as_json)


def _number_and_kind(canaries: str | None, kind: str | None) -> tuple[int | None, str]:
    """Interpret --canaries and --canary-kind together, for the first may name a kind too."""
    try:
        return None if canaries is None else int(canaries), kind or "gradient"
    except ValueError:
        if kind not in (None, canaries):
            raise InputError(
                f"--canaries names a kind, '{canaries}', and --canary-kind another, '{kind}'; choose one"
            ) from None
        return None, str(canaries)


@checks(shadow_models=check_shadow_models, run=find_release, members=check_exists, non_members=check_exists)
def membership(
    run: Run,
    members: Annotated[
        str | None, typer.Option(help="The images it learned from (default: those the run recorded).")
    ] = None,
    non_members: Annotated[
        str | None, typer.Option(help="Others of the same kind (default: those the run was tested on).")
    ] = None,
    shadow_models: Annotated[
        int,
        typer.Option(help="Train so many on random halves of the images, for online LiRA; 4 or more."),
    ] = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure how well a released classifier tells the images that it learned from, from others.

    Examples:

        dpvision membership runs/photos

        dpvision membership runs/photos/release --members photos/ --non-members others/

        dpvision membership runs/photos --shadow-models 16

    The blind attack has the images alone. If it tells the two sets apart, they differ in kind, and a warning
    says so: the AUC of an attack is then that difference, and not what the classifier remembers.

    THE RESULT IS PRIVATE: it is measured on the private images without noise. Nothing is spent or written.
    """
    with work_bars() as progress:
        result = api.membership(
            run, members, non_members, shadow_models=shadow_models, device=device, progress=progress
        )
    lines = [
        f"NOT FOR PUBLICATION  {result.notice}",
        f"{result.members} members, {result.non_members} non-members; "
        f"claimed epsilon {result.epsilon:.6g} at delta {result.delta:g}",
    ]
    lines.append(f"blind, by the images alone: {_blind(result.blind)}")
    for attack in result.attacks:
        lines.append(f"{attack.name}: AUC {attack.auc:.4f} ({attack.low:.4f} to {attack.high:.4f})")
        lines += [
            f"    TPR {rate.true_positive_rate:.2%} ({rate.low:.2%} to {rate.high:.2%}) at FPR "
            f"{rate.false_positive_rate:.2%} (at most {rate.at_most:.1%}); "
            f"epsilon allows {rate.most_private:.2%}"
            for rate in attack.rates
        ]
    show(asdict(result), as_json, "\n".join(lines))


def _blind(found: Blind | None) -> str:
    """Say how well members and non-members are told apart without the classifier."""
    if found is None:
        return "too few to say"
    differ = "THE SETS DIFFER IN KIND, see the warning" if found.sets_differ else "no difference was seen"
    return f"AUC {found.auc:.4f} ({found.low:.4f} to {found.high:.4f}): {differ}"


def _show(result: api.Audit, as_json: bool) -> None:
    tested, sure = result.tested_relation, f"confidence {result.confidence:.4g}"
    bound, bound_any = f"{result.epsilon_lower_bound:.4g}", f"{result.epsilon_lower_bound_any:.4g}"
    rows: dict[str, object] = {
        "NOT FOR PUBLICATION": result.notice,
        "asked": f"epsilon {result.target_epsilon:g} at delta {result.delta:g} under "
        f"{result.neighboring_relation}: {result.neighbours}",
        "spent": f"epsilon {result.epsilon:.6g} under {result.neighboring_relation}",
        "tested": f"epsilon {result.tested_epsilon:.6g} under {tested}: {result.tested_neighbours}",
        "epsilon is at least": f"{bound} under {tested} ({sure}, by trade-off curves)",
        "by (ε, δ) alone": f"{bound_any} under {tested} ({sure})",
        "canaries": f"{result.canaries} {result.canary_kind}; all told apart they would show "
        f"{result.largest_bound:.4g}",
        "guessed right": "; ".join(f"{found.correct} of {found.guesses}" for found in result.tallies),
    }
    largest = result.largest_contribution
    if largest is not None:
        rows["largest contribution"] = (
            f"{largest.share:.6f} of the sensitivity: {largest.image}, {largest.place} in step {largest.step}"
        )
    rows |= {
        "verdict": "REFUTED: the run leaks more than it claims"
        if result.refuted
        else "nothing against the claim",
        "meaning": result.meaning,
    }
    if result.largest_bound < result.tested_epsilon:
        rows["take more canaries"] = "so few cannot refute the claim, whatever leaks"
    show(asdict(result), as_json, rows)
