"""Write the modules that follow from others: what type checkers and completion read without importing torch.

    python -m checks.generated

They are the keyword arguments of functions that take options (PEP 692), for type checkers and editors, and
the names of the methods' settings, for completion on the command line. A test fails while one of them says
something else than this would write.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dpvision.api.options import (
    AuditOptions,
    PlanOptions,
    RunOptions,
    SynthesisOptions,
    TrainOptions,
    TuneOptions,
)
from dpvision.api.sweep_plan import OF_EACH_RUN
from dpvision.images.choices import Choices
from dpvision.methods.registry import find_method, known_methods

PACKAGE = Path(__file__).parents[1] / "src" / "dpvision"

WRITTEN = "`python -m checks.generated` writes this module"

KEYWORDS = f'''"""The keyword arguments of functions that take options, for type checkers (PEP 692).

{WRITTEN} from `dpvision.{{home}}`.
"""

from __future__ import annotations

{{imports}}
'''

SETTINGS = f'''"""The names of each method's settings, for completion on the command line.

{WRITTEN} from the methods' classes of settings, which import torch.
"""

from __future__ import annotations

SETTING_NAMES = {{
'''


def modules() -> dict[Path, str]:
    """The text of each module, by its path."""
    found = {
        PACKAGE / "images" / "keywords.py": _of_images(),
        PACKAGE / "api" / "keywords.py": _of_runs(),
        PACKAGE / "methods" / "setting_names.py": _of_methods(),
    }
    return {path: _formatted(text) for path, text in found.items()}


def _of_images() -> str:
    imports = (
        "from typing import Any, TypedDict\n\nfrom dpvision.images.choices import UnitChoice\n"
        "from dpvision.images.conversion import Resize"
    )
    body = _keywords("ChoiceKeywords", "TypedDict", "how a data set is read", Choices)
    return "\n".join([KEYWORDS.format(home="images.choices", imports=imports), *body])


def _of_runs() -> str:
    imports = (
        "from collections.abc import Mapping, Sequence\nfrom typing import Any, Required, TypedDict\n\n"
        "from dpvision.api.options import FilePath"
    )
    lines = [KEYWORDS.format(home="api.options", imports=imports)]
    lines += _keywords("RunKeywords", "TypedDict", "every run on private images", RunOptions)
    shared = [one.name for one in dataclasses.fields(RunOptions)]
    for name, options in (
        ("Train", TrainOptions),
        ("Tune", TuneOptions),
        ("Synthesis", SynthesisOptions),
        ("Plan", PlanOptions),
        ("Audit", AuditOptions),
    ):
        what = {"Synthesis": "synthesize"}.get(name, name.lower())
        lines += _keywords(f"{name}Keywords", "RunKeywords", f"`{what}`", options, shared)
    return "\n".join([*lines, *_keywords("SweepKeywords", "TypedDict", "`sweep`", TrainOptions, OF_EACH_RUN)])


def _keywords(name: str, base: str, of: str, options: type, without: Sequence[str] = ()) -> Iterator[str]:
    """Lines of a class with the fields of a dataclass, those without a default required."""
    yield f'\nclass {name}({base}, total=False):\n    """The options of {of}."""\n'
    for one in dataclasses.fields(options):
        if one.name not in without:
            required = one.default is dataclasses.MISSING
            yield f"    {one.name}: {f'Required[{one.type}]' if required else one.type}"
    yield ""


def _of_methods() -> str:
    lines = []
    for method, entry in known_methods().items():
        if entry.value.startswith("dpvision."):  # not those that other packages have registered
            config: Any = find_method(method).config_class
            names = tuple(one.name for one in dataclasses.fields(config))
            lines.append(f"    {method!r}: {names!r},\n")
    return "".join([SETTINGS, *lines, "}\n"])


def _formatted(text: str) -> str:
    """As ruff writes it."""
    command = [
        sys.executable,
        "-m",
        "ruff",
        "format",
        "--stdin-filename",
        "src/dpvision/api/keywords.py",
        "-",
    ]
    root = PACKAGE.parents[1]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, cwd=root).stdout


def main() -> None:
    for path, text in modules().items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
