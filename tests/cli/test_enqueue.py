from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from queuectl.ids import is_id
from queuectl.units import parse_time
from tests.support import DEADLINE_S, SpoolDir, environment, wait_until, with_code_at_start

if TYPE_CHECKING:
    from pathlib import Path


def one(spool: SpoolDir, *words: str, **options: Any) -> dict[str, Any]:
    """Enqueue one job and return its record."""
    job_id = spool.run("enqueue", *words, **options).out.removesuffix("\n")
    return spool.record("pending", job_id)


# --- the three ways to give a job -----------------------------------------------------------


def test_a_job_as_json(spool: SpoolDir) -> None:
    spool.create()
    result = spool.run("enqueue", '{"id":"job1","command":"sleep 2","priority":4,"note":"mine"}')
    assert (result.out, result.err) == ("job1\n", "")
    record = spool.record("pending", "job1")
    assert (record["command"], record["priority"], record["note"]) == ("sleep 2", 4, "mine")
    assert (record["state"], record["attempts"], record["max_retries"]) == ("pending", 0, 3)


def test_a_spool_that_is_made_is_told_since_its_path_may_be_a_slip(spool: SpoolDir) -> None:
    for words in (["enqueue", "true"], ["config", "set", "lease", "9"]):
        assert spool.run(*words).err == f"queuectl: made a new spool: {spool.path}\n"
        assert spool.run(*words).err == ""
        shutil.rmtree(spool.path)
    with spool.start("run", "true", stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        told = process.stderr.readline().decode()
        process.terminate()
        process.communicate()
    assert told == f"queuectl: made a new spool: {spool.path}\n"


@pytest.mark.parametrize("name", ["pending", "logs"])
def test_no_spool_is_made_in_the_directory_of_another(spool: SpoolDir, name: str) -> None:
    spool.create()
    within = SpoolDir(f"{spool.path}/{name}")
    told = within.refuse("enqueue", "true")
    why = f"it is a directory of the spool {spool.path}; name that one"
    assert told == f"queuectl: cannot make a spool at {within.path}: {why}"
    assert os.listdir(within.path) == []
    os.rmdir(within.path)
    within.refuse("config", "set", "lease", "9")
    assert not os.path.exists(within.path)


@pytest.mark.parametrize("made", [True, False])
def test_a_spool_may_have_the_name_of_a_directory_of_spools(spool: SpoolDir, *, made: bool) -> None:
    named = SpoolDir(f"{spool.path}/pending")
    os.makedirs(named.path if made else spool.path)
    with open(f"{spool.path}/config.json", "w") as file:  # that of another program
        file.write("no JSON")
    named.run("enqueue", "true")
    os.rmdir(f"{named.path}/dead")
    named.run("enqueue", "true")
    assert len(named.ids("pending")) == 2
    assert os.path.isdir(f"{named.path}/dead")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_worker_says_that_it_has_made_a_spool_unless_its_log_is_json(
    spool: SpoolDir, log_format: str
) -> None:
    words = ["worker", "start", "--stop-when-empty", "--log-format", log_format]
    assert ("made a new spool" in spool.run(*words).err) == (log_format == "text")
    shutil.rmtree(spool.path)
    assert "made a new spool" in spool.run(*words, "--detach").err


def test_what_is_no_spool_cannot_be_paused(spool: SpoolDir) -> None:
    assert f"no spool at {spool.path}" in spool.refuse("pause")
    assert not os.path.exists(spool.path)


def test_several_jobs_as_json(spool: SpoolDir) -> None:
    out = spool.run("enqueue", '{"id":"b","command":"true"}', '{"id":"a","command":"true"}').out
    assert out == "b\na\n"


def test_a_job_as_options(spool: SpoolDir) -> None:
    assert one(spool, "--id", "job1", "--command", "echo a && echo b")["command"] == (
        "echo a && echo b"
    )


def test_a_job_as_the_words_after_dashes(spool: SpoolDir) -> None:
    record = one(spool, "--priority", "2", "--", "rsync", "-a", "my dir", "host:", "--", "{}")
    assert record["command"] == ["rsync", "-a", "my dir", "host:", "--", "{}"]
    assert record["priority"] == 2


def test_one_word_after_dashes_is_a_program_and_no_line_for_a_shell(spool: SpoolDir) -> None:
    assert one(spool, "--", "/opt/my program")["command"] == ["/opt/my program"]


def test_one_word_is_a_line_for_the_shell_and_several_are_a_list(spool: SpoolDir) -> None:
    assert one(spool, "echo a; echo b")["command"] == "echo a; echo b"
    assert one(spool, "echo", "-n", "x")["command"] == ["echo", "-n", "x"]


def test_without_an_id_it_gets_one_that_sorts_by_time(spool: SpoolDir) -> None:
    ids = [spool.run("enqueue", "--command", "true").out.strip() for _ in range(3)]
    assert ids == sorted(ids)
    assert all(map(is_id, ids))


def test_every_option_of_a_job_is_a_field_of_its_record(spool: SpoolDir) -> None:
    before = time.time()
    record = one(
        spool,
        *("--delay", "1h", "--timeout", "90s", "--max-retries", "5", "--cwd", "/usr"),
        *("--env", "A=1", "--env", "B=x=y", "--tag", "nightly", "--tag", "db"),
        *("--priority", "-3", "--command", "true"),
    )
    assert (record["timeout"], record["max_retries"], record["cwd"]) == (90, 5, "/usr")
    assert record["env"] == {"A": "1", "B": "x=y"}
    assert record["tags"] == ["nightly", "db"]
    assert record["priority"] == -3
    assert before + 3600 <= parse_time(record["run_at"]) <= time.time() + 3600


def test_variables_and_tags_of_options_are_added_to_those_of_each_line(spool: SpoolDir) -> None:
    lines = [
        {"id": "own", "command": "true", "env": {"LR": "0.1", "GPU": "9"}, "tags": ["lr0.1", "a"]},
        {"id": "none", "command": "true"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    spool.run("enqueue", "--env", "GPU=0", "--tag", "night", "--tag", "a", "-", stdin=text)
    own = spool.record("pending", "own")
    assert own["env"] == {"LR": "0.1", "GPU": "0"}
    assert own["tags"] == ["lr0.1", "a", "night"]
    assert spool.record("pending", "none")["env"] == {"GPU": "0"}
    text = '{"command": "true", "env": 3, "tags": ["a"]}'
    assert '"env" must be' in spool.run("enqueue", "--env", "A=1", text, status=1).err


def test_the_place_of_a_mistake_in_a_line_is_named_once(spool: SpoolDir) -> None:
    err = spool.run("enqueue", "-", stdin='{"command":\n"true"}\n', status=1).err
    assert err.startswith("queuectl: line 1: not JSON: Expecting value at column 12 (")
    err = spool.run("enqueue", '{"command": "a\tb"}', status=1).err
    assert "not JSON: Invalid control character at column 15" in err


def test_run_at_is_local_time_where_it_names_no_zone(spool: SpoolDir) -> None:
    words = ("--run-at", "2030-03-17 20:46:40", "--command", "true")
    assert one(spool, *words, TZ="UTC-3")["run_at"] == "2030-03-17T17:46:40.000000Z"
    words = ("--run-at", "2030-03-17T20:46:40+01:00", "--command", "true")
    assert one(spool, *words, TZ="UTC-3")["run_at"] == "2030-03-17T19:46:40.000000Z"


def test_a_timeout_may_be_none(spool: SpoolDir) -> None:
    assert one(spool, "--timeout", "none", "--command", "true")["timeout"] is None


def test_the_current_directory_is_where_it_will_run(spool: SpoolDir) -> None:
    assert one(spool, "--command", "true", cwd="/usr")["cwd"] == "/usr"
    assert one(spool, "--cwd", "lib", "--command", "true", cwd="/usr")["cwd"] == "/usr/lib"
    assert one(spool, '{"command":"true","cwd":"/etc"}', cwd="/usr")["cwd"] == "/etc"


def test_where_the_current_directory_is_gone_a_job_says_where_it_runs(
    spool: SpoolDir, tmp_path: Path
) -> None:
    def enqueue(*words: str) -> Any:
        script = 'mkdir here && cd here && rmdir ../here && exec "$@"'
        command = ["sh", "-c", script, "-", *spool.command("enqueue", *words)]
        env = environment(spool.path)
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)

    spool.create()
    assert enqueue("--cwd", "/usr", "--command", "true").returncode == 0
    assert enqueue('{"command":"true","cwd":"/usr"}').returncode == 0
    assert len(spool.ids("pending")) == 2
    for words in (["--command", "true"], ["--cwd", "lib", "--command", "true"]):
        refused = enqueue(*words)
        assert refused.returncode == 1
        assert refused.stderr.startswith("queuectl: the current directory is gone: cd to")
        assert refused.stderr.count("\n") == 1
    assert len(spool.ids("pending")) == 2


def test_a_umask_that_masks_the_owner_hides_nothing_from_ourselves(spool: SpoolDir) -> None:
    before = os.umask(0o777)
    try:
        spool.run("enqueue", "--id", "job", "--command", "true")
    finally:
        os.umask(before)
    assert os.stat(spool.path).st_mode & 0o777 == 0o700
    assert os.stat(spool.file("pending", "job")).st_mode & 0o777 == 0o600


def test_an_option_beside_json_counts_for_every_job(spool: SpoolDir) -> None:
    words = ('{"id":"a","command":"true","priority":1}', '{"id":"b","command":"true"}')
    spool.run("enqueue", "--priority", "7", *words)
    assert [spool.record("pending", job_id)["priority"] for job_id in "ab"] == [7, 7]


def test_the_default_of_max_retries_is_that_of_the_settings_now(spool: SpoolDir) -> None:
    spool.configure(max_retries=9)
    assert one(spool, "--command", "true")["max_retries"] == 9


# --- many ------------------------------------------------------------------------------------


def lines_of(count: int) -> list[str]:
    return [json.dumps({"id": f"job-{n:05}", "command": f"echo {n}"}) for n in range(count)]


def test_json_lines_from_standard_input(spool: SpoolDir) -> None:
    spool.create()
    result = spool.run("enqueue", "-", stdin="\n".join([*lines_of(700), "", "  "]))
    assert result.lines == [f"job-{n:05}" for n in range(700)] == spool.ids("pending")
    assert result.err == ""


def test_json_lines_from_a_file(spool: SpoolDir, tmp_path: Any) -> None:
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines_of(3)))
    assert spool.run("enqueue", "@jobs.jsonl", cwd=str(tmp_path)).lines == spool.ids("pending")


