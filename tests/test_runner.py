"""A run survives whatever a backend does, keeps its order, and can be cut, split and taken up again."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dgref import runner, timing, worker
from dgref.errors import FileError, InputError
from dgref.journal import Journal
from dgref.results import Result, load_results
from dgref.runner import Selection, Settings
from tests import samples

QUICK = Settings(timeout=60, diagnose=False)


def run_one(fault: str, case: object = None, isolate: bool = False, **settings: object) -> Result:
    rows = samples.Suite("sample", "", (case or samples.case(),))
    options = Settings(**{"timeout": 60, "diagnose": False, **settings})
    runner.select([samples.MISBEHAVING])
    return runner.run([rows], [f"misbehaving/{fault}"], settings=options, isolate=isolate).results[0]


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("correct", "pass", ""),
        ("memory", "out_of_memory", "no more of it"),
        ("cuda_memory", "out_of_memory", "CUDA out of memory"),
        ("unprintable", "error", "RuntimeError: \\ud800xxx"),
        ("mute", "error", "Mute, whose message cannot be printed"),
        ("raises", "error", "ZeroDivisionError: division by zero"),
        ("refuses_late", "unsupported", "needs k % 16 == 0"),
        ("one_bit", "fail", "1 of 32 bfloat16 elements differ"),
        ("random", "nondeterministic", "output d changed when repeated (launch 2)"),
        ("unwritten_row", "nondeterministic", "8 of its elements were never written"),
        ("reads_poison", "nondeterministic", "changed when over another poison pattern (launch 2)"),
        ("past_the_end", "fail", "output d: 2 bytes written past its end, the first at byte 80 (row 5, column 0)"),
        (
            "before_the_start",
            "fail",
            "output d: 2 bytes written before its start, the first at byte -2 (row -1, column 7)",
        ),
        ("overwrites_inputs", "fail", "input a: got other bits after the launch"),
        ("clears_inputs", "fail", "input a and b: got other bits after the launch"),
        ("no_output", "fail", "output d: got nothing, need shape (4, 8) of bfloat16"),
        ("other_output", "fail", "outputs: got extra, need d"),
        ("wrong_type", "fail", "got shape (4, 8) of float32, need (4, 8) of bfloat16"),
        ("wrong_shape", "fail", "got shape (4, 7) of bfloat16, need (4, 8) of bfloat16"),
    ],
)
def test_each_way_to_go_wrong_has_its_status_and_reason(fault: str, status: str, words: str) -> None:
    result = run_one(fault)
    assert (result.status, words in result.reason) == (status, True), result.reason


def test_what_a_backend_raises_is_placed_in_its_own_file() -> None:
    result = run_one("raises")
    assert result.evidence["raised"].startswith("misbehaving.py, line ")
    assert dict(result.notes)["at"] == result.evidence["raised"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [("unknown_arithmetic", "arithmetic: got 'nonesuch', need"), ("no_arithmetic_at_all", "arithmetic: got 7, need")],
)
def test_an_arithmetic_that_nobody_knows_is_an_error_of_the_backend(fault: str, words: str) -> None:
    result = run_one(fault)
    assert (result.status, result.arithmetic) == ("error", None)
    assert words in result.reason


def test_an_arithmetic_may_be_declared_by_its_name() -> None:
    result = run_one("named_arithmetic", samples.case(shape={"m": 4, "n": 8, "k": 256}, out="float32"))
    assert (result.status, result.level, result.arithmetic) == ("fail", "bounded", "deep_gemm.sm90.bf16")


def test_provenance_that_holds_itself_costs_its_loop_and_not_the_result() -> None:
    result = run_one("endless_provenance")
    assert result.status == "pass"
    assert result.provenance == {"self": "a dict that holds itself", "deep": result.provenance["deep"]}
    assert "nested too deep" in str(result.provenance["deep"])


def test_a_write_outside_the_output_is_wrong_and_named_even_where_every_bit_inside_is_right() -> None:
    result = run_one("past_the_end", diagnose=True)
    assert (result.level, result.outputs["d"]["differing"]) == ("wrong", 0)
    assert result.diagnosis["hypothesis"] == "out_of_bounds_write"
    assert "row 5, column 0" in result.diagnosis["sentence"]


def test_dying_and_hanging_workers_are_one_cases_result_each() -> None:
    runner.select([samples.MISBEHAVING])
    names = [f"misbehaving/{fault}" for fault in ("segfault", "killed", "leaves_a_fork", "hang", "correct")]
    results = runner.run([samples.suite()], names, settings=Settings(timeout=5, diagnose=False), jobs=1)
    found = {row.backend.split("/")[1]: (row.status, row.reason) for row in results}
    assert found["segfault"] == ("crash", "the process died of SIGSEGV")
    assert found["killed"][0] == "out_of_memory"
    assert found["leaves_a_fork"] == ("crash", "the process exited with code 7")
    assert found["hang"] == ("timeout", "no result within 5 s")
    assert found["correct"] == ("pass", "")


def _answer(written: bytes) -> Result:
    """Return what a worker makes of bytes that its process wrote for its answer."""
    with worker.Worker() as one:
        one._channel, theirs = multiprocessing.Pipe()
        one._process = multiprocessing.Process()
        one._process.kill = one._process.join = lambda *args, **options: None
        theirs.send_bytes(written)
        return one.run(samples.case(), "mine", QUICK)


def test_bytes_that_a_backend_wrote_into_the_channel_cost_one_case_and_not_the_run() -> None:
    result = _answer(b"xxxxxxx")
    assert (result.status, result.reason) == ("crash", "the process's answer cannot be read (UnpicklingError)")


@pytest.mark.parametrize(("said", "found"), [([worker.WAITS, worker.GOES_ON, {}], {}), ([], None)])
def test_time_in_which_a_process_waits_for_the_gpu_is_no_time_of_its_case(said: list, found: dict | None) -> None:
    ours, theirs = multiprocessing.Pipe()

    def speak() -> None:
        for word in said:
            theirs.send(word)
            time.sleep(1 if word == worker.WAITS else 0)

    threading.Thread(target=speak).start()
    one = worker.Worker()
    one._lives = lambda: True
    assert one._answer(ours, 0.4) == found


def test_a_kernel_that_is_timed_is_prepared_while_others_have_the_gpu_and_waits_without_being_called_hung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(timing.tempfile, "tempdir", None)
    runner.select([samples.MISBEHAVING])
    threading.Thread(target=_hold_the_gpu_until_prepared_for, args=(6, tmp_path), daemon=True).start()
    settings = Settings(timeout=5, diagnose=False, timed_launches=1)
    result = runner.run([samples.suite()], ["misbehaving/timed"], settings=settings, jobs=1).results[0]
    assert (result.status, result.throughput) == ("pass", {"microseconds": 1.0})


def _hold_the_gpu_until_prepared_for(seconds: float, folder: Path) -> None:
    with timing.turn(True):
        while not (folder / "prepared").exists():
            time.sleep(0.05)
        time.sleep(seconds)


def test_what_a_fork_of_the_process_answered_is_not_taken_for_another_cases_result() -> None:
    stale = asdict(Result("sample/before", "mine", "pass"))
    result = _answer(pickle.dumps(stale))
    assert (result.case, result.status) == ("sample/tiny", "crash")
    assert result.reason == "the process answered for sample/before on mine"


@pytest.mark.parametrize(
    ("result", "broken"),
    [
        (Result("s/x", "b", "error", "CUDA error: an illegal memory access was encountered"), True),
        (Result("s/x", "b", "out_of_memory", "CUDA out of memory"), True),
        (Result("s/x", "b", "error", "division by zero"), False),
        (Result("s/x", "b", "fail", "cuda kernel is wrong"), False),
    ],
)
def test_only_a_cuda_error_costs_a_new_worker(result: Result, broken: bool) -> None:
    assert worker.outlives_its_case(result) == broken


def test_undefined_elements_may_be_written_and_are_counted() -> None:
    result = run_one("writes_all", samples.masked())
    assert result.status == "pass"
    assert result.evidence["undefined_written"]["d"] >= 0
    assert result.evidence["runs"] == 4


def test_a_kernel_that_owns_no_buffer_is_launched_over_one_pattern_only() -> None:
    assert run_one("correct").evidence["runs"] == 3
    assert run_one("correct", repeats=0).evidence["runs"] == 1


def test_several_jobs_find_what_one_finds_in_the_same_order() -> None:
    runner.select([samples.MISBEHAVING])
    names = ["misbehaving/correct", "misbehaving/one_bit"]
    one = runner.run([samples.suite(6)], names, settings=QUICK, isolate=False)
    two = runner.run([samples.suite(6)], names, settings=QUICK, jobs=2)
    assert [(r.case, r.backend, r.status) for r in one] == [(r.case, r.backend, r.status) for r in two]


def test_shards_partition_the_cases() -> None:
    cases, names = samples.suite(11).cases, ["x", "y"]
    shards = [Selection(shard=(index, 3)).pick(cases, names) for index in (1, 2, 3)]
    ids = [task.case.id for shard in shards for task in shard]
    assert sorted(ids) == sorted(case.id for case in cases)


def test_fail_fast_skips_the_rest_with_a_reason() -> None:
    runner.select([samples.MISBEHAVING])
    results = runner.run(
        [samples.suite(3)], ["misbehaving/one_bit"], settings=QUICK, isolate=False, fail_fast=True
    ).results
    assert [row.status for row in results] == ["fail", "skipped", "skipped"]
    assert "--fail-fast" in results[1].reason


def test_resume_runs_only_what_is_missing(tmp_path: Path) -> None:
    runner.select([samples.MISBEHAVING])
    journal = tmp_path / "journal.jsonl"
    options = {"settings": QUICK, "isolate": False, "journal": journal}
    runner.run([samples.suite(3)], ["misbehaving/correct"], **options)
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:2], lines[2][:40]]))  # a killed run: one whole result and half of another
    results = runner.run([samples.suite(3)], ["misbehaving/correct"], resume=True, **options)
    assert [row.status for row in results] == ["pass"] * 3
    assert len(journal.read_text().splitlines()) == 4
    assert all(json.loads(line) for line in journal.read_text().splitlines())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_is_a_sentence() -> None:
    journal = Journal(None, {}, resume=False)
    journal._file = Path("/dev/full").open("w")  # noqa: SIM115
    with journal, pytest.raises(FileError, match=r"/dev/full: got No space left on device"):
        journal.append(Result("s/x", "mine", "pass"))


def test_resume_refuses_another_runs_journal(tmp_path: Path) -> None:
    runner.select([samples.MISBEHAVING])
    journal = tmp_path / "journal.jsonl"
    options = {"isolate": False, "journal": journal}
    runner.run([samples.suite()], ["misbehaving/correct"], settings=QUICK, **options)
    with pytest.raises(InputError, match="another run's journal"):
        runner.run([samples.suite()], ["misbehaving/correct"], settings=Settings(repeats=1), resume=True, **options)


def _resumed(tmp_path: Path, suite: samples.Suite, **options: object) -> runner.Results:
    settings = {"isolate": False, "settings": QUICK, "journal": tmp_path / "journal.jsonl", **options}
    return runner.run([suite], ["misbehaving/one_bit"], **settings)


def test_a_waiver_excuses_only_the_run_that_names_it(tmp_path: Path) -> None:
    runner.select([samples.MISBEHAVING])
    path = tmp_path / "waivers.toml"
    row = 'case = "sample/*"\nbackend = "misbehaving/one_bit"\nreason = "known"\nlink = "x"\nexpires = 2999-01-31\n'
    path.write_text(f"[[waiver]]\n{row}")
    assert _resumed(tmp_path, samples.suite(), waiver_file=path).results[0].status == "waived"
    assert _resumed(tmp_path, samples.suite(), resume=True).results[0].status == "fail"
    path.write_text(f"[[waiver]]\n{row}".replace("2999", "2020"))
    assert _resumed(tmp_path, samples.suite(), resume=True, waiver_file=path).results[0].status == "expired_waiver"


def test_a_case_that_has_changed_runs_again(tmp_path: Path) -> None:
    runner.select([samples.MISBEHAVING])
    first = _resumed(tmp_path, samples.suite(2))
    larger = replace(samples.suite(2).cases[1], shape={"m": 5, "n": 8, "k": 16})
    changed = replace(samples.suite(2), cases=(samples.suite(2).cases[0], larger))
    again = _resumed(tmp_path, changed, resume=True)
    assert [row.shape["m"] for row in again] == [4, 5]
    assert again.results[0].seconds == first.results[0].seconds  # from the journal: no two launches take as long


def test_resume_refuses_where_a_backends_file_or_a_module_beside_it_has_changed(tmp_path: Path) -> None:
    (tmp_path / "kernels_of_this_test.py").write_text("FACTOR = 1\n")
    path = tmp_path / "neighbourly.py"
    path.write_text(
        "from kernels_of_this_test import FACTOR\nfrom dgref.backends.base import BackendBase, FunctionKernel\n"
        "from dgref.ops import OPS\nclass B(BackendBase):\n    name = 'neighbourly'\n"
        "    def prepare(self, case, inputs):\n        made = OPS[case.op].compute(case, inputs, 'exact')\n"
        "        return FunctionKernel(lambda: made)\nBACKENDS = [B()]\n"
    )
    options = {"settings": QUICK, "journal": tmp_path / "journal.jsonl"}
    assert runner.run([samples.suite()], [str(path)], **options).exit_code == 0  # in a worker process: it imports too
    assert runner.run([samples.suite()], [str(path)], resume=True, **options).exit_code == 0
    for name in ("kernels_of_this_test.py", "neighbourly.py"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(f"{text}# changed\n")
        with pytest.raises(InputError, match=rf"another run's journal, of other backend files: \S*{name}"):
            runner.run([samples.suite()], [str(path)], resume=True, **options)
        (tmp_path / name).write_text(text)


@pytest.mark.parametrize("change", [{"status": "pass", "level": "wrong"}, "[" * 100_000])
def test_a_line_that_cannot_be_true_or_read_is_left_out(tmp_path: Path, change: dict | str) -> None:
    runner.select([samples.MISBEHAVING])
    _resumed(tmp_path, samples.suite())
    journal = tmp_path / "journal.jsonl"
    header, line = journal.read_text().splitlines()
    doctored = change if isinstance(change, str) else json.dumps({**json.loads(line), **change})
    journal.write_text(f"{header}\n{doctored}\n")
    assert _resumed(tmp_path, samples.suite(), resume=True).results[0].status == "fail"


def test_an_interrupt_leaves_a_journal_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dgref", "run", "smoke", "-b", samples.MISBEHAVING, "-k", "misbehaving/hang"]
    process = subprocess.Popen(
        [*command, "-o", str(tmp_path), "--timeout", "300"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 60
    journal = tmp_path / "journal.jsonl"
    while not journal.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "--resume" in output
    assert "Traceback" not in output


def test_a_case_that_no_suite_has_is_an_error_with_the_nearest() -> None:
    with pytest.raises(InputError, match="k-tail"):
        runner.run(["smoke"], ["reference"], selection=Selection(ids=("k-tial",)))


def test_a_keyword_that_selects_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="no case"):
        runner.run(["smoke"], ["reference"], selection=Selection(keyword="nowhere"))


@pytest.mark.parametrize("text", ["0/2", "3/2", "x", "1", "1/2/3"])
def test_a_shard_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="--shard"):
        runner.parse_shard(text)


def test_a_suite_named_twice_runs_once_and_two_of_one_name_are_an_error(tmp_path: Path) -> None:
    assert len(runner.load_suites(["smoke", "smoke"])) == 1
    other = tmp_path / "smoke.toml"
    other.write_text((runner.suite.folder() / "smoke.toml").read_text())
    with pytest.raises(InputError, match="two files"):
        runner.load_suites(["smoke", other])
    with pytest.raises(FileError):
        runner.load_suites([tmp_path / "absent.toml"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"repeats": 1001}, "repeats: got 1001, need an integer from 0 to 1000"),
        ({"repeats": 1.5}, "repeats: got 1.5"),
        ({"timed_launches": -1}, "timed launches: got -1"),
        ({"timeout": float("nan")}, "timeout: got nan, need a finite number of seconds"),
    ],
)
def test_settings_that_make_no_sense_are_errors(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Settings(**settings)


def test_no_more_workers_run_than_there_are_cases() -> None:
    assert runner._jobs(200, [None] * 3) == 3
    with pytest.raises(InputError, match="jobs: got 0, need an integer from 1 to 256"):
        runner._jobs(0, [None])


def test_a_null_backend_costs_less_than_twenty_milliseconds_a_case() -> None:
    runner.select([samples.MISBEHAVING])
    run = lambda: runner.run([samples.suite(100)], ["misbehaving/correct"], settings=QUICK, isolate=False)  # noqa: E731
    run()
    started = time.perf_counter()
    run()
    assert (time.perf_counter() - started) / 100 < 0.020


def test_a_report_of_a_run_can_be_read_back(tmp_path: Path) -> None:
    runner.select([samples.MISBEHAVING])
    results = runner.run([samples.suite(2)], ["misbehaving/one_bit"], settings=QUICK, isolate=False)
    results.save(tmp_path / "results.json")
    again = load_results(tmp_path)
    assert again.results == results.results


@pytest.mark.parametrize(("suites", "backends"), [(None, None), (["smoke"], [5]), ("smoke", "no_such_backend")])
def test_suites_and_backends_are_names_or_lists_of_names(suites: object, backends: object) -> None:
    with pytest.raises(InputError, match="got"):
        runner.run(suites, backends)
