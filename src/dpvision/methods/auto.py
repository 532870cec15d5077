"""Choose a classifier's method, where the user names none: what ``--method auto``, the default, stands for.

Only what is public decides: the settings that were given, and the size of the images. The rule:

1. Settings that only dp-sgd or only dp-randp has decide for it, such as ``network`` or ``encoder``.
2. So does a setting of views, for dp-sgd: by default dp-randp learns from images as they are.
3. Else dp-randp, but for images that its bundled prior does not take.

The rule follows from the table "The methods' defaults" in docs/results/index.md, which
``benchmarks/defaults.py`` prints. By accuracy dp-randp was ahead, or behind by less than the figures are
uncertain, on sets of 2 to 100 classes and 300 to 8,000 images, grey and colour, at ε = 0.2, 1 and 4. So
neither N nor the number of classes, colours or ε change the choice. On a GPU nothing was measured, and the
choice is the same.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

from dpvision.methods.registry import find_method
from dpvision.methods.settings import setting_types
from dpvision.methods.view_settings import ViewSettings
from dpvision.networks import WideResNet
from dpvision.privacy.errors import InputError

FROM_SCRATCH, ON_FEATURES = "dp-sgd", "dp-randp"


@dataclass(frozen=True)
class Choice:
    """A method's name, and why it was chosen: a clause that follows "because"."""

    method: str
    because: str


def choose_method(settings: Collection[str], image_shape: tuple[int, int, int] | None = None) -> Choice:
    """Choose the method of a classifier.

    Args:
        settings: the names of those that the user has given.
        image_shape: (C, H, W), if it is known by now.

    Raises:
        InputError: a setting does not exist, or no method has all of them.
    """
    given = set(settings)
    scratch, features = (
        setting_types(find_method(name).config_class).keys() for name in (FROM_SCRATCH, ON_FEATURES)
    )
    for name in sorted(given - scratch - features):
        raise InputError(
            f"there is no setting '{name}'; choose from {', '.join(sorted(scratch | features))}, or name the "
            "method that has it"
        )
    of_scratch, of_features = sorted(given - features), sorted(given - scratch)
    if of_scratch and of_features:
        raise InputError(f"no method has both {of_scratch[0]} and {of_features[0]}; leave one of them out")
    if of_scratch:
        return Choice(FROM_SCRATCH, f"{of_scratch[0]} is a setting of it alone")
    if of_features:
        return Choice(ON_FEATURES, f"{of_features[0]} is a setting of it alone")
    of_views = sorted(given & {one.name for one in fields(ViewSettings)})
    if of_views:
        return Choice(FROM_SCRATCH, f"{of_views[0]} is of views, and it learns from these")
    if image_shape and min(image_shape[1:]) < WideResNet.SMALLEST_SIDE:
        return Choice(FROM_SCRATCH, f"images of {image_shape[1]}×{image_shape[2]} are too small for a prior")
    return Choice(ON_FEATURES, "it was the most accurate on most sets where defaults were measured")
