"""Does a release say which images it was made of? Tests on private images, whose figures are private."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.evaluation.blind import blind_attack
from dpvision.evaluation.downstream import check_same_shape
from dpvision.evaluation.features import features_in_words, image_features, names_of
from dpvision.evaluation.intervals import Figure, bounded_interval, check_numpy_seed
from dpvision.evaluation.membership import attacks
from dpvision.evaluation.pairs import PAIRS_AT_A_TIME, squared_distances
from dpvision.evaluation.roc import area, area_interval
from dpvision.evaluation.rows import Row
from dpvision.images import ImageSet
from dpvision.priors import build_encoder
from dpvision.priors.encoders import Encoder
from dpvision.privacy.errors import InputError
from dpvision.runs.progress import Progress

MOST_IMAGES = 10_000
"""Most images of each set that are compared."""

PIXELS_SIDE = 32
"""Larger images are averaged to this side where their pixels are compared."""

FALSE_POSITIVE_RATES = (0.001, 0.01)

logger = logging.getLogger("dpvision")


def evaluate_copies(
    synthetic: ImageSet,
    private: ImageSet,
    others: ImageSet,
    *,
    epsilon: float,
    delta: float,
    encoders: Sequence[Encoder] = (),
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> list[Row]:
    """Return how near synthetic images are to the private ones they were made from, against other real
    images of the same kind: in pixels and in the features of each encoder, the share of synthetic images
    whose nearest real image is a private one (:func:`nearest_is_private`), and how well distances tell
    private images from others (:func:`nearest_distances`). Before these, how well the real images alone tell
    it (:func:`dpvision.evaluation.blind.blind_attack`).

    As many private as other images are compared, chosen at random, at most 10,000 of each set. Private.

    Args:
        synthetic: images to be published.
        private: images that they were made from.
        others: images of the same kind, none of which is among the private ones.
        epsilon, delta: what the release claims: how well any attack may do follows from it.
        encoders: for images of that shape. They stay on the device.
        seed: the seed of the choice of images, from 0 to 2³² − 1.
        device: the device to compute on.
        progress: see `Progress`.

    Raises:
        InputError: a seed out of range, images of other shapes, or fewer than two private or other images.
    """
    check_numpy_seed(seed)
    check_comparable(synthetic, private, others)
    count = min(len(private), len(others), MOST_IMAGES)
    generator = torch.Generator().manual_seed(seed)
    some = [
        images.subset(torch.randperm(len(images), generator=generator)[:most])
        for images, most in ((synthetic, MOST_IMAGES), (private, count), (others, count))
    ]
    rows = _blind(some[1], some[2], seed)
    pixels = _pixels(synthetic.shape)
    compared = [pixels, *(encoder for encoder in encoders if encoder.config != pixels.config)]
    for name, encoder in zip(names_of(compared), compared, strict=True):
        x, members, non_members = (
            image_features(images, encoder, device=device, progress=progress).to(device) for images in some
        )
        features = features_in_words(encoder)
        rows += _rows(name, features, x, members, non_members, epsilon, delta, seed)
    return rows


def check_comparable(synthetic: ImageSet, private: ImageSet, others: ImageSet) -> None:
    """Raise InputError where :func:`evaluate_copies` cannot compare these."""
    for images in (private, others):
        check_same_shape(synthetic, images)
        if len(images) < 2:
            raise InputError(f"there are {len(images)} images of {images.source}, too few to compare; give 2")


def nearest_is_private(
    synthetic: Tensor, private: Tensor, others: Tensor, *, pairs_at_a_time: int = PAIRS_AT_A_TIME
) -> Figure:
    """Return the share of synthetic images whose nearest real image is a private one, where half of the real
    images are: 1/2 if synthetic images are no nearer to them than to others, 1 if all are copies. Where
    private and other images are equally near, they share.

    Its 95 % interval takes the synthetic images as given and accounts for which real images were looked at.
    Many synthetic images may have the same nearest one and are no independent trials then: the variance is
    that of a ratio of sums over real images (Cochran, Sampling Techniques, 1977, section 6.3).

    Args:
        synthetic: features ``[M, D]``; computed on its device.
        private: features ``[N, D]`` of private images.
        others: features ``[N, D]`` of as many other real images.
        pairs_at_a_time: distances to hold at once; does not change the result.
    """
    real = torch.cat([private, others]).to(synthetic.device)
    nearest_to = torch.zeros(len(real), dtype=torch.float64, device=synthetic.device)  # c, the sum of shares
    for _, distances in squared_distances(synthetic, real, pairs_at_a_time):
        nearest = (distances == distances.min(dim=1, keepdim=True).values).double()
        nearest_to += (nearest / nearest.sum(dim=1, keepdim=True)).sum(dim=0)
    counts = nearest_to.cpu().numpy()
    is_private = np.arange(len(real)) < len(private)
    M = len(synthetic)
    share = float(counts[is_private].sum()) / M
    residuals = counts * (is_private - share)
    variance = float((residuals**2).sum()) / M**2 * len(real) / (len(real) - 1)
    independent = M**2 / float((counts**2).sum())
    return Figure(share, *bounded_interval(share, variance, independent), M, len(real))


def nearest_distances(
    real: Tensor, synthetic: Tensor, *, pairs_at_a_time: int = PAIRS_AT_A_TIME
) -> NDArray[np.float64]:
    """Return the squared distance ``[N]`` of each real image ``[N, D]`` to its nearest synthetic one of ``[M,
    D]``.
    """
    blocks = squared_distances(real, synthetic, pairs_at_a_time)
    return torch.cat([distances.min(dim=1).values for _, distances in blocks]).double().cpu().numpy()


def _blind(private: ImageSet, others: ImageSet, seed: int) -> list[Row]:
    """Return the row of the attack that does not see the synthetic images, and warn where it succeeds; no row
    where there are too few images to say.
    """
    found = blind_attack(private, others, seed=seed)
    if found is None:
        return []
    warning = found.warning("private and other images")
    if warning:
        logger.warning(warning)
    return [
        Row.of(
            "blind membership AUC",
            Figure(found.auc, found.low, found.high, 0, len(private) + len(others)),
            f"telling {len(private)} private images from {len(others)} others without any synthetic image; "
            f"above 0.5 if the sets differ in kind, and then the other AUCs measure that; seed {seed}",
        )
    ]


def _pixels(shape: tuple[int, int, int]) -> Encoder:
    return build_encoder("pixels", shape, size=PIXELS_SIDE if min(shape[1:]) > PIXELS_SIDE else None)


def _rows(
    name: str,
    features: str,
    synthetic: Tensor,
    private: Tensor,
    others: Tensor,
    epsilon: float,
    delta: float,
    seed: int,
) -> list[Row]:
    """Return the rows of one kind of features, private and other images being as many."""
    scores = -nearest_distances(torch.cat([private, others]), synthetic)
    is_member = np.arange(len(scores)) < len(private)
    value, influence = area(scores, is_member)
    low, high = area_interval(value, influence, np.array([len(private), len(others)]))
    (attack,) = attacks({name: scores}, is_member, epsilon, delta)
    sizes = len(synthetic), len(scores)
    distance = f"by the distance to the nearest synthetic image in {features}"
    who = f"{len(private)} private images from {len(others)} others, {distance}; seed {seed}"
    rows = [
        Row.of(
            f"nearest real image is private ({name})",
            nearest_is_private(synthetic, private, others),
            f"share of synthetic images, in {features}, of as many private as other images; 0.5 if "
            f"none is copied; seed {seed}",
        ),
        Row.of(
            f"membership AUC ({name})", Figure(value, low, high, *sizes), f"telling {who}; 0.5 if by chance"
        ),
    ]
    for rate in attack.rates:
        # Of fewer others none may pass: a rate of 0 would be measured.
        if rate.at_most in FALSE_POSITIVE_RATES and rate.at_most * len(others) >= 1:
            rows.append(
                Row.of(
                    f"membership TPR at FPR {rate.at_most:.1%} ({name})",
                    Figure(rate.true_positive_rate, rate.low, rate.high, *sizes),
                    f"telling {who}; found at FPR {rate.false_positive_rate:.2%}, interval for "
                    f"{rate.at_most:.1%}, which it is by chance; epsilon allows {rate.most_private:.2%}",
                )
            )
    return rows
