"""A mistake that shows at first sight is told at once: nothing is imported before that takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEAVY = ["torch", "numpy", "scipy", "dp_accounting", "sklearn", "PIL", "pyarrow", "rich"]

TRAIN = "train photos --epsilon 2 --out run "
MISTAKES = {
    # options
    "train photos": "--epsilon is missing",
    "train photos --epsilon 2": "--out is missing",
    "train photos --epsilon two --out run": "--epsilon",
    "train photos --epsilon 0 --out run": "epsilon must be a positive",
    TRAIN + "--delta 7": "delta",
    TRAIN + "--relation cousins": "neighboring_relation",
    TRAIN + "--method magic": "no method 'magic'",
    TRAIN + "--set steps": "key=value",
    TRAIN + "--seed -1": "seed",
    TRAIN + "--frobnicate": "--frobnicate",
    "train --config broken.toml --out run": "is not TOML",
    "tune photos --epsilon 2 --out run": "--search is missing",
    "tune photos --epsilon 2 --out run --search steps": "must be of the form key=value,value,…",
    "tune photos --epsilon 2 --out run --search steps=3": "give two or more values, all different",
    "tune photos --epsilon 2 --out run --search steps=3,4 --trials 1": "number of trials must be above 1",
    "tune photos --epsilon 2 --out run --search steps=3,4 --set steps=5": "both given and searched",
    "plan photos --epsilon 2 --trials 4": "trials are of a search",
    "synthesize photos --epsilon 1": "--out is missing",
    "synthesize --from-release photos --epsilon 1 --out run": "--epsilon has no use",
    "audit photos --canaries many": "--epsilon is missing",
    "audit photos --epsilon 1 --canaries many": "no canaries 'many'",
    "runs full --sort colour": "cannot be sorted by 'colour'",
    "runs full --figure beauty": "cannot be compared by 'beauty'",
    "runs full --chart chart.pdf": "chart.pdf must end in .svg or .png",
    "sweep photos --epsilons 1 --out new": "--methods is missing",
    "sweep photos --methods magic --epsilons 1 --out new": "no method 'magic'",
    "sweep photos --methods dp-sgd --epsilons 1,x --out new": "must be numbers with commas between",
    "sweep photos --methods dp-sgd --epsilons 1,0 --out new": "epsilon must be a positive",
    "sweep photos --methods dp-sgd --epsilons 1,1 --out new": "all different",
    "sweep photos --methods dp-sgd --epsilons 1 --seeds 0 --out new": "seeds must be",
    "sweep photos --methods dp-sgd --epsilons 1 --out new --unpaid --ledger here": "leave out --ledger",
    "settings magic": "no method 'magic'",
    "ledger photos --limit-delta 1e-5": "--limit-epsilon",
    "pool make --out pool": "either --model, or --process",
    "pool make --out pool --model model": "names of the classes",
    "pool make --out pool --process spectrum --per-class 3": "--per-class does not go with --process",
    "prior train --out new.safetensors --process a --public-images photos": "exclude each other",
    "membership release --shadow-models 1": "must be 0 or at least 4",
    # places
    "train nowhere --epsilon 2 --out run": "nowhere does not exist",
    "train --config nowhere.toml --epsilon 2 --out run": "nowhere.toml cannot be read",
    "train --config recipe.toml --out run": "nowhere does not exist",
    "train photos --epsilon 2 --out full": "full is not empty",
    "train photos --epsilon 2 --out broken.toml": "broken.toml is a file",
    TRAIN + "--test nowhere": "nowhere does not exist",
    TRAIN + "--method dp-mix-diff --pool nowhere": "nowhere does not exist",
    TRAIN + "--method dp-ridge --set encoder=nowhere.safetensors": "no prior 'nowhere.safetensors'",
    TRAIN + "--method dp-ridge --set encoder=pixels+no.safetensors": "no prior 'no.safetensors'",
    "plan nowhere --epsilon 2": "nowhere does not exist",
    "plan photos --epsilon 2 --out full": "full is not empty",
    "synthesize nowhere --epsilon 2 --out run": "nowhere does not exist",
    "synthesize photos --epsilon 2 --out full": "full is not empty",
    "synthesize --from-release nowhere --out run": "nowhere does not exist; give an earlier run",
    "synthesize --from-release broken.toml --out full": "full is not empty",
    "audit nowhere --epsilon 2": "nowhere does not exist",
    "runs nowhere": "nowhere is no folder",
    "sweep nowhere --methods dp-sgd --epsilons 1 --out new": "nowhere does not exist",
    "sweep photos --methods dp-sgd --epsilons 1 --out full": "full is not empty",
    "resume nowhere": "nowhere is no run directory",
    "resume full": "full is no run directory",
    "evaluate nowhere photos": "config.json is missing",
    "evaluate release nowhere": "nowhere does not exist",
    "evaluate release photos --encoder nowhere.safetensors": "no prior 'nowhere.safetensors'",
    "predict incomplete photos": "incomplete is not complete; resume it first",
    "predict release nowhere": "nowhere does not exist",
    "export nowhere --onnx model.onnx": "config.json is missing",
    "export incomplete --onnx model.onnx": "incomplete is not complete; resume it first",
    "export release": "say what to export to",
    "export release --onnx model.bin": "must be called *.onnx",
    "export release --torch full": "full is not empty",
    "card nowhere release": "config.json is missing",
    "card release": "card.md cannot be read",
    "card release --with broken.toml": "with --out FOLDER",
    "card release --out full": "full is not empty",
    "card release --sector Healthcare": "go with --registry",
    "card release --registry --facts broken.toml": "broken.toml is not TOML",
    "card release --registry --sector Zoos": "sector must be one of",
    "card release --registry": "card.json cannot be read",
    "membership nowhere": "config.json is missing",
    "membership release --members nowhere": "nowhere does not exist",
    "data nowhere": "nowhere does not exist",
    "ledger nowhere": "nowhere does not exist",
    "pool show nowhere": "nowhere does not exist",
    "pool make --out pool --model model --classes-of nowhere": "nowhere does not exist",
    "prior show nowhere": "no prior 'nowhere'",
    "prior train --out prior": "should end in .safetensors",
    "prior train --out old.safetensors": "old.safetensors exists already",
    "prior train --out new.safetensors --public-images nowhere": "nowhere does not exist",
    "prior train --out new.safetensors --initial-prior nowhere": "no prior 'nowhere'",
}

ALL_AT_ONCE = """
import contextlib, io, json, sys
from dpvision.cli.main import run
mistakes, heavy = json.load(sys.stdin)
answers = {}
for line in mistakes:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = run(line.split())
    answers[line] = code, said.getvalue(), [name for name in heavy if name in sys.modules]
