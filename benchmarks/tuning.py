"""What tuning is worth beside the defaults, at the same total ε.

    python benchmarks/tuning.py                                       # the bundled digits
    python benchmarks/tuning.py --data photos --seeds 3 --epsilon 1 --search learning_rate=10,30,100

For each ε and each number of trials, over some seeds: the accuracy on test images of a run with the
defaults; of tuning, at the same ε in all; of a candidate that is drawn without looking, at the full ε; and of
the best of all candidates at the full ε, which nobody can know. By default a method's learning rate is
searched, at a tenth, a third, once and three times the default. Batches and noise are drawn anew for every
run; features of images are computed once.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dpvision.cli.options import with_searches
from dpvision.images import Images, open_images
from dpvision.methods import Method, Session, Workplace, calibrate, dp_randp, find_method, tuned
from dpvision.methods.search import Search
from dpvision.methods.tuned import Tuned, images_right
from dpvision.networks import Classifier
from dpvision.privacy import Account, Budget, PublicFacts, SecureRandom, default_delta

CPU = torch.device("cpu")
TIMES = (0.1, 1 / 3, 1.0, 3.0)


def remembered(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`encoded`, which computes the features of a frozen encoder once."""
    known: dict[str, Tensor] = {}

    def encoded(model: Classifier, images: Images, tell: Any = None) -> Tensor:
        assert model.config is not None
        key = f"{len(images)} {images.source} {model.config}"
        if key not in known:
            known[key] = function(model, images)
        return known[key]

    return encoded


def trained(method: Method, images: Images, budget: Budget, settings: Mapping[str, Any]) -> Classifier:
    """The classifier of one run."""
    facts = PublicFacts(len(images), images.shape, images.class_names)
    config = method.default_config(facts, budget, CPU, settings)
    stages = calibrate(partial(method.stages, config, facts), len(images), budget)
    account = Account(budget, None, "benchmark", stages.events)
    account.open()
    session = Session(images, facts, stages, lambda: account, SecureRandom(), CPU)
    model = method.finish(config, method.learn(config, session), facts, Workplace(CPU)).model
    assert isinstance(model, Classifier)
    return model


def accuracies(
    method: Method, images: Images, test: Images, budget: Budget, settings: Mapping[str, Any], seeds: int
) -> list[float]:
    """The accuracy of each of so many runs, in per cent."""
    models = (trained(method, images, budget, settings) for _ in range(seeds))
    return [100 * images_right(model.eval(), test) / len(test) for model in models]


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each ε and each number of trials."""
    images = open_images(options.data)
    test = open_images(options.test or options.data, split="test")
    facts, method = PublicFacts(len(images), images.shape, images.class_names), find_method(options.method)
    for epsilon in options.epsilon:
        budget = Budget(epsilon, default_delta(len(images)))
        found: dict[str, Any] = {}
        with_searches(found, options.search)
        if not found:
            default = method.default_config(facts, budget, CPU, {}).learning_rate
            found["search"] = {"learning_rate": [float(f"{times * default:.2g}") for times in TIMES]}
        searches = {trials: Search(found["search"], trials) for trials in options.trials}
        measured = partial(accuracies, images=images, test=test, budget=budget, seeds=options.seeds)
        by_default = measured(method, settings={})
        candidates = [measured(method, settings=one) for one in next(iter(searches.values())).combinations()]
        for trials, search in searches.items():
            yield {
                "epsilon": epsilon,
                "search": found["search"],
                "trials": trials,
                "defaults": by_default,
                "tuned": measured(Tuned(method, search), settings={}),
                "drawn": [one for each in candidates for one in each],
                "best": max(candidates, key=statistics.fmean),
            }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="bundled:digits", help="images with a test split")
    parser.add_argument("--test", help="test images, where the data has none")
    parser.add_argument("--method", default="dp-randp")
    parser.add_argument("--epsilon", nargs="+", type=float, default=[1.0, 4.0])
    parser.add_argument(
        "--trials", nargs="+", type=float, default=[4.0, 8.0], help="expected numbers of trials"
    )
    parser.add_argument(
        "--search", action="append", metavar="KEY=VALUE,VALUE,…", help="in place of the rates"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each, two or more")
    parser.add_argument("--json", action="store_true", help="a JSON object for each row instead of a table")
    options = parser.parse_args()
    dp_randp.encoded = tuned.encoded = remembered(tuned.encoded)  # type: ignore[attr-defined]
    columns = ("defaults", "tuned", "drawn", "best")
    if not options.json:
        print(f"{'ε':>4} {'trials':>6} " + " ".join(f"{name:>14}" for name in columns) + "  search")
    for row in rows(options):
        if options.json:
            print(json.dumps(row), flush=True)
            continue
        cells = (f"{statistics.fmean(row[name]):.1f} ± {statistics.stdev(row[name]):.1f}" for name in columns)
        line = " ".join(f"{cell:>14}" for cell in cells)
        print(f"{row['epsilon']:>4g} {row['trials']:>6g} {line}  {row['search']}", flush=True)


if __name__ == "__main__":
    main()
