"""The card as a page: on a screen, on a phone, on paper, and for those who do not see it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from html import unescape
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import dpvision
from dpvision.api.publishing import card_files
from dpvision.api.release_cards import write_card
from dpvision.cli.main import run
from dpvision.images import Images
from dpvision.privacy.errors import InputError
from dpvision.reports.card_charts import attack_chart
from dpvision.reports.html import card_html, number, percent

HOSTILE = ("<script>alert(1)</script>", "a\"b'c&amp;", "{{ 7*7 }}", "</style>")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SAMPLE = Path(__file__).parents[2] / "docs" / "sample-card"


@cache
def is_usable() -> bool:
    """Whether there is a Chromium that opens a page in a temporary folder: some are packaged so as not to."""
    if CHROMIUM is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text("<p>here</p>")
        try:
            return "<p>here</p>" in browse(page, "--dump-dom")
        except (OSError, subprocess.SubprocessError):
            return False


@pytest.fixture
def in_a_browser() -> None:
    if not is_usable():
        pytest.skip("there is no Chromium here that opens files")


def some_images(n: int, seed: int) -> Images:
    labels = torch.arange(n) % len(HOSTILE)
    pixels = torch.randint(60, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    pixels += 30 * labels.view(-1, 1, 1, 1)
    return Images(pixels.to(torch.uint8), labels, HOSTILE, f"memory {seed}")


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A classifier and synthetic images, of classes whose names would do harm."""
    folder, images = tmp_path_factory.mktemp("releases"), some_images(150, 0)
    test = some_images(60, 1)
    made = {"epsilon": 3.0, "delta": 1e-4, "data_name": "<b>Rays</b>\u202e"}
    dpvision.train(
        images, **made, out=folder / "classifier", test=test, config={"encoder": "pixels"}, method="dp-ridge"
    )
    dpvision.synthesize(images, **made, out=folder / "images", count=40, formats=["npz"])
    return {name: folder / name / "release" for name in ("classifier", "images")}


@pytest.fixture(params=["classifier", "images"])
def release(request: pytest.FixtureRequest, releases: dict[str, Path]) -> Path:
    return releases[request.param]


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_it_loads_nothing_and_runs_nothing(release: Path) -> None:
    text = (release / "card.html").read_text()
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "form", "b")]
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,")), (tag, value)
    assert "url(http" not in text
    assert "default-src 'none'" in text


def test_names_that_others_gave_are_shown_and_do_nothing(releases: dict[str, Path]) -> None:
    page = Page((releases["images"] / "card.html").read_text())
    for name in (*HOSTILE, "<b>Rays</b>\\u202e"):
        assert unescape(name) in unescape(page.text), name
    assert "49" not in re.findall(r"\d+", page.text)
    assert "\u202e" not in page.text


def test_every_picture_has_words_for_it(release: Path) -> None:
    pictures = [
        attributes
        for tag, attributes in Page((release / "card.html").read_text()).tags
        if tag in ("img", "svg")
    ]
    assert len(pictures) >= 1
    for attributes in pictures:
        assert attributes.get("alt") or attributes.get("aria-label")


def test_the_figures_are_those_of_the_card(release: Path) -> None:
    card = json.loads((release / "card.json").read_text())
    text = Page((release / "card.html").read_text()).text
    strength = card["strength"]
    at = strength["false_positive_rates"].index(strength["at"])
    for value in (card["epsilon"], strength["mu"], *strength["epsilon_by_relation"].values()):
        assert number(value) in text
    for rates in strength["true_positive_rates"].values():
        assert percent(rates[at]) in text
    assert card["made"]["command"] in text
    assert card["made"]["began"] in text


def test_a_page_that_says_otherwise_is_found_out(release: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(release, tmp_path / "copy"))
    page = (copy / "card.html").read_text()
    epsilon = number(json.loads((copy / "card.json").read_text())["epsilon"])
    (copy / "card.html").write_text(page.replace(f"ε = {epsilon}", "ε = 0.1"))
    failing = {check.name for check in dpvision.verify(copy).checks if not check.holds}
    assert failing == {"files unchanged", "card as a page"}
    assert dpvision.verify(release).holds


