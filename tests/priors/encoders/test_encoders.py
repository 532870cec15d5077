from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.networks import WideResNet, build_network
from dpvision.networks.scattering import Scattering2d
from dpvision.priors.encoders import build_encoder
from dpvision.priors.phase_one import places
from dpvision.priors.phase_one.prior_file import PROVENANCE, Prior, save_prior
from dpvision.privacy.errors import InputError

RGB = (3, 16, 16)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> WideResNet:
    """With float16 weights, so that a file keeps them exactly."""
    network = build_network("wrn-16-1", in_channels=3, image_size=(16, 16), num_classes=1, order="norm_first")
    for parameter in network.parameters():
        parameter.data = parameter.data.half().float()
    return network


@pytest.fixture
def prior_path(network: WideResNet, tmp_path: Path) -> str:
    weights = {
        key: value for key, value in network.state_dict().items() if key.startswith(("stem.", "stages."))
    }
    provenance = dict.fromkeys(PROVENANCE, 0) | {"normalization": {"mean": 0.5, "std": 0.25}}
    path = tmp_path / "small.safetensors"
    save_prior(path, Prior("small", "wrn-16-1", {"order": "norm_first"}, weights, provenance))
    return str(path)


def test_features_of_a_prior_are_its_networks_activations(network: WideResNet, prior_path: str) -> None:
    x = images(2, *RGB)
    encoder = build_encoder(prior_path, RGB, taps=[1, 2, 5], cells=[1, 4, 2])
    features = encoder(x).split([16, 32 * 16, 64 * 4], dim=1)

    outputs = [network.stem(x)]
    for block in network.stages:
        outputs.append(block(outputs[-1]))
    for tap, cells, found in zip([1, 2, 5], [1, 4, 2], features, strict=True):
        activation = outputs[tap + 1].relu().double().unflatten(1, (16, -1))  # [B, 16 groups, C', H', W']
        over_group = (2, 3, 4)
        deviation = activation.var(over_group, correction=0, keepdim=True).add(1e-5).sqrt()
        normalised = ((activation - activation.mean(over_group, keepdim=True)) / deviation).flatten(1, 2)
        side = normalised.shape[-1] // cells
        averages = normalised.unflatten(3, (cells, side)).unflatten(2, (cells, side)).mean(dim=(3, 5))
        torch.testing.assert_close(found, averages.flatten(1).float(), rtol=1e-4, atol=1e-5)


def test_by_default_the_ends_of_the_stages_are_averaged_the_finer_the_earlier(prior_path: str) -> None:
    encoder = build_encoder(prior_path, RGB)
    assert (encoder.config["taps"], encoder.config["cells"]) == ([1, 3, 5], [4, 2, 1])
    assert encoder.out_features == 16 * 16 + 32 * 4 + 64
    assert encoder.provenance["network"] == "wrn-16-1"
    # Twice per stage; images of 5 pixels leave 5, 3 and 2 positions, with a stem of stride 2 then 3, 2 and 1.
    assert build_encoder(prior_path, RGB, taps=[0, 1, 2, 4]).config["cells"] == [4, 4, 2, 1]
    strided = build_encoder("random-wrn-10-1", (3, 5, 5), network_options={"stem_stride": 2})
    assert strided.config["cells"] == [3, 2, 1]


def test_all_positions_of_a_prior_can_be_asked_for(network: WideResNet, prior_path: str) -> None:
    x = images(2, 3, 16, 12)
    encoder = build_encoder(prior_path, (3, 16, 12), taps=[1, 5], cells="all")
    assert encoder.out_features == 16 * 16 * 12 + 64 * 4 * 3
    first = network.stages[:2](network.stem(x))
    last = network.stages[2:](first)
    expected = [F.group_norm(tap.relu(), 16).flatten(1) for tap in (first, last)]
    torch.testing.assert_close(encoder(x), torch.cat(expected, dim=1))
    square = build_encoder(prior_path, RGB, cells="all")
    assert torch.equal(
        square(images(2, *RGB)), build_encoder(prior_path, RGB, cells=[16, 8, 4])(images(2, *RGB))
    )


def test_a_bundled_prior_is_found_by_name(prior_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "WEIGHTS", Path(prior_path).parent)
    x = images(2, *RGB)
    assert torch.equal(build_encoder("small", RGB)(x), build_encoder(prior_path, RGB)(x))


