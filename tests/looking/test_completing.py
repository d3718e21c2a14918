from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from queuectl.cli.completing import MAX_OFFERED
from queuectl.cli.groups import COMMANDS
from tests.looking.support import past, put
from tests.looking.terminal import Terminal
from tests.support import environment, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import SpoolDir

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture
def path(spool: SpoolDir, tmp_path: Path) -> str:
    """Return a PATH on which `queuectl` is the one under test."""
    script = tmp_path / "bin" / "queuectl"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {shlex.join(spool.command())} "$@"\n')
    script.chmod(0o755)
    return f"{script.parent}:{os.environ['PATH']}"


def press_tab(spool: SpoolDir, path: str, *words: str) -> list[str]:
    """Return what a real bash offers to complete the last of these words."""
    script = (
        'eval "$(queuectl completion bash)" || exit 9\n'
        f"COMP_WORDS=({shlex.join(['queuectl', *words])}); COMP_CWORD={len(words)}\n"
        # the function that bash calls when the tab key is pressed
        "how=$(complete -p queuectl) || exit 8; how=${how##*-F }; ${how%% *} queuectl\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=environment(spool.path, PATH=path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.split()


def some_jobs(spool: SpoolDir) -> None:
    for state in ("pending", "completed", "failed", "dead"):
        put(spool, past(f"{state}-1", state, 1.9e9))
        put(spool, past(f"{state}-2", state, 1.9e9))


def test_bash_completes_commands_options_and_choices(spool: SpoolDir, path: str) -> None:
    assert press_tab(spool, path, "stat") == ["status", "stats"]
    assert "--format" in press_tab(spool, path, "status", "--f")
    assert press_tab(spool, path, "completion", "") == list(SHELLS)
    assert "prometheus" in press_tab(spool, path, "status", "--format", "")


def test_bash_completes_ids_in_the_states_that_a_command_takes(spool: SpoolDir, path: str) -> None:
    some_jobs(spool)
    assert press_tab(spool, path, "show", "dea") == ["dead-1", "dead-2"]
    assert press_tab(spool, path, "dlq", "retry", "") == ["dead-1", "dead-2"]
    assert press_tab(spool, path, "dlq", "retry", "dead-2", "") == ["dead-1"]
    finished = ["completed-1", "completed-2", "dead-1", "dead-2"]
    assert press_tab(spool, path, "prune", "") == finished


def test_bash_completes_ids_of_the_spool_that_is_named(
    spool: SpoolDir, path: str, tmp_path: Path
) -> None:
    some_jobs(spool)
    shutil.move(spool.path, tmp_path / "elsewhere")
    words = ("--spool", str(tmp_path / "elsewhere"), "show", "pend")
    assert press_tab(spool, path, *words) == ["pending-1", "pending-2"]


def test_the_tab_key_of_a_person_completes_an_id(spool: SpoolDir, path: str) -> None:
    put(spool, past("only-one-begins-so", "dead", 1.9e9))
    env = environment(spool.path, PATH=path, PS1="ready> ", INPUTRC="/dev/null")
    with Terminal(["bash", "--norc", "--noprofile", "-i"], env, 80, 24) as shell:
        wait_until(lambda: "ready> " in shell.raw, lambda: shell.raw)
        shell.type('eval "$(queuectl completion bash)"\n')
        wait_until(lambda: shell.raw.count("ready> ") == 2, lambda: shell.raw)
        shell.type("queuectl show only\t")
        wait_until(lambda: "show only-one-begins-so" in shell.raw, lambda: shell.raw)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("queuectl enqueue -- cat a-file-o", "cat a-file-of-mine "),
        ("queuectl enqueue --cwd a-dir", "--cwd a-directory/"),
    ],
)
def test_the_tab_key_of_a_person_completes_files(
    spool: SpoolDir, path: str, tmp_path: Path, typed: str, completed: str
) -> None:
    (tmp_path / "a-file-of-mine").touch()
    (tmp_path / "a-directory").mkdir()
    env = environment(spool.path, PATH=path, PS1="ready> ", INPUTRC="/dev/null")
    with Terminal(["bash", "--norc", "--noprofile", "-i"], env, 80, 24) as shell:
        wait_until(lambda: "ready> " in shell.raw, lambda: shell.raw)
        shell.type(f'cd {tmp_path}; eval "$(queuectl completion bash)"\n')
        wait_until(lambda: shell.raw.count("ready> ") == 2, lambda: shell.raw)
        shell.type(f"{typed}\t")
        wait_until(lambda: completed in shell.raw, lambda: shell.raw)


def test_behind_a_word_that_is_none_nothing_is_said(spool: SpoolDir, path: str) -> None:
    press_tab(spool, path, "worker", "foo", "")  # fails if anything is on standard error


def test_the_pools_that_are_up_are_offered(spool: SpoolDir, path: str) -> None:
    with spool.pool() as pool:
        pool.wait_for("up")
        assert press_tab(spool, path, "worker", "stop", "") == [pool.name]


def test_the_tags_of_jobs_are_offered(spool: SpoolDir, path: str) -> None:
    spool.drop("a", tags=["nightly", "photos"])
    spool.drop("b", tags=["nightly", "a;touch x"])
    put(spool, past("c", "dead", 1.9e9, tags=["night-run"]))
    assert press_tab(spool, path, "list", "--tag", "") == ["night-run", "nightly", "photos"]
    assert press_tab(spool, path, "cancel", "--tag", "nightl") == ["nightly"]
    assert press_tab(spool, path, "enqueue", "--tag", "ph") == ["photos"]


