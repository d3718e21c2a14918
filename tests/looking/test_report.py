from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from queuectl.report.page import last_lines
from tests.looking.browser import chromium, drawn_at_once
from tests.looking.support import EXIT_0, EXIT_1, past, put, run_entry
from tests.support import DEADLINE_S, Child, SpoolDir, read_text, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
BREAK_OUT = "</script><script>document.title='owned'</script>"


def some_past(spool: SpoolDir) -> None:
    now = time.time()
    for n in range(30):
        at = now - 3600 * (n + 1)
        record = past(f"fine-{n}", "completed", at - 2, run_entry(1, at, n + 1), tags=["good"])
        put(spool, {**record, "command": f"encode {n}.mov"})
    for n in range(4):
        at = now - 7200 * (n + 1)
        history = [run_entry(1, at, 2, **EXIT_1), run_entry(2, at + 5, 2, **EXIT_1)]
        dead = past(f"lost-{n}", "dead", at, *history, error_message=f"exit status {n}")
        put(spool, {**dead, "command": f"upload part-{n}"})
    with open(f"{spool.path}/logs/lost-0.2.err", "w", encoding="utf-8") as file:
        file.write("first line\n\x1b[31mno route to host\x1b[0m\n")
    hostile = past("evil", "dead", now - 60, run_entry(1, now - 50, 1, **EXIT_1))
    hostile.update(command=EVIL, tags=[BREAK_OUT], error_message=EVIL)
    put(spool, hostile)
    with open(f"{spool.path}/logs/evil.1.out", "w", encoding="utf-8") as file:
        file.write(f"{BREAK_OUT}\n{EVIL}\n")


# --- the file ---------------------------------------------------------------------------------