def test_random_weights_are_those_of_their_seed() -> None:
    """A run that is resumed builds its encoder anew."""
    x = images(2, *RGB)
    encoders = [build_encoder("random-wrn-10-1", RGB, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(encoders[0](x), encoders[1](x))
    assert torch.equal(encoders[0](x), build_encoder("random-wrn-10-1", RGB)(x))
    assert not torch.equal(encoders[0](x), encoders[2](x))


def test_scattering_is_normalised_and_averaged() -> None:
    x = 1000 * images(2, 3, 20, 16)  # so that GroupNorm's epsilon is nothing beside the variances
    plain = build_encoder("scattering", (3, 20, 16), groups=0)
    torch.testing.assert_close(plain(x), Scattering2d((20, 16))(x).flatten(1))
    groups = build_encoder("scattering", (3, 20, 16))(x).view(2, 27, 9 * 5 * 4)
    torch.testing.assert_close(groups.mean(dim=2), torch.zeros(2, 27))
    torch.testing.assert_close(groups.var(dim=2, correction=0), torch.ones(2, 27))
    averaged = build_encoder("scattering", (3, 20, 16), cells=2)
    assert averaged.out_features == 243 * 4
    expected = F.adaptive_avg_pool2d(groups.view(2, 243, 5, 4), 2).flatten(1)
    torch.testing.assert_close(averaged(x), expected)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 17, 22), (3, 8, 8), (1, 5, 5)])
@pytest.mark.parametrize("name", ["prior", "random-wrn-10-1", "scattering", "scattering+prior"])
def test_out_features_is_what_comes_out(name: str, shape: tuple[int, int, int], prior_path: str) -> None:
    encoder = build_encoder(name.replace("prior", prior_path), shape)
    features = encoder(images(2, *shape))
    assert features.shape == (2, encoder.out_features)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("prior", {"taps": [0, 3], "cells": 2}),
        ("prior", {"cells": "all"}),
        ("random-wrn-10-1", {"network_options": {"stem_stride": 2}, "cells": [2, 1, 1]}),
        ("scattering", {"J": 1, "L": 4, "cells": 3, "groups": 3}),
        ("prior+scattering", {"parts": [{"cells": 2}, {"L": 4, "groups": 0}]}),
        ("pixels+prior", {"parts": [{"size": 4}, {}], "part_weights": [0.5, 2]}),
    ],
)
def test_config_and_state_rebuild_the_encoder(name: str, options: dict[str, Any], prior_path: str) -> None:
    encoder = build_encoder(name.replace("prior", prior_path), RGB, **options)
    Path(prior_path).unlink()
    assert prior_path not in json.dumps(encoder.config)
    again = build_encoder(**json.loads(json.dumps(encoder.config)))
    again.load_state_dict(encoder.state_dict())
    x = images(2, *RGB)
    assert torch.equal(again(x), encoder(x))
    assert (again.config, again.provenance) == (encoder.config, encoder.provenance)


def test_a_sum_concatenates_features_of_norm_one(prior_path: str) -> None:
    x = images(2, *RGB)
    both = build_encoder(f"scattering+{prior_path}", RGB, parts=[{"cells": 2}, {"cells": 4}])
    parts = [build_encoder("scattering", RGB, cells=2), build_encoder(prior_path, RGB, cells=4)]
    expected = [part(x) / part(x).norm(dim=1, keepdim=True) for part in parts]
    torch.testing.assert_close(both(x), torch.cat(expected, dim=1))
    assert both.provenance == {"parts": [part.provenance for part in parts]}


def test_parts_of_a_sum_count_by_their_weights() -> None:
    x = images(2, *RGB)
    plain = build_encoder("scattering+pixels", RGB)
    assert plain.config["part_weights"] == [1, 1]
    before = {key: value for key, value in plain.config.items() if key != "part_weights"}
    assert torch.equal(build_encoder(**before)(x), plain(x))  # as models of older versions say it
    weighted = build_encoder("scattering+pixels", RGB, part_weights=[0, 2.5])
    scattering, pixels = weighted(x).split([3 * 81 * 16, 3 * 256], dim=1)
    assert not scattering.any()
    torch.testing.assert_close(pixels.norm(dim=1), torch.tensor([2.5, 2.5]))
    torch.testing.assert_close(pixels, 2.5 * plain(x)[:, -3 * 256 :])


def test_grey_images_are_seen_as_rgb(prior_path: str) -> None:
    x = images(2, 1, 16, 16)
    grey, colour = build_encoder(prior_path, (1, 16, 16)), build_encoder(prior_path, RGB)
    assert torch.equal(grey(x), colour(x.repeat(1, 3, 1, 1)))
    assert build_encoder("scattering", (1, 16, 16)).out_features == 81 * 16


