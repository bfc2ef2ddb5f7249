"""The HTML page of an evaluation: what it says, and that a real browser shows it without a complaint."""

import base64
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from typing import NamedTuple

import numpy as np
import pytest

from csmf_tf.evaluation import report
from csmf_tf.evaluation.plots import weight_grid
from csmf_tf.evaluation.report import write_report

NASTY = "<script>alert(1)</script>\"'&$x$"
METRICS = ("recall", "ndcg", "hit_rate", "mrr", "map")
PROBE = """<script>addEventListener("load", () => {
  const requests = performance.getEntriesByType("resource").map(entry => entry.name);
  document.documentElement.dataset.probe = JSON.stringify({
    images: [...document.images].map(image => image.naturalWidth),
    requests: requests.filter(name => !name.startsWith("data:")),
    scripts: document.scripts.length,
    overflow: document.documentElement.scrollWidth - innerWidth,
  });
});</script>"""


def leaf(value, users=1200, ks=(50,)):
    per_user = {f"{name}@{k}": value for k in ks for name in METRICS}
    shown = {f"{name}@{k}": 0.25 for k in ks for name in ("coverage", "popular")}
    intervals = {name: [value - 0.003, value + 0.004] for name in per_user} if users else {}
    return {**per_user, **shown, "users": users, "skipped": 34, "intervals": intervals}


def content(funnel=("view", "cart", "buy"), ks=(50, 100), met=True):
    """Keyword arguments of `write_report`."""
    values = {name: 0.1637 + 0.01 * k for k, name in enumerate(funnel)}
    leaves = {name: leaf(value, ks=ks) for name, value in values.items()}
    any_leaves = {name: leaf(0.0444, ks=ks) for name in funnel[:1]} | {
        name: leaf(0.2444, ks=ks) for name in funnel[1:]
    }
    parts = {"all": leaf(0.3111, ks=ks), "met": leaf(0.4222, 0, ks), "new": leaf(0.1333, ks=ks)}
    shown = dict.fromkeys(funnel[1:], parts)
    retention = {name: dict.fromkeys(funnel[k:], values[name]) for k, name in enumerate(funnel)}
    log = []
    for name in funnel:
        log.append({"objective": name, "phase": "fit", "epoch": 0, "val_recall@50": 0.1})
        log.append({"objective": name, "phase": "fit", "epoch": 1, "loss": 2.0, "val_recall@50": 0.2})
        layers = {"embedding": {"kept": 41, "freed": 23, "tau": 0.28}}
        log.append({"objective": name, "phase": "prune", "layers": layers})
        log.append({"objective": name, "phase": "recover", "epoch": 0, "val_recall@50": 0.15})
        log.append({"objective": name, "phase": "freeze", "measured": None})
    weights = weight_grid(len(funnel), steps=2)
    return {
        "title": "A run",
        "results": {
            "objectives": leaves,
            "fused": leaves,
            "baselines": {"popularity": leaves, "popularity_any": any_leaves},
            "met_shown": {
                "objectives": shown,
                "fused": shown,
                "baselines": {"popularity": shown, "popularity_any": shown, "counting": shown},
            }
            if met
            else {},
            "retention": retention,
            "metric": f"recall@{ks[0]}",
            "targets": {name: {"new": 54321, "met": 7} for name in funnel},
            "repeated": 1713,
            "unknown_users": 0,
            "unknown_items": 12,
            "unknown_targets": 2000,
        },
        "capacity": {"embedding": np.full(len(funnel) + 1, 1 / (len(funnel) + 1))},
        "log": log,
        "funnel": funnel,
        "tradeoff": (weights, 0.1 + 0.1 * weights),
        "tradeoff_users": 600,
        "data": {"training": {"events": 1000, "users": 90, "items": 80}},
        "setting": {"Seed": 0, "Versions": {"numpy": "2.4"}, "Configuration": "funnel:\n- view\n"},
    }


class Page(HTMLParser):
    """Headings, text, elements with their attributes."""

    def __init__(self, path):
        super().__init__()
        self.headings, self.elements, self.text, self._open = [], [], "", None
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self._open = tag
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self._open in ("h1", "h2") and data.strip():
            self.headings.append(data)
        if self._open not in ("style", "script"):
            self.text += data + " "

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report") / "report", **content())


def test_report_is_a_page_and_its_plots(page):
    names = {"index.html", "tradeoff.png", "capacity.png", "learning.png"}
    assert {path.name for path in page.parent.iterdir()} == names
    assert [path.name for path in page.parent.parent.iterdir()] == ["report"]