@pytest.fixture
def report(spool: SpoolDir, tmp_path: Path) -> str:
    """Return the path of a report."""
    some_past(spool)
    spool.run("report", "--output", str(tmp_path / "report.html"))
    return str(tmp_path / "report.html")


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def island(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    data: dict[str, Any] = json.loads(match[1])
    return data


def test_the_page_is_one_file_that_may_load_nothing(report: str) -> None:
    page = read(report)
    assert "default-src 'none'" in page
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+", page.replace(island(page)["spool"], "")))
    assert addresses <= {"http://www.w3.org"}  # the namespace of SVG, which nobody fetches
    assert not re.findall(r"<(?:link|img|iframe|script)[^>]+(?:src|href)=\"(?!data:)", page)


def test_no_text_of_a_job_can_end_the_element_that_holds_it(report: str) -> None:
    page = read(report)
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img" not in page
    dead = {row["id"]: row for row in island(page)["dead"]}
    assert dead["evil"]["command"] == EVIL
    assert dead["evil"]["tags"] == [BREAK_OUT]


def test_the_dead_come_with_their_reason_and_last_lines(report: str) -> None:
    dead = {row["id"]: row for row in island(read(report))["dead"]}
    assert dead["lost-0"]["reason"] == "exit status 0"
    assert dead["lost-0"]["output"] == "first line\nno route to host"
    assert dead["lost-1"]["output"] == ""


def test_a_report_is_for_its_owner_and_replaces_the_one_before(spool: SpoolDir) -> None:
    spool.create()
    path = os.path.join(os.path.dirname(spool.path), "page.html")
    for _ in range(2):
        assert spool.run("report", "--output", path).out.startswith(path)
        assert os.stat(path).st_mode & 0o777 == 0o600
    beside = [name for name in os.listdir(os.path.dirname(path)) if name.startswith("page")]
    assert beside == ["page.html"]


def test_it_is_named_report_html_where_no_name_is_given(spool: SpoolDir, tmp_path: Path) -> None:
    spool.create()
    spool.run("report", cwd=str(tmp_path))
    assert (tmp_path / "report.html").exists()


def test_a_link_that_nobody_named_is_replaced_and_not_followed(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.create()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "report.html").symlink_to("precious")
    spool.run("report", cwd=str(tmp_path))
    assert (tmp_path / "precious").read_text() == "mine"
    assert "<!doctype html>" in (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").symlink_to("/dev/full")
    spool.run("report", cwd=str(tmp_path))
    assert not (tmp_path / "report.html").is_symlink()
    (tmp_path / "page.html").symlink_to("precious")
    spool.run("report", "--output", "page.html", cwd=str(tmp_path))
    assert "<!doctype html>" in (tmp_path / "precious").read_text()


def test_a_dash_is_standard_output(spool: SpoolDir) -> None:
    spool.create()
    assert spool.run("report", "--output", "-").out.startswith("<!doctype html>")


def test_a_place_that_cannot_be_written_is_named(spool: SpoolDir) -> None:
    spool.create()
    assert "/nowhere/page.html" in spool.refuse("report", "--output", "/nowhere/page.html")


def test_what_ended_before_the_period_is_not_in_it(spool: SpoolDir) -> None:
    long_ago = time.time() - 30 * 86400
    put(spool, past("old", "dead", long_ago, run_entry(1, long_ago, 1, **EXIT_1)))
    data = island(spool.run("report", "--output", "-", "--since", "24h").out)
    assert data["dead"] == []
    data = island(spool.run("report", "--output", "-", "--since", "52w").out)
    assert [row["id"] for row in data["dead"]] == ["old"]


def test_of_very_many_jobs_the_page_keeps_the_slowest_and_the_latest(spool: SpoolDir) -> None:
    now = time.time()
    for n in range(700):
        put(spool, past(f"d{n}", "dead", now - n, run_entry(1, now - n, n / 1000, **EXIT_1)))
    data = island(spool.run("report", "--output", "-").out)
    assert data["ended"]["dead"] == 700
    assert [row["id"] for row in data["dead"][:2]] == ["d0", "d1"]
    assert len(data["dead"]) == 500
    assert [row["id"] for row in data["slowest"][:2]] == ["d699", "d698"]


def test_only_regular_files_are_quoted(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "missing", "."):
        assert last_lines(str(tmp_path / name)) == ""


def test_of_a_long_output_the_end_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"x" * 100_000 + b"\n" + b"".join(b"line %d\n" % n for n in range(50)))
    lines = last_lines(str(path)).splitlines()
    assert (len(lines), lines[-1]) == (20, "line 49")
    path.write_bytes(b"\xff\xfe\x00 \x1b]0;title\x07plain\n")
    assert last_lines(str(path)).endswith(" plain")


# --- in a browser -----------------------------------------------------------------------------


@pytest.fixture
def page(report: str, tmp_path: Path) -> Iterator[Any]:
    """Return a browser that shows a report."""
    with chromium(tmp_path) as browser:
        source = "window.faults = []; addEventListener('error', (e) => faults.push(e.message))"
        browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
        browser.get(f"file://{report}")
        wait_until(lambda: browser.execute_script("return document.querySelectorAll('svg').length"))
        yield browser


def texts(page: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
    found: list[str] = page.execute_script(script, selector)
    return found


def click(page: Any, section: str, heading: str) -> None:
    (button,) = [
        one
        for one in page.find_elements("css selector", f"#{section} .sort")
        if one.text == heading
    ]
    button.click()


def size(page: Any, width: int) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
    )


@pytest.mark.slow
def test_a_browser_draws_it_without_a_word_on_the_console(page: Any, report: str) -> None:
    assert page.execute_script("return document.querySelectorAll('svg').length") == 3
    assert (
        page.execute_script("return document.querySelectorAll('#timeline .completed').length") > 0
    )
    assert texts(page, "#figures dd")[0] == "35"
    assert page.get_log("browser") == []
    for width in (390, 800, 1280):  # some errors reach the window, not the console
        size(page, width)
        page.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 100))")
    assert page.execute_script("return window.faults") == []
    asked = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    urls = {
        event["params"]["request"]["url"]
        for event in asked
        if event["method"] == "Network.requestWillBeSent"
    }
    ours = {url for url in urls if not url.startswith(("data:", "chrome://"))}  # of its first tab
    assert ours == {f"file://{report}"}


