"""Make other images of what an earlier run released, at no further cost."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from dpvision.api.config import RunConfig, to_publish
from dpvision.api.devices import resolve_device
from dpvision.api.options import FinishOptions, check_seed
from dpvision.api.publishing import GUARANTEE, Synthesis
from dpvision.api.run import Run
from dpvision.images.files import reading
from dpvision.methods import Learned, check_settings, find_method
from dpvision.methods.dp_mepf import DPMEPF
from dpvision.methods.refined import check_not_released, open_release, settings_of_release
from dpvision.privacy import Budget, PublicFacts
from dpvision.reports import card_markdown
from dpvision.reports.guarantee_file import unit_of
from dpvision.runs import Progress
from dpvision.runs.places import check_free


def synthesize_from(
    embedding: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    count: int | None = None,
    formats: tuple[str, ...] | list[str] = ("png",),
    balanced: bool = False,
    class_counts: Mapping[str, int] | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """Fit another generator to what an earlier run released: at no further cost, however often.

    Args:
        embedding: RUN/release/embedding.safetensors of that run, beside its encoder.safetensors.
        config: settings that replace the defaults; those of the release (encoder, weights) cannot be changed.
        out, count, formats, balanced, class_counts, seed, device, progress: as for `synthesize`. The seed is
            of the fit.

    Raises:
        InputError: an option or the embedding cannot be used.
        KeyboardInterrupt: passed on; `resume` continues the run.
    """
    check_free(out)
    method, settings = cast("DPMEPF", find_method(DPMEPF.name)), dict(config or {})
    check_settings(method.config_class, settings)
    check_seed(seed)
    learned = open_embedding(Path(embedding))
    of_release = settings_of_release(learned)
    check_not_released(settings, of_release, embedding)
    names = ("num_examples", "image_shape", "class_names")
    spent = learned.facts[GUARANTEE]
    public = {name: learned.facts[name] for name in names}
    facts = PublicFacts.from_json({**public, "unit": unit_of(spent)})
    chosen = resolve_device(device)
    wanted = FinishOptions(count=count, formats=formats, balanced=balanced, class_counts=class_counts)
    budget = Budget(spent["target_epsilon"], spent["delta"], spent["neighboring_relation"])
    run = Run.begin(
        RunConfig(
            method=method,
            settings=method.default_config(facts, budget, chosen, {**settings, **of_release}),
            facts=facts,
            budget=None,
            stages=None,
            seed=seed,
            finishing_seed=secrets.randbits(63) if seed is None else seed,
            device=chosen,
            data=None,
            images=to_publish(wanted, facts.class_names, facts.num_examples),
        ),
        out,
    )
    with run.directory.locked():
        run.keep(learned)
        return cast("Synthesis", run.finish(progress=progress))


def open_embedding(path: Path) -> Learned:
    """Read what a run released of private images, and the encoder stored beside it whose features these are.

    Raises:
        InputError: a file is missing or damaged, or does not fit the other.
    """
    learned = open_release(path)
    with reading(f"the guarantee in {path}"):  # the card will state it, after the fit
        card_markdown({**learned.facts[GUARANTEE], "released": ""}, "guarantee.md.j2")
    return learned
