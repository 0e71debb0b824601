"""The report page, looked at by a real browser from disk."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import PROGRAM, Browser
from command_line import digits, fastgen, mixture, write
from folders import ROWS, run_folder
from PIL import Image

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="needs a Chromium: apt-get install chromium (the other tests of reports need none)"
)


def fit(folder: Path, name: str, config: dict) -> Path:
    """A short run with pictures and measurements."""
    grid = {"class_path": "SampleGrid", "init_args": {"every_n_steps": 2, "seeds": 4}}
    config["trainer"]["callbacks"] += [grid, {"class_path": "Throughput"}, {"class_path": "Health"}]
    config["trainer"] |= {"log_every_n_steps": 1}
    config["trainer"]["logger"]["init_args"]["name"] = name
    assert fastgen("fit", "--config", write(folder / f"{name}.yaml", config)) == 0
    run = folder / name / "version_0"
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Images twice, with the same teacher, and points."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "images": fit(folder, "images", digits(folder)),
        "again": fit(folder, "again", digits(folder, steps=3)),
        "points": fit(folder, "points", mixture(folder, steps=2)),
        "bare": run_folder(folder / "bare <i>", config="model: {class_path: x.DMD2}"),
    }


@pytest.fixture(scope="module")
def page(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on all of them."""
    out = tmp_path_factory.mktemp("out") / "report"
    assert fastgen("report", *runs.values(), "--out", out, "--seeds", "0-5", "--steps", "1,2") == 0
    return out / "index.html"


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