@pytest.mark.slow
def test_who_converts_it_at_once_gets_its_charts(report: str, tmp_path: Path) -> None:
    assert drawn_at_once(tmp_path, report).count("<svg") == 3


@pytest.mark.slow
def test_a_job_whose_command_is_a_script_does_nothing(page: Any) -> None:
    assert "owned" not in page.title
    assert any(EVIL in text for text in texts(page, "#dead code"))
    assert (
        page.execute_script("return document.querySelectorAll('main img, main script').length") == 0
    )
    # the policy holds even against markup that gets in by another way
    page.execute_script("document.body.insertAdjacentHTML('beforeend', arguments[0])", EVIL)
    page.execute_script(
        "const s = document.createElement('script'); s.textContent = \"document.title='owned'\";"
        "document.body.append(s)"
    )
    assert "owned" not in page.title
    assert any("Content Security Policy" in entry["message"] for entry in page.get_log("browser"))


@pytest.mark.slow
def test_tables_sort_both_ways_and_say_so(page: Any) -> None:
    ids = "#slowest tbody .sub"
    assert texts(page, ids)[0] == "fine-29"  # 30 s: the slowest first
    click(page, "slowest", "Took")
    assert texts(page, ids)[0] == "evil"
    assert texts(page, "#slowest [aria-sort=ascending]") == ["Took"]
    click(page, "slowest", "Job")
    commands = texts(page, "#slowest tbody code")
    assert commands[1:4] == ["encode 0.mov", "encode 1.mov", "encode 2.mov"]  # 2 before 10


@pytest.mark.slow
def test_tables_filter_and_show_the_rest_when_asked(page: Any) -> None:
    field = page.find_element("css selector", "#slowest input")
    field.send_keys("MOV encode")
    assert len(texts(page, "#slowest tbody tr")) == 12
    assert texts(page, "#slowest output") == ["12 of 30 found"]
    page.find_element("css selector", "#slowest .more").click()
    assert len(texts(page, "#slowest tbody tr")) == 30
    field.send_keys(" 17")
    assert texts(page, "#slowest tbody code") == ["encode 17.mov"]
    dead = page.find_element("css selector", "#dead input")
    dead.send_keys("no route")
    assert texts(page, "#dead tbody .sub") == ["lost-0"]  # the output is searched too


@pytest.mark.slow
def test_charts_are_read_by_keys_and_have_their_tables(page: Any) -> None:
    chart = page.find_element("css selector", "#timeline")
    chart.send_keys("\ue014")  # arrow right
    assert re.search(r"\d+ completed", texts(page, "#timeline .quiet")[0])
    assert not page.find_element("css selector", "#timeline .tip").get_attribute("hidden")
    rows = page.execute_script(
        "return [...document.querySelectorAll('#timeline-data tbody tr')]"
        ".map((row) => [...row.cells].slice(1).map((cell) => Number(cell.textContent)))"
    )
    assert [sum(column) for column in zip(*rows, strict=True)] == [30, 4, 5]


@pytest.mark.slow
def test_no_duration_is_rounded_into_the_next_unit(page: Any) -> None:
    lengths = [59.94, 59.97, 599.9, 3599, 3600, 86399, 86400]
    assert page.execute_script("return arguments[0].map(duration)", lengths) == [
        *("59.9 s", "1 min 0 s", "9 min 59 s", "59 min", "1 h 0 min", "23 h 59 min", "1 d 0 h")
    ]


