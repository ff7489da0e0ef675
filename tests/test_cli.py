"""The command line: help everywhere, near misses, and one exit code for each outcome."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dgref import machine
from dgref.cli import group, main
from dgref.errors import FileError
from dgref.results import load_results
from tests import samples

COMMANDS = group.list_commands(None)


def dgref(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "dgref", *arguments], capture_output=True, text=True, check=False)


def invoke(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(group, list(arguments), standalone_mode=False, catch_exceptions=False)
    return done.return_value, done.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = CliRunner().invoke(group, [name, "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.output


def test_every_promised_command_is_there() -> None:
    promised = {"run", "export", "verify", "report", "doctor", "list", "fingerprint", "inspect", "convert", "bench"}
    assert promised <= set(COMMANDS)


def test_help_comes_within_half_a_second() -> None:
    def seconds() -> float:
        """Return the processor's own time, which other work on the machine does not lengthen."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert dgref("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], "Did you mean 'run'?"),
        (["run", "smok"], "suite: got 'smok', need smoke"),
        (["run"], "name at least one suite"),
        (["run", "smoke", "-b", "refrence"], "backend: got 'refrence'"),
        (["run", "smoke", "-b", "absent.py"], "absent.py: got no such file"),
        (["run", "smoke", "--case", "bf61"], "case: got 'bf61', need"),
        (["run", "smoke", "--shard", "5/2"], "--shard: got 5/2, need 1 <= i <= n"),
        (["run", "smoke", "--resume"], "--resume needs --output"),
        (["run", "smoke", "--repeats", "1001"], "1001 is not in the range 0<=x<=1000"),
        (["run", "smoke", "-j", "257"], "257 is not in the range 1<=x<=256"),
        (["bench", "codecs", "-b", "torch", "-o", "x"], "--backend and --output: got codecs, a part of dgref itself"),
        (["bench", "exact", "--launches", "20"], "--launches: got exact"),
        (["report", "render", "absent", "-o", "x"], "absent: got No such file"),
        (["report", "check", "absent"], "the manifest of a bundle"),
        (["verify", "absent"], "the manifest that `dgref export` writes"),
        (["export", "smoke", "--case", "x", "-o", "y"], "case: got 'x', need"),
        (["run", "smoke", "-o", ""], "'--output': got an empty path"),
        (["run", "smoke", "--record", ""], "'--record': got an empty path"),
        (["export", "smoke", "-o", ""], "got an empty path"),
        (["verify", "x", "-o", ""], "got an empty path"),
        (["bench", "smoke", "-o", ""], "got an empty path"),
        (["report", "render", "x", "-o", ""], "got an empty path"),
        (["report", "merge", "x", "-o", ""], "got an empty path"),
        (["convert", "x", "", "--to", "bfloat16"], "got an empty path"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dgref", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keyword", "code"), [("misbehaving/correct", 0), ("misbehaving/one_bit", 1), ("misbehaving/refuses_late", 3)]
)
def test_exit_codes_of_run(keyword: str, code: int) -> None:
    arguments = ["run", "smoke", "--case", "lossless", "-b", samples.MISBEHAVING, "-k", keyword, "--no-isolation"]
    status, output = invoke(*arguments, "--no-diagnosis")
    assert status == code, output


@pytest.mark.parametrize(("name", "code"), [("reference", 0), ("cuda", 3)])
def test_a_required_backend_runs_too_and_must_judge_something(name: str, code: int) -> None:
    if name == "cuda" and machine.gpu() is not None:
        pytest.skip("judges something where there is a GPU")
    chosen = ["run", "smoke", "--case", "lossless", "-b", "reference/engine", "--no-isolation"]
    status, output = invoke(*chosen, "--require", name)
    assert status == code, output
    assert ("a required backend judged nothing" in output) == (code == 3)
    assert name in output and invoke(*chosen, "-b", name)[0] == 0


def test_a_report_that_replaces_other_results_says_how_many(tmp_path: Path) -> None:
    options = ["--no-isolation", "--no-diagnosis", "-b", samples.MISBEHAVING, "-k", "misbehaving/correct"]
    first = invoke("run", "smoke", *options, "-o", str(tmp_path))[1]
    again = invoke("run", "smoke", *options, "-o", str(tmp_path))[1]
    assert first.rstrip().endswith("index.html") and again.rstrip().endswith("index.html")
    less = invoke("run", "smoke", *options, "--case", "lossless", "-o", str(tmp_path))[1]
    assert re.search(r"index.html, in place of an earlier report: \d+ other results in it are gone", less)


