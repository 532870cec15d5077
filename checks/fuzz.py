"""Gives every reader of the program files made by an enemy, guided by coverage, and sees what it must not do.

    python -m checks.fuzz --runs 100000

Each kind of file is a target with a process of its own. libFuzzer (atheris) starts from real small files,
changes them by `fuzzing.mutations` and keeps what reaches new code of dpvision or Pillow. A violation is any
exception but InputError, a crash, a hang, more memory than docs/guarantee/hostile-input.md states, a file
opened for writing outside of the target's folder, or code that is run. Inputs that led to one are kept, and
the command to see it again is printed. Needs Linux, and the extra `fuzz`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

MOST_DEATHS = 20  # of a target's process, after each of which another goes on
ADDRESS_SPACE = (
    2**35
)  # bytes; a process that wants more is out of bounds, and must not take the machine along
RESIDENT_MIB = 6144
HANG_SECONDS = 120
LARGEST_INPUT = 2**23  # bytes
INSTRUMENTED = ["dpvision", "PIL", "tomllib"]


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.replay:
        return _replay(arguments.target[0], Path(arguments.replay))
    if importlib.util.find_spec("atheris") is None:
        print("error: atheris is missing; install it: pip install 'dpvision[fuzz]'", file=sys.stderr)
        return 2
    if arguments.worker:
        _work(arguments)
        return 0
    from checks.fuzzing.targets import TARGETS

    chosen = [TARGETS[name] for name in arguments.target or TARGETS]
    shares = sum(target.share for target in chosen)
    arguments.failures.mkdir(parents=True, exist_ok=True)
    rows = []
    for target in chosen:
        runs = -(-arguments.runs * target.share // shares)
        rows.append(_fuzz(target.name, runs, arguments.failures.resolve(), arguments.seed))
        if not arguments.json:
            _print_row(rows[-1], header=len(rows) == 1)
    violations = [violation for row in rows for violation in row["violations"]]
    if arguments.json:
        print(json.dumps({"inputs": sum(row["inputs"] for row in rows), "rows": rows}))
    else:
        print(f"{sum(row['inputs'] for row in rows):,} inputs, {len(violations)} violations")
        for violation in violations:
            print(f"\n{violation['what']}\n  again: {violation['replay']}")
    return 1 if violations else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100_000, help="inputs, over all targets")
    parser.add_argument("--target", action="append", help="one kind of file (default: all); repeat for more")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="where inputs are kept")
    parser.add_argument("--seed", type=int, default=1, help="of the changes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--replay", metavar="FILE", help="give --target this one input")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # the folder of a target's process
    return parser


def _fuzz(name: str, runs: int, failures: Path, seed: int) -> dict[str, Any]:
    """All runs of a target, in as many processes as die of it."""
    row: dict[str, Any] = {"target": name, "inputs": 0, "refused": 0, "peak_mib": 0, "violations": []}
    row |= {"coverage_seeds": 0, "coverage": 0, "paths": 0}
    started = time.monotonic()
    for process in range(MOST_DEATHS):
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            command = [sys.executable, "-m", "checks.fuzz", "--worker", folder, "--target", name]
            command += ["--runs", str(runs - row["inputs"]), "--failures", str(failures)]
            command += ["--seed", str(seed + process)]
            before = set(failures.iterdir())
            environment = os.environ | {"DPVISION_HOME": f"{folder}/home", "OMP_NUM_THREADS": "1"}
            with Path(folder, "log").open("wb") as log:
                code = subprocess.run(
                    command, env=environment, stdout=log, stderr=log, check=False
                ).returncode
            log_text = Path(folder, "log").read_text(errors="replace")
            found_file = Path(folder, "found.json")
            found = json.loads(found_file.read_text()) if found_file.exists() else None
        if found is None:
            raise SystemExit(f"error: target {name} did not start:\n{log_text[-3000:]}")
        row["inputs"] += found["inputs"]
        row["refused"] += found["refused"]
        row["peak_mib"] = max(row["peak_mib"], found["peak_bytes"] >> 20)
        row["violations"] += found["violations"]
        coverage = [tuple(map(int, m)) for m in re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)", log_text)]
        if coverage:
            row["coverage_seeds"] = row["coverage_seeds"] or coverage[0][0]
            row["coverage"], row["paths"] = map(
                max, zip(coverage[-1], (row["coverage"], row["paths"]), strict=True)
            )
        if code:
            row["inputs"] += 1
            for path in set(failures.iterdir()) - before:
                if path.name.startswith(("crash-", "timeout-", "oom-")):
                    what = f"{name}: {path.name.partition('-')[0]}: {_last_words(log_text)}"
                    row["violations"].append({"what": what, "replay": _command(name, path)})
        if row["inputs"] >= runs:
            break
    return row | {"seconds": round(time.monotonic() - started, 1)}


def _last_words(log: str) -> str:
    lines = [line for line in log.splitlines() if "ERROR" in line or "SUMMARY" in line]
    return "; ".join(lines[-2:]) or log[-500:]


def _print_row(row: dict[str, Any], header: bool) -> None:
    columns = ("target", "inputs", "refused", "coverage", "paths", "peak_mib", "seconds")
    if header:
        print("  ".join(f"{name:>10}" for name in (*columns, "violations")))
    cells = [str(row[name]) for name in columns]
    cells[3] = f"{row['coverage_seeds']}→{row['coverage']}"
    print("  ".join(f"{cell:>10}" for cell in (*cells, len(row["violations"]))), flush=True)


def _work(arguments: argparse.Namespace) -> None:
    """The process of one target. It never returns: libFuzzer ends it."""
    import atheris

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with atheris.instrument_imports(include=INSTRUMENTED):
        from checks.fuzzing.bundles import pack, unpack
        from checks.fuzzing.mutations import mutate
        from checks.fuzzing.targets import TARGETS
        from checks.fuzzing.watch import Watch

    name, folder = arguments.target[0], Path(arguments.worker)
    target = TARGETS[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    for index, parts in enumerate(target.seeds()):
        (corpus / f"seed{index:02}").write_bytes(pack(parts))
    watch = Watch(target, folder / "place")
    found: dict[str, Any] = {"inputs": 0, "refused": 0, "peak_bytes": 0, "violations": []}
    kinds_seen: Counter[str] = Counter()

    def save() -> None:
        (folder / "found.json").write_text(json.dumps(found))

    def give(data: bytes) -> None:
        one = watch.give(data)
        found["inputs"] += 1
        found["refused"] += one.refused
        found["peak_bytes"] = max(found["peak_bytes"], one.peak_bytes)
        if one.violation is not None:
            kind = _kind(one.violation)
            kinds_seen[kind] += 1
            if kinds_seen[kind] == 1:  # the others are the same again
                path = arguments.failures / f"{name}-{sha256(data).hexdigest()[:12]}"
                path.write_bytes(data)
                what = f"{name}: {one.violation}"
                found["violations"].append({"what": what, "replay": _command(name, path)})
        if found["inputs"] % 50 == 0 or found["inputs"] >= arguments.runs or one.violation:
            save()

    def change(data: bytes, largest: int, seed: int) -> bytes:
        source = random.Random(seed)
        parts = unpack(data, len(target.kinds))
        at = source.randrange(len(parts))
        for _ in range(source.choice((1, 1, 1, 2, 4))):
            parts[at] = mutate(target.kinds[at], parts[at], source)
            if source.random() < 0.1:
                parts[at] = atheris.Mutate(parts[at], max(1, len(parts[at]) + 64))
        changed = pack(parts)
        return changed if len(changed) <= largest else data

    save()
    options = [
        f"-runs={arguments.runs}",
        f"-seed={arguments.seed}",
        f"-max_len={LARGEST_INPUT}",
        "-len_control=0",
    ]
    options += [
        f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={RESIDENT_MIB}",
        f"-artifact_prefix={arguments.failures}/",
    ]
    atheris.Setup(["fuzz", *options, str(corpus)], give, custom_mutator=change)
    atheris.Fuzz()


def _kind(violation: str) -> str:
    """What violations of one cause have in common: where they happened."""
    places = re.findall(r'File "(.*?)", line (\d+)', violation)
    return str(places[-1]) if places else re.sub(r"\d+", "#", violation)[:60]


def _command(name: str, path: Path) -> str:
    return f"python -m checks.fuzz --target {name} --replay {path}"


def _replay(name: str, path: Path) -> int:
    from checks.fuzzing.targets import TARGETS
    from checks.fuzzing.watch import Watch

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.environ["DPVISION_HOME"] = f"{folder}/home"
        found = Watch(TARGETS[name], Path(folder, "place")).give(path.read_bytes())
    print(found.violation or ("refused" if found.refused else "read"), f"({found.peak_bytes >> 20} MiB)")
    return 1 if found.violation else 0


if __name__ == "__main__":
    sys.exit(main())
