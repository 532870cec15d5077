"""Every method by its name: those of this package, and those that others have installed."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from dpvision.methods.dp_mepf import DPMEPF
from dpvision.methods.dp_mix import DPMixDiff, DPMixSelf
from dpvision.methods.dp_randp import DPRandP
from dpvision.methods.dp_ridge import DPRidge
from dpvision.methods.dp_sgd import DPSGD
from dpvision.methods.method import Makes, Method
from dpvision.privacy.errors import InputError

GROUP = "dpvision.methods"
"""The group of entry points under which a package registers classes of methods, or objects."""

_OURS: tuple[Method, ...] = (DPSGD(), DPMixSelf(), DPMixDiff(), DPRandP(), DPRidge(), DPMEPF())


@cache
def methods() -> dict[str, Method]:
    """All methods by name. Those of other packages are loaded here.

    Raises:
        InputError: one of theirs cannot be loaded, or has the name of another.
    """
    found = {method.name: method for method in _OURS}
    for entry in entry_points(group=GROUP):
        try:
            loaded = entry.load()
            method: Method = loaded() if isinstance(loaded, type) else loaded
            name = method.name
        except Exception as error:  # whatever a package's code raises
            raise InputError(
                f"the method '{entry.name}' of {entry.value} cannot be loaded "
                f"({type(error).__name__}: {error}); mend or uninstall its package"
            ) from error
        if name in found:
            raise InputError(f"two methods are called '{name}'; uninstall the package of {entry.value}")
        found[name] = method
    return found


def find_method(name: str, makes: Makes | None = None) -> Method:
    """The method of this name.

    Raises:
        InputError: there is none, or it makes something else than is asked for.
    """
    fitting = {key: method for key, method in methods().items() if makes in (None, method.makes)}
    if name not in fitting:
        what = f" that makes {makes}" if makes else ""
        raise InputError(f"there is no method '{name}'{what}; choose one of {', '.join(fitting)}")
    return fitting[name]