def test_page_has_every_section_and_number(page):
    read = Page(page)
    assert read.headings == [
        "A run",
        "Metrics",
        "Re-engagement and discovery",
        "Trade-off over fusion weights",
        "Retention",
        "Capacity",
        "Learning",
        "Data",
        "Setting",
        "Glossary",
    ]
    text = " ".join(read.text.split())
    for expected in (
        "own score 0.1637 0.1607–0.1677",  # value and interval
        "1,200 34",  # users and skipped
        "own score 0.3111 0.3081–0.3151 - 0.1333",  # all, met over no users, new
        "Metrics of the first 100 places",
        "view, fit 1 1 recall@50 0.1000 0.2000 2",  # epochs, best, its metric at the start and best, loss
        "view, recover 0 0 recall@50 0.1500 0.1500 -",
        "view, embedding 41 23 0.280",
        "embedding 25.0 % 25.0 % 25.0 % 25.0 %",
        "view 54,321 7",
        "equal weights 0.3111 0.3081–0.3151 - 0.1333",
        "popularity of any behaviour 0.2444 0.2414–0.2484",
        "popularity of any behaviour 0.2444 (0.2414–0.2484)",  # of a card, where it is the better one
        "popularity 0.1637 (0.1607–0.1677)",
        "cart: popularity of any behaviour ranks as well as its own score, or better (recall@50 0.2444 "
        "against 0.1737).",
        "view: popularity ranks as well",  # the same figure
        "Nothing moved",
        "training 1,000 90 80",
        "Left out: 2,000 of 166,697 test targets (1.2 %) are of users or items unknown in training (0 users",
        "Left out: 1,713 of 166,697 test targets (1.0 %) were done before by their users.",
        "Measured on at most 600 test users: weights that are picked here are picked on test data.",
        "view 0.1000 0.2000 0.1000 0.0049 view 1, cart 0, buy 0",  # half the interval, for fewer users
        "numpy 2.4",
        "funnel: - view",
    ):
        assert expected in text, expected


