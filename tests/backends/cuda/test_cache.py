from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
import warnings
from pathlib import Path

import pytest

from dgref.backends.cuda import cache, jit
from dgref.backends.cuda.compiler import CompiledObject

CONSTANTS = {"factor": 3, "type": "float"}
FORK = multiprocessing.get_context("fork")
BIG = CompiledObject(os.urandom(1 << 22), "name", "log", 8, 0, 0, 0)


def build() -> CompiledObject:
    jit._kernel.cache_clear()
    return jit.compile_kernel("tiny/fill.cu", "fill", CONSTANTS).compiled


def only_entry() -> Path:
    (entry,) = cache.entries()
    return entry.path


def test_a_second_process_loads_what_the_first_compiled(kernel_folder, cache_folder, monkeypatch):
    first = build()
    monkeypatch.setattr(jit, "_compiled", lambda *_: pytest.fail("compiled again"))
    assert build() == first


def test_the_key_follows_headers_flags_constants_architecture_and_compiler(kernel_folder, cache_folder):
    def key(constants=CONSTANTS, architecture="sm_90a", flags=(), compiler="nvrtc 13.0"):
        return cache.key(jit.request_for("tiny/fill.cu", "fill", constants, architecture, flags), compiler)

    keys = [
        key(),
        key({"factor": 4, "type": "float"}),
        key(architecture="sm_100a"),
        key(flags=["-DX=1"]),
        key(compiler="nvrtc 13.1"),
    ]
    header = kernel_folder / "tiny/scale.cuh"
    header.write_text(header.read_text() + "// one more line\n")
    keys.append(key())
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_corrupt_entry_is_reported_and_compiled_again(kernel_folder, cache_folder, damage):
    first, path = build(), only_entry()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if damage is None else damage)
    assert [entry.path for entry in cache.check()] == [path]
    with pytest.warns(cache.CacheWarning, match="compiling again"):
        assert build().cubin == first.cubin
    assert cache.check() == []


def test_a_folder_that_cannot_be_made_costs_one_warning_and_nothing_else(kernel_folder, monkeypatch):
    monkeypatch.setenv("DGREF_JIT_CACHE_DIR", "/proc/dgref-cache")
    with pytest.warns(cache.CacheWarning, match="need a writable folder; kernels stay in memory"):
        compiled = build()
    assert compiled.cubin.startswith(b"\x7fELF")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build()


def _with_full_disk(results) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results.put((build().cubin[:4], [str(warning.message) for warning in caught]))


def test_a_disk_that_fills_up_leaves_no_entry_and_no_litter(kernel_folder, cache_folder):
    results = FORK.SimpleQueue()
    process = FORK.Process(target=_with_full_disk, args=(results,))
    process.start()
    magic, messages = results.get()
    process.join()
    assert magic == b"\x7fELF"
    assert len(messages) == 1
    assert "kernels stay in memory" in messages[0]
    assert list(cache_folder.iterdir()) == []


def _build_and_report(barrier, results) -> None:
    barrier.wait()
    results.put(build().cubin)


def test_sixteen_processes_at_once_get_the_same_kernel_and_leave_one_entry(kernel_folder, cache_folder):
    barrier, results = FORK.Barrier(16), FORK.SimpleQueue()
    processes = [FORK.Process(target=_build_and_report, args=(barrier, results)) for _ in range(16)]
    for process in processes:
        process.start()
    cubins = {results.get() for _ in processes}
    for process in processes:
        process.join()
    assert len(cubins) == 1
    assert [entry.problem for entry in cache.entries()] == [None]
    assert len(list(cache_folder.iterdir())) == 1


def _store_for_ever(path: Path) -> None:
    while True:
        cache.store(path, BIG, {})


def test_kill_9_in_the_middle_leaves_a_whole_entry_or_none(cache_folder, monkeypatch):
    path = cache_folder / f"name{cache._SUFFIX}"
    for attempt in range(6):
        process = FORK.Process(target=_store_for_ever, args=(path,))
        process.start()
        time.sleep(0.02 + 0.013 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert cache.load(path) in (None, BIG)
    monkeypatch.setattr(cache, "_ABANDONED_AFTER", -1.0)
    partial = [entry for entry in cache.check() if "died" in entry.problem]
    assert cache.clear(only_problems=True) == len(partial)
    assert cache.check() == []


def test_clear_removes_entries_and_their_dumps(kernel_folder, cache_folder, monkeypatch):
    monkeypatch.setenv("DG_JIT_DUMP_PTX", "1")
    build()
    assert only_entry().with_suffix(".ptx").read_text().count(".entry ") == 1
    assert cache.clear() == 1
    assert list(cache_folder.iterdir()) == []
