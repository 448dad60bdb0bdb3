# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What a user of the installed package may write; read by type checkers only, never run.

A comment behind reveal_type is what mypy and pyright must both answer (.ci/reveals.py compares).
A line with "type: ignore" is a mistake that both must find: were it none, the comment would be
reported as unneeded.
"""

from typing import Any, Dict, List, Optional

import alma
from alma import AlmaRegistry, AlmaVar, ChangeRecord


def print_change(var: AlmaVar[int], record: ChangeRecord[int]) -> None:
    print(var.name, record.index, record.value)


def must_be_positive(value: int) -> None:
    if value < 0:
        raise ValueError(value)


def must_be_short(value: str) -> bool:
    return len(value) < 10


def plus_one(value: int) -> int:
    return value + 1


def plus(value: int, by: int) -> int:
    return value + by


n = alma.watch("n", 0)
reveal_type(n)  # AlmaVar[int]
reveal_type(n.name)  # str
reveal_type(n.get())  # int
reveal_type(n.set(1))  # AlmaVar[int]
reveal_type(n.set(1, label="one", expect=1))  # AlmaVar[int]
reveal_type(n.update(lambda value: value + 1))  # AlmaVar[int]
reveal_type(n.update(plus, 2, label="plus two"))  # AlmaVar[int]
reveal_type(n.history())  # list[ChangeRecord[int]]
reveal_type(n.history()[0].value)  # int
reveal_type(n.last_change())  # ChangeRecord[int]
reveal_type(n.last_change().timestamp)  # datetime
reveal_type(n.last_change().label)  # str | None
reveal_type(n.at(0).value)  # int
reveal_type([record.value for record in n])  # list[int]
reveal_type(n.rollback(0).undo().redo())  # AlmaVar[int]
reveal_type(next(n.replay(abs, speed=2)).error)  # Exception | None
reveal_type(n.bisect(lambda value: value > 0))  # ChangeRecord[int] | None
reveal_type(next(alma.replay(n.history(), must_be_positive)).record.index)  # int
reveal_type([found.old.error for found in [alma.compare_runs(n, abs, plus_one)] if found])  # list[Exception | None]
reveal_type(alma.export_test(n, "test_n.py", "builtins:abs"))  # int
reveal_type(n.add_listener(print_change).add_validator(must_be_positive))  # AlmaVar[int]

watched = alma.watch("watched", 0, on_change=[print_change], validators=[must_be_positive])
reveal_type(watched)  # AlmaVar[int]
alone: AlmaVar[Dict[str, List[int]]] = AlmaVar("alone", {})
reveal_type(alone.get())  # dict[str, list[int]]
with alone.edit(label="filled") as draft:
    draft["a"] = [1, 2]

exp = n.branch("exp", at=0)
reveal_type(exp)  # AlmaVar[int]
reveal_type(n.branches())  # dict[str, AlmaVar[int]]
reveal_type(n.merge(exp, resolve=alma.ours))  # AlmaVar[int]
changes: List[alma.Change] = n.compare(0, "one")
reveal_type(changes[0].op)  # str
reveal_type(alma.apply_changes([1], alma.invert(alma.compare_values([1], [2]))))  # list[int]

registry = AlmaRegistry()
x = registry.watch("x", "a")
reveal_type(x)  # AlmaVar[str]
reveal_type(registry.snapshot())  # dict[str, Any]
reveal_type(registry.get_var("x"))  # AlmaVar[Any]
reveal_type("x" in registry)  # bool
reveal_type(alma.get_registry())  # AlmaRegistry
settings = registry.namespace("settings", {"debug": True})
reveal_type(settings)  # AlmaNamespace
reveal_type(settings.var("debug"))  # AlmaVar[Any]
reveal_type(settings.history()[0][1])  # ChangeRecord[Any]
with registry.transaction(label="both"):
    x.set("b")

with alma.sync([x, n], "memory://here", topic="game", secret="s") as link:
    reveal_type(link.on_event(lambda event: print(event.kind, event.name)))  # SyncLink
    reveal_type(link.status)  # SyncStatus
    reveal_type(link.status.age)  # float | None
    reveal_type(link.dead_letters)  # list[tuple[str, str]]
    reveal_type(link.topic)  # str
    link.flush(timeout=1)
alma.sync(n, "memory://here", topics="game")  # type: ignore[call-arg]
alma.sync("x", "memory://here")  # type: ignore[arg-type]


async def later(value: int, by: int) -> int:
    return value + by


async def listen(var: AlmaVar[int], record: ChangeRecord[int]) -> None:
    print(var.name, record.index, record.value)


async def awaiting() -> None:
    reveal_type(await n.set_async(1, label="one", expect=1))  # AlmaVar[int]
    reveal_type(await n.update_async(later, 2))  # AlmaVar[int]
    reveal_type(await n.update_async(plus_one))  # AlmaVar[int]
    reveal_type(await n.rollback_async(0))  # AlmaVar[int]
    reveal_type((await n.wait_for(lambda value: value > 0, timeout=1)).value)  # int
    reveal_type(n.wait(1, timeout=1))  # ChangeRecord[int]
    reveal_type([record async for record in n.changes(0, latest_only=True)])  # list[ChangeRecord[int]]
    reveal_type([var async for var, _ in registry.changes()])  # list[AlmaVar[Any]]
    reveal_type(await registry.transact_async(n.get))  # int
    n.add_listener(listen)
    await n.set_async("one")  # type: ignore[arg-type]


class Config:
    host: str


port = alma.watch("port", "80", schema=int, validators=[must_be_positive], on_change=[print_change])
reveal_type(port)  # AlmaVar[int]
reveal_type(port.timeline())  # Timeline
reveal_type(port.set(81).at(0).value)  # int
reveal_type(registry.watch("config", {"host": "a"}, schema=Config).get().host)  # str
reveal_type(registry.watch("ports", ["80"], schema=alma.Schema(List[int], strict=True)).get())  # list[int]
reveal_type(AlmaVar("timeout", "1", schema=float))  # AlmaVar[float]
reveal_type(AlmaVar[int]("typed", 3))  # AlmaVar[int]
reveal_type(AlmaVar[Config]("typed config", {"host": "a"}, keep_last=9))  # AlmaVar[Config]
reveal_type(alma.watch("none", None, schema=None))  # AlmaVar[None]
ports = registry.namespace("by name", {"port": "80"}, schema={"port": int, "hosts": Optional[List[str]]})
reveal_type(AlmaVar.load("port.json", schema=alma.Schema(int, upgrade=len)))  # AlmaVar[Any]


class Settings(AlmaVar[Config]):
    pass


reveal_type(Settings("settings", Config()).get())  # Config


def value_of(var: AlmaVar[Any]) -> object:
    return var.get()


value_of(n)
AlmaVar[int]("typed", "3")  # type: ignore[call-overload]
port.set("80")  # type: ignore[arg-type]
n.set("one")  # type: ignore[arg-type]
n.update(str)  # type: ignore[arg-type]
n.add_validator(must_be_short)  # type: ignore[arg-type]
n.replay(must_be_short)  # type: ignore[arg-type]
n.bisect(must_be_short)  # type: ignore[arg-type]
n.last_change().value = 2  # type: ignore[misc]