def test_page_is_self_contained_and_accessible(page):
    read = Page(page)
    links = [a.get("src") or a.get("href") for _, a in read.elements if "src" in a or "href" in a]
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert {"#" + a["id"] for a in read.of("section")} == {link for link in links if link[0] == "#"}
    assert not re.search(r"url\(|@import|srcset", page.read_text())
    assert read.of("script") == []
    assert read.of("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in read.of("meta")
    assert len(read.of("main")) == 1
    assert len(read.of("table")) == len(read.of("caption"))
    assert all("scope" in cell for cell in read.of("th"))
    alts = [image["alt"] for image in read.of("img")]
    assert len(alts) == 3
    assert "buy: 0.1000 to 0.2000, highest at view 0, cart 0, buy 1" in alts[0]
    embedded = [base64.b64decode(image["src"].partition(",")[2]) for image in read.of("img")]
    assert sorted(embedded) == sorted(path.read_bytes() for path in page.parent.glob("*.png"))


def test_retention_that_moves_is_said(tmp_path):
    given = content()
    given["results"]["retention"]["view"]["buy"] -= 0.05
    text = " ".join(Page(write_report(tmp_path, **given)).text.split())
    assert (tmp_path / "retention.png").exists()
    assert "Nothing moved" not in text
    assert "Largest change within a row: 0.05" in text


def test_small_samples_are_marked_and_show_no_false_certainty(tmp_path):
    given = content()
    small = leaf(0.5, users=7)
    small["intervals"]["recall@50"] = [0.5, 0.5]
    given["results"]["objectives"]["buy"] = small
    text = " ".join(Page(write_report(tmp_path, **given)).text.split())
    assert "0.5000–0.5000" not in text
    assert "† 7" in text
    assert "† Fewer than 30 users" in text
    assert "buy 0.1000 0.2000 0.1000 † no weights stand out" in text
    assert "† Fewer" not in " ".join(Page(write_report(tmp_path, **content())).text.split())


def test_spread_within_the_interval_is_not_a_best_point(tmp_path):
    given = content()
    given["tradeoff"] = (given["tradeoff"][0], 0.1 + 0.001 * given["tradeoff"][0])
    text = " ".join(Page(write_report(tmp_path, **given)).text.split())
    assert "view 0.1000 0.1010 0.0010 0.0049 no weights stand out" in text


@pytest.mark.parametrize("name", ["intervals", "objectives", "baselines", "users", "items", "metric"])
def test_a_behaviour_may_be_called_anything(tmp_path, name):
    text = " ".join(Page(write_report(tmp_path, **content((name, "b")))).text.split())
    assert f"{name} 54,321 7" in text
    assert f"{name} 0.1637 0.1637" in text


def test_page_of_one_objective_without_met_targets_validation_or_setting(tmp_path):
    given = content(("click",), ks=(5,), met=False) | {"setting": None, "tradeoff": None}
    given["log"] = [{"objective": "click", "phase": "fit", "epoch": 1, "loss": 2.0}]
    path = write_report(tmp_path, **given)
    assert {file.name for file in tmp_path.iterdir()} == {"index.html", "capacity.png", "learning.png"}
    text = " ".join(Page(path).text.split())
    assert "No target had been met upstream" in text
    assert "click, fit 1 1 - - - 2" in text
    assert len(Page(path).of("img")) == 2


def test_trade_off_of_the_finished_objectives_alone(tmp_path):
    weights = weight_grid(2, steps=2)
    given = content() | {"tradeoff": (weights, weights)}
    assert "from all weight on view to all weight on cart" in Page(write_report(tmp_path, **given)).text


def test_names_of_behaviours_are_escaped(tmp_path):
    given = content((NASTY, "b")) | {"title": NASTY, "setting": {NASTY: {NASTY: NASTY}, "x": f"{NASTY}\n1"}}
    path = write_report(tmp_path, **given)
    read = Page(path)
    assert read.headings[0] == NASTY
    assert read.of("script") == []
    assert NASTY not in path.read_text()
    assert NASTY in next(image["alt"] for image in read.of("img"))


def test_later_report_replaces_the_earlier_one_and_nothing_else(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write_report(tmp_path, **content())
    write_report(tmp_path, **content(("click",)) | {"title": "Second", "tradeoff": None})
    names = {"index.html", "capacity.png", "learning.png", "notes.txt"}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert Page(tmp_path / "index.html").headings[0] == "Second"


@pytest.mark.parametrize("fails", ["learning_png", "_render"])
def test_failed_report_leaves_the_earlier_one(tmp_path, monkeypatch, fails):
    def fail(*_, **__):
        raise OSError("no space left")

    folder = tmp_path / "report"
    write_report(folder, **content())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(report, fails, fail)
    with pytest.raises(OSError, match="no space left"):
        write_report(folder, **content() | {"title": "Second"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_report_does_not_import_tensorflow_or_pyplot():
    unwanted = {"tensorflow", "matplotlib.pyplot"}
    code = f"import sys, csmf_tf.evaluation.report; sys.exit(not sys.modules.keys().isdisjoint({unwanted}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Visit(NamedTuple):
    """What a browser makes of a page."""

    dom: str
    console: list[str]

    @property
    def probe(self):
        return json.loads(html.unescape(re.search(r'data-probe="([^"]*)"', self.dom)[1]))

    def faults(self):
        probe = self.probe
        return {
            "console": bool(self.console),
            "image": 0 in probe["images"],
            "request": bool(probe["requests"]),
        }


@pytest.fixture
def visit(tmp_path) -> Callable[..., Visit]:
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = os.environ.get("CSMF_TF_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not browser:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the path; CSMF_TF_CHROMIUM may name one")
    switches = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --enable-logging=stderr --v=0 --dump-dom"
    )

    def load(text, probe=True, width=1280):
        if probe:
            # The page allows no script, so the copy that is probed does without that rule.
            text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
            text = text.replace("</body>", f"{PROBE}</body>")
        path = tmp_path / "page.html"
        path.write_text(text)
        place = [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", path.as_uri()]
        done = subprocess.run(
            [browser, *switches.split(), *place], capture_output=True, text=True, timeout=120, check=True
        )
        return Visit(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])

    return load


def test_browser_shows_the_page_without_a_complaint(page, visit):
    text = page.read_text()
    shown = visit(text, probe=False)
    assert shown.console == []
    assert re.findall(r"<h1>(.*?)</h1>", shown.dom) == ["A run"]
    assert len(re.findall(r"<h2 ", shown.dom)) == 9
    probed = visit(text)
    assert probed.faults() == {"console": False, "image": False, "request": False}
    assert len(probed.probe["images"]) == 3
    assert min(probed.probe["images"]) > 500


def test_page_fits_a_phone_and_runs_no_script_of_a_name(tmp_path, visit):
    names = (NASTY, "a-behaviour-with-a-very-long-name-that-has-no-space-in-it-at-all", "buy")
    probe = visit(write_report(tmp_path / "report", **content(names)).read_text(), width=390).probe
    assert probe["scripts"] == 1  # the probe itself
    assert probe["overflow"] <= 0


@pytest.mark.parametrize(
    ("fault", "element"),
    [
        ("console", "<script>console.error('an error')</script>"),
        ("console", "<script>throw new Error('thrown')</script>"),
        ("image", "<img src='data:image/png;base64,AAAA' alt=''>"),
        ("request", "<img src='http://127.0.0.1:9/x.png' alt=''>"),
    ],
)
def test_these_tests_see_a_faulty_page(visit, fault, element):
    empty = "<!doctype html><title>x</title><body><p>text</p></body>"
    assert visit(empty.replace("</p>", f"</p>{element}")).faults()[fault]


def test_page_itself_refuses_requests_and_scripts(page, visit):
    for element in ("<img src='http://127.0.0.1:9/x.png' alt=''>", "<script>document.title = 'ran'</script>"):
        shown = visit(page.read_text().replace("</main>", f"{element}</main>"), probe=False)
        assert "Content Security Policy" in "".join(shown.console)
        assert "<title>A run</title>" in shown.dom
