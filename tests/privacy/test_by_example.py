"""What an example draws is a function of the key, of its id and of how much it drew, and is uniform."""

from __future__ import annotations

import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import chi2, kstest, norm

from dpvision.privacy import ExampleKey, InputError, SecureRandom, SeededRandom, by_example
from dpvision.privacy.by_example import distinct_ids

KEY = SeededRandom(0).by_example()


def test_a_stream_is_aes_by_the_standard():
    """NIST's known answers for a plaintext of zeros: block 0 of example 0."""
    for key, answer in (
        (
            "c47b0294dbbbee0fec4757f22ffeee3587ca4730c3d33b691df38bab076bc558",
            "46f2fb342d6f0ab477476fc501242c5f",
        ),
        ("80" + 31 * "00", "e35a6dcb19b201a01ebcfa8aa22b5759"),
    ):
        words = int(answer[:16], 16), int(answer[16:], 16)
        drawn = ExampleKey(bytes.fromhex(key)).of(torch.tensor([0])).uniform(2)
        assert drawn.tolist() == [[word % 2**24 / 2**24 for word in words]]


def test_blocks_are_the_id_and_their_number_encrypted():
    ids = [0, 1, 255, 256, 2**31, 2**32 + 1, 2**63 - 1, -1]
    drawn = KEY.of(torch.tensor(ids)).uniform(600)
    for of_one, number in zip(drawn.tolist(), ids, strict=True):
        encryptor = Cipher(algorithms.AES256(KEY.key), modes.ECB()).encryptor()
        stream = b"".join(
            encryptor.update(number.to_bytes(8, "big", signed=True) + block.to_bytes(8, "big"))
            for block in range(300)
        )
        words = [int.from_bytes(stream[start : start + 8], "big") for start in range(0, 4800, 8)]
        assert of_one == [word % 2**24 / 2**24 for word in words]


def test_who_else_is_there_moves_no_draw():
    ids = torch.tensor([7, 3, 1000, 42, 0, 5, 12])
    whole = KEY.of(ids).uniform(5)
    for alone, row in zip(ids, whole, strict=True):
        assert torch.equal(KEY.of(alone[None]).uniform(5)[0], row)
    without_the_first = KEY.of(ids[1:])
    assert torch.equal(without_the_first.uniform(5), whole[1:])
    order = torch.tensor([4, 2, 6, 0, 1, 3, 5])
    assert torch.equal(KEY.of(ids[order]).uniform(5), whole[order])
    parts = [KEY.of(some).uniform(5) for some in ids.split(3)]
    assert torch.equal(torch.cat(parts), whole)
    included = KEY.of(ids).bernoulli(0.5)
    assert torch.equal(KEY.of(ids[1:]).bernoulli(0.5), included[1:])


def test_some_of_the_examples_draw_from_the_beginning():
    draws = KEY.of(torch.arange(10))
    whole = draws.uniform(4)
    assert len(draws) == 10
    assert torch.equal(draws[2:5].uniform(4), whole[2:5])
    assert torch.equal(draws[torch.tensor([8, 0])].uniform(4), whole[[8, 0]])
    assert torch.equal(draws[torch.arange(10) > 6].uniform(4), whole[7:])
    assert len(draws[4:4]) == 0
    assert torch.equal(draws.uniform(4), KEY.of(torch.arange(10)).uniform(8)[:, 4:])  # which itself goes on


def test_a_stream_goes_on_where_it_stopped():
    ids = torch.arange(4)
    whole, pieces = KEY.of(ids).uniform(12), KEY.of(ids)
    assert torch.equal(torch.cat([pieces.uniform(count) for count in (1, 0, 2, 5, 3, 1)], dim=1), whole)
    after_a_trial = KEY.of(ids)
    after_a_trial.bernoulli(0.5)
    assert torch.equal(after_a_trial.uniform(3), whole[:, 1:4])


def test_keys_steps_purposes_and_ids_have_streams_of_their_own():
    def first(key, number):
        return tuple(key.of(torch.tensor([number])).uniform(4)[0].tolist())

    def key(purpose, step, seed=0):
        return SeededRandom(seed).at(purpose, step).by_example()

    keys = [key("views", 0), key("views", 1), key("dropout", 0), key("batch", 0), key("views", 0, seed=1)]
    ids = [0, 1, 2, 2**8, 2**32, 2**40, -1]
    assert len({first(one, number) for one in keys for number in ids}) == len(keys) * len(ids)
    assert first(key("views", 1), 3) == first(key("views", 1), 3)  # a seeded run repeats its own


