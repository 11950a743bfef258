"""Mutation score of the unit tests of ensemble/ and metrics/: one operator, number or condition is changed at a time.

    python benchmarks/mutation.py --share 0.25

Each mutant is tested in a process of its own, which ends with the first test that fails; a mutant that passes all tests
*survives*.  Tests that import its module come first, and those that do not reach it are left out.  Strings, docstrings,
annotations and the keywords frozen, nullable and strict are not changed.  Linux.  Writes benchmarks/mutation.md and
.csv; the next call takes over what was killed, and tests the others again.

Survivors in mutation_equivalent.csv are equivalent, with the reason, and do not count.
"""

import argparse
import ast
import csv
import importlib.abc
import importlib.machinery
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType

HERE = Path(__file__).parent
ROOT = HERE.parent
TESTS = {
    "ensemble": ["tests/ensemble", "tests/contracts/test_filters.py", "tests/engine/test_decisions.py"],
    "metrics": ["tests/metrics"],
}
# Survived once, and are tested whatever is drawn: module, text before, text after.
ALWAYS = [
    ("ensemble/held_out_scores", "np.argsort(pair_R2[:, 0], kind", "np.argsort(-pair_R2[:, 0], kind"),
    ("ensemble/purify", "if value_N.min() > most:", "if value_N.min() >= most:"),
    ("ensemble/purify", "KEPT if value <= most else", "KEPT if value < most else"),
]
EQUIVALENT = HERE / "mutation_equivalent.csv"
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
DECLARED = ("frozen", "nullable", "strict")  # keywords that declare and compute nothing
COLUMNS = ("module", "site", "line", "before", "after", "outcome", "seconds")
LEAST_LIMIT_S = 300.0  # that the tests of a mutant may take; longer ones five times what they take without a change


def sites(node: ast.AST) -> Iterator[tuple[ast.AST, int]]:
    """The nodes that can be changed, in the order of the source, with the index within a chain of comparisons."""
    if isinstance(node, ast.FunctionDef):
        parts: Sequence[ast.AST | None] = [*node.args.defaults, *node.args.kw_defaults, *node.body]
    elif isinstance(node, ast.ClassDef):
        parts = node.body
    elif isinstance(node, ast.AnnAssign):
        parts = [node.value]
    elif _is_left(node):
        parts = []
    else:
        parts = [*ast.iter_child_nodes(node)]
        yield from ((node, index) for index in range(_num_changes(node)))
    for part in parts:
        if part is not None:
            yield from sites(part)


def _is_left(node: ast.AST) -> bool:
    """True of what computes nothing: declarations, and text."""
    declared = isinstance(node, ast.keyword) and node.arg in DECLARED
    imported = isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr)
    return declared or imported or ast.unparse(node).startswith("npt.")


def _num_changes(node: ast.AST) -> int:
    if isinstance(node, ast.Compare):
        return len(node.ops)
    simple = isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS
    simple |= isinstance(node, ast.BoolOp | ast.UnaryOp)
    simple |= isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    test = node.test if isinstance(node, ast.If | ast.IfExp) else None
    return int(simple or isinstance(test, ast.Name | ast.Attribute | ast.Call))


def mutate(tree: ast.Module, site: int) -> tuple[int, str, str]:
    """Change one site of the tree and return its line, and its text before and after."""
    node, index = [*sites(tree)][site]
    part: ast.AST = node.test if isinstance(node, ast.If) else node
    before = ast.unparse(part)
    if isinstance(node, ast.Compare):
        node.ops[index] = COMPARISONS[type(node.ops[index])]()
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
    elif isinstance(node, ast.UnaryOp):  # twice is not at all
        node.operand = ast.UnaryOp(node.op, node.operand)
    elif isinstance(node, ast.Constant):
        node.value = _another(node.value)
    elif isinstance(node, ast.If | ast.IfExp):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    ast.fix_missing_locations(tree)
    return getattr(node, "lineno", 0), before, ast.unparse(node.test if isinstance(node, ast.If) else node)


def _another(value: object) -> bool | int | float:
    """Another value of the same type."""
    assert isinstance(value, int | float)
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else 1.5 * value + 0.05


