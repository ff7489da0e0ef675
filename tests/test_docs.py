"""What the guides show works: code blocks run, commands parse, generated tables are those of the rows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from dgref import runner, suite_documentation
from dgref.backends import load_file
from dgref.cli import group
from dgref.report.causes import cause_of
from dgref.results import STATUSES
from dgref.suite import load_file as load_suite
from tests import samples

DOCS = Path(__file__).parents[1] / "docs"
READ_ROW_BY_ROW = "scale.array.reshape(-1)[: np.prod(scale.shape)].reshape(scale.shape)"
GUIDES = ("write-a-backend.md", "ci.md", "diagnosis.md", "reports.md", "suites.md")


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(page: str) -> list[str]:
    lines = [
        line.strip() for kind in ("console", "yaml") for block in blocks(page, kind) for line in block.splitlines()
    ]
    found = [line.removeprefix("- run: ").split(" || ")[0] for line in lines]
    return [re.sub(r"\$\{\{.*?\}\}", "1", line) for line in found if line.startswith("dgref ")]


@pytest.mark.parametrize("line", sorted({line for page in GUIDES for line in commands(page)}))
def test_every_command_in_the_guides_parses(line: str) -> None:
    command, arguments = group, shlex.split(line, comments=True)[1:]
    while hasattr(command, "get_command"):
        name, *arguments = arguments
        command = command.get_command(None, name)
        assert command is not None, line
    command.make_context(name, arguments)


PYTHON_PAGES = sorted(path.name for path in DOCS.glob("*.md") if "```python" in path.read_text(encoding="utf-8"))


def _as_pasted(tmp_path: Path, programs: list[str]) -> None:
    """Run programs one after the other in one process, each with names of its own."""
    names = [tmp_path / f"block_{number}.py" for number in range(len(programs))]
    for name, program in zip(names, programs, strict=True):
        name.write_text(program, encoding="utf-8")
    runner = f"import runpy\nfor name in {list(map(str, names))}: runpy.run_path(name)"
    path = os.pathsep.join([str(DOCS.parent), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", runner],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_every_block_of_python_runs_as_it_is_pasted(tmp_path: Path, page: str) -> None:
    programs = blocks(page, "python")
    samples.results().save(tmp_path / "reports" / "local" / "results.json")  # where reports.md says that a run left it
    (tmp_path / "my_backend.py").write_text(blocks("write-a-backend.md", "python")[0])  # as that page says
    _as_pasted(tmp_path, [_without_prompts(program) for program in programs])


def _without_prompts(text: str) -> str:
    lines = text.splitlines()
    return text if not text.startswith(">>>") else "\n".join(line[4:] for line in lines if line.startswith(">>> "))


def test_the_tour_of_the_readme_runs_given_a_kernel(tmp_path: Path) -> None:
    tour = re.findall(r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    kernel = "my_kernel = lambda *operands: hopper"  # the page leaves the reader's own kernel to the reader
    _as_pasted(tmp_path, ["\n".join([tour[0], kernel, *tour[1:]])])


def test_the_example_waiver_is_of_a_case_that_the_example_backend_passes(tmp_path: Path) -> None:
    path, known = tmp_path / "my_backend.py", tmp_path / "waivers.toml"
    text = blocks("write-a-backend.md", "python")[0].replace('"mine"', '"mine/waived"')
    path.write_text(text, encoding="utf-8")
    known.write_text(blocks("ci.md", "toml")[0].replace('"mine"', '"mine/waived"'), encoding="utf-8")
    options = {"isolate": False, "settings": runner.Settings(diagnose=False), "waiver_file": known}
    results = runner.run(["gemm"], load_file(path), **options)
    assert results.counts["unexpected_pass"] > 0
    assert (results.warnings, results.exit_code) == ([], 1)


def test_the_example_backend_conforms(tmp_path: Path) -> None:
    path = tmp_path / "my_backend.py"
    path.write_text(blocks("write-a-backend.md", "python")[0], encoding="utf-8")
    assert load_file(path) == ["mine"]
    results = runner.run(["smoke", "gemm"], ["mine"], isolate=False, settings=runner.Settings(diagnose=False))
    assert results.counts["pass"] >= 2
    assert results.exit_code == 0


def test_the_quantised_example_conforms_on_every_case_it_serves(tmp_path: Path) -> None:
    path = tmp_path / "my_fp4_backend.py"
    path.write_text(blocks("write-a-backend.md", "python")[1], encoding="utf-8")
    assert load_file(path) == ["mine/fp4"]
    suites, settings = ["smoke", "gemm", "edges", "fingerprint"], runner.Settings(diagnose=False)
    results = runner.run(suites, ["mine/fp4"], isolate=False, settings=settings)
    assert (results.counts["pass"], results.exit_code) == (9, 0)
    assert all(row.evidence["guards"] == [] for row in results if row.ran)


def test_the_example_of_a_dump_is_diagnosed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    exec(blocks("diagnosis.md", "python")[0], {})
    sentence = capsys.readouterr().out.strip()
    assert sentence.startswith("negative outputs became zero: a ReLU")
    line = next(line for line in commands("diagnosis.md") if "swizzle" not in line)
    ran = CliRunner().invoke(group, shlex.split(line)[1:], standalone_mode=False)
    assert ran.return_value == 1 and sentence in ran.output


@pytest.mark.parametrize(
    ("right", "wrong", "cause"),
    [
        ("LAYOUTS[scale.layout].unpack(scale.array, scale.shape)", READ_ROW_BY_ROW, "scale swizzle"),
        ("BIAS, NAN = 127", "BIAS, NAN = 126", "scale exponent offset"),
        ("axis=-1).reshape(rows, -1)", "axis=-1)[..., :: 1 if name == 'b' else -1].reshape(rows, -1)", "nibble order"),
    ],
)
def test_the_quantised_example_broken_is_named_for_it(tmp_path: Path, right: str, wrong: str, cause: str) -> None:
    text = blocks("write-a-backend.md", "python")[1]
    assert text.count(right) == 1
    path = tmp_path / "broken.py"
    path.write_text(text.replace(right, wrong).replace("mine/fp4", f"broken/{tmp_path.name}"), encoding="utf-8")
    case = runner.Selection(ids=("mxfp4",))
    (result,) = runner.run(["smoke"], load_file(path), selection=case, isolate=False).results
    assert (result.status, cause_of(result)) == ("fail", cause)


def test_the_quantised_example_is_asked_what_it_reads_as_the_diagnosis_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, right = blocks("write-a-backend.md", "python")[1], "    scales = np.where(exponents == NAN"
    wrong = 'if name == "a":\n        exponents = exponents[np.arange(rows) ^ 8]\n'
    text = text.replace(right, f"    {wrong}{right}").replace("mine/fp4", "mine/fragments")
    (tmp_path / "my_fp4_backend.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    shown = next(block for block in blocks("diagnosis.md", "console") if "--addresses" in block)
    command, _, printed = shown.partition("\n")
    done = CliRunner().invoke(group, shlex.split(command.removeprefix("$ dgref ")), standalone_mode=False)
    assert (done.output, done.return_value) == (printed, 1)
    case = runner.Selection(ids=("mxfp4-mxfp4",))
    (result,) = runner.run(["fingerprint"], ["mine/fragments"], selection=case, isolate=False).results
    assert (result.status, cause_of(result)) == ("fail", "no cause found")
    asked = (
        f"{command.partition('--backend')[0].removeprefix('$ ')}--backend {tmp_path / 'my_fp4_backend.py'} --addresses"
    )
    assert (result.diagnosis["fix"], result.diagnosis["ask"]) == (
        "ask the kernel which payload and scales it reads",
        asked,
    )
    assert dict(result.notes)["ask"] == asked


def test_the_example_entry_point_and_waiver_are_toml(tmp_path: Path) -> None:
    from dgref import waivers

    assert "dgref.backends" in tomllib.loads(blocks("write-a-backend.md", "toml")[0])["project"]["entry-points"]
    path = tmp_path / "waivers.toml"
    path.write_text(blocks("ci.md", "toml")[0], encoding="utf-8")
    assert len(waivers.load(path)) == 1


ACTIONS = {"checkout": 4, "setup-python": 5, "upload-artifact": 4, "download-artifact": 4}
JOB = {"runs-on", "needs", "if", "strategy", "steps", "timeout-minutes"}
STEP = {"uses", "with", "run", "if"}
INPUTS = {"python-version", "cache", "cache-dependency-path", "name", "path", "pattern"}
KEYS = {  # by depth, of a workflow that is indented by two spaces
    0: {"name", "on", "permissions", "jobs"},
    1: {"contents", "run", "report"},
    2: JOB,
    3: {"fail-fast", "matrix", *STEP},
    4: {"shard", *STEP},
    5: INPUTS,
}


def test_the_example_workflow_has_known_keys_pinned_actions_and_the_shards_it_merges() -> None:
    (text,) = blocks("ci.md", "yaml")
    for line in text.splitlines():
        indent, key = re.match(r"( *)(?:- )?([\w-]+):", line).groups()
        assert key in KEYS[len(indent) // 2], line
    used = re.findall(r"uses: actions/([\w-]+)@v(\d+)$", text, re.MULTILINE)
    assert {name: int(major) for name, major in used} == ACTIONS
    assert len(used) == text.count("uses:")
    shards = [int(number) for number in re.search(r"shard: \[(.*)\]", text)[1].split(",")]
    assert f"--shard ${{{{ matrix.shard }}}}/{len(shards)} " in text
    merged = re.search(r"dgref report merge (.*) -o", text)[1].split()
    assert merged == ["shard-*"] == re.findall(r"pattern: (.*)", text)
    for path in re.findall(r"(?:--constraint|cache-dependency-path:) (\S+)", text):
        assert (DOCS.parent / path).is_file()


def test_the_example_suites_load(tmp_path: Path) -> None:
    sizes = []
    for number, text in enumerate(blocks("suites.md", "toml")):
        path = tmp_path / f"example{number}.toml"
        path.write_text(text, encoding="utf-8")
        sizes.append(len(load_suite(path)))
    assert sizes == [1, 12]


def test_the_generated_half_of_the_suites_page_is_that_of_the_rows() -> None:
    text = (DOCS / "suites.md").read_text(encoding="utf-8")
    generated = text.partition(suite_documentation.MARK)[2]
    assert generated == suite_documentation.markdown(), "run: python -m dgref.suite_documentation"


def test_the_reports_page_explains_every_status() -> None:
    text = (DOCS / "reports.md").read_text(encoding="utf-8")
    assert all(f"| `{status}` |" in text and meaning in text for status, meaning in STATUSES.items())
