"""Tests of Alma: the house rules, then one section for each room of alma.py, under the same banners."""

import ast
import collections
import contextlib
import copy
import dataclasses
import datetime as dt
import decimal
import dis
import doctest
import enum
import fractions
import gc
import inspect
import io
import ipaddress
import itertools
import json
import math
import os
import pathlib
import pickle
import queue
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import tokenize
import tracemalloc
import types
import typing
import uuid
import weakref
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest

import alma
from alma import (
    AlmaError,
    AlmaRegistry,
    AlmaVar,
    Change,
    ChangeRecord,
    CodecError,
    DuplicateNameError,
    FileFormatError,
    FrozenError,
    JournalError,
    MergeConflict,
    MissingDependencyError,
    PrunedError,
    RollbackError,
    SnapshotError,
    StaleWriteError,
    SyncError,
    UnknownNameError,
    UntrustedDataError,
    apply_changes,
    compare_values,
    invert,
)

FULL = os.environ.get("ALMA_PROOF") == "full"


def rounds(short, full):
    """How often to repeat: as often as it is promised in a full run, a few times every day."""
    return full if FULL else short


# == House rules: what holds for the whole file ===============================

SOURCE = Path(alma.__file__)
README = Path(__file__).with_name("README.md")

LIGHT = "dataclasses, array, bisect, copy, datetime, io, pickle, threading, time, typing"
HEAVY = """
    aiohttp anywidget argparse asyncio cryptography deepdiff difflib hashlib html http json logging pydantic redis
    socket sqlite3 unittest urllib websockets zlib
"""
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef
HAND_OVERS: "set[str]" = set()  # the one-line verbs that name what stands in a room below: "AlmaVar.save" and so on


def python(*arguments, cwd=None, timeout=60):
    """Run this Python on its own, and return its exit code, stdout and stderr."""
    command = [sys.executable, "-I", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, timeout=timeout, capture_output=True)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def loaded_by(code):
    """Return the names of the modules that are there after running *code* in a Python of its own."""
    _, modules, _ = python("-S", "-c", f"import sys; {code}; print(*sys.modules)")
    return set(modules.split())


def banners(source):
    """Return the rooms of a source by the line of their banners."""
    lines = enumerate(source.splitlines(), 1)
    return {number: line[5:].partition(":")[0] for number, line in lines if re.match(r"# == .*: .* ==+$", line)}


def statements(source):
    """Yield each top-level statement of a source with the number of its room; 0 is the front door."""
    starts = sorted(banners(source))
    for statement in ast.parse(source).body:
        yield sum(start < statement.lineno for start in starts), statement


def codes(code, name=""):
    """Yield a code object and those within it, each with the dotted name of what it belongs to."""
    yield name, code
    for inner in filter(inspect.iscode, code.co_consts):
        own = "" if inner.co_name.startswith("<") else inner.co_name
        yield from codes(inner, f"{name}.{own}".strip("."))


def names(code, *operations):
    """Return the names on which a code object performs one of the operations."""
    return {step.argval for step in dis.get_instructions(code) if step.opname in operations}


def references_down(source):
    """Return a pair for every reference from a definition to a name that a later room defines."""
    homes, loads = {}, set()
    for room, statement in statements(source):
        module = compile(ast.Module([statement], []), "room", "exec")
        for name in names(module, "STORE_NAME"):
            homes.setdefault(name, room)
        for owner, code in codes(module):
            own = names(code, "STORE_NAME") if code is not module else set()
            used = names(code, "LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS") - own
            loads.update((room, owner, name) for name in used)
    return {(owner, name) for room, owner, name in loads if homes.get(name, 0) > room}


def public_definitions(tree, prefix=""):
    """Yield the dotted name and the node of every public class, function and method."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, *FUNCTIONS)) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node, f"{node.name}.")


def lines_of_code(source):
    """Return the numbers of the lines that hold code: neither blank nor only comment or docstring."""
    numbers = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            numbers.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node):
            numbers.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return numbers


def function_lengths(source):
    """Return how many lines of code each function has, by name."""
    numbers = lines_of_code(source)
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, FUNCTIONS)]
    return {
        f"{node.name} at line {node.lineno}": len(numbers.intersection(range(node.lineno, node.end_lineno + 1)))
        for node in functions
    }


def python_blocks(text):
    """Yield each Python block of a README with the number of lines before it."""
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield text.count("\n", 0, match.start(1)), match.group(1)


def run_plain_block(before, block, namespace):
    """Run a block as a program; the comment behind an expression says what it gives, or which error it raises."""
    lines = block.splitlines()
    for statement in ast.parse(block).body:
        promised = lines[statement.end_lineno - 1].partition("  # ")[2].strip()
        ast.increment_lineno(statement, before)
        if not isinstance(statement, ast.Expr):
            exec(compile(ast.Module([statement], []), str(README), "exec"), namespace)
            continue
        try:
            given = repr(eval(compile(ast.Expression(statement.value), str(README), "eval"), namespace))
        except Exception as error:
            given = type(error).__name__
            if not promised:
                raise
        kept = not promised or doctest.OutputChecker().check_output(promised, given, doctest.ELLIPSIS)
        assert kept, f"README.md, line {statement.end_lineno}: {given}"


def run_doctest_block(before, block, namespace):
    """Run a block as an interactive session."""
    session = doctest.DocTestParser().get_doctest(block, namespace, README.name, str(README), before)
    report = io.StringIO()
    failed = doctest.DocTestRunner().run(session, out=report.write, clear_globs=False).failed
    namespace.update(session.globs)
    assert not failed, report.getvalue()


@pytest.fixture
def empty_default_registry():
    """Leave the default registry as it was found: empty."""
    assert not alma.all_vars()
    yield alma.get_registry()
    for name in alma.all_vars():
        alma.unregister(name)


def test_all_names_what_there_is_and_nothing_else():
    defined = set()
    for _, statement in statements(SOURCE.read_text("utf-8")):
        if not isinstance(statement, (ast.Import, ast.ImportFrom)):
            defined |= names(compile(ast.Module([statement], []), "room", "exec"), "STORE_NAME")
    assert sorted(alma.__all__) == sorted(name for name in defined if not name.startswith("_"))
    assert all(hasattr(alma, name) for name in alma.__all__)


def test_everything_public_has_a_docstring():
    public = dict(public_definitions(ast.parse(SOURCE.read_text("utf-8"))))
    assert "AlmaVar.set" in public and "watch" in dir(alma)
    assert [name for name, node in public.items() if not ast.get_docstring(node)] == []


def test_every_public_annotation_can_be_evaluated():
    routines = [getattr(alma, name) for name in alma.__all__ if inspect.isroutine(getattr(alma, name))]
    for kind in (AlmaVar, AlmaRegistry, ChangeRecord):
        routines += [fn for name, fn in vars(kind).items() if inspect.isfunction(fn) and not name.startswith("_")]
    assert len(routines) > 30
    for routine in routines:
        assert "return" in typing.get_type_hints(routine), routine


def test_the_examples_in_alma_py_are_true(empty_default_registry):
    result = doctest.testmod(alma)
    assert result.attempted > 30
    assert result.failed == 0


def test_every_python_block_of_the_readme_is_true(empty_default_registry, tmp_path, monkeypatch):
    if not README.exists():
        pytest.skip("README.md is not beside the tests")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    blocks = list(python_blocks(README.read_text("utf-8")))
    assert blocks
    for before, block in blocks:
        run = run_doctest_block if re.search(r"^\s*>>>", block, re.MULTILINE) else run_plain_block
        run(before, block, namespace)


def test_a_readme_block_that_lies_is_found_with_its_line():
    text = "# Title\n\n```python\nx = 2\nx + 1  # 4\n```\n```python\n>>> x\n5\n```\n"
    (before, plain), (later, session) = python_blocks(text)
    with pytest.raises(AssertionError, match="line 5: 3"):
        run_plain_block(before, plain, {})
    with pytest.raises(AssertionError, match="line 8"):
        run_doctest_block(later, session, {"x": 2})


def test_the_map_the_banners_and_the_sections_of_the_tests_agree():
    room = re.compile(r"^    ([A-Z][\w ]*?)(?:  .*)?$", re.MULTILINE)
    on_the_map = room.findall(alma.__doc__.partition("\nThe rooms of this file")[2])
    in_the_file = list(banners(SOURCE.read_text("utf-8")).values())
    assert len(on_the_map) > 5
    assert in_the_file == on_the_map
    assert list(banners(Path(__file__).read_text("utf-8")).values()) == ["House rules", *on_the_map]


def test_every_room_opens_with_its_contract_in_two_to_four_lines():
    lines = SOURCE.read_text("utf-8").splitlines()
    lengths = {}
    for number, room in banners("\n".join(lines)).items():
        assert len(lines[number - 1]) == 79 and lines[number] == "#", room
        end = next(end for end in range(number + 1, len(lines)) if not lines[end].startswith("# "))
        lengths[room] = end - number - 1
    assert {room: length for room, length in lengths.items() if not 2 <= length <= 4} == {}


def test_a_name_refers_only_upward():
    downward = references_down(SOURCE.read_text("utf-8"))
    assert {pair for pair in downward if pair[0] not in HAND_OVERS} == set()
    assert {owner for owner, _ in downward} == HAND_OVERS


def test_a_reference_to_a_later_room_would_be_found():
    source = (
        "# == Up: above ==\nclass A:\n    c = 1\n    def f(self, d: 'B'):\n        a = self.d\n        return B(a)\n"
        "    e = [g for g in c]\n# == Down: below ==\nclass B: ...\na = c = d = g = 1\ndef e(): return A\n"
    )
    assert references_down(source) == {("A.f", "B")}


def test_the_imports_at_the_top_stay_light():
    asked = set()
    for _, statement in statements(SOURCE.read_text("utf-8")):
        for node in ast.walk(statement) if not isinstance(statement, (ast.ClassDef, *FUNCTIONS)) else ():
            if isinstance(node, ast.Import):
                asked.update(name.name for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                asked.add(node.module)
    assert {"copy", "typing"} < asked
    assert asked - loaded_by(f"import {LIGHT}") == set()


def test_importing_alma_loads_nothing_heavy():
    loaded = loaded_by(f"sys.path.insert(0, {str(SOURCE.parent)!r}); import alma")
    assert loaded - loaded_by(f"import {LIGHT}") == {"alma", "atexit"}  # atexit is built in
    assert loaded.intersection(HEAVY.split()) == set()
    assert loaded_by("import json").intersection(HEAVY.split()) == {"json"}


def test_the_one_file_alone_in_an_empty_folder_runs_its_demo(tmp_path):
    shutil.copy(str(SOURCE), str(tmp_path / "alma.py"))
    code, out, err = python("alma.py", "demo", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.strip()
    assert os.listdir(str(tmp_path)) == ["alma.py"]


def test_no_function_is_longer_than_sixty_lines_of_code(capsys):
    source = SOURCE.read_text("utf-8")
    functions = function_lengths(source)
    lengths, longest = sorted(functions.values()), max(functions, key=functions.get)
    median, most = statistics.median(lengths), lengths[len(lengths) * 9 // 10]
    with capsys.disabled():
        print(f"\n{SOURCE.name}: {len(source.splitlines())} lines, {len(lines_of_code(source))} of code")
        print(
            f"{len(lengths)} functions: median {median:g}, nine in ten at most {most}, longest {longest}: {lengths[-1]}"
        )
    assert [name for name, length in functions.items() if length > 60] == []


def test_a_line_of_code_is_neither_blank_nor_comment_nor_docstring():
    source = 'def f(a,\n      b):\n    """Two\n    lines."""\n\n    # why\n    x = """\n\n    """\n    return x  # it\n'
    assert function_lengths(source) == {"f at line 1": 6}


def test_nothing_is_left_to_do():
    note = re.compile("|".join(word + r"\b" for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X")))
    for path in (SOURCE, Path(__file__)):
        assert note.findall(path.read_text("utf-8")) == [], path


@pytest.mark.parametrize("path", [SOURCE, Path(__file__)], ids=lambda path: path.name)
def test_the_source_is_python_3_8(path):
    ast.parse(path.read_text("utf-8"), feature_version=(3, 8))


# == Words: sentinels, constants, the owners' function types ==================


def test_a_sentinel_shows_what_it_is_and_is_no_value():
    sentinels = [alma._GONE, alma._RUNNING, alma._CLOSED]
    assert [repr(sentinel) for sentinel in sentinels] == ["<pruned>", "<running>", "<closed>"]
    assert len({id(sentinel) for sentinel in sentinels}) == 3
    assert not any(sentinel == value for sentinel in sentinels for value in (None, False, 0, "", repr(sentinel)))


# == Errors: every exception, with its facts as attributes ====================

# Each error, the builtin that it also is, its facts, and what its message names as possible, or as the cause.
ERRORS = [
    (FrozenError("x"), Exception, {"name": "x", "closed": False}, "thaw()"),
    (FrozenError("x", closed=True), Exception, {"name": "x", "closed": True}, "can still be read"),
    (RollbackError("x", 9, "has no record 9; it has 0 to 3"), IndexError, {"name": "x", "wanted": 9}, "0 to 3"),
    (PrunedError("x", 9, 40), RollbackError, {"wanted": 9, "index": 9, "first": 40}, "kept is 40"),
    (DuplicateNameError("x"), ValueError, {"name": "x"}, "get_var"),
    (UnknownNameError("scor", ["y", "score"]), KeyError, {"name": "scor", "known": ["score", "y"]}, "'score'"),
    (UnknownNameError("x"), KeyError, {"name": "x", "known": []}, "watch()"),
    (SnapshotError("lock", "no"), TypeError, {"kind": "lock", "reason": "no"}, "deep_copy=False"),
    (StaleWriteError("x", 3, 5), Exception, {"name": "x", "expected": 3, "actual": 5}, "read it again"),
    (MergeConflict("x", [(("a", 0), 1, 2, 3)]), Exception, {"conflicts": [(("a", 0), 1, 2, 3)]}, "['a'][0]; pass res"),
    (CodecError("value[3]", "a function"), TypeError, {"path": "value[3]", "reason": "a function"}, "types="),
    (FileFormatError("a.json", "no digest"), ValueError, {"path": "a.json", "reason": "no digest"}, "a.json"),
    (UntrustedDataError("a", ["os.system"]), FileFormatError, {"path": "a", "mentioned": ["os.system"]}, "trust=True"),
    (JournalError("a.db", "disk full"), OSError, {"path": "a.db", "reason": "disk full"}, "nothing was changed"),
    (SyncError("redis://h", "refused"), ConnectionError, {"url": "redis://h", "reason": "refused"}, "redis://h"),
    (MissingDependencyError("redis", "sync"), ImportError, {"package": "redis", "extra": "sync"}, "work[sync]"),
]
every_error = pytest.mark.parametrize("error, builtin, facts, hint", ERRORS, ids=lambda v: type(v).__name__)


def test_the_table_holds_every_error():
    kinds = {value for value in vars(alma).values() if isinstance(value, type) and issubclass(value, AlmaError)}
    assert {type(error) for error, *_ in ERRORS} == kinds - {AlmaError}


@every_error
def test_an_error_is_of_alma_and_of_the_builtin_that_callers_know(error, builtin, facts, hint):
    for kind in (AlmaError, builtin):
        with pytest.raises(kind):
            raise error


@every_error
def test_an_error_carries_its_facts_and_names_what_is_possible(error, builtin, facts, hint):
    assert {name: getattr(error, name) for name in facts} == facts
    assert hint in str(error)


@every_error
def test_an_error_survives_pickling_and_copying(error, builtin, facts, hint):
    again = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for twin in [*again, copy.copy(error), copy.deepcopy(error)]:
        assert type(twin) is type(error) and twin is not error
        assert (str(twin), repr(twin), twin.args) == (str(error), repr(error), error.args)
        assert vars(twin) == vars(error)


def test_facts_that_are_handed_in_stay_as_they_were():
    names, conflicts = ["b", "a"], [((), 1, 2, 3)]
    unknown, untrusted = UnknownNameError("x", names), UntrustedDataError("f", names)
    conflict = MergeConflict("x", conflicts)
    names.clear(), conflicts.clear()
    assert (unknown.known, untrusted.mentioned, conflict.conflicts) == (["a", "b"], ["b", "a"], [((), 1, 2, 3)])


# == Records: what one change was =============================================

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


class Counted:
    """A value that counts how often it has been copied."""

    copies = 0

    def __deepcopy__(self, memo):
        Counted.copies += 1
        return Counted()


def registry_at(*times):
    """Return a registry whose clock shows these nanoseconds, one after the other, and then the last for ever."""
    remaining = list(times)
    return AlmaRegistry(clock=lambda: remaining.pop(0) if len(remaining) > 1 else remaining[0])


def unread_record(value):
    """Return the record of a change that nobody has looked at, made at NOON and labelled."""
    noon = (NOON - EPOCH) // timedelta(microseconds=1) * 1000
    return registry_at(noon - 1, noon).watch("x", None).set(value, label="why").history()[1]


def test_a_record_is_a_frozen_dataclass_of_four_fields():
    assert [field.name for field in dataclasses.fields(ChangeRecord)] == ["index", "value", "timestamp", "label"]
    record = ChangeRecord(3, [1], NOON)
    assert (record.index, record.value, record.timestamp, record.label) == (3, [1], NOON, None)
    assert ChangeRecord(index=3, value=[1], timestamp=NOON, label="why").label == "why"
    assert not hasattr(record, "__dict__")
    assert getattr(ChangeRecord, "__match_args__", None) in (None, ("index", "value", "timestamp", "label"))
    with pytest.raises(TypeError):
        ChangeRecord(3, [1])


@pytest.mark.parametrize("field", ["index", "value", "timestamp", "label", "note"])
@pytest.mark.parametrize("record", [ChangeRecord(1, [1], NOON, "why"), unread_record([1])], ids=["by hand", "unread"])
def test_a_record_is_never_altered(record, field):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, field, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(record, field)
    assert record == ChangeRecord(1, [1], NOON, "why")


@pytest.mark.parametrize(
    "look",
    [
        repr,
        str,
        dataclasses.asdict,
        dataclasses.astuple,
        copy.copy,
        copy.deepcopy,
        lambda record: dataclasses.replace(record, index=7),
        lambda record: dataclasses.replace(record, value=0),
        lambda record: record == ChangeRecord(1, (1, [2]), NOON, "why"),
        lambda record: ChangeRecord(1, (1, [2]), NOON, "why") == record,
        lambda record: record == ChangeRecord(1, (1, [3]), NOON, "why"),
        lambda record: record == 1,
        pickle.dumps,
        lambda record: (record.value, record.timestamp.tzinfo is timezone.utc),
    ],
)
def test_a_record_of_a_log_that_nobody_has_read_is_like_one_made_by_hand(look):
    value = (1, [2])
    assert look(unread_record(value)) == look(ChangeRecord(1, value, NOON, "why"))


@pytest.mark.parametrize(
    "make", [unread_record, lambda value: ChangeRecord(1, value, NOON, "why")], ids=["unread", "by hand"]
)
def test_a_record_survives_pickling_and_copying(make):
    again = [pickle.loads(pickle.dumps(make([1]), protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for twin in [*again, copy.copy(make([1])), copy.deepcopy(make([1]))]:
        assert type(twin) is ChangeRecord
        assert (twin.index, twin.value, twin.timestamp, twin.label) == (1, [1], NOON, "why")


def test_equal_records_of_hashable_values_have_one_hash_and_others_have_none():
    assert len({unread_record((1, "a")), ChangeRecord(1, (1, "a"), NOON, "why")}) == 1
    for record in (unread_record([1]), ChangeRecord(1, [1], NOON, "why")):
        with pytest.raises(TypeError):
            hash(record)


def test_a_record_has_no_other_attributes():
    for record in (unread_record([1]), ChangeRecord.__new__(ChangeRecord)):
        with pytest.raises(AttributeError, match=r"ChangeRecord.*nothing"):
            record.nothing  # noqa: B018
    with pytest.raises(AttributeError):
        ChangeRecord.__new__(ChangeRecord).value  # noqa: B018


def test_a_value_is_unpacked_when_it_is_first_looked_at_and_only_then():
    record = AlmaVar("x", Counted()).history()[0]
    before = Counted.copies
    assert (record.index, record.label) == (0, "initial")
    assert Counted.copies == before
    assert record.value is record.value
    assert Counted.copies == before + 1


def test_a_record_keeps_its_value_when_its_variable_is_gone_or_pruned():
    var = AlmaVar("x", 0).set({"a": [1]}).set({"a": [2]}).set({"a": [3]})
    records = var.history()
    var.prune(keep_last=1)
    del var
    assert [record.value for record in records] == [0, {"a": [1]}, {"a": [2]}, {"a": [3]}]


def test_the_value_of_a_record_belongs_to_the_caller():
    var = AlmaVar("x", {"a": [1]}).set({"a": [1, 2]})
    for record in [*var.history(), *var, var.last_change(), var.at(0), var.at("initial")]:
        record.value["a"].clear()
    assert [record.value for record in var.history()] == [{"a": [1]}, {"a": [1, 2]}]


def test_a_time_is_exact_to_the_microsecond_from_1900_to_2260():
    draw = random.Random(1)
    begin, end = (int((datetime(year, 1, 1, tzinfo=timezone.utc) - EPOCH).total_seconds()) for year in (1900, 2260))
    times = [0, -1, -999, 1, 999, 1000, *(3_900_000_000_000_000_000 + step for step in (-1000, -1, 0, 1, 1000))]
    times += [draw.randrange(begin * 10**9, end * 10**9) for _ in range(rounds(2_000, 200_000))]
    for nanoseconds in times:
        exact = EPOCH + timedelta(microseconds=nanoseconds // 1000)
        assert registry_at(nanoseconds).watch("x", 0).last_change().timestamp == exact, nanoseconds


# == Snapshots: a value packed so that nobody can change the past =============


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


class Text(str):
    pass


class Number(int):
    pass


class Money(decimal.Decimal):
    pass


class Names(dict):
    pass


class Row(list):
    pass


class Pair(typing.NamedTuple):
    left: typing.Any
    right: typing.Any


@dataclass
class Point:
    x: typing.Any
    y: typing.Any = 0


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner):
        self.inner = inner


class Zone(dt.tzinfo):
    minutes = 90

    def utcoffset(self, when):
        return timedelta(minutes=self.minutes)

    def __repr__(self):
        return "Zone()"


ODD = datetime(2026, 10, 25, 2, 30, 0, 5, timezone(timedelta(hours=-3, minutes=-30), "odd"), fold=1)
ATOMS = [
    None, True, 0, -(2**70), 0.0, -0.0, float("inf"), float("nan"), 1j, "", "é\ud800\x00", b"", b"\x80\x95",
    ..., NotImplemented, range(3, 9), dt.date(1, 1, 1), dt.time(1, 2), dt.time(3, tzinfo=timezone.utc, fold=1),
    ODD, ODD.replace(tzinfo=None), ODD.replace(tzinfo=Zone()), timedelta(-1, 2, 3), timezone.utc,
    decimal.Decimal("-1.10"), decimal.Decimal("sNaN"), fractions.Fraction(-1, 3), uuid.UUID(int=5), uuid.uuid1(),
    Path("a"), pathlib.PurePosixPath("/a"), pathlib.PureWindowsPath("c:/d"), ipaddress.ip_address("::1"),
    ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_interface("10.0.0.1/8"), Text("text"), Number(7), Money("1.50"),
    re.compile("a+"), Colour.RED, re.IGNORECASE, uuid.SafeUUID.unknown, int, len, Point,
]  # fmt: skip
LEAVES = {type(atom) for atom in ATOMS}
CONTAINERS = {
    "dict": lambda *parts: dict(enumerate(parts)),
    "list": lambda *parts: list(parts),
    "tuple": lambda *parts: parts,
    "set": lambda *parts: {type(part).__name__ for part in parts},
    "frozenset": lambda *parts: frozenset([Colour.RED, len(parts)]),
    "bytearray": lambda *parts: bytearray(len(parts)),
    "OrderedDict": lambda *parts: collections.OrderedDict(zip("cab", parts)),
    "defaultdict": lambda *parts: collections.defaultdict(list, zip("cab", parts)),
    "defaultdict of a lambda": lambda *parts: collections.defaultdict(lambda: 0, zip("cab", parts)),
    "deque": lambda *parts: collections.deque(parts),
    "deque(maxlen)": lambda *parts: collections.deque(parts, maxlen=9),
    "Counter": lambda *parts: collections.Counter(type(part).__name__ for part in parts),
    "ChainMap": lambda *parts: collections.ChainMap({}, dict(enumerate(parts))),
    "namedtuple": lambda *parts: Pair(*parts[:1], parts),
    "dataclass": lambda *parts: Point(*parts[:1], list(parts)),
    "slots": lambda *parts: Slotted(parts),
    "dict of ours": lambda *parts: Names(enumerate(parts)),
    "list of ours": lambda *parts: Row(parts),
    "namespace": lambda *parts: types.SimpleNamespace(parts=parts),
    "lambda in a list": lambda *parts: [*parts, lambda: parts],
    "large leaf": lambda *parts: [*parts, b"\x80" * 70_000],
    "many parts": lambda *parts: {number: [*parts] for number in range(20)},
}


def generated(draw, kind=None, depth=3):
    """Return a value that nests all kinds of values; some stand in several places, some within themselves."""
    made_before = []

    def grow(depth, make):
        made = make(*(atom_or_container(depth - 1) for _ in range(draw.randrange(1, 4))))
        if type(made) is list and draw.random() < 0.1:
            made.append(made)
        made_before.append(made)
        return made

    def atom_or_container(depth):
        if made_before and draw.random() < 0.1:
            return draw.choice(made_before)
        if depth == 0 or draw.random() < 0.3:
            return draw.choice(ATOMS)
        return grow(depth, draw.choice(list(CONTAINERS.values())))

    return grow(depth, CONTAINERS[kind or draw.choice(list(CONTAINERS))])


def parts_of(value):
    """Return the parts of a container or object in their order."""
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple, collections.deque, bytearray)):
        return list(value)
    return [value.inner] if type(value) is Slotted else [vars(value)]


def shape(value, seen=None):
    """Describe a value so that another is described alike only if all content, types, order and identities agree."""
    seen, kind = {} if seen is None else seen, type(value)
    if isinstance(value, (enum.Enum, type)) or inspect.isroutine(value):
        return id(value)  # these are never copied
    if kind in LEAVES:
        return kind, value if kind is bytes else repr(value)
    if kind in (set, frozenset):
        return kind, frozenset(map(shape, value))
    if id(value) in seen:
        return kind, seen[id(value)]
    seen[id(value)] = len(seen)
    facts = getattr(value, "maxlen", None), getattr(value, "default_factory", None)
    return (kind, *facts, *(shape(part, seen) for part in parts_of(value)))


def spoil(value, seen=None):
    """Change everything in a value that can be changed."""
    seen = {} if seen is None else seen
    if type(value) in LEAVES or type(value) is frozenset or inspect.isroutine(value) or id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, set):
        value.clear()
        return
    for part in parts_of(value):
        spoil(part, seen)
    if isinstance(value, (dict, list, collections.deque, bytearray)):
        value.clear()
    elif type(value) is Slotted:
        value.inner = "spoilt"


def shapes_seen(value, **options):
    """Spoil whatever is handed in and out, and return the shapes in which the value was seen by then."""
    seen, registry = [], AlmaRegistry()

    def look(thing):
        seen.append(shape(thing))
        spoil(thing)

    def refuse(thing):
        look(thing)
        raise LookupError

    listen = [lambda var, record: look(record.value)] * 2
    twin = copy.deepcopy(value) if options.get("deep_copy", True) else value
    var = registry.watch("x", value, validators=[look, look], on_change=listen, **options).set(twin)
    look(value), look(twin)
    for _ in range(2):
        look(var.get()), look(var.last_change().value), look(var.at(0).value), look(var.at("initial").value)
        look(registry.snapshot()["x"])
        for record in (*var.history(), *var):
            look(record.value)
        for change in var.diff():
            look(change["from_value"]), look(change["to_value"])
        with pytest.raises(LookupError):
            var.update(refuse)
        if options.get("deep_copy", True) and type(value) not in (tuple, frozenset):
            with pytest.raises(LookupError), var.edit() as draft:
                refuse(draft)
        var.reset()
    return seen


ONE = [1]


@pytest.mark.parametrize(
    "one, other",
    [
        (1, True), (0.0, -0.0), (1, Number(1)), ("a", Text("a")), (lambda: 0, lambda: 0), (Pair(1, 2), (1, 2)),
        ([], ()), (set(), frozenset()), ({}, Names()), ([1], Row([1])), ({}, collections.OrderedDict()), ([[1]], [[2]]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({1: 0}, {True: 0}), (collections.deque(), collections.deque(maxlen=3)),
        (collections.defaultdict(int), collections.defaultdict(list)), (Point(1), Point(1.0)), (Slotted(1), Slotted(2)),
        (ODD, ODD.replace(fold=0)), (ODD, ODD.astimezone(timezone.utc)), (ODD, ODD.replace(tzinfo=Zone())),
        ([ONE, ONE], [[1], [1]]), (Point(ONE, ONE), Point([1], [1])), ((ONE, [ONE]), ([1], [[1]])),
    ],
)  # fmt: skip
def test_the_yardstick_of_these_tests_tells_apart_what_is_almost_the_same(one, other):
    assert shape(one) != shape(other)
    assert shape(one) == shape(copy.deepcopy(one))


@pytest.mark.parametrize("atom", ATOMS, ids=lambda atom: type(atom).__name__)
def test_an_atom_comes_back_exactly_alone_and_in_every_small_container(atom):
    for value in (atom, [atom], {"a": atom}, (atom,), {"a": [atom, {"b": (atom,)}]}, [Point(atom)]):
        var = AlmaVar("x", None).set(value)
        assert shape(var.get()) == shape(var.at(1).value) == shape(value)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_container_comes_back_exactly_in_every_nesting(kind):
    draw = random.Random(kind)
    for _ in range(rounds(20, 1_000)):
        values = [generated(draw, kind) for _ in range(3)]
        var = AlmaVar("x", values[0]).set(values[1]).set(values[2]).set(values[1]).set(values[1])
        kept = [shape(record.value) for record in var.history()]
        assert kept == [shape(values[number]) for number in (0, 1, 2, 1, 1)]
        assert kept == [shape(var.at(index).value) for index in range(5)]
        assert shape(var.get()) == kept[4]


def test_an_object_of_a_subclass_keeps_its_attributes():
    for value in (Text("a"), Number(1), Names(a=1), Row([1])):
        value.note = [1]
        var = AlmaVar("x", [value])
        value.note.append(2)
        assert (type(var.get()[0]), var.get()[0], var.get()[0].note) == (type(value), value, [1])


def test_nothing_that_is_handed_in_or_out_can_change_the_past():
    draw, looks = random.Random(2), 0
    while looks < rounds(5_000, 50_000):
        value = generated(draw)
        before, seen = shape(value), shapes_seen(value)
        assert set(seen) == {before}
        looks += len(seen)


def test_without_copies_the_past_can_be_changed_and_these_tests_see_it():
    for kind in set(CONTAINERS) - {"frozenset"}:
        assert len(set(shapes_seen(CONTAINERS[kind]([1], [2]), deep_copy=False))) > 1, kind


def test_a_value_that_its_owner_shares_is_not_copied():
    value, lock = [[1]], threading.Lock()
    var = AlmaVar("x", value, deep_copy=False).set(lock).set(5).set(value)
    assert var.get() is var.history()[0].value is var.at(3).value is var.last_change().value is value
    assert var.at(1).value is lock
    with pytest.raises(TypeError):
        var.edit()


class Named(pickle.Unpickler):
    """Notes which classes and functions the bytes that it loads ask for."""

    def __init__(self, packed):
        super().__init__(io.BytesIO(packed))
        self.asked = set()

    def find_class(self, module, name):
        self.asked.add((module.partition(".")[0], name))
        return super().find_class(module, name)


def test_packed_bytes_name_types_of_the_standard_library_only():
    draw, asked, packed = random.Random(3), set(), 0
    for value in [[[atom]] for atom in ATOMS] + [generated(draw) for _ in range(rounds(1_000, 20_000))]:
        var = AlmaVar("x", value)
        stored = var._log.head[1]
        if isinstance(stored, bytes):
            reader = Named(stored)
            assert shape(reader.load()) == shape(var.get())
            asked |= reader.asked
            packed += 1
    assert packed > 50
    modules = "builtins collections datetime decimal fractions ipaddress pathlib uuid"
    assert {module for module, _ in asked} == set(modules.split())
    builtin = "Ellipsis NotImplemented bytearray complex frozenset int list range set"
    assert {name for module, name in asked if module == "builtins"} <= set(builtin.split())


def test_an_impostor_that_bears_a_standard_name_is_not_packed_by_that_name():
    impostor = type("Decimal", (Point,), {"__module__": "decimal"})
    value = [impostor([1]), decimal.Decimal(2)]
    var = AlmaVar("x", value).set(value)
    value[0].x.clear()
    assert [(type(record.value[0]), record.value[0].x) for record in var] == [(impostor, [1])] * 2


def test_a_time_zone_of_ours_is_copied_with_the_time_that_bears_it():
    zone = Zone()
    var = AlmaVar("x", ODD.replace(tzinfo=zone)).set([dt.time(1, tzinfo=zone)])
    zone.minutes = 0
    assert [var.at(0).value.utcoffset(), var.get()[0].utcoffset()] == [timedelta(minutes=90)] * 2


def test_a_class_that_is_defined_anew_does_not_change_the_past(monkeypatch):
    var = AlmaVar("x", {"nested": [[Colour.RED], Point(1)]})
    old = Colour, Point
    monkeypatch.setitem(globals(), "Colour", enum.Enum("Colour", "GREEN RED", module=__name__))
    monkeypatch.setitem(globals(), "Point", None)
    (colour,), point = var.get()["nested"]
    assert colour is old[0].RED and type(point) is old[1]


@pytest.mark.parametrize("start", [b"x", b"\x80", b"\x95"])
def test_a_large_leaf_is_shared_as_deepcopy_would(start):
    leaf = start + bytes(100_000)
    var = AlmaVar("x", {"a": [leaf, [1]]})
    assert var.get()["a"][0] is leaf
    assert var.get()["a"][1] is not var.get()["a"][1]


def test_doubling_tuples_take_no_longer_than_they_are_large():
    code = """if True:
        import sys; sys.path.insert(0, sys.argv[1]); import alma
        value = [1]
        for _ in range(40):
            value = (value, value)
        var = alma.watch("x", value)
        var.set([value]); var.set({"a": value}).undo().rollback(0)
        alma.snapshot(); alma.restore({"x": 0})
        print(len(var.history()), type(var.history()[4].value).__name__, len(var.at(1).value))
    """
    assert python("-c", code, SOURCE.parent) == (0, "6 tuple 1\n", "")


# Refused: what can't be copied.


class Refuses:
    """Raises what it is given when it is copied."""

    def __init__(self, error):
        self.error = error

    def __deepcopy__(self, memo):
        raise self.error


class RefusesPickle:
    def __reduce_ex__(self, protocol):
        raise LookupError("not me")


async def coroutine():
    pass


def deep(make, depth=10_000):
    """Return one value within another and so on."""
    value = make(())
    for _ in range(depth):
        value = make((value,))
    return value


REFUSED = {
    "lock": threading.Lock,
    "thread": threading.Thread,
    "generator": lambda: (number for number in ()),
    "socket": socket.socket,
    "file": lambda: open(os.devnull),  # noqa: SIM115
    "frame": sys._getframe,
    "coroutine": coroutine,
    "module": lambda: sys,
    "memoryview": lambda: memoryview(b""),
    "list in list": lambda: deep(list),
    "tuple in tuple": lambda: deep(tuple),
    "dict in dict": lambda: deep(lambda parts: dict(enumerate(parts))),
    "__deepcopy__": lambda: Refuses(ValueError("not me")),
    "__deepcopy__ that ends": lambda: Refuses(StopIteration()),
    "__reduce_ex__": RefusesPickle,
}


@pytest.fixture
def refused(request):
    """Make a value that can't be copied, and close it if that is possible."""
    value = REFUSED[request.param]()
    yield value
    if hasattr(value, "close"):
        value.close()


