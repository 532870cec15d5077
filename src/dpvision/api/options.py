"""The options of runs: one list, from which the signatures and documentation of the functions, the command
line's options, the recipe files and the errors of all three follow.

It imports nothing heavy: a mistake in an option is told at once.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self, TypeVar, get_type_hints

from dpvision.images.places import check_exists
from dpvision.methods.registry import AUTO, check_known
from dpvision.methods.search import DEFAULT_TRIALS, Search
from dpvision.parallel import follows
from dpvision.priors.phase_one.places import check_prior_files
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.values import fits, in_words
from dpvision.runs.places import check_free, find_release
from dpvision.runs.tensorboard import check_tensorboard

if TYPE_CHECKING:
    from dpvision.images.choices import Choices

LONGEST_NAME = 200
"""Characters of what a card calls the private images, at most."""

Function = TypeVar("Function", bound=Callable[..., Any])
FilePath = str | os.PathLike[str]


def option(help: str, default: Any = MISSING, **command_line: str) -> Any:
    """Return a field of options.

    Args:
        help: one or two sentences, for the documentation and for --help.
        default: None stands for what ``help`` says.
        command_line: "flag" and "metavar", where they do not follow from the name; "python_only" for what no
            command line can give.
    """
    return field(default=default, metadata={"help": help, **command_line})


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options of how images are read, where their files leave that open; see `open_images`."""

    size: int | None = option(
        "Make every image a square of this side; by default images that differ in size, or are larger than "
        "64 pixels when no network and no library's encoder is named, are resized to 64 or 32.",
        None,
    )
    channels: int | None = option("1 makes every image grey, 3 colour; by default they stay.", None)
    resize: str = option(
        "How an image becomes a square: crop (default) takes its middle, pad adds black beside it, stretch "
        "changes its proportions.",
        "crop",
    )
    value_range: str | Sequence[float] | None = option(
        "Which values are black and white in images of more than 8 bits, such as 0:4095.",
        None,
        metavar="LOW:HIGH",
    )
    classes: str | int | Sequence[str] | Mapping[str, str] | None = option(
        "The classes, where the data do not name them all: their names in order (normal,pneumonia), names by "
        "label (1=normal,2=pneumonia), or how many there are, numbered from 0.",
        None,
    )
    path_column: str | None = option(
        "The column of a table that names the image files, or of Parquet with images, which holds them; by "
        "default one with a usual name.",
        None,
        metavar="NAME",
    )
    label_column: str | None = option(
        "The column of a table that holds the labels; by default one with a usual name.", None, metavar="NAME"
    )
    split_column: str | None = option(
        "The column of a table that says train, val or test; by default one with a usual name.",
        None,
        metavar="NAME",
    )
    unit_column: str | None = option(
        "The column that says whose image each is, such as a patient's: all images of one are protected "
        "together; by default one with a usual name (patient, subject, participant, person, user, unit, also "
        "with _id).",
        None,
        metavar="NAME",
    )
    unit: str | None = option(
        "What is protected: image, each by itself, whatever the data say of units; or dicom-patient, all "
        "images of a patient, by the headers of DICOM files. By default what the data say.",
        None,
    )
    first_frame: bool = option(
        "Take the first frame or page of image files with several, which else are refused.", False
    )
    skip_unreadable: bool = option(
        "Leave out images that cannot be read, and say how many. Each decides alone, so the guarantee holds.",
        False,
    )

    def choices(self) -> Choices:
        """Return them in the form in which they are read by. InputError where one cannot be."""
        from dpvision.images.choices import Choices  # here: it takes seconds to import

        return Choices(**{one.name: getattr(self, one.name) for one in dataclasses.fields(ReadOptions)})


