"""The scattering transform: against kymatio where it imports, and against convolutions in space."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import convolve2d

from dpvision.networks import scattering
from dpvision.networks.scattering import Scattering2d
from dpvision.privacy.errors import InputError

Plane = NDArray[np.float64]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def scatter_in_space(image: Plane, J: int, L: int) -> Plane:  # noqa: N803
    """Slow and plain: every signal is brought back to full resolution, convolved there, and subsampled."""
    shape = tuple((side // 2**J + 2) * 2**J for side in image.shape)
    missing = [full - side for full, side in zip(shape, image.shape, strict=True)]
    padded = np.pad(image, [(m // 2, m - m // 2) for m in missing], mode="reflect")

    # Kernels are functions of (row, column) up to 7 standard deviations of the widest (for L up to 4).
    reach = 3 * 2**J
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(float)

    def wavelet(j: int, theta: int) -> NDArray[np.complex128]:
        angle, sigma, slant = (L // 2 - 1 - theta) * math.pi / L, 0.8 * 2**j, 4 / L
        along, across = y * np.cos(angle) + x * np.sin(angle), -y * np.sin(angle) + x * np.cos(angle)
        gaussian = np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2))
        wave = gaussian * np.exp(1j * 0.75 * math.pi / 2**j * along)
        return (wave - gaussian * wave.sum() / gaussian.sum()) * slant / (2 * math.pi * sigma**2)

    def convolved(signal: Plane, kernel: NDArray[np.complex128]) -> NDArray[np.complex128]:
        spectrum = np.fft.fftshift(np.fft.fft2(signal))
        margins = [((n - m) // 2, (n - m) // 2) for n, m in zip(shape, signal.shape, strict=True)]
        full = np.fft.ifft2(np.fft.ifftshift(np.pad(spectrum, margins))) * np.prod(shape) / signal.size
        return convolve2d(np.pad(full, reach, mode="wrap"), kernel, mode="valid")

    def averaged(signal: Plane) -> Plane:
        sigma = 0.8 * 2 ** (J - 1)
        gaussian = np.exp(-(x**2 + y**2) / (2 * sigma**2)) / (2 * math.pi * sigma**2)
        return convolved(signal, gaussian)[:: 2**J, :: 2**J][1:-1, 1:-1].real

    scales_and_angles = [(j, theta) for j in range(J) for theta in range(L)]
    moduli = {
        (j, theta): np.abs(convolved(padded, wavelet(j, theta)))[:: 2**j, :: 2**j]
        for j, theta in scales_and_angles
    }
    features = [averaged(padded), *(averaged(u) for u in moduli.values())]
    for (j, _), u in moduli.items():
        for k, theta in scales_and_angles:
            if k > j:
                features.append(averaged(np.abs(convolved(u, wavelet(k, theta)))[:: 2**k, :: 2**k]))
    return np.stack(features)


@pytest.mark.parametrize(("size", "J", "L"), [((12, 9), 2, 4), ((10, 16), 1, 3), ((9, 11), 3, 2)])
def test_equals_convolutions_in_space(size: tuple[int, int], J: int, L: int) -> None:  # noqa: N803
    images = noise(1, 2, *size)
    ours = Scattering2d(size, J, L)(images)
    for channel, features in zip(images[0], ours[0].chunk(2), strict=True):
        reference = scatter_in_space(channel.double().numpy(), J, L)
        np.testing.assert_allclose(features.numpy(), reference, atol=3e-6)


@pytest.mark.parametrize(("size", "J"), [((32, 32), 2), ((28, 30), 2), ((40, 33), 3)])
def test_equals_kymatio(size: tuple[int, int], J: int) -> None:  # noqa: N803
    kymatio = pytest.importorskip(
        "kymatio.torch",
        reason="kymatio 0.3.0 is not installed, or does not import (it needs SciPy < 1.17)",
        exc_type=ImportError,
    )
    images = noise(4, 3, *size)
    torch.testing.assert_close(
        Scattering2d(size, J)(images),
        kymatio.Scattering2D(J, size)(images).flatten(1, 2),
        rtol=1e-4,
        atol=1e-5,
    )


def test_shape_is_81_paths_of_every_channel_on_a_grid_four_times_coarser() -> None:
    transform = Scattering2d((32, 28))
    assert transform.paths == 81
    assert transform(noise(5, 3, 32, 28)).shape == (5, 243, 8, 7)


def test_a_flat_image_has_only_its_average_and_gradients_are_finite_there() -> None:
    image = torch.full((1, 1, 16, 16), 0.7, requires_grad=True)
    features = Scattering2d((16, 16))(image)
    torch.testing.assert_close(features[:, :1], torch.full((1, 1, 4, 4), 0.7))
    assert features[:, 1:].abs().max() < 1e-5
    features.sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_channels_and_images_do_not_mix() -> None:
    images = noise(2, 3, 16, 16)
    transform = Scattering2d((16, 16))
    alone = transform(images[1:, 2:])
    torch.testing.assert_close(transform(images)[1:, 2 * 81 :], alone)


def test_working_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(3, 2, 16, 16)
    transform = Scattering2d((16, 16))
    whole = transform(images)
    monkeypatch.setattr(scattering, "_CPU_PIECE", 5 * transform.widest)
    torch.testing.assert_close(transform(images), whole)


def test_nothing_is_learned_or_stored_and_autocast_changes_nothing() -> None:
    transform = Scattering2d((16, 16))
    assert not transform.state_dict()
    assert not list(transform.parameters())
    images = noise(2, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(transform(images), Scattering2d((16, 16))(images))
        assert transform(images.bfloat16()).dtype == torch.float32


def test_what_cannot_be_scattered_is_refused() -> None:
    with pytest.raises(InputError, match="more than 4×4 pixels, not 4×32; enlarge"):
        Scattering2d((4, 32))
    with pytest.raises(InputError, match="not J=0 and L=8"):
        Scattering2d((32, 32), J=0)
    with pytest.raises(InputError, match="takes images of 16×16 pixels, not 16×20"):
        Scattering2d((16, 16))(noise(1, 3, 16, 20))