@pytest.mark.parametrize("refused", REFUSED, indirect=True)
@pytest.mark.parametrize("place", [lambda it: it, lambda it: [1, it], lambda it: {"a": ([it], Point(0))}])
def test_what_cannot_be_copied_is_refused_once_and_nothing_is_stored(refused, place):
    value, heard = place(refused), []
    var = AlmaVar("x", [1], on_change=[lambda var, record: heard.append(record.index)])
    for attempt in (lambda: var.set(value), lambda: var.update(lambda _: value), lambda: AlmaVar("y", value)):
        with pytest.raises(SnapshotError) as caught:
            attempt()
        assert caught.value.kind == type(value).__name__
        assert not isinstance(caught.value.__cause__, SnapshotError)
    with pytest.raises(SnapshotError), var.edit() as draft:
        draft.append(value)
    assert [record.value for record in var.history()] == [[1]] and heard == []
    assert var.set([2]).last_change().index == 1


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit])
def test_what_is_no_fault_of_the_value_is_raised_as_it_is_and_nothing_is_stored(error):
    var = AlmaVar("x", 1)
    with pytest.raises(error):
        var.set([Refuses(error())])
    assert len(var) == 1 and var.set(2).get() == 2


def test_a_small_flat_container_is_stored_as_a_copy_and_other_standard_ones_as_bytes():
    def stored(value):
        return AlmaVar("x", value)._log.head[1]

    small, large = {"a": 1}, {str(number): number for number in range(17)}
    assert type(stored(small)) is dict and stored(small) is not small
    standard = ["list", "tuple", "bytearray", "OrderedDict", "defaultdict", "deque", "deque(maxlen)", "Counter"]
    for value in [large, [small], *(CONTAINERS[kind]([1]) for kind in standard)]:
        assert isinstance(stored(value), bytes), value
    assert not isinstance(stored([Point(1)]), bytes)


# Deltas.


def edited(draw, old, most):
    """Return bytes with a few parts cut, put in, replaced or moved."""
    new = bytearray(old)
    for _ in range(draw.randrange(most)):
        begin = draw.randrange(len(new) + 1)
        end = begin + draw.choice([0, 1, 5, draw.randrange(200)])
        put = bytes(draw.choices(b"ab\x00\xff", k=draw.choice([0, 1, end - begin, draw.randrange(100)])))
        new[begin:end] = draw.choice([put, new[:20], bytes(reversed(new[begin:end]))])
    return bytes(new)


def test_a_delta_leads_back_to_the_older_bytes_and_is_smaller():
    draw, made = random.Random(4), 0
    for number in range(rounds(3_000, 100_000)):
        alphabet = bytes(range(draw.choice([1, 2, 256])))
        older = bytes(draw.choices(alphabet, k=draw.choice([0, 1, 11, 12, 13, 63, 64, 65, 1_000, 20_000])))
        newer = edited(draw, older, draw.choice([1, 2, 4, 30, 80]))
        delta = alma._delta(newer, older)
        if delta is not None:
            buffer = bytearray(newer)
            alma._apply_delta(buffer, delta)
            assert buffer == older, number
            assert len(delta) <= 2 + len(older) // 2
            made += 1
    assert made > number // 2


def test_a_delta_of_hundreds_of_splices_leads_back():
    older = random.Random(11).getrandbits(8_000_000).to_bytes(1_000_000, "big")
    newer = bytearray(older)
    for place in range(0, len(newer), 3_600):
        newer[place] ^= 255
    delta = alma._delta(bytes(newer), older)
    alma._apply_delta(newer, delta)
    assert newer == older and 278 * 13 <= len(delta) < 278 * 20


def test_bytes_with_nothing_in_common_have_no_delta():
    draw = random.Random(5)
    for size in (50, 5_000, 500_000):
        older, newer = (draw.getrandbits(8 * size).to_bytes(size, "big") for _ in range(2))
        assert alma._delta(newer, older) is None


