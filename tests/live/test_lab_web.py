"""The page of a lab in Chromium: a click cuts a cable, other browsers see it; other pages and hosts can do no harm."""

import contextlib
import http.server
import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ibbond import Lab
from ibbond.web.mailbox import MAX_EVENTS
from tests.live.commands import IBBOND, NO_VIEW, bash, ibbond, sound_lab

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

MIDDLE = """name => {
    const path = document.querySelector(`.cable[data-name="${name}"] .hit`);
    const { x, y } = path.getPointAtLength(path.getTotalLength() / 2).matrixTransform(path.getScreenCTM());
    return [x, y];
}"""
SLOWEST = """() => {
    window.slowest = 0;
    new PerformanceObserver(list => {
        for (const { duration } of list.getEntries()) window.slowest = Math.max(window.slowest, duration);
    }).observe({ type: "longtask" });
}"""
WITHIN_MS = 10_000  # of a busy machine


@contextlib.contextmanager
def page_of(lab: str) -> Iterator[str]:
    """The URL of `ibbond lab web` while it runs."""
    command = [IBBOND, "lab", "web", "--name", lab, "--json", "--every", "0.3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        try:
            yield json.loads(serving.stdout.readline())["url"]
        finally:
            serving.terminate()
            serving.wait(timeout=20)
    assert serving.returncode in (0, -15, 143)


@pytest.fixture(scope="module")
def browsers() -> Iterator[list["Browser"]]:
    """Two, each a process of its own."""
    with sync_api.sync_playwright() as playwright:
        started = [playwright.chromium.launch(executable_path=CHROMIUM) for _ in range(2)]
        yield started
        for browser in started:
            browser.close()


def opened(browser: "Browser", url: str) -> "Page":
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(WITHIN_MS)
    page.on("pageerror", lambda error: pytest.fail(f"the page's script failed: {error}"))
    page.goto(url)
    page.wait_for_selector(".cable.up")
    return page


def click(page: "Page", cable: str) -> None:
    """With the mouse, in the middle of the line."""
    page.mouse.click(*page.evaluate(MIDDLE, cable))


def wait_for(page: "Page", cable: str, look: str) -> None:
    page.wait_for_selector(f'.cable.{look}[data-name="{cable}"]')


def test_a_click_cuts_a_cable_and_another_browser_sees_and_mends_it(browsers: list["Browser"]) -> None:
    with sound_lab() as lab, page_of(lab.name) as url:
        one, two = (opened(browser, url) for browser in browsers)
        click(one, "h1/ib0")
        for page in (one, two):
            wait_for(page, "h1/ib0", "cut")
            page.wait_for_selector("#bonds li:has-text('h1/bond0') .pill.active:has-text('ib1')")
            page.wait_for_selector("#events .failover:has-text('ib0 → ib1')")
        assert lab.active("h1/bond0") == "ib1"
        click(two, "h1/ib0")
        for page in (one, two):
            wait_for(page, "h1/ib0", "up")
        lab.kill("s2")
        wait_for(one, "h1/ib1", "down")
        assert one.locator(".node.switch.dark").count() == 1
        lab.revive("s2")
        one.focus('.cable[data-name="h2/ib1"]')
        one.keyboard.press("Enter")
        wait_for(two, "h2/ib1", "cut")


def test_traffic_shows_and_the_end_of_the_lab_too(browsers: list["Browser"]) -> None:
    with sound_lab() as lab, page_of(lab.name) as url:
        page = opened(browsers[0], url)
        with lab["h1"].popen(["ping", "-i", "0.01", "-q", "10.0.0.2"]) as ping:
            wait_for(page, "h1/ib0", "busy")
            page.wait_for_selector("#bonds .rate:has-text('bit/s')")
            ping.terminate()
        ibbond("lab", "down", lab=lab)
        page.wait_for_selector("#link.gone")
        page.wait_for_selector("#notice:has-text('is running')")


def test_the_demo_can_be_watched(browsers: list["Browser"]) -> None:
    with subprocess.Popen([IBBOND, "demo", "--rounds", "50"], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        try:
            command = next(line for line in demo.stdout if "ibbond lab web" in line)
            with page_of(command.split()[-1]) as url:
                page = opened(browsers[0], url)
                wait_for(page, "h1/ib0", "busy")
                page.wait_for_selector(".cable.cut")
                page.wait_for_selector("#events .cut")
                page.wait_for_selector("#events .failover:has-text('ib0 → ib1')")
                page.wait_for_selector("#events .mend")
        finally:
            demo.send_signal(signal.SIGINT)
            demo.stdout.read()


@pytest.mark.skipif(NO_VIEW is not None, reason=f"no sysfs view: {NO_VIEW}")
def test_names_that_a_host_has_chosen_are_text(browsers: list["Browser"]) -> None:
    with sound_lab() as lab, page_of(lab.name) as url:
        page = opened(browsers[0], url)
        bash(lab["h1"], "echo '+<img/src=x>' > bonding_masters; echo '+<b>x' > bonding_masters")
        page.wait_for_selector("#bonds .bond:has-text('h1/<b>x')")
        assert page.locator("#bonds b, #events b, #bonds img, #events img").count() == 0


@pytest.mark.skipif(NO_VIEW is not None, reason=f"no sysfs view: {NO_VIEW}")
def test_a_host_that_makes_thousands_of_events_leaves_the_page_usable(browsers: list["Browser"]) -> None:
    flood = "for i in {1..1500}; do echo ib1 > bond0/bonding/active_slave; echo ib0 > bond0/bonding/active_slave; done"
    with sound_lab() as lab, page_of(lab.name) as url:
        page = opened(browsers[0], url)
        with lab["h1"].popen(["bash", "-c", f"cd /sys/class/net; {flood}"]) as flooding:
            page.locator("#events .failover").nth(199).wait_for(state="attached")
            click(page, "h2/ib1")
            wait_for(page, "h2/ib1", "cut")
            assert flooding.wait(timeout=60) == 0
        assert page.locator("#events li").count() <= 2 * MAX_EVENTS + 1


class ForeignPage(http.server.BaseHTTPRequestHandler):
    """A page of another origin that knows the URL, and tries what it can with it."""

    url = ""

    def do_GET(self) -> None:
        script = """
            const cut = { method: "POST", body: '{"cables": ["h1/ib0"]}' };
            window.got = [];
            const tried = [
                fetch(URL + "cut", { ...cut, mode: "no-cors" }),
                fetch(URL + "cut", { ...cut, headers: { "Content-Type": "application/json" } }),
                fetch(URL + "page.js").then(answer => answer.text()),
                new Promise((_, fail) => {
                    const source = new EventSource(URL + "events");
                    source.onopen = () => got.push("events");
                    source.onerror = fail;
                }),
            ].map((each, index) => each.then(({ type }) => type === "opaque" || got.push(index), () => 0));
            Promise.all(tried).then(() => window.done = true);
        """.replace("URL", json.dumps(self.url))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f"<iframe src='{self.url}'></iframe><script>{script}</script>".encode())

    def log_message(self, *_: object) -> None:
        pass


def test_another_page_can_neither_look_nor_cut_although_it_knows_the_url(browsers: list["Browser"]) -> None:
    with sound_lab() as lab, page_of(lab.name) as url:
        ForeignPage.url = url
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ForeignPage) as foreign:
            threading.Thread(target=foreign.serve_forever, daemon=True).start()
            page = browsers[0].new_page()
            page.goto(f"http://127.0.0.1:{foreign.server_port}/")
            page.wait_for_function("window.done")
            assert page.evaluate("window.got") == []
            assert not any("lab" in frame.title() for frame in page.frames[1:])
            foreign.shutdown()
        assert {cable["state"] for cable in lab.status()["cables"]} == {"up"}


@pytest.mark.slow
def test_a_lab_of_128_hosts_stays_usable(browsers: list["Browser"], tmp_path: Path) -> None:
    file = tmp_path / "fat_tree.toml"
    file.write_text("[fat_tree]\nhosts = 128\nleaves = 8\nspines = 4\n")
    with sound_lab(file) as lab, page_of(lab.name) as url:
        began = time.monotonic()
        page = opened(browsers[0], url)
        assert page.locator(".node.host").count() == 128
        assert time.monotonic() - began < 5
        page.evaluate(SLOWEST)
        began = time.monotonic()
        page.fill("#bonds input", "h77")
        assert page.locator(".node.found").count() == 1
        click(page, "leaf1/33")
        wait_for(page, "leaf1/33", "cut")
        assert time.monotonic() - began < 3
        page.set_viewport_size({"width": 400, "height": 800})
        page.wait_for_timeout(3000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert page.evaluate("window.slowest") < 2000
        assert cut_cables(lab) == ["leaf1/33"]


def cut_cables(lab: Lab) -> list[str]:
    return [cable["name"] for cable in lab.status()["cables"] if cable["state"] == "cut"]