@pytest.mark.parametrize(
    "changed", ["mu", "odds", "certainty", "true_positive_rates", "epsilon_by_delta", "false_positive_rates"]
)
def test_less_than_the_truth_is_found_out(release: Path, tmp_path: Path, changed: str) -> None:
    """Whoever understates what an attacker could gain, on all forms of the card."""
    copy = Path(shutil.copytree(release, tmp_path / "copy"))
    card = json.loads((copy / "card.json").read_text())
    strength = card["strength"]
    if changed == "false_positive_rates":  # as much is found, at more false alarms than it takes
        strength |= {changed: [2 * one for one in strength[changed]], "at": 2 * strength["at"]}
    else:
        strength[changed] = _halved(strength[changed])
    (copy / "card.json").write_text(json.dumps(card))
    sheet = copy / "samples.png"
    (copy / "card.html").write_text(card_html(card, sheet.read_bytes() if sheet.exists() else None))
    (check,) = [check for check in dpvision.verify(copy).checks if check.name == "card"]
    assert not check.holds
    assert "strength" in check.found


def _halved(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _halved(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [*map(_halved, value)]
    return value / 2


def test_results_of_other_commands_come_beside(releases: dict[str, Path], tmp_path: Path) -> None:
    run = releases["classifier"].parent
    test = run / "private" / "test.json"
    card = write_card(run, tmp_path / "card", results=[test])
    report = json.loads(test.read_text())
    assert card["beside"]["test"] == report
    page = Page((tmp_path / "card" / "card.html").read_text())
    assert "no guarantee covers it" in page.text
    for name in report["classes"]:
        assert name in page.text
    assert "More figures are below" in page.text
    assert "Measured beside the guarantee" in (tmp_path / "card" / "card.md").read_text()
    assert "beside" not in json.loads((run / "release" / "card.json").read_text())
    assert dpvision.verify(run).holds


def test_an_audit_and_an_attack_say_what_their_figures_compare_with(
    releases: dict[str, Path], tmp_path: Path
) -> None:
    """The relation of the canaries beside that of the budget; the blind attack beside the others."""
    audit = {
        **{"canaries": 143, "canary_kind": "mislabelled", "confidence": 0.95, "delta": 1e-5},
        **{"target_epsilon": 2.0, "neighboring_relation": "add_or_remove_one", "epsilon": 1.998},
        **{"tested_relation": "replace_one", "tested_epsilon": 3.997, "refuted": False},
        **{"epsilon_lower_bound": 0.5, "epsilon_lower_bound_any": 0.25},
    }
    blind = {"auc": 0.9, "low": 0.875, "high": 0.925, "sets_differ": True}
    attack = {"name": "confidence", "auc": 0.75, "low": 0.7, "high": 0.8, "rates": []}
    membership = {"members": 100, "non_members": 50, "attacks": [attack], "blind": blind}
    for name, result in (("audit", audit), ("membership", membership)):
        (tmp_path / name).write_text(json.dumps(result))
    write_card(
        releases["classifier"], tmp_path / "card", results=[tmp_path / "audit", tmp_path / "membership"]
    )
    said = " ".join(Page((tmp_path / "card" / "card.html").read_text()).text.split())
    assert (
        "ε = 2 was asked for under data sets that differ by the presence of one, and 1.998 was spent" in said
    )
    assert "under which the same releases have another ε" in said
    assert "Under data sets that differ by the content of one the run claims ε = 3.997 at" in said
    assert "with an AUC of 0.9000 (0.8750 to 0.9250)" in said
    assert "the two sets differ in kind" in said
    text = (tmp_path / "card" / "card.md").read_text()
    assert "(`replace_one`; ε = 2 was asked for, `add_or_remove_one`)" in text
    assert "The two sets differ in kind" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "does not hold a JSON object"),
        ("{}", "is no result of evaluate, audit or membership"),
        ('{"rows": [{"name": 1}]}', "cannot be read"),
        ('{"canaries": 3, "epsilon_lower_bound": "x"}', "cannot be read"),
        ('{"attacks": [{}], "members": 1}', "cannot be read"),
        ('{"confusion": 1, "by_class": 2}', "cannot be read"),
    ],
)
def test_what_is_no_result_is_refused(
    releases: dict[str, Path], tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(InputError, match=message):
        write_card(releases["images"], tmp_path / "card", results=[tmp_path / "result.json"])
    assert not (tmp_path / "card").exists()


def test_a_private_result_says_so_on_the_card_and_not_where_it_lies(
    releases: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    figure = {"value": 0.5, "low": 0.25, "high": 0.75}
    row = {"name": "accuracy", "how": "by a test", "num_synthetic": 9, "num_real": 9, **figure}
    row["reference"] = {"num_private": 9, **figure, "high": 0.875}
    content = {"notice": "private: do not publish", "rows": [row], "sheet": "/home/alice/study/sheet.png"}
    (tmp_path / "figures.json").write_text(json.dumps(content))
    write_card(releases["images"], tmp_path / "card", results=[tmp_path / "figures.json"])
    for name in ("card.json", "card.md", "card.html"):
        text = (tmp_path / "card" / name).read_text()
        assert "private: do not publish" in text
        assert "alice" not in text
        assert "0.875" in text
    table = "**private: do not publish**\n\n| measured | figure | of private images in their place |\n|---|"
    assert table in (tmp_path / "card" / "card.md").read_text()
    assert f"{tmp_path / 'card'} has results on it that say of themselves" in caplog.text
    assert "figures.json: private: do not publish" in caplog.text


def test_two_results_of_a_kind_are_refused(releases: dict[str, Path], tmp_path: Path) -> None:
    test = releases["classifier"].parent / "private" / "test.json"
    with pytest.raises(InputError, match="a second result of figures of a classifier"):
        write_card(releases["classifier"], tmp_path / "card", results=[test, test])


def test_charts_are_the_same_whoever_draws_them(releases: dict[str, Path], tmp_path: Path) -> None:
    """Settings of matplotlib that a user has made for other charts change nothing."""
    card = releases["classifier"] / "card.json"
    (tmp_path / "matplotlibrc").write_text("axes.linewidth: 3\naxes.labelsize: 20\nfont.family: serif\n")
    script = (
        "import json, sys; from dpvision.reports.card_charts import attack_chart; "
        f"sys.stdout.write(attack_chart(json.load(open({str(card)!r}))['strength']))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found == attack_chart(json.loads(card.read_text())["strength"])
    assert found.startswith("<svg")
    assert "#000000" not in found


def test_words_within_a_chart_are_compared_whatever_drew_it(release: Path, tmp_path: Path) -> None:
    """A card that names another matplotlib cannot say what it likes in charts, nor have more of them."""
    copy = Path(shutil.copytree(release, tmp_path / "copy"))
    card = json.loads((copy / "card.json").read_text())
    card["versions"]["matplotlib"] = "1.0"
    (copy / "card.json").write_text(json.dumps(card))
    sheet = copy / "samples.png"
    page = card_html(card, sheet.read_bytes() if sheet.exists() else None)
    assert "<g>" in page
    for shown, holds in (
        (page, True),
        (page.replace("stroke-width: 2", "stroke-width: 3"), True),
        (page.replace("ten such releases</text>", "a million</text>"), False),
        (page.replace("<h3>", "<svg><text>safe</text></svg><h3>", 1), False),
        (page.replace("<g>", "<g><style>.big{font-size:0}</style>", 1), False),
        (page.replace("<g>", '<g onclick="alert(1)">', 1), False),
        (page.replace("<g>", '<g><image href="data:image/png;base64,"/>', 1), False),
    ):
        (copy / "card.html").write_text(shown)
        (check,) = [check for check in dpvision.verify(copy).checks if check.name == "card as a page"]
        assert check.holds == holds


def test_a_card_is_not_written_into_the_release(releases: dict[str, Path]) -> None:
    made = releases["classifier"]
    with pytest.raises(InputError, match="within a release"):
        write_card(made, made / "card", results=[made.parent / "private" / "test.json"])
    assert not (made / "card").exists()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("test", lambda found: found.pop("total")),
        ("test", lambda found: found.update(classes=None)),
        ("membership", lambda found: found.pop("non_members")),
    ],
)
def test_results_that_lack_something_are_refused(
    releases: dict[str, Path], tmp_path: Path, kind: str, change: Callable[[dict[str, Any]], object]
) -> None:
    made = releases["classifier"].parent
    found = json.loads((SAMPLE / "card.json").read_text())["beside"][kind]
    change(found)
    (tmp_path / "result.json").write_text(json.dumps(found))
    with pytest.raises(InputError):
        write_card(made, tmp_path / "card", results=[tmp_path / "result.json"])
    assert not (tmp_path / "card").exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((1e-5, "10⁻⁵"), (2.5e-7, "2.5 · 10⁻⁷"), (0.05, "0.05"), (1.99796, "1.998")),
        *((3e8, "3 · 10⁸"), (0, "0"), (None, "no useful bound")),
    ],
)
def test_numbers_as_people_write_them(value: float | None, text: str) -> None:
    assert number(value) == text