COMMANDS = "\ufeff#!/bin/sh\necho 'a b' | wc -w\n\n  # of two\n  exit 3 # as it is\r\n"


def test_lines_of_shell_commands_are_jobs(spool: SpoolDir, tmp_path: Any) -> None:
    (tmp_path / "c.txt").write_text(COMMANDS)
    for words in (["--commands", "c.txt"], ["--priority", "2", "--commands", "-"]):
        ids = spool.run("enqueue", *words, stdin=COMMANDS, cwd=str(tmp_path)).lines
        records = [spool.record("pending", job_id) for job_id in ids]
        assert [r["command"] for r in records] == ["echo 'a b' | wc -w", "  exit 3 # as it is"]
        assert {r["cwd"] for r in records} == {str(tmp_path)}
    assert [r.get("priority") for r in records] == [2, 2]


def test_what_is_wrong_with_lines_of_commands_queues_none(spool: SpoolDir, tmp_path: Any) -> None:
    def refuse(text: str, *words: str, status: int = 1) -> str:
        return spool.refuse("enqueue", *words, "--commands", "-", stdin=text, status=status)

    spool.create()
    assert 'line 2: "command" must be' in refuse("true\na\0b\n")
    assert "line 1: it ends in a backslash" in refuse("echo \\\n  a\n")
    assert "line 1: it is JSON" in refuse('{"command": "true"}\n')
    assert "cannot be combined" in refuse("true\n", "--command", "true", status=2)
    both = spool.refuse("enqueue", "--commands", "-", "true", stdin="true\n", status=2)
    assert "cannot be combined" in both
    missing = str(tmp_path / "none")
    assert f"cannot read {missing}" in spool.refuse("enqueue", "--commands", missing)
    assert spool.ids("pending") == []
    assert "no jobs in the input" in spool.run("enqueue", "--commands", "-", stdin="# x\n").err
    assert len(spool.run("enqueue", "--commands", "-", stdin="ls \\\\\n{ ls; }\n").lines) == 2