@dataclass(frozen=True, kw_only=True)
class RunOptions(ReadOptions):
    """Options that every run on private images takes."""

    epsilon: float = option("The budget's ε; never exceeded.")
    delta: float | None = option(
        "The budget's δ, below 1/N; by default the largest power of ten that is at most 1/(10·N).", None
    )
    neighboring_relation: str = option(
        "Neighbouring relation: add_or_remove_one (default) or replace_one.",
        "add_or_remove_one",
        flag="--relation",
    )
    method: str = option(
        "How to learn: one of `dpvision methods`; by default {default}, which chooses by what is public.",
        AUTO,
    )
    config: Mapping[str, Any] | None = option(
        "Settings of the method in place of its defaults; see `dpvision settings METHOD`.", None
    )
    seed: int | None = option("Makes the run reproducible and NOT PRIVATE; for tests only.", None)
    device: str | None = option("Such as cpu or cuda; by default a GPU where there is one.", None)
    num_examples: int | None = option(
        "N as you declare it to be public; by default as many images as there are. Where it is another "
        "number, say a rounded one, how many there are stays private under add_or_remove_one.",
        None,
        metavar="N",
    )
    allow_overlap: bool = option(
        "Go on where test images, public images or an encoder turn out to hold private images. The run is "
        "NOT PRIVATE then, and its card says so.",
        False,
    )
    ledger: FilePath | None = option(
        "The data set's ledger; by default in the user's data directory, found by the data's digest.",
        None,
        metavar="FILE",
    )

    def __post_init__(self) -> None:
        relation: Any = self.neighboring_relation
        Budget(self.epsilon, 1e-9 if self.delta is None else self.delta, relation)  # refuses what is none
        if self.method != AUTO:
            check_known(self.method)
        check_seed(self.seed)
        name = getattr(self, "data_name", None)
        if name is not None and not 1 <= len(name) <= LONGEST_NAME:
            raise InputError(f"data_name must have 1 to {LONGEST_NAME} characters, not {len(name)}")

    @classmethod
    def of(cls, given: Mapping[str, Any], data: Any = None) -> Self:
        """Take the options that were given, of a run on ``data``: a place, or images in memory.

        Raises:
            InputError: names the first that does not exist, is missing or is of another type; where data is
                given, also the first place that is not as it must be.
        """
        known = {one.name: one for one in dataclasses.fields(cls)}
        unknown = [name for name in given if name not in known]
        if unknown:
            raise InputError(f"there is no option '{unknown[0]}'; choose from {', '.join(known)}")
        for name, one in known.items():
            if one.default is MISSING and given.get(name) is None:
                raise InputError(f"{name} is missing; give it")
        hints = get_type_hints(cls)
        for name, value in given.items():
            if not fits(value, hints[name]):
                raise InputError(f"{name} must be {in_words(hints[name])}, not {value!r}")
        options = cls(**{name: _plain(value) for name, value in given.items()})
        if data is not None:
            options._check_places(data)
        return options

    def _check_places(self, data: Any) -> None:
        """Raise InputError unless what is named exists, and ``out`` does not. Nothing is read."""
        out, config = getattr(self, "out", None), self.config or {}
        if out is not None:
            check_free(out)
        for images in (data, getattr(self, "test", None), config.get("pool")):
            if isinstance(images, str | os.PathLike):
                check_exists(images)
        if isinstance(config.get("encoder"), str):
            check_prior_files(config["encoder"])


@dataclass(frozen=True, kw_only=True)
class OfClassifiers:
    """Options, beside the settings, of runs that make a classifier."""

    network: Any = option(
        "A network of your own, for methods that train one from scratch: an nn.Module or what makes one; see "
        "`dpvision.register_network`.",
        None,
        python_only="yes",
    )


@dataclass(frozen=True, kw_only=True)
class Tested:
    """Options of runs whose classifier is tested."""

    test: Any = option(
        "Images to measure the accuracy on; by default DATA's test split, if it has one.", None
    )


