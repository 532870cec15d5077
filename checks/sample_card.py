"""Make the sample card of the documentation: the demo's, with its figures, an audit and an attack beside.

    python -m checks.sample_card            train again, and write docs/sample-card/
    python -m checks.sample_card --draw     draw the card that is there again, after a change of how it looks

A test fails while the page there is not what its card.json would be drawn as today. Where there are Chromium
and pdftoppm, pictures of it go to docs/images/: on a screen, on a phone, and the first sheet as printed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dpvision
from dpvision.api.publishing import card_files

FOLDER = Path(__file__).parents[1] / "docs" / "sample-card"
PICTURES = FOLDER.parent / "images"
DATA = "bundled:digits"
BUDGET: Any = {"epsilon": 2.0}


def made(folder: Path) -> dict[str, Any]:
    """Return the card of the demo, made in a folder with ledgers of its own."""
    run, ledger = folder / "run", {"ledger": folder / "ledger.jsonl"}
    name = "1,437 handwritten digits (scikit-learn's)"
    dpvision.train(DATA, test=DATA, out=run, data_name=name, **BUDGET, **ledger)
    results = {
        "audit.json": dpvision.audit(DATA, ledger=folder / "audited.jsonl", **BUDGET),
        "membership.json": dpvision.membership(run),
    }
    for file, result in results.items():
        (folder / file).write_text(json.dumps(asdict(result)))
    beside = [run / "private" / "test.json", *(folder / file for file in results)]
    return dpvision.write_card(run, folder / "card", results=beside)


def take_pictures() -> None:
    """Take pictures of the page: 1280 and 390 pixels wide, and of the first sheet of A4."""
    browser, printer = shutil.which("chromium"), shutil.which("pdftoppm")
    if not (browser and printer):
        print("no pictures: Chromium or pdftoppm is missing")
        return
    page = (FOLDER / "card.html").as_uri()
    usual = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    for name, size in (("card-demo", "1280,1180"), ("card-demo-phone", "390,1600")):
        picture = f"--screenshot={PICTURES / name}.png"
        subprocess.run([*usual, f"--window-size={size}", picture, page], check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder) / "card.pdf"
        to_pdf = ["--no-pdf-header-footer", f"--print-to-pdf={printed}"]
        subprocess.run([*usual, *to_pdf, page], check=True, capture_output=True)
        sheet = [printer, "-png", "-r", "80", "-l", "1", "-singlefile", str(printed)]
        subprocess.run([*sheet, str(PICTURES / "card-demo-print")], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draw", action="store_true")
    if parser.parse_args().draw:
        card = json.loads((FOLDER / "card.json").read_text())
    else:
        with tempfile.TemporaryDirectory() as folder:
            card = made(Path(folder))
    FOLDER.mkdir(exist_ok=True)
    for name, content in card_files(card, None).items():
        (FOLDER / name).write_bytes(content)
    print(f"wrote {FOLDER}")
    take_pictures()


if __name__ == "__main__":
    main()