def test_of_very_many_ids_the_newest_are_offered(spool: SpoolDir, path: str) -> None:
    for number in range(MAX_OFFERED + 50):
        spool.drop(f"job-{number:04}")
    offered = press_tab(spool, path, "show", "job")
    assert len(offered) == MAX_OFFERED
    assert offered[-1] == f"job-{MAX_OFFERED + 49:04}"


def test_where_there_is_no_spool_nothing_is_offered_or_said(spool: SpoolDir, path: str) -> None:
    assert press_tab(spool, path, "show", "") == []
    spool.create()
    with open(f"{spool.path}/config.json", "w", encoding="utf-8") as file:
        file.write("not JSON")
    assert press_tab(spool, path, "show", "") == []


def test_bash_completes_what_is_joined_to_an_option(
    spool: SpoolDir, path: str, tmp_path: Path
) -> None:
    """Values in --a=b are completed, although bash takes that for three words."""
    some_jobs(spool)
    assert press_tab(spool, path, "list", "--state", "=", "pe") == ["pending"]
    assert len(press_tab(spool, path, "list", "--state", "=")) == 5
    shutil.move(spool.path, tmp_path / "elsewhere")
    words = ("--spool", "=", str(tmp_path / "elsewhere"), "show", "pend")
    assert press_tab(spool, path, *words) == ["pending-1", "pending-2"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes_commands_and_ids_with_their_states(
    spool: SpoolDir, path: str, tmp_path: Path
) -> None:
    some_jobs(spool)
    script = (
        "queuectl completion fish | source\n"
        "complete -C 'queuectl enq'; complete -C 'queuectl list --state=pe'\n"
        "complete -C 'queuectl stat'; complete -C 'queuectl show dead'"
    )
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        env=environment(spool.path, PATH=path, HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    enqueue, *words = [line.split("\t") for line in done.stdout.splitlines()]
    assert enqueue == ["enqueue", COMMANDS["enqueue"][1]]
    offered = ["--state=pending", "stats", "status", "dead-1", "dead-2"]
    assert [word[0] for word in words] == offered
    assert words[-1][1] == "dead"


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_takes_the_script_and_completes_with_it(spool: SpoolDir, path: str) -> None:
    some_jobs(spool)
    script = (
        'autoload -Uz compinit; compinit -D -u; eval "$(queuectl completion zsh)"\n'
        "print -r -- ${_comps[queuectl]}\n"
        # print what compadd is given: there is no line editor here to show it
        "compadd() { print -rl -- ${(P)@[-1]:-}; }; _describe() { print -rl -- ${(P)3}; }\n"
        "words=(queuectl show dead); CURRENT=3; _queuectl_completion\n"
    )
    done = subprocess.run(
        ["zsh", "-f", "-c", script],
        env=environment(spool.path, PATH=path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["_queuectl_completion", "dead-1:dead", "dead-2:dead"], done


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_without_its_completion_says_what_comes_first(spool: SpoolDir, path: str) -> None:
    done = subprocess.run(
        ["zsh", "-f", "-c", 'eval "$(queuectl completion zsh)"'],
        env=environment(spool.path, PATH=path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr.splitlines() == [
        "queuectl: no compdef: run autoload -Uz compinit && compinit before this"
    ]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_loads_the_script_by_itself_and_keeps_the_option(
    spool: SpoolDir, path: str, tmp_path: Path
) -> None:
    place = tmp_path / "functions"
    place.mkdir()
    (place / "_queuectl").write_text(spool.run("completion", "zsh").out)
    env = environment(spool.path, PATH=path, PS1="", HOME=str(tmp_path))
    with Terminal(["zsh", "-f", "-i"], env, 400, 24) as shell:
        shell.type(f"PS1='rea''dy> '; fpath=({place} $fpath); autoload -Uz compinit; compinit -u\n")
        wait_until(lambda: "ready> " in shell.raw, lambda: shell.raw)
        shell.type("queuectl list --state=pend\t")
        wait_until(lambda: "--state=pending" in shell.raw, lambda: shell.raw)
        shell.type(f"\x15queuectl --spool={tmp_path}/funct\t")
        completed = re.compile(re.escape(f"--spool={place}") + r"(\x1b\[1m)?/")  # in bold, perhaps
        wait_until(lambda: completed.search(shell.raw), lambda: shell.raw)


def test_each_script_says_how_to_load_it(spool: SpoolDir) -> None:
    for shell in SHELLS:
        assert "# " in "".join(spool.run("completion", shell).out.splitlines()[:2])
    assert "bash" in spool.refuse("completion", "tcsh", status=2)


def test_nothing_is_offered_that_a_shell_would_run(spool: SpoolDir, path: str) -> None:
    some_jobs(spool)
    spool.drop_bytes("pending-1;touch${IFS}x;", b"{}")
    spool.drop_bytes("pending-1$(x)", b"{}")
    assert press_tab(spool, path, "show", "pending-1") == ["pending-1"]


def test_completing_leaves_the_variables_of_the_shell_alone(spool: SpoolDir, path: str) -> None:
    script = (
        'eval "$(queuectl completion bash)"; type=T value=V completion=C response=R\n'
        "COMP_WORDS=(queuectl stat); COMP_CWORD=1; _queuectl_completion queuectl\n"
        'echo "$type$value$completion$response ${COMPREPLY[*]}"\n'
    )
    env = environment(spool.path, PATH=path)
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True)
    assert done.stdout == "TVCR status stats\n"
