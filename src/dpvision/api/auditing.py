"""Measure how much a run leaks: train on canaries, and guess their coins from what comes out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Unpack

from dpvision.api.accounts import make_account, private_record
from dpvision.api.config import RunConfig, Sources
from dpvision.api.keywords import AuditKeywords
from dpvision.api.options import AuditOptions, takes
from dpvision.api.preparing import prepare
from dpvision.api.sources import Source
from dpvision.evaluation.mislabelled import MislabelledImages
from dpvision.evaluation.worst_images import Contribution, WorstImages
from dpvision.images import ImageSet
from dpvision.images.public import Overlaps
from dpvision.methods import Learned
from dpvision.networks import Classifier
from dpvision.privacy import Account, InputError, NeighboringRelation, RandomSource, random_source
from dpvision.privacy import epsilon as epsilon_of
from dpvision.privacy.audit import (
    Tally,
    all_correct,
    check_canaries,
    check_confidence,
    epsilon_lower_bound,
    f_dp_lower_bound,
    tally,
)
from dpvision.privacy.canaries import AuditedMechanism, Canaries
from dpvision.reports.guarantee_file import neighbours
from dpvision.runs import Progress

NOTICE = "private: it comes of training on the private images and is not covered by epsilon; do not publish"
CANARIES = 1000
MISLABELLED_SHARE = 0.1
STEPS_LOOKED_AT = 30
"""The approximate number of steps of a run that are examined for worst-case images."""


@dataclass(frozen=True)
class Audit:
    """The findings of an audit.

    Attributes:
        notice: says that none of this may be published.
        method, canary_kind, canaries, confidence: what was audited, and how.
        target_epsilon, delta, neighboring_relation: the budget that was asked for; ``neighbours``: its
            relation in words.
        epsilon: what the run spent under that relation: as its card would state.
        tested_relation: the relation of the two data sets between which a canary's coin decides;
            ``tested_neighbours``: the same in words. Of mislabelled canaries it is "replace_one", whatever
            was asked for.
        tested_epsilon: the ε of the same releases under that relation, which the bounds are compared with.
        epsilon_lower_bound: a lower bound on tested_epsilon, by comparison with the run's own trade-off
            curves, see :func:`dpvision.privacy.audit.f_dp_lower_bound`.
        epsilon_lower_bound_any: a lower bound on tested_epsilon that holds for any algorithm, see
            :func:`dpvision.privacy.audit.epsilon_lower_bound`. Each of the two bounds holds by itself with
            the stated confidence.
        largest_bound: the epsilon_lower_bound if all guesses were right: so many canaries cannot refute an ε
            above it.
        refuted: whether epsilon_lower_bound is above tested_epsilon, or the share of largest_contribution
            above 1: the run leaks more than it claims.
        meaning: what all this says, in words.
        releases: the number of releases in the run.
        tallies: the guesses that were made.
        largest_contribution: the worst-case image that changed a sum before noise the most, if such images
            were added. A share of the sensitivity above 1 is no accident: the sums are exact.
    """

    notice: str
    method: str
    canary_kind: str
    canaries: int
    confidence: float
    target_epsilon: float
    delta: float
    neighboring_relation: NeighboringRelation
    neighbours: str
    epsilon: float
    tested_relation: NeighboringRelation
    tested_neighbours: str
    tested_epsilon: float
    epsilon_lower_bound: float
    epsilon_lower_bound_any: float
    largest_bound: float
    refuted: bool
    meaning: str
    releases: int
    tallies: tuple[Tally, ...]
    largest_contribution: Contribution | None = None


@takes(AuditOptions)
def audit(data: Source, *, progress: Progress | None = None, **options: Unpack[AuditKeywords]) -> Audit:
    """Train with canaries, as a run would, and bound ε from below by what comes out.

    The run spends ε of the data's budget, as any other, and is in the ledger. It keeps no model and writes no
    release. The result is private: ε does not cover it. Of a method that makes images the releases are
    audited, for the rest is made of these.

    Args:
        data: the private images: a spec for `open_images` or an `ImageSet`.
        {options}
        progress: see `Progress`.

    Raises:
        InputError: an option or the data cannot be used, or the owner's limit does not allow the run. Nothing
            was spent.
        KeyboardInterrupt: passed on; what was spent is in the ledger.
    """
    given = AuditOptions.of(options, data)
    kind, confidence = given.canary_kind, given.confidence
    check_confidence(confidence)
    config, sources = prepare(data, given)
    (budget, stages), images = config.spending, sources.images
    if kind == "mislabelled" and config.method.makes != "a classifier":
        raise InputError(
            f"mislabelled canaries are looked for in a classifier; {config.method.name} makes none"
        )
    random = random_source(given.seed)
    coins = random.at("canaries", 0)
    count = given.canaries if given.canaries is not None else _default_count(kind, images.num_protected)
    check_canaries(count)
    worst = None
    if kind == "images":
        # At steps all through the run.
        worst = WorstImages(images, sources.pool, every=math.ceil(stages.num_releases / STEPS_LOOKED_AT))
    relation: NeighboringRelation
    if kind != "mislabelled":
        relation = budget.neighboring_relation
        planted = Canaries(count, relation, coins)
        audited = tuple(
            replace(stage, mechanism=AuditedMechanism.of(stage.mechanism, planted)) for stage in stages.stages
        )
        with_canaries = replace(config, stages=replace(stages, stages=audited))
        _learn(with_canaries, sources, images, random, given.ledger, progress, worst)
        scores, included = planted.scores, planted.included
    else:
        relation = "replace_one"
        mislabelled = MislabelledImages.of(images, count, coins)
        of_canaries = replace(sources, images=mislabelled.images)
        learned = _learn(config, of_canaries, images, random, given.ledger, progress)
        model = config.finish(learned).model
        assert isinstance(model, Classifier)
        scores, included = mislabelled.scores(model), mislabelled.included

    tallies = tally(scores.numpy(), included.numpy())
    events, delta = stages.events, budget.delta
    asked, unit = budget.neighboring_relation, config.facts.unit
    tested = epsilon_of(events, delta, relation)
    bound, largest = (
        f_dp_lower_bound(count, guessed, events, delta, relation, confidence)
        for guessed in (tallies, all_correct(count))
    )
    largest_contribution = worst.largest if worst else None
    share = largest_contribution.share if largest_contribution else 0.0
    return Audit(
        notice=NOTICE,
        method=config.method.name,
        canary_kind=kind,
        canaries=count,
        confidence=confidence,
        target_epsilon=budget.epsilon,
        delta=delta,
        neighboring_relation=asked,
        neighbours=neighbours(asked, unit),
        epsilon=epsilon_of(events, delta, asked),
        tested_relation=relation,
        tested_neighbours=neighbours(relation, unit),
        tested_epsilon=tested,
        epsilon_lower_bound=bound,
        epsilon_lower_bound_any=epsilon_lower_bound(count, tallies, delta, confidence),
        largest_bound=largest,
        refuted=bound > tested or share > 1,
        meaning=_meaning(unit, asked, relation, tested, bound, share),
        releases=stages.num_releases,
        tallies=tallies,
        largest_contribution=largest_contribution,
    )


def _meaning(
    unit: str,
    asked: NeighboringRelation,
    tested: NeighboringRelation,
    epsilon: float,
    bound: float,
    share: float,
) -> str:
    """Say what was found: under which relation, and what it says of the claim.

    Args:
        unit: what is protected, "image" or "unit".
        asked, tested: the relation of the budget and that of the canaries.
        epsilon, bound: under the relation that was tested.
        share: of the sensitivity, that of the largest contribution.
    """
    if asked == tested:
        compared = "the canaries test the relation that was asked for"
    else:
        compared = (
            f"the canaries test {tested}, which was not asked for: to replace one {unit} is to remove it and "
            "to add another, so that the same releases have a larger epsilon"
        )
    if share > 1:
        found = f"a single {unit} changed a sum by more than the noise is for, so the claim does not hold"
    elif bound > epsilon:
        found = "more than that leaks, so the claim does not hold: repeat the audit before you believe it"
    elif bound > 0:
        found = f"{bound:.4g} of that was seen to leak, which the claim allows; more may leak unseen"
    else:
        found = "nothing was seen to leak, which is no proof that nothing does"
    return f"{compared}; the bounds are to be compared with {epsilon:.4g} ({tested}); {found}"


def _learn(
    config: RunConfig,
    sources: Sources,
    private: ImageSet,
    random: RandomSource,
    ledger: Any,
    progress: Progress | None,
    watch: WorstImages | None = None,
) -> Learned:
    """Learn from images that were made of the private ones, on an account in the ledger of these. What was
    not spent is free again, whatever happens.
    """
    budget, stages = config.spending
    record = private_record(private, ledger, datetime.now(UTC))

    def open_account() -> Account:
        account = make_account(record, private, budget, stages, f"audit of {config.method.name}")
        account.open()
        config.tell_choice()
        return account

    overlaps = Overlaps(config.allow_overlap)  # whatever is found, nothing is published
    session = config.session(sources, open_account, random, progress, watch=watch, overlaps=overlaps)
    try:
        return config.learn(session)
    finally:
        if session.account:
            session.account.close()


def _default_count(canary_kind: str, num_examples: int) -> int:
    """Choose a number of canaries: wrong labels must be few beside right ones; vectors disturb nobody."""
    return CANARIES if canary_kind != "mislabelled" else min(CANARIES, int(MISLABELLED_SHARE * num_examples))