BAD_LINES = [
    ('{"command":"true","priority":"high"}', '"priority" must be an integer, got "high"'),
    ('{"comand":"true"}', '"command" is missing'),
    ("{", "not JSON"),
    ("true", "not a JSON object"),
    ('{"id":"../x","command":"true"}', '"id" must be'),
    ('{"id":7,"command":"true"}', '"id" must be'),
    ('{"id":"job-00002","command":"true"}', 'id "job-00002" is already that of line 3'),
    ('{"id":"taken","command":"true"}', 'job "taken" exists already, in completed/'),
    ('{"command":"true","a":NaN}', "NaN"),
    ('{"command":"a\\u0000b"}', '"command" must be'),
    ('{"command":"true","tags":["%s"]}' % ("é" * (1 << 19)), "larger than 1048576 bytes"),
    ('{"command":"%s"}' % ("x" * (1 << 17)), '"command" has a word of 131072 bytes'),
]


@pytest.mark.parametrize(("bad", "why"), BAD_LINES, ids=[why for _, why in BAD_LINES])
def test_one_bad_line_is_told_with_its_number_and_nothing_is_queued(
    spool: SpoolDir, bad: str, why: str
) -> None:
    spool.drop_bytes("taken", b'{"command":"true"}', "completed")
    lines = lines_of(10)
    lines[6] = bad
    text = spool.refuse("enqueue", "-", stdin="\n".join(lines))
    assert text.startswith("queuectl: line 7: ")
    assert why in text
    assert spool.ids("pending") == []
    assert spool.leftovers() == []


