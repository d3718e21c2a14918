"""README.md and spool-layout.md say what the program does, no more and no less."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from glob import glob
from inspect import signature
from typing import TYPE_CHECKING

import click
import pytest

import queuectl
from queuectl.cli import cli
from queuectl.cli.commands.enqueue import enqueue
from queuectl.record.fields import FIELDS
from queuectl.record.outcome import Outcome
from queuectl.settings.config import SETTINGS, Config
from queuectl.states import OUTCOMES, STATES
from queuectl.stats.tallies import Spread
from tests.cli.quoted_help import quoted_in
from tests.cli.test_help import COMMANDS
from tests.support import ROOT, SpoolDir, environment

if TYPE_CHECKING:
    from pathlib import Path

# An installed package has no README beside it, but these tests are run from the repository.
TOP = ROOT if os.path.exists(f"{ROOT}/pyproject.toml") else os.getcwd()


def document(name: str) -> str:
    """Return the text of one of the two documents."""
    with open(f"{TOP}/{name}", encoding="utf-8") as file:
        return file.read()


@pytest.fixture(scope="module")
def readme() -> str:
    return document("README.md")


@pytest.fixture(scope="module")
def layout() -> str:
    return document("spool-layout.md")


def row_of(text: str, name: str) -> list[str]:
    """Return the cells of the table row that begins with `name` in backticks, but for the first."""
    match = re.search(rf"^\| *`{re.escape(name)}` *\|(.*)\|$", text, re.MULTILINE)
    assert match, f"`{name}` has no row in a table"
    return [cell.strip() for cell in match[1].split("|")]


# --- README.md -------------------------------------------------------------------------------


def test_the_help_in_the_readme_is_what_the_program_says(readme: str, spool: SpoolDir) -> None:
    quoted = quoted_in(readme)
    assert quoted, "the README quotes the help of some command as `$ queuectl ... -h`"
    for words, said in quoted:
        assert said.strip() == spool.run(*words.split(), "-h").out.strip(), words


def _shape(text: str) -> list[str]:
    """Return the lines of a text, sorted, with a word in place of what differs from run to run."""
    for pattern, word in (
        (r"^\S+T\S+Z ", "TIME"),
        (r"\S+-\d+-[0-9a-f]{8}\b", "WORKER"),
        (r"(spool=|new spool: )\S+", "SPOOL"),
        (r"\b[\d.]+m?s\b", "SPAN"),
        (r" +", " "),
    ):
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    return sorted(line.strip() for line in text.splitlines() if line.strip())


def test_the_first_session_of_the_readme_prints_what_it_says(
    readme: str, spool: SpoolDir, tmp_path: Path
) -> None:
    found = re.search(r"```sh\n(python3 -m venv .*?)```.*?```\n(.*?)```", readme, re.DOTALL)
    assert found, "the README begins with a session, and what it prints"
    installs, session = found[1].split("&&\n", 1)
    assert "pip install" in installs
    program = tmp_path / "bin" / "queuectl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m queuectl "$@"\n')
    program.chmod(0o755)
    session = session.replace("$PWD/.venv/bin", str(program.parent))
    session = session.replace("$(mktemp -d)", spool.path)
    done = subprocess.run(
        ["sh", "-c", session], capture_output=True, text=True, env=environment(), check=True
    )
    assert _shape(done.stdout + done.stderr) == _shape(found[2])


def test_every_command_is_in_the_readme(readme: str) -> None:
    missing = []
    for words in COMMANDS:
        command: click.Command | None = cli
        for word in words:
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), word)
        if not isinstance(command, click.Group):
            name = " ".join(words)
            if not re.search(rf"queuectl (--[a-z]+ \S+ )*{name}\b", readme):
                missing.append(name)
    assert missing == []


def code_of(text: str, language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_from_the_readme(spool: SpoolDir, *words: str) -> str:
    done = subprocess.run(
        words, env=environment(spool.path), cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), words
    return done.stdout


def test_the_programs_of_the_readme_queue_a_job(readme: str, spool: SpoolDir) -> None:
    spool.create()
    (plain, library), (perl,) = code_of(readme, "python"), code_of(readme, "perl")
    run_from_the_readme(spool, sys.executable, "-c", plain)
    if shutil.which("perl"):
        run_from_the_readme(spool, "perl", "-e", perl)
    queued = [found.job for found in spool.api.jobs("pending", spool.ids("pending"))]
    programs = {job.record["command"][0] for job in queued}
    assert programs == {"convert", *(["make"] if shutil.which("perl") else [])}
    spool.run("cancel", "--all", "--yes")
    harmless = re.sub(r"submit\(\[.*?\]", 'submit(["true"]', library)
    with spool.pool():
        assert run_from_the_readme(spool, sys.executable, "-c", harmless) == "completed 0\n"


def test_every_exit_status_is_in_the_readme(readme: str) -> None:
    for status in ("0", "1", "2", "124", "130", "141"):
        assert re.search(rf"^\| *`?{status}`? *\|", readme, re.MULTILINE), status


def test_what_the_documents_point_to_is_there(readme: str, layout: str) -> None:
    for text in (readme, layout):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert os.path.exists(f"{TOP}/{target}"), target
        for section in re.findall(r"\]\(#([^)]+)\)", text):
            assert section in anchors(text), section


def anchors(text: str) -> set[str]:
    """Return the anchors by which links can point to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def test_the_sections_that_the_code_names_are_in_the_layout(layout: str) -> None:
    headings = set(re.findall(r"^#+ (.*?)\s*$", layout.replace("`", ""), re.MULTILINE))
    missing = {}
    for top, _, names in os.walk(f"{TOP}/queuectl"):
        for name in filter(lambda name: name.endswith(".py"), names):
            with open(f"{top}/{name}", encoding="utf-8") as file:
                source = " ".join(file.read().split())
            for some in re.findall(
                r'spool-layout\.md, sections? ((?:"[^"]+"(?:,? and |, )?)+)', source
            ):
                for section in re.findall(r'"([^"]+)"', some):
                    if section not in headings:
                        missing[section] = name
    assert missing == {}