class Substitute(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from other code."""

    def __init__(self, name: str, code: CodeType) -> None:
        self._name, self._code = name, code

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, origin=name) if name == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


def outcome_of(path: Path, code: CodeType, limit_s: float) -> str:
    """``survived``, ``killed`` or ``timeout``: the tests with this code in place of the module at `path`."""
    child = os.fork()
    if not child:
        os._exit(_test(path, code))
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "killed" if os.waitstatus_to_exitcode(status) else "survived"
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _test(path: Path, code: CodeType) -> int:
    import hypothesis
    import pytest

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1), os.dup2(quiet, 2)
    sys.meta_path.insert(0, Substitute(_module(path), code))
    # The same examples for every mutant, none remembered from the one before, and the first that fails is enough.
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutation", deadline=None, derandomize=True, database=None, phases=phases)
    folder = tempfile.mkdtemp()
    options = ["-x", "-q", "--hypothesis-profile=mutation", "-p", "no:cacheprovider", f"--basetemp={folder}/t"]
    try:
        return int(pytest.main([*options, "-m", "not ray and not e2e", *map(str, tests_of(path))]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tests_of(path: Path) -> list[Path]:
    """The test files that reach a module by imports; first those that import it themselves, short ones before long."""
    found = [file for name in TESTS[path.relative_to(ROOT / "llb_ray").parts[0]] for file in _files(ROOT / name)]
    reaching = [file for file in found if _module(path) in _reached(file)]
    return sorted(reaching, key=lambda file: (_module(path) not in _imported(file), file.stat().st_size))


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("test_*.py")) if path.is_dir() else [path]


def _reached(path: Path) -> set[str]:
    found, waiting = set[str](), [path]
    while waiting:
        new = _imported(waiting.pop()) - found
        found |= new
        waiting += [ROOT / f"{name.replace('.', '/')}.py" for name in new]
    return found


@cache
def _imported(path: Path) -> frozenset[str]:
    """The modules of llb_ray that a file imports or, as the registries do, names as ``module:class``."""
    source = path.read_text()
    names = set(re.findall(r"llb_ray[\w.]+(?=:\w)", source))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in names if (ROOT / f"{name.replace('.', '/')}.py").exists())


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", nargs="+", default=sorted(TESTS))
    parser.add_argument("--share", type=float, default=1.0, help="of the sites, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--result", type=Path, default=HERE / "mutation.md")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    _load_libraries()
    paths = [path for name in arguments.packages for path in sorted((ROOT / "llb_ray" / name).rglob("*.py"))]
    num_sites = sum(len([*sites(ast.parse(path.read_text()))]) for path in paths)
    raw, rows = arguments.result.with_suffix(".csv"), list[dict[str, str]]()
    earlier = {(row["module"], row["site"]): row for row in csv.DictReader(raw.open())} if raw.exists() else {}
    for path in paths:
        for row in _rows(path, _draw(path, arguments.share, arguments.seed), earlier):
            rows.append(row)
            print(*row.values(), flush=True)
            left = [row for key, row in earlier.items() if key not in {(row["module"], row["site"]) for row in rows}]
            _write(raw, rows + left)
    _write(raw, rows)
    arguments.result.write_text(page(rows, num_sites))
    print(arguments.result.read_text())


def _write(raw: Path, rows: Sequence[dict[str, str]]) -> None:
    with raw.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _load_libraries() -> None:
    """Import what every child would import again."""
    import hypothesis
    import pyarrow.compute
    import pydantic
    import pytest
    import scipy.ndimage
    import scipy.stats
    import sklearn.metrics

    _ = hypothesis, pyarrow.compute, pydantic, pytest, scipy.ndimage, scipy.stats, sklearn.metrics


def _draw(path: Path, share: float, seed: int) -> list[int]:
    """The sites of a module that are tested: each is drawn by itself, so that a larger share contains a smaller one."""
    count = len([*sites(ast.parse(path.read_text()))])
    return [site for site in range(count) if random.Random(f"{seed} {_name(path)} {site}").random() < share]


def _name(path: Path) -> str:
    return path.relative_to(ROOT / "llb_ray").with_suffix("").as_posix()


def _rows(path: Path, drawn: Sequence[int], earlier: dict[tuple[str, str], dict[str, str]]) -> Iterator[dict[str, str]]:
    """A row for each mutant of the module: that of an earlier call, or a new one if it was not killed then."""
    name, source, limit_s = _name(path), path.read_text(), 0.0
    for site, line, before, after, code in _mutants(path, drawn):
        found = earlier.get((name, site))
        if found and (found["outcome"] == "killed" or _key(found) in _equivalents()):
            yield found
            continue
        limit_s = limit_s or _limit_s(path, source)
        started_s = time.monotonic()
        outcome = outcome_of(path, code, limit_s)
        seconds = f"{time.monotonic() - started_s:.1f}"
        yield dict(zip(COLUMNS, (name, site, str(line), before, after, outcome, seconds), strict=True))


def _limit_s(path: Path, source: str) -> float:
    """Seconds that the tests of a mutant may take, by those of the module as it is."""
    started_s = time.monotonic()
    unchanged = outcome_of(path, compile(source, str(path), "exec"), 1200)
    assert unchanged == "survived", f"{path}: its tests fail on the module as it is"
    return max(LEAST_LIMIT_S, 5 * (time.monotonic() - started_s))


def _mutants(path: Path, drawn: Sequence[int]) -> Iterator[tuple[str, int, str, str, CodeType]]:
    """Site, line, text before, text after and code of each mutant."""
    source = path.read_text()
    for number, (name, before, after) in enumerate(ALWAYS):
        if name == _name(path):
            assert source.count(before) == 1, f"{name}: {before!r} is not there once"
            line = source[: source.index(before)].count("\n") + 1
            yield f"always {number}", line, before, after, compile(source.replace(before, after), str(path), "exec")
    for site in drawn:
        tree = ast.parse(source)
        line, text, mutated = mutate(tree, site)
        yield str(site), line, text, mutated, compile(tree, str(path), "exec")


def page(rows: Sequence[dict[str, str]], num_sites: int) -> str:
    """The score of each module and the survivors, as Markdown."""
    from harness import software

    equivalent = _equivalents()
    survived = [row for row in rows if row["outcome"] == "survived"]
    excused = [row for row in survived if _key(row) in equivalent]
    num_real, num_killed = len(rows) - len(excused), len(rows) - len(survived)
    command = "python benchmarks/mutation.py " + " ".join(sys.argv[1:])
    lines = ["| module | mutants | killed | equivalent | survived |", "|---|---|---|---|---|"]
    for name in sorted({row["module"] for row in rows}):
        counts = [sum(row["module"] == name for row in group) for group in (rows, survived, excused)]
        lines.append(f"| {name} | {counts[0]} | {counts[0] - counts[1]} | {counts[2]} | {counts[1] - counts[2]} |")
    summary = (
        f"{len(rows) - len(ALWAYS)} of {num_sites} sites, drawn at random, were changed one at a time, and "
        f"{len(ALWAYS)} that survived an earlier pass. The tests kill {num_killed}; {len(excused)} survivors are "
        f"equivalent. **Score: {num_killed / num_real:.1%}** of the others ({num_killed / len(rows):.1%} of all)."
    )
    known = [f"- {_text(row)} {equivalent[_key(row)]}" for row in excused]
    left = [f"- {_text(row)}" for row in survived if row not in excused]
    always = [f"- {_text(row)} {row['outcome']}" for row in rows if row["site"].startswith("always")]
    title = f"# Mutation score of the unit tests, {date.today()}\n\n{software(command)}"
    sections = {"Survivors": left, "Equivalent mutants": known, "Survivors of an earlier pass": always}
    lists = [f"## {name}\n\n" + ("\n".join(items) or "None.") for name, items in sections.items()]
    return "\n\n".join([title, summary, "\n".join(lines), *lists, "Raw rows: mutation.csv"]) + "\n"


@cache
def _equivalents() -> dict[tuple[str, ...], str]:
    """The reason of each mutant that is known to be equivalent."""
    rows = csv.DictReader(EQUIVALENT.open())
    return {(row["module"], row["code"], row["before"], row["after"]): row["reason"] for row in rows}


def _key(row: dict[str, str]) -> tuple[str, ...]:
    """A mutant by its line's text, which outlasts the line's number."""
    code = (ROOT / "llb_ray" / f"{row['module']}.py").read_text().splitlines()[int(row["line"]) - 1].strip()
    return row["module"], code, row["before"], row["after"]


def _text(row: dict[str, str]) -> str:
    return f"{row['module']}, line {row['line']}: `{row['before']}` as `{row['after']}`."


if __name__ == "__main__":
    main()
