"""Release synthetic images in place of private ones, and make others of what was released."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dpvision.api.accounts import (
    check_ledger,
    check_unchanged,
    check_version,
    close_account,
    discard_unspent,
    make_account,
    private_record,
)
from dpvision.api.job import check_seed, check_settings, declared_number, resolve_device
from dpvision.api.sources import Reading, Source, training_reading
from dpvision.evaluation.progress import Progress
from dpvision.images import Images
from dpvision.images.files import reading
from dpvision.images.write import check_formats, image_files
from dpvision.methods import TrainingPlan, make_plan, planned_at
from dpvision.methods.dp_mepf import (
    DPMEPFConfig,
    check_labels,
    default_config,
    fit,
    make_encoder,
    release,
    stages,
)
from dpvision.methods.embedding import Embedding
from dpvision.methods.generator_fitting import GeneratorFitting, new_generator
from dpvision.networks.generators import Generator, apportion, check_image_shape
from dpvision.networks.weights import checked_facts, safetensors_bytes
from dpvision.priors import scales_images
from dpvision.priors.encoders import Encoder
from dpvision.priors.encoders.released import ENCODER, load_encoder
from dpvision.privacy import (
    Budget,
    InputError,
    NeighboringRelation,
    SeededRandom,
    default_delta,
    random_source,
)
from dpvision.reports.card import card_markdown, guarantee
from dpvision.reports.grid import image_grid
from dpvision.reports.synthesis_card import synthesis_card, synthesis_markdown
from dpvision.runs import FileCheckpoints, RunDirectory, check_free
from dpvision.runs.files import check_room, json_bytes, read_json, write_atomically, writing
from dpvision.runs.generator_release import generator_files, load_generator

METHOD = "dp-mepf"
EMBEDDING = "embedding.safetensors"
BYTES_OF_FACTS = 1 << 20
"""More than the text in an embedding's file takes."""
PREVIEWS = 20
"""Sample grids over a fit."""
PER_CLASS = 10
"""Images of each class in a grid, and as many in a row."""


@dataclass(frozen=True)
class Synthesis:
    """What came of a run.

    Attributes:
        epsilon, delta: what the private images have cost.
        count: how many synthetic images were released.
        release: the directory that may be published: images, generator, embedding, card.
        generator: the released one, for more images.
    """

    epsilon: float
    delta: float
    count: int
    release: Path
    generator: Generator


@dataclass(frozen=True)
class ReleaseJob:
    """A release to be: the images that it is made from, and everything public about it.

    Attributes: as those of `dpvision.api.job.Job`.
    """

    images: Images
    budget: Budget
    config: DPMEPFConfig
    plan: TrainingPlan
    device: torch.device
    num_examples: int
    data: Reading
    chosen_size: int | None


