"""Every method by its name: those of this package, and those that others have installed.

It imports nothing heavy, and a method's module when that method is asked for.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from dpvision.privacy.errors import InputError

if TYPE_CHECKING:
    from dpvision.methods.method import Makes, Method

GROUP = "dpvision.methods"
"""The group of entry points under which a package registers classes of methods, or objects. An entry has the
name of the method.
"""

AUTO = "auto"
"""What stands in the place of a method that was not named: of a classifier's it is chosen by
:mod:`dpvision.methods.auto`, of images' it is `OF_IMAGES`, or that of the run that is taken up.
"""

OF_IMAGES = "dp-moments"
"""The method that makes images where none is named."""

TUNED = "tune:"
"""What a method's name has before it where its settings are tuned, see :mod:`dpvision.methods.tuned`."""

REFINED = "refine:"
"""What a method's name has before it where an earlier release is refined, see
:mod:`dpvision.methods.refined`.
"""

FROM = "from:"
"""What a method's name has before it where training goes on from an earlier release, see
:mod:`dpvision.methods.going_on`.
"""

_OURS = {
    "dp-sgd": "dpvision.methods.dp_sgd:DPSGD",
    "dp-mix-self": "dpvision.methods.dp_mix:DPMixSelf",
    "dp-mix-diff": "dpvision.methods.dp_mix:DPMixDiff",
    "dp-randp": "dpvision.methods.dp_randp:DPRandP",
    "dp-ridge": "dpvision.methods.dp_ridge:DPRidge",
    "dp-moments": "dpvision.methods.dp_moments:DPMoments",
    "dp-mepf": "dpvision.methods.dp_mepf:DPMEPF",
    "dp-diffusion": "dpvision.methods.dp_diffusion:DPDiffusion",
    "dp-distill": "dpvision.methods.dp_distill:DPDistill",
}


@cache
def known_methods() -> dict[str, EntryPoint]:
    """Return the entry point of each method, by its name. Nothing is loaded.

    Raises:
        InputError: two methods have one name.
    """
    found = {name: EntryPoint(name, value, GROUP) for name, value in _OURS.items()}
    for entry in entry_points(group=GROUP):
        if entry.name in found or entry.name == AUTO:
            raise InputError(f"two methods are called '{entry.name}'; uninstall the package of {entry.value}")
        found[entry.name] = entry
    return found


def check_known(name: str) -> None:
    """Raise InputError unless there is a method of this name."""
    if name not in known_methods():
        raise InputError(f"there is no method '{name}'; choose one of {', '.join(known_methods())}")


def find_method(name: str, makes: Makes | None = None) -> Method:
    """Load the method of this name.

    >>> find_method("dp-ridge").makes
    'a classifier'

    Raises:
        InputError: there is none, it cannot be loaded, or it makes something else than is asked for.
    """
    if name.startswith(TUNED):
        from dpvision.methods.tuned import Tuned  # here: it takes seconds to import

        return Tuned(find_method(name.removeprefix(TUNED)))
    if name.startswith(REFINED):
        from dpvision.methods.refined import Refined

        return Refined(find_method(name.removeprefix(REFINED)))
    if name.startswith(FROM):
        from dpvision.methods.going_on import GoingOn

        return GoingOn(find_method(name.removeprefix(FROM)))
    if name == AUTO and makes == "images":
        name = OF_IMAGES
    check_known(name)
    method = _load(known_methods()[name])
    if makes not in (None, method.makes):
        fitting = ", ".join(each for each in known_methods() if find_method(each).makes == makes)
        raise InputError(f"there is no method '{name}' that makes {makes}; choose one of {fitting}")
    return method


def plain_name(name: str) -> str:
    """Return what a method is called where nothing is tuned, refined or gone on from.

    >>> plain_name("from:dp-sgd")
    'dp-sgd'
    """
    for prefix in (TUNED, REFINED, FROM):
        name = name.removeprefix(prefix)
    return name


@cache
def _load(entry: EntryPoint) -> Method:
    try:
        loaded = entry.load()
        method: Method = loaded() if isinstance(loaded, type) else loaded
        if method.name != entry.name:
            raise ValueError(f"it calls itself '{method.name}'")
    except Exception as error:  # whatever a package's code raises
        raise InputError(
            f"the method '{entry.name}' of {entry.value} cannot be loaded "
            f"({type(error).__name__}: {error}); mend or uninstall its package"
        ) from error
    return method
