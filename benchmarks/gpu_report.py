"""All that is to be known of a GPU, in commands of at most nine minutes that go on where the last one ended.

    python benchmarks/gpu_report.py --data cifar10/ --out gpu-report     # until it says that all is done

One part after the other: whether every rule is right on the device, the search for an example that adds more
than C, the speed of gradients against other libraries, the shares of a step, and the whole recipe of DP-RandP
at ε = 1 (875 steps of 4,096 images, 16 views each) with its time by phase and its accuracy. What is done is
kept in ``report.json`` in the folder, and told in ``report.md``. A part that a command has no time left for
is begun anew by the next one, the recipe taken up where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
SECONDS = 540
FULL = {
    "networks": ["wrn-16-4", "wrn-40-4", "resnet18", "tanh-cnn", "convnext-t", "vit-s"],
    "benchmark": ["--views", "1", "4", "8", "16", "--precision", "float32", "tf32", "bfloat16"],
    "profile": ["--network", "wrn-16-4", "--views", "16", "--examples", "64", "--precision", "bfloat16"],
    "trials": "100",
    "recipe": [],
}
SMALL = {
    "networks": ["tanh-cnn"],
    "benchmark": ["--views", "2", "--examples", "2", "--rounds", "1", "--only", "ours", "plain"],
    "profile": ["--network", "tanh-cnn", "--views", "2", "--examples", "2"],
    "trials": "4",
    "recipe": ["--set", "steps=6", "--set", "expected_batch_size=16", "--set", "augmult=2"],
}
"""For a try of the script itself on a CPU."""


@dataclass(frozen=True)
class Part:
    """A command, and what it leaves: a JSON file, or one JSON object as the last line of its output."""

    name: str
    command: Sequence[str]
    result: Path | None = None


def parts(options: argparse.Namespace) -> Iterator[Part]:
    """Yield the parts in their order."""
    sizes: dict[str, Any] = SMALL if options.small else FULL
    device = ["--device", options.device]
    script = ROOT / "benchmarks"
    yield Part("rules", [sys.executable, str(script / "device_rules.py"), *device, "--json"])
    trials = ["--trials", sizes["trials"], "--json"]
    yield Part("clip search", [sys.executable, "-m", "checks.clip", *device, *trials])
    for network in sizes["networks"]:
        found = options.out / f"gradients-{network}.json"
        command = [sys.executable, str(script / "gradients.py"), *device, "--network", network]
        yield Part(f"gradients of {network}", [*command, *sizes["benchmark"], "--json", str(found)], found)
    profile = [sys.executable, str(script / "step_shares.py"), *device, *sizes["profile"], "--json"]
    yield Part("shares of a step", profile)
    run = options.out / "recipe"
    command = [sys.executable, "-c", "from dpvision.cli.main import main; main()"]
    if (run / "private" / "run.json").exists():
        yield Part("recipe", [*command, "resume", str(run), "--json"])
    else:
        recipe = ["--config", str(options.recipe), "--out", str(run), *device, "--json", *sizes["recipe"]]
        yield Part("recipe", [*command, "train", str(options.data), *recipe])


def work(part: Part, seconds: float) -> dict[str, Any]:
    """Run a part's command: "done" with its result, "failed" with what it said last, or "cut off"."""
    started = time.perf_counter()
    process = subprocess.Popen(
        part.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # a run stops between two steps
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return {"status": "cut off", "seconds": time.perf_counter() - started}
    spent = {"seconds": time.perf_counter() - started}
    lines = output.strip().splitlines()
    try:
        result = json.loads(part.result.read_text() if part.result else lines[-1])
    except (OSError, ValueError, IndexError):
        said = errors.strip().splitlines()[-3:]
        return {"status": "failed", "exit_code": process.returncode, "said": said} | spent
    status = "done" if process.returncode == 0 else "failed"
    return {"status": status, "result": result} | spent


def machine(device: str) -> dict[str, Any]:
    found = {"device": device, "torch": torch.__version__, "python": platform.python_version()}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found |= {"name": properties.name, "memory_gib": properties.total_memory / 2**30}
        found |= {"cuda": torch.version.cuda}
    else:
        found |= {"name": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"}
    return found


def seconds_by_phase(run: Path) -> dict[str, float]:
    """Return the time of the steps of Phases II and III, as the run's metrics have it."""
    config = json.loads((run / "config.json").read_text())["config"]
    rows = [json.loads(line) for line in (run / "private" / "metrics.jsonl").read_text().splitlines()]
    border = round(config["steps"] * config["phase_ii_share"])
    found = {"Phase II": 0.0, "Phase III": 0.0}
    for before, row in pairwise(rows):
        # A process that took the run up counts anew, from its start.
        found["Phase II" if row["step"] < border else "Phase III"] += max(
            0.0, row["seconds"] - before["seconds"]
        )
    return found


def told(report: dict[str, Any]) -> str:
    """Return the report in Markdown."""
    of = report["machine"]
    lines = [f"# {of['name']}, torch {of['torch']}", "", "| part | | seconds |", "|---|---|---|"]
    for name, found in report["parts"].items():
        lines.append(f"| {name} | {found['status']} | {found['seconds']:.0f} |")
    done = {name: found["result"] for name, found in report["parts"].items() if "result" in found}
    if "rules" in done:
        worst: dict[str, float] = {}
        for row in done["rules"]["rows"]:
            worst[row["precision"]] = max(worst.get(row["precision"], 0.0), row["error"])
        said = ", ".join(f"{error:.1e} in {precision}" for precision, error in worst.items())
        lines += ["", f"Rules: the largest error of a clipped sum is {said}."]
    if "clip search" in done:
        tried = sum(each["tried"] for each in done["clip search"]["results"])
        greatest = max(each["ratio"] for each in done["clip search"]["results"])
        lines += ["", f"Clip search: {tried} tried, the greatest ratio {greatest:.9f}."]
    for name, result in done.items():
        if name.startswith("gradients of "):
            lines += _of_gradients(result)
    if "shares of a step" in done:
        shares = done["shares of a step"]
        lines += ["", f"Shares of a step of {shares['milliseconds']:.0f} ms:", "", "| kind | share | calls |"]
        lines += ["|---|---|---|"]
        lines += [f"| {row['kind']} | {row['share']:.1%} | {row['calls']:.0f} |" for row in shares["kinds"]]
    if "recipe" in done:
        recipe = done["recipe"]
        phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in recipe["seconds_by_phase"].items())
        lines += ["", f"DP-RandP's recipe at ε = {recipe['epsilon']:.2f}: {phases}; test accuracy "]
        lines[-1] += "not measured." if recipe["test_accuracy"] is None else f"{recipe['test_accuracy']:.2%}."
    return "\n".join(lines) + "\n"


def _of_gradients(result: dict[str, Any]) -> list[str]:
    lines = []
    for table in result["tables"]:
        lines += ["", f"{table['network']}, K = {table['views']}, {table['precision']}:", ""]
        lines += ["| | views/s | of plain | of compiled | peak MiB | error |", "|---|---|---|---|---|---|"]
        for row in table["rows"]:
            forms = (".0f", ".2f", ".2f", ".0f", ".1e")
            names = ("views_per_second", "of_plain", "of_compiled", "peak_mib", "error")
            cells = ["–" if row[n] is None else format(row[n], f) for n, f in zip(names, forms, strict=True)]
            lines.append(f"| {row['name']} | {' | '.join(cells)} |")
        lines += [f"| {name} | failed: {said} | | | | |" for name, said in table["failed"].items()]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="CIFAR-10, as `dpvision train` takes it")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the report")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that this command may take")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "cifar10-eps1-randp.toml")
    parser.add_argument("--small", action="store_true", help="next to nothing of each, to try the script")
    options = parser.parse_args()
    deadline = time.perf_counter() + options.seconds
    options.out, options.recipe = options.out.resolve(), options.recipe.resolve()
    if Path(options.data).exists():
        options.data = Path(options.data).resolve()
    options.out.mkdir(parents=True, exist_ok=True)

    kept = options.out / "report.json"
    report: dict[str, Any] = {"machine": machine(options.device), "parts": {}}
    if kept.exists():
        report = json.loads(kept.read_text())

    def open_parts() -> list[Part]:
        ended = {name for name, found in report["parts"].items() if found["status"] != "cut off"}
        return [part for part in parts(options) if part.name not in ended]

    for part in open_parts():
        remaining = deadline - time.perf_counter()
        if remaining < 1:
            break
        print(f"{part.name} …", flush=True)
        found = work(part, remaining)
        found["seconds"] += report["parts"].get(part.name, {}).get("seconds", 0.0)
        if part.name == "recipe" and found["status"] == "done":
            found["result"]["seconds_by_phase"] = seconds_by_phase(options.out / "recipe")
        report["parts"][part.name] = found
        print(f"{part.name}: {found['status']} after {found['seconds']:.0f} s", flush=True)
        kept.write_text(json.dumps(report, indent=1))
        (options.out / "report.md").write_text(told(report))
    remains = ", ".join(part.name for part in open_parts())
    print(f"to be done yet, by the same command: {remains}" if remains else "all is done")
    failed = [name for name, found in report["parts"].items() if found["status"] == "failed"]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
