"""Make other images of what an earlier run released, at no further cost."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import Any, cast

from dpvision.api.config import RunConfig
from dpvision.api.devices import resolve_device
from dpvision.api.images_to_publish import to_publish
from dpvision.api.options import FinishOptions, check_seed
from dpvision.api.publishing import Synthesis
from dpvision.api.releases import open_earlier
from dpvision.api.run import Run
from dpvision.methods import check_settings
from dpvision.methods.continued import refuse_others, with_released
from dpvision.methods.method import GUARANTEE
from dpvision.methods.releases import public_facts
from dpvision.privacy import Budget
from dpvision.reports.guarantee_file import unit_of
from dpvision.runs import Progress
from dpvision.runs.places import check_free


def synthesize_from(
    release: str | os.PathLike[str],
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
    """Make another generator of what an earlier run released: at no further cost, however often.

    Args:
        release: the directory of that run, or its release, or the file of what it released there:
            moments.safetensors, denoiser.safetensors, teacher_and_moments.safetensors, or
            embedding.safetensors beside its encoder.safetensors.
        config: settings that replace the defaults; those that say what was released, or how (size, encoder,
            steps of a teacher), cannot be changed.
        out, count, formats, balanced, class_counts, seed, device, progress: as for `synthesize`. The seed is
            of the fit.

    Raises:
        InputError: an option or the release cannot be used.
        KeyboardInterrupt: passed on; `resume` continues the run.
    """
    check_free(out)
    check_seed(seed)
    (method, learned), settings = open_earlier(release), dict(config or {})
    check_settings(method.config_class, settings)
    refuse_others(settings, method.of_generator, release)
    of_both = with_released(settings, method.settings_of_release(learned), release)
    spent = learned.facts[GUARANTEE]
    facts = public_facts(learned, unit_of(spent))
    chosen = resolve_device(device)
    wanted = FinishOptions(count=count, formats=formats, balanced=balanced, class_counts=class_counts)
    budget = Budget(spent["target_epsilon"], spent["delta"], spent["neighboring_relation"])
    run = Run.begin(
        RunConfig(
            method=method,
            settings=method.default_config(facts, budget, chosen, of_both),
            facts=facts,
            budget=None,
            stages=None,
            seed=seed,
            finishing_seed=secrets.randbits(63) if seed is None else seed,
            device=chosen,
            data=None,
            given=tuple(sorted(settings)),
            images=to_publish(wanted, facts.class_names, facts.image_shape, facts.num_examples),
        ),
        out,
    )
    with run.directory.locked():
        run.keep(learned)
        return cast("Synthesis", run.finish(progress=progress))