# In a browser --------------------------------------------------------------------------------------------


def browse(page: Path, *options: str) -> str:
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def with_script(release: Path, folder: Path, script: str) -> Path:
    """A copy of the page that runs a script, which its own policy does not allow."""
    text = (release / "card.html").read_text()
    text = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", f"<script>{script}</script></body>")
    (folder / "page.html").write_text(text)
    return folder / "page.html"


def found_by(dom: str) -> Any:
    match = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert match, dom[-2000:]
    return json.loads(unescape(match.group(1)))


SHOW = """
    const pre = document.createElement("pre");
    pre.id = "found";
    pre.textContent = JSON.stringify(found);
    document.body.innerHTML = "";
    document.body.append(pre);
"""
AXE = f"""
    axe.run(document, {{runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]}}).then(result => {{
        const dark = matchMedia("(prefers-color-scheme: dark)").matches;
        const violations = result.violations.map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 99)]);
        const found = [dark, ...violations];
        {SHOW}
    }});
"""
WIDTHS = f"""
    onload = () => {{
        const inner = document.querySelector("iframe").contentDocument.documentElement;
        const found = [inner.scrollWidth, inner.clientWidth];
        {SHOW}
    }};
"""


@pytest.mark.usefixtures("in_a_browser")
@pytest.mark.skipif(find_spec("axe_core_python") is None, reason="axe-core is not installed")
@pytest.mark.parametrize("dark", [False, True])
def test_it_is_accessible(release: Path, tmp_path: Path, dark: bool) -> None:
    """WCAG 2 AA, by axe-core: headings, names, contrast in light and dark."""
    import axe_core_python

    axe = next(Path(axe_core_python.__file__).parent.rglob("axe.min.js")).read_text()
    options = [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    page = with_script(release, tmp_path, f"{axe};{AXE}")
    assert found_by(browse(page, "--dump-dom", "--virtual-time-budget=20000", *options)) == [dark]


@pytest.mark.usefixtures("in_a_browser")
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_its_width(release: Path, tmp_path: Path, width: int) -> None:
    """Nothing but wide tables, which scroll by themselves, is wider than a phone or a screen."""
    frame = (release / "card.html").read_text().replace("&", "&amp;").replace('"', "&quot;")
    style = f"width:{width}px;height:900px;border:0"
    (tmp_path / "outer.html").write_text(
        f'<!doctype html><meta charset="utf-8"><iframe style="{style}" srcdoc="{frame}"></iframe>'
        f"<script>{WIDTHS}</script>"
    )
    scrolled, client = found_by(browse(tmp_path / "outer.html", "--dump-dom", "--virtual-time-budget=5000"))
    assert client == width
    assert scrolled == width


@pytest.mark.usefixtures("in_a_browser")
def test_it_prints(release: Path, tmp_path: Path) -> None:
    browse(release / "card.html", "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'card.pdf'}")
    content = (tmp_path / "card.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    boxes = {tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox\s*\[([^\]]*)\]", content)}
    assert all(abs(box[2] - 595) < 2 and abs(box[3] - 842) < 2 for box in boxes)
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 12