def test_one_changed_byte_costs_one_splice_whatever_the_size():
    for size in (1_000, 100_000):
        older = random.Random(6).getrandbits(8 * size).to_bytes(size, "big")
        for place in (0, 63, 64, size // 2, size - 1):
            newer = older[:place] + bytes([older[place] ^ 255]) + older[place + 1 :]
            assert len(alma._delta(newer, older)) <= 2 + 12 + 16, place


# == History: the log =========================================================


class Clock:
    """A clock that the test moves."""

    def __init__(self, now=1_700_000_000_000_000_000):
        self.now = now

    def __call__(self):
        return self.now


class Oracle:
    """What a variable must be, kept as full copies: every value, label and time, and a cursor on a line of states.

    The line holds the indices between which undo and redo move the cursor; a change cuts it off behind the cursor.
    """

    def __init__(self, value, time):
        self.values, self.labels, self.times = [value], ["initial"], [time]
        self.first, self.line, self.cursor, self.frozen = 1, [0], 0, False

    def copy(self):
        twin = copy.copy(self)
        twin.values, twin.labels, twin.times, twin.line = self.values[:], self.labels[:], self.times[:], self.line[:]
        return twin

    def append(self, value, label):
        self.values.append(value)
        self.labels.append(label)

    def change(self, value, label, expect=None):
        if expect not in (None, len(self.values) - 1):
            raise StaleWriteError("x", expect, len(self.values) - 1)
        self.append(value, label)
        self.cursor += 1
        self.line[self.cursor :] = [len(self.values) - 1]

    def rollback(self, index, label):
        self.change(self.values[self.kept(index)], label)

    def undo(self, steps):
        for cursor in range(self.cursor, self.cursor - steps, -1):
            if cursor == 0:
                raise RollbackError("x", steps, "")
            source = self.kept(self.line[cursor] - 1)
        self.cursor -= steps
        self.append(self.values[source], f"undo to index {self.line[self.cursor]}")

    def redo(self, steps):
        if self.cursor + steps >= len(self.line):
            raise RollbackError("x", steps, "")
        source = self.kept(self.line[self.cursor + steps])
        self.cursor += steps
        self.append(self.values[source], f"redo to index {source}")

    def prune(self, now, keep_last=None, keep_for=None):
        """Forget the oldest while a limit does not allow it; return how many that were."""
        before, count = self.first, len(self.values)
        while self.first < count - 1 and (
            (keep_last is not None and count - self.first > keep_last)
            or (keep_for is not None and self.times[self.first] < now - keep_for * 10**9)
        ):
            self.first += 1
        return self.first - before

    def kept(self, index):
        if not 0 <= index < len(self.values):
            raise RollbackError("x", index, "")
        if 0 < index < self.first:
            raise PrunedError("x", index, self.first)
        return index

    def indices(self):
        return [0, *range(self.first, len(self.values))]

    def at(self, when):
        """Return the index that a variable's at() must find."""
        if isinstance(when, int):
            return self.kept(when)
        if isinstance(when, str):
            return self.kept(max((index for index in self.indices() if self.labels[index] == when), default=-1))
        return self.kept(max((index for index, time in enumerate(self.times) if moment(time) <= when), default=-1))


def moment(nanoseconds):
    """Return a time as a datetime, which drops what is below the microsecond."""
    return EPOCH + timedelta(microseconds=nanoseconds // 1000)


def outcome(function, *args):
    """Return what a call returns, or the class of the error of Alma's that it raises."""
    try:
        return function(*args)
    except AlmaError as error:
        return type(error)


class Walk:
    """A random walk of every verb over a variable, with the oracle beside it."""

    def __init__(self, seed, next_value, keep):
        self.draw, self.next_value, self.keep, self.clock = random.Random(seed), next_value, keep, Clock()
        self.registry = AlmaRegistry(clock=self.clock)
        initial = next_value(self.draw, None)
        self.var = self.registry.watch("x", initial, **keep)
        self.oracle = Oracle(copy.deepcopy(initial), self.clock.now)
        self.labels = []  # of the transactions that are open

    def both(self, real, expected):
        """Do the same with the variable and the oracle: they succeed, or raise the same error."""
        wanted = FrozenError if self.oracle.frozen else outcome(expected)
        assert outcome(real) is (wanted or self.var)

    def commit(self):
        """Give the oracle's new records their time, and forget what is not to be kept."""
        oracle = self.oracle
        new = len(oracle.values) - len(oracle.times)
        oracle.times += [max(self.clock.now, oracle.times[-1] + 1)] * new
        oracle.prune(oracle.times[-1], **self.keep)

    def step(self):
        """Do something at random."""
        self.clock.now += self.draw.choice([0, 0, 1, 999, 1_000, 10**6, 10**9, -5_000])
        often = [self.set, self.set, self.set, self.undo, self.undo, self.redo, self.update, self.edit, self.rollback]
        self.draw.choice([*often * 3, self.reset, self.transaction, self.transaction, self.freeze, self.prune])()
        if not self.labels:
            self.commit()

    def label(self):
        own = self.draw.choice([None, None, "a", "b"])
        return own, own or (self.labels[-1] if self.labels else None)

    def value(self):
        """Return the next value, once for the variable and once for the oracle."""
        value = self.next_value(self.draw, self.oracle.values[-1])
        return value, copy.deepcopy(value)

    def set(self):
        (value, twin), (label, seen), head = self.value(), self.label(), len(self.oracle.values) - 1
        expect = self.draw.choice([None, None, head, head - 1])
        self.both(
            lambda: self.var.set(value, label=label, expect=expect), lambda: self.oracle.change(twin, seen, expect)
        )

    def update(self):
        (value, twin), (label, seen), before = self.value(), self.label(), self.oracle.values[-1]
        self.both(
            lambda: self.var.update(lambda old, new: new if old == before else None, value, label=label),
            lambda: self.oracle.change(twin, seen),
        )

    def edit(self):
        (value, twin), (label, seen) = self.value(), self.label()
        if type(value) is not dict or type(self.oracle.values[-1]) is not dict:
            return

        def edit():
            with self.var.edit(label) as draft:
                draft.clear()
                draft.update(value)
            return self.var

        self.both(edit, lambda: self.oracle.change(twin, seen))

    def rollback(self):
        (label, _), index = self.label(), self.draw.randrange(-1, len(self.oracle.values) + 1)
        seen = label or f"rollback to index {index}"
        self.both(lambda: self.var.rollback(index, label=label), lambda: self.oracle.rollback(index, seen))

    def reset(self):
        self.both(self.var.reset, lambda: self.oracle.rollback(0, "reset to initial"))

    def undo(self):
        steps = self.draw.choice([1, 1, 1, 2, 3])
        self.both(lambda: self.var.undo(steps), lambda: self.oracle.undo(steps))

    def redo(self):
        steps = self.draw.choice([1, 1, 1, 2, 3])
        self.both(lambda: self.var.redo(steps), lambda: self.oracle.redo(steps))

    def transaction(self):
        label, seen = self.label()
        error, before = self.draw.choice([None, None, ZeroDivisionError, KeyboardInterrupt]), self.oracle.copy()
        if self.oracle.frozen:
            error = KeyboardInterrupt
        self.labels.append(seen)
        with pytest.raises(error) if error else contextlib.nullcontext(), self.registry.transaction(label):
            for _ in range(self.draw.randrange(4)):
                self.step()
            self.reset()
            self.check_head()
            if error:
                raise error
        self.labels.pop()
        if error:
            self.oracle = before

    def freeze(self):
        self.var.freeze()
        self.oracle.frozen = True
        self.step()
        self.var.thaw()
        self.oracle.frozen = False

    def prune(self):
        limits = {"keep_last": self.draw.randrange(60)}
        if self.draw.random() < 0.3:
            limits = {"keep_for": self.draw.randrange(20)}
        if self.labels or self.oracle.frozen:
            with pytest.raises(RuntimeError if self.labels else FrozenError):
                self.var.prune(**limits)
            return
        counted = self.var.prune(**limits, dry_run=True)
        self.check_head()
        now = max(self.clock.now, self.oracle.times[-1])
        assert self.var.prune(**limits) == counted == self.oracle.prune(now, **limits)

    def check_head(self):
        """Compare what needs no rebuilding."""
        values, record = self.oracle.values, self.var.last_change()
        assert (record.index, record.value, record.label) == (len(values) - 1, values[-1], self.oracle.labels[-1])
        assert (self.var.get(), type(self.var.get())) == (values[-1], type(values[-1]))
        assert (len(self.var), self.var.is_frozen) == (len(self.oracle.indices()), self.oracle.frozen)

    def check(self):
        """Compare every record, and where at, undo and redo lead."""
        oracle, draw = self.oracle, self.draw
        self.check_head()
        seen = [(record.index, record.value, record.label, record.timestamp) for record in self.var.history()]
        columns = oracle.values, oracle.labels, map(moment, oracle.times)
        wanted = list(zip(range(len(oracle.values)), *columns))
        assert seen == [wanted[index] for index in oracle.indices()]
        times = draw.choices([oracle.times[0], *oracle.times[1 : oracle.first + 1], *oracle.times], k=8)
        moments = [moment(time) + timedelta(microseconds=draw.choice([-1, 0, 1])) for time in times]
        indices = [-1, len(seen), *draw.choices(range(len(oracle.values) + 1), k=8)]
        for when in [*indices, *moments, "a", "initial", "undo to index 1", "never"]:
            found, index = outcome(self.var.at, when), outcome(oracle.at, when)
            assert (found if isinstance(index, type) else (found.index, found.value)) == (
                index if isinstance(index, type) else (index, oracle.values[index])
            ), when
        for verb in ("undo", "redo"):
            twin = oracle.copy()
            expected = outcome(getattr(twin, verb), 1)
            with pytest.raises(ZeroDivisionError), self.registry.transaction():
                assert outcome(getattr(self.var, verb)) is (expected or self.var)
                assert self.var.get() == twin.values[-1]
                raise ZeroDivisionError


def number(draw, old):
    return draw.randrange(4)


def flat(draw, old):
    return draw.choice([{"a": draw.randrange(4)}, [draw.random()], {draw.randrange(4)}])


def whole_tree(keys):
    return {str(number): {"price": number * 1.5, "tags": ["new", number]} for number in range(keys)}


def one_field_changed(draw, old):
    field = draw.choice(list(old))
    return {**old, field: {**old[field], "price": draw.random()}}


def tree(draw, old):
    """Return a nested dict of 200 keys, like the old one or with one field changed."""
    if type(old) is not dict or len(old) != 200:
        return whole_tree(200)
    return draw.choice([old, *[one_field_changed(draw, old)] * 5])


def noise(draw, old):
    """Change everything."""
    return [draw.random() for _ in range(200)]


def point(draw, old):
    return Point([draw.randrange(4)])


def mixed(draw, old):
    return draw.choice([number, flat, tree, tree, tree, noise, point])(draw, old)


@pytest.mark.parametrize("keep", [{}, {"keep_last": 25}, {"keep_for": 3}], ids=str)
@pytest.mark.parametrize("kind", [number, flat, tree, noise, point, mixed])
def test_the_log_is_what_full_copies_would_be_on_random_walks_of_every_verb(kind, keep):
    dear = kind in (tree, noise, mixed)
    for seed in range(rounds(3, 40)):
        walk = Walk(seed, kind, keep)
        for number in range(300):
            walk.step()
            if number % (30 if dear else 3) == 0:
                walk.check()
            else:
                walk.check_head()
        walk.check()
        assert len(walk.oracle.values) > 100


def test_undo_and_redo_go_back_and_forth_as_in_an_editor():
    x = AlmaVar("x", 0).set(1).set(2).set(3)
    assert [x.undo().get(), x.undo().get(), x.redo().get(), x.undo(2).get(), x.redo(3).get()] == [2, 1, 2, 0, 3]
    assert x.undo().set(9).get() == 9
    with pytest.raises(RollbackError):
        x.redo()
    assert [x.undo().get(), x.undo().get()] == [2, 1]
    assert [record.value for record in x.history()] == [0, 1, 2, 3, 2, 1, 2, 0, 3, 2, 9, 2, 1]


def test_where_nothing_is_left_to_undo_or_redo_that_is_said_and_nothing_appended():
    x = AlmaVar("x", 0)
    for prepare, verb, steps in [
        (lambda: x.set(7), x.redo, 1),
        (lambda: x.set(8), x.undo, 3),
        (x.undo, x.undo, 2),
        (x.undo, x.redo, 3),
    ]:
        length = len(prepare())
        with pytest.raises(RollbackError) as caught:
            verb(steps)
        assert (type(caught.value), caught.value.wanted, len(x)) == (RollbackError, steps, length)


def test_rollback_and_reset_are_changes_that_undo_takes_back():
    x = AlmaVar("x", 0).set(1).set(2).rollback(1)
    assert x.undo().get() == 2
    assert x.redo().get() == 1
    assert x.reset().undo().get() == 1
    assert [record.label for record in x][3:] == [
        "rollback to index 1", "undo to index 2", "redo to index 3", "reset to initial", "undo to index 3",
    ]  # fmt: skip


def test_a_moment_is_answered_with_the_newest_record_to_the_end_of_its_microsecond():
    second = 1_700_000_000_000_000_000
    x = registry_at(second, second + 900, second + 1_000).watch("x", 0).set(1).set(2)
    assert [x.at(moment(second) + timedelta(microseconds=late)).value for late in (0, 1, 10**9)] == [1, 2, 2]
    assert x.at(moment(second).astimezone(timezone(timedelta(hours=5)))).value == 1
    with pytest.raises(RollbackError):
        x.at(moment(second) - timedelta(microseconds=1))


def test_a_label_is_answered_with_the_newest_record_that_bears_it():
    x = AlmaVar("x", 0).set(1, label="a").set(2, label="b").set(3, label="a").set(4)
    assert [x.at(label).value for label in ("a", "b", "initial")] == [3, 2, 0]
    with pytest.raises(RollbackError):
        x.at("c")


def retained(change, times):
    """Return how many bytes each of so many changes leaves behind."""
    change(0)
    gc.collect()
    tracemalloc.start()
    for number in range(times):
        change(number)
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / times


def trees(count, keys=200):
    """Return so many versions of a nested dict of so many keys, each with another field changed."""
    draw = random.Random(7)
    values = [whole_tree(keys)]
    while len(values) < count:
        values.append(one_field_changed(draw, values[-1]))
    return values


def test_one_field_in_a_dict_of_200_costs_less_than_200_bytes():
    values, whole = trees(2_000), []
    var = AlmaVar("x", values[0])
    assert retained(lambda number: var.set(values[number]), 2_000) < 200
    assert retained(lambda number: whole.append(pickle.dumps(values[number])), 100) > 5_000


def test_one_field_costs_no_more_where_all_changes_are_one_transaction():
    values, registry = trees(2_000), AlmaRegistry()

    def change(_):
        with registry.transaction():
            var = registry.watch("x", None, overwrite=True)
            for value in values:
                var.set(value)

    assert retained(change, 1) < 200 * len(values)


def test_any_version_is_at_most_128_deltas_away_and_all_of_them_one_each(monkeypatch):
    values, applied = trees(600, keys=400), []
    apply_delta = alma._apply_delta
    monkeypatch.setattr(alma, "_apply_delta", lambda *both: applied.append(len(both[1])) or apply_delta(*both))
    var = AlmaVar("x", values[0])
    for value in values[1:]:
        var.set(value)
    away = []
    for index in range(600):
        applied.clear()
        assert var.at(index).value == values[index]
        away.append(len(applied))
    assert 64 < max(away) <= 128
    applied.clear()
    assert [record.value for record in var.history()] == values
    assert len(applied) <= 600


def test_a_reader_that_is_overtaken_finds_what_its_head_says_or_that_it_must_begin_anew():
    values = trees(300)
    var = AlmaVar("x", values[0])
    for value in values[1:200]:
        var.set(value)
    log, head = var._log, var._log.head
    for value in values[200:]:
        var.set(value)
    assert [record.value for record in log.records(head)] == values[:200]
    assert [log.record(head, index).value for index in (0, 1, 199)] == [values[index] for index in (0, 1, 199)]
    var.prune(keep_last=10)
    assert (log.records(head), log.record(head, 199)) == (None, None)
    assert log.record(head, 0).value == values[0]


def test_where_deltas_do_not_pay_few_are_attempted(monkeypatch):
    attempts, delta = [], alma._delta
    monkeypatch.setattr(alma, "_delta", lambda *both: attempts.append(1) or delta(*both))
    draw, var = random.Random(10), AlmaVar("x", None)
    for _ in range(190):
        var.set(noise(draw, None))
    assert 0 < len(attempts) <= 3 * 11


def test_an_int_costs_at_most_60_bytes():
    var = AlmaVar("x", 0)
    assert retained(lambda number: var.set(number + 10**6), 10_000) <= 60


def test_equal_neighbours_share_one_value():
    value = tree(random.Random(8), None)
    var = AlmaVar("x", value)
    assert retained(lambda _: var.set(value), 1_000) < 100


def opcodes(function):
    """Count the bytecode instructions that a call executes."""
    count, outside = 0, sys.gettrace()

    def trace(frame, event, arg):
        nonlocal count
        frame.f_trace_opcodes, count = True, count + (event == "opcode")
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(outside)
    return count


CHANGES = {
    "set": lambda var: var.set(1),
    "set a dict": lambda var: var.set({"a": 1}),
    "set with a label": lambda var: var.set(1, label="one", expect=var.last_change().index),
    "update": lambda var: var.update(int),
    "rollback": lambda var: var.rollback(0),
    "undo and redo": lambda var: var.set(1).undo().redo(),
}


@pytest.mark.parametrize("keep", [{}, {"keep_last": 64}], ids=["all kept", "64 kept"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_costs_the_same_whatever_the_length_of_history(change, keep):
    var, costs = AlmaVar("x", 0, **keep), []
    for length in (10**3, 10**4, 10**5):
        while var.last_change().index < length:
            var.set(1)
        opcodes(lambda: CHANGES[change](var))  # the first one is still adapting
        costs.append(opcodes(lambda: [CHANGES[change](var) for _ in range(64)]))
    assert costs[0] == costs[1] == costs[2] > 64 * 10


def test_a_cost_that_grows_would_be_counted():
    grown = []
    assert opcodes(lambda: [None for _ in range(10)]) < opcodes(lambda: [None for _ in range(11)])
    assert opcodes(lambda: grown.append(1)) == opcodes(lambda: grown.append(1))


# == Diff: what changed between two values, by path; pure functions ===========


def alike(one, other, above=()):
    """Say what Alma calls alike, slowly: each part is held against each until one fits."""
    kind, pair = type(one), (id(one), id(other))
    if one is other or pair in above:
        return True
    if kind is not type(other):
        return False
    within = partial(alike, above=(*above, pair))
    if kind in (list, tuple, collections.deque):
        facts = getattr(one, "maxlen", None) == getattr(other, "maxlen", None)
        return facts and len(one) == len(other) and all(map(within, one, other))
    if kind is collections.OrderedDict:
        return within(list(one.items()), list(other.items()))
    if kind in (dict, collections.defaultdict, collections.Counter):
        facts = getattr(one, "default_factory", None) is getattr(other, "default_factory", None)
        return facts and each_has_a_twin(list(one.items()), list(other.items()), within)
    if kind in (set, frozenset):
        return each_has_a_twin(list(one), list(other), within)
    try:
        return bool(one == other) or bool(one != one and other != other)
    except Exception:
        return kind is decimal.Decimal and repr(one) == repr(other)


def each_has_a_twin(ones, others, within):
    for one in ones:
        twin = next((place for place, other in enumerate(others) if within(one, other)), None)
        if twin is None:
            return False
        del others[twin]
    return not others


NAN = float("nan")
PLAIN = [0, 1, True, False, 0.0, -0.0, 1.0, NAN, None, "", "a", "b", b"a", 2, (1, True), decimal.Decimal("1.0")]


def plain(draw):
    return float("nan") if draw.random() < 0.1 else draw.choice(PLAIN)


def hashable(draw):
    made = [plain(draw) for _ in range(2)]
    return draw.choice([made[0], made[0], tuple(made), frozenset(made), draw.choice("abcdef"), draw.randrange(9)])


def grown(draw, depth=3):
    """Return a value of builtin containers, nested, whose parts may be equal and yet not alike."""
    if depth == 0 or draw.random() < 0.2:
        return draw.choice([bytearray, Point])(draw.choice([b"a", b"b"])) if draw.random() < 0.2 else plain(draw)
    kind = draw.choice([list, list, tuple, dict, dict, set, frozenset, *TREES])
    count = draw.choice([0, 1, 2, 3, 5, 20])
    if kind in (set, frozenset):
        return kind(hashable(draw) for _ in range(count))
    if kind in (list, tuple, collections.deque):
        return kind(grown(draw, depth - 1) for _ in range(count))
    items = {hashable(draw): grown(draw, depth - 1) for _ in range(count)}
    return collections.defaultdict(draw.choice([int, list]), items) if kind is collections.defaultdict else kind(items)


TREES = [collections.OrderedDict, collections.defaultdict, collections.deque, collections.Counter]


def altered(draw, value, depth=3):
    """Return a value that differs from another in a few places, and shares the rest with it."""
    kind, few = type(value), range(draw.randrange(1, 4))
    if draw.random() < 0.1 or not isinstance(value, (list, tuple, dict, set, frozenset)):
        return grown(draw, depth)
    if isinstance(value, dict):
        value = copy.copy(value)
        for _ in few:
            key = draw.choice([*value, hashable(draw)])
            if key not in value or draw.random() < 0.5:
                value[key] = altered(draw, value.get(key), max(0, depth - 1))
            else:
                del value[key]
        return value
    if isinstance(value, (set, frozenset)):
        return kind([*list(value)[1:], *(hashable(draw) for _ in few)])
    items = list(value)
    for _ in few:
        place = draw.randrange(len(items) + 1)
        new = [] if draw.random() < 0.3 else [grown(draw, max(0, depth - 1))]
        if items[place:] and draw.random() < 0.4:
            new = [altered(draw, items[place], max(0, depth - 1))]
        items[place : place + draw.randrange(2)] = new
    return kind(items)


def leads_there_and_back(old, new):
    """Check all that is promised of the changes between two values, and return them."""
    before = shape(old), shape(new)
    changes = compare_values(old, new)
    assert (not changes) == alma._alike(old, new) == alike(old, new)
    assert alike(alma._applied(old, changes), new)
    assert alike(alma._applied(new, invert(changes)), old)
    assert (shape(old), shape(new)) == before
    return changes


def test_changes_lead_from_any_value_to_any_other_and_back():
    draw, kinds = random.Random(5), collections.Counter()
    for number in range(rounds(800, 100_000)):
        old = grown(draw)
        new = altered(draw, copy.deepcopy(old)) if number % 3 else grown(draw)
        kinds.update(change.op for change in leads_there_and_back(old, new))
        leads_there_and_back(old, copy.deepcopy(old))
        changes = compare_values(old, new)
        assert alike(apply_changes(old, changes), new)
        assert alike(apply_changes(new, invert(changes)), old)
    assert min(kinds["add"], kinds["remove"], kinds["replace"]) > 100


def test_changes_lead_there_and_back_through_all_kinds_of_values_and_cycles():
    draw = random.Random(6)
    for _ in range(rounds(300, 20_000)):
        old = generated(draw)
        for new in (generated(draw), [old, generated(draw)], copy.deepcopy(old)):
            changes = compare_values(old, new)
            assert alike(alma._applied(old, changes), new)
            assert alike(alma._applied(new, invert(changes)), old)


@pytest.mark.parametrize(
    "one, other",
    [
        (1, True), (1, 1.0), ("a", Text("a")), ([1], (1,)), ({1: 0}, {True: 0}), ({1}, {1.0}), ({(1,)}, {(True,)}),
        ({(1, (0,)): 0}, {(1, (False,)): 0}), ([1], [True]), ({"a": 1}, {"a": 1.0}), ({}, collections.OrderedDict()),
        (frozenset({0}), frozenset({False})), (Number(1), 1), (collections.deque([1]), collections.deque([True])),
        (collections.defaultdict(int), collections.defaultdict(list)), ([0] * 40, [0] * 39 + [False]),
        (collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1)), ({1: 1, 2: 2}, {1: 1, 2.0: 2}),
        (b"a", bytearray(b"a")), ({"a": {Text("b"): 1}}, {"a": {"b": 1}}), (Pair(1, 2), (1, 2)),
        (collections.deque([1]), collections.deque([1], 3)),
    ],
)  # fmt: skip
def test_what_is_equal_but_of_another_type_is_not_alike(one, other):
    for wrap in (lambda it: it, lambda it: [it], lambda it: {"a": it}, lambda it: (0, it), lambda it: [it, 1] * 20):
        assert not alma._alike(wrap(one), wrap(other))
        assert compare_values(wrap(one), wrap(other)) != []
        assert leads_there_and_back(wrap(one), wrap(other))


@pytest.mark.parametrize(
    "old, new",
    [
        ({NAN * 1, NAN * 1, 1}, {NAN * 1, 2}), ({NAN * 1: 1, NAN * 1: 2}, {NAN * 1: 2}),
        ({NAN: 1, 1: 2}, {NAN * 1: 3, 1.0: 2}),
        ([bytearray(b"a"), 1, bytearray(b"b")], [0, bytearray(b"b"), 1, 5]), ((1, [2], 3), ([2], 1, 3.0, 3)),
        ([Point(1), Point(2), Point(1.0)], [Point(3), Point(1), Point(2), 5]),
        ([[1], [True], [1]], [0, [True], [1.0], 2]),
        ([{1, 2}, {2, 1}, {3}], [{3}, {2, 1}, {2}, {1}]), ([0.0, -0.0, 0], [-0.0, 0, 0.0, False]), ("ab", ["a", "b"]),
    ],
)  # fmt: skip
def test_changes_lead_there_and_back_where_it_is_easy_to_go_wrong(old, new):
    for wrap in (
        lambda it: it,
        lambda it: [0, it],
        lambda it: {"a": it},
        lambda it: (it, it),
        lambda it: [it, [it], 1],
    ):
        assert leads_there_and_back(wrap(old), wrap(new)) and leads_there_and_back(wrap(new), wrap(old))


@pytest.mark.parametrize(
    "make",
    [
        lambda: float("nan"), lambda: {float("nan")}, lambda: {float("nan"): [1]}, lambda: [float("nan")] * 30,
        lambda: decimal.Decimal("sNaN"), lambda: decimal.Decimal("NaN"), lambda: frozenset([(float("nan"), 1)]),
        lambda: {float("nan"), float("nan"), 1}, lambda: ODD, lambda: Point(1), lambda: collections.deque([NAN * 1]),
        lambda: complex(float("nan"), 1), lambda: bytearray(b"a"), lambda: [[], {}, set(), ()], lambda: "",
    ],
)  # fmt: skip
def test_what_is_made_alike_is_alike(make):
    for wrap in (lambda it: it, lambda it: [it], lambda it: {"a": it}, lambda it: (0, it)):
        assert alma._alike(wrap(make()), wrap(make()))
        assert compare_values(wrap(make()), wrap(make())) == []


@pytest.mark.parametrize(
    "one, other",
    [
        (0.0, -0.0),
        (decimal.Decimal("1.0"), decimal.Decimal("1.00")),
        ({0.0}, {-0.0}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ],
)
def test_what_python_calls_equal_is_alike_where_the_type_is_the_same(one, other):
    assert alma._alike(one, other) and compare_values([one], [other]) == []


ITEMS = {
    "ints": lambda number: number,
    "all equal": lambda number: 7,
    "two by turns": lambda number: number % 2,
    "texts": lambda number: f"text {number}",
    "dicts": lambda number: {"id": number, "tags": ["a", "b"], "name": f"item {number}"},
    "lists": lambda number: [number, "a", None],
    "NaN": lambda number: float("nan"),
    "no hash": lambda number: Point(number),
    "no hash, twice": lambda number: Point(number % 23),
    "mixed": lambda number: [1, True, 1.0, "a", None][number % 5],
}


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("length", [1, 5, 40])
@pytest.mark.parametrize("items", ITEMS)
def test_one_item_more_or_less_or_other_is_one_change_wherever_it_stands(items, length, kind):
    make = ITEMS[items]
    old = kind(make(number) for number in range(length))
    for place in range(length):
        twin = copy.deepcopy(list(old))
        more, less = [*twin[:place], "new", *twin[place:]], [*twin[:place], *twin[place + 1 :]]
        assert compare_values(old, kind(more)) == [Change("add", (place,), None, "new")]
        (removed,) = compare_values(kind(twin), kind(less))
        assert (removed.op, len(removed.path), removed.new) == ("remove", 1, None)
        assert alike(old[removed.path[0]], removed.old)
        (replaced,) = compare_values(old, kind([*twin[:place], "new", *twin[place + 1 :]]))
        assert (replaced.op, replaced.path, replaced.new) == ("replace", (place,), "new")
        (twice,) = compare_values({"a": (old,)}, {"a": (kind(more),)})
        assert twice.path == ("a", 0, place)


def test_two_edits_far_apart_are_two_changes():
    for items in ITEMS:
        old = [ITEMS[items](number) for number in range(60)]
        new = copy.deepcopy(old)
        new.insert(50, "late")
        new.insert(3, "early")
        assert compare_values(old, new) == [Change("add", (3,), None, "early"), Change("add", (51,), None, "late")]
        taken = compare_values(new, old)
        assert [(change.op, change.path) for change in taken] == [("remove", (3,)), ("remove", (50,))]


def test_many_edits_among_items_that_occur_once_cost_a_change_each():
    draw, old = random.Random(1), list(range(2_000))
    new = [number for number in old if draw.random() > 0.1]
    assert len(compare_values(old, new)) == len(old) - len(new)
    assert {change.op for change in compare_values(new, old)} == {"add"}


def test_many_edits_among_items_that_occur_often_cost_few_changes():
    draw = random.Random(1)
    old = [draw.randrange(20) for _ in range(2_000)]
    new = [number for number in old if draw.random() > 0.02]
    assert len(compare_values(old, new)) <= 1.5 * (len(old) - len(new))


@pytest.mark.parametrize("place", range(5))
def test_a_dict_edited_is_found_again_though_others_were_put_before_it_and_behind(place):
    old = [{"id": 1, "a": 1, "b": 2, "c": 3}]
    new = [{"id": 10 + number, "a": 0} for number in range(4)]
    new.insert(place, {"id": 1, "a": 1, "b": 2, "c": 4})
    changes = compare_values(old, new)
    assert [change.op for change in changes].count("add") == 4
    assert [change for change in changes if change.op == "replace"] == [Change("replace", (place, "c"), 3, 4)]
    assert len(compare_values(new, old)) == 5
    leads_there_and_back(old, new)


def test_what_alignment_has_missed_is_not_replaced_by_its_like():
    old = [Point(number) for number in range(30)]
    new = ["new"] * 12 + [Point(12)] + ["new"] * 17
    assert [change.path for change in compare_values(old, new)] == [(place,) for place in range(30) if place != 12]


def test_a_change_names_the_innermost_part_that_changed():
    old = {"a": [{"b": (1, {"c": frozenset({1, 2})})}], "d": 0}
    new = {"a": [{"b": (1, {"c": frozenset({2, 3})})}], "d": 0}
    path = ("a", 0, "b", 1, "c")
    assert compare_values(old, new) == [Change("remove", (*path, 1), 1, None), Change("add", (*path, 3), None, 3)]
    assert compare_values({"k": {"x": 1}}, {"k": {"y": None}}) == [
        Change("remove", ("k", "x"), 1, None),
        Change("add", ("k", "y"), None, None),
    ]


@pytest.mark.parametrize(
    "old, new",
    [
        ([1], (1,)), ({1}, frozenset({1})), ({}, []), (1, 2), (None, []),
        (collections.deque([1]), collections.deque([2])),
        (bytearray(b"a"), bytearray(b"b")), (Pair(1, 2), Pair(1, 3)), (Point(1), Point(2)), (Row([1]), Row([2])),
        (Names(a=1), Names(a=2)), ("ab", "ac"), (collections.defaultdict(int, a=1), collections.defaultdict(list, a=2)),
        (collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1)),
    ],
)  # fmt: skip
def test_what_has_no_common_parts_is_replaced_whole(old, new):
    assert compare_values(old, new) == [Change("replace", (), old, new)]
    assert compare_values([0, old], [0, new]) == [Change("replace", (1,), old, new)]


def test_dicts_of_all_kinds_are_compared_by_key():
    for kind in (dict, collections.OrderedDict, collections.Counter, partial(collections.defaultdict, int)):
        old, new = kind({"a": 1, "b": 2, "c": 3}), kind({"b": 2, "c": 4, "d": 0})
        assert (
            leads_there_and_back(old, new)
            == [
                Change("remove", ("a",), 1, None),
                Change("replace", ("c",), 3, 4),
                Change("add", ("d",), None, 0),
            ]
            or kind is collections.OrderedDict
        )  # its order could not be led back


def test_an_ordered_dict_keeps_its_order_there_and_back():
    make = collections.OrderedDict
    changes = compare_values(make(a=1, b=2), make(a=3, b=2, c=3))
    assert [change.op for change in changes] == ["replace", "add"]
    for old, new in itertools.permutations([make(zip(order, "123")) for order in itertools.permutations("abc")], 2):
        assert alike(apply_changes(old, compare_values(old, new)), new)
    for old, new in itertools.permutations([make.fromkeys(order) for order in ("ab", "bc", "abcd", "dcba", "")], 2):
        assert alike(apply_changes(old, compare_values(old, new)), new)
        assert alike(apply_changes(new, invert(compare_values(old, new))), old)


class Loud:
    """Counts how often it is compared; may raise, or answer with what has no truth value."""

    asked = 0

    def __init__(self, answer):
        self.answer = answer

    def __eq__(self, other):
        Loud.asked += 1
        return self.answer() if callable(self.answer) else self.answer

    __hash__ = None


class Truthless:
    def __bool__(self):
        raise ValueError("neither true nor false")


def test_what_fails_to_compare_is_different_unless_it_is_one_object():
    for answer in (lambda: 1 / 0, Truthless):
        one, other = Loud(answer), Loud(answer)
        assert alma._alike([one], [one]) and not alma._alike([one], [other])
        assert compare_values([1, one], [1, other]) == [Change("replace", (1,), one, other)]
        assert compare_values([one, 1], [1, one]) != []


def test_foreign_objects_are_compared_only_with_their_like():
    Loud.asked = 0
    compare_values([1, {"a": [Loud(True)]}, *range(20)], [0, {"a": [1]}, *range(20)])
    assert Loud.asked == 0
    assert compare_values([Loud(True)], [Loud(True)]) == [] and Loud.asked == 1


def nested_in(depth, value, wrap=lambda part: [part]):
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize("depth", [90, 110, 250, 5_000, 100_000])
def test_however_deep_a_value_is_nested_it_is_compared(depth):
    for wrap in (lambda part: [part], lambda part: {"a": part}, lambda part: (part, 1)):
        old, new = nested_in(depth, 1, wrap), nested_in(depth, 2, wrap)
        (change,) = compare_values(old, new)
        assert change.op == "replace" and len(change.path) <= depth
        if depth <= 250:
            assert apply_changes(old, [change]) == new and apply_changes(new, invert([change])) == old
            assert compare_values(old, nested_in(depth, 1, wrap)) == []


@pytest.mark.parametrize("depth", [250, 400])
def test_what_is_nested_too_deep_spoils_nothing_beside_it(depth):
    old, same, new = ({"deep": nested_in(depth, leaf), "x": number} for number, leaf in enumerate((1, 1, 2)))
    if depth == 250:  # of 400 levels nothing can be proven
        assert compare_values(old, same) == [Change("replace", ("x",), 0, 1)]
    deep, beside = compare_values(old, new)
    assert set(deep.path) == {"deep", 0} and beside == Change("replace", ("x",), 0, 2)


def test_what_is_nested_too_deep_is_passed_over_when_sequences_are_aligned():
    old, new = ([nested_in(1_000, leaf), *range(9)] for leaf in (1, 2))
    changes = compare_values([*old, "last"], ["first", *new, "end"])
    assert len(changes) <= 4 and all(change.path for change in changes)


def test_where_the_stack_is_almost_used_up_the_whole_is_replaced():
    def below(frames, call):
        return below(frames - 1, call) if frames else call()

    old, new = nested_in(90, 1), nested_in(90, 2)
    frames = sys.getrecursionlimit() - len(inspect.stack()) - 150
    assert below(frames, lambda: compare_values(old, new)) == [Change("replace", (), old, new)]
    assert below(frames, lambda: alma._alike(old, new)) is False


def ring(*values, first=True):
    made = list(values)
    made.insert(0 if first else len(made), {"a": [made]})
    return made


@pytest.mark.parametrize("first", [True, False])
def test_a_cycle_is_compared_and_replaced_whole(first):
    assert compare_values(ring(1, first=first), ring(1, first=first)) == []
    old, new = {"x": ring(1, first=first), "y": 1}, {"x": ring(2, first=first), "y": 2}
    changes = compare_values(old, new)
    assert [(change.op, change.path) for change in changes] == [("replace", ("x",)), ("replace", ("y",))]
    assert alike(apply_changes(old, changes), new) and alike(apply_changes(new, invert(changes)), old)
    assert [change.path for change in compare_values(old["x"], new["x"])] == [()]


def test_a_part_that_stands_in_two_places_is_two_parts():
    part = [1]
    old, new = [part, part], [[1], [2]]
    assert leads_there_and_back(old, new) == [Change("replace", (1, 0), 1, 2)]
    assert apply_changes(old, compare_values(old, new)) == new and part == [1]


def changes_between_doubling_structures():
    def doubling(value, make):
        for _ in range(40):
            value = make(value)
        return value

    makes = (lambda it: [it, it]), (lambda it: {"a": it, "b": it})
    theirs = (lambda it: [it, it]), (lambda it: {"b": it, "a": it})
    wraps = [lambda it: it, lambda it: [it, *range(20)], lambda it: dict.fromkeys(range(20), it), lambda it: (0, [it])]
    return [
        len(compare_values(wrap(doubling(1, make)), wrap(doubling(last, other))))
        for last in (1, 2)
        for make, other in zip(makes, theirs)
        for wrap in wraps
    ]


def test_what_doubles_forty_times_is_looked_at_once():
    counts = apart(changes_between_doubling_structures, seconds=60)
    assert counts[:8] == [0] * 8
    assert 0 < min(counts[8:]) <= max(counts[8:]) < 100


GROWING = {
    "all equal, one less, two others": lambda n: ([7] * n, [7] * 99 + [8] + [7] * (n - 202) + [9] + [7] * 98),
    "all equal, a tenth less": lambda n: ([7] * n, [7] * (n - n // 10)),
    "two by turns": lambda n: ([1, 2] * n, [2, 1] * n),
    "two by chance": lambda n: (by_chance(1, n), by_chance(2, n)),
    "all different": lambda n: (list(range(n)), list(range(n, 2 * n))),
    "shuffled": lambda n: (list(range(n)), random.Random(1).sample(range(n), n)),
    "insertions": lambda n: (list(range(n)), with_more(range(n))),
    "NaN": lambda n: ([NAN * 1 for _ in range(n)], [NAN * 1 for _ in range(n - 2)]),
    "dicts, each edited": lambda n: ([{"a": i, "b": 0} for i in range(n)], [{"a": i, "b": 1} for i in range(n)]),
    "dicts, some more": lambda n: ([{"a": i} for i in range(n)], with_more({"a": i} for i in range(n))),
    "no hash": lambda n: ([Point(i) for i in range(n)], with_more(Point(i) for i in range(n))),
    "other dicts, one more": lambda n: ([{"a": i} for i in range(n)], [{"a": -i} for i in range(1, n + 2)]),
    "a dict": lambda n: (dict.fromkeys(range(n)), {**dict.fromkeys(range(2, n)), True: [0]}),
    "a set": lambda n: ({*range(n), "a"}, {*range(2, n), True}),
    "a deep tree": lambda n: tuple(nested_in(50, leaf, lambda part: [*range(n // 50), part]) for leaf in (1, 2)),
}  # fmt: skip


def by_chance(seed, count):
    return random.Random(seed).choices([1, 2], k=count)


def with_more(items):
    """Return items with others put in at the start, in the middle and at the end."""
    items = list(items)
    return ["new", *items[: len(items) // 2], "new", *items[len(items) // 2 :], "new"]


def cost_of_comparing(old, new):
    return opcodes(lambda: alma._applied(old, compare_values(old, new)))


@pytest.mark.parametrize("what", GROWING)
def test_four_times_the_size_costs_little_more_than_four_times_as_much(what):
    small, large = (cost_of_comparing(*GROWING[what](size)) for size in (600, 2_400))
    assert large < 6 * small
    old, new = GROWING[what](210)
    assert alike(alma._applied(old, compare_values(old, new)), new)


def test_equal_items_beside_one_change_are_not_looked_at_one_by_one():
    old = [{"id": number} for number in range(3_200)]
    new = copy.deepcopy(old)
    new[1_000]["id"] = 0
    assert opcodes(lambda: compare_values(old, new)) < 15 * len(old)
    numbers = list(range(50_000))
    assert opcodes(lambda: compare_values(numbers, [*range(25_000), 0, *range(25_000, 50_000)])) < len(numbers)
    assert (
        opcodes(lambda: compare_values(numbers, [*range(10), 0, *range(10, 49_990), 0, *range(49_990, 50_000)]))
        < 50_000
    )


MISFITS = {
    "an unknown operation": ([1], [("move", (0,), 1, 2)]),
    "an operation that is no text": ([1], [(["add"], (0,), 1, 2)]),
    "a path that is no tuple": ({"a": 1}, [("replace", "a", 1, 2)]),
    "a key that is absent": ({"a": 1}, [("replace", ("b",), 1, 2)]),
    "a key of another type": ({1: 1}, [("remove", (True,), 1, None)]),
    "a key to remove that is absent": ({"a": 1}, [("remove", ("b",), 1, None)]),
    "a key that is there": ({"a": 1}, [("add", ("a",), None, 1)]),
    "a key whose equal is there": ({1: 1}, [("add", (True,), None, 1)]),
    "a key without a hash": ({"a": 1}, [("add", ([],), None, 1)]),
    "a member that is absent": ({1}, [("remove", (2,), 2, None)]),
    "a member that is there": ({1}, [("add", (1,), None, 1)]),
    "a member whose equal is there": (frozenset({1}), [("add", (1.0,), None, 1.0)]),
    "a NaN where one is": ({NAN}, [("add", (NAN * 1,), None, NAN)]),
    "a member to replace": ({1}, [("replace", (1,), 1, 2)]),
    "a way into a member": ({(1,)}, [("replace", ((1,), 0), 1, 2)]),
    "an index beyond the end": ([1], [("replace", (1,), 1, 2)]),
    "an index to remove beyond the end": ([1], [("remove", (1,), 1, None)]),
    "an index to add behind the end": ([1], [("add", (2,), None, 1)]),
    "a negative index": ([1], [("replace", (-1,), 1, 2)]),
    "an index that is no int": ((1, 2), [("replace", (True,), 1, 2)]),
    "a way into an atom": ({"a": 1}, [("replace", ("a", 0), 1, 2)]),
    "a way into what is replaced whole": ([Point(1)], [("replace", (0, "x"), 1, 2)]),
    "the root, to be removed": ([1], [("remove", (), [1], None)]),
    "the root, to be added": ([1], [("add", (), None, 1)]),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_change_that_does_not_fit_is_refused_with_its_number_and_nothing_is_altered(misfit):
    value, changes = MISFITS[misfit]
    ((op, path, old, new),) = changes
    first, before = Change("replace", (), None, copy.deepcopy(value)), shape(value)
    with pytest.raises(ValueError, match=r"^change 1\b") as caught:
        apply_changes(value, [first, *changes])
    assert repr(path) in str(caught.value)
    assert shape(value) == before
    if type(path) is tuple and path:
        with pytest.raises(ValueError, match=r"^change 0\b"):
            apply_changes({"x": (value,)}, [(op, ("x", 0, *path), old, new)])


def test_what_is_no_change_cannot_be_inverted():
    with pytest.raises(ValueError, match="change 1"):
        invert([("add", (0,), None, 1), ("move", (0,), 1, 2)])


def test_changes_may_be_plain_tuples_and_come_from_anywhere():
    assert apply_changes([1, 2], iter([("remove", (0,), 1, None), ("add", (1,), None, 3)])) == [2, 3]
    assert invert([("remove", (0,), 1, None)]) == [Change("add", (0,), None, 1)]
    assert apply_changes((1, [2]), [("replace", (1, 0), 2, 3)]) == (1, [3])
    assert apply_changes(5, []) == 5


def test_old_need_not_agree_with_what_is_there():
    assert apply_changes({"a": 1}, [("replace", ("a",), "something else", 2)]) == {"a": 2}


def test_changes_apply_one_after_another():
    changes = [
        ("add", ("a",), None, [1]),
        ("add", ("a", 0), None, 0),
        ("replace", (), None, {"b": [2]}),
        ("remove", ("b", 0), 2, None),
    ]
    assert apply_changes({}, changes[:2]) == {"a": [0, 1]}
    assert apply_changes({}, changes) == {"b": []}
    assert changes[0][3] == [1] and changes[2][3] == {"b": [2]}


def test_the_result_shares_no_mutable_part_with_the_value_or_the_changes():
    draw = random.Random(7)
    for number in range(rounds(300, 10_000)):
        old = generated(draw)
        new = [copy.deepcopy(old), generated(draw)] if number % 2 else generated(draw)
        changes = compare_values(old, new)
        before = shape(old), shape(new), [shape(change) for change in changes]
        spoil(apply_changes(old, changes))
        spoil(apply_changes(old, []))
        assert (shape(old), shape(new), [shape(change) for change in changes]) == before


def test_what_cannot_be_copied_cannot_be_changed():
    with pytest.raises(SnapshotError):
        apply_changes([threading.Lock(), 1], [("replace", (1,), 1, 2)])


def test_a_change_is_a_named_tuple():
    (change,) = compare_values(1, 2)
    assert change == ("replace", (), 1, 2) and change._fields == ("op", "path", "old", "new")
    assert pickle.loads(pickle.dumps(change)) == change


# == Retention: which records to forget =======================================


ALL = list(range(10))


def second_by_second(**options):
    """Return a variable with nine changes after the initial record, one each second, and its clock."""
    clock = Clock()
    var = AlmaRegistry(clock=clock).watch("x", 0, **options)
    for number in ALL[1:]:
        clock.now += 10**9
        var.set(number, label=f"number {number}")
    return var, clock


def indices(var):
    return [record.index for record in var.history()]


@pytest.mark.parametrize("keep_last, kept", [(0, [0, 9]), (1, [0, 9]), (3, [0, 7, 8, 9]), (9, ALL), (99, ALL)])
def test_keep_last_leaves_the_newest_beside_the_initial_record(keep_last, kept):
    pruned, limited = second_by_second()[0], second_by_second(keep_last=keep_last)[0]
    assert pruned.prune(keep_last=keep_last) == 10 - len(kept)
    for var in (pruned, limited):
        assert indices(var) == kept
        assert (len(var), var.get(), [record.value for record in var]) == (len(kept), 9, kept)


@pytest.mark.parametrize("age, kept", [(0, [0, 9]), (2, [0, 7, 8, 9]), (2.5, [0, 7, 8, 9]), (9, ALL), (3600, ALL)])
def test_keep_for_leaves_what_is_young_enough_beside_the_initial_record(age, kept):
    for keep_for in (age, timedelta(seconds=age)):
        pruned, limited = second_by_second()[0], second_by_second(keep_for=keep_for)[0]
        assert pruned.prune(keep_for=keep_for) == 10 - len(kept)
        assert indices(pruned) == indices(limited) == kept


def test_age_is_counted_until_now_even_where_nothing_changed():
    var, clock = second_by_second()
    clock.now += 5 * 10**9
    assert var.prune(keep_for=6) == 7
    assert indices(var) == [0, 8, 9]


def test_with_both_limits_a_record_stays_only_if_both_allow_it():
    assert second_by_second()[0].prune(keep_last=3, keep_for=5) == 6
    assert second_by_second()[0].prune(keep_last=7, keep_for=1) == 7


def test_a_dry_run_counts_and_removes_nothing():
    var, _ = second_by_second()
    assert var.prune(keep_last=3, dry_run=True) == 6
    assert indices(var) == ALL
    assert var.prune(keep_last=3) == 6 and var.prune(keep_last=3) == 0 and var.prune(keep_last=5, dry_run=True) == 0


def test_where_there_is_nothing_to_forget_nothing_happens():
    var = AlmaVar("x", 0)
    assert var.prune(keep_last=0) == var.prune(keep_for=0) == 0
    assert var.set(1).prune(keep_last=0) == 0
    assert indices(var) == [0, 1]


@pytest.mark.parametrize("limits", [{"keep_last": -1}, {"keep_for": -1}, {"keep_for": timedelta(-1)}])
def test_a_negative_limit_is_refused(limits):
    for attempt in (lambda: AlmaVar("x", 0, **limits), lambda: AlmaVar("x", 0).prune(**limits)):
        with pytest.raises(ValueError):
            attempt()


@pytest.mark.parametrize("limit", ["3", True, [], 1j])
@pytest.mark.parametrize("name", ["keep_last", "keep_for"])
def test_what_is_no_limit_is_refused(name, limit):
    for attempt in (lambda: AlmaVar("x", 0, **{name: limit}), lambda: AlmaVar("x", 0).prune(**{name: limit})):
        with pytest.raises(TypeError):
            attempt()


def test_prune_without_a_limit_is_refused():
    with pytest.raises(ValueError):
        AlmaVar("x", 0).prune()


def test_inside_the_gap_nothing_is_answered_with_what_is_beside_it():
    var, clock = second_by_second()
    began = moment(clock.now) - timedelta(seconds=9)
    var.prune(keep_last=3)
    one = timedelta(seconds=1)
    for gone in (1, 6, began + one, began + 6.5 * one, timedelta(seconds=4)):
        with pytest.raises(PrunedError) as caught:
            var.at(gone)
        assert caught.value.first == 7
    for index in (1, 6):
        with pytest.raises(PrunedError):
            var.rollback(index)
    with pytest.raises(RollbackError):
        var.at("number 6")
    with pytest.raises(RollbackError):
        var.at(began - one)
    found = (0, "initial", began, began + 0.9 * one, 7, "number 7", began + 7 * one, timedelta(seconds=2), timedelta(0))
    assert [var.at(when).index for when in found] == [0, 0, 0, 0, 7, 7, 7, 7, 9]


def test_diff_makes_no_pair_across_the_gap():
    var, _ = second_by_second()
    var.prune(keep_last=3)
    assert [(change["from_index"], change["to_index"]) for change in var.diff()] == [(7, 8), (8, 9)]


def test_undo_stops_before_the_gap_and_reset_passes_it():
    var, _ = second_by_second()
    var.prune(keep_last=3)
    assert var.undo(2).get() == 7
    with pytest.raises(PrunedError):
        var.undo()
    assert var.redo(2).get() == 9
    with pytest.raises(PrunedError):
        var.undo(3)
    assert var.reset().get() == 0
    assert var.undo().get() == 9


def test_redo_of_what_has_been_pruned_says_so():
    var, _ = second_by_second()
    var.undo(3).prune(keep_last=1)
    with pytest.raises(PrunedError):
        var.redo()
    assert indices(var) == [0, 10]


def test_an_index_is_never_used_again():
    var = AlmaVar("x", 0, keep_last=3)
    seen = {}
    for number in range(1, 200):
        var.set(number)
        for record in var:
            assert seen.setdefault(record.index, record.value) == record.value
    assert seen == {number: number for number in range(200)}


def test_a_frozen_past_is_not_pruned():
    var, _ = second_by_second()
    var.freeze()
    with pytest.raises(FrozenError):
        var.prune(keep_last=1)
    assert len(var) == 10


def test_what_is_pruned_is_given_back():
    values = [Point(number) for number in range(10)]
    watched = [weakref.ref(value) for value in values]
    var = AlmaVar("x", None, deep_copy=False)
    for value in values:
        var.set(value)
    del value, values
    var.prune(keep_last=3)
    gc.collect()
    assert [reference() is None for reference in watched] == [True] * 7 + [False] * 3


@pytest.mark.parametrize("after", [lambda var: None, AlmaVar.undo], ids=["set", "set and undo"])
def test_a_limited_past_takes_limited_memory(after):
    var = AlmaVar("x", 0, keep_last=100)
    assert retained(lambda number: after(var.set(number, label=f"number {number}")), 10_000) < 20


def test_pruning_moves_a_record_seldom(monkeypatch):
    moved, renew = [], alma._Log._renew
    monkeypatch.setattr(alma._Log, "_renew", lambda log: moved.append(len(var)) or renew(log))
    var = AlmaVar("x", 0, keep_last=100)
    for number in range(2_000):
        var.set(number)
    assert 0 < sum(moved) < 3 * 2_000


def test_pruning_after_a_transaction_that_failed_leaves_nothing_of_it():
    registry = AlmaRegistry()
    x = registry.watch("x", 0)
    for number in range(100):
        x.set(number)
    with pytest.raises(ZeroDivisionError), registry.transaction("failed"):
        x.set(100).undo().set(101)
        raise ZeroDivisionError
    x.prune(keep_last=1)
    x.set(102).set(103)
    assert [(record.index, record.label) for record in x] == [(0, "initial"), (100, None), (101, None), (102, None)]
    with pytest.raises(RollbackError):
        x.redo()


# == Variables: the lock, the clock, the guests, the verbs ====================


UTC = timezone.utc


class StillClock:
    """A clock that stands until a test moves it; in nanoseconds, as a registry wants it."""

    def __init__(self):
        self.now = 1_700_000_000_000_000_000
        self.guest = None  # called once, when the clock is read next

    def __call__(self):
        guest, self.guest = self.guest, None
        if guest is not None:
            guest()
        return self.now

    def go(self, seconds):
        """Go on, or back; return the moment that it is then."""
        self.now += round(seconds * 1_000_000_000)
        return self.moment

    @property
    def moment(self):
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.now // 1_000)


class Box:
    """A class that Alma knows nothing of."""

    def __init__(self, *items):
        self.items = [*items]

    def __eq__(self, other):
        return type(other) is Box and self.items == other.items

    __hash__ = None

    def __repr__(self):
        return f"Box{tuple(self.items)}"

    def clear(self):
        self.items.clear()


class Deep:
    """A value that does what it is told while it is copied."""

    def __init__(self, act):
        self.act = act

    def __deepcopy__(self, memo):
        self.act()
        return self


class Refused(Exception):
    """What the guests of these tests raise."""


def refuse(*_):
    """Raise Refused, whatever is given: a validator, a listener, an update function."""
    raise Refused


def owned(initial=0, **options):
    """Return a clock, its registry, and that one's variable x."""
    clock = StillClock()
    registry = AlmaRegistry(clock=clock)
    return clock, registry, registry.watch("x", initial, **options)


def lively(**options):
    """Return a registry and its variable x, in which every verb has something to do."""
    _, registry, var = owned([0], **options)
    return registry, var.set([1]).set([2]).undo()


def values(var):
    """Return what the variable has been, oldest first."""
    return [record.value for record in var.history()]


def state(*variables):
    """Return all that readers can tell of variables."""
    return [(var.history(), var.is_frozen) for var in variables]


def told(listeners):
    """Return a listener that notes the name and the value of what it is told in a list."""
    return lambda var, record: listeners.append((var.name, record.value))


def elsewhere(act):
    """Return what act() returns in another thread; queue.Empty if it hangs."""
    answer = queue.Queue()
    threading.Thread(target=lambda: answer.put(act()), daemon=True).start()
    return answer.get(timeout=30)


def mended(var, value, **options):
    """Change a list in place, by edit."""
    with var.edit(**options) as draft:
        draft[:] = value


# Every verb that appends, applied to what lively() returns: what it leaves, and the label if the owner gives none.
VERBS = {
    "set": (lambda registry, var: var.set([9]), [9], None),
    "update": (lambda registry, var: var.update(lambda value, more: value + more, [9]), [1, 9], None),
    "edit": (lambda registry, var: mended(var, [9]), [9], None),
    "rollback": (lambda registry, var: var.rollback(2), [2], "rollback to index 2"),
    "reset": (lambda registry, var: var.reset(), [0], "reset to initial"),
    "undo": (lambda registry, var: var.undo(), [0], "undo to index 0"),
    "redo": (lambda registry, var: var.redo(), [2], "redo to index 2"),
    "restore": (lambda registry, var: registry.restore({"x": [9]}), [9], "restore"),
}
each_verb = pytest.mark.parametrize("verb, value, label", VERBS.values(), ids=VERBS.keys())


@pytest.fixture
def default_registry():
    """The default registry, empty before and after."""
    registry = alma.get_registry()
    assert not registry.all_vars()
    yield registry
    for name in registry:
        registry.unregister(name)


def test_the_quick_start_does_what_its_comments_say(default_registry, capsys):
    def must_be_positive(value):
        if value <= 0:
            raise ValueError("must be positive")

    def audit(var, record):
        print(f"{var.name} is {record.value}")

    score = alma.watch("score", 0)
    score.set(10).set(20).set(30)
    assert score.get() == 30
    assert repr(score.last_change()).startswith("ChangeRecord(index=3, value=30, timestamp=datetime.datetime(")
    for record in score.history():
        print(record)
    assert capsys.readouterr().out.count("ChangeRecord(index=") == 4
    score.rollback(1)
    assert score.get() == 10
    score.reset()
    assert score.get() == 0

    balance = alma.watch("balance", 100.0)
    balance.add_validator(must_be_positive)
    balance.set(50)
    with pytest.raises(ValueError, match="must be positive"):
        balance.set(-1)
    assert balance.get() == 50

    price = alma.watch("price", 9.99, on_change=[audit])
    price.set(12.49)
    assert capsys.readouterr().out == "price is 12.49\n"

    config = alma.watch("config", {"debug": True})
    config.freeze()
    with pytest.raises(FrozenError):
        config.set({"debug": False})

    reg = AlmaRegistry()
    x, y = reg.watch("x", 0), reg.watch("y", 100)
    assert reg.snapshot() == {"x": 0, "y": 100}
    assert reg.all_vars() == {"x": x, "y": y}
    assert repr(reg.all_vars()["x"]) == "AlmaVar(name='x', value=0, history_len=1)"
    reg.unregister("x")
    assert "x" not in reg


def test_the_first_record_has_index_0_and_is_labelled_initial():
    clock, _, var = owned("first")
    assert var.history() == [ChangeRecord(0, "first", clock.moment, "initial")]


@each_verb
def test_a_verb_appends_one_record_and_tells_each_listener_once(verb, value, label):
    registry, var = lively()
    before, heard = var.history(), []
    var.add_listener(told(heard))
    verb(registry, var)
    assert var.history()[:-1] == before
    last = var.last_change()
    assert (last.index, last.value, last.label, var.get()) == (4, value, label, value)
    assert heard == [("x", value)]


@pytest.mark.parametrize("name", ["set", "update", "rollback", "reset", "undo", "redo"])
def test_a_verb_returns_its_variable(name):
    registry, var = lively()
    assert VERBS[name][0](registry, var) is var
    assert var.freeze() is var
    assert var.thaw() is var
    assert var.add_validator(bool) is var
    assert var.remove_validator(bool) is var
    assert var.add_listener(refuse) is var
    assert var.remove_listener(refuse) is var


def test_each_verb_keeps_the_label_it_is_given():
    registry, var = lively()
    var.set([5], label="a").update(lambda value: value, label="b").rollback(0, label="c")
    mended(var, [6], label="d")
    registry.restore({"x": [7]}, label="e")
    assert [record.label for record in var][-5:] == ["a", "b", "c", "d", "e"]


# -- the past is incorruptible

READERS = {
    "get": lambda var: var.get(),
    "history": lambda var: var.history()[1].value,
    "iteration": lambda var: [*var][1].value,
    "last_change": lambda var: var.last_change().value,
    "at": lambda var: var.at(1).value,
    "diff from": lambda var: var.diff()[1]["from_value"],
    "diff to": lambda var: var.diff()[0]["to_value"],
    "edit": lambda var: var.edit().__enter__(),
}
MUTABLES = {
    "flat list": lambda: [1, 2],
    "flat dict": lambda: {"a": 1},
    "flat set": lambda: {1, 2},
    "nested": lambda: {"a": [1, {2: {3}}], "b": [4]},
    "large": lambda: [[number] for number in range(100)],
    "bytearray": lambda: bytearray(b"abc"),
    "deque": lambda: collections.deque([[1], 2], maxlen=5),
    "ordered": lambda: collections.OrderedDict(a=[1]),
    "foreign": lambda: Box(1, [2]),
    "foreign inside": lambda: [Box(1), Box(2)],
}
each_kind = pytest.mark.parametrize("value", [1, [1], [[1]]], ids=["plain", "flat", "packed"])
each_mutable = pytest.mark.parametrize("make", MUTABLES.values(), ids=MUTABLES.keys())


def ruin(value):
    """Empty a container and all within."""
    for part in list(getattr(value, "values", value.__iter__ if hasattr(value, "__iter__") else list)()):
        if hasattr(part, "clear"):
            ruin(part)
    value.clear()


@each_mutable
@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_what_a_reader_is_given_is_its_own(read, make):
    var = AlmaVar("x", make()).set(make()).set(make())
    ruin(read(var))
    assert values(var) == [make()] * 3
    assert var.get() == make()


@each_mutable
def test_what_the_owner_has_set_is_no_longer_his(make):
    first, second, third = make(), make(), make()
    var = AlmaVar("x", first).set(second).update(lambda value: third)
    with var.edit() as draft:
        pass
    for mine in first, second, third, draft:
        ruin(mine)
    assert values(var) == [make()] * 4


@each_mutable
def test_each_guest_is_given_a_value_of_its_own(make):
    seen = []

    def spoiler(*given):
        value = getattr(given[-1], "value", given[-1])
        seen.append(value == make())
        ruin(value)

    var = AlmaVar("x", make(), validators=[spoiler, spoiler], on_change=[spoiler, spoiler])
    value = make()
    var.set(value)
    assert seen == [True] * 6
    assert value == make()
    assert values(var) == [make()] * 2


def test_the_argument_of_an_update_function_is_its_own():
    var = AlmaVar("x", [1])
    with pytest.raises(Refused):
        var.update(lambda value: refuse(ruin(value)))
    assert var.get() == [1]


class Phrase(str):
    """A subclass of a builtin."""


CYCLE = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    "value",
    [
        Box(1),
        collections.OrderedDict(b=1, a=2),
        collections.deque([1, 2], maxlen=2),
        collections.defaultdict(list, a=[1]),
        Phrase("a"),
        [Phrase("a")],
        (1, [2]),
        frozenset({1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_comes_back_with_its_exact_type(value):
    var = AlmaVar("x", None).set(value).set(None).rollback(1)
    for back in var.get(), var.at(1).value, values(var)[-1]:
        assert back == value
        assert type(back) is type(value)
        assert getattr(back, "maxlen", None) == getattr(value, "maxlen", None)
        assert getattr(back, "default_factory", None) == getattr(value, "default_factory", None)


def test_a_cycle_and_a_function_inside_a_list_come_back():
    back = AlmaVar("x", CYCLE).get()
    assert back[0] is back
    assert back is not CYCLE
    assert [type(part) for part in AlmaVar("x", [refuse, lambda: 1]).get()] == [type(refuse)] * 2


@pytest.mark.parametrize("hopeless", [threading.Lock(), (number for number in "12"), [sys._getframe()]])
def test_a_value_that_cannot_be_copied_is_refused_and_nothing_is_stored(hopeless):
    heard = []
    var = AlmaVar("x", 0, on_change=[told(heard)]).set(1)
    before = state(var)
    for change in var.set, lambda value: var.update(lambda _: value):
        with pytest.raises(SnapshotError):
            change(hopeless)
    assert state(var) == before
    assert heard == [("x", 1)]


def test_a_variable_that_shares_hands_out_the_owners_object():
    lock = threading.Lock()
    var = AlmaVar("x", lock, deep_copy=False)
    assert var.get() is lock
    assert var.history()[0].value is lock
    assert var.set(CYCLE).get() is CYCLE
    with pytest.raises(TypeError):
        var.edit()


def test_a_record_that_was_handed_out_outlives_what_it_came_from():
    var = AlmaVar("x", [[0]])
    for value in range(1, 50):
        var.set([[value]] * 20)
    taken, newest = var.history(), var.last_change()
    for value in range(50):
        var.set([[-value]])
    var.prune(keep_last=0)
    assert [record.value for record in taken] == [[[0]], *([[value]] * 20 for value in range(1, 50))]
    assert newest == taken[-1]


# -- a change is whole or it did not happen

each_blow = pytest.mark.parametrize("blow", [Refused, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])


@each_blow
@each_verb
def test_a_validator_that_raises_leaves_everything_as_it_was(verb, value, label, blow):
    registry, var = lively()
    before, heard, error = state(var), [], blow()

    def validator(_):
        raise error

    var.add_listener(told(heard)).add_validator(validator)
    with pytest.raises(blow) as caught:
        verb(registry, var)
    assert caught.value is error
    assert (state(var), heard) == (before, [])
    verb(registry, var.remove_validator(validator))
    assert (var.last_change().index, heard) == (4, [("x", value)])


@each_blow
@pytest.mark.parametrize("culprit", ["clock", "update", "copy", "edit"])
def test_what_strikes_before_the_commit_leaves_everything_as_it_was(culprit, blow):
    def strike():
        raise blow

    def edit():
        with var.edit() as draft:
            draft.append(1)
            strike()

    clock, _, var = owned([0])
    before, heard = state(var), []
    var.add_listener(told(heard))
    clock.guest = strike if culprit == "clock" else None
    change = {
        "clock": lambda: var.set([1]),
        "update": lambda: var.update(lambda value: strike()),
        "copy": lambda: var.set([Deep(strike)]),
        "edit": edit,
    }[culprit]
    with pytest.raises((blow, SnapshotError)):
        change()
    assert (state(var), heard) == (before, [])
    var.set([9])
    assert (var.last_change().index, heard) == (1, [("x", [9])])


def test_what_a_listener_is_struck_by_leaves_the_change_whole_and_the_other_listeners_hear_of_it_once():
    heard, blows = [], [KeyboardInterrupt]

    def struck(var, record):
        heard.append(("struck", record.value))
        if blows:
            raise blows.pop()

    var = AlmaVar("x", 0, on_change=[told(heard), struck, told(heard)])
    with pytest.raises(KeyboardInterrupt):
        var.set(1)
    assert values(var) == [0, 1]
    assert heard == [("x", 1), ("struck", 1)]
    var.set(2)
    assert heard == [("x", 1), ("struck", 1), ("x", 1), ("x", 2), ("struck", 2), ("x", 2)]


# -- validators


def test_the_initial_value_is_validated():
    registry = AlmaRegistry()
    with pytest.raises(Refused):
        AlmaVar("x", 0, validators=[refuse])
    with pytest.raises(Refused):
        registry.watch("x", 0, validators=[refuse])
    assert "x" not in registry


def test_validators_are_asked_in_order_until_one_refuses():
    asked = []
    var = AlmaVar("x", 0)
    var.add_validator(asked.append).add_validator(lambda value: asked.append(-value)).add_validator(refuse)
    var.add_validator(asked.append)
    with pytest.raises(Refused):
        var.set(1)
    assert asked == [1, -1]


def test_the_lists_of_guests_given_are_copied():
    validators, listeners, heard = [], [], []
    var = AlmaVar("x", 0, validators=validators, on_change=listeners)
    validators.append(refuse)
    listeners.append(told(heard))
    assert var.set(1).get() == 1
    assert heard == []


# -- expect and edit: what was read is what is changed


def test_expect_lets_a_change_through_only_if_the_head_is_that_record():
    var = AlmaVar("x", 0).set(1).set(2, expect=1)
    before = state(var)
    for stale in 0, 1, 3, -1:
        with pytest.raises(StaleWriteError) as caught:
            var.set(3, expect=stale)
        assert (caught.value.name, caught.value.expected, caught.value.actual) == ("x", stale, 2)
    assert state(var) == before
    assert values(var.set(3, expect=2)) == [0, 1, 2, 3]


def test_an_edit_whose_variable_was_changed_meanwhile_is_stale():
    var = AlmaVar("x", [0])
    with pytest.raises(StaleWriteError), var.edit() as draft:
        draft.append("mine")
        elsewhere(lambda: var.set(["theirs"]))
    assert values(var) == [[0], ["theirs"]]


@pytest.mark.parametrize("plain", [1, "a", None, (1, 2), frozenset({1})], ids=repr)
def test_a_value_that_cannot_change_in_place_cannot_be_edited(plain):
    var = AlmaVar("x", plain)
    with pytest.raises(TypeError):
        var.edit()
    assert len(var) == 1


# -- freezing


@each_verb
def test_a_frozen_variable_refuses_every_verb_until_it_is_thawed(verb, value, label):
    registry, var = lively()
    heard = []
    var.freeze().freeze().add_listener(told(heard))
    before = state(var)
    with pytest.raises(FrozenError) as caught:
        verb(registry, var)
    assert (caught.value.name, caught.value.closed) == ("x", False)
    with pytest.raises(FrozenError):
        var.prune(keep_last=0)
    assert (state(var), heard, var.is_frozen) == (before, [], True)
    verb(registry, var.thaw())
    assert (var.get(), heard, var.is_frozen) == (value, [("x", value)], False)


def test_freezing_appends_nothing():
    var = AlmaVar("x", 0).freeze().thaw().freeze()
    assert [record.label for record in var] == ["initial"]


# -- listeners


def test_a_listener_is_told_the_variable_and_the_record():
    given = []
    var = AlmaVar("x", 0, on_change=[lambda *args: given.append(args)]).set(1, label="one")
    ((who, record),) = given
    assert who is var
    assert record == var.last_change()
    assert (record.index, record.value, record.label) == (1, 1, "one")


def test_a_listener_that_sets_queues_behind_the_records_before_it():
    heard = []

    def first(var, record):
        heard.append(("first", record.value))
        if record.value < 3:
            x.set(record.value * 2)
            y.set(-record.value)
            assert (x.get(), y.get()) == (record.value * 2, -record.value)  # changed at once, told later

    registry = AlmaRegistry()
    x = registry.watch("x", 0, on_change=[first, lambda var, record: heard.append(("second", record.value))])
    y = registry.watch("y", 0, on_change=[told(heard)])
    x.set(1)
    assert heard == [
        *[("first", 1), ("second", 1)],
        *[("first", 2), ("second", 2), ("y", -1)],
        *[("first", 4), ("second", 4), ("y", -2)],
    ]


def test_an_endless_loop_of_listeners_is_stopped_inside_the_inner_set(caplog):
    stopped = []

    def again(var, record):
        try:
            var.set(record.value + 1)
        except RecursionError:
            stopped.append(record.value)
            raise

    var = AlmaVar("x", 0, on_change=[again])
    var.set(1)
    assert (stopped, len(var), var.get()) == ([1_000], 1_001, 1_000)
    assert [record.exc_info[0] for record in caplog.records] == [RecursionError]
    var.remove_listener(again).set(5)
    assert var.get() == 5


def test_an_endless_loop_through_another_registry_is_stopped_as_well(caplog):
    first, second = AlmaVar("first", 0), AlmaVar("second", 0)

    def there(var, record):
        second.set(record.value)

    def back(var, record):
        first.set(record.value + 1)

    first.add_listener(there)
    second.add_listener(back)
    first.set(1)
    assert [record.exc_info[0] for record in caplog.records] == [RecursionError]
    assert first.get() == second.get() == 1_000
    heard = []
    first.remove_listener(there).add_listener(told(heard)).set(0)
    second.remove_listener(back).add_listener(told(heard)).set(0)
    assert heard == [("first", 0), ("second", 0)]


def test_a_long_chain_of_causes_that_ends_is_no_loop(caplog):
    var = AlmaVar("x", 0, on_change=[lambda var, record: record.value < 900 and var.set(record.value + 1)])
    var.set(1).set(1)
    assert len(var) == 1_801
    assert caplog.records == []


def test_a_listener_that_raises_is_logged_and_hurts_nobody(caplog):
    heard = []
    var = AlmaVar("x", 0, on_change=[refuse, told(heard)])
    assert var.set(1).set(2).get() == 2
    assert heard == [("x", 1), ("x", 2)]
    assert [(entry.name, entry.levelname) for entry in caplog.records] == [("alma", "ERROR")] * 2
    assert {entry.exc_info[0] for entry in caplog.records} == {Refused}


def test_a_listener_removed_is_told_no_more():
    heard = []
    listener = told(heard)
    var = AlmaVar("x", 0, on_change=[listener]).set(1).remove_listener(listener).set(2)
    assert heard == [("x", 1)]
    with pytest.raises(ValueError):
        var.remove_listener(listener)


def test_a_listener_removed_while_its_record_waits_is_not_told():
    heard = []
    later = told(heard)

    def first(var, record):
        if record.value == 1:
            var.set(2).remove_listener(later)

    AlmaVar("x", 0, on_change=[later, first]).set(1)
    assert heard == [("x", 1)]


def test_a_listener_added_during_delivery_hears_of_later_changes_only():
    heard = []

    def first(var, record):
        if record.value == 1:
            var.set(2).add_listener(told(heard)).set(3)

    AlmaVar("x", 0, on_change=[first]).set(1).set(4)
    assert heard == [("x", 3), ("x", 4)]


def test_listeners_run_with_the_lock_released():
    _, registry, x = owned()
    y = registry.watch("y", 0)
    x.add_listener(lambda var, record: elsewhere(lambda: y.set(record.value)))
    x.set(1)
    assert y.get() == 1
    with registry.transaction():
        x.set(2)
    assert y.get() == 2


def test_listeners_run_with_the_lock_released_also_when_the_validator_of_a_newborn_sets():
    _, registry, x = owned()
    y = registry.watch("y", 0)
    x.add_listener(lambda var, record: elsewhere(lambda: y.set(record.value)))
    registry.watch("z", 7, validators=[x.set])
    assert (x.get(), y.get()) == (7, 7)


def test_a_listener_may_do_all_that_its_owner_may():
    done = []

    def busy(var, record):
        if record.index == 4:
            var.undo().redo().rollback(0).update(lambda value: [*value, 1]).freeze().thaw()
            mended(var, [6])
            with registry.transaction():
                var.set([7])
            registry.watch("y", 0)
            registry.restore({"x": [8]})
            var.prune(keep_last=2)
            done.append(registry.snapshot())

    registry, var = lively(on_change=[busy])
    var.set([5])
    assert done == [{"x": [8], "y": 0}]
    assert values(var) == [[0], [7], [8]]


# -- changes inside a running change are queued


def test_a_validator_may_set_another_variable_which_happens_right_after():
    _, registry, x = owned()
    seen = registry.watch("seen", [])
    x.add_validator(lambda value: seen.update(lambda before: [*before, (value, x.get())]))
    x.set(1).set(2)
    assert seen.get() == [(1, 1), (2, 2)]
    assert seen.at(1).timestamp == x.at(1).timestamp
    with pytest.raises(Refused):
        x.add_validator(refuse).set(3)
    assert seen.get()[-1] == (3, 2)


def test_an_update_function_may_set_its_own_variable_which_happens_right_after():
    heard = []
    var = AlmaVar("x", 0, on_change=[told(heard)])

    def reckless(value):
        var.set(10).set(20)
        assert var.get() == 0
        return value + 1

    var.update(reckless)
    assert values(var) == [0, 1, 10, 20]
    assert heard == [("x", 1), ("x", 10), ("x", 20)]


@each_kind
def test_what_interrupts_a_running_change_may_set_which_happens_right_after(value):
    clock, registry, x = owned()
    heard = []
    y = registry.watch("y", 0, on_change=[told(heard)])
    clock.guest = lambda: y.set(x.set("late").get())  # as a signal handler might
    x.set(value)
    assert (values(x), values(y), heard) == ([0, value, "late"], [0, 0], [("y", 0)])


def test_a_queued_change_that_is_refused_is_logged_and_hurts_nobody(caplog):
    _, registry, x = owned()
    y = registry.watch("y", 0).freeze()
    x.add_validator(y.set).set(1)
    assert (x.get(), y.get()) == (1, 0)
    assert [(entry.name, entry.exc_info[0]) for entry in caplog.records] == [("alma", FrozenError)]


def test_a_guest_may_watch_a_variable_and_is_given_it_at_once():
    _, registry, x = owned()

    def count(value):
        registry.watch(f"count of {value}", 0, exist_ok=True).update(lambda times: times + 1)

    x.add_validator(count).set("a").set("b").set("a")
    assert registry.snapshot() == {"x": "a", "count of a": 2, "count of b": 1}


def test_an_update_function_may_prune_its_own_variable_which_happens_right_after():
    var = AlmaVar("x", 0).set(1).set(2)
    var.update(lambda value: var.prune(keep_last=1) + 3)
    assert values(var) == [0, 3]


def test_an_endless_loop_of_queued_changes_is_stopped(caplog):
    _, _, var = owned()
    var.add_validator(lambda value: var.set(value + 1)).set(1)
    assert 1_000 <= len(var) <= 1_001
    assert RecursionError in [entry.exc_info[0] for entry in caplog.records]


def test_a_queued_change_waits_for_the_transaction_it_is_in():
    _, registry, x = owned()
    y = registry.watch("y", 0)
    x.add_validator(y.set)
    with pytest.raises(Refused), registry.transaction():
        x.set(1)
        assert (x.get(), y.get(), elsewhere(y.get)) == (1, 1, 0)
        refuse()
    assert values(x) == values(y) == [0]


# -- rollback, reset, undo, redo: back and forth, always by one record more


@pytest.mark.parametrize("index", [-1, 4, 10**30])
def test_a_rollback_to_what_never_was_changes_nothing(index):
    _, var = lively()
    before = state(var)
    with pytest.raises(RollbackError) as caught:
        var.rollback(index)
    assert isinstance(caught.value, IndexError)
    assert (caught.value.name, caught.value.wanted, state(var)) == ("x", index, before)


def test_undo_and_redo_behave_as_in_an_editor():
    var = AlmaVar("x", 0).set(1).set(2).set(3)
    assert var.undo().get() == 2
    assert var.undo().get() == 1
    assert var.redo().get() == 2
    assert var.undo(2).get() == 0
    assert var.redo(3).get() == 3
    var.undo().set(9)
    with pytest.raises(RollbackError):
        var.redo()
    assert var.undo().get() == 2
    assert var.undo().get() == 1
    assert values(var) == [0, 1, 2, 3, 2, 1, 2, 0, 3, 2, 9, 2, 1]


def test_undo_and_redo_agree_with_two_stacks():
    chance = random.Random(2)
    for _ in range(rounds(20, 400)):
        var, past, future = AlmaVar("x", 0), [0], []
        for step in range(80):
            steps, length = chance.randint(1, 3), len(var)
            verb = chance.choice(["set", "rollback", "reset", "undo", "undo", "redo"])
            if verb == "undo" and steps < len(past):
                future += [past.pop() for _ in range(steps)]
                var.undo(steps)
            elif verb == "redo" and steps <= len(future):
                past += [future.pop() for _ in range(steps)]
                var.redo(steps)
            elif verb in ("undo", "redo"):
                with pytest.raises(RollbackError):
                    getattr(var, verb)(steps)
                length -= 1
            else:
                index = chance.randrange(length) if verb == "rollback" else 0
                past, future = [*past, step if verb == "set" else var.at(index).value], []
                _ = var.set(step) if verb == "set" else var.rollback(index) if verb == "rollback" else var.reset()
            assert (var.get(), len(var)) == (past[-1], length + 1)


@pytest.mark.parametrize("verb, steps", [("undo", 3), ("redo", 1), ("redo", 2)])
def test_where_nothing_is_left_undo_and_redo_change_nothing(verb, steps):
    var = AlmaVar("x", 0).set(1).set(2)
    before = state(var)
    with pytest.raises(RollbackError) as caught:
        getattr(var, verb)(steps)
    assert (caught.value.wanted, caught.value.reason != "", state(var)) == (steps, True, before)


def test_undo_takes_back_a_rollback_and_a_reset():
    var = AlmaVar("x", 0).set(1).set(2).rollback(1).reset()
    assert [var.undo().get() for _ in range(4)] == [1, 2, 1, 0]
    assert var.redo(4).get() == 0
    assert var.last_change().label == "redo to index 4"


def test_undo_and_redo_stop_at_what_is_kept():
    var = AlmaVar("x", 0).set(1).set(2).set(3).set(4)
    var.prune(keep_last=2)
    assert var.undo().get() == 3
    with pytest.raises(PrunedError):
        var.undo()
    assert var.redo().get() == 4
    var.undo().prune(keep_last=1)
    with pytest.raises(PrunedError):
        var.redo()
    assert values(var) == [0, 3]
    assert var.reset().get() == 0


# -- at, len, iteration, diff: looking back


def test_at_takes_an_index():
    var = AlmaVar("x", "a").set("b").set("c", label="third")
    assert [var.at(index).value for index in range(3)] == ["a", "b", "c"]
    assert var.at(2) == var.last_change() == var.history()[2]


def test_a_moment_reaches_to_the_end_of_its_microsecond():
    clock, _, var = owned("a")
    shown = clock.moment
    for value, later in ("b", 1), ("c", 998), ("d", 1), ("e", 5_000):
        clock.now += later
        var.set(value)
    assert [record.timestamp - shown for record in var] == [timedelta(microseconds=n) for n in (0, 0, 0, 1, 6)]
    assert [var.at(shown + timedelta(microseconds=n)).value for n in (0, 1, 5, 6, 10**9)] == ["c", "d", "d", "e", "e"]


def test_a_moment_may_bear_any_time_zone():
    clock, _, var = owned("a")
    moment = clock.go(60)
    var.set("b")
    for hours in -11, 0, 5.5:
        zone = timezone(timedelta(hours=hours))
        assert var.at(moment.astimezone(zone)).value == "b"
        assert var.at(moment.astimezone(zone) - timedelta(seconds=1)).value == "a"


def test_a_timedelta_says_how_long_ago():
    clock, _, var = owned("a")
    for value in "bc":
        clock.go(10)
        var.set(value)
    clock.go(5)
    ago = [(0, "c"), (5, "c"), (5.000001, "b"), (15, "b"), (15.000001, "a"), (25, "a")]
    assert [(seconds, var.at(timedelta(seconds=seconds)).value) for seconds, _ in ago] == ago
    for long in timedelta(seconds=25.000001), timedelta(days=1_000_000), timedelta.max:
        with pytest.raises(RollbackError):
            var.at(long)


def test_a_label_finds_the_newest_record_that_bears_it():
    var = AlmaVar("x", 0).set(1, label="tag").set(2, label="tag").set(3)
    assert var.at("tag").index == 2
    assert var.at("initial").index == 0
    var.prune(keep_last=1)
    for forgotten in "tag", "never":
        with pytest.raises(RollbackError):
            var.at(forgotten)
    assert var.at("initial").index == 0


@pytest.mark.parametrize(
    "when, error",
    [
        (datetime(2030, 1, 1), ValueError),
        (datetime(2000, 1, 1, tzinfo=UTC), RollbackError),
        (timedelta(seconds=-1), ValueError),
        (True, TypeError),
        (1.0, TypeError),
        (None, TypeError),
        (-1, RollbackError),
        (2, RollbackError),
    ],
    ids=repr,
)
def test_what_is_no_place_in_the_past_is_refused(when, error):
    with pytest.raises(error) as caught:
        AlmaVar("x", 0).set(1).at(when)
    assert not isinstance(caught.value, PrunedError)


def test_len_and_iteration_tell_of_the_records_kept():
    var = AlmaVar("x", 0)
    for record in var:
        var.set(record.value + 1)
    assert (len(var), [*var]) == (2, var.history())
    for value in range(2, 100):
        var.set(value)
    var.prune(keep_last=3)
    assert (len(var), [record.index for record in var]) == (4, [0, 97, 98, 99])


def test_diff_pairs_consecutive_records():
    clock, _, var = owned([0])
    clock.now += 1_234_567
    var.set([1])
    clock.now += 4_000_000_000
    var.set([1])
    assert var.diff() == [
        {"from_index": 0, "to_index": 1, "from_value": [0], "to_value": [1], "elapsed_ms": 1.235},
        {"from_index": 1, "to_index": 2, "from_value": [1], "to_value": [1], "elapsed_ms": 4000.0},
    ]
    assert AlmaVar("x", 0).diff() == []


@each_mutable
def test_the_values_of_a_diff_are_apart_from_each_other(make):
    changes = AlmaVar("x", make()).set(make()).set(make()).diff()
    for name in "from_value", "to_value":
        ruin(changes[0][name])
    assert changes[1]["from_value"] == changes[1]["to_value"] == make()


def test_diff_pairs_the_records_of_one_view_though_others_change_the_variable_meanwhile():
    class Busy(AlmaVar):
        __slots__ = ()

        def history(self):
            records = super().history()
            self.set(records[-1].value + 1)  # as another thread may, just then
            return records

    var = Busy("x", 0, keep_last=3).set(1).set(2).set(3).set(4)
    assert [(change["from_value"], change["to_value"]) for change in var.diff()] == [(2, 3), (3, 4)]


# -- time never runs backwards


def test_times_rise_though_the_clock_stands_still():
    clock, registry, x = owned(0)
    y = registry.watch("y", 0)
    for value in range(1, 2_001):
        (x if value % 2 else y).set(value)
    assert y.last_change().timestamp - x.at(0).timestamp == timedelta(microseconds=2)  # 2,001 ns: one for each record
    assert (x.at(clock.moment).value, y.at(clock.moment).value) == (997, 998)  # record times 0 to 999 ns


@each_kind
def test_no_two_records_share_a_time(value):
    clock, _, var = owned()
    var.set(value)
    var.update(lambda _: value)
    clock.now += 1_000
    for index in 0, 1, 2, 2:
        assert var.at(timedelta(microseconds=1)).index == index
        clock.now += 1


def test_times_rise_though_the_clock_runs_back():
    clock, registry, x = owned("a")
    moment = clock.go(3_600)
    x.set("b")
    clock.go(-7_200)
    x.set("c")
    y = registry.watch("y", 0)
    assert x.last_change().timestamp == y.last_change().timestamp == moment
    assert x.at(moment).value == x.at(timedelta(0)).value == "c"
    assert x.at(moment - timedelta(microseconds=1)).value == "a"
    assert registry.snapshot(timedelta(0)) == {"x": "c", "y": 0}


@each_kind
def test_a_clock_that_is_mad_for_a_moment_spoils_nothing(value):
    clock, _, var = owned()
    before, sane = state(var), clock.now
    for mad, error in (1 << 80, OverflowError), (2.0 * sane, TypeError), (None, TypeError):
        clock.now = mad
        with pytest.raises(error):
            var.set(value)
        assert state(var) == before
    clock.now = sane + 1_000
    assert var.set(value).last_change().timestamp == clock.moment


def test_a_timestamp_is_aware_utc_and_shows_the_microsecond():
    clock, _, var = owned()
    clock.now = 2_000_000_000_123_456_789
    assert var.set(1).last_change().timestamp == datetime(2033, 5, 18, 3, 33, 20, 123456, UTC)
    assert var.last_change().timestamp.tzinfo is UTC


def test_without_a_clock_of_the_owners_time_is_the_systems():
    before = datetime.now(UTC)
    var = AlmaVar("x", 0)
    assert before <= var.set(1).last_change().timestamp <= datetime.now(UTC)


# -- retention


def aged(count, **options):
    """Return a clock and a variable of *count* records, ten seconds apart, the newest of them made just now."""
    clock, _, var = owned(0, **options)
    for value in range(1, count):
        clock.go(10)
        var.set(value)
    return clock, var


@pytest.mark.parametrize(
    "limits, kept",
    [
        ({"keep_last": 3}, [0, 7, 8, 9]),
        ({"keep_last": 1}, [0, 9]),
        ({"keep_last": 0}, [0, 9]),
        ({"keep_last": 10}, range(10)),
        ({"keep_last": 99}, range(10)),
        ({"keep_for": 20}, [0, 7, 8, 9]),
        ({"keep_for": 19.5}, [0, 8, 9]),
        ({"keep_for": timedelta(seconds=20)}, [0, 7, 8, 9]),
        ({"keep_for": 0}, [0, 9]),
        ({"keep_for": 10**6}, range(10)),
        ({"keep_last": 2, "keep_for": 50}, [0, 8, 9]),
        ({"keep_last": 5, "keep_for": 10}, [0, 8, 9]),
    ],
    ids=str,
)
def test_prune_keeps_what_its_limits_allow_and_the_first_and_the_current(limits, kept):
    _, var = aged(10)
    before = var.history()
    assert var.prune(dry_run=True, **limits) == 10 - len(kept)
    assert var.history() == before
    assert var.prune(**limits) == 10 - len(kept)
    assert var.history() == [before[index] for index in kept]
    assert var.prune(**limits) == 0
    assert aged(10, **limits)[1].history() == var.history()


def test_a_variable_that_has_not_changed_has_nothing_to_prune():
    for count in 1, 2:
        assert aged(count)[1].prune(keep_last=0, keep_for=0) == 0


def test_pruned_records_leave_a_gap_that_is_never_bridged():
    clock, var = aged(10)
    var.set("x", label="gone").set("y")
    moments = [record.timestamp for record in var]
    var.prune(keep_last=1)
    for index in 1, 5, 10:
        for when in (index, moments[index]) if index < 10 else (index,):
            with pytest.raises(PrunedError) as caught:
                var.at(when)
            assert (caught.value.name, caught.value.first) == ("x", 11)
        with pytest.raises(PrunedError):
            var.rollback(index)
    assert var.at(moments[0]).index == var.at(moments[1] - timedelta(microseconds=1)).index == 0
    assert var.at(clock.moment).index == var.at(11).index == 11
    assert var.diff() == []
    assert var.set("z").last_change().index == 12
    assert var.rollback(0).get() == 0


def test_an_index_never_means_another_record():
    var = AlmaVar("x", 0, keep_last=2)
    seen = {}
    for value in range(1, 200):
        var.set(value)
        for record in var:
            assert seen.setdefault(record.index, record) == record
    assert len(seen) == 200


def test_retention_follows_a_transaction_as_a_whole():
    _, registry, var = owned(0, keep_last=2)
    with registry.transaction():
        for value in range(1, 6):
            var.set(value)
        assert values(var) == [0, 1, 2, 3, 4, 5]
    assert values(var) == [0, 4, 5]


# -- trace


def test_a_traced_change_is_labelled_with_the_line_that_made_it():
    var = AlmaVar("x", [0], trace=True)
    line = sys._getframe().f_lineno
    var.set([1])
    var.update(lambda value: value)
    with var.edit() as draft:
        draft.append(2)
    var.set([3], label="mine").undo().rollback(0)
    here = os.path.basename(__file__)
    name = "test_a_traced_change_is_labelled_with_the_line_that_made_it"
    made = [f"{here}:{line + step} in {name}" for step in (1, 2, 3)]
    assert [record.label for record in var] == ["initial", *made, "mine", "undo to index 3", "rollback to index 0"]
    assert var.at(made[1]).index == 2


def test_a_listener_is_told_where_a_traced_change_was_made():
    heard = []
    var = AlmaVar("x", 0, trace=True, on_change=[lambda var, record: heard.append(record.label)]).set(1)
    assert heard == [var.last_change().label]
    assert heard[0].endswith(" in test_a_listener_is_told_where_a_traced_change_was_made")


def test_the_owners_label_outdoes_the_trace():
    _, registry, var = owned(0, trace=True)
    registry.restore({"x": 1})
    registry.restore({"x": 2}, label="mine")
    with registry.transaction("ours"):
        var.set(3)
    assert [record.label for record in var] == ["initial", "restore", "mine", "ours"]


# -- what else a variable is


def test_a_variable_equals_what_its_value_equals():
    assert AlmaVar("x", [1]) == [1]
    assert AlmaVar("x", 1) == AlmaVar("y", 1.0)
    assert AlmaVar("x", 1) != AlmaVar("x", 2)
    assert AlmaVar("x", 1) != "1"


def test_a_variable_is_unhashable():
    with pytest.raises(TypeError):
        hash(AlmaVar("x", 1))


def test_repr_shows_name_value_length_and_whether_it_is_frozen():
    var = AlmaVar("x", 0).set(1).set(2).set(3)
    assert repr(var) == "AlmaVar(name='x', value=3, history_len=4)"
    assert repr(var.freeze()) == "AlmaVar(name='x', value=3, history_len=4 [frozen])"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps, lambda var: AlmaVar("y", [var])])
def test_copying_a_variable_is_refused_and_says_what_is_possible(duplicate):
    with pytest.raises(TypeError, match=r"save.*branch"):
        duplicate(AlmaVar("x", 0))


@pytest.mark.parametrize(
    "options, error",
    [
        ({"name": 5}, TypeError),
        ({"name": None}, TypeError),
        ({"name": ""}, ValueError),
        ({"validators": bool}, TypeError),
        ({"validators": ["bool"]}, TypeError),
        ({"on_change": print}, TypeError),
        ({"on_change": [None]}, TypeError),
        ({"keep_last": True}, TypeError),
        ({"keep_last": 1.5}, TypeError),
        ({"keep_last": -1}, ValueError),
        ({"keep_for": "1"}, TypeError),
        ({"keep_for": True}, TypeError),
        ({"keep_for": -0.5}, ValueError),
        ({"keep_for": math.nan}, ValueError),
        ({"keep_for": timedelta(-1)}, ValueError),
        ({"colour": "red"}, TypeError),
    ],
    ids=str,
)
def test_a_variable_is_not_made_of_nonsense(options, error):
    registry = AlmaRegistry()
    for make in AlmaVar, registry.watch:
        with pytest.raises(error):
            make(**{"name": "x", "initial_value": 0, **options})
    assert len(registry) == 0


@pytest.mark.parametrize(
    "nonsense, error",
    [
        ("var.set(1, label=5)", TypeError),
        ('var.set(1, "label")', TypeError),
        ('var.update(list, label=b"b")', TypeError),
        ("var.update(None)", TypeError),
        ("var.rollback(0, label=0)", TypeError),
        ("var.edit(label=[])", TypeError),
        ("var.set(1, expect=True)", TypeError),
        ('var.set(1, expect="3")', TypeError),
        ("var.rollback(True)", TypeError),
        ('var.rollback("0")', TypeError),
        ("var.undo(0)", ValueError),
        ("var.undo(-1)", ValueError),
        ("var.undo(True)", TypeError),
        ("var.redo(0)", ValueError),
        ("var.redo(1.0)", TypeError),
        ("var.prune()", ValueError),
        ("var.prune(keep_last=-1)", ValueError),
        ('var.prune(keep_last="1")', TypeError),
        ("var.prune(keep_for=[])", TypeError),
        ('var.add_listener("print")', TypeError),
        ("var.add_validator(None)", TypeError),
        ("var.remove_listener(print)", ValueError),
        ("var.remove_validator(print)", ValueError),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(nonsense, error):
    _, var = lively()
    before = state(var)
    with pytest.raises(error):
        eval(nonsense)
    assert state(var) == before
    assert var.redo().get() == [2]


# What was promised to hold at any moment is put to a trial that strikes at many. Beside each trial stands its
# control: the same trial of a variant with one fault, or of what one would write first, which has to fail.


class Careless:
    """A variable as one would write it first: under a plain lock it copies and calls its listeners, at once."""

    def __init__(self, name, value):
        self.lock, self.listeners, self.value, self.count = threading.Lock(), [], value, 0

    def add_listener(self, fn):
        self.listeners.append(fn)

    def set(self, value):
        with self.lock:
            record = self.append(value)
            for listener in self.listeners:
                listener(self, record)

    def append(self, value):
        self.value, self.count = copy.deepcopy(value), self.count + 1
        return ChangeRecord(self.count, value, None)

    def get(self):
        with self.lock:
            return copy.deepcopy(self.value)


class Unordered(Careless):
    """The next attempt: it calls its listeners when it has let go of the lock, but has no queue."""

    def set(self, value):
        with self.lock:
            record = self.append(value)
        for listener in self.listeners:
            listener(self, record)


def apart(function, *args, before="", seconds=300):
    """Return what a function of this file returns in a process of its own, where a hang ends in a traceback."""
    code = f"""
import faulthandler, importlib, json, os, sys
{before}
faulthandler.dump_traceback_later({seconds}, exit=True)
module, function, args = sys.argv[1:]
print(json.dumps(getattr(importlib.import_module(module), function)(*json.loads(args))), flush=True)
os._exit(0)  # whatever still hangs is left behind
"""
    places = [os.path.dirname(os.path.abspath(file)) for file in (alma.__file__, __file__)]
    command = [sys.executable, "-W", "ignore", "-c", code, __name__, function.__name__, json.dumps(args)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "ignored" not in run.stderr
    return json.loads(run.stdout)


def side_by_side(*tasks, seconds=120):
    """Run functions in threads that start together; tell whether all came to an end, and raise what one raised."""
    start, raised = threading.Barrier(len(tasks)), []

    def run(task):
        start.wait()
        try:
            task()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(task,), daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
    if raised:
        raise raised[0]
    return not any(thread.is_alive() for thread in threads)


@pytest.fixture
def hurried():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signal.setitimer")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def test_no_update_is_lost(hurried):
    x, each = AlmaVar("x", 0), rounds(5_000, 10_000)
    assert side_by_side(*[lambda: [x.update(lambda value: value + 1) for _ in range(each)]] * 8)
    assert [record.value for record in x] == list(range(8 * each + 1))


def test_control_setting_what_get_returned_loses_updates(hurried):
    def lost():
        x = AlmaVar("x", 0)
        assert side_by_side(*[lambda: [x.set(x.get() + 1) for _ in range(5_000)]] * 8)
        return 8 * 5_000 - x.get()

    assert any(lost() for _ in range(20))


def test_four_threads_of_3000_updates_make_12000_and_the_listener_hears_them_in_order(hurried):
    heard = []
    x = AlmaVar("x", 0, on_change=[lambda var, record: heard.append((record.index, record.value))])
    assert side_by_side(*[lambda: [x.update(lambda value: value + 1) for _ in range(3_000)]] * 4)
    assert x.get() == 12_000
    assert heard == [(n, n) for n in range(1, 12_001)]


def heard_by_ten(x):
    """Set from 8 threads; return in which order each of 10 listeners heard of the 8,000 changes."""
    heard = [[] for _ in range(10)]
    for ears in heard:
        x.add_listener(lambda var, record, ears=ears: ears.append(record.index))
    assert side_by_side(*[lambda: [x.set(0) for _ in range(1_000)]] * 8)
    return heard


IN_ORDER = [list(range(1, 8_001))] * 10


def test_each_listener_hears_each_change_once_and_in_order(hurried):
    for _ in range(rounds(3, 100)):
        assert heard_by_ten(AlmaVar("x", 0)) == IN_ORDER


def test_control_without_a_queue_listeners_hear_changes_out_of_order(hurried):
    assert any(heard_by_ten(Unordered("x", 0)) != IN_ORDER for _ in range(100))


def test_listeners_that_come_and_go_hear_each_change_of_their_time_once_and_in_order(hurried):
    x, heard, always, gone = AlmaVar("x", 0), [[] for _ in range(rounds(200, 1_000))], [], threading.Event()
    x.add_listener(lambda var, record: always.append(record.index))

    def come_and_go():
        for ears in heard:
            listener = lambda var, record, ears=ears: ears.append(record.index)  # noqa: E731
            x.add_listener(listener)
            while not ears:
                x.set(0)
            x.remove_listener(listener)
        gone.set()

    def work():
        while not gone.is_set():
            x.set(0)

    assert side_by_side(come_and_go, work, work)
    assert always == list(range(1, len(x)))
    assert all(ears == list(range(ears[0], ears[0] + len(ears))) for ears in heard)


def in_a_ring(make):
    """Have A set B, B set C and C set A until they come down to 0, and three threads begin that five times each."""
    ring, heard = [make(name, 0) for name in "abc"], {"a": [], "b": [], "c": []}
    for var, following in zip(ring, ring[1:] + ring[:1]):
        var.add_listener(lambda var, record: heard[var.name].append(record.index))
        var.add_listener(lambda _, record, following=following: record.value and following.set(record.value - 1))
    assert side_by_side(*[lambda var=var: [var.set(30) for _ in range(5)] for var in ring])
    return ring, heard


@pytest.mark.parametrize("where", ["alone", "in one registry"])
def test_variables_that_set_each_other_in_a_ring_come_to_an_end(where, hurried):
    for _ in range(rounds(10, 100)):
        ring, heard = in_a_ring(AlmaVar if where == "alone" else AlmaRegistry().watch)
        assert sum(map(len, heard.values())) == 3 * 5 * 31
        assert all(heard[var.name] == list(range(1, len(var))) for var in ring)


def across(make, seconds):
    """Have A set B and B set A from listeners that wait until both run; tell whether they came back."""
    a, b, both = make("a", 0), make("b", 0), threading.Barrier(2)
    for var, other in (a, b), (b, a):
        var.add_listener(lambda _, record, other=other: record.value and (both.wait(), other.set(0)))
    return side_by_side(lambda: a.set(1), lambda: b.set(1), seconds=seconds)


def test_two_listeners_that_set_each_others_variable_do_not_block_each_other():
    assert across(AlmaVar, 60)


def test_control_listeners_under_the_lock_block_each_other():
    assert not across(Careless, 0.5)


def asked_by_another(make, seconds):
    """Have a listener wait for another thread that reads the variable; tell whether it was answered."""
    x, answers = make("x", 0), []

    def ask(*_):
        reader = threading.Thread(target=x.get, daemon=True)
        reader.start()
        reader.join(seconds)
        answers.append(not reader.is_alive())

    x.add_listener(ask)
    return side_by_side(lambda: x.set(1)) and answers == [True]


def test_a_listener_may_wait_for_another_thread_that_reads():
    assert asked_by_another(AlmaVar, 60)


def test_control_under_the_lock_a_reader_waits_in_vain():
    assert not asked_by_another(Careless, 1)


def delivered_by_one_set(most):
    """Return how many notices one set delivers while four threads go on setting until it returns, *most* in all."""
    x, one, delivered = AlmaVar("x", 0), [], []
    begun, done = threading.Event(), threading.Event()

    def listen(var, record):
        begun.set()
        if threading.get_ident() in one:
            delivered.append(record)
            while var.last_change().index < min(record.index + 1_000, most):
                pass  # the others are faster than this listener

    def flood():
        begun.wait()
        while not done.is_set() and x.last_change().index < most:
            x.set(0)

    def set_once():
        one.append(threading.get_ident())
        x.add_listener(listen).set(1)
        done.set()

    assert side_by_side(set_once, flood, flood, flood, flood)
    return len(delivered)


def test_no_set_is_kept_with_the_notices_of_others(hurried):
    assert delivered_by_one_set(100_000) < 100


def test_control_without_back_pressure_a_set_is_kept_for_as_long_as_others_set(hurried, monkeypatch):
    monkeypatch.setattr(alma, "_LONGEST_QUEUE", 10**9)
    assert delivered_by_one_set(20_000) >= 20_000


def interrupted(verb, times):
    """Interrupt *verb* at *times* random moments, as Ctrl-C would; return how often what was wrong afterwards."""
    wrong, draw, number = collections.Counter(), random.Random(verb), 0

    def begin():
        registry, heard = AlmaRegistry(), []
        x = registry.watch("x", "0", on_change=[lambda var, record: heard.append(record.index)])
        y = registry.watch("y", "0", on_change=[lambda *_: None])  # so that there are several notices
        lock = threading.RLock() if verb == "acquire with try and finally" else x._monitor.lock
        return registry, x, y, lock, heard

    def change():
        note = str(number)
        if verb == "set":
            x.set(note, label=note)
        elif verb == "update":
            x.update(lambda value: note, label=note)
        elif verb == "transaction":
            with registry.transaction(note):
                x.set(note)
                y.set(note)
        else:  # the control
            lock.acquire()
            try:
                x.set(note, label=note)
            finally:
                lock.release()

    def strike(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, strike)
    registry, x, y, lock, heard = begin()
    for _ in range(times):
        held = False
        try:
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(20e-6, 400e-6), 0.1)  # again should one be swallowed
            while True:
                number += 1
                change()
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            held = lock._is_owned()
        wrong["held"] += held
        if lock._is_owned():  # though the traceback is gone
            wrong["stuck"] += 1
            registry, x, y, lock, heard = begin()
        wrong["half"] += verb == "transaction" and x.get() != y.get()
        heard.clear()
        done = side_by_side(lambda x=x: x.set("later", label="later"), seconds=60)
        registry.flush()
        wrong["deaf"] += not done or heard[-1:] != [x.last_change().index]
        y.set("later", label="later")
        if len(x) > 2_000:
            wrong.update(torn(x))
            registry, x, y, lock, heard = begin()
    wrong.update(torn(x))
    return {what: count for what, count in wrong.items() if count}


def torn(x):
    """Return what is wrong with the past of a variable whose labels say its values."""
    records = x.history()
    times = [record._time for record in records]
    return {
        "torn": sum(record.label not in ("initial", record.value) for record in records),
        "missing": sum(record.index != n for n, record in enumerate(records)),
        "late": sum(one >= other for one, other in zip(times, times[1:])),
    }


@needs_timer
@pytest.mark.parametrize("verb", ["set", "update"])
def test_an_interrupt_tears_nothing_and_lets_go_of_the_lock(verb):
    times = rounds(1_000, 20_000)
    wrong = apart(interrupted, verb, times)
    if sys.version_info < (3, 10):  # an interrupt may come between the end of a with block and its lock's
        assert wrong.pop("held", 0) <= times / 100
    assert wrong == {}


@needs_timer
def test_control_acquire_with_try_and_finally_leaves_the_lock_held():
    wrong = apart(interrupted, "acquire with try and finally", rounds(1_000, 5_000))
    assert 0 < wrong["held"] == wrong["stuck"]


def loops_with_an_uncovered_end(source):
    """Return the lines of while loops inside a try or with: where they go back, 3.13 lets an interrupt slip past it."""
    lines = []
    for outer in ast.walk(ast.parse(source)):
        inside = list(ast.iter_child_nodes(outer)) if isinstance(outer, (ast.Try, ast.With)) else []
        for node in inside:  # grows while it is walked
            if isinstance(node, ast.While):
                lines.append(node.lineno)
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                inside.extend(ast.iter_child_nodes(node))
    return lines


def test_no_while_loop_stands_inside_a_try_or_with():
    with open(alma.__file__, encoding="utf-8") as file:
        assert loops_with_an_uncovered_end(file.read()) == []


def test_control_a_while_loop_inside_a_with_is_found():
    assert loops_with_an_uncovered_end("with lock:\n if x:\n  while x:\n   x()") == [3]


def struck(verb, source, strikes, marked=True):
    """Have a signal handler, or objects that are collected, set the variable that *verb* changes; say what is wrong."""
    if not marked:
        alma._RUNNING = None
    heard, struck, changed = [], [], 0
    registry = AlmaRegistry()
    x = registry.watch("x", "0", on_change=[lambda var, record: heard.append(record.index)])

    def strike(*_):
        note = f"strike {len(struck)}"
        x.set(note, label=note)
        struck.append(note)

    class Last:
        def __init__(self):
            self.me = self  # so that it is collected some time later

        def __del__(self):
            strike()

    def change(note):
        if verb == "set":
            x.set(note, label=note)
        elif verb == "update":
            x.update(lambda value: note, label=note)
        else:
            with registry.transaction():
                x.set(note, label=note)

    try:
        if source == "signal":
            signal.signal(signal.SIGALRM, strike)
            signal.setitimer(signal.ITIMER_REAL, 50e-6, 50e-6)
        else:
            gc.set_threshold(5)
        while len(struck) < strikes:
            if source == "collection":
                Last()
            change(f"change {changed}")
            changed += 1
    except Exception as error:
        return {"raised": repr(error)}
    finally:
        if source == "signal":
            signal.setitimer(signal.ITIMER_REAL, 0)
    gc.collect()
    wrong = torn(x)
    wrong["lost"] = changed + len(struck) + 1 - len(x.history())
    wrong["unheard"] = heard != list(range(1, len(x)))
    if verb == "transaction":
        wrong["late"] = 0  # its records share their time
    return {what: count for what, count in wrong.items() if count}


@needs_timer
@pytest.mark.parametrize("verb", ["set", "update"])
def test_a_signal_handler_that_sets_the_same_variable_tears_and_loses_nothing(verb):
    assert apart(struck, verb, "signal", rounds(3_000, 60_000)) == {}


@pytest.mark.parametrize("verb", ["set", "update"])
def test_objects_that_set_the_same_variable_when_they_are_collected_tear_and_lose_nothing(verb):
    assert apart(struck, verb, "collection", rounds(3_000, 60_000)) == {}


@needs_timer
def test_control_without_the_mark_of_a_running_change_a_signal_handler_tears_the_log():
    assert apart(struck, "set", "signal", 3_000, False) != {}


def forked(times):
    """Fork while another thread sets; return how the children ended that could not set, up to the first."""
    x = AlmaVar("x", 0)

    def work():
        for number in itertools.count():
            x.set(number)
            if number % 1_000 == 0:
                x.prune(keep_last=0)

    threading.Thread(target=work, daemon=True).start()
    for _ in range(times):
        child = os.fork()
        if not child:
            signal.alarm(2)
            try:
                os._exit(x.set("child").get() != "child")
            finally:
                os._exit(2)
        status = os.waitpid(child, 0)[1]
        if status:
            return status
    return 0


@needs_fork
def test_a_forked_child_can_set_whatever_another_thread_was_doing():
    assert apart(forked, rounds(50, 200)) == 0


@needs_fork
def test_control_without_fresh_locks_a_forked_child_hangs():
    nothing_at_fork = "os.register_at_fork = lambda **functions: None"
    assert apart(forked, rounds(50, 200), before=nothing_at_fork) == signal.SIGALRM


def forked_inside(what):
    """Fork inside a running change and go on in both; return how the child ended."""
    children, heard = [], []

    def fork(*_):
        if not children:
            children.append(os.fork())
            if not children[0]:
                signal.alarm(10)

    registry = AlmaRegistry()
    x = registry.watch("x", 0, on_change=[lambda var, record: heard.append(record.index)])
    y = registry.watch("y", 0)
    threading.Thread(target=lambda: [y.set(number) for number in itertools.count()], daemon=True).start()
    if what == "listener":
        x.add_listener(fork).set(1)
    elif what == "validator":
        x.add_validator(fork).set(1)
    elif what == "update":
        x.update(lambda value: fork() or 1)
    else:
        with registry.transaction():
            x.set(1)
            fork()
    if children[0]:
        status = os.waitpid(children[0], 0)[1]
    x.set(2)
    whole = heard == [1, 2] and [record.value for record in x] == [0, 1, 2]
    done = side_by_side(lambda: x.set(3), seconds=5)
    if not children[0]:
        os._exit(0 if whole and done else 1)
    assert whole and done
    return status


@needs_fork
@pytest.mark.parametrize("what", ["listener", "validator", "update"])
def test_a_fork_inside_a_change_goes_on_in_both_processes(what):
    for _ in range(rounds(3, 30)):
        assert apart(forked_inside, what) == 0


ENDING = """
import threading
import {kind} as kind
import atexit
import sys
import json  # the last module in is the first out: what it holds is collected while the others are still there

class Late:
    def __init__(self, set):
        self.set = set
    def __del__(self):
        self.set("collected")

x = kind.{make}("x", 0)
x.add_listener(lambda var, record: record.value)
json.late = Late(x.set)
atexit.register(x.set, "at exit")
started = threading.Barrier(5)

def work():
    started.wait()
    while True:
        x.set([0] * 1_000)

for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
started.wait()
sys.setswitchinterval(1e-6)
for _ in range(1_000):
    x.set([1] * 1_000)
"""


def exits(kind, make, seconds):
    """End a program whose daemon threads, atexit functions and last objects set; return its exit code and stderr."""
    places = [os.path.dirname(os.path.abspath(file)) for file in (alma.__file__, __file__)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-c", ENDING.format(kind=kind, make=make)]
    try:
        run = subprocess.run(command, env=env, stderr=subprocess.PIPE, timeout=seconds)
    except subprocess.TimeoutExpired:
        return "hangs"
    return run.returncode, run.stderr


def test_a_program_ends_cleanly_while_daemon_threads_set():
    for _ in range(rounds(6, 60)):
        assert exits("alma", "AlmaVar", 30) == (0, b"")


def test_what_an_exit_function_waits_for_may_still_set():
    code = """
import atexit, threading
done = threading.Event()
def wait_for_it():
    done.set()
    thread.join()
atexit.register(wait_for_it)  # before Alma's own, so it is called after that
import alma
x = alma.AlmaVar("x", 0)
def work():
    while not done.is_set():
        x.set([0] * 100)
    for _ in range(1_000):
        x.set(1)
thread = threading.Thread(target=work, daemon=True)
thread.start()
"""
    assert python("-c", f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r}){code}") == (0, "", "")


def test_control_a_daemon_thread_takes_a_plain_lock_with_it():
    assert any(exits(__name__, "Careless", 3) == "hangs" for _ in range(10))


class NoTruth:
    """What comparing arrays returns."""

    def __bool__(self):
        raise ValueError("the truth value of an array is ambiguous")


HOOKS = {
    "__eq__": lambda self, other: self is other,
    "__repr__": lambda self: "hostile",
    "__hash__": lambda self: 1,
    "__reduce__": lambda self: (type(self), ()),
    "__deepcopy__": lambda self, memo: type(self)(),
    "__del__": lambda self: None,
}


def among_hostile_values(make, hook, deed, seconds):
    """Do what can be done with values of which one method does harm; tell whether it came to an end."""
    x, peace = make("x", "0"), threading.Event()

    def method(self, *args):
        if deed == "set" and not peace.is_set():
            x.set("set by a value")
        if deed == "raise" and not peace.is_set():
            raise LookupError(hook)
        return NoTruth() if deed == "array" and hook == "__eq__" else HOOKS[hook](self, *args)

    hostile = type("Hostile", (), {"__hash__": object.__hash__, hook: method})
    deeds = [
        lambda: x.set(hostile()),
        lambda: x.set([hostile(), 1]),
        lambda: x.set({hostile(): {hostile()}}),
        lambda: x.get(),
        lambda: x == hostile(),
        lambda: repr(x),
        lambda: x.update(lambda value: [value, hostile()]),
        lambda: x.rollback(1).undo().undo(),
        lambda: x.edit().__enter__().append(hostile()),
        lambda: [record.value for record in x],
        lambda: [repr(change) for change in x.diff()],
    ]

    def work():
        for act in deeds if make is AlmaVar else deeds[:2]:
            try:
                act()
            except (LookupError, TypeError, ValueError):  # its own, or SnapshotError, which is a TypeError
                pass
            x.set("in between")
        peace.set()
        gc.collect()

    done = side_by_side(work, seconds=seconds)
    return x if done else None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # __del__ can't but
@pytest.mark.parametrize("deed", ["raise", "set", "array"])
@pytest.mark.parametrize("hook", HOOKS)
def test_hostile_values_block_and_spoil_nothing(hook, deed):
    x, heard = among_hostile_values(AlmaVar, hook, deed, 60), []
    x.add_listener(lambda var, record: heard.append(record.value))
    assert side_by_side(lambda: x.set("after"))
    assert (x.get(), heard) == ("after", ["after"])
    assert [record.index for record in x] == list(range(len(x)))
    assert x.at(0).value == "0"


def test_control_a_value_that_sets_while_it_is_copied_blocks_a_plain_lock():
    assert among_hostile_values(Careless, "__deepcopy__", "set", 1) is None


class Hasty(Careless):
    """It counts a record before it has one."""

    def append(self, value):
        self.count += 1
        self.value = copy.deepcopy(value)


def starved(hasty):
    """Set large values with too little memory; return how often that was refused, taken, and left traces."""
    import resource

    values = [list(range(10**5)), {n: float(n) for n in range(10**5)}, [bytearray(1 << 22)], Point(list(range(10**5)))]
    x, count = (Hasty if hasty else AlmaVar)("x", "0"), collections.Counter()
    known = (lambda: x.count) if hasty else lambda: (len(x.history()), x.get())
    for value in values:
        x.set(value)
        x.set("before")
        for headroom in range(0, 16 << 20, 1 << 19):
            with open("/proc/self/statm") as file:
                pages = int(file.read().split()[0])
            before, limits = known(), resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + headroom, limits[1]))
            try:
                x.set(value)
            except MemoryError:
                result = "refused"
            else:
                result = "taken"
            finally:
                resource.setrlimit(resource.RLIMIT_AS, limits)
            count[result] += 1
            count["traces"] += result == "refused" and known() != before
            if count["traces"]:
                return count
            x.set("before")
    return count


needs_limit = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and RLIMIT_AS")


@needs_limit
def test_a_value_for_which_there_is_no_memory_is_refused_without_a_trace():
    count = apart(starved, False)
    assert count["refused"] > 4
    assert count["taken"] > 4
    assert count["traces"] == 0


@needs_limit
def test_control_a_record_counted_before_it_is_there_leaves_a_trace():
    assert apart(starved, True)["traces"] > 0


# == Registries: variables by name, transactions, consistent cuts =============


def pair(x=0, y=0, **options):
    """Return a clock, its registry, and two variables of it."""
    clock, registry, first = owned(x, **options)
    return clock, registry, first, registry.watch("y", y, **options)


# -- names


def test_a_registry_knows_its_variables_by_name():
    _, registry, x, y = pair()
    assert registry.get_var("x") is x
    assert ("y" in registry, "z" in registry, 5 in registry) == (True, False, False)
    assert (len(registry), [*registry], repr(registry)) == (2, ["x", "y"], "AlmaRegistry('x', 'y')")
    assert list(map(id, registry.all_vars().values())) == [id(x), id(y)]
    assert AlmaRegistry()


def test_all_vars_is_the_callers_own_dict():
    _, registry, _, _ = pair()
    registry.all_vars().clear()
    for name in registry:
        registry.unregister(name)
    assert len(registry) == 0


def test_a_name_that_is_taken_is_refused():
    _, registry, x, _ = pair()
    with pytest.raises(DuplicateNameError) as caught:
        registry.watch("x", 5)
    assert caught.value.name == "x"
    assert isinstance(caught.value, ValueError)
    assert registry.get_var("x") is x
    assert values(x) == [0]


def test_exist_ok_returns_what_is_there_as_it_is():
    _, registry, x, _ = pair()
    assert registry.watch("x", 5, exist_ok=True, validators=[refuse]) is x
    assert values(x) == [0]
    assert registry.watch("z", 5, exist_ok=True).get() == 5


def test_an_overwritten_variable_lives_on_without_a_name():
    _, registry, old, _ = pair()
    new = registry.watch("x", 5, overwrite=True)
    assert registry.get_var("x") is new
    assert ([*registry], registry.snapshot()) == (["x", "y"], {"x": 5, "y": 0})
    assert (values(old.set(1)), values(new.set(6))) == ([0, 1], [5, 6])


def test_an_overwrite_that_is_refused_leaves_the_old_variable():
    _, registry, old, _ = pair()
    with pytest.raises(Refused):
        registry.watch("x", 5, overwrite=True, validators=[refuse])
    assert registry.get_var("x") is old


@pytest.mark.parametrize("name", ["a@b", "@", "a@"])
def test_an_at_sign_is_refused_in_a_name(name):
    registry = AlmaRegistry()
    with pytest.raises(ValueError):
        registry.watch(name, 0)
    assert len(registry) == 0


@pytest.mark.parametrize("name", [" ", "a.b", "ä", "名", "\ud800", "\0", "a" * 50], ids=ascii)
def test_any_other_text_is_a_name(name):
    registry = AlmaRegistry()
    registry.watch(name, 0)
    assert registry.get_var(name).name == name
    assert registry.snapshot() == {name: 0}


def test_an_unknown_name_is_answered_with_the_nearest():
    registry = AlmaRegistry()
    registry.watch("score", 0)
    registry.watch("price", 0)
    for ask in registry.get_var, registry.unregister, lambda name: registry.restore({name: 1}):
        with pytest.raises(UnknownNameError, match="'score'") as caught:
            ask("scor")
        assert (caught.value.name, caught.value.known) == ("scor", ["price", "score"])
        assert isinstance(caught.value, KeyError)
    with pytest.raises(UnknownNameError):
        AlmaRegistry().get_var("x")


def test_an_unregistered_variable_lives_on_without_a_name():
    _, registry, x, _ = pair()
    registry.unregister("x")
    assert values(x.set(1)) == [0, 1]
    assert registry.snapshot() == {"y": 0}
    assert registry.watch("x", 5).get() == 5


# -- snapshot and restore


@each_mutable
def test_a_snapshot_holds_the_values_of_now_and_is_the_callers_own(make):
    clock, registry, x, _ = pair(make())
    for when in None, clock.moment:
        taken = registry.snapshot(when)
        assert taken == {"x": make(), "y": 0}
        ruin(taken["x"])
    assert x.get() == make()
    x.set(2)
    assert registry.snapshot() == {"x": 2, "y": 0}


def test_a_snapshot_of_a_moment_holds_what_was_in_force_and_nothing_younger():
    clock, registry, x, _ = pair()
    began = clock.moment
    changed = clock.go(10)
    x.set(1)
    clock.go(10)
    registry.watch("z", 5)
    microsecond = timedelta(microseconds=1)
    assert registry.snapshot(began - microsecond) == {}
    assert registry.snapshot(began) == registry.snapshot(changed - microsecond) == {"x": 0, "y": 0}
    assert registry.snapshot(changed) == registry.snapshot(at=timedelta(seconds=10)) == {"x": 1, "y": 0}
    assert registry.snapshot(clock.moment) == registry.snapshot(timedelta(0)) == {"x": 1, "y": 0, "z": 5}
    assert registry.snapshot(timedelta.max) == {}


def test_a_snapshot_of_a_moment_that_is_no_longer_kept_is_refused():
    clock, registry, x, _ = pair()
    moment = clock.go(10)
    for value in 1, 2, 3:
        x.set(value)
        clock.go(10)
    x.prune(keep_last=1)
    for look in registry.snapshot, registry.restore:
        with pytest.raises(PrunedError):
            look(moment)
    assert registry.snapshot(moment - timedelta(seconds=10)) == {"x": 0, "y": 0}
    assert registry.snapshot() == {"x": 3, "y": 0}


@pytest.mark.parametrize(
    "when, error", [(datetime(2030, 1, 1), ValueError), (timedelta(-1), ValueError), (1, TypeError), ("a", TypeError)]
)
def test_what_is_no_moment_is_refused(when, error):
    _, registry, x, _ = pair()
    for look in registry.snapshot, registry.restore:
        with pytest.raises(error):
            look(when)
    assert values(x) == [0]


def test_a_snapshot_that_is_none_is_not_taken_for_now():
    with pytest.raises(TypeError):
        AlmaRegistry().restore(None)


def test_restore_brings_a_snapshot_back_as_one_change():
    clock, registry, x, y = pair([1], [2])
    z = registry.watch("z", 3)
    heard, taken = [], registry.snapshot()
    for var in x, y, z:
        var.set([9]).add_listener(told(heard))
    y.set([2])
    clock.go(10)
    registry.restore({"x": taken["x"], "y": taken["y"]}, label="back")
    assert x.last_change() == ChangeRecord(2, [1], clock.moment, "back")
    assert (values(y), values(z)) == ([[2], [9], [2]], [3, [9]])
    assert heard == [("y", [2]), ("x", [1])]
    ruin(taken["x"])
    assert x.get() == [1]


def test_restore_brings_a_moment_back_and_leaves_what_is_younger():
    clock, registry, x, y = pair()
    moment = clock.go(10)
    x.set(1)
    clock.go(10)
    x.set(2)
    registry.watch("z", 5).set(6)
    registry.restore(moment)
    assert registry.snapshot() == {"x": 1, "y": 0, "z": 6}
    registry.restore(timedelta(seconds=10))
    assert (values(x), values(y)) == ([0, 1, 2, 1], [0])
    clock.go(10)
    registry.restore(timedelta(seconds=25))
    assert values(x) == [0, 1, 2, 1, 0]


@pytest.mark.parametrize(
    "held, given, differs",
    [
        (1, True, True),
        (0, False, True),
        (1, 1.0, True),
        (0.0, -0.0, True),
        (math.nan, float("nan"), False),
        ([math.nan, 1], [float("nan"), 1], False),
        ({8, 0}, {0, 8}, False),
        (frozenset({8, 0}), frozenset({0, 8}), False),
        ({1}, {True}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),
        ({"a": 1}, {"a": True}, True),
        ({1: "a"}, {1.0: "a"}, True),
        ({"a": [{"b": 0.0}]}, {"a": [{"b": -0.0}]}, True),
        ([1, 2], (1, 2), True),
        ([1, 2], [2, 1], True),
        ([1, 2], [1], True),
        ([1], [1, 2], True),
        ({1, 2}, {1}, True),
        ({1}, {1, 2}, True),
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, collections.OrderedDict(a=1), True),
        ({(1,)}, {(True,)}, True),
        ({(1,): "a"}, {(1.0,): "a"}, True),
        (0j, complex(0, -0.0), True),
        (decimal.Decimal("1.0"), decimal.Decimal("1.00"), True),
        (datetime(2024, 1, 1, 12), datetime(2024, 1, 1, 12, fold=1), True),
        (datetime(2024, 1, 1, 12, tzinfo=UTC), datetime(2024, 1, 1, 14, tzinfo=timezone(timedelta(hours=2))), True),
        (collections.deque([1], 2), collections.deque([1], 3), True),
        (collections.defaultdict(int, a=1), collections.defaultdict(list, a=1), True),
        ("a", b"a", True),
        (bytearray(b"a"), bytearray(b"a"), False),
        (collections.deque([1, 2]), collections.deque([1, 2]), False),
        (CYCLE, copy.deepcopy(CYCLE), False),
        (Box(1), Box(1), False),
        (Box(1), Box(2), True),
    ],
    ids=repr,
)
def test_restore_appends_only_where_the_value_differs(held, given, differs):
    _, registry, var = owned(held)
    registry.restore({"x": given})
    assert len(var) == 1 + differs
    assert type(var.get()) is type(given)
    assert repr(var.get()) == repr(given) or not differs


def test_restore_of_a_value_that_cannot_be_compared_appends_it():
    class Stubborn:
        __hash__ = None

        def __eq__(self, other):
            raise Refused

    _, registry, var = owned(Stubborn())
    registry.restore(registry.snapshot())
    assert len(var) == 2


def test_restore_compares_what_is_shared_inside_a_value_once():
    class Part:
        asked = 0
        __hash__ = None

        def __eq__(self, other):
            Part.asked += 1
            return True

    value = Part()
    for _ in range(12):
        value = [value, value]
    _, registry, var = owned(value)
    registry.restore({"x": value})
    assert (Part.asked, len(var)) == (1, 1)


@pytest.mark.parametrize("obstacle", ["unknown", "validator", "frozen", "hopeless"])
def test_restore_changes_all_or_nothing(obstacle):
    _, registry, x, y = pair()
    heard = []
    x.add_listener(told(heard))
    y.add_listener(told(heard))
    wanted = {"x": 1, "y": 1}
    if obstacle == "unknown":
        wanted["z"] = 1
    elif obstacle == "validator":
        y.add_validator(refuse)
    elif obstacle == "frozen":
        y.freeze()
    else:
        wanted["y"] = threading.Lock()
    before = state(x, y)
    with pytest.raises((UnknownNameError, Refused, FrozenError, SnapshotError)):
        registry.restore(wanted)
    assert (state(x, y), heard) == (before, [])


def test_restore_leaves_a_frozen_variable_that_has_its_value_already():
    _, registry, _, y = pair()
    y.freeze()
    registry.restore({"x": 1, "y": 0})
    assert registry.snapshot() == {"x": 1, "y": 0}


# -- transactions


@pytest.mark.parametrize("blow", [Refused, AlmaError, KeyboardInterrupt, GeneratorExit, SystemExit, StopIteration])
def test_a_transaction_that_fails_never_happened(blow):
    clock, registry, x, y = pair([0], [0])
    heard, error = [], blow()
    x.set([1], label="kept").add_listener(told(heard))
    y.freeze().add_listener(told(heard))
    before = state(x, y)
    with pytest.raises(blow) as caught, registry.transaction("lost"):
        x.undo().set([2], label="lost").undo().rollback(0).freeze()
        mended(y.thaw(), [3])
        y.update(lambda value: value * 2)
        raise error
    assert caught.value is error
    assert (state(x, y), heard) == (before, [])
    x.set([4])
    assert x.last_change() == ChangeRecord(2, [4], clock.moment, None)
    assert heard == [("x", [4])]
    with pytest.raises(RollbackError):
        x.redo()


def test_a_transaction_that_succeeds_tells_its_listeners_after_the_commit_in_order():
    _, registry, x, y = pair()
    heard = []

    def listener(var, record):
        heard.append((var.name, record.value, registry.snapshot()))

    x.add_listener(listener)
    y.add_listener(listener)
    with registry.transaction():
        x.set(1)
        y.set(2)
        x.set(3)
        assert heard == []
    after = {"x": 3, "y": 2}
    assert heard == [("x", 1, after), ("y", 2, after), ("x", 3, after)]


def test_the_records_of_a_transaction_bear_one_time_that_of_its_end():
    clock, registry, x, y = pair()
    began = clock.moment
    with registry.transaction():
        clock.go(10)
        x.set(1)
        clock.go(10)
        x.set(2)
        y.set(3)
        z = registry.watch("z", 4)
        clock.go(10)
    clock.go(-25)
    x.set(5)
    ended = began + timedelta(seconds=30)
    assert {record.timestamp for var in (x, y) for record in [*var][1:]} == {ended, z.at(0).timestamp}
    assert registry.snapshot(ended - timedelta(microseconds=1)) == {"x": 0, "y": 0}
    assert registry.snapshot(ended) == {"x": 5, "y": 3, "z": 4}
    assert [change["elapsed_ms"] for change in x.diff()] == [30_000.0, 0.0, 0.0]


def test_the_label_of_a_transaction_is_for_records_that_have_none():
    _, registry, x, y = pair()
    with registry.transaction("ours"):
        x.set(1).set(2, label="mine").undo()
        with registry.transaction("inner"):
            y.set(1)
        with registry.transaction():
            y.set(2)
        y.set(3)
    x.set(4)
    assert [record.label for record in x][1:] == ["ours", "mine", "undo to index 1", None]
    assert [record.label for record in y][1:] == ["inner", "ours", "ours"]
    with pytest.raises(TypeError), registry.transaction(5):
        raise AssertionError("a transaction began with a label that is none")


def test_an_inner_transaction_that_fails_takes_back_itself_only():
    _, registry, x, y = pair()
    heard = []
    x.add_listener(told(heard))
    y.add_listener(told(heard))
    with registry.transaction():
        x.set(1)
        registry.watch("w", 5)
        with pytest.raises(Refused), registry.transaction():
            x.set(2, label="lost")
            y.set(2).freeze()
            registry.watch("z", 0)
            registry.unregister("x")
            refuse()
        assert registry.snapshot() == {"x": 1, "y": 0, "w": 5}
        y.set(3)
        x.set(3)
    assert (values(x), values(y), y.is_frozen) == ([0, 1, 3], [0, 3], False)
    assert heard == [("x", 1), ("y", 3), ("x", 3)]
    assert [record.label for record in x] == ["initial", None, None]


def test_an_inner_transaction_that_succeeds_is_taken_back_with_the_outer():
    _, registry, x, y = pair()
    before, heard = state(x, y), []
    x.add_listener(told(heard))
    with pytest.raises(Refused), registry.transaction():
        x.set(1)
        with registry.transaction():
            x.set(2)
            y.set(2).freeze()
            with registry.transaction():
                registry.watch("z", 0)
        assert registry.snapshot() == {"x": 2, "y": 2, "z": 0}
        refuse()
    assert (state(x, y), heard, [*registry]) == (before, [], ["x", "y"])


@pytest.mark.parametrize("fails", [True, False])
def test_a_transaction_undoes_what_happened_to_names(fails):
    _, registry, x, y = pair()
    with pytest.raises(Refused) if fails else contextlib.nullcontext(), registry.transaction():
        registry.watch("z", 1).set(2)
        registry.unregister("y")
        registry.watch("x", 3, overwrite=True).set(4)
        x.set(5)
        assert registry.snapshot() == {"x": 4, "z": 2}
        if fails:
            refuse()
    if fails:
        assert [id(var) for var in registry.all_vars().values()] == [id(x), id(y)]
        assert values(x) == [0]
        assert values(registry.watch("z", 7)) == [7]
    else:
        assert registry.snapshot() == {"x": 4, "z": 2}
        assert values(registry.get_var("z")) == [1, 2]
        assert values(x) == [0, 5]


@pytest.mark.parametrize("fails", [True, False])
def test_a_transaction_undoes_freezing_and_thawing(fails):
    _, registry, x, y = pair()
    x.freeze()
    with pytest.raises(Refused) if fails else contextlib.nullcontext(), registry.transaction():
        x.thaw().set(1)
        y.freeze()
        with pytest.raises(FrozenError):
            y.set(1)
        if fails:
            refuse()
    assert (x.is_frozen, y.is_frozen) == (fails, not fails)
    with pytest.raises(FrozenError):
        (x if fails else y).set(2)
    assert (y if fails else x).set(2).get() == 2


def test_what_nothing_could_take_back_is_refused_inside_a_transaction():
    _, registry, x, y = pair()
    with registry.transaction():
        x.set(1).set(2)
        for act in lambda: x.prune(keep_last=1), lambda: y.prune(keep_last=1), registry.close, registry.flush:
            with pytest.raises(RuntimeError):
                act()
        x.set(3)
    assert values(x) == [0, 1, 2, 3]


def test_others_see_nothing_of_an_open_transaction():
    def seen():
        kept = x.get(), len(x), x.history(), [*x], x.last_change(), repr(x), x == [0], x.is_frozen, x.diff()
        return kept, x.at(0), x.at(clock.moment), x.at(timedelta(0)), x.at("initial")

    def beyond():
        with pytest.raises(RollbackError):
            x.at(1)
        with pytest.raises(RollbackError):
            x.at("mine")
        return "nothing"

    clock, registry, x = owned([0])
    before = seen()
    with registry.transaction():
        x.set([1], label="mine").set([2], label="initial").freeze()
        assert (elsewhere(seen), elsewhere(beyond)) == (before, "nothing")
        with registry.transaction():
            x.thaw().set([3])
            assert elsewhere(seen) == before
        assert (x.get(), len(x), x.at("mine").index, x == [3]) == ([3], 4, 1, True)
        assert x.at(timedelta(0)).index == x.at(3).index == x.last_change().index == 3
        assert [change["to_value"] for change in x.diff()] == [[1], [2], [3]]
        assert repr(x) == "AlmaVar(name='x', value=[3], history_len=4)"
    assert elsewhere(seen) == seen()
    assert elsewhere(x.get) == [3]


def test_a_moment_before_an_open_transaction_knows_nothing_of_it():
    clock, registry, x, y = pair()
    moment = clock.moment
    clock.go(10)
    with registry.transaction():
        x.set(1)
        assert registry.snapshot(moment) == {"x": 0, "y": 0}
        assert x.at(moment).index == 0
        registry.restore(moment)
        assert values(x) == [0, 1, 0]
    assert values(y) == [0]


def test_a_transaction_keeps_other_threads_waiting():
    _, registry, x, _ = pair()
    begun, order = threading.Event(), []

    def other():
        begun.set()
        x.update(lambda value: order.append("other") or value + 1)

    thread = threading.Thread(target=other)
    with registry.transaction():
        x.set(10)
        thread.start()
        begun.wait()
        for _ in range(rounds(100, 1_000)):
            x.update(lambda value: value + 1)
            elsewhere(x.get)  # which lets the other thread run, if it can
        order.append("mine")
    thread.join()
    assert order == ["mine", "other"]
    assert x.get() == 11 + rounds(100, 1_000)


def test_a_listener_added_inside_a_transaction_hears_what_follows_it():
    _, registry, x, _ = pair()
    heard = []
    with registry.transaction():
        x.set(1)
        x.add_listener(told(heard))
        x.set(2)
    assert heard == [("x", 2)]
    registry.watch("z", 0, on_change=[told(heard)]).set(3)
    with registry.transaction():
        registry.watch("w", 0, on_change=[told(heard)]).set(4)
    assert heard == [("x", 2), ("z", 3), ("w", 4)]


def test_what_strikes_a_listener_of_a_transaction_leaves_the_transaction_whole():
    _, registry, x, y = pair()
    heard, blows = [], [KeyboardInterrupt]

    def struck(var, record):
        if blows:
            raise blows.pop()
        heard.append((var.name, record.value))

    x.add_listener(struck)
    y.add_listener(struck)
    with pytest.raises(KeyboardInterrupt), registry.transaction():
        x.set(1)
        y.set(2)
    assert registry.snapshot() == {"x": 1, "y": 2}
    registry.flush()
    assert heard == [("y", 2)]


def test_a_transaction_that_is_abandoned_is_taken_back_and_lets_go_of_the_lock():
    _, registry, x, _ = pair()
    for depth in 1, 2:
        blocks = [registry.transaction() for _ in range(depth)]
        for block in blocks:
            block.__enter__()
        x.set(1)
        while blocks:
            del block
            block = blocks.pop()
        del block
        gc.collect()
        assert x.get() == 0
        assert elsewhere(lambda: x.set(2).reset().get()) == 0


def test_a_transaction_cannot_begin_inside_a_running_change():
    _, registry, x, y = pair()

    def eager(value):
        with registry.transaction():
            y.set(1)

    with pytest.raises(RuntimeError):
        x.add_validator(eager).set(1)
    assert values(x) == values(y) == [0]
    with registry.transaction():
        y.set(2)
    assert y.get() == 2


def test_an_empty_transaction_changes_nothing():
    _, registry, x, y = pair()
    before = state(x, y)
    with registry.transaction("nothing"), registry.transaction():
        pass
    assert state(x, y) == before


def test_a_transaction_belongs_to_its_registry_alone():
    _, one, x = owned()
    y = owned()[2]
    with pytest.raises(Refused), one.transaction():
        x.set(1)
        y.set(1)
        assert elsewhere(y.get) == 1
        refuse()
    assert (values(x), values(y)) == ([0], [0, 1])


def test_an_unregistered_variable_still_takes_part_in_transactions():
    _, registry, x, _ = pair()
    registry.unregister("x")
    with pytest.raises(Refused), registry.transaction():
        x.set(1)
        refuse()
    assert values(x) == [0]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copying_a_registry_is_refused_and_says_what_is_possible(duplicate):
    with pytest.raises(TypeError, match=r"snapshot.*save"):
        duplicate(AlmaRegistry())


# -- freezing, flushing, closing


def test_a_registry_freezes_and_thaws_all_its_variables():
    _, registry, x, y = pair()
    registry.freeze()
    assert (x.is_frozen, y.is_frozen) == (True, True)
    for var in x, y:
        with pytest.raises(FrozenError):
            var.set(1)
    registry.watch("z", 0).set(1)
    registry.thaw()
    assert (x.set(1).get(), y.set(1).get()) == (1, 1)


def test_flush_waits_for_the_listeners_that_another_thread_runs():
    _, registry, x, y = pair()
    entered, go_on, heard, seen = threading.Event(), threading.Event(), [], []

    def slow(var, record):
        entered.set()
        go_on.wait()
        heard.append((var.name, record.value))

    x.add_listener(slow)
    y.add_listener(told(heard))
    deliverer = threading.Thread(target=lambda: x.set(1))
    deliverer.start()
    entered.wait()
    elsewhere(lambda: y.set(2))  # returns though nobody has been told: the other thread will
    flusher = threading.Thread(target=lambda: seen.append((registry.flush(), [*heard])[1]))
    flusher.start()
    while flusher.is_alive() and sys._current_frames()[flusher.ident].f_code is not threading.Condition.wait.__code__:
        assert not heard  # until it has come to rest
    go_on.set()
    flusher.join()
    deliverer.join()
    assert seen == [[("x", 1), ("y", 2)]]


@pytest.mark.parametrize("act", [AlmaRegistry.flush, AlmaRegistry.close])
def test_inside_a_guest_there_is_no_waiting_for_guests(act):
    refused = []

    def impatient(*_):
        with pytest.raises(RuntimeError):
            act(registry)
        refused.append(True)

    _, registry, x = owned()
    x.add_listener(impatient).add_validator(impatient).set(1)
    x.update(lambda value: impatient() or 2)
    assert refused == [True] * 5
    registry.flush()


def test_close_waits_for_listeners_and_may_be_repeated():
    heard, blows = [], [KeyboardInterrupt]

    def struck(var, record):
        if blows:
            raise blows.pop()

    _, registry, x = owned(on_change=[struck, told(heard)])
    with pytest.raises(KeyboardInterrupt):
        x.set(1)
    registry.close()
    assert heard == [("x", 1)]
    registry.close()
    registry.flush()


@each_verb
def test_a_closed_registry_takes_no_change(verb, value, label):
    registry, var = lively()
    before = state(var)
    with registry as same:
        assert same is registry
    with pytest.raises(FrozenError) as caught:
        verb(registry, var)
    assert caught.value.closed
    assert state(var) == before


@pytest.mark.parametrize(
    "act",
    [
        'registry.watch("z", 0)',
        'registry.watch("x", 0, overwrite=True)',
        'registry.unregister("x")',
        'registry.restore({"x": 1})',
        "registry.transaction().__enter__()",
        "registry.freeze()",
        "registry.thaw()",
        "x.freeze()",
        "x.thaw()",
        "x.prune(keep_last=1)",
    ],
)
def test_a_closed_registry_stays_as_it_is(act):
    _, registry, x, y = pair()
    x.set(1).set(2)
    registry.close()
    with pytest.raises(FrozenError):
        eval(act)
    assert state(x, y) == [(x.history(), False), (y.history(), False)]
    assert registry.snapshot() == {"x": 2, "y": 0}


def test_a_closed_registry_can_be_read():
    clock, registry, x, y = pair()
    x.set(1)
    registry.close()
    assert (x.get(), values(x), x.at(0).value, len(x), y == 0) == (1, [0, 1], 0, 2, True)
    assert registry.snapshot() == registry.snapshot(clock.moment) == {"x": 1, "y": 0}
    assert ([*registry], registry.get_var("x") is x, len(registry), "y" in registry) == (["x", "y"], True, 2, True)


def test_leaving_a_registry_by_an_exception_closes_it_as_well():
    _, registry, x, _ = pair()
    with pytest.raises(Refused), registry:
        refuse()
    with pytest.raises(FrozenError):
        x.set(1)


# -- nothing leaks


def spent(life):
    """Live a variable's life in a registry; return the registry and a weak reference to the variable."""
    registry = AlmaRegistry()
    var = registry.watch("x", {"a": [0]})
    life(registry, var)
    return registry, weakref.ref(var)


def closed_over(registry, var):
    var.add_listener(lambda who, record: var.get()).add_validator(lambda value: var.name)
    var.set(1).set(2)
    registry.unregister("x")


def overwritten(registry, var):
    registry.watch("x", 5, overwrite=True)


def in_transactions(registry, var):
    with registry.transaction():
        var.set(1).add_listener(told([]))
        registry.unregister("x")
        var.set(2)
    with pytest.raises(Refused), registry.transaction():
        var.set(3)
        refuse()


def unborn(registry, var):
    registry.unregister("x")
    with pytest.raises(Refused), registry.transaction():
        registry.watch("x", 0).set(1)
        refuse()


@pytest.mark.parametrize("life", [closed_over, overwritten, in_transactions, unborn])
def test_a_variable_that_nobody_names_or_holds_is_forgotten(life):
    registry, var = spent(life)
    gc.collect()
    assert var() is None
    assert registry.watch("y", 0).set(1).get() == 1


def test_a_variable_that_only_its_registry_holds_is_kept_until_it_is_unregistered():
    registry, var = spent(lambda registry, var: var.set(1))
    gc.collect()
    assert var() is registry.get_var("x")
    registry.unregister("x")
    gc.collect()
    assert var() is None


def test_a_registry_that_nobody_holds_is_forgotten():
    registry, var = spent(lambda registry, var: var.add_listener(lambda who, record: registry.snapshot()).set(1))
    clock, other, _ = owned()
    gone = weakref.ref(registry), var, weakref.ref(clock), weakref.ref(other)
    del registry, clock, other, _
    gc.collect()
    assert [thing() for thing in gone] == [None] * 4


def test_a_value_that_was_delivered_and_pruned_is_let_go_of():
    value = Box(1)
    held = weakref.ref(value)
    var = AlmaVar("x", None, deep_copy=False, on_change=[lambda who, record: None], keep_last=1)
    var.set(value).set(None)
    del value
    gc.collect()
    assert held() is None


def cuts(taken, count):
    """Have 8 threads transfer between 10 variables while a ninth takes cuts; return the sums it saw."""
    registry, done = AlmaRegistry(), threading.Event()
    accounts = [registry.watch(str(number), 100) for number in range(10)]
    sums = collections.Counter()

    def transfer(seed):
        draw = random.Random(seed)
        for _ in range(count):
            source, target = draw.sample(accounts, 2)
            with registry.transaction():
                source.set(source.get() - 1)
                target.set(target.get() + 1)

    def look():
        while not done.is_set():
            sums[sum(taken(registry).values())] += 1

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    assert side_by_side(*[lambda seed=seed: transfer(seed) for seed in range(8)])
    done.set()
    watcher.join(60)
    sums[sum(registry.snapshot().values())] += 1
    assert sum(map(len, accounts)) == 10 + 2 * 8 * count
    return sums


def test_a_cut_never_shows_half_a_transfer(hurried):
    sums = cuts(AlmaRegistry.snapshot, rounds(200, 2_000))
    assert set(sums) == {1_000}
    assert sums[1_000] > 10


def test_control_a_cut_read_one_by_one_shows_half_a_transfer(hurried):
    one_by_one = lambda registry: {name: var.get() for name, var in registry.all_vars().items()}  # noqa: E731
    assert any(set(cuts(one_by_one, 200)) > {1_000} for _ in range(50))


@needs_timer
def test_an_interrupt_leaves_a_transaction_whole_or_undone_and_lets_go_of_the_lock():
    times = rounds(1_000, 20_000)
    wrong = apart(interrupted, "transaction", times)
    assert wrong.pop("held", 0) <= times * 3 / 100  # at the edges of the block, until the traceback is gone
    assert wrong == {}


@needs_timer
def test_a_signal_handler_that_sets_inside_a_transaction_tears_and_loses_nothing():
    assert apart(struck, "transaction", "signal", rounds(3_000, 60_000)) == {}


def test_objects_that_set_inside_a_transaction_when_they_are_collected_tear_and_lose_nothing():
    assert apart(struck, "transaction", "collection", rounds(3_000, 60_000)) == {}


@needs_fork
def test_a_fork_inside_a_transaction_goes_on_in_both_processes():
    for _ in range(rounds(3, 30)):
        assert apart(forked_inside, "transaction") == 0


def test_flush_does_not_mind_variables_made_meanwhile(hurried):
    registry, made, done = AlmaRegistry(), [], threading.Event()

    def make():
        while not done.is_set():
            made.append(AlmaVar("y", 0))
            if len(made) > 2_000:
                made.clear()

    def flush():
        try:
            for _ in range(rounds(1_000, 10_000)):
                registry.flush()
        finally:
            done.set()

    assert side_by_side(make, flush)


# == Defaults: the default registry and the module-level functions ============


def test_the_functions_of_the_module_belong_to_the_default_registry():
    functions = {name: getattr(alma, name) for name in alma.__all__ if inspect.isroutine(getattr(alma, name))}
    owners = {name: getattr(function, "__self__", None) for name, function in functions.items()}
    assert {name for name, owner in owners.items() if owner is None} == {"get_registry", "main"}
    assert {owner for owner in owners.values() if owner is not None} == {alma.get_registry()}
    assert all(getattr(alma, name) == getattr(alma.get_registry(), name) for name, owner in owners.items() if owner)


def test_there_is_one_default_registry():
    assert alma.get_registry() is alma.get_registry()
    assert type(alma.get_registry()) is AlmaRegistry


def test_the_default_registry_is_worked_with_by_functions_alone(empty_default_registry):
    x = alma.watch("x", 1, validators=[int])
    assert alma.get_var("x") is x and alma.all_vars() == {"x": x} and "x" in empty_default_registry
    with alma.transaction("both"):
        x.set(2)
        y = alma.watch("y", [0])
    assert (alma.snapshot(), x.last_change().label) == ({"x": 2, "y": [0]}, "both")
    alma.restore({"x": 1})
    alma.flush()
    assert (x.get(), y.get(), AlmaRegistry().snapshot()) == (1, [0], {})
    alma.unregister("x")
    with pytest.raises(UnknownNameError):
        alma.get_var("x")


# == Command line: main(argv=None) -> int =====================================


def command(*arguments, **environment):
    """Run the command as a shell would, and return its exit code, stdout and stderr."""
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100", "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run([sys.executable, str(SOURCE), *arguments], env=environment, timeout=60, capture_output=True)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_the_command_says_its_version():
    assert command("--version") == (0, f"alma {alma.__version__}{os.linesep}", "")


def test_help_names_every_command():
    code, out, err = command("--help")
    assert (code, err) == (0, "")
    assert "usage: alma" in out and "demo" in out and "--version" in out


@pytest.mark.parametrize("arguments", [[], ["dance"], ["demo", "twice"], ["--what"]], ids=" ".join)
def test_wrong_usage_is_explained_on_stderr_and_ends_with_2(arguments):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert "usage: alma" in err and "Traceback" not in err


def test_main_returns_its_exit_code_and_takes_its_arguments(capsys):
    assert alma.main(["--version"]) == 0
    assert alma.main([]) == alma.main(["dance"]) == 2
    assert capsys.readouterr().out == f"alma {alma.__version__}\n"


def test_the_demo_shows_a_past_a_refusal_and_the_way_back(empty_default_registry, capsys):
    assert alma.main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and alma.all_vars() == {}
    for shown in ("initial", "ValueError", "-1 is negative", "back to the start", "rolled back", "After undo"):
        assert shown in out
    assert re.search(r"alma\.py:\d+ in _demo", out)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_the_demo_fits_any_terminal(encoding):
    code, out, err = command("demo", PYTHONIOENCODING=encoding, COLUMNS="60")
    assert (code, err) == (0, "")
    tables = [line for line in out.splitlines() if re.match(r" +\d+  \d\d:", line)]
    assert len(tables) > 8 and max(map(len, tables)) <= 60


def test_a_reader_that_leaves_early_ends_the_demo_quietly():
    demo = subprocess.Popen([sys.executable, str(SOURCE), "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    demo.stdout.close()
    assert (demo.stderr.read(), demo.wait(60)) == (b"", 0)
    demo.stderr.close()


def test_ctrl_c_ends_the_demo_with_130(monkeypatch, capsys):
    def interrupted():
        yield "so far"
        raise KeyboardInterrupt

    monkeypatch.setattr(alma, "_demo", interrupted)
    assert alma.main(["demo"]) == 130
    assert capsys.readouterr() == ("so far\n", "")