def test_a_bad_line_of_a_file_is_told_with_the_file(spool: SpoolDir, tmp_path: Any) -> None:
    (tmp_path / "jobs.jsonl").write_bytes(b'{"command":"true"}\n\xff\n')
    text = spool.refuse("enqueue", "@jobs.jsonl", cwd=str(tmp_path))
    assert text == (
        "queuectl: jobs.jsonl, line 2: not UTF-8 "
        "(each line is a JSON object; --commands takes command lines)"
    )


@pytest.mark.parametrize("line", ["make && make test", "sleep 1", "ls|wc", "$EDITOR"])
def test_options_after_a_command_line_are_refused(spool: SpoolDir, line: str) -> None:
    told = spool.refuse("enqueue", line, "--timeout", "2h", status=2)
    assert 'unexpected "--timeout" after a command line; options go before it' in told
    assert not os.path.exists(spool.path)


def test_words_are_one_command(spool: SpoolDir) -> None:
    spool.run("enqueue", "--id", "a", "rsync", "--timeout", "9", "my dir")
    assert spool.record("pending", "a")["command"] == ["rsync", "--timeout", "9", "my dir"]


def test_a_variable_that_is_only_named_is_as_it_is_here(spool: SpoolDir) -> None:
    spool.run("enqueue", "--id", "a", "--env", "MINE", "--env", "B=c", "true", MINE="x=y")
    assert spool.record("pending", "a")["env"] == {"MINE": "x=y", "B": "c"}


def test_an_empty_input_queues_nothing(spool: SpoolDir) -> None:
    done = spool.run("enqueue", "-")
    assert (done.out, done.err) == ("", "queuectl: no jobs in the input\n")
    assert not os.path.exists(spool.path)


@pytest.mark.parametrize("around", ["\n", "  ", "\ufeff"])
def test_json_is_known_behind_white_space(spool: SpoolDir, around: str) -> None:
    assert spool.run("enqueue", around + '{"id": "job", "command": "true"}').out == "job\n"
    assert spool.record("pending", "job")["command"] == "true"


def test_a_byte_order_mark_before_a_line_is_passed_over(spool: SpoolDir) -> None:
    line = b'\xef\xbb\xbf{"id": "job", "command": "true"}\r\n'
    assert spool.run("enqueue", "-", stdin=line).out == "job\n"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGHUP, -1)]
)
def test_an_interrupt_takes_back_what_was_not_told(
    spool: SpoolDir, number: signal.Signals, status: int
) -> None:
    spool.configure(durability="relaxed")
    path = f"{spool.path}.jsonl"
    with open(path, "w") as file:
        file.write("\n".join(lines_of(20_000)))
    process = spool.start("enqueue", f"@{path}", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 1)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == status, err
    told = sorted((first + out).decode().split())
    assert spool.ids("pending") == told
    assert f"at least {len(told)} of 20000 are queued, up to " in err.decode()