@pytest.mark.slow
def test_columns_of_seconds_are_told_apart(spool: SpoolDir, tmp_path: Path) -> None:
    begun = time.time() - 20
    for n in range(3):
        put(spool, past(f"j{n}", "completed", begun + n, run_entry(1, begun + n, 0.1)))
    spool.run("report", "--output", str(tmp_path / "r.html"))
    with chromium(tmp_path) as browser:
        browser.get(f"file://{tmp_path}/r.html")
        cells = wait_until(
            lambda: browser.execute_script(
                "return [...document.querySelectorAll('#timeline-data tbody td:first-child')]"
                ".map((cell) => cell.textContent)"
            )
        )
    assert len(set(cells)) == len(cells) > 1


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_no_width_makes_the_page_scroll_sideways(page: Any, width: int) -> None:
    size(page, width)
    wait_until(
        lambda: page.execute_script(
            "return [...document.querySelectorAll('svg')].every((one) => "
            "Number(one.getAttribute('viewBox').split(' ')[2]) <= window.innerWidth)"
        )
    )
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def _contrast(one: list[float], other: list[float]) -> float:
    def light(rgb: list[float]) -> float:
        parts = [c / 255 for c in rgb]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_bars_stand_out_in_light_and_dark(page: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def colour(selector: str, style: str) -> list[float]:
        script = (
            "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
            ".match(/[\\d.]+/g).map(Number).slice(0, 3)"
        )
        found: list[float] = page.execute_script(script, selector, style)
        return found

    surface = colour("section", "backgroundColor")
    assert (sum(surface) > 600) == (scheme == "light")
    for text in ("body", ".about", ".figures dt", "#dead .sub", "#dead .sort"):
        assert _contrast(colour(text, "color"), surface) >= 4.5, text
    for outcome in ("completed", "dead"):
        assert _contrast(colour(f"#timeline .{outcome}", "fill"), surface) >= 3, outcome


@pytest.mark.slow
def test_an_empty_spool_makes_a_page_too(spool: SpoolDir, tmp_path: Path) -> None:
    spool.create()
    spool.run("report", "--output", str(tmp_path / "empty.html"))
    with chromium(tmp_path) as browser:
        browser.get(f"file://{tmp_path}/empty.html")
        assert "No job died in this period." in texts(browser, "#dead")
        assert browser.get_log("browser") == []


def test_a_completed_job_alone_needs_no_history(spool: SpoolDir) -> None:
    put(spool, past("moved", "completed", time.time()))
    put(spool, past("fine", "completed", time.time(), run_entry(1, time.time(), 1, **EXIT_0)))
    assert island(spool.run("report", "--output", "-").out)["ended"]["completed"] == 2


def test_what_is_no_file_is_written_to_and_not_replaced(spool: SpoolDir, tmp_path: Path) -> None:
    spool.create()
    pipe, page, link = (tmp_path / name for name in ("pipe", "page", "link"))
    os.mkfifo(pipe)
    link.symlink_to(page)
    with Child(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        spool.run("report", "--output", str(pipe))
        assert b"<html" in reader.communicate()[0]
    assert stat.S_ISFIFO(os.lstat(pipe).st_mode)
    spool.run("report", "--output", str(link))
    assert link.is_symlink()
    assert "<html" in page.read_text()


def test_the_output_of_a_job_that_is_kept_beside_another_is_quoted(spool: SpoolDir) -> None:
    now = time.time()
    record = past("a.2", "dead", now - 9, run_entry(1, now - 8, 1, **EXIT_1))
    put(spool, {**record, "stdout_path": f"{spool.path}/logs/a.1.out"})
    with open(f"{spool.path}/logs/a.1.out", "w") as file:
        file.write("its last words")
    spool.run("report", "--output", f"{spool.path}.html")
    assert "its last words" in read_text(f"{spool.path}.html")
    assert f"{spool.path}/logs/a.1.out" in spool.run("show", "a.2").out


def test_of_a_job_with_another_life_the_tries_of_this_one_are_told(spool: SpoolDir) -> None:
    now = time.time()
    runs = [run_entry(number, now - 9 + number, 0.5, **EXIT_1) for number in (1, 2, 3)]
    put(spool, past("job", "dead", now - 10, *runs, attempts=1, error_message="exit status 1"))
    (dead,) = island(spool.run("report", "--output", "-").out)["dead"]
    assert dead["tries"] == 1


def test_what_moves_a_cursor_is_no_part_of_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\x1b[31mred\x1b[0m\r\x07\tbell\n")
    assert last_lines(str(log)) == "red\n�\tbell"


def test_a_run_that_was_given_back_is_none_of_the_slowest(spool: SpoolDir) -> None:
    now = time.time()
    given_back = run_entry(1, now - 900, 800, ended="stopped")
    put(spool, past("job", "completed", now - 900, given_back, run_entry(2, now - 9, 1)))
    slowest = island(spool.run("report", "--output", "-").out)["slowest"]
    assert [(row["id"], row["took"]) for row in slowest] == [("job", pytest.approx(1))]


def test_a_report_that_is_to_go_nowhere_is_refused(spool: SpoolDir, tmp_path: Path) -> None:
    spool.create()
    why = spool.refuse("report", "--output", "", cwd=str(tmp_path), status=2)
    assert "--output must name a file" in why
    assert os.listdir(tmp_path) == ["spool"]


def test_no_text_of_a_path_can_end_the_title(tmp_path: Path) -> None:
    spool = SpoolDir(f"{tmp_path}/<b>&\x1b")
    spool.create()
    page = spool.run("report", "--output", "-").out
    title = page.partition("<title>")[2].partition("</title>")[0]
    assert f"{tmp_path}/&lt;b&gt;&amp;" in title
    assert "<b>" not in page
    assert "\x1b" not in page


def test_waits_and_run_times_are_spread_each_by_themselves(spool: SpoolDir) -> None:
    now = time.time()
    put(spool, past("job", "completed", now - 200, run_entry(1, now - 110, 1.5)))
    spread = island(spool.run("report", "--output", "-").out)["histograms"]
    places = {name: spread["bounds"][spread[name].index(1)] for name in ("wait", "run_time")}
    assert places == {"wait": 120, "run_time": 2}


def test_a_run_before_the_period_is_none_of_the_slowest(spool: SpoolDir) -> None:
    now = time.time()
    old, new = run_entry(1, now - 90_000, 800, **EXIT_1), run_entry(2, now - 9, 1)
    put(spool, past("job", "completed", now - 90_000, old, new))
    document = island(spool.run("report", "--since", "1h", "--output", "-").out)
    assert [row["took"] for row in document["slowest"]] == [pytest.approx(1)]


def test_what_goes_to_standard_output_goes_nowhere_else(spool: SpoolDir, tmp_path: Path) -> None:
    spool.create()
    page = spool.run("report", "--output", "-", cwd=str(tmp_path)).out
    assert page.endswith("</html>\n")
    assert os.listdir(tmp_path) == ["spool"]


def test_days_of_a_report_begin_at_the_midnight_of_who_writes_it(spool: SpoolDir) -> None:
    now = time.time()
    for days in (1, 40):
        at = now - days * 86400
        put(spool, past(f"job{days}", "completed", at - 1, run_entry(1, at, 1)), written_s=at)
    document = island(spool.run("report", "--since", "60d", "--output", "-", TZ="XXX-9").out)
    assert {(item["at"] + 9 * 3600) % 86400 for item in document["timeline"]} == {0}


def test_a_report_has_more_groups_than_a_screen(spool: SpoolDir) -> None:
    now = time.time()
    for letter in "abcdefghijkl":
        job = past(letter, "completed", now - 9, run_entry(1, now - 8, 1), tags=[letter])
        put(spool, {**job, "command": f"work {letter}"})
    document = island(spool.run("report", "--output", "-").out)
    assert (len(document["commands"]), len(document["tags"])) == (12, 12)


def test_a_spool_whose_path_is_no_text_has_a_report_too(tmp_path: Path) -> None:
    spool = SpoolDir(os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff"))
    spool.create()
    assert island(spool.run("report", "--output", "-").out)["spool"] == f"{tmp_path}/�"


def test_a_link_that_is_named_is_followed_to_what_is_no_file(
    spool: SpoolDir, tmp_path: Path
) -> None:
    spool.create()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with Child(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE) as reader:
        spool.run("report", "--output", f"{tmp_path}/link")
        assert stat.S_ISFIFO(os.stat(tmp_path / "link").st_mode)
        assert b"</html>" in reader.communicate(timeout=DEADLINE_S)[0]