def lines_of_the_map() -> list[list[str]]:
    """Return the modules on each line of the map of the package, the lowest layer first."""
    lines = re.findall(r"^    ([a-z/, ]+?)  +[a-z].*$", str(queuectl.__doc__), re.MULTILINE)
    return [line.replace("/", "").split(", ") for line in lines]


def imported(path: str) -> set[str]:
    """Return the parts of the package that a module imports, also within its functions."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{name.name}".split(".") for node in found for name in node.names]
    return {parts[1] for parts in names if parts[0] == "queuectl"}


def test_the_map_of_the_package_has_each_of_its_modules_once() -> None:
    there = {name.removesuffix(".py") for name in os.listdir(f"{ROOT}/queuectl")}
    there = {name for name in there if not name.startswith("__")} - {"py.typed", "errors"}
    assert sorted(name for line in lines_of_the_map() for name in line) == sorted(there)


def test_a_line_of_the_map_knows_only_those_above_it() -> None:
    known = {"errors", "__version__"}
    for line in lines_of_the_map():
        known |= set(line)
        for name in line:
            top = f"{ROOT}/queuectl/{name}"
            for path in glob(f"{top}/**/*.py", recursive=True) or [f"{top}.py"]:
                assert imported(path) <= known, path


# --- spool-layout.md -------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_in_the_layout(layout: str, state: str) -> None:
    assert f"{state}/" in layout


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_a_row_with_its_type_and_its_writer(layout: str, name: str) -> None:
    must_be, writer, *_ = row_of(layout, name)
    assert must_be.replace("`", "") == FIELDS[name].must_be
    assert writer == FIELDS[name].writer


def test_no_field_is_in_the_layout_that_the_code_does_not_have(layout: str) -> None:
    writers = "|".join({field.writer for field in FIELDS.values()})
    rows = re.findall(rf"^\| *`([a-z_]+)` *\|[^|]*\| *(?:{writers}) *\|", layout, re.MULTILINE)
    assert set(rows) == set(FIELDS)


def test_the_keys_of_a_run_are_those_in_the_layout(layout: str) -> None:
    rows = layout.partition("| in `history` |")[2].partition("\n\n")[0].splitlines()
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    how = Outcome(ended="signal", exit_code=0, signal=9, detail="and more")
    assert set(how.entry(1, "", "", "")) == named


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.writer == "user"])
def test_what_a_user_may_say_of_a_job_is_an_option_and_an_argument_in_python(name: str) -> None:
    assert name in signature(queuectl.Spool.submit).parameters
    assert name in {param.name.strip("_") for param in enqueue.params}


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_has_a_row_with_its_default(layout: str, key: str) -> None:
    default = getattr(Config(), SETTINGS[key].name)
    shown = default if isinstance(default, str) else json.dumps(default)
    assert row_of(layout, key)[0].strip("`") in (shown, json.dumps(default))


def test_no_setting_is_in_the_layout_that_the_code_does_not_have(layout: str) -> None:
    section = re.split(r"^#+ .*config\.json.*$", layout, maxsplit=1, flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    assert set(re.findall(r"^\| *`([a-z-]+)` *\|", section, re.MULTILINE)) == set(SETTINGS)


@pytest.mark.parametrize(
    "name",
    [
        "pending/ID.json",
        "processing/ID@WORKER.json",
        "completed/ID.json",
        "failed/ID.json",
        "dead/ID.json",
        ".rejected",
        ".out",
        ".err",
        "logs/",
        "tmp/",
        "workers/",
        "WORKER.json",
        "WORKER.lock",
        "WORKER.stop",
        "recovery.lock",
        "config.json",
        "config.lock",
        "worker.log",
        "paused",
    ],
)
def test_every_name_that_can_be_in_a_spool_is_in_the_layout(layout: str, name: str) -> None:
    assert name in layout


def test_what_a_working_spool_holds_is_in_the_layout(layout: str, spool: SpoolDir) -> None:
    spool.run("config", "set", "backoff-base", "0")
    spool.drop("good")
    spool.drop_bytes("bad", b"[")
    spool.run("worker", "start", "--stop-when-empty")
    for name in os.listdir(spool.path):
        assert name in layout
    for name in os.listdir(f"{spool.path}/workers"):
        assert name in layout


# --- JSON documents --------------------------------------------------------------------------

# keys for which the layout writes one word that stands for all of their kind
_ANY_STATE = dict.fromkeys(STATES, "STATE")
_ANY_OF = {
    ".jobs": _ANY_STATE,
    ".timeline[]": dict.fromkeys(OUTCOMES, "OUTCOME"),
    ".wait": dict.fromkeys(Spread().document(), "SHARE"),
    ".run_time": dict.fromkeys(Spread().document(), "SHARE"),
    ".tries_to_complete": {"2": "N"},
    ".failures": {"exit status 1": "HOW"},
    "": dict.fromkeys(SETTINGS, "KEY"),
}
_TOLD_ELSEWHERE = {".workers[]", ".commands[]", ".KEY.value"}


def paths(value: object, path: str = "") -> set[str]:
    """Return the path of every value in a document, written as in the layout."""
    if path in _TOLD_ELSEWHERE:
        return {path}
    if isinstance(value, list):
        return {found for item in value for found in paths(item, f"{path}[]")}
    if isinstance(value, dict):
        names = _ANY_OF.get(path, {})
        return {
            found
            for key, item in value.items()
            for found in paths(item, f"{path}.{names.get(key, key)}")
        }
    return {path}


def paths_in(layout: str, document: str) -> set[str]:
    """Return the paths that the layout lists for a document."""
    return set(re.findall(rf"^\| `{document}` \| `([^`]+)` \|", layout, re.MULTILINE))


@pytest.fixture
def eventful(spool: SpoolDir) -> SpoolDir:
    """Return a spool that has something to report for every part of the JSON documents."""
    spool.run("config", "set", "backoff-base", "0")
    spool.run("enqueue", "--id", "later", "--delay", "1h", "true")
    second = f"test -e {spool.path}.seen || ! touch {spool.path}.seen"
    spool.run("enqueue", "--id", "second", "--tag", "t", second)
    spool.drop("held", "sleep 1000")
    with spool.pool(2) as dead:
        dead.wait_for("completed", "second")
        dead.wait_for("started", "held")
        dead.kill()
    return spool


def test_the_keys_of_json_documents_are_those_in_the_layout(
    layout: str, eventful: SpoolDir
) -> None:
    for document in ("status", "doctor", "config show", "stats"):
        status = 1 if document == "doctor" else 0  # a job that a dead worker holds is a problem
        found = eventful.run(*document.split(), "--json", status=status).json
        assert paths(found) == paths_in(layout, document) - {".workers[]"}


def test_the_keys_of_a_worker_are_those_in_the_layout(layout: str, spool: SpoolDir) -> None:
    spool.drop("job", "sleep 1000")
    with spool.pool() as pool:
        pool.wait_for("started", "job")
        found = spool.run("worker", "list", "--json").json
        assert spool.run("status", "--json").json["workers"] == found
        spool.run("worker", "stop", "--now")
    assert paths(found) == paths_in(layout, "worker list")