def test_an_encoder_is_frozen_but_lets_gradients_through(prior_path: str) -> None:
    encoder = build_encoder(f"scattering+{prior_path}", RGB)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    around = nn.Sequential(encoder).train()
    assert around.training
    assert not any(module.training for module in encoder.modules())
    x = images(2, *RGB).requires_grad_()
    encoder(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        (
            "wrn",
            RGB,
            {},
            "no encoder 'wrn'; give the path of a prior's file, one of .*scattering, random-wrn-D-K",
        ),
        ("scattering+wrn", RGB, {}, "no encoder 'wrn'"),
        ("missing.safetensors", RGB, {}, r"no prior 'missing\.safetensors'"),
        ("scattering", (4, 16, 16), {}, "1 or 3 channels, not 4"),
        ("scattering", RGB, {"taps": [1]}, "has no option 'taps'; its options: J, L, cells, groups"),
        ("scattering", RGB, {"cells": 5}, "between 1 and 4 where there are 4×4 positions, not 5"),
        ("scattering", RGB, {"groups": 10}, "divide the 243 channels"),
        ("scattering", (1, 4, 4), {}, "more than 4×4 pixels"),
        ("random-wrn-10-1", (3, 4, 4), {}, "at least 5×5 pixels"),
        ("random-wrn-11-1", RGB, {}, "depth 10, 16, 22"),
        ("random-wrn-10-1", RGB, {"taps": [3]}, r"taps must be some of 0\.\.2 in ascending order, not \[3\]"),
        ("random-wrn-10-1", RGB, {"taps": [1, 0]}, "in ascending order"),
        ("random-wrn-10-1", RGB, {"taps": []}, "in ascending order"),
        ("random-wrn-10-1", RGB, {"cells": [1, 2]}, "one for each of 3 taps"),
        ("random-wrn-10-1", RGB, {"cells": 8}, "between 1 and 4 where there are 4×4 positions, not 8"),
        ("random-wrn-10-1", RGB, {"cells": 0}, "between 1 and 16"),
        ("random-wrn-10-1", RGB, {"cells": "any"}, 'one for each of 3 taps, or "all", not any'),
        ("random-wrn-10-1", RGB, {"network_options": {"unheard_of": 1}}, "no option 'unheard_of'"),
        ("scattering+random-wrn-10-1", RGB, {"cells": 1}, "no option 'cells'; its options: part_weights, pa"),
        ("scattering+random-wrn-10-1", RGB, {"parts": 3}, "parts must be a list, each a table, not 3"),
        ("scattering+random-wrn-10-1", RGB, {"parts": [1, 2]}, "parts must be a list, each a table"),
        ("scattering+random-wrn-10-1", RGB, {"parts": [{"taps": 1}, {}]}, "scattering has no option 'taps'"),
        ("scattering+pixels", RGB, {"part_weights": [1]}, "part_weights must be 2 numbers, none below 0"),
        ("scattering+pixels", RGB, {"part_weights": [2, -1]}, "none below 0 and not all 0"),
        ("scattering+pixels", RGB, {"part_weights": [0, 0]}, "none below 0 and not all 0"),
        ("scattering+pixels", RGB, {"part_weights": [1, float("nan")]}, "must be 2 numbers"),
        ("scattering+pixels", RGB, {"part_weights": [float("inf"), 1]}, "must be 2 numbers"),
        ("scattering+pixels", RGB, {"part_weights": ["1", 1]}, "must be a list, each a number"),
        ("random-wrn-10-1", RGB, {"seed": "x"}, "seed must be a whole number, not 'x'"),
        ("random-wrn-10-1", RGB, {"taps": [0.5]}, r"taps must be a list, each a whole number, not \[0.5\]"),
        ("random-wrn-10-1", RGB, {"network_options": 3}, "network_options must be a table, not 3"),
        ("random-wrn-10-1", RGB, {"network_options": {"stem_stride": "2"}}, "stem_stride must be a whole"),
        ("scattering", RGB, {"J": True}, "J must be a whole number, not True"),
        ("scattering", RGB, {"cells": [4, 2]}, "cells must be a whole number, not"),
        ("scattering+random-wrn-10-1", RGB, {"parts": [{}]}, "parts must be 2 tables of options, not 1"),
        ("torchvision:", RGB, {}, "there is no encoder 'torchvision:'"),
    ],
)
def test_what_cannot_be_built_is_refused(
    name: str, shape: tuple[int, int, int], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_encoder(name, shape, **options)
