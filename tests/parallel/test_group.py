"""What travels between processes arrives as it was sent."""

from __future__ import annotations

import json
from pathlib import Path

from tests.parallel.processes import in_processes

PROGRAM = """
import json, sys, torch
from dpvision.parallel import peers
group = peers()
said = group.say({"from": group.rank, "text": "ä" * 1000})
heard = group.hear({"rank": group.rank, "long": list(range(group.rank * 1000))})
some = [torch.full((2, 3), float(group.rank)), torch.full((), group.rank), torch.zeros(0)]
group.share(some)
sums = [torch.full((3,), 10.0**group.rank, dtype=torch.float64), torch.tensor([[2**group.rank]])]
group.add_up(sums)
rows = group.rows(torch.full((group.rank, 2), float(group.rank)).double(), range(group.size))
every = group.every(torch.full((2, 1), group.rank, dtype=torch.uint8))
named = group.tensors({"a": torch.arange(3), "b": torch.zeros(0, 2).double()} if group.leads else None)
print(json.dumps({
    "said": said["from"], "text": len(said["text"]), "heard": [len(one["long"]) for one in heard],
    "shared": [float(t.sum()) for t in some], "sums": [t.flatten().tolist() for t in sums],
    "rows": rows[:, 0].tolist(), "every": [part.flatten().tolist() for part in every],
    "named": {n: [str(t.dtype), list(t.shape), t.flatten().tolist()] for n, t in named.items()},
}))
"""


def test_all_that_travels_arrives(tmp_path: Path) -> None:
    ended = in_processes(PROGRAM, size=3, folder=tmp_path)
    assert [one.code for one in ended] == [0, 0, 0], ended
    leader, *followers = [json.loads(one.output) for one in ended]
    for one in (leader, *followers):
        assert (one["said"], one["text"]) == (0, 1000)
        assert one["shared"] == [0, 0, 0]
        assert one["every"] == [[0, 0], [1, 1], [2, 2]]
        assert one["named"] == {
            "a": ["torch.int64", [3], [0, 1, 2]],
            "b": ["torch.float64", [0, 2], []],
        }
    assert leader["heard"] == [0, 1000, 2000]
    assert leader["sums"] == [[111.0] * 3, [7]]
    assert leader["rows"] == [1, 2, 2]
    for rank, one in enumerate(followers, 1):  # theirs stay as they were
        assert one["heard"] == []
        assert one["sums"] == [[10.0**rank] * 3, [2**rank]]
        assert one["rows"] == [rank] * rank


def test_who_is_left_hears_of_it_in_a_sentence(tmp_path: Path) -> None:
    program = """
import os
from dpvision.parallel import peers, ProcessLostError
group = peers()
group.say(1)
if group.rank == 1:
    os.kill(os.getpid(), 9)
try:
    group.hear(1)
    group.say(2)
except ProcessLostError as error:
    print(error)
"""
    ended = in_processes(program, size=2, folder=tmp_path)
    assert (ended[0].code, ended[1].code) == (0, -9)
    assert ended[0].output.startswith(
        "another process of this run has ended, or cannot be reached any more; "
    )
    assert ended[0].output.count("\n") == 1


def test_a_variable_that_is_no_number_is_refused(tmp_path: Path) -> None:
    ended = in_processes(
        "import sys; from dpvision.cli.main import run; sys.exit(run(['ledger']))",
        size=1,
        folder=tmp_path,
        each={0: {"WORLD_SIZE": "two"}},
    )
    assert ended[0].code == 2
    assert ended[0].errors == "error: the variable WORLD_SIZE must be a number, not 'two'; unset it\n"
