"""The dashboard in a real browser, on a service that says what a test wants it to say."""

import hashlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser import PATIENCE_MS, needs_browser, open_browser, open_page
from tests.fake_service import DASHBOARD, World, fake_service

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, LocatorAssertions

OWN_FILES = sorted(
    file
    for kind in ("*.html", "*.js", "*.css", "*.svg")
    for file in DASHBOARD.rglob(kind)
    if "vendor" not in file.parts
)
PAGES = ("#/", "#/servers/ppdb0001", "#/alerts", "#/what-if", "#/model")
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with open_browser() as browser:
        yield browser


def expect(locator: "Locator") -> "LocatorAssertions":
    """Wait for what is asserted; the page's policy forbids to wait by script."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE_MS)
    return expect(locator)


def test_vendored_files_are_those_of_the_package() -> None:
    """SHA256SUMS was written from the npm package; a file edited here would differ."""
    folder = DASHBOARD / "vendor" / "uPlot"
    lines = [line.split("  ") for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in lines} == {file.name for file in folder.iterdir()} - {"SHA256SUMS"}
    for digest, name in lines:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


def test_page_keeps_its_own_security_policy() -> None:
    """No inline script or style, no markup from text, no address but the SVG namespace's."""
    assert len(OWN_FILES) > 10
    for file in OWN_FILES:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"<style|\sstyle=|<script>|\son[a-z]+=\"", text), file
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert set(re.findall(r"https?://[\w./]*", text)) <= {"http://www.w3.org/2000/svg"}, file


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_loads_fits_and_asks_nobody_else(browser: "Browser", width: int) -> None:
    world = World(trouble={"ppdb0001": 9.0}, cold={"ppweb0005"})
    with fake_service(world) as address, open_page(browser, width) as watched:
        page = watched.page
        for route in PAGES:
            page.goto(f"{address}/{route}")
            page.wait_for_selector("main h1")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, route
        assert watched.complaints == []
        assert watched.asked_of_others(address) == []
    assert any("uPlot" in line for line in world.asked)


@needs_browser
def test_overview_sorts_by_first_breach_and_leads_to_the_server(browser: "Browser") -> None:
    world = World(trouble={"ppdb0002": 4.5, "ppml0004": 9.0}, cold={"ppweb0005"})
    with fake_service(world) as address, open_page(browser) as watched:
        page = watched.page
        page.goto(address)
        rows = page.locator(".heat tbody tr")
        headline = page.locator("main h1").inner_text()
        assert headline.startswith("1 of 15 servers is over a threshold, 1 more is expected")
        assert [rows.nth(i).locator("a").inner_text() for i in (0, 1)] == ["ppml0004", "ppdb0002"]
        firsts = [rows.nth(i).locator(".first").inner_text() for i in (0, 1)]
        assert firsts[0] == "Memory over its threshold"
        assert re.search(r"Memory in .* likely", firsts[1], re.DOTALL)
        cold = page.locator("tr", has_text="ppweb0005")
        assert "14 ticks of history" in cold.inner_text()
        assert cold.locator(".cell").count() == 0  # no number, whatever its colour
        page.get_by_role("link", name="ppml0004").click()
        page.wait_for_selector("[data-fan] canvas")
        assert page.locator("[data-fan] canvas").count() == 4
        assert "90" in page.locator("main h1").inner_text()
        assert page.title() == "ppml0004 - fleet-tft"
        page.locator("[data-fan=memory_percent] .u-over").hover(position={"x": 440, "y": 60})
        read = page.locator("[data-key=memory_percent] .under-pointer")
        expect(read).to_have_text(re.compile(r"\d\d:\d\d +\d+\.\d \(\d.* to \d.*\) %"))
        assert watched.complaints == []


@needs_browser
def test_a_filter_is_seen_by_who_comes_back(browser: "Browser") -> None:
    with fake_service(World()) as address, open_page(browser) as watched:
        page = watched.page
        page.goto(address)
        page.get_by_label("Filter by name").fill("ml")
        page.get_by_role("link", name="ppml0004").click()
        page.get_by_role("link", name="Fleet").last.click()
        expect(page.get_by_label("Filter by name")).to_have_value("ml")
        assert page.locator(".heat tbody tr").count() == 5