def test_wrong_usage_makes_no_spool(spool: SpoolDir) -> None:
    spool.refuse("enqueue", status=2)
    spool.refuse("enqueue", "--cwd", "", "--", "true", status=2)
    spool.refuse("run", status=2)
    for words in (["resume"], ["retry", "--all"], ["dlq", "retry", "--all"], ["cancel", "--all"]):
        assert "no spool at" in spool.refuse(*words)
    assert not os.path.exists(spool.path)


@pytest.mark.parametrize(
    "words",
    [
        ["enqueue", "--delay", "9" * 24 + "d", "--", "true"],
        ["wait", "--timeout", "9" * 400, "job"],
        ["stats", "--since", "9" * 100_000],
    ],
)
def test_a_duration_beyond_all_measure_is_refused(spool: SpoolDir, words: list[str]) -> None:
    assert "longer than 1000 years" in spool.refuse(*words, status=2)


# --- refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["pending", "completed", "failed", "dead"])
def test_an_id_that_exists_in_any_state_is_refused(spool: SpoolDir, state: str) -> None:
    spool.drop_bytes("job1", b'{"command":"true"}', state)
    text = spool.refuse("enqueue", "--id", "job1", "--command", "false")
    assert text == f'queuectl: job "job1" exists already, in {state}/; choose another id'
    assert spool.states("job1") == [state]


def test_an_id_that_is_being_run_is_refused(spool: SpoolDir) -> None:
    spool.drop("job1", "sleep 1000")
    with spool.pool() as pool:
        pool.wait_for("started", "job1")
        assert "in processing/" in spool.refuse("enqueue", "--id", "job1", "--command", "true")
        spool.run("worker", "stop", "--now")


def three(path: Path) -> str:
    """Write three jobs to a file, one of them without an id."""
    path.write_text(
        '{"id":"a","command":"true"}\n{"id":"b","command":"true"}\n{"command":"true"}\n'
    )
    return f"@{path}"


@pytest.mark.parametrize("state", ["pending", "completed", "failed", "dead"])
def test_jobs_that_are_there_can_be_left_out(spool: SpoolDir, tmp_path: Path, state: str) -> None:
    body = b'{"command":"first"}'
    spool.drop_bytes("b", body, state)
    result = spool.run("enqueue", "--skip-existing", three(tmp_path / "jobs"))
    assert result.lines[0] == "a"
    assert len(result.lines) == 2
    assert result.err == "left out 1 job that exists already: b\n"
    with open(spool.file(state, "b"), "rb") as file:
        assert file.read() == body
    again = spool.run("enqueue", "--skip-existing", f"@{tmp_path}/jobs")
    assert again.err == "left out 2 jobs that exist already: a, b\n"
    assert spool.run("enqueue", "--skip-existing", "--id", "a", "true").out == ""


UNSEEN_BEFORE = """
from queuectl.spool.spool import Spool
Spool.taken = lambda self, job_ids: iter(())
"""


def test_one_that_somebody_drops_at_that_moment_is_refused_all_the_same(
    spool: SpoolDir, tmp_path: Path
) -> None:
    """The whole batch is refused and not tried again: a pool may have run a part of it by then."""
    spool.drop("b", "first")
    env = with_code_at_start(tmp_path, UNSEEN_BEFORE)
    words = ("enqueue", "--skip-existing", three(tmp_path / "jobs"))
    assert 'job "b" exists already' in spool.refuse(*words, PYTHONPATH=env["PYTHONPATH"])
    assert spool.ids("pending") == ["b"]
    assert spool.record("pending", "b")["command"] == "first"


def test_without_an_id_there_is_nothing_to_leave_a_job_out_by(spool: SpoolDir) -> None:
    words = ("enqueue", "--skip-existing", "--commands", "-")
    assert "compares ids" in spool.refuse(*words, status=2, stdin="true\n")
    assert spool.run(*words).err == "queuectl: no jobs in the input\n"