# From the command line -----------------------------------------------------------------------------------


def test_the_command_shows_and_writes_cards(
    releases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = releases["classifier"].parent
    assert run(["card", str(made)]) == 0
    assert capsys.readouterr().out.strip() == (made / "release" / "card.md").read_text().strip()
    out, test = tmp_path / "card", made / "private" / "test.json"
    assert run(["card", str(made), "--out", str(out), "--with", str(test), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card == json.loads((out / "card.json").read_text())
    assert {path.name for path in out.iterdir()} == {"card.html", "card.md", "card.json"}
    assert run(["card", str(made), "--out", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_card_with_more_on_it_is_verified(
    releases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, card = releases["classifier"].parent, tmp_path / "card"
    write_card(made, card, results=[made / "private" / "test.json"])
    assert run(["verify", str(made), "--card", str(card)]) == 0
    assert "follow from its counts" in capsys.readouterr().out
    other = tmp_path / "other"
    write_card(releases["images"], other)
    assert run(["verify", str(made), "--card", str(other)]) == 1
    assert run(["verify", str(made), "--card", str(tmp_path)]) == 1
    assert "is no card of a release" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (lambda card, test: card.update(epsilon=0.1), "other card"),
        (lambda card, test: test["accuracy"].update(value=0.99), "other card's figures"),
        (lambda card, test: test["by_class"][1]["recall"].update(total=9), "other card's figures"),
        (lambda card, test: test["confusion"][0].__setitem__(0, 500), "other card's figures"),
        (lambda card, test: test.update(total=36_000), "other card's figures"),
        (lambda card, test: test["by_class"].pop(), "other card's figures"),
        (lambda card, test: test["majority"].update(value=0.1), "other card's figures"),
    ],
)
def test_a_card_with_more_on_it_that_lies_is_found_out(
    releases: dict[str, Path], tmp_path: Path, change: Callable[[Any, Any], None], fails: str
) -> None:
    made, folder = releases["classifier"].parent, tmp_path / "card"
    card = write_card(made, folder, results=[made / "private" / "test.json"])
    change(card, card["beside"]["test"])
    for name, content in card_files(card, None).items():
        (folder / name).write_bytes(content)
    checks = dpvision.verify(made, card=folder).checks
    assert {check.name for check in checks if not check.holds} == {fails}


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.pop("groups"),
        lambda card: card["test"].update(accuracy=0.999),
        lambda card: card["test"].update(interval_95=[0.99, 1.0]),
        lambda card: card.update(beside={"test": {}}),
        lambda card: card.update(events=200 * card["events"]),
    ],
)
def test_other_lies_of_a_card_are_found_out(
    releases: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    copy = Path(shutil.copytree(releases["classifier"], tmp_path / "copy"))
    card = json.loads((copy / "card.json").read_text())
    change(card)
    (copy / "card.json").write_text(json.dumps(card))
    (check,) = [check for check in dpvision.verify(copy).checks if check.name == "card"]
    assert not check.holds


@pytest.mark.parametrize("name", ["card.md", "card.html", "samples.png"])
def test_a_pipe_or_a_link_in_the_place_of_a_form_is_told(
    releases: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """A pipe would be read for ever; behind a link may be a file that nobody wants on a card."""
    copy = Path(shutil.copytree(releases["images"], tmp_path / "copy"))
    (copy / name).unlink()
    os.mkfifo(copy / name)
    assert not dpvision.verify(copy).holds
    (copy / name).unlink()
    secret = tmp_path / "secret.png"
    secret.write_bytes((releases["images"] / "samples.png").read_bytes())
    (copy / name).symlink_to(secret)
    assert not dpvision.verify(copy).holds
    if name == "samples.png":
        with pytest.raises(InputError, match="is a link"):
            write_card(copy, tmp_path / "card")


def test_a_name_is_short(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data_name must have 1 to 200 characters"):
        dpvision.train(some_images(150, 0), epsilon=1, out=tmp_path / "run", data_name="x" * 201)
    assert not (tmp_path / "run").exists()