@needs_browser
def test_person_switches_the_scenario_and_sees_the_alert_appear(browser: "Browser") -> None:
    world = World(demo=True)
    with fake_service(world) as address, open_page(browser) as watched:
        page = watched.page
        page.goto(address)
        page.wait_for_selector("[data-scenario]")
        assert page.locator("#firing").is_hidden()
        assert page.locator("main h1").inner_text().startswith("Nothing is expected")
        page.get_by_label("Where").select_option("server:ppdb0003")
        page.get_by_role("button", name="critical").click()
        page.wait_for_selector("#firing:not([hidden])")
        assert world.scenario == ("critical", "server:ppdb0003")
        assert page.locator("#firing").inner_text() == "1"
        assert page.locator("#said").inner_text() == "New alert: ppdb0003 memory_percent"
        page.get_by_role("link", name="Alerts").click()
        alert = page.locator("[data-alert=firing]")
        alert.wait_for()
        assert "ppdb0003" in alert.inner_text()
        page.get_by_role("button", name="healthy").click()
        alert.wait_for(state="detached")
        assert watched.complaints == []


@needs_browser
def test_scenario_bar_is_absent_where_the_fleet_is_real(browser: "Browser") -> None:
    world = World()
    with fake_service(world) as address, open_page(browser) as watched:
        watched.page.goto(address)
        watched.page.wait_for_selector("main h1")
        assert watched.page.locator("[data-scenario]").count() == 0
    assert not any("demo" in line for line in world.asked)


@needs_browser
def test_keyboard_alone_is_enough(browser: "Browser") -> None:
    with fake_service(World()) as address, open_page(browser) as watched:
        page, keys = watched.page, watched.page.keyboard
        page.goto(address)
        page.wait_for_selector(".heat")
        page.locator("body").press("Tab")
        while page.evaluate("!document.activeElement.closest('.heat')"):
            keys.press("Tab")
        keys.press("ArrowDown")
        keys.press("ArrowDown")
        keys.press("ArrowUp")
        second = page.locator(".heat a").nth(1).inner_text()
        assert page.evaluate("document.activeElement.textContent") == second
        keys.press("Enter")
        page.wait_for_selector("[data-fan] canvas")
        assert page.evaluate("document.activeElement.id") == "main"
        assert page.title().startswith(second)


@needs_browser
def test_theme_is_switched_and_remembered(browser: "Browser") -> None:
    with fake_service(World()) as address, open_page(browser, scheme="dark") as watched:
        page = watched.page
        page.goto(f"{address}/#/servers/ppdb0001")
        page.wait_for_selector("canvas")
        paper = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(paper)
        page.locator("#theme").click()
        light = page.evaluate(paper)
        assert dark != light
        page.reload()
        page.wait_for_selector("canvas")
        assert page.evaluate(paper) == light
        assert watched.complaints == []


@needs_browser
def test_what_is_typed_and_focused_survives_new_data(browser: "Browser") -> None:
    world = World(demo=True, trouble={"ppdb0002": 9.0})
    with fake_service(world) as address, open_page(browser) as watched:
        page = watched.page
        page.goto(address)
        page.fill("#filter", "ppdb")
        expect(page.locator(".heat tbody tr")).to_have_count(5)
        page.locator(".heat a", has_text="ppdb0004").focus()
        world.trouble = {"ppdb0004": 9.0}  # its row moves to the top
        expect(page.locator(".heat a").first).to_have_text("ppdb0004")
        assert page.evaluate("document.activeElement.textContent") == "ppdb0004"
        assert page.input_value("#filter") == "ppdb"
        assert page.locator(".heat tbody tr").count() == 5


@needs_browser
def test_states_are_said_as_they_are(browser: "Browser") -> None:
    with fake_service(world := World(demo=True)) as address, open_page(browser) as watched:
        page = watched.page
        world.servers = ()
        page.goto(address)
        page.get_by_role("heading", name="No server has reported yet").wait_for()
        world.servers, world.cold = ("ppdb0001",), {"ppdb0001"}
        page.get_by_role("heading", name="No forecast yet").wait_for()
        page.goto(f"{address}/#/servers/ppdb0001")
        page.get_by_role("heading", name="Warming up").wait_for()
        assert page.locator("[data-fan] canvas").count() == 4  # what was received is shown
        world.cold, world.age_seconds = set(), 1620.0
        page.get_by_text("The newest tick is 27 min old").wait_for()
        world.failing = (503, "the model is not loaded")
        page.get_by_text("the model is not loaded").wait_for()
        assert "What is below is from" in page.locator("#notices").inner_text()
        assert page.locator("[data-fan] canvas").count() == 4
        world.failing, world.age_seconds = None, 30.0
        expect(page.locator("#notices")).to_be_empty()
        page.goto(f"{address}/#/servers/nobody")
        page.get_by_role("heading", name="Not here").wait_for()