def synthesize(
    data: Source,
    *,
    epsilon: float,
    out: str | os.PathLike[str],
    count: int | None = None,
    formats: Sequence[str] = ("png",),
    balanced: bool = False,
    delta: float | None = None,
    neighboring_relation: NeighboringRelation = "add_or_remove_one",
    method: str = METHOD,
    config: Mapping[str, Any] | None = None,
    size: int | None = None,
    channels: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    num_examples: int | None = None,
    ledger: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """Release synthetic images that are (ε, δ)-differentially private in the images they are made from.

    Args:
        data: the private images: a spec for `open_images`, or `Images`.
        epsilon, delta, neighboring_relation: the budget, as for `dpvision.train`.
        out: the run's directory, made here. Publish RUN/release, keep RUN/private.
        count: how many images to release; by default N, as many as the private ones.
        formats: to write them in: "png", "npz" or "parquet".
        balanced: as many of every class, and not by the class sizes that were released with noise.
        method: "dp-mepf".
        config: settings that replace the defaults, see `dpvision.methods.dp_mepf.DPMEPFConfig`.
        size, channels: as in `open_images`. By default images that differ in size, or are larger than 64
            pixels, are resized to 64 or 32.
        seed: makes the run reproducible and not private.
        device: such as "cpu" or "cuda"; by default a GPU where there is one.
        num_examples: N, which is public, as for `dpvision.train`.
        ledger: the data set's ledger; by default in the user's data directory, found by the data's digest.
        progress: see `Progress`.

    Raises:
        InputError: an option or the data cannot be used, or the owner's limit does not allow the run. Nothing
            was spent and nothing is left behind.
        KeyboardInterrupt: passed on; `resume` continues the run.
    """
    check_free(out)
    job = prepare_release(
        data,
        epsilon=epsilon,
        delta=delta,
        neighboring_relation=neighboring_relation,
        method=method,
        config=config or {},
        size=size,
        channels=channels,
        seed=seed,
        device=device,
        num_examples=num_examples,
    )
    images, resolved = job.images, job.config
    number = job.num_examples if count is None else count
    request = _request(resolved, number, formats, balanced, seed, job.device)
    check_formats(formats, images.class_names if resolved.labelled else ())
    check_image_shape(images.shape)
    encoder = make_encoder(resolved, images)
    started = datetime.now(UTC)
    public = {
        **request,
        "started": started.isoformat(timespec="seconds"),
        "data": asdict(job.data),
        "chosen_size": job.chosen_size,
        "num_examples": job.num_examples,
        "budget": asdict(job.budget),
        "noise_multiplier": job.plan.noise_multiplier,
        "epsilon": job.plan.epsilon,
    }
    run = RunDirectory.create(out, public, private_record(images, ledger, started))
    with run.locked():
        _release_embedding(run, images, encoder, progress, discard=True)
        return _make_images(run, progress)


def prepare_release(
    data: Source,
    *,
    epsilon: float,
    delta: float | None,
    neighboring_relation: NeighboringRelation,
    method: str,
    config: Mapping[str, Any],
    size: int | None,
    channels: int | None,
    seed: int | None,
    device: str | None,
    num_examples: int | None,
) -> ReleaseJob:
    """Check every option, read the images, and resolve what was left open. Writes and spends nothing.

    Raises:
        InputError: an option or the data cannot be used.
    """
    budget = Budget(epsilon, 1e-9 if delta is None else delta, neighboring_relation)
    settings = _check_settings(method, config)
    check_seed(seed)
    chosen_device = resolve_device(device)
    keep_large = scales_images(str(settings.get("encoder", "")))
    source, chosen_size = training_reading(data, size, channels, keep_large)
    images = data if isinstance(data, Images) else _open(source, bool(settings.get("labelled", True)))
    declared = declared_number(num_examples, images)
    if delta is None:
        budget = replace(budget, delta=default_delta(declared))
    resolved = default_config(images.shape, chosen_device, settings)
    check_labels(resolved, images)
    plan = make_plan(partial(stages, resolved, declared), declared, budget)
    return ReleaseJob(images, budget, resolved, plan, chosen_device, declared, source, chosen_size)


def synthesize_from(
    embedding: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    count: int | None = None,
    formats: Sequence[str] = ("png",),
    balanced: bool = False,
    config: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Synthesis:
    """Fit another generator to what an earlier run released: at no further cost, however often.

    Args:
        embedding: RUN/release/embedding.safetensors of that run, beside its encoder.safetensors.
        config: settings that replace the defaults; those of the release (encoder, weights) cannot be changed.
        out, count, formats, balanced, seed, device, progress: as for `synthesize`. The seed is of the fit.

    Raises:
        InputError: an option or the embedding cannot be used.
        KeyboardInterrupt: passed on; `resume` continues the run.
    """
    check_free(out)
    settings = _check_settings(METHOD, config)
    released, encoder = open_embedding(Path(embedding))
    of_release = {
        "encoder": released.facts["encoder"]["name"],
        "encoder_options": {},
        "labelled": bool(released.class_names),
        "second_moment_weight": released.facts["second_moment_weight"],
        "count_weight": released.facts["count_weight"],
    }
    for name in settings.keys() & of_release.keys():
        raise InputError(
            f"{name} is part of what was released in {embedding} and stays as it is; leave it out"
        )
    chosen_device = resolve_device(device)
    shape, num_examples = released.facts["image_shape"], released.facts["num_examples"]
    resolved = default_config(shape, chosen_device, {**settings, **of_release})
    request = _request(
        resolved, num_examples if count is None else count, formats, balanced, seed, chosen_device
    )
    check_formats(formats, released.class_names)
    run = RunDirectory.create(out, request, {})
    with run.locked():
        write_atomically(run.private_path / EMBEDDING, released.to_bytes())
        write_atomically(run.private_path / ENCODER, safetensors_bytes(encoder.state_dict()))
        return _make_images(run, progress)


def open_embedding(path: Path) -> tuple[Embedding, Encoder]:
    """What a run released of private images, and the encoder beside it whose features these are.

    Raises:
        InputError: a file is missing or damaged, or does not fit the other.
    """
    embedding = Embedding.load(path)
    with reading(f"the guarantee in {path}"):  # the card will state it, after the fit
        card_markdown({**embedding.facts["guarantee"], "released": ""}, "guarantee.md.j2")
    encoder = load_encoder(
        embedding.facts["encoder"],
        path.with_name(ENCODER),
        embedding.facts["image_shape"],
        embedding.mechanism.num_features,
    )
    return embedding, encoder


def resume_synthesis(run: RunDirectory, data: Images | None, progress: Progress | None) -> Synthesis:
    """Go on with an interrupted run, whose lock the caller holds; see `dpvision.resume`."""
    if run.is_released:
        return _result(run)
    check_version(run)
    if not (run.private_path / EMBEDDING).exists():
        with reading("the config.json of the run"):
            source, config = Reading.from_json(run.config["data"]), DPMEPFConfig(**run.config["config"])
        if source.spec is None and data is None:
            raise InputError("the images of this run were in memory; give them again (data=)")
        images = data if source.spec is None else _open(source, config.labelled)
        assert images is not None
        check_unchanged(run, images)
        encoder = make_encoder(config, images)
        _release_embedding(run, images, encoder, progress, discard=False)
    elif run.private:  # that of `synthesize_from` has no account
        config, budget = DPMEPFConfig(**run.config["config"]), Budget(**run.config["budget"])
        of_all = partial(stages, config, run.config["num_examples"])
        check_ledger(run, planned_at(run.config["noise_multiplier"], of_all, budget).events)
        close_account(run)
    return _make_images(run, progress)


def _open(source: Reading, labelled: bool) -> Images:
    """With labels where there are some, used or not: they are part of the data set's identity, and so of
    which ledger is its own.
    """
    return source.open(labelled or None)


def _check_settings(method: str, config: Mapping[str, Any] | None) -> dict[str, Any]:
    if method != METHOD:
        raise InputError(f"there is no method '{method}' that synthesizes images; choose {METHOD}")
    settings = dict(config or {})
    check_settings(DPMEPFConfig, settings)
    return settings


def _request(
    config: DPMEPFConfig,
    count: int,
    formats: Sequence[str],
    balanced: bool,
    seed: int | None,
    device: torch.device,
) -> dict[str, Any]:
    """What a run is to make, as JSON types.

    Raises:
        InputError: count is below 1, or as `check_seed`.
    """
    if count < 1:
        raise InputError(f"count must be at least 1, not {count}")
    check_seed(seed)
    return {
        "dpvision": version("dpvision"),
        "method": METHOD,
        "config": asdict(config),
        "count": count,
        "formats": list(formats),
        "balanced": balanced,
        "seed": seed,
        # Nothing private depends on it: a fit that is resumed goes on as it would have.
        "fit_seed": secrets.randbits(63) if seed is None else seed,
        "device": str(device),
    }


def _release_embedding(
    run: RunDirectory, images: Images, encoder: Encoder, progress: Progress | None, discard: bool
) -> None:
    """Read the private images once; keep what was released in RUN/private."""
    fields = run.config
    config, budget = DPMEPFConfig(**fields["config"]), Budget(**fields["budget"])
    plan = planned_at(fields["noise_multiplier"], partial(stages, config, fields["num_examples"]), budget)
    device = torch.device(fields["device"])
    random = random_source(fields["seed"])
    account = None
    try:
        account = make_account(run, len(images), budget, plan)
        account.open()
        # The encoder first: where the embedding is, all is.
        write_atomically(run.private_path / ENCODER, safetensors_bytes(encoder.state_dict()))
        released = config.mechanism(encoder.out_features, len(images.class_names)).zero()
        numbers = sum(total.numel() for total in released.values())
        check_room(run.private_path / EMBEDDING, BYTES_OF_FACTS + 4 * numbers)
        embedding = release(encoder.to(device), images, config, plan, account, random, device, progress)
    except Exception:
        if discard:
            discard_unspent(run, account)
        raise
    names = embedding.class_names
    facts = guarantee(account, plan, random, images.shape, names, fields["chosen_size"])
    embedding = replace(embedding, facts={**embedding.facts, "guarantee": facts})
    write_atomically(run.private_path / EMBEDDING, embedding.to_bytes())
    account.close()


def _make_images(run: RunDirectory, progress: Progress | None) -> Synthesis:
    """Fit a generator to the embedding in RUN/private, draw the images, release."""
    fields, private = run.config, run.private_path
    config, device = DPMEPFConfig(**fields["config"]), resolve_device(fields["device"])
    for path in (private / EMBEDDING, private / ENCODER):
        with reading(str(path)):
            checked_facts(path, path.read_bytes())
    embedding, encoder = open_embedding(private / EMBEDDING)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(fields["fit_seed"])
        generator = new_generator(embedding, encoder, config).to(device)
    started = time.monotonic()
    fit(
        generator,
        encoder.to(device),
        embedding,
        config,
        SeededRandom(fields["fit_seed"]).at("fit", 0),
        checkpoints=FileCheckpoints(run.checkpoint_path, run.seal),
        progress=progress,
        on_step=_previews(run.path / "samples", config.steps),
    )
    count = fields["count"]
    labels = None
    if fields["balanced"] and embedding.class_names:
        labels = apportion(count, torch.ones(len(embedding.class_names)))
    images = generator.sample(count, labels=labels, seed=fields["fit_seed"])
    few = [index for k in range(len(generator.class_proportions)) for index in _first(images, k)]
    card = synthesis_card(
        embedding=embedding,
        generator=generator,
        settings=fields["config"],
        images={name: fields[name] for name in ("count", "formats", "balanced")},
        seconds=round(time.monotonic() - started, 1),
    )
    files = {
        EMBEDDING: embedding.to_bytes(),
        ENCODER: safetensors_bytes(encoder.state_dict()),
        "samples.png": image_grid(images.pixels[few], PER_CLASS),
        "card.json": json_bytes(card),
        "card.md": synthesis_markdown(card).encode(),
        **generator_files(generator),
    }
    for name in fields["formats"]:
        files |= {f"images/{name}/{file}": content for file, content in image_files(images, name).items()}
    run.release(files)
    return _result(run)


def _first(images: Images, label: int) -> list[int]:
    """Indices of the first few images of a class."""
    if images.labels is None:
        return list(range(min(len(images), PER_CLASS**2)))
    return (images.labels == label).nonzero().flatten()[:PER_CLASS].tolist()


def _previews(folder: Path, steps: int) -> Callable[[GeneratorFitting], None]:
    """Writes a grid of samples now and then. All of it is made of what was released."""
    every = max(1, steps // PREVIEWS)

    def on_step(fitting: GeneratorFitting) -> None:
        if fitting.steps_done % every == 0:
            with writing(folder):
                folder.mkdir(exist_ok=True)
            grid = image_grid(fitting.preview(PER_CLASS), PER_CLASS)
            write_atomically(folder / f"{fitting.steps_done:06d}.png", grid)

    return on_step


def _result(run: RunDirectory) -> Synthesis:
    path = run.release_path / "card.json"
    card = read_json(path)
    with reading(str(path)):
        epsilon, delta, count = float(card["epsilon"]), float(card["delta"]), int(card["images"]["count"])
    generator = load_generator(run.release_path, read_json(run.release_path / "config.json"))
    return Synthesis(epsilon, delta, count, run.release_path, generator)