def test_what_is_left_out_is_waited_for_as_what_is_queued(spool: SpoolDir, tmp_path: Path) -> None:
    spool.drop_bytes("b", b'{"command":"false","state":"dead"}', "dead")
    with spool.pool():
        words = ("enqueue", "--skip-existing", "--wait", three(tmp_path / "jobs"))
        assert "b is dead" in spool.run(*words, status=1).err
    assert "a" in spool.ids("completed")


def test_an_id_that_stands_twice_is_refused_though_it_may_be_there(spool: SpoolDir) -> None:
    twice = ('{"id":"a","command":"true"}', '{"id":"a","command":"true"}')
    assert "another of these jobs" in spool.refuse("enqueue", "--skip-existing", *twice)


REFUSED = [
    (["{"], "not JSON"),
    (['{"command":"true","timeout":-1}'], '"timeout" must be'),
    (['{"command":"true","run_at":"2030-01-01T00:00:00"}'], '"run_at" must be'),
    (["@/no/such/file"], "cannot read /no/such/file: No such file"),
    (["@/"], "cannot read /"),
]


@pytest.mark.parametrize(("words", "why"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_cannot_be_a_job_is_refused_with_the_reason(
    spool: SpoolDir, words: list[str], why: str
) -> None:
    assert why in spool.refuse("enqueue", *words)
    assert not os.path.isdir(f"{spool.path}/pending") or spool.ids("pending") == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--id", "../x", "--command", "true"], '"id" must be'),
        (["--max-retries", "-1", "true"], '"max_retries" must be'),
        (["--command", ""], '"command" must be'),
    ],
)
def test_an_option_that_cannot_be_is_wrong_usage_and_makes_no_spool(
    spool: SpoolDir, words: list[str], why: str
) -> None:
    refused = spool.refuse("enqueue", *words, status=2)
    assert why in refused
    assert "see `queuectl enqueue -h`" in refused
    assert not os.path.exists(spool.path)


def test_a_field_that_looks_like_one_of_ours_is_kept_and_told(spool: SpoolDir) -> None:
    result = spool.run("enqueue", '{"id":"a","command":"true","priorty":1}')
    assert result.out == "a\n"
    assert '"priorty" is kept, but means nothing here; did you mean "priority"?' in result.err
    assert spool.record("pending", "a")["priorty"] == 1


def test_words_that_are_not_utf8_are_refused_without_a_traceback(spool: SpoolDir) -> None:
    process = spool.start("enqueue", "--command", os.fsdecode(b"echo \xff"), stderr=-1)
    _, err = process.communicate()
    record = spool.ids("pending") and spool.record("pending", spool.ids("pending")[0])
    assert b"Traceback" not in err
    assert process.returncode == (0 if record else 1)


def test_the_spool_is_made_for_its_owner_alone_whatever_the_umask(spool: SpoolDir) -> None:
    was = os.umask(0)
    try:
        spool.run("enqueue", "--id", "a", "--command", "true")
    finally:
        os.umask(was)
    for path in (spool.path, f"{spool.path}/pending"):
        assert os.stat(path).st_mode & 0o777 == 0o700
    assert os.stat(spool.file("pending", "a")).st_mode & 0o777 == 0o600


def test_the_spool_is_named_by_option_before_variable_before_home(
    spool: SpoolDir, tmp_path: Any
) -> None:
    home = {**environment(spool.path), "HOME": str(tmp_path)}
    spool.run("--spool", str(tmp_path / "option"), "enqueue", "--command", "true")
    del home["QUEUECTL_SPOOL"]
    assert spool.start("enqueue", "--command", "true", env=home, stdout=-3).wait() == 0
    spool.run("enqueue", "--command", "true")
    for path in (spool.path, tmp_path / "option", tmp_path / ".queuectl"):
        assert len(os.listdir(f"{path}/pending")) == 1


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["enqueue", '["ls", "-l"]'], "JSON array"),
        (["enqueue", '{"command": "true"}', "--priority", "3"], "options go before"),
        (["stop"], '"worker stop"'),
        (["add"], '"enqueue"'),
        (["status", "--spool", "/x"], "goes before the command"),
    ],
)
def test_what_is_meant_is_told(spool: SpoolDir, words: list[str], hint: str) -> None:
    assert hint in spool.refuse(*words, status=2)