@dataclass(frozen=True, kw_only=True)
class Watched(RunOptions):
    """Options of runs that one can watch."""

    tensorboard: bool = option(
        "Show each step, of methods that take steps, to TensorBoard, by event files in "
        "RUN/private/tensorboard, which are private. It comes with the extra tensorboard.",
        False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tensorboard:
            check_tensorboard()


@dataclass(frozen=True, kw_only=True)
class Named:
    """Options of runs whose release has a card."""

    data_name: str | None = option(
        "What the card calls the private images, for whoever reads it; by default it names them by no name.",
        None,
        metavar="TEXT",
    )


@dataclass(frozen=True, kw_only=True)
class Searched(RunOptions):
    """Options of runs whose settings may be tuned."""

    search: Mapping[str, Any] | None = option(
        "Settings to tune, each with a list of values; every combination is a candidate.", None
    )
    trials: float | None = option(
        f"How many trials there are on average, each of a candidate that is drawn; by default "
        f"{DEFAULT_TRIALS:g}.",
        None,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.searching is None:
            if self.trials is not None:
                raise InputError("trials are of a search; name the settings to search")
            return
        for name in self.searching.values.keys() & (self.config or {}).keys():
            raise InputError(f"{name} is both given and searched; leave one out")

    @property
    def searching(self) -> Search | None:
        """The search, if there is one."""
        if self.search is None:
            return None
        return Search(self.search, DEFAULT_TRIALS if self.trials is None else self.trials)


@dataclass(frozen=True, kw_only=True)
class FromRun(RunOptions):
    """Options of runs that may go on from an earlier one."""

    from_run: FilePath | None = option(
        "An earlier run that made a classifier, or its release: training goes on from that one, and the card "
        "states what both cost together. Settings are by default those of that run.",
        None,
        flag="--from",
        metavar="RUN",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.from_run is not None and not follows():  # one that follows may not see it
            find_release(self.from_run)


@dataclass(frozen=True, kw_only=True)
class OneClassifier(Named, Tested, OfClassifiers, Watched):
    """Options of every run that makes a classifier."""

    out: FilePath = option("The run's directory, made here. Publish RUN/release, keep RUN/private.")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(FromRun, OneClassifier):
    """Options of a run that makes a classifier."""


@dataclass(frozen=True, kw_only=True)
class SweptOptions(OneClassifier):
    """Options of one run of a sweep. That it is unpaid no command can say of a run by itself."""

    unpaid: bool = False


@dataclass(frozen=True, kw_only=True)
class TuneOptions(Searched, OneClassifier):
    """Options of a run that tunes the settings of a classifier."""

    search: Mapping[str, Any] = option(
        "Settings to tune, each with a list of values; every combination is a candidate."
    )


@dataclass(frozen=True, kw_only=True)
class FitOptions(Searched, SweptOptions):
    """Options of a fit of `DPImageClassifier`: with a search or without, and only on images on which nothing
    was spent, unless the user insists.
    """

    first: bool = True


@dataclass(frozen=True, kw_only=True)
class FinishOptions:
    """Options for what is published of the images that a run makes."""

    count: int | None = option(
        "Images to release; by default N: as many as the private images, or units, are said to be.", None
    )
    formats: Sequence[str] = option(
        "To write images in: png (default), npz or parquet.", ("png",), flag="--format"
    )
    balanced: bool = option(
        "As many images of every class, and not by the class sizes that were released with noise.", False
    )
    class_counts: Mapping[str, int] | None = option(
        "How many images of which classes, by name, in place of a count; of the others there are none.",
        None,
        flag="--class-count",
        metavar="CLASS=COUNT",
    )

    @property
    def of_images(self) -> list[str]:
        """The names of those that were given."""
        given = {
            "count": self.count,
            "formats": tuple(self.formats) != ("png",),
            "balanced": self.balanced,
            "class_counts": self.class_counts,
        }
        return [name for name, value in given.items() if value not in (None, False)]

    def check_counts(self) -> None:
        """Raise InputError unless what is said of how many images there are is said once, and possible."""
        if self.count is not None and self.count < 1:
            raise InputError(f"count must be at least 1, not {self.count}")
        if self.class_counts is None:
            return
        for name, is_given in (("count", self.count is not None), ("balanced", self.balanced)):
            if is_given:
                raise InputError(f"{name} and class_counts both say how many images there are; leave one out")
        if not self.class_counts:
            raise InputError("class_counts names no class; name at least one")
        for name, count in self.class_counts.items():
            if not fits(count, int) or count < 1:
                raise InputError(
                    f"the count of class '{name}' must be a whole number of at least 1, not {count!r}"
                )


@dataclass(frozen=True, kw_only=True)
class Refining:
    """Options of runs whose release may refine an earlier one."""

    refine: FilePath | None = option(
        "An earlier run of synthesize on the same images, or its release: this run makes that more exact, "
        "and the images pay for both.",
        None,
        metavar="RUN",
    )

    def check_refined(self) -> None:
        """Raise InputError unless what is to be refined is a release."""
        if self.refine is not None and not follows():  # one that follows says it to the first
            find_release(self.refine)


@dataclass(frozen=True, kw_only=True)
class SynthesisOptions(FinishOptions, Refining, Named, Watched):
    """Options of a run that makes images."""

    out: FilePath = option("The run's directory, made here. Publish RUN/release, keep RUN/private.")
    seed: int | None = option(
        "Makes the run reproducible and NOT PRIVATE; for tests only. With --from-release it seeds the making "
        "of images alone, and the guarantee stays.",
        None,
    )
    method: str = option(
        "How to learn: one of `dpvision methods`; by default dp-moments, or with refine that of the earlier "
        "run.",
        AUTO,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts()
        self.check_refined()


@dataclass(frozen=True, kw_only=True)
class PlanOptions(FinishOptions, Refining, FromRun, Named, Searched, Tested, OfClassifiers, Watched):
    """Options of a forecast."""

    out: FilePath | None = option("The directory that the run would have; it must be free.", None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts()
        self.check_refined()


FROM_RELEASE = frozenset({"out", "count", "formats", "balanced", "class_counts", "config", "seed", "device"})
"""The options of `SynthesisOptions` that say how to make more of what was released."""


CANARY_KINDS = ("gradient", "images", "mislabelled")


@dataclass(frozen=True, kw_only=True)
class AuditOptions(OfClassifiers, FromRun):
    """Options of an audit."""

    canaries: int | None = option(
        "How many; by default 1000, of mislabelled ones at most a tenth of the images.", None
    )
    canary_kind: str = option(
        "gradient (default): vectors as long as is allowed, in every release; images: these, and worst-case "
        "images through views, network and clip; or mislabelled: images with one of two wrong labels, looked "
        "for in the trained classifier alone.",
        "gradient",
    )
    confidence: float = option("With which each bound holds; by default {default}.", 0.95)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.canary_kind not in CANARY_KINDS:
            raise InputError(
                f"there are no canaries '{self.canary_kind}'; choose {' or '.join(CANARY_KINDS)}"
            )


SORTS = ("name", "method", "epsilon", "accuracy", "started")
"""What runs may be sorted by; by accuracy the best is first."""


FIGURES = {"accuracy": "test accuracy", "auc": "AUC"}
"""What runs may be compared by, and what it is called."""


def check_figure(figure: str) -> None:
    """Raise InputError unless runs can be compared by it."""
    if figure not in FIGURES:
        raise InputError(f"runs cannot be compared by '{figure}'; choose one of {', '.join(FIGURES)}")


def check_sort(sort: str) -> None:
    """Raise InputError unless runs can be sorted so."""
    if sort not in SORTS:
        raise InputError(f"runs cannot be sorted by '{sort}'; choose one of {', '.join(SORTS)}")


def check_seed(seed: int | None) -> None:
    """Raise InputError unless every random generator of a run takes it, torch's among them."""
    if not (seed is None or 0 <= seed < 1 << 63):
        raise InputError(f"seed must be a whole number from 0 to 2**63 - 1, not {seed!r}")


FEWEST_SHADOW_MODELS = 4


def check_shadow_models(count: int) -> None:
    """Raise InputError unless membership inference can do with so many classifiers, or does without."""
    if count != 0 and count < FEWEST_SHADOW_MODELS:
        raise InputError(
            f"the number of shadow models must be 0 or at least {FEWEST_SHADOW_MODELS}, not {count}"
        )


def takes(options: type, without: Sequence[str] = ()) -> Callable[[Function], Function]:
    """Give a function of ``**options`` the signature and the documentation of these options, without some:
    its docstring has ``{options}`` where they belong.
    """
    fields = [one for one in dataclasses.fields(options) if one.name not in without]

    def documented(function: Function) -> Function:
        hints = get_type_hints(options)
        named = [
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if one.default is MISSING else one.default,
                annotation=hints[one.name],
            )
            for one in fields
        ]
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        before = [p for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        named += [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
        named.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)
        function.__signature__ = signature.replace(parameters=[*before, *named])  # type: ignore[attr-defined]
        lines = [f"{one.name}: {described(one)}" for one in fields]
        wrapped = [textwrap.fill(line, 98, subsequent_indent=" " * 12) for line in lines]
        function.__doc__ = (function.__doc__ or "").replace("{options}", "\n        ".join(wrapped))
        return function

    return documented


def described(one: dataclasses.Field[Any]) -> str:
    """Return the help text of an option."""
    return str(one.metadata["help"]).replace("{default}", str(one.default))


def _plain(value: Any) -> Any:
    """Return a number of NumPy's as Python's, so that it can be written down."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value
