"""Statistical tests of everything random that the guarantee rests on: normals, uniforms, batches, keystream.

    python -m checks.noise [--draws 100000000] [--seed SEED] [--fault NAME] [--json]

Normals are tested as they are released: `GaussianSumMechanism.release` on sums of zeros, two tensors at a
time, from the operating system's entropy, or from a seed, to see a result again. Every test gives a p-value,
and the command fails (exit code 1) if one of k is below 10⁻⁶/k: right generators fail once in a million runs.
``--fault`` shows that the tests can fail: it spoils what is released in a known way.

10⁸ draws take under a minute on one core; uniforms and members of batches are a tenth as many.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.polynomial.hermite_e import hermeval
from scipy.special import kolmogorov
from scipy.stats import binom, chi2, norm
from torch import Tensor

from dpvision.privacy import (
    Event,
    FullBatch,
    GaussianSumMechanism,
    PoissonSampler,
    RandomSource,
    SecureRandom,
    random_source,
)
from dpvision.privacy.gaussian import _BLOCK, _FINENESS
from dpvision.privacy.noise import keystream

FAMILY_LEVEL = 1e-6
MECHANISM = GaussianSumMechanism(1.3, 0.7, FullBatch(1000))
SIGMA = MECHANISM.standard_deviation
GRID = 2.0 ** (math.floor(math.log2(SIGMA)) - _FINENESS)
SHAPES = {"weight": (2, _BLOCK), "bias": (_BLOCK + 1,)}  # of one release
QUANTILES = 1 << 16
CLIP = (
    4.0  # moments are of clipped normals, so that their errors are normal too; tails have tests of their own
)
ORDERS = range(1, 9)
TAILS = (3, 4, 5, 6)
LAGS = (1, 2, _BLOCK // 2, _BLOCK)

Release = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Result:
    """One test: its statistic, in words, and the probability of one as extreme from a right generator."""

    name: str
    statistic: str
    p_value: float


class NoAccount:
    """What is released here is noise alone."""

    def record(self, event: Event) -> None:
        pass


def release_with(random: RandomSource) -> Release:
    """The mechanism itself."""
    return lambda sums: MECHANISM.release(sums, NoAccount(), random)


def spoiled(release: Release, spoil: Callable[[Tensor], Tensor]) -> Release:
    return lambda sums: {name: spoil(values) for name, values in release(sums).items()}


def on_grid(values: Tensor) -> Tensor:
    return ((values.double() / GRID).round() * GRID).float()


def cut_tails(values: Tensor) -> Tensor:
    return on_grid(values.clamp(-3.999 * SIGMA, 3.999 * SIGMA))


def tie_pairs(values: Tensor) -> Tensor:
    """In a hundredth of the pairs of Box and Muller's method both are equal."""
    tied = values.flatten().clone()
    for block in tied.split(_BLOCK):
        half = len(block) // 2
        block[half : half + half // 100] = block[: half // 100]
    return tied.view_as(values)


def bias_low_bit(values: Tensor) -> Tensor:
    """One odd multiple of the grid in a hundred becomes the even one beside it."""
    multiples = (values.double() / GRID).round()
    chosen = (multiples % 2 == 1) & (torch.rand(values.shape) < 0.01)
    return ((multiples - chosen.double()) * GRID).float()


def repeat_block(values: Tensor) -> Tensor:
    """A hundredth of the second block repeats the first."""
    repeated = values.flatten().clone()
    some = repeated[_BLOCK:][: _BLOCK // 100]
    some.copy_(repeated[: len(some)])
    return repeated.view_as(values)


FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "deviation": lambda values: on_grid(values * 0.999),
    "mean": lambda values: on_grid(values + 0.001 * SIGMA),
    "tails": cut_tails,
    "pairs": tie_pairs,
    "low-bit": bias_low_bit,
    "repeat": repeat_block,
}


# --- p-values ---


def of_z(name: str, z: float) -> Result:
    return Result(name, f"z = {z:+.2f}", float(2 * norm.sf(abs(z))))


def of_counts(name: str, counts: np.ndarray) -> Result:
    """χ² of counts that should be equal."""
    expected = counts.sum() / counts.size
    value = float(((counts - expected) ** 2).sum() / expected)
    return Result(name, f"χ²({counts.size - 1}) = {value:.1f}", float(chi2.sf(value, counts.size - 1)))


def of_binomial(name: str, count: int, trials: int, probability: float) -> Result:
    tail = min(binom.cdf(count, trials, probability), binom.sf(count - 1, trials, probability))
    return Result(name, f"{count} of {trials * probability:.1f}", min(1.0, 2 * float(tail)))


def of_spread(name: str, counts: Tensor, trials: int, probability: float) -> Result:
    """Whether counts vary as binomial ones do."""
    variance = trials * probability * (1 - probability)
    squared = (counts.double() - trials * probability) ** 2 / variance
    excess_kurtosis = (1 - 6 * probability * (1 - probability)) / variance
    return of_z(name, float((squared - 1).sum()) / math.sqrt((2 + excess_kurtosis) * len(counts)))


# --- normals ---


class Products:
    """Sums of products of what should be independent, each of mean 0 and variance 1."""

    def __init__(self, name: str) -> None:
        self.name, self.total, self.count = name, 0.0, 0

    def add(self, left: Tensor, right: Tensor) -> None:
        self.total += float(left @ right)
        self.count += len(left)

    def result(self) -> Result:
        return of_z(self.name, self.total / math.sqrt(self.count))


def squares(values: Tensor) -> Tensor:
    """Of mean 0 and variance 1 as well; sees scales that vary together."""
    return (values.square() - 1) / math.sqrt(2)


def clipped_moments() -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of He_k, k in ORDERS, of a normal clipped to ±CLIP, by quadrature."""
    points, weights = np.polynomial.legendre.leggauss(200)
    inner = weights * CLIP * norm.pdf(CLIP * points)
    at = np.concatenate([CLIP * points, [-CLIP, CLIP]])
    mass = np.concatenate([inner, [norm.sf(CLIP)] * 2])
    values = np.stack([hermeval(at, np.eye(order + 1)[order]) for order in ORDERS])
    means = values @ mass
    return means, np.sqrt((values - means[:, None]) ** 2 @ mass)


def hermite_sums(values: Tensor) -> np.ndarray:
    """Σ He_k of clipped values, for k in ORDERS."""
    x = values.clamp(-CLIP, CLIP)
    before, now = torch.ones_like(x), x.clone()
    sums = [float(now.sum())]
    for order in ORDERS[:-1]:
        before, now = now, x * now - order * before
        sums.append(float(now.sum()))
    return np.array(sums)


def check_normals(release: Release, draws: int) -> list[Result]:
    """Of at least ``draws`` released numbers, each N(0, SIGMA²), whole releases at a time."""
    counts, pair_counts = np.zeros(QUANTILES), np.zeros(32 * 32)
    low_bits = np.zeros(256)
    above, below = dict.fromkeys(TAILS, 0), dict.fromkeys(TAILS, 0)
    moments, done, off_grid = np.zeros(len(ORDERS)), 0, 0
    kinds = {"values": lambda values: values, "squares": squares}
    within = {(kind, lag): Products(f"{kind} {lag} apart") for kind in kinds for lag in LAGS}
    between = {kind: Products(f"{kind} of one release and the next") for kind in kinds}
    of_tensors = {kind: Products(f"{kind} of two tensors of a release") for kind in kinds}
    earlier: Tensor | None = None
    zeros = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    while done < draws:
        released = release(zeros)
        numbers = torch.cat([values.flatten() for values in released.values()]).double()
        done += len(numbers)

        multiples = numbers / GRID
        off_grid += int((multiples != multiples.round()).sum())
        # Where float32 holds every multiple, and the density is flat over 256 of them.
        exact = multiples[(multiples >= -(2.0**22)) & (multiples < 2.0**22)].round().long()
        low_bits += np.bincount((exact % 256).numpy(), minlength=256)

        numbers /= SIGMA
        places = (torch.special.ndtr(numbers) * QUANTILES).long().clamp_(max=QUANTILES - 1)
        counts += np.bincount(places.numpy(), minlength=QUANTILES)
        for bound in TAILS:
            above[bound] += int((numbers > bound).sum())
            below[bound] += int((numbers < -bound).sum())
        moments += hermite_sums(numbers)

        whole = len(numbers) // _BLOCK * _BLOCK
        first, second = (places[:whole] // (QUANTILES // 32)).view(-1, 2, _BLOCK // 2).unbind(1)
        pair_counts += np.bincount((32 * first + second).flatten().numpy(), minlength=32 * 32)
        tensors = {name: values.flatten().double() / SIGMA for name, values in released.items()}
        for kind, function in kinds.items():
            changed = function(numbers)
            for lag in LAGS:
                within[kind, lag].add(changed[lag:], changed[:-lag])
            some, others = (function(values) for values in tensors.values())
            of_tensors[kind].add(some[: len(others)], others)
            if earlier is not None:
                between[kind].add(changed, function(earlier))
        earlier = numbers

    means, deviations = clipped_moments()
    z_scores = (moments - done * means) / (deviations * math.sqrt(done))
    distance = float(np.abs(counts.cumsum() / done - np.arange(1, QUANTILES + 1) / QUANTILES).max())
    products = [
        *within.values(),
        *of_tensors.values(),
        *(between.values() if between["values"].count else ()),
    ]
    return [
        *(of_z(f"moment of order {order}", z) for order, z in zip(ORDERS, z_scores, strict=True)),
        Result("Kolmogorov–Smirnov", f"D = {distance:.2e}", float(kolmogorov(math.sqrt(done) * distance))),
        of_counts("4096 equally probable cells", counts.reshape(4096, -1).sum(axis=1)),
        *(of_binomial(f"above {bound}σ", n, done, norm.sf(bound)) for bound, n in above.items()),
        *(of_binomial(f"below −{bound}σ", n, done, norm.sf(bound)) for bound, n in below.items()),
        of_counts("pairs of one Box–Muller step, 32 × 32 cells", pair_counts),
        *(product.result() for product in products),
        of_counts("low 8 bits of the multiples of the grid", low_bits),
        Result("multiples of the grid", f"{off_grid} are none", float(off_grid == 0)),
    ]


# --- the attack on the last bits ---

CANDIDATES = (0.0, 1.0)  # of the sum; the attack tells them apart
FLOAT32_STEP = 2.0**-24  # of 1 + noise, near 0


def floating_point_release(total: float, count: int, random: RandomSource) -> Tensor:
    """The textbook construction: a float32 normal times σ, added to the sum in float32."""
    return random.normal((count,)) * SIGMA + total


def grid_release(total: float, count: int, random: RandomSource) -> Tensor:
    sums = torch.full((count,), total, dtype=torch.float64)
    return MECHANISM.release({"sum": sums}, NoAccount(), random)["sum"]


def attack(release: Callable[[float, int, RandomSource], Tensor], count: int, random: RandomSource) -> float:
    """The share of numbers with sum 0 that cannot have come from sum 1, minus that of sum 1 (Mironov, 2012).

    In float32, sums of 1 and noise have no bits below 2⁻²⁴, however near to 0 they end.
    """
    shares = []
    for total in CANDIDATES:
        steps = release(total, count, random).double() / FLOAT32_STEP
        shares.append(float((steps != steps.round()).double().mean()))
    return shares[0] - shares[1]


def check_last_bits(draws: int, random: RandomSource) -> list[Result]:
    """The attack succeeds on floating-point noise and fails here; last bits are the same for every sum."""
    count = min(draws, 4_000_000)
    won, here = (attack(release, count, random) for release in (floating_point_release, grid_release))
    results = [
        Result("the attack wins against floating-point noise", f"{won:.1%} given away", float(won > 0.05)),
        Result("the attack fails here", f"{here:.1%} given away", float(here == 0)),
    ]
    for fraction in (0.25, 0.5, 0.75, 1 / 3):
        released = grid_release(fraction * GRID, count, random).double() / GRID
        multiples = released[(released >= -(2.0**22)) & (released < 2.0**22)].long()
        counts = np.bincount((multiples % 16).numpy(), minlength=16)
        results.append(of_counts(f"low 4 bits, the sum {fraction:.2f} of the grid", counts))
    return results


# --- uniforms, batches, keystream, processes ---


def check_uniforms(draws: int, random: RandomSource) -> list[Result]:
    high, low, ones, done = np.zeros(1 << 16), np.zeros(1 << 16), np.zeros(53), 0
    while done < draws:
        integers = (random.uniform((1 << 20,)) * 2.0**53).long()
        done += len(integers)
        high += np.bincount((integers >> 37).numpy(), minlength=1 << 16)
        low += np.bincount((integers & 0xFFFF).numpy(), minlength=1 << 16)
        ones += [int((integers >> place & 1).sum()) for place in range(53)]
    z_scores = (ones - done / 2) / math.sqrt(done / 4)
    value = float((z_scores**2).sum())
    return [
        of_counts("uniforms, highest 16 bits", high),
        of_counts("uniforms, lowest 16 bits", low),
        Result("uniforms, each of 53 bits", f"χ²(53) = {value:.1f}", float(chi2.sf(value, 53))),
    ]


def check_batches(draws: int, random: RandomSource) -> list[Result]:
    """Poisson sampling: rates, by example too, and independence within and between batches."""
    sampler = PoissonSampler(10_000, 0.03)
    steps = max(2, draws // sampler.num_examples)
    members = torch.zeros(steps, sampler.num_examples, dtype=torch.bool)
    for step in range(steps):
        members[step, sampler.sample(random)] = True
    q, examples = sampler.sample_rate, sampler.num_examples
    deviates = (members.double() - q) / math.sqrt(q * (1 - q))
    within, between = Products("neighbours in a batch"), Products("an example in a batch and the next")
    within.add(deviates[:, 1:].flatten(), deviates[:, :-1].flatten())
    between.add(deviates[1:].flatten(), deviates[:-1].flatten())
    return [
        of_binomial("members of batches", int(members.sum()), members.numel(), q),
        of_spread("sizes of batches", members.sum(dim=1), examples, q),
        of_spread("batches an example is in", members.sum(dim=0), steps, q),
        within.result(),
        between.result(),
    ]


# NIST's AES known answers for 256-bit keys and a plaintext of zeros: the first block of the keystream.
KNOWN_ANSWERS = {
    "c47b0294dbbbee0fec4757f22ffeee3587ca4730c3d33b691df38bab076bc558": "46f2fb342d6f0ab477476fc501242c5f",
    "8000000000000000000000000000000000000000000000000000000000000000": "e35a6dcb19b201a01ebcfa8aa22b5759",
}


def check_keystream() -> list[Result]:
    """Known answers, and the counter: block i of the stream is the encryption of i."""
    known = all(
        keystream(bytes.fromhex(key)).update(bytes(16)).hex() == answer
        for key, answer in KNOWN_ANSWERS.items()
    )
    key = bytes(range(32))
    blocks = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    counters = b"".join(counter.to_bytes(16, "big") for counter in range(1000))
    counted = keystream(key).update(bytes(16_000)) == blocks.update(counters)
    return [
        Result("AES-256 of NIST's known answers", "equal" if known else "differ", float(known)),
        Result("blocks of the keystream in order", "equal" if counted else "differ", float(counted)),
    ]


def _send_release(random: RandomSource, count: int, connection: Connection) -> None:
    torch.set_num_threads(1)  # a pool of threads does not survive a fork: whoever used it would wait for ever
    connection.send_bytes(grid_release(0.0, count, random).numpy().tobytes())


def check_processes(draws: int, random: SecureRandom) -> list[Result]:
    """Releases of one source in this process and in two forked from it."""
    count = min(draws, 4_000_000)
    context = multiprocessing.get_context("fork")
    lines, processes = [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=_send_release, args=(random, count, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
        lines.append(ours)
    releases = [grid_release(0.0, count, random)]
    releases += [torch.frombuffer(bytearray(line.recv_bytes()), dtype=torch.float32) for line in lines]
    for process in processes:
        process.join()
    normals = [released.double() / SIGMA for released in releases]
    results = []
    for one, other in ((0, 1), (0, 2), (1, 2)):
        products = Products(f"values of processes {one} and {other}")
        products.add(normals[one], normals[other])
        results.append(products.result())
    return results


def run(draws: int, seed: int | None, fault: str | None) -> list[Result]:
    """All tests; ``fault`` spoils the released normals."""
    random = random_source(seed)
    release = release_with(random.at("normals", 0))
    fewer = max(1, draws // 10)
    return [
        *check_normals(spoiled(release, FAULTS[fault]) if fault else release, draws),
        *check_last_bits(draws, random.at("last bits", 0)),
        *check_uniforms(fewer, random.at("uniforms", 0)),
        *check_batches(fewer, random.at("batches", 0)),
        *check_keystream(),
        *check_processes(draws, SecureRandom()),
    ]


def failures(results: list[Result]) -> list[Result]:
    """Those whose p-value is below the level of all tests over their number."""
    return [result for result in results if not result.p_value >= FAMILY_LEVEL / len(results)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=100_000_000, help="of normals; a million at least")
    parser.add_argument("--seed", type=int, help="instead of the operating system's entropy")
    parser.add_argument("--fault", choices=FAULTS, help="spoil the normals, to see the tests fail")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    if options.draws < 1_000_000:
        parser.error("--draws must be 1000000 or more, for errors to be normal")

    started = time.perf_counter()
    results = run(options.draws, options.seed, options.fault)
    failed = failures(results)
    if options.json:
        rows = [asdict(result) for result in results]
        print(json.dumps({"draws": options.draws, "results": rows, "failed": [r.name for r in failed]}))
    else:
        for result in results:
            mark = "  FAILED" if result in failed else ""
            print(f"{result.name:48} {result.statistic:28} p = {result.p_value:.2g}{mark}")
        print(
            f"{options.draws} draws, {len(results)} tests, {len(failed)} failed "
            f"(level {FAMILY_LEVEL:g} for all together), {time.perf_counter() - started:.0f} s"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