def test_a_test_in_brackets_is_a_command(spool: SpoolDir) -> None:
    spool.run("enqueue", "--id", "a", "[ -e / ] && true")
    assert spool.record("pending", "a")["command"] == "[ -e / ] && true"


def test_an_empty_tag_is_refused(spool: SpoolDir) -> None:
    for tag in ("", " "):
        assert "a tag must not be empty" in spool.refuse("enqueue", "--tag", tag, "true", status=2)


def test_a_field_that_is_an_option_is_told(spool: SpoolDir) -> None:
    result = spool.run("enqueue", '{"command": "true", "delay": 60, "prio": 5}')
    assert 'did you mean "run_at"?' in result.err
    assert 'did you mean "priority"?' in result.err


def test_a_time_of_day_is_the_next_time_that_it_is_that(spool: SpoolDir) -> None:
    for minutes in (-2, 2):
        at = time.localtime(time.time() + minutes * 60)
        spool.run("enqueue", "--id", f"a{minutes}", "--run-at", time.strftime("%H:%M", at), "true")
        seconds = parse_time(spool.record("pending", f"a{minutes}")["run_at"]) - time.time()
        assert 0 < seconds <= 86400
        assert (seconds < 3600) == (minutes > 0)
    assert "such as 08:00" in spool.refuse("enqueue", "--run-at", "25:00", "true", status=2)
    told = spool.refuse("enqueue", "--run-at", "0001-01-01", "true", status=2)
    assert '"0001-01-01" is out of range;' in told


def test_the_name_of_a_file_that_is_no_program_is_queued_with_a_word(
    spool: SpoolDir, tmp_path: Any
) -> None:
    spool.create()
    for name, text, way in (
        ("commands", "true\n", "--commands commands queues its lines"),
        ("jobs.jsonl", "{}\n{}\n", "@jobs.jsonl queues its lines"),
        ("my job.json", "{\n}", "\"$(cat 'my job.json')\" queues the job in it"),
        ("script", "#!/bin/sh\n", "after chmod +x, ./script runs it"),
    ):
        (tmp_path / name).write_text(text)
        told = spool.run("enqueue", name, cwd=str(tmp_path)).err
        what = f"{name} is not executable, and was queued as the name of a command"
        assert told == f"queuectl: {what}; {way}\n"
    (tmp_path / "commands").chmod(0o755)
    assert spool.run("enqueue", "commands", cwd=str(tmp_path)).err == ""


def test_a_directory_that_is_gone_is_told(spool: SpoolDir, tmp_path: Path) -> None:
    words = spool.command("enqueue", "--id", "job", "--", "true")
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "-", *words],
        cwd=tmp_path,
        env=environment(spool.path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "queuectl: the current directory is gone: cd to one that exists\n"


def test_who_waits_for_the_lock_of_another_is_told_so(spool: SpoolDir, tmp_path: Path) -> None:
    spool.create()
    pending = os.open(f"{spool.path}/pending", os.O_RDONLY)
    fcntl.flock(pending, fcntl.LOCK_EX)
    said = tmp_path / "said"
    with (
        said.open("wb") as err,
        spool.start("enqueue", "--id", "job", "true", stderr=err) as enqueue,
    ):
        wait_until(
            lambda: f"waiting for {spool.path}/pending, which" in said.read_text(), said.read_text
        )
        assert said.read_text().count("\n") == 1
        assert spool.states("job") == []
        os.close(pending)
        assert enqueue.wait(DEADLINE_S) == 0
    assert spool.states("job") == ["pending"]


def test_settings_that_another_edits_without_end_are_left(spool: SpoolDir) -> None:
    spool.run("config", "set", "lease", "40")
    lock = os.open(f"{spool.path}/config.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    text = spool.refuse("config", "set", "lease", "50")
    assert "another process has held" in text
    assert "config.lock for 10 s: the settings are as they were" in text
    os.close(lock)
    assert spool.run("config", "get", "lease").out == "40\n"