def test_it_opens_from_disk_and_asks_for_nothing_else(page: Path, browser: Browser):
    browser.open(page)
    browser.ask("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
    browser.ask("Promise.all([...document.images].map(image => image.decode()))")
    wait_for(browser, "[...document.images].every(image => image.complete)")
    sizes = browser.ask("[...document.images].map(image => image.naturalWidth)")
    assert sizes == [8] * (5 * 6)  # teacher, two runs with two step counts each, six seeds
    assert browser.complaints == []
    assert all(request.startswith(page.parent.as_uri()) or request.startswith("data:") for request in browser.requests)
    assert not re.search(r"""(src|href)\s*=\s*['"]?(https?:)?//|@import|url\(""", page.read_text())
    titles = browser.ask("[...document.querySelectorAll('h2')].map(title => title.textContent)")
    assert titles == [
        "Overview",
        "Samples",
        "Final numbers",
        "Quality against network calls",
        "Metrics during training",
        "Speed and memory",
        "Training signals",
        "Differences in settings",
        "Events of the health monitor",
        "How the numbers were made",
    ]
    assert browser.ask("[...document.images].every(image => image.alt.includes('seed'))")
    assert browser.ask("[...document.querySelectorAll('svg')].every(svg => svg.getAttribute('aria-label'))")
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")


def wait_for(browser: Browser, condition: str) -> None:
    """Images load after the click; a busy machine takes its time."""
    end = time.monotonic() + 30
    while not browser.ask(condition) and time.monotonic() < end:
        time.sleep(0.05)


def test_a_click_enlarges_a_sample_beside_the_teacher_s(page: Path, browser: Browser):
    browser.open(page)
    large = "[...document.querySelectorAll('#large-body img')]"
    who = "[...document.querySelectorAll('#large-body figcaption')].map(text => text.textContent)"
    assert browser.ask("document.getElementById('large').open") is False
    browser.click("button.sample[data-who='again (average), 2 calls'][data-seed='3']")
    assert browser.ask("document.getElementById('large').open") is True
    assert browser.ask(who) == ["teacher, 35 calls", "again (average), 2 calls"]
    assert browser.ask("document.getElementById('large-title').textContent") == "seed 3 · label 3"
    sources = browser.ask(f"{large}.map(image => image.getAttribute('src'))")
    assert [Path(source).name for source in sources] == ["000003.png"] * 2
    assert [Path(source).parent.name for source in sources] == ["teacher-35", "average-2"]
    wait_for(browser, f"{large}.every(image => image.complete && image.naturalWidth > 0)")
    boxes = browser.ask(f"{large}.map(image => [image.naturalWidth, image.getBoundingClientRect().width])")
    assert all(natural == 8 and shown > 200 for natural, shown in boxes)
    left, right = browser.ask(f"{large}.map(image => image.getBoundingClientRect().left)")
    assert left + 200 < right
    browser.press("ArrowRight")
    assert browser.ask("document.getElementById('large-title').textContent") == "seed 4 · label 4"
    browser.press("ArrowUp")
    assert browser.ask(who)[1] == "again (average), 1 call"
    browser.press("Escape")
    assert browser.ask("document.getElementById('large').open") is False
    assert browser.complaints == []


def test_the_keyboard_suffices(page: Path, browser: Browser):
    browser.open(page)
    for _ in range(40):
        browser.press("Tab")
        if browser.ask("document.activeElement.matches('table.samples button.sample')"):
            break
    teacher = browser.ask("document.activeElement.dataset.who")
    assert teacher == "teacher, 35 calls"
    browser.press("Enter")
    assert browser.ask("document.querySelectorAll('#large-body img').length") == 2  # beside the first student's
    assert browser.ask("document.activeElement.id") == "close"
    browser.press("Enter")
    assert browser.ask("document.getElementById('large').open") is False
    assert browser.ask("document.activeElement.dataset.who") == teacher  # back where it was


def test_points_are_enlarged_too(page: Path, browser: Browser):
    browser.open(page)
    browser.click("button.sample[data-who='points (average), 1 call']")
    assert browser.ask("document.querySelectorAll('#large-body svg.cloud').length") == 2
    width = "document.querySelector('#large-body svg').getBoundingClientRect().width"
    assert browser.ask(width) > 300
    browser.click("#close")
    assert browser.ask("document.getElementById('large').open") is False


def test_curves_change_their_axis(page: Path, browser: Browser):
    browser.open(page)
    names = "[...document.querySelectorAll('#curves svg .name')]"
    visible = f"{names}.filter(name => name.getClientRects().length).map(name => name.textContent)"
    assert set(browser.ask(visible)) == {"student updates"}
    browser.click(".switch button[data-x='time']")
    assert set(browser.ask(visible)) == {"training time"}
    assert browser.ask("document.querySelector(\".switch [data-x='time']\").getAttribute('aria-pressed')") == "true"


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_dark(page: Path, dark: bool):
    contrast = """
      (() => {
        const luminance = (colour) => {
          const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
            .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = luminance(getComputedStyle(document.body).backgroundColor);
        return ["h1", ".lead", "nav a", ".card dt", ".numbers td", ".chart text"].map((selector) => {
          const style = getComputedStyle(document.querySelector(selector));
          const ink = luminance(selector.startsWith(".chart") ? style.fill : style.color);
          return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
        });
      })()"""
    with Browser(dark=dark) as browser:
        browser.open(page)
        assert min(browser.ask(contrast)) > 4.5


def test_samples_are_kept_and_made_anew_for_a_new_checkpoint(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import fastgen.report.samples as module

    made: list[str] = []
    real = module.make
    monkeypatch.setattr(module, "make", lambda run, *rest: made.append(run.name) or real(run, *rest))
    words = ["report", runs["images"], "--out", tmp_path, "--seeds", "0-2"]
    assert fastgen(*words) == 0 and fastgen(*words) == 0
    assert made == ["images"]
    assert fastgen("report", runs["images"], "--out", tmp_path, "--seeds", "0-3") == 0
    assert made == ["images", "images"]
    pictures = list(tmp_path.glob("samples/*/teacher-35/000002.png"))
    assert len(pictures) == 2 and Image.open(pictures[0]).tobytes() == Image.open(pictures[1]).tobytes()


def test_without_samples_the_pictures_of_training_are_shown(runs: dict[str, Path], tmp_path: Path, browser: Browser):
    assert fastgen("report", runs["images"], runs["points"], "--out", tmp_path, "--no-samples") == 0
    browser.open(tmp_path / "index.html")
    wait_for(browser, "[...document.images].every(image => image.complete)")
    assert browser.ask("[...document.images].map(image => image.naturalWidth > 100)") == [True, True]
    browser.click("button.sample")
    assert browser.ask("document.querySelectorAll('#large-body img').length") == 1
    assert browser.complaints == [] and not (tmp_path / "samples").exists()


def test_a_run_without_checkpoint_says_so(runs: dict[str, Path], tmp_path: Path, browser: Browser, capfd):
    assert fastgen("report", runs["bare"], "--out", tmp_path) == 0
    assert "was not sampled from: there is no checkpoint." in capfd.readouterr().err
    browser.open(tmp_path / "index.html")
    assert browser.ask("document.querySelector('h1').textContent") == "bare <i>"
    assert browser.ask("document.querySelectorAll('main i, main b').length") == 0  # nothing of a run is markup
    assert "lost</b> their" in browser.ask("document.querySelector('#health').textContent")
    assert browser.ask("document.querySelector('#samples .notice').textContent").startswith("bare <i> was not sampled")
    assert browser.complaints == []