print(json.dumps(answers))
"""


def test_a_mistake_is_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    for folder in ("photos", "full", "release", "incomplete/private"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "broken.toml").write_text("epsilon =")
    (tmp_path / "recipe.toml").write_text("epsilon = 2\ndata = 'nowhere'")
    for file in ("full/file", "old.safetensors", "release/config.json", "incomplete/private/run.json"):
        (tmp_path / file).touch()
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", ALL_AT_ONCE],
        input=json.dumps([list(MISTAKES), HEAVY]),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    answers = json.loads(done.stdout)
    for line, message in MISTAKES.items():
        code, said, imported = answers[line]
        assert (code, imported) == (2, []), f"{line}: {said}"
        (sentence,) = said.splitlines()
        assert sentence.startswith("error: ")
        assert message in sentence, line
    assert sorted(tmp_path.rglob("*")) == before


IN_PYTHON = """
import json, sys
import dpvision
calls = {
    "train": lambda: dpvision.train("nowhere", epsilon=2, out="run"),
    "plan": lambda: dpvision.plan("photos", epsilon=2, out="full"),
    "synthesize": lambda: dpvision.synthesize("photos", epsilon="two", out="run"),
    "resume": lambda: dpvision.resume("nowhere"),
}
said = {}
for name, call in calls.items():
    try:
        call()
    except dpvision.InputError as error:
        said[name] = str(error), [one for one in json.load(open("heavy.json")) if one in sys.modules]
print(json.dumps(said))
"""


def test_so_it_is_in_python(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "heavy.json").write_text(json.dumps(HEAVY))
    done = subprocess.run(
        [sys.executable, "-c", IN_PYTHON], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert json.loads(done.stdout) == {
        "train": [
            "nowhere does not exist; give the path of a data set, or one of: bundled:digits, hf:OWNER/NAME",
            [],
        ],
        "plan": ["full is not empty; name another directory", []],
        "synthesize": ["epsilon must be a number, not 'two'", []],
        "resume": ["nowhere is no run directory; give the --out of an earlier run", []],
    }