@needs_browser
def test_a_breach_of_stale_data_is_past_and_no_warning(browser: "Browser") -> None:
    world = World(trouble={"ppdb0002": 4.5}, age_seconds=4 * 3600.0)
    with fake_service(world) as address, open_page(browser) as watched:
        watched.page.goto(address)
        watched.page.get_by_role("heading", name="The data have stopped").wait_for()
        first = watched.page.locator("tr", has_text="ppdb0002").locator(".first")
        assert first.inner_text().startswith("Memory was expected")


@needs_browser
def test_service_that_vanishes_is_said_to_be_away(browser: "Browser") -> None:
    with open_page(browser) as watched:
        with fake_service(World(demo=True)) as address:
            watched.page.goto(address)
            watched.page.wait_for_selector(".heat")
        watched.page.get_by_text("The service cannot be reached").wait_for()
        assert watched.page.locator(".heat").count() == 1


@needs_browser
def test_token_is_asked_for_and_sent(browser: "Browser") -> None:
    world = World(token="open sesame")
    with fake_service(world) as address, open_page(browser) as watched:
        page = watched.page
        page.goto(address)
        with page.expect_response("**/api/v1/fleet"):
            page.fill("#token", "guess")
            page.keyboard.press("Enter")
        page.fill("#token", "open sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector(".heat")
        assert "sesame" not in page.url


@needs_browser
def test_text_of_others_is_text(browser: "Browser") -> None:
    world = World(cold={"ppdb0001"}, reason=HOSTILE)
    with fake_service(world) as address, open_page(browser) as watched:
        page = watched.page
        for route in ("#/", "#/servers/ppdb0001"):
            page.goto(f"{address}/{route}")
            page.get_by_text(HOSTILE).wait_for()
            assert page.locator("main img").count() == 0
        assert watched.complaints == []


@needs_browser
def test_what_if_it_were_another_hour(browser: "Browser") -> None:
    """The clock alone: every metric as it was."""
    world = World()
    with fake_service(world) as address, open_page(browser) as watched:
        page = watched.page
        page.goto(f"{address}/#/what-if")
        page.fill("[name=clock]", "-1")
        page.get_by_role("button", name="Show").click()
        page.wait_for_selector("[data-response] canvas")
        (asked,) = world.said
        assert asked["clock_hours"] == -1
        assert asked["metrics"] == {"cpu_percent": {"scale": 1, "shift": 0}}


@needs_browser
def test_what_if_asks_what_was_filled_in_and_draws_the_response(browser: "Browser") -> None:
    world = World()
    with fake_service(world) as address, open_page(browser) as watched:
        page = watched.page
        page.goto(f"{address}/#/what-if")
        page.get_by_role("button", name="Show").click()
        page.get_by_text("Change at least one metric").wait_for()
        page.select_option("[name=servers]", "profile:database")
        page.fill("[name=hours]", "3")
        page.fill("[name='scale cpu_percent']", "1.6")
        page.fill("[name='shift memory_percent']", "-5")
        page.fill("[name=clock]", "24")
        page.get_by_role("button", name="Show").click()
        page.wait_for_selector("[data-response] canvas")
        assert world.said == [
            {
                "servers": [f"ppdb000{n}" for n in range(1, 6)],
                "hours": 3,
                "clock_hours": 24,
                "metrics": {
                    "cpu_percent": {"scale": 1.6, "shift": 0},
                    "memory_percent": {"scale": 1, "shift": -5},
                },
            }
        ]
        assert "Outside what it was trained on" in page.locator("main").inner_text()
        assert page.locator("[data-response] canvas").count() == 3 * 4
        assert page.locator("[data-key=results] .mark").count() == 0
        world.age_seconds = 1620.0
        page.get_by_role("button", name="Show").click()
        page.locator("[data-key=results] h3 .mark").first.wait_for()
        assert page.locator("[data-key=results] h3 .mark").all_inner_texts() == ["stale"] * 3
        assert page.locator("[data-key=results] th .mark").count() == 5 * 4
        assert watched.complaints == []