@pytest.mark.skipif(machine.gpu() is not None, reason="says what is said where there is no GPU")
@pytest.mark.parametrize(
    "command",
    [["backends.cuda.sm90.tune", "64x4096x7168"], ["backends.cuda.benchmark"], ["deep_gemm.call_cost"]],
    ids=lambda command: command[0],
)
def test_a_program_for_gpus_says_in_a_sentence_that_there_is_none(command: list[str]) -> None:
    found = subprocess.run(
        [sys.executable, "-m", f"dgref.{command[0]}", *command[1:]], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (3, "dgref: needs a CUDA device; torch sees none\n")


def test_run_writes_a_bundle_that_check_accepts_and_compare_finds_equal(tmp_path: Path) -> None:
    options = ["--no-isolation", "--no-diagnosis", "-b", samples.MISBEHAVING, "-k", "misbehaving/correct"]
    assert invoke("run", "smoke", *options, "-o", str(tmp_path / "a"))[0] == 0
    assert invoke("report", "check", str(tmp_path / "a"), "--suite", "smoke") == (
        0,
        f"{tmp_path / 'a'}: complete and unchanged\n",
    )
    assert invoke("report", "compare", str(tmp_path / "a"), str(tmp_path / "a"))[0] == 0
    shards = []
    for index in (1, 2):
        shards.append(str(tmp_path / f"shard{index}"))
        assert invoke("run", "smoke", *options, "--shard", f"{index}/2", "-o", shards[-1])[0] == 0
    assert invoke("report", "merge", *shards, "-o", str(tmp_path / "b"))[0] == 0
    assert invoke("report", "compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json") == (0, "[]\n")


def test_check_of_a_bundle_in_which_nothing_ran_exits_as_its_run_did(tmp_path: Path) -> None:
    options = ["--no-isolation", "-b", samples.MISBEHAVING, "-k", "misbehaving/refuses_late", "-o", str(tmp_path)]
    assert invoke("run", "smoke", *options)[0] == 3
    status, output = invoke("report", "check", str(tmp_path))
    assert (status, "results: got none that was judged" in output) == (3, True)


def test_check_takes_the_waivers_of_the_run(tmp_path: Path) -> None:
    waivers, bundle = tmp_path / "waivers.toml", str(tmp_path / "bundle")
    fields = 'case = "smoke/*"\nbackend = "*"\nreason = "known"\nlink = "x"\nexpires = 2999-01-31\n'
    waivers.write_text(f"[[waiver]]\n{fields}")
    options = ["--no-isolation", "--no-diagnosis", "-b", samples.MISBEHAVING, "-k", "misbehaving/one_bit"]
    assert invoke("run", "smoke", *options, "--waivers", str(waivers), "-o", bundle)[0] == 0
    status, output = invoke("report", "check", bundle)
    assert (status, "waived results: got no waiver that covers" in output) == (1, True)
    status, output = invoke("report", "check", bundle, "--waivers", str(waivers))
    assert (status, "waived until 2999-01-31, not conforming" in output) == (0, True)


def test_a_recording_that_cannot_be_written_is_a_sentence_after_the_report(tmp_path: Path) -> None:
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "parts").write_text("no folder")
    options = ["--no-isolation", "--no-diagnosis", "-b", samples.MISBEHAVING, "-k", "misbehaving/correct"]
    with pytest.raises(FileError, match=r"recording .*recorded: got no outputs of \d+ cases"):
        invoke("run", "smoke", *options, "-o", str(tmp_path / "a"), "--record", str(tmp_path / "recorded"))
    found = load_results(tmp_path / "a")
    assert found.counts == {"pass": len(found)}
    assert "a path that can be written" in found.results[0].evidence["not recorded"]


def test_a_report_of_a_run_that_was_cut_off_holds_what_came_and_says_so(tmp_path: Path) -> None:
    options = ["--no-isolation", "--no-diagnosis", "-b", samples.MISBEHAVING, "-k", "misbehaving/correct"]
    invoke("run", "smoke", *options, "-o", str(tmp_path))
    journal, results = tmp_path / "journal.jsonl", tmp_path / "results.json"
    lines, whole = journal.read_text().splitlines(), load_results(results)
    journal.write_text("\n".join([*lines[:3], lines[3][:40]]))
    results.unlink()
    assert invoke("report", "render", str(tmp_path), "-o", str(tmp_path / "page"))[0] == 0
    found = load_results(tmp_path / "page")
    assert (found.results, found.machine) == (whole.results[:2], whole.machine)
    assert found.warnings == [
        "an interrupted run: got 2 results that came before it was cut off, need all: add --resume to its command"
    ]
    assert "2 results that came before it was cut off" in (tmp_path / "page" / "index.html").read_text()
    for written, need in (("", "schema dgref.results/1"), ("half {", "schema dgref.results/1")):
        journal.write_text(written)
        with pytest.raises(FileError, match=need):
            invoke("report", "render", str(journal), "-o", str(tmp_path / "page"))


def test_compare_exits_1_on_a_regression(tmp_path: Path) -> None:
    samples.results(2, wrong=0).save(tmp_path / "a.json")
    samples.results(2, wrong=1).save(tmp_path / "b.json")
    status, output = invoke("report", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert status == 1
    assert "1 change, 1 regression among them" in output


@pytest.mark.parametrize("table", ["ops", "backends", "formats", "recipes", "layouts", "archs", "suites"])
def test_every_table_lists_as_data(table: str) -> None:
    status, output = invoke("list", table, "--json")
    assert json.loads(output)
    assert not status


def test_doctor_speaks_json() -> None:
    _, output = invoke("doctor", "--json")
    assert {row["section"] for row in json.loads(output)["findings"]} >= {"machine", "compiler", "libraries", "caches"}