def test_a_key_is_the_next_32_bytes_of_its_source():
    """All of them: a key made of fewer could be searched."""
    random, same = SeededRandom(0), SeededRandom(0)
    assert [random.by_example().key for _ in range(2)] == [same.bytes(32), same.bytes(32)]


def test_a_secure_source_never_gives_a_key_twice():
    random = SecureRandom()
    assert len({random.at("views", step).by_example().key for step in (0, 0, 1, 1)}) == 4


def test_a_key_does_not_show():
    assert KEY.key.hex() not in repr(KEY) + repr(KEY.of(torch.arange(2)))
    assert repr(KEY.key) not in repr(KEY) + repr(KEY.of(torch.arange(2)))


def test_draws_are_uniform_and_independent():
    examples, numbers = 2_000, 100
    drawn = KEY.of(torch.arange(examples)).uniform(numbers)
    assert drawn.dtype == torch.float32
    assert kstest(drawn.flatten().double().numpy(), "uniform").pvalue > 1e-6
    integers = (drawn.double() * 2**24).long()
    assert torch.equal(integers.double() / 2**24, drawn.double())  # multiples of 2⁻²⁴
    for shift in (0, 8, 16):
        counts = torch.bincount((integers >> shift & 255).flatten(), minlength=256).double()
        expected = drawn.numel() / 256
        assert chi2.sf(float(((counts - expected) ** 2 / expected).sum()), 255) > 1e-6
    centred = (drawn.double() - 0.5) * 12**0.5
    for one, other in (
        (centred[1:], centred[:-1]),  # an example and the next
        (centred[:, 1:], centred[:, :-1]),  # a number and the next
        (centred[:, 2:], centred[:, :-2]),  # a block and the next
    ):
        assert abs(float((one * other).mean())) < norm.isf(1e-6) / one.numel() ** 0.5


def test_a_trial_succeeds_as_often_as_it_should():
    count = 200_000
    for probability in (0.5, 0.03):
        succeeded = KEY.of(torch.arange(count)).bernoulli(probability)
        assert succeeded.dtype == torch.bool
        deviation = (probability * (1 - probability) / count) ** 0.5
        assert abs(float(succeeded.double().mean()) - probability) < norm.isf(1e-6) * deviation
    assert KEY.of(torch.arange(count)).bernoulli(1.0).all()
    assert not KEY.of(torch.arange(count)).bernoulli(0.0).any()


@pytest.mark.parametrize(("word", "uniform"), [(-1, 1 - 2**-24), (0, 0.0)])
def test_the_ends_of_the_interval(monkeypatch, word, uniform):
    monkeypatch.setattr(
        by_example, "_words", lambda key, ids, first, count: torch.full((len(ids), count), word)
    )
    draws = KEY.of(torch.arange(3))
    assert draws.uniform(2).tolist() == [[uniform] * 2] * 3
    assert draws.bernoulli(1.0).all()
    # Trials have 53 bits, so that a rate is not rounded to 24.
    assert draws.bernoulli(1 - 2**-53).all() == (word == 0)
    assert draws.bernoulli(2**-53).all() == (word == 0)


def test_no_examples_and_no_numbers():
    none = torch.empty(0, dtype=torch.int64)
    assert KEY.of(none).uniform(3).shape == (0, 3)
    assert KEY.of(none).bernoulli(0.5).shape == (0,)
    assert KEY.of(torch.arange(2)).uniform(0).shape == (2, 0)


def test_ids_are_as_many_as_examples_and_distinct():
    assert torch.equal(distinct_ids(None, 3, "made"), torch.arange(3))
    assert distinct_ids(torch.tensor([5, -1, 2]), 3, "made").tolist() == [5, -1, 2]
    with pytest.raises(InputError, match="made: 3 examples need as many int64 ids"):
        distinct_ids(torch.arange(4), 3, "made")
    with pytest.raises(InputError, match="made: 3 examples need as many int64 ids"):
        distinct_ids(torch.arange(3).int(), 3, "made")
    with pytest.raises(InputError, match="made: two examples have one id"):
        distinct_ids(torch.tensor([0, 1, 0]), 3, "made")
