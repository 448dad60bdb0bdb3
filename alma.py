"""Alma gives variables a past: every change is kept, can be explained, and can be taken back.

>>> import alma
>>> score = alma.watch("score", 0)
>>> score.set(10).set(20, label="bonus").get()
20
>>> [record.value for record in score.history()]
[0, 10, 20]
>>> score.undo().get(), score.at("bonus").index
(10, 2)

Glossary: a *record* is one change, never altered; its *index* counts from 0 and is never reused; the *head* is the
newest record; a *label* is the owner's note on a record. Values are *packed* to what is stored and *unpacked* again;
an *atom* is stored as it is. A record is *kept* until retention *prunes* it, which leaves a *gap* behind the initial
one. *Freeze* and *thaw* forbid and allow changes. A *registry* holds variables by name under one lock. *Listeners*,
*validators* and *middleware* are functions of the owner, *guests* together; a *notice* tells listeners of a record.
A *follower* reads records from the log as they come, on its own loop or thread; changes only wake it.
A *branch* is a variable that shares a past with another, up to a *fork*; a *namespace* is a dict whose keys are
variables. A *bus* carries changes between processes, by *topic*: each process has a *replica*, and its changes are
known by an *origin* and a sequence. A *schema* is the type that each value has to fit. A *path* is the keys and
indices that lead to a part of a value; *alike* is of one type and equal.

The rooms of this file, top to bottom; a name refers only upward:

    Words           sentinels, constants, the owners' function types
    Errors          every exception, with its facts as attributes
    Records         ChangeRecord
    Snapshots       pack a value, unpack it again; byte deltas
    History         the log: append, find, rebuild, prune
    Diff            what changed between two values, by path
    Retention       which records to forget
    Middleware      what is stored instead of a value
    Variables       AlmaVar: the lock, the clock, the guests, the verbs
    Registries      AlmaRegistry: variables by name, transactions, consistent cuts
    Namespaces      AlmaNamespace: a dict whose keys are variables
    Codec           values to tagged JSON and back; guarded pickle
    Files           save / load
    Journal         the live SQLite journal
    Async           set_async, changes(), wait_for()
    Types           AlmaVar[T], schemas
    Replay          replay, compare, bisect, export_test
    Sync            Redis / Valkey, WebSocket
    Timeline        HTML page, notebook widget
    Defaults        the default registry and the module-level functions
    Command line    main(argv=None) -> int
"""

from __future__ import annotations

import copy
import enum
import io
import os
import pickle
import sys
import threading
import weakref
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import ExitStack, closing, contextmanager
from dataclasses import MISSING, dataclass, is_dataclass
from dataclasses import fields as fields_of
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from functools import cached_property, lru_cache, partial, wraps
from itertools import accumulate, combinations, groupby, islice, product, repeat, takewhile, zip_longest
from time import monotonic, sleep, time_ns
from types import CodeType, CoroutineType
from typing import (
    TYPE_CHECKING,
    AbstractSet,
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    ClassVar,
    ContextManager,
    Coroutine,
    Deque,
    Dict,
    Generator,
    Generic,
    ItemsView,
    Iterable,
    Iterator,
    List,
    Mapping,
    MutableMapping,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Set,
    Tuple,
    Type,
    TypeVar,
    Union,
    ValuesView,
    overload,
)

__version__ = "0.6.0"

__all__ = [
    "DELETED",
    "AlmaError",
    "AlmaNamespace",
    "AlmaRegistry",
    "AlmaVar",
    "Change",
    "ChangeRecord",
    "CodecError",
    "Compress",
    "DamagedTextError",
    "Divergence",
    "DuplicateNameError",
    "Encrypt",
    "FileFormatError",
    "FrozenError",
    "Hub",
    "JournalError",
    "Listener",
    "MergeConflict",
    "Middleware",
    "MiddlewareError",
    "MissingDependencyError",
    "PrunedError",
    "Resolver",
    "RollbackError",
    "Schema",
    "SchemaError",
    "SnapshotError",
    "StaleWriteError",
    "Step",
    "SyncError",
    "SyncEvent",
    "SyncLink",
    "SyncStatus",
    "Timeline",
    "UnknownNameError",
    "Unresolved",
    "UntrustedDataError",
    "Validator",
    "Verdict",
    "all_vars",
    "apply_changes",
    "changes",
    "compare_runs",
    "compare_values",
    "export_test",
    "flush",
    "from_json",
    "get_registry",
    "get_var",
    "invert",
    "journal",
    "load",
    "main",
    "namespace",
    "ours",
    "redo",
    "replay",
    "restore",
    "save",
    "snapshot",
    "sync",
    "theirs",
    "to_json",
    "transact_async",
    "transaction",
    "undo",
    "unregister",
    "verify",
    "watch",
]


# == Words: sentinels, constants, the owners' function types ==================
#
# Knows nothing of the rest. What is written here means the same in every room, and none of it changes while the
# program runs.

_T = TypeVar("_T")

Validator = Callable[[_T], object]  # raises to reject a value; Listener stands beside the variables it is told of
_When = Union[datetime, timedelta]
_Where = Union[int, datetime, timedelta, str]  # names a record: index, moment, so long ago, label
_Label = Union[str, Tuple[CodeType, int], None]  # a note, or where a traced change was made
_Types = Union[Iterable[type], Mapping[str, type]]  # the classes that values in a file may be of
if TYPE_CHECKING:
    _Path = Union[str, os.PathLike[str]]
else:
    _Path = Union[str, os.PathLike]  # 3.8 can't subscript it

_get_ident = threading.get_ident
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)

_GONE: Any = type("_Gone", (), {"__repr__": lambda self: "<pruned>"})()  # stands in a slot that retention has emptied
_RUNNING: Any = type("_Running", (), {"__repr__": lambda self: "<running>"})()  # a change is under way
_CLOSED: Any = type("_Closed", (), {"__repr__": lambda self: "<closed>"})()  # no change is possible any more


class _Deleted:
    """Where nothing stands: the value of a deleted key of a namespace, the absent side of a conflict."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<deleted>"

    def __reduce__(self) -> str:
        return "DELETED"  # pickled by name and never copied, so that there is one


DELETED: Any = _Deleted()

_DEEPEST_CAUSE = 1_000  # listeners that set, one because of the other, before Alma calls it a loop
_LONGEST_QUEUE = 1_000  # undelivered notices before a set waits for its own


def _whole(what: str, number: Any, least: Optional[int] = None) -> int:
    """Return *number* if it is an int, and not less than *least*; TypeError or ValueError otherwise."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{what} is an int, not {number!r}")
    if least is not None and number < least:
        raise ValueError(f"{what} is at least {least}, not {number}")
    return number


# == Errors: every exception, with its facts as attributes ====================
#
# Each says what happened and what is possible instead, and carries the facts for code that wants to act on them.
# All survive pickling and copying. Those after MergeConflict are for files, journals, buses and extras to raise.


def _rebuilt_error(kind: Type[AlmaError], message: Tuple[Any, ...], facts: Dict[str, Any]) -> AlmaError:
    """Rebuild an error from its message and facts, whatever its constructor takes."""
    error = kind.__new__(kind, *message)
    error.args = message
    error.__dict__.update(facts)
    return error


def _shown_path(path: Sequence[Any]) -> str:
    """Return a path as it is written in Python.

    >>> _shown_path(("a", 0)), _shown_path(())
    ("['a'][0]", 'the whole')
    """
    return "".join(f"[{step!r}]" for step in path) or "the whole"


class AlmaError(Exception):
    """Base of every error of Alma's own."""

    def __reduce__(self) -> Tuple[Any, ...]:
        return _rebuilt_error, (type(self), self.args, self.__dict__)


class FrozenError(AlmaError):
    """Raised when a frozen variable, or one of a closed registry, was to be changed.

    >>> str(FrozenError("config"))
    "'config' is frozen; thaw() allows changes again"
    """

    def __init__(self, name: str, closed: bool = False) -> None:
        closed_now = "belongs to a closed registry; its past can still be read"
        super().__init__(f"{name!r} {closed_now if closed else 'is frozen; thaw() allows changes again'}")
        self.name, self.closed = name, closed


class RollbackError(AlmaError, IndexError):
    """Raised when a record was asked for that does not exist, or nothing is left to undo or redo.

    >>> str(RollbackError("score", 9, "has no record 9; it has 0 to 3"))
    "'score' has no record 9; it has 0 to 3"
    """

    def __init__(self, name: str, wanted: Any, reason: str) -> None:
        super().__init__(f"{name!r} {reason}")
        self.name, self.wanted, self.reason = name, wanted, reason


class PrunedError(RollbackError):
    """Raised when a record was asked for that retention has removed.

    >>> str(PrunedError("price", 9, first=40))
    "'price' no longer keeps record 9; the next kept is 40"
    """

    def __init__(self, name: str, index: Any, first: int) -> None:
        what = f"record {index}" if isinstance(index, int) else f"what was in force at {index}"
        super().__init__(name, index, f"no longer keeps {what}; the next kept is {first}")
        self.index, self.first = index, first


class DuplicateNameError(AlmaError, ValueError):
    """Raised when a name is already taken.

    >>> str(DuplicateNameError("x"))
    "'x' is already watched; take it with get_var, or watch with exist_ok=True or overwrite=True"
    """

    def __init__(
        self, name: str, instead: str = "take it with get_var, or watch with exist_ok=True or overwrite=True"
    ) -> None:
        super().__init__(f"{name!r} is already watched; {instead}")
        self.name = name


class UnknownNameError(AlmaError, KeyError):
    """Raised when no variable bears the name, or the key of a namespace that it stands for has been *deleted*.

    >>> str(UnknownNameError("scor", ["score", "price"]))
    "no variable is named 'scor'; did you mean 'score'?"
    """

    def __init__(self, name: str, known: Iterable[str] = (), deleted: bool = False, makes: str = "watch()") -> None:
        import difflib  # only an error needs it

        self.name, self.known, self.deleted = name, sorted(known), deleted
        close = difflib.get_close_matches(str(name), self.known[:1_000], 1)  # of 20,000 names it would take 0.4 s
        hint = f"did you mean {close[0]!r}?" if close else f"{makes} makes one"
        text = f"no variable is named {name!r}; {hint}"
        if name in self.known:  # one that was overwritten or unregistered
            text = f"{name!r} no longer names the variable that was meant"
        if deleted:
            text = f"{name!r} has been deleted; history() and at() show what it was, set() and rollback() bring it back"
        super().__init__(text)

    __str__ = Exception.__str__  # KeyError's shows the repr


class SnapshotError(AlmaError, TypeError):
    """Raised when a value can't be copied, so that its past could be changed from outside.

    >>> str(SnapshotError("generator", "cannot pickle 'generator' object"))
    "can't copy a generator (cannot pickle 'generator' object); set a value that can be, or watch with deep_copy=False"
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"can't copy a {kind} ({reason}); set a value that can be, or watch with deep_copy=False")
        self.kind, self.reason = kind, reason


class StaleWriteError(AlmaError):
    """Raised when a change expected a head that is no longer the head.

    >>> str(StaleWriteError("x", expected=3, actual=5))
    "'x' is at record 5, not 3; read it again and decide anew"
    """

    def __init__(self, name: str, expected: int, actual: int) -> None:
        super().__init__(f"{name!r} is at record {actual}, not {expected}; read it again and decide anew")
        self.name, self.expected, self.actual = name, expected, actual


class MiddlewareError(AlmaError, ValueError):
    """Raised when middleware can't turn what is stored back into the value of record *index*.

    >>> str(MiddlewareError("secret", 3, "none of the 1 keys opens this"))
    "'secret': record 3 can't be decoded: none of the 1 keys opens this; it is kept as it is, other records can be read"
    """

    def __init__(self, name: str, index: int, reason: str) -> None:
        kept = "it is kept as it is, other records can be read"
        super().__init__(f"{name!r}: record {index} can't be decoded: {reason}; {kept}")
        self.name, self.index, self.reason = name, index, reason


class SchemaError(AlmaError, ValueError):
    """Raised when record *index* was made before the schema and does not fit it; its cause says all of why.

    *path* leads to the part that does not fit, in what *upgrade* returned where there is one.

    >>> str(SchemaError("config", 3, ("port",), "Field required"))
    "'config': record 3 does not fit the schema: ['port']: Field required; Schema(..., upgrade=fn) can make it fit"
    """

    def __init__(self, name: str, index: int, path: Sequence[Any], reason: str, upgraded: bool = False) -> None:
        fits = "upgrade= has to return what fits" if upgraded else "Schema(..., upgrade=fn) can make it fit"
        super().__init__(f"{name!r}: record {index} does not fit the schema: {_shown_path(path)}: {reason}; {fits}")
        self.name, self.index, self.path, self.reason = name, index, tuple(path), reason


class MergeConflict(AlmaError):
    """Raised when both sides changed the same path; *conflicts* lists (path, base, ours, theirs).

    A side on which nothing stands there is DELETED.

    >>> str(MergeConflict("x", [(("a",), 1, 2, 3)]))
    "'x' and the other side both changed: ['a']; pass resolve= to decide"
    """

    def __init__(self, name: str, conflicts: Sequence[Tuple[Tuple[Any, ...], Any, Any, Any]]) -> None:
        paths = ", ".join(_shown_path(conflict[0]) for conflict in conflicts)
        super().__init__(f"{name!r} and the other side both changed: {paths}; pass resolve= to decide")
        self.name, self.conflicts = name, list(conflicts)


class CodecError(AlmaError, TypeError):
    """Raised when a value has no form in a file.

    >>> str(CodecError("value['db'][3]", "a function"))
    "value['db'][3] can't be written: a function; name its class in types=, or keep it out"
    """

    def __init__(self, path: str, reason: str, remedy: str = "name its class in types=, or keep it out") -> None:
        super().__init__(f"{path} can't be written: {reason}; {remedy}")
        self.path, self.reason = path, reason


class FileFormatError(AlmaError, ValueError):
    """Raised when a file is damaged or not one of Alma's.

    >>> str(FileFormatError("a.json", "record 3 does not match its digest"))
    'a.json: record 3 does not match its digest'
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


class DamagedTextError(CodecError, FileFormatError):
    """Raised when text that is read as a value is damaged, or was not written by Alma.

    >>> str(DamagedTextError("a key stands twice in one object"))
    'text: a key stands twice in one object; only what to_json() or save() wrote can be read'
    """

    def __init__(self, reason: str, path: str = "text") -> None:
        FileFormatError.__init__(self, path, f"{reason}; only what to_json() or save() wrote can be read")
        self.reason = reason


class UntrustedDataError(FileFormatError):
    """Raised when a file asks for code to be run; *mentioned* lists what it named.

    >>> str(UntrustedDataError("a.pickle", ["os.system"]))
    'a.pickle: holds more than data (os.system); not even trust=True loads it, pickle.load() does: know who wrote it'
    """

    def __init__(self, path: str, mentioned: Iterable[str]) -> None:
        self.mentioned = list(mentioned)
        names = ", ".join(self.mentioned)
        instead = "not even trust=True loads it, pickle.load() does: know who wrote it"
        super().__init__(path, f"holds more than data ({names}); {instead}")


class JournalError(AlmaError, OSError):
    """Raised when the journal could not take a change, which then did not happen.

    >>> str(JournalError("state.db", "disk full"))
    'state.db: disk full; nothing was changed'
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}; nothing was changed")
        self.path, self.reason = path, reason


class SyncError(AlmaError, ConnectionError):
    """Raised when a bus can't be used.

    >>> str(SyncError("redis://localhost", "connection refused"))
    'redis://localhost: connection refused'
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url, self.reason = url, reason


class MissingDependencyError(AlmaError, ImportError):
    """Raised when an integration is used whose package is not installed.

    >>> str(MissingDependencyError("deepdiff", "diff"))
    "this needs deepdiff: pip install 'alma-framework[diff]'"
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs {package}: pip install 'alma-framework[{extra}]'")
        self.package, self.extra = package, extra


def _of_extra(extra: str, module: str) -> Any:
    """Return a module that comes with an extra; MissingDependencyError where its package is not installed."""
    from importlib import import_module

    package = module.partition(".")[0]
    try:
        import_module(package)  # first: where it is barred, Python would name the module and not the package
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # it is here, and something that it needs is not
        raise MissingDependencyError(package, extra) from None


# == Records: what one change was =============================================
#
# Knows nothing of logs or variables. A ChangeRecord is a frozen dataclass of four fields; one that comes out of
# a log is filled in part: its value is unpacked, and its datetime made, when they are first asked for.


def _moment(nanoseconds: int) -> datetime:
    """Return the UTC datetime of a time in whole nanoseconds, cut to the microsecond."""
    microseconds = nanoseconds // 1_000
    if 0 <= microseconds < 3_900_000_000_000_000:  # until 2093 a float holds them exactly: 220 ns against 520
        return datetime.fromtimestamp(microseconds / 1e6, timezone.utc)
    return _EPOCH + timedelta(microseconds=microseconds)


def _label_text(label: _Label) -> Optional[str]:
    """Return a label as text; that of a traced change says where it was made."""
    if type(label) is tuple:
        code, line = label
        return f"{os.path.basename(code.co_filename)}:{line} in {code.co_name}"
    return label  # type: ignore[return-value]


def _value_again(record: ChangeRecord[Any]) -> Any:
    """Return the value of a record that came out of a log once more, sharing nothing with the first."""
    opener = getattr(record, "_open", None)
    return record.value if opener is None else opener(record._stored)


def _is_deletion(record: ChangeRecord[Any]) -> bool:
    """Tell whether a record says that a key was deleted, without unpacking its value."""
    return (record._stored if hasattr(record, "_open") else record.value) is DELETED


class _RecordSlots:
    """Where a record keeps its fields, and until they are asked for, what they are made from."""

    __slots__ = ("_open", "_stored", "_time", "index", "label", "timestamp", "value")
    _time: int  # whole nanoseconds; the timestamp shows the microsecond
    _stored: Any

    if not TYPE_CHECKING:  # a checker would take it as leave for any attribute

        def __getattr__(self, name: str) -> Any:
            """Fill a field that is still empty: only then does Python come here."""
            if name == "value":
                _RecordSlots.value.__set__(self, self._open(self._stored))
                return self.value
            if name == "timestamp":
                _RecordSlots.timestamp.__set__(self, _moment(self._time))
                return self.timestamp
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


@dataclass(frozen=True)
class ChangeRecord(_RecordSlots, Generic[_T]):
    """One change of a variable: its index, the value it left, when (UTC), and the owner's note.

    The value belongs to whoever asked for the record: changing it changes no history.

    >>> AlmaVar("x", 1).last_change().label
    'initial'
    """

    __slots__ = ()

    index: int
    value: _T
    timestamp: datetime
    label: Optional[str] = None

    def __reduce__(self) -> Tuple[Any, ...]:
        return ChangeRecord, (self.index, self.value, self.timestamp, self.label)


if not TYPE_CHECKING:
    del ChangeRecord.label  # the default lives on in __init__; left here it would hide the slot


# == Snapshots: a value packed so that nobody can change the past =============
#
# Knows nothing of variables, locks or files. _pack() and _unpack() are inverse: _unpack(_pack(x)) equals x, has its
# type and inner identities, and shares no mutable part with it. The type of what is stored tells how it is kept:
# itself (plain), a small dict, list or set of atoms (flat), _Pickled bytes, a _Delta to a newer one, _Copied, _Shared.


class _Pickled(bytes):
    """A tree of builtin containers and standard immutables, frozen to bytes by the C pickler."""

    __slots__ = ()


class _Delta(bytes):
    """The splices that turn the next record's bytes back into this one's; empty where they are equal."""

    __slots__ = ()


class _Copied:
    """A deep copy, copied again on every way out."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class _Shared(_Copied):
    """The owner's own object: deep_copy=False."""

    __slots__ = ()


# Exact types whose objects never change and hold nothing that does; those of _STANDARD join when first seen.
_ATOMS: Set[type] = {
    bool, int, float, complex, str, bytes, range, date, timedelta, timezone, type(None), type(...),
}  # fmt: skip
_STANDARD = {
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "uuid": {"UUID", "SafeUUID"},
    "pathlib": {"PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath"},
    "ipaddress": {"IPv4Address", "IPv6Address"},
}
_CONTAINERS: Set[type] = {dict, list, set, tuple, frozenset, bytearray, OrderedDict, defaultdict, deque, Counter}
_PICKLED: Set[type] = _ATOMS | _CONTAINERS | {datetime, time}  # what packed bytes may name

_FLAT_SIZE = 16  # up to here a shallow copy is dearer in memory and cheaper in time than bytes
_LEAF_SIZE = 1 << 16  # a leaf of this size is shared by deepcopy instead of copied into bytes; pickle's frame size


def _is_standard(kind: type) -> bool:
    """Tell whether *kind* is one of the standard library's own value types, and remember it."""
    module = str(kind.__module__).partition(".")[0]
    if kind.__name__ not in _STANDARD.get(module, ()):
        return False
    if getattr(sys.modules.get(module), kind.__name__, None) is not kind:
        return False
    _ATOMS.add(kind)
    _PICKLED.add(kind)
    return True


def _is_atom(value: Any) -> bool:
    """Tell whether *value* can be stored as it is, for everything but tuples and frozensets."""
    kind = type(value)
    if kind in _ATOMS or issubclass(type(kind), enum.EnumMeta):
        return True
    if kind is datetime or kind is time:
        zone: Optional[tzinfo] = value.tzinfo
        return zone is None or type(zone) is timezone
    return _is_standard(kind)


class _Foreign(Exception):
    """Raised inside the pickler at the first object that packed bytes must not name."""


class _Packer(pickle.Pickler):
    """Pickles builtin and standard types only."""

    def reducer_override(self, thing: Any) -> Any:
        """Refuse whatever is neither a standard value nor the standard type that such a value names."""
        kind = thing if issubclass(type(thing), type) else type(thing)
        if kind in _PICKLED or _is_standard(kind):
            return NotImplemented
        raise _Foreign


class _Unpacker(pickle.Unpickler):
    """Unpickles what a _Packer has written, and refuses to name anything else: bytes may come from a stranger."""

    def __init__(self, packed: bytes) -> None:
        super().__init__(io.BytesIO(packed))
        self._packed, self._checked = packed, False

    def find_class(self, module: str, name: str) -> Any:
        """Return a standard type; UnpicklingError for what is none."""
        known = {"builtins", "collections", "datetime", "pathlib._local", *_STANDARD}  # 3.13 has moved its paths
        try:
            thing = super().find_class(module, name) if module in known and "." not in name else None
        except (AttributeError, ImportError):
            thing = None
        if thing is ... or (isinstance(thing, type) and (thing in _PICKLED or _is_standard(thing))):
            if isinstance(thing, type) and thing.__flags__ & 0x300 == 0x200:  # a class that can be changed: no date
                self._require_plain_states()
            return thing
        raise pickle.UnpicklingError(f"{module}.{name} is no standard value type")

    def _require_plain_states(self) -> None:
        """Raise UnpicklingError where BUILD could set attributes of a class: it does from a tuple, not from a dict."""
        if self._checked or b"b" not in self._packed:
            return
        import pickletools

        before = ""
        for operation, _, _ in pickletools.genops(self._packed):
            if operation.name == "BUILD" and not before.startswith("SETITEM"):  # behind which a dict is on the stack
                raise pickle.UnpicklingError("these bytes would change a class; no value needs that")
            before = operation.name
        self._checked = True


class _Chunks(io.BytesIO):
    """What a _Packer writes to: refuses large leaves, which the pickler hands over outside its frames."""

    def write(self, chunk: Any) -> int:
        if len(chunk) >= _LEAF_SIZE:
            start = 3 if chunk[:1] == pickle.PROTO else 1  # behind PROTO and FRAME stands how long the frame is
            if int.from_bytes(chunk[start : start + 8], "little") != len(chunk) - start - 8:
                raise _Foreign
        return super().write(chunk)


def _pickled(value: Any) -> _Pickled:
    """Return *value* as bytes that name standard types only, or raise _Foreign. 43 us for a nested dict of 200 keys."""
    chunks = _Chunks()
    _Packer(chunks, 5).dump(value)
    return _Pickled(chunks.getbuffer())


def _pack_container(value: Any, kind: type) -> Any:
    """Pack a container: flat where small and of atoms only, else as bytes, as a deep copy where it holds others."""
    if (kind is list or kind is set) and len(value) <= _FLAT_SIZE:
        flat = value.copy()  # first: another thread may change it while we look
        if all(map(_is_atom, flat)):
            return flat
    elif (kind is tuple or kind is frozenset) and (_ATOMS.issuperset(map(type, value)) or all(map(_is_atom, value))):
        return value
    try:
        return _pickled(value)
    except _Foreign:
        return _Copied(copy.deepcopy(value))


def _pack(value: Any) -> Any:
    """Return the stored form of *value*, which nobody else can change; SnapshotError if there is none."""
    kind = type(value)
    try:
        if kind is dict and len(value) <= _FLAT_SIZE:  # here and not in _pack_container: 200 ns instead of 320
            flat, atoms, kind_of = value.copy(), _ATOMS, type
            for key, part in flat.items():  # a loop: up to 16 items it is faster than set operations on mapped types
                if kind_of(key) is not str and not _is_atom(key):
                    break
                if kind_of(part) is not int and kind_of(part) not in atoms and not _is_atom(part):
                    break
            else:
                return flat
        if kind in _CONTAINERS:
            return _pack_container(value, kind)
        if value is DELETED:
            raise ValueError("only `del namespace[key]` and merge() record that nothing stands here")
        return value if _is_atom(value) else _Copied(copy.deepcopy(value))
    except MemoryError:
        raise
    except Exception as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else f"{type(error).__name__}: {error}"
        raise SnapshotError(kind.__name__, reason) from error


def _share(value: Any) -> Any:
    """Return the stored form of a value whose owner says that it is fine to share."""
    if value is DELETED:
        return _pack(value)  # which refuses it
    return value if _is_atom(value) else _Shared(value)


# How each kind of stored value is opened; what is not here is plain and stands for itself.
_OPEN: Dict[type, Callable[[Any], Any]] = {
    dict: dict.copy,
    list: list.copy,
    set: set.copy,
    _Pickled: pickle.loads,
    _Copied: lambda stored: copy.deepcopy(stored.value),
    _Shared: lambda stored: stored.value,
}


def _unpack(stored: Any) -> Any:
    """Return the value that was packed, as new as if it had been copied."""
    opener = _OPEN.get(type(stored))
    return stored if opener is None else opener(stored)


def _same(one: Any, other: Any, _seen: Optional[Set[Tuple[int, int]]] = None, _depth: int = 0) -> bool:
    """Tell whether two values are equal in every part and in the type of every part; NaN is the same as NaN.

    They differ where comparing raises or has no truth value, and below 200 levels. O(size): a pair of parts that is
    met again, shared or in a cycle, is not compared again.

    >>> _same({"a": [1, 2]}, {"a": [1, 2]}), _same(1, True), _same(0.0, -0.0)
    (True, False, False)
    """
    kind, seen = type(one), set() if _seen is None else _seen
    if kind is not type(other) or _depth > 200:
        return False
    if one is other or (id(one), id(other)) in seen:
        return True
    seen.add((id(one), id(other)))

    def alike(mine: Any, theirs: Any) -> bool:
        return _same(mine, theirs, seen, _depth + 1)

    try:
        if kind not in _CONTAINERS or kind is bytearray:
            equal = bool(one == other) or bool(one != one and other != other)
            shown = kind is not int and kind is not str and (kind in (datetime, time) or _is_atom(one))
            return equal and (not shown or repr(one) == repr(other))
        if len(one) != len(other) or any(getattr(one, own, 0) != getattr(other, own, 0) for own in _BESIDE):
            return False
        if kind in (list, tuple, deque):
            return all(map(alike, one, other))
        twins = {part: part for part in other}  # the other's keys or members, equal but perhaps of another type
        ordered = kind is not OrderedDict or all(map(alike, one, other))
        mapping = kind not in (set, frozenset)
        return ordered and all(
            part in twins and alike(part, twins[part]) and (not mapping or alike(one[part], other[part]))
            for part in one
        )
    except Exception:
        return False  # a comparison that fails proves no sameness; one record too many loses nothing


_BESIDE = ("maxlen", "default_factory")  # what a deque and a defaultdict have beside their items


class Unresolved:
    """What stands for a value in a file that can't be made here: its class was not named, its pickle not trusted, the
    middleware that it went through not given.

    *name* is the class's, "pickle" or "middleware"; *data* is what was written of it: a dict of its fields, the name of
    a member, bytes. It is written back as it was read, and becomes the value again where what is missing is given.

    >>> from_json('{"$object": ["Point", {"x": 1}]}')
    Unresolved('Point', {'x': 1})
    """

    __slots__ = ("data", "name")

    def __init__(self, name: str, data: Any) -> None:
        self.name, self.data = name, data

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Unresolved):
            return NotImplemented
        return self.name == other.name and _same(self.data, other.data)

    def __hash__(self) -> int:
        data = self.data if isinstance(self.data, dict) else {"": self.data}
        atoms = sorted((key, repr(part)) for key, part in data.items() if _is_atom(part))
        return hash((self.name, tuple(atoms), len(data)))

    def __repr__(self) -> str:
        return f"Unresolved({self.name!r}, {self.data!r})"


# Deltas. Bytes that change a little are kept as the splices that lead back from the newer ones: pairs of where and
# how much to cut, and what to put there. A delta is the number of splices (2 bytes), three 32-bit numbers for each
# (offset, length cut, length put in), last splice first so that offsets hold while it is applied, then what is put in.

_ANCHOR = 12  # bytes that must match before two places count as the same again
_LOOKAHEAD = 2_048  # how far behind a difference a match is looked for


def _common(one: Sequence[Any], i: int, other: Sequence[Any], j: int) -> int:
    """Return how many bytes of *one* from *i* and *other* from *j* are the same, by slices: doubling, bisecting."""
    limit = min(len(one) - i, len(other) - j)
    done, step = 0, 64
    while done < limit and one[i + done : i + done + step] == other[j + done : j + done + step]:
        done, step = done + step, step * 2
    if done >= limit:
        return limit
    step = min(step, limit - done)
    while step:  # the first difference is less than step bytes ahead, or at the end
        half = (step + 1) // 2
        if one[i + done : i + done + half] == other[j + done : j + done + half]:
            done, step = done + half, step - half
        else:
            step = half if half < step else 0
    return done


def _resume(older: bytes, i: int, newer: bytes, j: int) -> Tuple[int, int]:
    """Return how far to go in both until they match again; the ends if they don't within the lookahead."""
    ahead = 1
    while ahead <= _LOOKAHEAD and i + ahead + _ANCHOR <= len(older):
        found = newer.find(older[i + ahead : i + ahead + _ANCHOR], j, j + 2 * ahead + 64 + _ANCHOR)
        if found >= 0:
            behind = 0
            while behind < min(ahead, found - j) and older[i + ahead - behind - 1] == newer[found - behind - 1]:
                behind += 1
            return ahead - behind, found - j - behind
        ahead *= 2
    return len(older) - i, len(newer) - j


def _delta(newer: bytes, older: bytes) -> Optional[_Delta]:
    """Return what turns *newer* back into *older*, or None where that would save too little. As RCS, in reverse.

    Greedy; gives up after 64 + size/4096 splices or once half of *older* would have to be put in.
    """
    splices: List[Tuple[int, int, bytes]] = []
    i = j = put = 0
    while True:
        run = _common(older, i, newer, j)
        i, j = i + run, j + run
        if i == len(older) and j == len(newer):
            break
        added, cut = _resume(older, i, newer, j)
        splices.append((j, cut, older[i : i + added]))
        i, j, put = i + added, j + cut, put + added
        if 2 * (put + 12 * len(splices)) > len(older) or len(splices) > min(64 + len(older) // 4_096, 0xFFFF):
            return None
    splices.reverse()
    numbers = array("I", [number for at, cut, text in splices for number in (at, cut, len(text))])
    return _Delta(len(splices).to_bytes(2, "little") + numbers.tobytes() + b"".join(text for _, _, text in splices))


def _apply_delta(buffer: bytearray, difference: _Delta) -> None:
    """Turn *buffer*, a newer value's bytes, into the older one's. 0.6 us for one splice."""
    if not difference:
        return
    start = 2 + 12 * int.from_bytes(difference[:2], "little")
    numbers = array("I", difference[2:start])
    if start == 14:  # most are like this; without the loop they take half the time
        offset, cut, _ = numbers
        buffer[offset : offset + cut] = difference[start:]
        return
    following = iter(numbers)
    for offset, cut, length in zip(following, following, following):
        buffer[offset : offset + cut] = difference[start : start + length]
        start += length


# == History: the log =========================================================
#
# Knows packed values, whole nanoseconds and labels; no lock, no clock, no guests. The head says how many records
# there are and is stored last, so it alone commits: whatever stands in the columns beyond it never happened, and
# the next append cuts it off. Readers take a head and read slices or single slots, so they need no lock.


class _Layout:
    """The columns of a log and how they are to be read. Replaced, never altered, so that a head stays valid.

    The initial record is at position 0; the record *index* is at position index - shift. Records from 1 to before
    *first* have been pruned, the oldest of them made at *since*. *frozen* is here so that freezing is one store of a
    head, which a transaction can take back.
    """

    __slots__ = ("first", "frozen", "shift", "since", "times", "values")  # 5 ns to read one; of a named tuple, 25

    def __init__(
        self,
        values: List[Any],
        times: array[int],
        shift: int = 0,
        first: int = 1,
        since: int = 0,
        frozen: bool = False,
    ) -> None:
        self.values, self.times = values, times
        self.shift, self.first, self.since, self.frozen = shift, first, since, frozen

    def but(self, **changes: Any) -> _Layout:
        """Return a layout like this one but for *changes*."""
        return _Layout(**{**{name: getattr(self, name) for name in _Layout.__slots__}, **changes})


# number of records ever, the newest stored value, the layout, whether that value is an atom and stands for itself
_Head = Tuple[int, Any, _Layout, bool]


class _Line:
    """What one log, branches apart, is known by in others; gone when nobody can merge it any more."""

    __slots__ = ("__weakref__",)


_ANY_INDEX = float("inf")  # no record has it
_Opener = Callable[[int, Any], Any]  # an index and what is stored there to the value


class _Facts(NamedTuple):
    """What is known of a record beside its value: for which one an undo or redo stands, what redo brings back, and
    for a merge the line it took in, the index of the record it took and what was stored there."""

    stands_for: int
    undone: Tuple[Any, ...] = ()
    merged: Optional[Tuple[_Line, int, Any]] = None


class _Base(NamedTuple):
    """What a merge took in: when and in which record it was, and index and stored value of the other's record."""

    time: int
    noted: int
    taken: int
    stored: Any


_LONGEST_CHAIN = 128  # deltas in a row, for a large value; the splices to read the worst one stay below its unpickling


class _Log:
    """The records of one variable, in columns: 50 bytes for a change of an int.

    What is stored means what *opener* makes of it; without one it is unpacked.
    """

    __slots__ = (
        "atoms", "bases", "chain", "facts", "failures", "head", "labels", "line", "merges", "name", "opener", "skip",
    )  # fmt: skip

    def __init__(self, name: str, layout: _Layout, labels: Dict[int, _Label], opener: Optional[_Opener] = None) -> None:
        self.name, self.labels, self.opener = name, labels, opener
        self.atoms: AbstractSet[type] = _ATOMS if opener is None else frozenset()  # which stand for themselves
        self.line = _Line()
        self.facts: Dict[int, _Facts] = {}
        # what merges took in whose records have been pruned, by the record in the gap from which they are looked for
        self.bases: Dict[Tuple[int, weakref.ref[_Line]], _Base] = {}
        self.merges = False  # whether there ever was one
        self.chain = 0  # splices since the last value kept whole
        self.failures = self.skip = 0  # deltas that did not pay in a row; records to wait before the next attempt
        newest = layout.values[-1]
        self.head: _Head = len(layout.values) + layout.shift, newest, layout, type(newest) in self.atoms

    def fork(self, name: str, head: _Head, index: int, opener: Optional[_Opener]) -> _Log:
        """Return a log of the kept records up to *index*, to go its own way. O(n) pointers: 13 ms for 10^6 records."""
        layout = head[2]
        end, first, shift = (index - layout.shift + 1, layout.first, layout.shift) if index else (1, 1, 0)
        values, times = layout.values[:end], layout.times[:end]
        values[-1] = self.stored(head, index)  # whole: the deltas before it lead to it
        forked = _Layout(values, times, shift, first, layout.since)
        log = _Log(name, forked, self.labels.copy(), opener)
        log.facts, log.bases, log.merges = self.facts.copy(), self.bases.copy() if index else {}, self.merges
        log.chain = _LONGEST_CHAIN  # so it will stay whole
        log.trim(log.head)
        return log

    def open(self, index: int, stored: Any) -> Any:
        """Return the value of record *index* from what is stored there, as new as if it had been copied."""
        return _unpack(stored) if self.opener is None else self.opener(index, stored)

    def reopen(self, opener: Optional[_Opener]) -> None:
        """Have what is stored mean what another opener makes of it."""
        self.opener, self.atoms = opener, _ATOMS if opener is None else frozenset()
        self.head = self.seen(self.head)

    def seen(self, head: _Head) -> _Head:
        """Return a head that knows whether its value stands for itself."""
        count, newest, layout, _ = head
        return count, newest, layout, type(newest) in self.atoms

    def append(self, head: _Head, stored: Any, time: int, label: _Label, facts: Optional[_Facts] = None) -> _Head:
        """Write a record behind *head* and return the head that commits it. O(1)."""
        count, newest, layout, _ = head
        values = layout.values
        if len(values) != count - layout.shift:
            self.trim(head)
        if type(stored) is _Pickled and type(newest) is _Pickled and stored == newest:
            stored = newest  # equal neighbours share one object
        values.append(stored)
        layout.times.append(time)
        if label is not None:
            self.labels[count] = label
        if facts is not None:
            self.facts[count] = facts
            self.merges = self.merges or facts.merged is not None
        return count + 1, stored, layout, type(stored) in self.atoms

    def trim(self, head: _Head) -> None:
        """Remove what stands beyond *head*: an append that was interrupted, a transaction that failed."""
        count, _, layout, _ = head
        columns: Tuple[Dict[int, Any], ...] = (self.labels, self.facts)
        for column in columns:
            while column and next(reversed(column)) >= count:
                column.popitem()
        del layout.times[count - layout.shift :]
        del layout.values[count - layout.shift :]

    def compress(self, head: _Head, start: int) -> None:
        """Keep the records before *head*, from *start* on, as deltas to their successors where that saves space."""
        count, _, layout, _ = head
        for index in range(max(start, layout.first), count - 1):
            position = index - layout.shift
            older, newer = layout.values[position : position + 2]
            if type(older) is _Pickled and type(newer) is _Pickled:
                self._compress_one(layout.values, position, older, newer)

    def _compress_one(self, values: List[Any], position: int, older: _Pickled, newer: _Pickled) -> None:
        if self.skip:  # without the pause 20,000 floats that all change cost 290 ms a set
            self.skip -= 1
            self.chain = 0
            return
        difference = _Delta() if older is newer else _delta(newer, older)
        self.failures = 0 if difference is not None else self.failures + 1
        if self.failures == 3:
            self.failures, self.skip = 0, 16
        cost = max(1, int.from_bytes(difference[:2], "little")) if difference is not None else 0
        if difference is None or self.chain + cost > min(_LONGEST_CHAIN, 1 + len(newer) // 60):
            self.chain = 0  # this one stays whole
        else:
            self.chain += cost  # first: counted once too often does no harm, once too seldom makes a chain too long
            values[position] = difference

    def kept(self, head: _Head, index: int) -> int:
        """Return *index* if its record is kept, else raise: RollbackError out of range, PrunedError in the gap."""
        count, _, layout, _ = head
        if not 0 <= index < count:
            raise RollbackError(self.name, index, f"has no record {index}; it has 0 to {count - 1}")
        if 0 < index < layout.first:
            raise PrunedError(self.name, index, layout.first)
        return index

    def index_at(self, head: _Head, cutoff: int) -> int:
        """Return the index of the newest record not after *cutoff*; -1 before the first one. O(log n)."""
        count, _, layout, _ = head
        begin = layout.first - layout.shift
        position = bisect_right(layout.times, cutoff, begin, count - layout.shift) - 1
        if position >= begin:
            return position + layout.shift
        if cutoff < layout.times[0]:
            return -1
        if layout.first > 1 and cutoff >= layout.since:
            raise PrunedError(self.name, _moment(cutoff), layout.first)
        return 0

    def index_labelled(self, head: _Head, label: str) -> int:
        """Return the index of the newest kept record that bears *label*. O(labels)."""
        count, _, layout, _ = head
        for index, note in reversed(list(self.labels.copy().items())):
            if _label_text(note) == label and (index == 0 or layout.first <= index < count):
                return index
        raise RollbackError(self.name, label, f"has no record labelled {label!r}; history() shows the labels there are")

    def stored(self, head: _Head, index: int) -> Any:
        """Return the stored value of a kept record, deltas undone; _GONE if pruned since *head* was read."""
        position = index - head[2].shift if index else 0
        chain = head[2].values[position : position + _LONGEST_CHAIN + 2]
        return _Pickled(_rebuilt(chain)) if type(chain[0]) is _Delta else chain[0]

    def record(self, head: _Head, index: int) -> Optional[ChangeRecord[Any]]:
        """Return a kept record; None if it has been pruned since *head* was read."""
        layout, stored = head[2], self.stored(head, index)
        position = index - layout.shift if index else 0
        record = _make_record(index, stored, layout.times[position], self.labels.get(index), self.opener)
        return None if 0 < index < self.head[2].first else record  # asked last, as in records()

    def columns(self, head: _Head, start: int = 0, stop: int = 0) -> Tuple[array[int], List[Any]]:
        """Return times and stored values, deltas undone, of the kept records but the initial one. O(n).

        Or of those from index *start* to before *stop*.
        """
        count, _, layout, _ = head
        begin, end = (start or layout.first) - layout.shift, (stop or count) - layout.shift
        times, values = layout.times[begin:end], layout.values[begin : end + _LONGEST_CHAIN + 2]  # in one slice, with
        following = values[end - begin :]  # those younger than head: deltas may lead through them
        del values[end - begin :]
        _undo_deltas(values, following)
        return times, values

    def records(self, head: _Head) -> Optional[List[ChangeRecord[Any]]]:
        """Return all kept records, oldest first, rebuilt in one pass; None if pruned since *head* was read."""
        count, _, layout, _ = head
        times, values = self.columns(head)
        indices = range(layout.first, count)
        kept = list(map(_make_record, indices, values, times, map(self.labels.get, indices), repeat(self.opener)))
        pruned = self.head[2].first - layout.first  # asked last: prune moves it before it takes anything away
        if kept and pruned >= len(kept):
            return None
        del kept[:pruned]
        return [_make_record(0, layout.values[0], layout.times[0], self.labels.get(0), self.opener), *kept]

    def part(self, head: _Head, start: int, stop: int) -> List[ChangeRecord[Any]]:
        """Return the records from index *start* to before *stop*, rebuilt in one pass; PrunedError if one has gone."""
        records = [self.record(head, 0)] if start == 0 else []
        begin = max(start, 1)
        indices = range(begin, stop)
        if indices and begin >= head[2].first:
            times, values = self.columns(head, begin, stop)
            records += map(_make_record, indices, values, times, map(self.labels.get, indices), repeat(self.opener))
        first = self.head[2].first  # asked last, as in records()
        if indices and begin < first:
            raise PrunedError(self.name, begin, first)
        return records  # type: ignore[return-value]

    def time(self, head: _Head, index: int) -> int:
        """Return when a record was made, in nanoseconds; of one that has been pruned, the latest that it can be."""
        layout = head[2]
        if 0 < index < layout.first:
            return layout.times[layout.first - layout.shift] - 1
        return layout.times[index - layout.shift if index else 0]

    def standing(self, index: int) -> _Facts:
        """Return for which record a record stands, and what a redo from there would bring back."""
        return self.facts.get(index) or _Facts(index)

    def last_merged(self, head: _Head, index: int, lines: Mapping[_Line, float], after: int = 0) -> Optional[_Base]:
        """Return the newest record of another variable that had been merged into this one by record *index*, or None.

        *lines* says to which index that one has the records of which lines; those up to *after* don't count, nor does
        a merge that had been undone. O(facts).
        """
        layout, found = head[2], []
        for noted, facts in reversed(list(self.facts.copy().items())):
            if noted > index or noted < layout.first:  # what was interrupted may not have removed all that it pruned
                continue
            index = facts.stands_for
            if facts.merged:
                found.append((facts.merged[0], _Base(layout.times[noted - layout.shift], noted, *facts.merged[1:])))
        entry = min(index, layout.first - 1)  # into the gap
        for (begin, reference), base in self.bases.copy().items():
            line = reference()
            if begin == entry and line is not None:
                found.append((line, base))
        bases = [base for line, base in found if after < base.taken <= lines.get(line, -1)]
        return max(bases, key=lambda base: (base.taken, base.noted), default=None)

    def prune(self, head: _Head, first: int) -> None:
        """Forget the records from 1 to before *first*. Amortised O(1) a record: columns are renewed when half empty."""
        self.trim(head)
        count, newest, layout, atom = head
        bases = self._bases(head, first) if self.merges else {}
        self.bases = {**self.bases, **bases}  # both, until the head says which holds
        gone = layout.first - layout.shift
        since = layout.since if layout.first > 1 else layout.times[1]
        self.head = count, newest, layout.but(first=first, since=since), atom
        self.bases = bases
        for position in range(gone, first - layout.shift):
            layout.values[position] = _GONE
        columns: Tuple[Dict[int, Any], ...] = (self.labels, self.facts)
        for column in columns:  # in the order of indices, so what an interruption left is found as well
            for index in list(takewhile(first.__gt__, column)):
                if index:
                    column.pop(index, None)
        if 2 * (first - layout.shift) > len(layout.values) and first - layout.shift > 32:
            self._renew()

    def _bases(self, head: _Head, first: int) -> Dict[Tuple[int, weakref.ref[_Line]], _Base]:
        """Return what has to be known of the merges before *first*, from wherever undo, redo and forks may ask.

        Of the newest merge with each line that somebody can still merge. O(lines x facts).
        """
        pruned = [facts.merged[0] for index, facts in self.facts.items() if facts.merged and index < first]
        lines = {*pruned, *filter(None, (reference() for _, reference in self.bases))}
        if not lines:
            return {}
        entries = {min(facts.stands_for, first - 1) for index, facts in self.facts.items() if index >= first}
        known = [(entry, line) for entry in {first - 1, *entries} for line in lines]
        bases = [(entry, line, self.last_merged(head, entry, {line: _ANY_INDEX}, -1)) for entry, line in known]
        return {(entry, weakref.ref(line)): base for entry, line, base in bases if base is not None}

    def _renew(self) -> None:
        count, newest, layout, atom = self.head
        begin, end = layout.first - layout.shift, count - layout.shift
        values, times = layout.values[:1] + layout.values[begin:end], layout.times[:1] + layout.times[begin:end]
        self.head = count, newest, layout.but(values=values, times=times, shift=layout.first - 1), atom


def _rebuilt(chain: List[Any]) -> bytearray:
    """Return the bytes that the first of *chain*, deltas up to a whole value, stands for."""
    length = next(n for n, stored in enumerate(chain) if type(stored) is not _Delta)
    buffer = bytearray(chain[length])
    for difference in reversed(chain[:length]):
        _apply_delta(buffer, difference)
    return buffer


def _undo_deltas(values: List[Any], following: List[Any]) -> None:
    """Replace each delta among *values* by the bytes it stands for, newest to oldest."""
    buffer = _rebuilt(following) if values and type(values[-1]) is _Delta else bytearray()
    for position in range(len(values) - 1, -1, -1):
        stored = values[position]
        if type(stored) is _Delta:
            _apply_delta(buffer, stored)
            values[position] = _Pickled(buffer)
        elif type(stored) is _Pickled:
            buffer[:] = stored


def _make_record(
    index: int, stored: Any, time: int, label: _Label, opener: Optional[_Opener] = None
) -> ChangeRecord[Any]:
    """Return a record that unpacks its value and makes its datetime when asked.

    Made as its base class, which takes plain assignments, and promoted: 170 ns; by slot setters 320, by __init__ 700.
    """
    record: Any = _new_object(_RecordSlots)
    record.index = index
    record._time = time
    record.label = _label_text(label) if type(label) is tuple else label
    if opener is not None:
        record._stored = stored
        record._open = partial(opener, index)
    elif type(stored) in _OPEN:
        record._stored = stored
        record._open = _OPEN[type(stored)]
    else:
        record.value = stored
    record.__class__ = ChangeRecord
    return record  # type: ignore[no-any-return]


_new_object = object.__new__


# == Diff: what changed between two values, by path; pure functions ===========
#
# Pure: two values in, a list of changes out; knows nothing of variables or records. Values are trees here: a part that
# stands in two places is two parts. Equal means alike: of one type and equal, in every part; NaN equals NaN. Where
# fine changes could not lead from one value to the other, one replacement of the whole stands for them.


class Change(NamedTuple):
    """One difference: what to do (*op*: add, remove or replace), where (*path*: keys and indices), and both values.

    *old* is None where something is added, *new* is None where something is removed. The path of a set's member
    ends in the member itself.
    """

    op: str
    path: Tuple[Any, ...]
    old: Any
    new: Any


_AnyChange = Tuple[str, Tuple[Any, ...], Any, Any]  # a Change is one

_BY_INDEX = frozenset((list, tuple))  # the exact types whose parts are compared; the rest is one
_BY_MEMBER = frozenset((set, frozenset))
_BY_KEY = frozenset((dict, OrderedDict, defaultdict, Counter))
_PARTED = _BY_INDEX | _BY_MEMBER | _BY_KEY
_UNORDERED = _PARTED - _BY_INDEX - {OrderedDict}
_CERTAIN = frozenset((str, int, bytes))  # among objects of one of these, equal says it all: no NaN, no parts

_DEEPEST = 100  # levels down to which parts are compared
_MANY = 16  # containers that are pickled at a time, 32 times as many atoms: they take 10 ns each, a call 2 us
_MOST_EDITS = 16  # additions and removals up to which a shortest way between two sequences is looked for
_STEPS = 1 << 15  # of the same search in all gaps between anchors, beside 4 for each item
_CHOICE = 8  # items of a gap up to which likeness decides which of them replace each other: at most 70 ways


def _fact(value: Any) -> Any:
    """Return what makes two containers of one type different beside their parts."""
    return getattr(value, "maxlen", id(getattr(value, "default_factory", None)))


def _equal(one: Any, other: Any) -> bool:
    """Tell whether two values of one type, not builtin containers, are equal; not where comparing fails."""
    try:
        return bool(one == other) or bool(one != one and other != other)
    except Exception:  # of another's __eq__; or Decimal("sNaN"), which is a NaN as well
        return _is_atom(one) and repr(one) == repr(other)


def _certain(one: Iterable[Any], other: Iterable[Any]) -> bool:
    """Tell whether == says it all about the items of both: all are of one and the same type in _CERTAIN."""
    kinds = {*map(type, one), *map(type, other)}
    return len(kinds) == 1 and kinds <= _CERTAIN


class _Sink(List[bytes]):
    write = list.append


class _Twins:
    """Two picklers that go through two lists side by side: in C, a third of the time of a look at each part.

    Where they write the same bytes, the parts are alike. Other bytes prove nothing: the order of keys, parts that are
    shared in one only, and foreign objects make a difference as well. == would be faster still, but it takes 1 for
    True, calls foreign functions, and looks at a part as often as it is shared: 2 ** 40 times where 40 levels double.
    """

    def __init__(self) -> None:
        self._written = _Sink(), _Sink()
        self._picklers = [_Packer(sink, 5) for sink in self._written]

    def same(self, mine: Any, theirs: Any) -> bool:
        """Tell whether what comes next in both is alike for certain."""
        try:
            self._picklers[0].dump(mine)
            self._picklers[1].dump(theirs)
            same = self._written[0] == self._written[1]
        except Exception:
            same = False
        for sink, pickler in zip(self._written, self._picklers):
            sink.clear()
            if not same:  # what each remembers no longer corresponds
                pickler.clear_memo()
        return same


class _Alike:
    """Tells what is alike: two values by their parts, and many by numbers, of which alike values get the same.

    What it has seen it remembers: O(size) for all that one comparison asks. In a cycle, and below _DEEPEST levels, only
    what is one object is alike: there it is left to _Twins to prove more.
    """

    def __init__(self) -> None:
        self._verdicts: Dict[Tuple[int, int], bool] = {}
        self._known: Dict[int, int] = {}  # the numbers of containers, by their ids
        self._numbers: Dict[Any, int] = {}
        self._strange: Dict[int, List[Tuple[Any, int]]] = {}  # by type: what has no hash, with its number
        self._at: Dict[int, int] = {}  # by type: how far of these the present sequence has met again
        self._last = self._depth = 0

    def alike(self, one: Any, other: Any) -> bool:
        """Tell whether two values are alike."""
        kind = type(one)
        if one is other or kind is not type(other):
            return one is other
        if kind not in _CONTAINERS or kind is bytearray:
            return _equal(one, other)
        pair = id(one), id(other)
        if pair not in self._verdicts and self._depth < _DEEPEST:  # to catch RecursionError here would abort Python 3.8
            self._verdicts[pair] = False  # until known better; in a cycle it stays
            self._depth += 1
            self._verdicts[pair] = len(one) == len(other) and self._parts_alike(one, other, kind)
            self._depth -= 1
        return self._verdicts.get(pair, False)

    def _parts_alike(self, one: Any, other: Any, kind: type) -> bool:
        if _fact(one) != _fact(other):
            return False
        if kind not in _BY_MEMBER and kind not in _BY_KEY:
            return self._all_alike(list(one), list(other))
        mine, theirs = self.tokens(one, other)
        if kind in _BY_MEMBER:
            return sorted(mine) == sorted(theirs)
        if kind is OrderedDict and mine != theirs:
            return False
        parts, twins = dict(zip(mine, one.values())), dict(zip(theirs, other.values()))
        if len(parts) < len(one):  # two NaN are keys of one dict: which is which cannot be told
            return self.number(one) == self.number(other)
        return parts.keys() == twins.keys() and self._all_alike([*parts.values()], [twins[token] for token in parts])

    def _all_alike(self, mine: List[Any], theirs: List[Any]) -> bool:
        if len(mine) < _MANY:
            return all(map(self.alike, mine, theirs))
        return self.run(mine, theirs) == len(mine)

    def run(self, mine: Sequence[Any], theirs: Sequence[Any]) -> int:
        """Return how many items at the start of two sequences are alike."""
        return next(self.unlike(mine, theirs), min(len(mine), len(theirs)))

    def unlike(self, mine: Sequence[Any], theirs: Sequence[Any]) -> Iterator[int]:
        """Yield the positions at which two sequences are not alike, up to the end of the shorter one.

        Twins prove stretches alike; one that they don't is cut in eight, and at last looked at item by item.
        """
        most = min(len(mine), len(theirs))
        many = _MANY if most and type(mine[0]) in _CONTAINERS else 32 * _MANY
        twins, start, ends = _Twins(), 0, deque(range(many, most + many, many))
        while start < most:
            end = min(ends[0], most)
            few = (end - start) // 8
            if twins.same(mine[start:end], theirs[start:end]):
                start = ends.popleft()
            elif few > 1:
                ends.extendleft(range(end - few, start, -few))
            else:
                yield from (place for place in range(start, end) if not self.alike(mine[place], theirs[place]))
                start = ends.popleft()

    def tokens(self, one: Iterable[Any], other: Iterable[Any]) -> List[List[Any]]:
        """Return what stands for the items of both, equal where they are alike: numbers, or the items themselves."""
        if _certain(one, other):
            return [list(one), list(other)]
        tokens: List[List[Any]] = []
        begin = {kind: len(met) for kind, met in self._strange.items()}
        for side in (one, other):
            self._at = dict(begin)
            tokens.append(list(map(self.number, side)))
        return tokens

    def number(self, value: Any) -> int:
        """Return the number of one value."""
        kind = type(value)
        if kind in _CONTAINERS:
            return self._known.get(id(value)) or self._number_container(value, kind)
        self._last += 1
        try:
            if kind not in _ATOMS:
                hash(value)  # before it is compared: what has none is compared with its like only
            return self._numbers.setdefault((kind, value if value == value else _GONE), self._last)
        except Exception:  # no hash, or a comparison that fails
            if _is_atom(value):
                return self._numbers.setdefault((kind, repr(value)), self._last)
            return self._number_strange(value, kind)

    def _number_container(self, value: Any, kind: type) -> int:
        self._last += 1
        self._known[id(value)] = number = self._last  # its own, until known better; in a cycle it stays
        if self._depth < _DEEPEST:
            self._depth += 1
            self._known[id(value)] = number = self._numbers.setdefault(self.key(value, kind), number)
            self._depth -= 1
        return number

    def key(self, value: Any, kind: type) -> Tuple[Any, ...]:
        """Return the numbers of a container's parts, in a form that is equal where the containers are alike."""
        if kind is bytearray:
            return kind, bytes(value)
        numbers: Iterable[Any] = map(self.number, value)
        if kind in _BY_KEY:
            numbers = zip(numbers, map(self.number, value.values()))
        return (kind, _fact(value), *(sorted(numbers) if kind in _UNORDERED else numbers))

    def _number_strange(self, value: Any, kind: type) -> int:
        """Number an object without a hash: it is held against the few that stood where it may belong."""
        met, at = self._strange.setdefault(id(kind), []), self._at.get(id(kind), 0)
        for place in range(max(0, at - 4), min(at + 8, len(met))):
            if met[place][0] is value or _equal(met[place][0], value):
                self._at[id(kind)] = place + 1
                return met[place][1]
        met.append((value, self._last))
        return self._last


# Alignment of two sequences of tokens. A block (i, j, length) says where they run alike; blocks rise in both. First the
# shortest way by Myers' greedy algorithm ("An O(ND) difference algorithm", 1986), bounded; where the way is longer,
# items that stand once on each side are anchors (Heckel 1978; patience diff), and it is tried again between them.

_Block = Tuple[int, int, int]


def _shortest(one: Sequence[Any], other: Sequence[Any], most: int) -> Tuple[bool, List[_Block]]:
    """Tell whether *most* additions and removals lead to the ends; and the blocks on the way that leads furthest."""
    m, n, nowhere = len(one), len(other), (-1, None)
    ends: Dict[int, Tuple[int, Any]] = {1: (0, None)}  # by diagonal: how far in one, and the blocks on the way
    for edits in range(most + 1):
        for k in range(-edits, edits + 1, 2):
            removed, added = ends.get(k - 1, nowhere), ends.get(k + 1, nowhere)
            x, way = added if removed[0] < added[0] else (removed[0] + 1, removed[1])
            if x < m and x - k < n and one[x] == other[x - k]:
                run = _common(one, x, other, x - k)
                x, way = x + run, (way, (x, x - k, run))
            ends[k] = x, way
            if x >= m and x - k >= n:
                return True, _unwound(way)
    return False, _unwound(max(ends.items(), key=lambda end: 2 * end[1][0] - end[0])[1][1])


def _unwound(way: Any) -> List[Any]:
    """Return what a way holds, first to last: it is None, or a pair of the way before and the last thing."""
    things = []
    while way is not None:
        way, thing = way
        things.append(thing)
    return things[::-1]


def _anchors(one: Sequence[Any], other: Sequence[Any]) -> List[Tuple[int, int]]:
    """Return where items stand that occur once in each, as long a rising row of them as there is. O(n log n)."""
    mine, theirs = Counter(one), Counter(other)
    places = {item: j for j, item in enumerate(other) if theirs[item] == 1}
    lowest: List[int] = []  # by length of a rising row: the lowest place in which one ends
    rows: List[Any] = [None]
    for i, item in enumerate(one):
        if mine[item] == 1 and item in places:
            length = bisect_left(lowest, places[item])
            lowest[length : length + 1] = [places[item]]
            rows[length + 1 : length + 2] = [(rows[length], (i, places[item]))]
    return _unwound(rows[-1])


def _aligned(one: Sequence[Any], other: Sequence[Any]) -> List[_Block]:
    """Return the blocks at which two sequences run alike. Near linear, whatever they hold."""
    whole, blocks = _shortest(one, other, _MOST_EDITS)
    if whole:
        return blocks
    anchors = _anchors(one, other)
    met = set(anchors)
    begins = [(0, 0), *((i, j) for i, j in anchors if (i - 1, j - 1) not in met), (len(one), len(other))]
    most = int(max(4, ((_STEPS + 4 * len(one)) / len(begins)) ** 0.5))
    blocks = []
    for (i, j), (end, stop) in zip(begins, begins[1:]):
        blocks += [(i + x, j + y, run) for x, y, run in _shortest(one[i:end], other[j:stop], most)[1]]
    return blocks


class _Comparison(_Alike):
    """Collects the changes that lead from one value to another."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: List[Change] = []
        self._met: Dict[Tuple[int, int], bool] = {}  # the pairs whose parts were compared; True: met again

    def compare(self, old: Any, new: Any, path: Tuple[Any, ...]) -> None:
        """Add the changes from *old* to *new*."""
        kind, pair, start = type(old), (id(old), id(new)), len(self.changes)
        if kind is type(new) and kind in _PARTED and len(path) < _DEEPEST:
            again = self._met[pair] = pair in self._met
            fine = not again and (self._by_index if kind in _BY_INDEX else self._by_key)(old, new, path)
            if fine and not self._met[pair]:  # else it stands in itself
                return
            del self.changes[start:]
        if not self.alike(old, new):
            self.changes.append(Change("replace", path, old, new))

    def _by_key(self, old: Any, new: Any, path: Tuple[Any, ...]) -> bool:
        """Add the changes between two dicts, and tell whether they will do; a set is a dict of its members here."""
        if type(old) in _BY_MEMBER:
            old, new = dict(zip(old, old)), dict(zip(new, new))
        if _fact(old) != _fact(new):
            return False
        keys, before, after, come = list(old), list(old.values()), list(new.values()), []
        if not _certain(old, new) or keys != list(new):  # where they are the same, 40 us less for 200
            tokens = self.tokens(old, new)
            mine, theirs = dict(zip(tokens[0], old)), dict(zip(tokens[1], new))
            kept = [token for token in mine if token in theirs]
            gone = [token for token in mine if token not in theirs]
            come = [token for token in theirs if token not in mine]
            if len(mine) < len(old) or len(theirs) < len(new):  # two NaN are keys
                return False
            if type(old) is OrderedDict and tokens != [kept + gone, kept + come]:
                return False
            keys, come = [mine[token] for token in kept], [theirs[token] for token in come]
            before, after = [old[key] for key in keys], [new[theirs[token]] for token in kept]
            lost = [mine[token] for token in reversed(gone)]  # backwards, so that the inverse restores their order
            self.changes += [Change("remove", (*path, key), old[key], None) for key in lost]
        for place in self.unlike(before, after):
            self.compare(before[place], after[place], (*path, keys[place]))
        self.changes += [Change("add", (*path, key), None, new[key]) for key in come]
        return True

    def _by_index(self, old: Any, new: Any, path: Tuple[Any, ...]) -> bool:
        """Add the changes between two lists or tuples, which will do."""
        head = self.run(old, new)
        stop = head - 1 if head else None
        tail = self.run(old[:stop:-1], new[:stop:-1])
        mine, theirs = old[head : len(old) - tail], new[head : len(new) - tail]
        blocks = _aligned(*self.tokens(mine, theirs)) if len(mine) > 1 and len(theirs) > 1 else []
        i = j = 0
        for x, y, length in [*blocks, (len(mine), len(theirs), 0)]:
            self._gap(mine[i:x], theirs[j:y], path, head + j)
            i, j = x + length, y + length
        return True

    def _gap(self, mine: Sequence[Any], theirs: Sequence[Any], path: Tuple[Any, ...], at: int) -> None:
        """Add the changes between two stretches that begin at index *at* of the new sequence."""
        i = j = 0
        for x, y in [*self._pairs(mine, theirs), (len(mine), len(theirs))]:
            self.changes += [Change("remove", (*path, at + j), item, None) for item in mine[i:x]]
            self.changes += [Change("add", (*path, at + place), None, theirs[place]) for place in range(j, y)]
            if x < len(mine):
                self.compare(mine[x], theirs[y], (*path, at + y))
            i, j = x + 1, y + 1

    def _pairs(self, mine: Sequence[Any], theirs: Sequence[Any]) -> Iterable[Tuple[int, int]]:
        """Return which items replace each other: by position, or by likeness where there is a choice and few items."""
        m, n, few = len(mine), len(theirs), min(len(mine), len(theirs))
        if m == n or max(m, n) > _CHOICE:
            return zip(range(few), range(few))
        likeness = [[self._likeness(one, other) for other in theirs] for one in mine]
        ways = product(combinations(range(m), few), combinations(range(n), few))
        return zip(*max(ways, key=lambda way: sum(likeness[i][j] for i, j in zip(*way))))

    def _likeness(self, one: Any, other: Any) -> float:
        if not type(one) is type(other) in _PARTED:
            return 0.0
        mine, theirs = set(self.key(one, type(one))), set(self.key(other, type(other)))
        return len(mine & theirs) / max(len(mine), len(theirs))


def compare_values(old: Any, new: Any) -> List[Change]:
    """Return the changes that lead from *old* to *new*, in the order in which they apply; [] if they are alike.

    They apply one after another, as in JSON Patch (RFC 6902): an index counts in the sequence that the changes
    before it have left. dicts are compared by key (their order counts in an OrderedDict only), lists and tuples by
    alignment, sets by membership, and all else by equality, for exact builtin types only. Types count: True is not
    1, and 1 is not 1.0. The changes hold parts of both values, not copies. Near linear in the size of both.

    >>> for change in compare_values({"a": [1, 2, 3]}, {"a": [1, 9, 2, 3], "b": True}):
    ...     print(*change)
    add ('a', 1) None 9
    add ('b',) None True
    """
    comparison = _Comparison()
    try:
        if old is not new:
            comparison.compare(old, new, ())
    except RecursionError:
        return [Change("replace", (), old, new)]
    return comparison.changes


def _alike(one: Any, other: Any) -> bool:
    """Tell whether two values are alike: of one type and equal, in every part, and NaN like NaN.

    Where comparing raises or has no truth value, they are not, unless they are one object. O(size).

    >>> _alike({"a": [1, float("nan")]}, {"a": [1, float("nan")]}), _alike(1, True), _alike({1: 0}, {1.0: 0})
    (True, False, False)
    """
    if one is other or type(one) is not type(other):
        return one is other
    try:
        return _Twins().same(one, other) or _Alike().alike(one, other)
    except RecursionError:
        return False


_OPPOSITE = {"add": "remove", "remove": "add", "replace": "replace"}


def _numbered(changes: Iterable[_AnyChange]) -> Iterator[Tuple[int, _AnyChange]]:
    """Yield changes with their numbers; ValueError for what is none."""
    for number, change in enumerate(changes):
        op, path = change[:2]
        if not isinstance(op, str) or op not in _OPPOSITE or not isinstance(path, tuple):
            raise ValueError(f"change {number} is not add, remove or replace at a tuple of keys: {op!r} at {path!r}")
        yield number, change


def invert(changes: Iterable[_AnyChange]) -> List[Change]:
    """Return the changes that take *changes* back.

    >>> invert(compare_values([1], [1, 2]))
    [Change(op='remove', path=(1,), old=2, new=None)]
    """
    return [Change(_OPPOSITE[op], path, new, old) for _, (op, path, old, new) in _numbered(changes)][::-1]


class _Opened:
    """A container while changes are applied; parts of it may be open as well. A set is a dict of its members here."""

    def __init__(self, value: Any, number: Callable[[Any], int]) -> None:
        self.kind, self._number = type(value), number
        if self.kind not in _PARTED:
            raise ValueError(f"the way leads into a {self.kind.__name__}, which can only be replaced as a whole")
        by_index, by_member = self.kind in _BY_INDEX, self.kind in _BY_MEMBER
        self.parts: Any = list(value) if by_index else dict(zip(value, value)) if by_member else copy.copy(value)
        self._keys = {} if by_index else {number(key): key for key in value}  # of a dict, by number

    def place(self, op: str, key: Any) -> Any:
        """Return where an operation belongs: an index, or the key there that is alike; ValueError if there is none."""
        size, why = len(self.parts), "does not hold it"
        if self.kind in _BY_INDEX:
            fits, there = type(key) is int and 0 <= key < size + (op == "add"), key
        elif op == "add":
            fits, there, why = self._number(key) not in self._keys and key not in self.parts, key, "holds its equal"
        else:
            there = self._keys.get(self._number(key), _GONE)
            fits = there is not _GONE and (op == "remove" or self.kind in _BY_KEY)  # members are what they are
        if not fits:
            raise ValueError(f"a {self.kind.__name__} of length {size} is there, which {why}")
        return there

    def put(self, op: str, place: Any, new: Any) -> None:
        """Do what an operation says."""
        if op == "add" and self.kind in _BY_INDEX:
            self.parts.insert(place, new)
        elif op == "remove":
            del self.parts[place]
            self._keys.pop(self._number(place), None)
        else:
            self.parts[place] = new
            if op == "add":
                self._keys[self._number(place)] = place

    def close(self) -> Any:
        """Return the container that has become of its parts."""
        for place, part in enumerate(self.parts) if self.kind in _BY_INDEX else list(self.parts.items()):
            if type(part) is _Opened:
                self.parts[place] = part.parts
        return self.parts if type(self.parts) is self.kind else self.kind(self.parts)


def _applied(value: Any, changes: Iterable[_AnyChange]) -> Any:
    """Return *value* with *changes* applied; it is left as it is, and shared wherever no change leads."""
    number = _Alike().number
    opened = [_Opened([value], number)]  # so that the value is a part like any other
    for count, (op, path, _, new) in _numbered(list(changes)):
        try:
            at, place = opened[0], 0
            if not path and op != "replace":
                raise ValueError("the value as a whole can only be replaced")
            for depth, key in enumerate(path, 1):
                part = at.parts[place]
                if type(part) is not _Opened:
                    at.parts[place] = part = _Opened(part, number)
                    opened.append(part)
                at, place = part, part.place(op if depth == len(path) else "", key)
            at.put(op, place, new)
        except (ValueError, TypeError) as misfit:  # TypeError: a key without a hash
            raise ValueError(f"change {count}, {op} at {path!r}, does not fit: {misfit}") from None
    for container in reversed(opened):  # each was opened before those within it
        container.parts = container.close()
    return opened[0].parts[0]


def apply_changes(value: _T, changes: Iterable[_AnyChange]) -> _T:
    """Return *value* with *changes* applied one after another, as they come from `compare_values`.

    Neither is altered, and the result shares no mutable part with them. What a change calls old is not verified.
    Raises ValueError for a change that does not fit, with its number, and SnapshotError for what cannot be copied.

    >>> old, new = {"a": [1, 2, 3]}, {"a": [1, 3]}
    >>> apply_changes(old, compare_values(old, new)), apply_changes(new, invert(compare_values(old, new)))
    ({'a': [1, 3]}, {'a': [1, 2, 3]})
    """
    return _unpack(_pack(_applied(value, changes)))  # type: ignore[no-any-return]


# -- merging: what two sides made of the same base

Resolver = Callable[[Tuple[Any, ...], Any, Any, Any], Any]  # (path, base, ours, theirs) to what shall stand there


def ours(path: Tuple[Any, ...], base: Any, ours: Any, theirs: Any) -> Any:
    """Return *ours*: a resolver for merge() that keeps what the variable has."""
    return ours


def theirs(path: Tuple[Any, ...], base: Any, ours: Any, theirs: Any) -> Any:
    """Return *theirs*: a resolver for merge() that takes what the other has."""
    return theirs


def _merged(name: str, base: Any, ours: Any, theirs: Any, resolve: Optional[Resolver]) -> Any:
    """Return what both sides made of *base*; MergeConflict listing all conflicts if there is no one to resolve them."""
    conflicts: List[Tuple[Tuple[Any, ...], Any, Any, Any]] = []

    def note(*conflict: Any) -> None:
        conflicts.append(conflict)

    try:
        merged = _merge_at((), base, ours, theirs, resolve or note)
    except RecursionError:  # a cycle: one conflict
        conflicts.clear()
        merged = (resolve or note)((), base, ours, theirs)
    if conflicts:
        raise MergeConflict(name, conflicts)
    return merged


def _merge_at(path: Tuple[Any, ...], base: Any, ours: Any, theirs: Any, decide: Resolver) -> Any:
    """Return what shall stand at *path*; DELETED stands for nothing, on every side."""
    if _alike(ours, theirs) or _alike(base, theirs):
        return ours
    if _alike(base, ours):
        return theirs
    if len(path) > _DEEPEST:
        raise RecursionError  # counted: when the stack itself ends, Python 3.8 may not recover
    if type(base) is type(ours) is type(theirs):
        if type(base) in _BY_MEMBER:
            return (ours | theirs) - (base - ours) - (base - theirs)
        if type(base) in _BY_KEY and _can_merge(base, ours) and _can_merge(base, theirs):
            return _merge_mappings(path, base, ours, theirs, decide)
    return decide(path, base, ours, theirs)


def _can_merge(base: Any, side: Any) -> bool:
    """Tell whether two dicts of one kind differ in their keys and values only, not in their order or factory."""
    moved = type(base) is OrderedDict and [key for key in base if key in side] != [key for key in side if key in base]
    return bool(_fact(base) == _fact(side)) and not moved


def _merge_mappings(path: Tuple[Any, ...], base: Any, ours: Any, theirs: Any, decide: Resolver) -> Any:
    merged = ours.copy()
    for key in {**ours, **theirs, **base}:
        sides = base.get(key, DELETED), ours.get(key, DELETED), theirs.get(key, DELETED)
        part = _merge_at((*path, key), *sides, decide)
        if part is not DELETED:
            merged[key] = part
        elif key in merged:
            del merged[key]
    return merged


# -- blaming: which record each leaf is from


def _parts(value: Any) -> Optional[List[Tuple[Any, Any]]]:
    """Return the steps and parts of a container that paths lead into; None for anything else."""
    kind = type(value)
    if kind in _BY_KEY:
        return list(value.items())
    if kind in _BY_INDEX:
        return list(enumerate(value))
    return list(zip(value, value)) if kind in _BY_MEMBER else None


def _part_at(value: Any, path: Iterable[Any]) -> Any:
    """Return what stands at *path* of a value; DELETED for nothing."""
    for step in path:
        kind = type(value)
        try:
            if kind in _BY_KEY:
                value = value.get(step, DELETED)
            elif kind in _BY_MEMBER:
                value = step if step in value else DELETED
            elif kind in _BY_INDEX and type(step) is int and 0 <= step < len(value):
                value = value[step]
            else:
                return DELETED
        except TypeError:  # a step that has no hash
            return DELETED
    return value


def _lost(
    now: Any, newer: Any, older: Any, path: Tuple[Any, ...], above: Tuple[int, ...] = ()
) -> Iterator[Tuple[Any, ...]]:
    """Yield the paths of those leaves of *now* that don't stand in *older*, where that is unlike *newer*.

    Empty containers, and cycles, are leaves.
    """
    parts = None if id(now) in above else _parts(now)
    if not parts:
        if not _alike(now, older):
            yield path
        return
    sides = [[_part_at(side, (step,)) for step, _ in parts] for side in (newer, older)]
    for place in _Alike().unlike(*sides):  # whatever the two have in common costs little: 0.4 ms for 200 keys
        step, part = parts[place]
        yield from _lost(part, sides[0][place], sides[1][place], (*path, step), (*above, id(now)))


def _blamed(
    part: Any, path: Tuple[Any, ...], records: List[ChangeRecord[_T]]
) -> Dict[Tuple[Any, ...], ChangeRecord[_T]]:
    """Return the record that brought each leaf of a part of the newest value, by its path, in the value's order."""
    leaves = list(_lost(part, part, DELETED, path))
    blamed: Dict[Tuple[Any, ...], ChangeRecord[_T]] = {}
    newer, held = records[-1], part
    for older in reversed(records[:-1]):
        if older.index + 1 != newer.index or len(blamed) == len(leaves):
            break  # what a gap held, nobody knows
        holds = _part_at(_value_again(older), path)
        for leaf in _lost(part, held, holds, path):
            blamed.setdefault(leaf, newer)
        newer, held = older, holds
    return {leaf: blamed.get(leaf, newer) for leaf in leaves}


# == Retention: which records to forget =======================================
#
# Pure: a head and limits in, an index out. The initial record and the current one always stay; a record between them
# stays while both limits allow it.


class _Keep(NamedTuple):
    """How much of the past is kept: so many of the newest records, and those younger than so many nanoseconds."""

    last: Optional[int]
    age: Optional[int]


def _keep(last: Optional[int], age: Union[timedelta, float, None]) -> Optional[_Keep]:
    """Return the limits as a _Keep, None where there are none; TypeError or ValueError for what is no limit."""
    if last is None and age is None:
        return None
    if last is not None:
        _whole("keep_last", last, least=0)
    if isinstance(age, (int, float)) and not isinstance(age, bool):
        try:
            age = timedelta(seconds=age)
        except (OverflowError, ValueError):
            raise ValueError(f"keep_for is a timedelta or a number of seconds, not {age!r}") from None
    if age is not None and not isinstance(age, timedelta):
        raise TypeError(f"keep_for is a timedelta or a number of seconds, not {age!r}")
    if age is not None and age < timedelta(0):
        raise ValueError(f"keep_for is not negative; 0 keeps the initial record and the current one, not {age}")
    return _Keep(last, None if age is None else age // _MICROSECOND * 1_000)


def _first_to_keep(head: _Head, keep: _Keep, now: int) -> int:
    """Return the index of the oldest record that *keep* allows besides the initial one. O(log n)."""
    count, _, layout, _ = head
    first = layout.first
    if keep.last is not None:
        first = max(first, count - keep.last)
    if keep.age is not None:
        begin, end = layout.first - layout.shift, count - layout.shift
        first = max(first, bisect_left(layout.times, now - keep.age, begin, end) + layout.shift)
    return min(first, max(layout.first, count - 1))


# == Middleware: what is stored instead of a value ============================
#
# A chain of transforms between a value and what the log keeps of it. Knows values and stored values, no logs or locks.
# What encode() makes is packed like any value; decode() makes the value of it again, on every way out.


class _TwoWay(Protocol):
    """Middleware that goes both ways: decode(encode(value)) equals value."""

    def encode(self, value: Any) -> Any:
        """Return what is to be stored instead of *value*; what it raises reaches the caller of set()."""

    def decode(self, stored: Any) -> Any:
        """Return the value of which encode() made *stored*."""


Middleware = Union[_TwoWay, Callable[[Any], Any]]  # a plain function transforms on the way in only


class _Chain:
    """The middleware of one variable, in the order in which it encodes."""

    __slots__ = ("copies", "decoders", "encoders", "isolate", "middleware", "name")

    def __init__(self, name: str, middleware: Tuple[Middleware, ...], isolate: Callable[[Any], Any]) -> None:
        self.name, self.middleware, self.isolate = name, middleware, isolate
        steps: Tuple[Any, ...] = middleware
        two_way = [step for step in steps if _is_two_way(step)]
        self.encoders = [(step.encode, True) if _is_two_way(step) else (step, False) for step in steps]
        self.decoders = [step.decode for step in reversed(two_way)]
        last = type(two_way[0]) if two_way else None
        self.copies = last not in (Compress, Encrypt)  # whose values are made of bytes; a subclass may keep them

    def encode(self, value: Any, again: bool = False) -> Any:
        """Return what is stored instead of *value*; *again* leaves out what it has been through when it first came."""
        for encode, both_ways in self.encoders:
            if both_ways or not again:
                value = encode(value)
        return value

    def open(self, index: int, stored: Any) -> Any:
        """Return the value of record *index* from what is stored, isolated; MiddlewareError if that can't be done."""
        if stored is DELETED:
            return stored
        try:
            value = _unpack(stored)
            for decode in self.decoders:
                value = decode(value)
            return _unpack(self.isolate(value)) if self.copies else value
        except Exception as error:
            raise MiddlewareError(self.name, index, f"{type(error).__name__}: {error}") from error


class _NotGiven:
    """Stands for middleware that values in a file went through, until the owner gives it again."""

    def encode(self, value: Any) -> Any:
        """Return what decode() made *value* of; ValueError for any other."""
        if type(value) is not Unresolved or value.name != "middleware":
            raise ValueError("its values go through middleware: load or watch it with middleware=[...]")
        return value.data

    def decode(self, stored: Any) -> Any:
        """Return what stands for the value."""
        return Unresolved("middleware", stored)


_NOT_GIVEN = _NotGiven()


def _is_two_way(step: Any) -> bool:
    return hasattr(step, "encode") and hasattr(step, "decode")


def _checked_middleware(given: Optional[Iterable[Middleware]]) -> Tuple[Middleware, ...]:
    """Return middleware as a tuple; TypeError for what can't transform."""
    if not isinstance(given, (Iterable, type(None))) or isinstance(given, str):
        raise TypeError(f"middleware is a list of functions and of objects with encode and decode, not {given!r}")
    middleware = tuple(given or ())
    for step in middleware:
        if _is_two_way(step) and isinstance(step, type):
            raise TypeError(f"middleware holds objects, and {step.__name__} is a class: write {step.__name__}()")
        if not _is_two_way(step) and not callable(step):
            raise TypeError(f"middleware holds functions, and objects with encode and decode, not {step!r}")
    return middleware


class _Packing:
    """Middleware that works on the packed bytes of values: of builtin and standard types only."""

    def _packed(self, value: Any) -> bytes:
        packed = io.BytesIO()
        try:
            _Packer(packed, 5).dump(value)
        except _Foreign:
            kind, own = type(value).__name__, type(self).__name__
            raise TypeError(
                f"{own} takes builtin and standard values, and this {kind} is or holds another;"
                f" middleware before {own} can make a dict of it"
            ) from None
        return packed.getvalue()

    def _unpacked(self, packed: bytes) -> Any:
        return _Unpacker(packed).load()


class Compress(_Packing):
    """Middleware that keeps values compressed with zlib, at a *level* from 1 (fast) to 9 (small).

    Takes values of builtin and standard types; TypeError for others. Source code becomes 4 times smaller, at 28 MB/s
    in and 280 MB/s out; below 100 bytes nothing is gained.

    >>> len(AlmaVar("log", "", middleware=[Compress()]).set("all is well. " * 1_000).get())
    13000
    """

    def __init__(self, level: int = 6) -> None:
        if _whole("level", level, 1) > 9:
            raise ValueError(f"level is at most 9, not {level}")
        self.level = level

    def __repr__(self) -> str:
        return f"Compress(level={self.level})"

    def encode(self, value: Any) -> bytes:
        """Return the compressed bytes of *value*; TypeError for one of a type that is neither builtin nor standard."""
        import zlib

        return zlib.compress(self._packed(value), self.level)

    def decode(self, stored: bytes) -> Any:
        """Return the value; zlib.error or UnpicklingError for bytes that encode() did not make."""
        import zlib

        return self._unpacked(zlib.decompress(stored))


class Encrypt(_Packing):
    """Middleware that keeps values encrypted and authenticated: Fernet, AES-128-CBC with HMAC-SHA256.

    *keys* is one key or a list: the first encrypts, all are tried to decrypt, so a new first key rotates. Needs the
    extra ``crypto``: MissingDependencyError without it. ValueError for what is no key. Labels, times and the length
    of a value stay visible. Takes values of builtin and standard types.
    """

    def __init__(self, keys: Union[str, bytes, Iterable[Union[str, bytes]]]) -> None:
        fernet = _of_extra("crypto", "cryptography.fernet")
        if not isinstance(keys, Iterable):
            raise TypeError(f"Encrypt takes a key or a list of keys, not a {type(keys).__name__}")
        given = [keys] if isinstance(keys, (str, bytes)) else list(keys)
        if not given:
            raise ValueError("Encrypt needs at least one key: Encrypt.new_key() makes one")
        try:
            self._box = fernet.MultiFernet([fernet.Fernet(key) for key in given])
        except (ValueError, TypeError):
            raise ValueError("a key is 32 bytes in URL-safe base64: Encrypt.new_key() makes one") from None
        self._wrong, self._keys = fernet.InvalidToken, len(given)

    def __repr__(self) -> str:
        return f"Encrypt(<{self._keys} keys>)"

    @staticmethod
    def new_key() -> bytes:
        """Return a new random key. Keep it: without it nothing that it encrypted can be read."""
        key: bytes = _of_extra("crypto", "cryptography.fernet").Fernet.generate_key()
        return key

    def encode(self, value: Any) -> bytes:
        """Return the encrypted bytes of *value*; TypeError for one of a type that is neither builtin nor standard."""
        token: bytes = self._box.encrypt(self._packed(value))
        return token

    def decode(self, stored: bytes) -> Any:
        """Return the value; ValueError if none of the keys opens it."""
        try:
            return self._unpacked(self._box.decrypt(stored))
        except self._wrong:
            raise ValueError(f"none of the {self._keys} keys opens this, or it is damaged") from None


# == Variables: the lock, the clock, the guests, the verbs ====================
#
# Knows the log, and what may happen at once: threads, signals, listeners that set. AlmaVar's public methods let
# _Monitor.run take the lock where they change something; methods with an underscore that change something assume
# that it is held. Validators and update functions run under the lock, listeners after it has been let go.


Listener = Callable[["AlmaVar[_T]", ChangeRecord[_T]], object]  # is told of a change


# causal depth of what its listeners change, time, variable, index, stored value, label, listeners, those yet to be told
_Notice = Tuple[int, int, Any, int, Any, _Label, Tuple[Any, ...], Iterator[Any]]


def _report(what: str, *args: Any) -> None:
    """Log the exception being handled: nobody above could do anything about it."""
    import logging  # 15 ms, and only failures need it

    logging.getLogger("alma").exception(what, *args)


def _warn(what: str, *args: Any) -> None:
    """Log what nobody was there to be told."""
    import logging

    logging.getLogger("alma").warning(what, *args)


class _Monitor:
    """The lock that variables share, and with it the clock, the running change and the notices to deliver.

    *mark* is None when the next change may simply go ahead. It is _RUNNING within a change: a change that finds it
    so was begun by the same thread (a signal handler, __del__, a guest) and is queued. It is the open transaction
    or _CLOSED otherwise; *idle* is what it returns to.
    """

    __slots__ = (
        "__weakref__", "cause", "clock", "condition", "followers", "forms", "idle", "journal", "lock", "mark", "names",
        "nesting", "notices", "queued", "time", "turn", "types", "waiters", "writer",
    )  # fmt: skip

    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock = clock
        self.time = -(1 << 63)  # of the newest record
        self.types: Dict[str, type] = {}  # the classes, by name, that values in files may be of
        self.forms: Dict[type, Any] = {}  # how files write the classes that schemas mention, which alone read them
        self.idle: Any = None
        self.journal: Any = None  # the file that each change goes to before anybody sees it
        self.queued: Deque[Tuple[Callable[..., Any], Tuple[Any, ...], int]] = deque()
        self.nesting = 0  # how many queued changes led to the running one
        self.notices: Deque[_Notice] = deque()
        self.turn: Dict[int, int] = {}  # 0: the thread that delivers notices
        self.cause = 0  # how many listeners' changes led to the one that is being delivered
        self.names: Optional[_Table] = None  # a registry's variables
        self.followers: Dict[Any, Callable[[Any], None]] = {}  # told of each change, under the lock; must be quick
        self.writer: Dict[int, Any] = {}  # 0: the thread that makes the changes for which no coroutine should wait
        self._fresh()
        _monitors.add(weakref.ref(self, _monitors.discard))

    def _fresh(self) -> None:
        """Own a lock that nobody holds."""
        self.lock: Any = threading.RLock()
        self.condition = threading.Condition(self.lock)
        self.mark: Any = self.idle
        self.waiters = 0

    def after_fork(self) -> None:
        """In a fork's child: own a fresh lock, unless the thread that forked held the old one and will release it."""
        if self.turn.get(0) != _get_ident():  # else it forked in a listener, and goes on with the notices
            self.turn.clear()
            self.notices.clear()  # the parent's threads deliver them
        self.writer.clear()
        if self.journal is not None:
            self.journal.after_fork()
        if self.is_held():
            self.condition, self.waiters = threading.Condition(self.lock), 0
            return
        self.queued.clear()
        if self.transaction is not None:
            self.transaction.owner = 0
        self.settle()
        self._fresh()

    @property
    def transaction(self) -> Any:
        """The open transaction, or None."""
        return None if self.idle is None or self.idle is _CLOSED or self.idle.over else self.idle

    def now(self) -> int:
        """Return the time, in nanoseconds UTC, later than that of any record before."""
        now = self.clock()
        (self.time,) = array("q", [now if now > self.time else self.time + 1])  # raises for what is no time
        return self.time

    def run(self, step: Callable[..., Any], *args: Any) -> Any:
        """Run step(*args) as one change and return what it returns; queue it (None) inside a running change."""
        if self.is_nested():
            self.queued.append((step, args, self.depth() + 1))
            return None
        changed, mine = False, 0
        try:
            with self.lock:
                self.settle()
                before, inside = self.time, self.transaction is not None
                try:
                    return self._perform(step, args)
                finally:
                    self.catch_up()
                    mine = self.time
                    changed = mine != before and not inside
        finally:
            if changed and self.notices:
                self.deliver(mine)

    def commit(self, step: Callable[..., Any], *args: Any) -> Any:
        """As run(), but leave it to the caller to have the listeners told."""
        if self.is_nested():
            return self.run(step, *args)
        with self.lock:
            self.settle()
            try:
                return self._perform(step, args)
            finally:
                self.catch_up()

    def at_once(self, step: Callable[..., Any], *args: Any) -> Any:
        """As run(whole), but inside a running change do it there and then: somebody waits for the result."""
        return self.whole(step, *args) if self.is_nested() else self.run(self.whole, step, *args)

    def whole(self, step: Callable[..., Any], *args: Any) -> Any:
        """Run step(*args), which changes more than one record: for a journal, in a transaction of its own."""
        return step(*args) if self.journal is None else self.journal.whole(step, args)

    def is_nested(self) -> bool:
        """Tell whether this thread is inside a running change. To be asked before taking the lock."""
        return self.mark is _RUNNING and self.is_held()

    def let_go(self) -> None:
        """Release the lock if an interrupt has kept a with block from doing so, as before 3.10 it may at its end."""
        if sys.version_info < (3, 10) and self.is_held():
            self.lock.release()

    def is_held(self) -> bool:
        """Tell whether this thread holds the lock."""
        return bool(self.lock._is_owned())  # threading.Condition relies on it as well

    def _perform(self, step: Callable[..., Any], args: Tuple[Any, ...]) -> Any:
        # The mark goes back inside the try and again in except: on 3.8 an interrupt can slip in before a finally.
        self.mark = _RUNNING
        try:
            result = step(*args)
            self.mark = self.idle
            return result
        except Exception:
            self.mark = self.idle
            raise
        except BaseException:
            self.interrupted(self.idle)
            raise

    def interrupted(self, mark: Any) -> None:
        """End a change that an interrupt struck, perhaps just before its followers were told of it."""
        self.mark = mark
        self.tell()

    def catch_up(self) -> None:
        """Commit the changes that were queued inside a running one. Assumes the lock."""
        while self.queued and self.mark is not _RUNNING:
            try:
                step, args, self.nesting = self.queued.popleft()
            except IndexError:
                break  # a signal handler's change came just before and did it
            try:
                self.settle()
                self._perform(step, args)
            except Exception:
                _report("a change made inside another one was refused")
        self.nesting = 0

    def settle(self) -> None:
        """End what was interrupted: a change that the journal may have, a transaction before it was put away."""
        journal = self.journal
        if journal is not None and journal.pending is not None:
            journal.settle()
            self.tell()
        if self.idle is not None and self.idle is not _CLOSED:
            if self.idle.over:
                self.idle.finish()
            else:
                self.idle.require_task()
        if journal is not None and journal.behind:
            journal.catch_up()

    def flush(self) -> None:
        """Return when the listeners of every change so far have run."""
        if _is_busy():
            raise RuntimeError("flush() and close() wait for listeners: call them outside of guests and transactions")
        self.deliver(self.time, wait=True)

    def tell(self, var: Optional[AlmaVar[Any]] = None) -> None:
        """Wake the followers of a variable, whose head has been stored; without one, of all: names may have changed."""
        for follower in list(self.followers.values()):
            follower(var)

    def depth(self) -> int:
        """Return the causal depth of a change made now; RecursionError where it must be a loop."""
        depth = self.cause if self.turn.get(0) == _get_ident() else self.nesting
        if depth >= _DEEPEST_CAUSE:
            raise RecursionError(f"{depth} changes in a row, each made by a guest of the one before: is this a loop?")
        return depth

    def deliver(self, mine: int, wait: bool = False) -> None:
        """Deliver notices in the order of their commits, at least those up to time *mine*; one thread at a time does.

        Where another thread is at it, return, or wait for ours if asked to or if too many are queued. Whose turn it
        is needs no lock: setdefault is atomic, and who gives the turn up looks at the queue once more.
        """
        notices, turn, me = self.notices, self.turn, _get_ident()
        if turn and turn.get(0) == me:
            return  # a listener's own change: its notice waits behind those before it
        try:
            if turn.setdefault(0, me) == me and len(notices) == 1:  # the usual case, without a call and a loop
                self._notify(notices[0])
                notices.popleft()
                self.cause = 0
                turn.pop(0, None)
                if not notices and not self.waiters:
                    return
            self._deliver(me, mine, wait)  # 3.13 lets an interrupt at the end of a loop slip past a try around it
        except BaseException:  # what is left of the notice stays first in the queue
            if turn.get(0) == me:
                del turn[0]
            if self.waiters:
                self._wake()
            raise

    def _deliver(self, me: int, mine: int, wait: bool) -> None:
        notices, turn = self.notices, self.turn
        while True:
            if turn.setdefault(0, me) != me:
                if not self._must_wait(mine, wait):
                    return
                self._await_turn(mine)
                continue
            while notices and not (self.waiters and notices[0][1] > mine):
                self._notify(notices[0])
                notices.popleft()
            self.cause = 0
            turn.pop(0, None)
            if self.waiters:
                self._wake()
                return
            if not notices:
                return

    def _notify(self, notice: _Notice) -> None:
        """Call the listeners that still wait for a record; after an interrupt the rest of them wait on."""
        self.cause, time, var, index, stored, label, listeners, remaining = notice
        if var is None:  # no record, but somebody who waits until those before it have been told of
            for listener in remaining:
                listener()
            return
        if listeners is not var._listeners:
            remaining = filter(var._listeners.__contains__, remaining)  # some have been removed since
        opener = var._log.opener
        shared = None if opener or type(stored) in _OPEN else _make_record(index, stored, time, label)
        for listener in remaining:
            try:
                result = listener(var, shared or _make_record(index, stored, time, label, opener))
                if result is not None:
                    _refuse_coroutine(listener, result, "add the async function itself")
            except Exception:
                _report("listener %r of %r failed at record %d", listener, var._name, index)

    def _pending(self, mine: int) -> bool:
        try:
            return self.notices[0][1] <= mine
        except IndexError:
            return False

    def _must_wait(self, mine: int, wait: bool) -> bool:
        if sys.is_finalizing():  # whose turn it is has been stopped
            return False
        return self._pending(mine) and (wait or (len(self.notices) > _LONGEST_QUEUE and not _is_busy()))

    def _await_turn(self, mine: int) -> None:
        with self.lock:
            self.waiters += 1  # before looking: who gives up the turn looks at this afterwards
            try:
                self.condition.wait_for(lambda: not (self.turn and self._pending(mine)))
            finally:
                self.waiters -= 1

    def _wake(self) -> None:
        with self.lock:
            if self.is_held():  # but for the very end, where nobody is left to wake
                self.condition.notify_all()


_monitors: Set[weakref.ref[_Monitor]] = set()  # a WeakSet is iterated in Python, where another thread may add to it


def _alive() -> List[_Monitor]:
    return [monitor for monitor in (reference() for reference in _monitors.copy()) if monitor is not None]


def _is_busy() -> bool:
    """Tell whether this thread delivers notices, or holds a lock in the midst of a change: then it must not wait.

    O(registries): only who would wait asks.
    """
    me = _get_ident()
    return any(monitor.turn.get(0) == me or (monitor.mark is not None and monitor.is_held()) for monitor in _alive())


def _after_fork() -> None:
    for monitor in _alive():
        monitor.after_fork()


class _LastLock:
    """Stands before a lock from exit on, so that nobody waits for a thread that Python has stopped.

    Python stops daemon threads wherever they are when all exit functions have run; one that held the lock took it
    along, and what __del__ sets after that would wait for ever. Only one thread is left then, which needs no lock.
    """

    __slots__ = ("_is_owned", "_lock")

    def __init__(self, lock: Any) -> None:
        self._lock, self._is_owned = lock, lock._is_owned

    def __enter__(self) -> None:
        self._lock.acquire(not sys.is_finalizing())

    def __exit__(self, *exception: object) -> None:
        if self._is_owned():
            self._lock.release()


def _at_exit() -> None:
    for monitor in _alive():
        monitor.lock = _LastLock(monitor.lock)
        if monitor.journal is not None:
            monitor.journal.using = _LastLock(monitor.journal.using)


def _follow_process() -> None:
    """Have the monitors told when this process forks and when it ends."""
    import atexit  # built in; free

    atexit.register(_at_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


_follow_process()


class _Table:
    """A dict that a transaction can take back: it changes a copy, and the end makes the copy the truth.

    *owner* and *kind* say whose it is and what it holds, for a journal that has to write down what changed.
    """

    __slots__ = ("entries", "kind", "monitor", "owner")

    def __init__(self, monitor: _Monitor, owner: Any, kind: str) -> None:
        self.monitor, self.owner, self.kind = monitor, owner, kind
        self.entries: Dict[str, Any] = {}

    def current(self) -> Dict[str, Any]:
        """Return the entries as this thread may see them. No lock."""
        idle = self.monitor.idle
        return self.entries if idle is None or idle is _CLOSED else idle.entries(self)

    def changeable(self) -> Dict[str, Any]:
        """Return the entries to be changed, the draft's inside a transaction. Assumes the lock."""
        idle = self.monitor.idle
        if idle is None or idle is _CLOSED:
            return self.entries
        entries: Dict[str, Any] = idle.entries(self) if idle.over else idle.own(self)  # over: it is being put away
        return entries


def _current_task() -> Any:
    """Return the asyncio task that this thread is in, None without one. Does not import asyncio: who is in one has."""
    asyncio: Any = sys.modules.get("asyncio")
    running = getattr(asyncio, "_get_running_loop", None)
    return None if running is None or running() is None else asyncio.current_task()


def _functions(what: str, given: Optional[Iterable[Callable[..., object]]]) -> Tuple[Any, ...]:
    """Return guests as a tuple; TypeError for what can't be called."""
    if callable(given) or not isinstance(given, (Iterable, type(None))):
        raise TypeError(f"{what} is a list of functions, not {given!r}")
    guests = tuple(given or ())
    for guest in guests:
        if not callable(guest):
            raise TypeError(f"{what} holds functions, not {guest!r}")
    return guests


def _is_async(fn: Any) -> bool:
    """Tell whether calling *fn* gives something to await, as far as that can be seen from outside."""
    while isinstance(fn, partial):
        fn = fn.func
    code = getattr(fn, "__code__", None) or getattr(type(fn).__call__, "__code__", None)
    return bool(getattr(code, "co_flags", 0) & 0x180)  # a coroutine function, or made one by types.coroutine


def _refuse_coroutine(fn: Any, result: Any, instead: str) -> None:
    """Raise TypeError if a function that did not look async was: nobody would await what it returned."""
    if isinstance(result, CoroutineType):
        result.close()  # or Python warns that nobody awaited it
        raise TypeError(f"{fn!r} returned {result!r}, which nobody awaits: {instead}")


def _as_listener(fn: Any) -> Any:
    return _AsyncListener(fn) if _is_async(fn) else fn


def _as_validator(fn: Any) -> Any:
    return _AsyncValidator(fn) if _is_async(fn) else fn


def _with(guests: Tuple[Any, ...], guest: Any) -> Tuple[Any, ...]:
    """Return the guests and one more."""
    return (*guests, guest)


def _without(guests: Tuple[Any, ...], guest: Any) -> Tuple[Any, ...]:
    """Return the guests but for one; ValueError if it is not among them."""
    kept = list(guests)
    if guest not in kept:
        raise ValueError(f"{guest!r} is not among {kept!r}")
    kept.remove(guest)
    return tuple(kept)


class _Options(NamedTuple):
    """What a variable is made with, checked."""

    deep_copy: bool
    validators: Tuple[Any, ...]
    listeners: Tuple[Any, ...]
    middleware: Tuple[Middleware, ...]
    keep: Optional[_Keep]
    traced: bool
    schema: Any = None  # a namespace's are a dict by key


def _options(
    deep_copy: bool,
    validators: Optional[Iterable[Callable[..., object]]],
    on_change: Optional[Iterable[Callable[..., object]]],
    middleware: Optional[Iterable[Middleware]],
    keep_last: Optional[int],
    keep_for: Union[timedelta, float, None],
    trace: bool,
    schema: Any,
    by_key: bool = False,
) -> _Options:
    """Return the options of a variable, or of those of a namespace; TypeError or ValueError for what can't be one."""
    checks, listeners = _functions("validators", validators), _functions("on_change", on_change)
    for check in filter(_is_async, checks):
        raise TypeError(f"{check!r} is async, and nothing can be awaited here: give it to add_validator() afterwards")
    guests = checks, tuple(map(_as_listener, listeners)), _checked_middleware(middleware)
    return _Options(deep_copy, *guests, _keep(keep_last, keep_for), trace, _given_schema(schema, by_key))


class _Fork(NamedTuple):
    """Where a line left another: that one, and the last record they share, as stored; first of all, where it began.

    Two lines are akin if they share the first fork.
    """

    line: _Line
    at: int
    stored: Any


def _cutoff(when: _When, monitor: _Monitor) -> int:
    """Return a moment in nanoseconds: the end of its microsecond, or exactly so long ago."""
    if isinstance(when, timedelta):
        if when < timedelta(0):
            raise ValueError(f"a timedelta says how long ago, so it is not negative: {when}")
        newest = max(monitor.time, getattr(monitor.transaction, "time", monitor.time))
        return max(monitor.clock(), newest) - when // _MICROSECOND * 1_000
    if not isinstance(when, datetime):
        raise TypeError(f"a moment is an aware datetime or a timedelta, not {when!r}")
    if when.utcoffset() is None:
        raise ValueError(f"{when!r} has no time zone: write when.astimezone() for local time, or add timezone.utc")
    return (when - _EPOCH) // _MICROSECOND * 1_000 + 999


def _checked_label(label: Optional[str], traced: bool = False, frames: int = 2) -> _Label:
    """Return a change's label; where there is none and it is traced, the place so many frames up. No tracing hooks."""
    if label is None and traced:
        frame = sys._getframe(frames)
        return frame.f_code, frame.f_lineno
    if label is None or isinstance(label, str):
        return label
    raise TypeError(f"a label is a str, not {label!r}")


class AlmaVar(Generic[_T]):
    """A variable that remembers every value it had.

    *deep_copy=False* keeps the owner's own objects instead of copies. *validators* are called with each new value,
    the initial one included, and raise to reject it; *on_change* with the variable and its newest record, after each
    change. *middleware* transforms what is stored. *schema* is a type that pydantic validates and coerces each value
    to; AlmaVar[T](...) gives it as well. *keep_last* and *keep_for* limit the past. *trace=True* labels each change
    with the line that made it. Every method may be called from any thread.

    >>> AlmaVar("x", 1).set(2)
    AlmaVar(name='x', value=2, history_len=2)
    """

    __slots__ = (
        "__weakref__", "_atoms", "_branches", "_careful", "_chain", "_forks", "_keep", "_listeners", "_log", "_monitor",
        "_name", "_older", "_origin", "_pack", "_resumed", "_schema", "_take_in", "_traced", "_transaction",
        "_validators",
    )  # fmt: skip
    _declared: ClassVar[Any] = None  # the schema of a subclass of AlmaVar[T]

    @overload
    def __init__(
        self, name: str, initial_value: _T, *, deep_copy: bool = True,
        validators: Optional[Iterable[Validator[_T]]] = None,
        on_change: Optional[Iterable[Listener[_T]]] = None, middleware: Optional[Iterable[Middleware]] = None,
        keep_last: Optional[int] = None, keep_for: Union[timedelta, float, None] = None, trace: bool = False,
        schema: None = None,
    ) -> None: ...  # fmt: skip
    @overload
    def __init__(
        self, name: str, initial_value: object, *, deep_copy: bool = True,
        validators: Optional[Iterable[Validator[_T]]] = None,
        on_change: Optional[Iterable[Listener[_T]]] = None, middleware: Optional[Iterable[Middleware]] = None,
        keep_last: Optional[int] = None, keep_for: Union[timedelta, float, None] = None, trace: bool = False,
        schema: Union[Schema[_T], Type[_T]],
    ) -> None: ...  # fmt: skip
    @overload
    def __init__(
        self: AlmaVar[Any], name: str, initial_value: object, *, deep_copy: bool = True,
        validators: Optional[Iterable[Validator[Any]]] = None,
        on_change: Optional[Iterable[Listener[Any]]] = None, middleware: Optional[Iterable[Middleware]] = None,
        keep_last: Optional[int] = None, keep_for: Union[timedelta, float, None] = None, trace: bool = False,
        schema: object,
    ) -> None: ...  # fmt: skip
    @overload
    def __init__(  # AlmaVar[Model]("name", {...})
        self, name: str, initial_value: Mapping[str, object], *, deep_copy: bool = True,
        validators: Optional[Iterable[Validator[_T]]] = None,
        on_change: Optional[Iterable[Listener[_T]]] = None, middleware: Optional[Iterable[Middleware]] = None,
        keep_last: Optional[int] = None, keep_for: Union[timedelta, float, None] = None, trace: bool = False,
        schema: None = None,
    ) -> None: ...  # fmt: skip
    def __init__(
        self,
        name: str,
        initial_value: Any,
        *,
        deep_copy: bool = True,
        validators: Optional[Iterable[Validator[Any]]] = None,
        on_change: Optional[Iterable[Listener[Any]]] = None,
        middleware: Optional[Iterable[Middleware]] = None,
        keep_last: Optional[int] = None,
        keep_for: Union[timedelta, float, None] = None,
        trace: bool = False,
        schema: Any = None,
    ) -> None:
        schema = self._declared if schema is None else schema
        options = _options(deep_copy, validators, on_change, middleware, keep_last, keep_for, trace, schema)
        self._begin(_Monitor(time_ns), name, initial_value, options)

    def _begin(
        self, monitor: _Monitor, name: str, initial_value: Any, options: _Options, is_packed: bool = False
    ) -> None:
        """Begin the past, under a monitor of its own or a registry's."""
        if not isinstance(name, str):
            raise TypeError(f"a variable's name is a str, not {name!r}")
        if not name:
            raise ValueError("a variable's name has at least one character")
        self._own(monitor, name, options)
        stored = self._admitted(initial_value if is_packed else self._take_in(initial_value))
        layout = _Layout([stored], array("q", [monitor.now()]))
        self._log = _Log(name, layout, {0: "initial"}, self._opener())
        self._forks: Tuple[_Fork, ...] = (_Fork(self._log.line, 0, stored),)
        self._be_careful()

    def _own(self, monitor: _Monitor, name: str, options: _Options) -> None:
        self._name, self._monitor = name, monitor
        self._pack: Callable[[Any], Any] = _pack if options.deep_copy else _share
        self._older = 0  # the records before it are older than the schema, and meet it on their way out
        self._fit(options.schema)
        self._validators, self._listeners = options.validators, options.listeners
        self._keep, self._traced = options.keep, options.traced
        self._chain = _Chain(name, options.middleware, self._pack) if options.middleware else None
        self._branches = _Table(monitor, self, "branches")
        self._transaction: Any = None  # the transaction in which this variable may have another head
        self._resumed = False  # whether the first watch() of its name is to take it
        self._origin = 0  # the record at which undo over a registry ends: a branch's fork; -1 before a key was there

    def _fit(self, schema: Any) -> None:
        """Have each new value fit a schema, which may be None, before it is packed."""
        self._schema, self._atoms = schema, _ATOMS if schema is None else frozenset()
        self._take_in: Callable[[Any], Any] = self._pack if schema is None else schema._before(self._pack)
        if schema is not None:
            for kind, form in schema._forms.items():
                self._monitor.forms.setdefault(kind, form)

    def _opener(self) -> Optional[_Opener]:
        decode = self._chain.open if self._is_encoded() and self._chain is not None else None
        if self._older:
            fitted: _Opener = self._schema._behind(decode, self._name, self._older)
            return fitted
        return decode

    def _is_encoded(self) -> bool:
        """Tell whether what is stored has to be decoded."""
        return self._chain is not None and bool(self._chain.decoders)

    def _be_careful(self) -> None:
        """Say whether set must ask more than the plain questions."""
        asked = self._validators or self._keep or self._chain or self._head()[2].frozen
        self._careful = bool(asked or self._monitor.journal is not None)

    def _admitted(self, packed: Any, again: bool = False, awaited: Tuple[Any, ...] = ()) -> Any:
        """Return what to store for a packed value when the guests have seen it; *again* if it is one from the past.

        The validators that were *awaited* have seen it already.
        """
        if packed is DELETED:
            return packed
        for validator in self._validators:
            if validator not in awaited and (result := validator(_unpack(packed))) is not None:
                _refuse_coroutine(validator, result, "add the async function itself, and use set_async")
        return packed if self._chain is None else self._pack(self._chain.encode(_unpack(packed), again))

    def _head(self) -> _Head:
        """Return the head that this thread may see: inside a transaction it is another one than outside. No lock."""
        transaction = self._transaction
        head: _Head = self._log.head if transaction is None else transaction.head(self._log)
        return head

    # -- reading: takes no lock, sees whole records only

    @property
    def name(self) -> str:
        """The name it was given."""
        return self._name

    @property
    def is_frozen(self) -> bool:
        """Whether changes raise FrozenError."""
        return self._head()[2].frozen

    def get(self) -> _T:
        """Return the current value; changing it changes neither the variable nor its past. O(size of the value)."""
        head = self._log.head
        if head[3] and self._transaction is None:
            return head[1]  # type: ignore[no-any-return]
        return self._value(self._head())  # type: ignore[no-any-return]

    def _value(self, head: _Head) -> Any:
        if head[1] is DELETED:
            raise UnknownNameError(self._name, deleted=True)
        return self._log.open(head[0] - 1, head[1])

    def _current(self) -> Any:
        """Return the current value, or DELETED."""
        head = self._head()
        return self._log.open(head[0] - 1, head[1])

    def history(self) -> List[ChangeRecord[_T]]:
        """Return all kept records, oldest first. O(n); the values are unpacked when looked at."""
        while True:
            records = self._log.records(self._head())
            if records is not None:
                return records

    def last_change(self) -> ChangeRecord[_T]:
        """Return the newest record. O(1); its value is unpacked when looked at."""
        while True:
            head = self._head()
            record = self._log.record(head, head[0] - 1)
            if record is not None:
                return record

    def at(self, when: _Where) -> ChangeRecord[_T]:
        """Return the record in force at *when*.

        *when* is an index, an aware datetime (to the end of its microsecond), a timedelta (that long ago) or a label
        (the newest record that bears it). Raises PrunedError for what retention has removed and RollbackError, which
        is an IndexError, for what never was. O(log n); by label O(labels).

        >>> AlmaVar("x", 1).set(2).at(0).value
        1
        """
        return self._record(self._index(when))

    def _index(self, when: _Where) -> int:
        """Return the index of the record in force at *when*, which may be out of range or pruned if given as such."""
        if isinstance(when, str):
            return self._log.index_labelled(self._head(), when)
        if isinstance(when, (datetime, timedelta)):
            return self._index_at(_cutoff(when, self._monitor), when)
        if not isinstance(when, int) or isinstance(when, bool):
            raise TypeError(f"a record is named by index, aware datetime, timedelta or label, not by {when!r}")
        return when

    def _record(self, index: int) -> ChangeRecord[_T]:
        while True:
            head = self._head()
            record = self._log.record(head, self._log.kept(head, index))
            if record is not None:
                return record

    def _index_at(self, cutoff: int, when: _When) -> int:
        index = self._log.index_at(self._head(), cutoff)
        if index < 0:
            then = f"{when} ago" if isinstance(when, timedelta) else f"at {when}"
            began = _moment(self._log.head[2].times[0])
            raise RollbackError(self._name, when, f"was not there yet {then}; it began at {began}")
        return index

    def diff(self, *, deep: bool = False) -> List[Dict[str, Any]]:
        """Return what each change changed: from_index, to_index, from_value, to_value, and elapsed_ms between them.

        Records beside a gap that retention left are no pair. Milliseconds to three decimals. With *deep* also
        changes, the deepdiff.DeepDiff of both values: MissingDependencyError without the extra ``diff``. O(n).

        >>> [(change["from_value"], change["to_value"]) for change in AlmaVar("x", 1).set(2).diff()]
        [(1, 2)]
        """
        records = self.history()
        pairs = [pair for pair in zip(records, records[1:]) if pair[1].index == pair[0].index + 1]
        changes = [
            {
                "from_index": before.index,
                "to_index": after.index,
                "from_value": _value_again(before),  # beside the to_value of the pair before: each its own
                "to_value": after.value,
                "elapsed_ms": round((after._time - before._time) / 1e6, 3),
            }
            for before, after in pairs
        ]
        if deep:
            deep_diff = _of_extra("diff", "deepdiff").DeepDiff
            for change, (before, after) in zip(changes, pairs):
                change["changes"] = deep_diff(_value_again(before), _value_again(after))
        return changes

    def compare(self, a: _Where, b: _Where) -> List[Change]:
        """Return what changed from record *a* to record *b*, by path; each is named as for at().

        What compare_values() says of both values; raises what at() raises. No extra needed.

        >>> config = AlmaVar("config", {"debug": True, "level": 3}).set({"debug": False, "level": 3})
        >>> config.compare(0, 1)
        [Change(op='replace', path=('debug',), old=True, new=False)]
        """
        return compare_values(self.at(a).value, self.at(b).value)

    def blame(self, path: Sequence[Any] = ()) -> Union[ChangeRecord[_T], Dict[Tuple[Any, ...], ChangeRecord[_T]]]:
        """Return the record that last changed what stands at *path* of the current value.

        A path is a tuple of keys, indices and members of sets, () the whole. Where a container stands, return a dict
        from the full path of each leaf in it to its record; an empty container is a leaf. Paths are literal: element
        3 is whatever stands there. A value that was brought back is blamed on the record that brought it back, and one
        that is older than a gap that retention left on the first record after the gap. RollbackError, which is an
        IndexError, where nothing stands. O(records x size of what is looked at), less where much changed lately.

        >>> config = AlmaVar("config", {"debug": True, "level": 3}).set({"debug": False, "level": 3}, label="quiet")
        >>> config.blame(("debug",)).label
        'quiet'
        >>> {path: record.index for path, record in config.blame().items()}
        {('debug',): 1, ('level',): 0}
        """
        if not isinstance(path, (tuple, list)):
            raise TypeError(f"a path is a tuple of keys and indices, such as ({path!r},), not {path!r}")
        path = tuple(path)
        records = self.history()
        newest = records[-1]
        if newest.value is DELETED:
            raise UnknownNameError(self._name, deleted=True)
        part = _part_at(newest.value, path)
        if part is DELETED:
            raise RollbackError(self._name, path, f"holds nothing at {_shown_path(path)} now; blame() shows all paths")
        blamed = _blamed(part, path, records)
        return blamed if _parts(part) is not None else blamed[path]

    def __len__(self) -> int:
        count, _, layout, _ = self._head()
        return 1 + count - layout.first

    def __iter__(self) -> Iterator[ChangeRecord[_T]]:
        return iter(self.history())

    def __eq__(self, other: object) -> Any:
        return self._current() == (other._current() if isinstance(other, AlmaVar) else other)

    __hash__ = None  # type: ignore[assignment]  # like a list: what is equal today may differ tomorrow
    __contains__ = None  # its values or its records? Ask get() or history()

    def __repr__(self) -> str:
        frozen = " [frozen]" if self.is_frozen else ""
        return f"AlmaVar(name={self._name!r}, value={self._current()!r}, history_len={len(self)}{frozen})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"{self._name!r} can't be copied or pickled: it has a lock and guests. Take get() or history()"
            " instead of a copy; keeping a past is for save(), forking it for branch()"
        )

    # -- changing: each verb appends one record, or raises and leaves everything as it was

    def set(self, value: _T, *, label: Optional[str] = None, expect: Optional[int] = None) -> AlmaVar[_T]:
        """Append *value* and return the variable.

        With *expect*, only if the head is the record of that index: else StaleWriteError. FrozenError while frozen,
        SnapshotError for a value that can't be copied, and whatever a validator raises. O(1) in the length of history.

        >>> AlmaVar("x", 1).set(2, label="two").last_change().label
        'two'
        """
        note: _Label = label
        if self._traced or (label is not None and type(label) is not str):
            note = _checked_label(label, self._traced, _FRAMES_TO_SET)
        if atom := type(value) in self._atoms:
            stored: Any = value
        else:
            take_in = self._take_in
            stored = take_in(value)
        monitor, now = self._monitor, None
        if expect is None:
            with monitor.lock:
                if monitor.mark is None and not self._careful:
                    monitor.mark = _RUNNING
                    try:
                        if not atom and type(stored) is _Pickled:
                            now = self._commit(self._log.head, stored, note)
                        else:  # what _commit and _Log.append do, written out: 600 ns instead of 700
                            log, listeners, clock = self._log, self._listeners, monitor.clock
                            now = clock()
                            if now <= monitor.time:
                                now = monitor.time + 1
                            count, _, layout, _ = head = log.head
                            if len(layout.values) != count - layout.shift:
                                log.trim(head)
                            layout.values.append(stored)
                            layout.times.append(now)
                            if monitor.time < now:  # a signal handler may have watched a variable after that
                                monitor.time = now
                            if note is not None:
                                log.labels[count] = note
                            if listeners:
                                depth = monitor.depth() if monitor.turn or monitor.nesting else 0
                                notice = (depth + 1, now, self, count, stored, note, listeners, iter(listeners))
                                log.head = count + 1, stored, layout, atom
                                monitor.notices.append(notice)
                            else:
                                log.head = count + 1, stored, layout, atom
                        if monitor.followers:
                            monitor.tell(self)
                        monitor.mark = None
                    except BaseException:
                        monitor.interrupted(None)
                        raise
                    if monitor.queued:
                        monitor.catch_up()
        if now is None:
            monitor.run(self._set, stored, note, expect)
            return self
        if monitor.notices:  # its own, or those of changes that waited for it
            monitor.deliver(now)
        return self

    def _set(
        self,
        stored: Any,
        label: _Label,
        expect: Optional[int],
        again: bool = False,
        awaited: Tuple[Any, ...] = (),
    ) -> None:
        self._append(self._writable(expect), self._admitted(stored, again, awaited), label)

    def _writable(self, expect: Optional[int] = None) -> _Head:
        """Return the head to append to; raise where nothing may be appended."""
        head, closed = self._head(), self._monitor.idle is _CLOSED
        if head[2].frozen or closed:
            raise FrozenError(self._name, closed)
        if expect is not None and _whole("expect", expect) != head[0] - 1:
            raise StaleWriteError(self._name, expect, head[0] - 1)
        return head

    def _append(self, head: _Head, stored: Any, label: _Label, facts: Optional[_Facts] = None) -> None:
        """Append what has been admitted: the end of every verb's way."""
        transaction = self._monitor.transaction
        if transaction is None:
            self._commit(head, stored, label, facts)
            self._retain()
        else:
            if transaction.label is not None and not isinstance(label, str):  # before the place of a traced change
                label = transaction.label
            transaction.put(self, self._log.append(head, stored, transaction.time, label, facts))

    def _commit(self, head: _Head, stored: Any, label: _Label, facts: Optional[_Facts] = None) -> int:
        """Append, make it so by storing the head, and return the time. What comes after that may be interrupted."""
        monitor, log, listeners = self._monitor, self._log, self._listeners
        if stored is DELETED:
            listeners = ()  # a guest is told of values
        now = monitor.clock()
        if now <= monitor.time:
            now = monitor.time + 1
        new = log.append(head, stored, now, label, facts)
        monitor.time = max(monitor.time, now)  # not before: a clock gone mad may have said what is no time
        notices: Iterable[_Notice] = ()
        if listeners:
            depth = monitor.depth() if monitor.turn or monitor.nesting else 0
            notices = iter([(depth + 1, now, self, head[0], new[1], label, listeners, iter(listeners))])
        if monitor.journal is None:
            log.head = new
            monitor.notices.extend(notices)
        else:
            monitor.journal.record(self, new, notices)  # and then stores the head
        if monitor.followers:  # asked last: who comes later sees the head
            monitor.tell(self)
        if type(stored) is _Pickled:
            log.compress(new, head[0] - 1)
        return now

    def _retain(self) -> None:
        """Forget what this variable's limits don't allow."""
        if self._keep is not None:
            head = self._log.head
            first = _first_to_keep(head, self._keep, self._monitor.time)
            if first > head[2].first:
                self._log.prune(head, first)

    @overload  # so that a checker knows what a lambda gets
    def update(self, fn: Callable[[_T], _T], *, label: Optional[str] = None) -> AlmaVar[_T]: ...
    @overload
    def update(self, fn: Callable[..., _T], *args: Any, label: Optional[str] = None) -> AlmaVar[_T]: ...
    def update(self, fn: Callable[..., _T], *args: Any, label: Optional[str] = None) -> AlmaVar[_T]:
        """Append fn(current value, *args) and return the variable; nobody can change it in between.

        *fn* returns the new value. It runs under the lock, so it must be quick; what it raises reaches the caller and
        nothing is appended. Raises what set() raises.

        >>> AlmaVar("x", 20).update(lambda value, factor: value * factor, 2).get()
        40
        """
        self._monitor.run(self._update, fn, args, _checked_label(label, self._traced))
        return self

    def _update(self, fn: Callable[..., Any], args: Tuple[Any, ...], label: _Label) -> None:
        head = self._writable()
        value = fn(self._value(head), *args)
        if isinstance(value, CoroutineType) and _is_async(fn):  # else it is a value, of a kind that can't be copied
            _refuse_coroutine(fn, value, "use update_async")
        self._append(head, self._admitted(self._take_in(value)), label)

    def edit(self, label: Optional[str] = None) -> ContextManager[_T]:
        """Hand out a mutable value to be changed in place: ``with var.edit() as draft``.

        One record at the end of the block, even if nothing changed, none if it raises. Holds no lock: StaleWriteError
        if the variable was changed meanwhile. FrozenError at once; TypeError for a value that can't be changed in
        place, or is shared (deep_copy=False). Assigning to the name *draft* changes nothing.

        >>> config = AlmaVar("config", {"debug": True})
        >>> with config.edit() as draft:
        ...     draft["debug"] = False
        >>> config.get()
        {'debug': False}
        """
        head = self._writable()
        plain = self._log.opener is None and head[1] is not DELETED
        stored = head[1] if plain else self._pack(self._value(head))
        if type(stored) not in _OPEN or type(stored) is _Shared:
            why = "is shared with its owner" if type(stored) is _Shared else f"is a {type(stored).__name__}"
            raise TypeError(f"edit() needs a mutable value of its own; that of {self._name!r} {why}: use set or update")
        return self._edit(head, _checked_label(label, self._traced))

    @contextmanager
    def _edit(self, head: _Head, label: _Label) -> Generator[_T, None, None]:
        draft = self._value(head)
        yield draft
        self._monitor.run(self._set, self._take_in(draft), label, head[0] - 1)

    def rollback(self, index: int, *, label: Optional[str] = None) -> AlmaVar[_T]:
        """Append the value of record *index* and return the variable.

        RollbackError for an index that is negative or out of range, PrunedError if it is no longer kept. FrozenError
        while frozen; validators may refuse an old value.

        >>> AlmaVar("x", 1).set(2).rollback(0).last_change().label
        'rollback to index 0'
        """
        note = f"rollback to index {index}" if _checked_label(label) is None else label
        self._monitor.run(self._rollback, _whole("an index", index), note)
        return self

    def _rollback(self, index: int, label: str) -> None:
        self._bring_back(self._writable(), index, label)

    def _bring_back(self, head: _Head, index: int, label: str, facts: Optional[_Facts] = None) -> None:
        """Append the value of a record once more, by the way of every value."""
        packed = self._packed(index, self._log.stored(head, self._log.kept(head, index)))
        self._append(head, self._admitted(packed, again=True), label, facts)

    def reset(self) -> AlmaVar[_T]:
        """Append the initial value, which is always kept, and return the variable. Raises what rollback() raises."""
        return self.rollback(0, label="reset to initial")

    def undo(self, steps: int = 1) -> AlmaVar[_T]:
        """Append the value before the last *steps* changes that are not undone yet, and return the variable.

        An undo after an undo goes further back, as in an editor. RollbackError where nothing is left, and nothing
        is appended; PrunedError where it is no longer kept; FrozenError while frozen. O(steps).

        >>> x = AlmaVar("x", 0).set(1).set(2).undo()
        >>> x.get(), x.undo().get(), x.redo(2).get()
        (1, 0, 2)
        """
        self._monitor.run(self._undo, _whole("steps", steps, 1))
        return self

    def _undo(self, steps: int, origin: int = 0) -> None:
        head, log = self._writable(), self._log
        index = head[0] - 1
        stands_for, undone, _ = log.standing(index)
        for _ in range(steps):
            if stands_for <= origin:
                raise RollbackError(self._name, steps, f"can't undo {steps}: the initial value is reached before")
            index, undone = log.kept(head, stands_for - 1) if stands_for else -1, (stands_for, undone)
            stands_for = log.standing(index).stands_for
        facts = _Facts(stands_for, undone)
        if stands_for < 0:
            self._append(head, DELETED, "undo to before it was there", facts)
        else:
            self._bring_back(head, index, f"undo to index {stands_for}", facts)

    def redo(self, steps: int = 1) -> AlmaVar[_T]:
        """Append the value that the last *steps* undos took back, and return the variable.

        Only right after undo or redo: RollbackError where a change came between, or nothing is left; FrozenError
        while frozen. O(steps).
        """
        self._monitor.run(self._redo, _whole("steps", steps, 1))
        return self

    def _redo(self, steps: int) -> None:
        head, log = self._writable(), self._log
        stands_for, undone, _ = log.standing(head[0] - 1)
        for _ in range(steps):
            if not undone:
                raise RollbackError(self._name, steps, f"can't redo {steps}: not so many undos came just before")
            stands_for, undone = undone
        self._bring_back(head, stands_for, f"redo to index {stands_for}", _Facts(stands_for, undone))

    def _packed(self, index: int, stored: Any) -> Any:
        """Return the packed value of record *index*, which has to fit the schema, from what is stored there."""
        if stored is DELETED or (self._log.opener is None and self._schema is None):
            return stored
        try:
            value = self._log.open(index, stored)
        except SchemaError as error:
            raise (error.__cause__ or error) from None  # as from any value that does not fit
        return self._take_in(value)

    def _restore(self, packed: Any, label: Optional[str]) -> None:
        """Append a packed value from the past where it differs from the current one."""
        if not _same(self._current(), _unpack(packed)):
            self._monitor.run(self._take, packed, label)

    def _take(self, packed: Any, label: _Label) -> None:
        self._append(self._writable(), self._admitted(packed, again=True), label)

    # What a registry has to know to undo and redo over all its variables: the times of changes, which a
    # transaction's records share. O(records that undid something).

    def _time_to_undo(self) -> Optional[int]:
        """Return when the last change was made that is not undone yet; None if there is none."""
        head = self._head()
        index = self._log.standing(head[0] - 1).stands_for
        return self._log.time(head, index) if index > self._origin else None

    def _steps_to_undo(self, time: int) -> int:
        """Return how many changes of that time are the last that are not undone yet."""
        head, log = self._head(), self._log
        steps, index = 0, log.standing(head[0] - 1).stands_for
        while index > self._origin and log.time(head, index) == time:
            steps, index = steps + 1, log.standing(index - 1).stands_for
        return steps

    def _undone_since(self) -> int:
        """Return the earliest time of an undo or redo that came after the newest change of another kind; 0 for any.

        One in the same transaction counts where it was of this variable. Where the change still stands, whatever was
        undone at its time was so before it: together with it, registry.undo() would have undone it too.
        """
        head, log = self._head(), self._log
        index = head[0] - 1
        while index >= head[2].first and log.standing(index).stands_for != index:
            index -= 1
        changed = index >= head[2].first or index == 0 > self._origin  # that a key was added is a change as well
        return log.time(head, index) + (index == head[0] - 1) if changed else 0

    def _times_to_redo(self, since: int) -> List[int]:
        """Return when the changes were made that redo would bring back, next first, if undone not before *since*."""
        head, log = self._head(), self._log
        index = head[0] - 1
        newest, undone, _ = log.standing(index)
        while index and index >= head[2].first and log.time(head, index) >= since:
            index -= 1
            newest = max(newest, log.standing(index).stands_for)  # what stood then, or was brought back later
        times = []
        while (
            undone and self._origin < undone[0] <= newest
        ):  # those after it had been undone when another change was made
            times.append(log.time(head, undone[0]))
            undone = undone[1]
        return times

    def freeze(self) -> AlmaVar[_T]:
        """Forbid changes: they raise FrozenError until thaw(). Returns the variable; FrozenError once closed."""
        self._monitor.run(self._monitor.whole, self._freeze, True)
        return self

    def thaw(self) -> AlmaVar[_T]:
        """Allow changes again; FrozenError in a closed registry. Returns the variable."""
        self._monitor.run(self._monitor.whole, self._freeze, False)
        return self

    def _freeze(self, frozen: bool) -> None:
        if self._monitor.idle is _CLOSED:
            raise FrozenError(self._name, closed=True)
        count, newest, layout, atom = self._head()
        head = count, newest, layout.but(frozen=frozen), atom
        self._careful = True  # before it is so: whoever sees it too early only asks more
        transaction = self._monitor.transaction
        if transaction is None:
            self._log.head = head
            self._be_careful()
        else:
            transaction.put(self, head)

    def prune(
        self,
        *,
        keep_last: Optional[int] = None,
        keep_for: Union[timedelta, float, None] = None,
        dry_run: bool = False,
    ) -> int:
        """Forget old records and return how many; with *dry_run* only count them.

        The *keep_last* newest and those younger than *keep_for* (a timedelta or seconds) stay; with both limits, what
        both allow. The initial record and the current one always stay. FrozenError while frozen, RuntimeError inside
        a transaction; inside a validator or an update function it is done right after, and 0 returned. O(records
        removed).
        """
        keep = _keep(keep_last, keep_for)
        if keep is None:
            raise ValueError("prune() needs a limit: keep_last=, keep_for= or both")
        return self._monitor.run(self._prune, keep, dry_run) or 0

    def _prune(self, keep: _Keep, dry_run: bool) -> int:
        if self._monitor.transaction is not None:
            raise RuntimeError(f"a transaction couldn't take pruning {self._name!r} back: prune it afterwards")
        head = self._head() if dry_run else self._writable()
        first = _first_to_keep(head, keep, max(self._monitor.clock(), self._monitor.time))
        if not dry_run and first > head[2].first:
            if self._monitor.journal is None:
                self._log.prune(head, first)
            else:
                self._monitor.journal.prune(self, first)
        return first - head[2].first

    # -- branches: variables that share a past

    def branch(self, name: str, at: Optional[_Where] = None) -> AlmaVar[_T]:
        """Return a variable that shares the past up to *at*, by default all of it, and goes its own way from there.

        *at* names a record as for at(). The branch is named parent@name and is no name of the registry; it shares the
        lock, and takes validators, middleware, schema, retention, trace and deep_copy along, not listeners and
        freezing. ValueError for an empty name or one with '@', DuplicateNameError for one that is there, FrozenError
        once closed, and what at() raises. O(n) pointers: 13 ms for 10^6 records.

        >>> score = AlmaVar("score", 0).set(10)
        >>> bold = score.branch("bold").set(99)
        >>> bold.name, [record.value for record in bold], score.get()
        ('score@bold', [0, 10, 99], 10)
        """
        if not isinstance(name, str):
            raise TypeError(f"a branch's name is a str, not {name!r}")
        if not name or "@" in name:
            raise ValueError(
                f"a branch's name has at least one character, and no '@', which stands before it: {name!r}"
            )
        branch: AlmaVar[_T] = self._monitor.at_once(self._branch, name, at)
        return branch

    def _branch(self, name: str, at: Optional[_Where]) -> AlmaVar[_T]:
        full, branches, transaction = f"{self._name}@{name}", self._branches.changeable(), self._monitor.transaction
        if self._monitor.idle is _CLOSED:
            raise FrozenError(full, closed=True)
        if name in branches:
            raise DuplicateNameError(full, "take it with branches(), or drop_branch() it first")
        head = self._head()
        index = head[0] - 1 if at is None else self._log.kept(head, self._index(at))
        branch: Any = AlmaVar.__new__(AlmaVar)
        middleware = () if self._chain is None else self._chain.middleware
        guests = self._validators, (), middleware
        options = _Options(self._pack is _pack, *guests, self._keep, self._traced, self._schema)
        branch._own(self._monitor, full, options)
        branch._older = min(self._older, index + 1)
        branch._log = self._log.fork(full, head, index, branch._opener())
        branch._forks = (*self._forks, _Fork(self._log.line, index, branch._log.head[1]))
        branch._origin = index
        branch._be_careful()
        if transaction is not None:
            transaction.bear(branch, transaction.first_change(self._log))
        if branches.setdefault(name, branch) is not branch:  # a signal handler was quicker
            raise DuplicateNameError(full, "take it with branches(), or drop_branch() it first")
        return branch  # type: ignore[no-any-return]

    def branches(self) -> Dict[str, AlmaVar[_T]]:
        """Return the branches by name, each followed by its own, which are named branch@name."""
        found: Dict[str, AlmaVar[_T]] = {}
        for name, branch in self._branches.current().copy().items():
            found[name] = branch
            found.update({f"{name}@{inner}": nested for inner, nested in branch.branches().items()})
        return found

    def drop_branch(self, name: str) -> AlmaVar[_T]:
        """Forget a branch and those that left it; they live on for whoever holds them. Returns the variable.

        *name* is one of branches(); UnknownNameError if it is not there, FrozenError once closed.
        """
        self._monitor.at_once(self._drop_branch, name)
        return self

    def _drop_branch(self, name: str) -> None:
        if self._monitor.idle is _CLOSED:
            raise FrozenError(self._name, closed=True)
        branches = self.branches()
        if name not in branches:
            raise UnknownNameError(name, branches, makes="branch()")
        parent, _, last = name.rpartition("@")
        del branches.get(parent, self)._branches.changeable()[last]
        self._monitor.tell()

    def merge(
        self, other: AlmaVar[_T], *, resolve: Optional[Resolver] = None, label: Optional[str] = None
    ) -> AlmaVar[_T]:
        """Append what *other* has changed to what this variable has, and return the variable.

        Three-way, by path of dicts and members of sets: what one side changed wins over what the other left as it was.
        The base is the record of *other* that was merged last, or of this variable that was merged into *other*
        after that; undone merges don't count; at first it is where they parted. What both changed, but not to the
        same, is a conflict, a list always as a whole: MergeConflict lists all and nothing is changed, unless
        *resolve* is given: called with (path, base, ours, theirs) it returns what shall stand there, DELETED for
        nothing; ours and theirs are ready-made. It runs under the lock. ValueError if the two share no past.
        The default label is 'merge other'. Raises what set() raises.

        >>> config = AlmaVar("config", {"debug": True, "level": 3})
        >>> quiet = config.branch("quiet").set({"debug": False, "level": 3})
        >>> config.set({"debug": True, "level": 4}).merge(quiet).get()
        {'debug': False, 'level': 4}
        """
        if not isinstance(other, AlmaVar):
            raise TypeError(f"merge() takes a variable that shares a past with this one, not {other!r}")
        if other is self or other._forks[0] is not self._forks[0]:
            raise ValueError(
                f"{self._name!r} and {other._name!r} share no past that has parted: merge() is for branches"
            )
        if resolve is not None and not callable(resolve):
            raise TypeError(f"resolve is a function of path, base, ours and theirs, not {resolve!r}")
        note = f"merge {other._name}" if _checked_label(label) is None else label
        self._monitor.run(self._merge, other, resolve, note)
        return self

    def _merge(self, other: AlmaVar[_T], resolve: Optional[Resolver], label: str) -> None:
        head, theirs = self._writable(), other._head()
        owner, index, stored = self._base(head, other, theirs)
        base = owner._log.open(index, stored)
        sides = self._log.open(head[0] - 1, head[1]), other._log.open(theirs[0] - 1, theirs[1])
        merged = _merged(self._name, base, *sides, resolve)
        packed = merged if merged is DELETED and (sides[0] is DELETED or sides[1] is DELETED) else self._take_in(merged)
        facts = _Facts(head[0], (), (other._home(theirs[0] - 1), theirs[0] - 1, theirs[1]))
        self._append(head, self._admitted(packed, again=True), label, facts)

    def _base(self, head: _Head, other: AlmaVar[_T], theirs: _Head) -> Tuple[AlmaVar[_T], int, Any]:
        """Return the last record that both sides have seen: whose it is, its index and stored value."""
        apart = [fork for pair in zip_longest(self._forks, other._forks) if pair[0] is not pair[1] for fork in pair]
        parted = min(filter(None, apart), key=lambda fork: fork.at)
        mine = self._log.last_merged(head, head[0] - 1, other._lineage(), parted.at)
        its = other._log.last_merged(theirs, theirs[0] - 1, self._lineage(), parted.at)
        if mine is None or its is None:
            last = mine or its
        else:  # of two merges in one transaction, the later took in the record of the earlier
            last = its if (its.time, its.taken >= mine.noted) > (mine.time, False) else mine
        return (self, *parted[1:]) if last is None else (other if last is mine else self, *last[2:])

    def _lineage(self) -> Dict[_Line, float]:
        """Return to which index this variable has the records of which lines: its own, then those it comes from."""
        lines, last = {self._log.line: _ANY_INDEX}, _ANY_INDEX
        for fork in reversed(self._forks[1:]):
            last = min(last, fork.at)
            lines[fork.line] = last
        return lines

    def _home(self, index: int) -> _Line:
        """Return the line in which a record was made, by which all that share it know it."""
        return [line for line, last in self._lineage().items() if index <= last][-1]

    # -- awaited, followed, waited for: handed over to the room Async

    def set_async(
        self, value: _T, *, label: Optional[str] = None, expect: Optional[int] = None
    ) -> Coroutine[Any, Any, AlmaVar[_T]]:
        """Append *value* as set() does; to be awaited. Returns the variable when the listeners have run.

        Coroutines of one loop take turns; async validators are awaited, and async listeners where their loop runs. With
        a journal, a thread writes what all coroutines have handed to it, and runs validators, middleware and plain
        listeners. When cancelled, the change is whole or absent. Raises what set() raises.
        """
        return _set_async(self, value, _checked_label(label, self._traced), expect)

    def update_async(
        self, fn: Callable[..., Union[_T, Awaitable[_T]]], *args: Any, label: Optional[str] = None
    ) -> Coroutine[Any, Any, AlmaVar[_T]]:
        """Append fn(current value, *args), where *fn* may be async; to be awaited. Returns the variable.

        No lock of threads is held while *fn* runs: if the variable has been changed meanwhile, it is called again with
        the newer value, and no change is lost. After 8 tries a plain *fn* is called under the lock, as by update(), so
        that no thread can go before it for ever; an async one goes on trying. Otherwise as set_async().
        """
        return _update_async(self, fn, args, _checked_label(label, self._traced))

    def rollback_async(self, index: int, *, label: Optional[str] = None) -> Coroutine[Any, Any, AlmaVar[_T]]:
        """Append the value of record *index* as rollback() does; to be awaited, as set_async()."""
        note = _checked_label(label) or f"rollback to index {index}"
        return _rollback_async(self, _whole("an index", index), note)

    def changes(
        self, since: Union[int, _When, None] = None, *, latest_only: bool = False
    ) -> _Changes[ChangeRecord[_T]]:
        """Return the records from *since* on, as they come: ``async for record in var.changes()``.

        *since* is an index, or a moment as for at(), after which; None means from this call on, so make it before
        starting the task that reads. No record is left out or comes twice, however fast they come: they are read from
        the log. PrunedError if the next one has been forgotten by then. *latest_only* leaves out those that there are
        newer ones of. Ends when the variable is unregistered, overwritten or dropped, or the registry closed. Takes no
        lock.
        """
        return _changes(self, since, latest_only)

    def wait_for(
        self, wanted: Union[Callable[[_T], object], _T], *, timeout: Optional[float] = None
    ) -> Coroutine[Any, Any, ChangeRecord[_T]]:
        """Return the current record, or the first to come, of which *wanted* is true; to be awaited.

        *wanted* is a predicate of the value, or a value that is to be equal. It need be true for one record only.
        TimeoutError (before 3.11 asyncio's) after so many seconds; UnknownNameError if the variable is unregistered,
        FrozenError if the registry is closed, PrunedError if a record that came meanwhile is no longer kept.
        """
        return _wait_for(self, wanted, timeout)

    def wait(self, wanted: Union[Callable[[_T], object], _T], timeout: Optional[float] = None) -> ChangeRecord[_T]:
        """Return the current record, or the first to come, of which *wanted* is true: wait_for() for threads.

        RuntimeError inside a guest or a transaction.
        """
        return _wait(self, wanted, timeout)

    # -- the past run through a function: handed over to the room Replay

    def replay(self, fn: Callable[[_T], object], *, speed: Optional[float] = None) -> Iterator[Step]:
        """Call *fn* with each kept value, oldest first, and yield a Step(record, result, error) for each.

        What is kept now is replayed; *fn* runs when a step is asked for, gets a value of its own, and what it raises
        is the step's error. *speed=1.0* keeps the times between the records, 2.0 halves them.

        >>> [step.result for step in AlmaVar("x", 1).set(2).replay(lambda value: value * 10)]
        [10, 20]
        """
        return replay(self, fn, speed=speed)

    def bisect(self, predicate: Callable[[_T], object], *, verify: bool = False) -> Optional[ChangeRecord[_T]]:
        """Return the first kept record for which *predicate* is true, or None if it is false for the newest.

        Supposes that it is false up to some record and true from there on, and asks about O(log n) of them; *verify*
        asks about every one, and raises ValueError that names those where it is false again. Across a gap that
        pruning left the answer is the first record after it. Deletions of a key are left out. Each value is the
        predicate's own. Holds all kept records, packed, at once.

        >>> AlmaVar("x", 1).set(5).set(-3).set(-8).bisect(lambda value: value < 0).index
        2
        """
        _functions("predicate", [predicate])
        return _bisect(self, predicate, verify)

    # -- to look at: handed over to the room Timeline

    @overload
    def to_html(self, path: None = None, *, title: Optional[str] = None) -> str: ...
    @overload
    def to_html(self, path: _Path, *, title: Optional[str] = None) -> None: ...
    def to_html(self, path: Optional[_Path] = None, *, title: Optional[str] = None) -> Optional[str]:
        """Return the past as one HTML page to scrub through, or write it to a file whole or not at all.

        The page needs no network and no server; nothing that a value says runs in it. What is too large to look at is
        cut, and of very many records evenly chosen ones are shown; the page says so. *title* is the name by default.
        Raises OSError where it can't be written. O(records).
        """
        return _to_html(path, title, self._name, False, lambda: [(self._name, self.history())])

    def timeline(self) -> Timeline:
        """Return a notebook widget that shows the past and follows it; its slider, and its *index*, go to any record.

        Records appear as they are made, from any thread, at most ten times a second. What comes faster than can be
        looked at is thinned as in to_html(). Its buttons restore, undo, redo and branch. Needs the extra jupyter:
        MissingDependencyError without. RuntimeError inside a guest or a transaction. O(records).
        """
        actions = "restore, undo, redo, branch here"
        return _widget(self, self._monitor, lambda: {self._name: self}, self._name, actions)

    def _repr_html_(self) -> str:
        return _picture(self)

    # -- at rest: handed over to the room Files

    def save(self, path: _Path, *, format: Optional[str] = None, types: _Types = ()) -> None:
        """Write all that is kept of the variable and of its branches to a file, whole or not at all.

        The suffix says how: .json, .pickle or .pkl, .db, .sqlite or .sqlite3; *format*, one of these words, overrides
        it. *types* lists the classes that values may be of, or names them in a dict. Guests are not written; what
        middleware made of the values is. Raises CodecError for a value that has no form in the file, OSError where it
        can't be written, RuntimeError inside a transaction; then the old file is as it was. O(records).
        """
        _save(path, format, types, self._monitor, lambda: ([self], ()))

    @classmethod
    def load(
        cls,
        path: _Path,
        *,
        format: Optional[str] = None,
        types: _Types = (),
        trust: bool = False,
        name: Optional[str] = None,
        deep_copy: bool = True,
        validators: Optional[Iterable[Validator[Any]]] = None,
        on_change: Optional[Iterable[Listener[Any]]] = None,
        middleware: Optional[Iterable[Middleware]] = None,
        keep_last: Optional[int] = None,
        keep_for: Union[timedelta, float, None] = None,
        trace: bool = False,
        schema: Any = None,
    ) -> AlmaVar[Any]:
        """Return the variable of a file as it was saved, its branches too; *name* says which of several.

        Indices, times, undo and redo, freezing and retention go on as if nothing had happened; guests are given here
        again, as the other arguments of watch(). A value of a class that *types* does not name loads as Unresolved,
        but *schema* makes what it says of it when it is read; so does a pickled one unless *trust* is true: then it may
        run code, so only for a file of your own.
        FileFormatError for a file that is damaged or none of Alma's, UntrustedDataError for a pickle that asks for
        code to be run, OSError where it can't be read. Nothing in a file is run. O(records).
        """
        schema = cls._declared if schema is None else schema
        options = _options(deep_copy, validators, on_change, middleware, keep_last, keep_for, trace, schema)
        return _load_var(path, format, types, trust, name, options)

    # -- the owner's functions

    def add_validator(self, fn: Validator[_T]) -> AlmaVar[_T]:
        """Have *fn* called with each new value before it is kept; it raises to reject it. Returns the variable."""
        self._monitor.run(self._set_guests, "_validators", _with, *map(_as_validator, _functions("validators", [fn])))
        return self

    def remove_validator(self, fn: Validator[_T]) -> AlmaVar[_T]:
        """Call *fn* no longer; ValueError if it is not among the validators. Returns the variable."""
        self._monitor.run(self._set_guests, "_validators", _without, fn)
        return self

    def add_listener(self, fn: Listener[_T]) -> AlmaVar[_T]:
        """Have *fn* called with the variable and the new record after each change. Returns the variable."""
        self._monitor.run(self._set_guests, "_listeners", _with, *map(_as_listener, _functions("listeners", [fn])))
        return self

    def remove_listener(self, fn: Listener[_T]) -> AlmaVar[_T]:
        """Call *fn* no longer; ValueError if it is not among the listeners. Returns the variable."""
        self._monitor.run(self._set_guests, "_listeners", _without, fn)
        return self

    def _resume(self, options: _Options) -> None:
        """Take the options of the first watch() of a variable that was there before it."""
        pack = self._pack if options.deep_copy else _share
        chain = self._chain if not options.middleware else _Chain(self._name, options.middleware, pack)
        if options.middleware and bool(chain and chain.decoders) is not self._lacks_middleware():
            how = "by middleware that decodes" if self._lacks_middleware() else "without middleware that decodes"
            raise ValueError(f"{self._name!r} has values already, stored {how}: watch it so, too")
        before = (
            self._pack, self._validators, self._listeners, self._keep, self._traced, self._chain, self._resumed,
            self._schema, self._older,
        )  # fmt: skip
        if self._monitor.transaction is not None:
            self._monitor.transaction.resumed.append((self, *before))
        validators, listeners = self._validators + options.validators, self._listeners + options.listeners
        keep, traced = options.keep or self._keep, options.traced or self._traced
        schema = (self._schema, self._older) if options.schema is None else (options.schema, self._head()[0])
        self._unresume(pack, validators, listeners, keep, traced, chain, False, *schema)
        for branch in self._branches.current().values():
            if branch._resumed:  # it came with this one, and took the same guests along when it was made
                branch._resume(_Options(True, options.validators, (), options.middleware, None, False, options.schema))

    def _lacks_middleware(self) -> bool:
        """Tell whether its values went through middleware that has not been given again."""
        return self._chain is not None and self._chain.middleware == (_NOT_GIVEN,)

    def _unresume(self, *before: Any) -> None:
        """Take a first watch() back."""
        (
            self._pack, self._validators, self._listeners, self._keep, self._traced, self._chain, self._resumed,
            schema, self._older,
        ) = before  # fmt: skip
        self._fit(schema)
        self._log.reopen(self._opener())
        if self._transaction is not None:
            self._transaction.look_again(self._log)
        self._be_careful()

    def _set_guests(self, kind: str, change: Callable[[Tuple[Any, ...], Any], Tuple[Any, ...]], guest: Any) -> None:
        setattr(self, kind, change(getattr(self, kind), guest))
        self._be_careful()


_FRAMES_TO_SET = 2  # from _checked_label to the caller of set

if sys.version_info < (3, 10) and not TYPE_CHECKING:
    _FRAMES_TO_SET = 3

    def _letting_go(method: Any) -> Any:
        """Let no lock stay held, at no cost to newer versions."""

        @wraps(method)
        def call(self, *args, **kwargs):
            monitor = self._monitor if isinstance(self, AlmaVar) else self
            held = monitor.is_held()
            try:
                return method(self, *args, **kwargs)
            except BaseException:
                if not held:
                    monitor.let_go()
                raise

        return call

    AlmaVar.set, _Monitor.run = _letting_go(AlmaVar.set), _letting_go(_Monitor.run)
    _Monitor.commit = _letting_go(_Monitor.commit)


# == Registries: variables by name, transactions, consistent cuts =============
#
# Knows variables and their monitor. All variables of a registry share one lock and one clock, so a cut across them
# is consistent. A transaction keeps what it does in a draft; one store makes the draft the truth, or nothing does.


class _Draft:
    """What a transaction or savepoint has done so far: heads by log, tables if changed, changes in order."""

    __slots__ = ("changes", "heads", "tables")

    def __init__(
        self,
        heads: Dict[_Log, _Head],
        tables: Dict[_Table, Dict[str, Any]],
        changes: Dict[Tuple[_Log, int], Tuple[AlmaVar[Any], Tuple[Any, ...], int]],
    ) -> None:
        self.heads, self.tables, self.changes = heads, tables, changes

    def copy(self) -> _Draft:
        """Return one that can go its own way. O(changes and entries of changed tables)."""
        tables = {table: entries.copy() for table, entries in self.tables.items()}
        return _Draft(self.heads.copy(), tables, self.changes.copy())


class _Transaction:
    """An open transaction: only its own thread sees the draft, until *committed* makes it everybody's."""

    __slots__ = (
        "apart", "beside", "committed", "draft", "joined", "label", "monitor", "notices", "open", "owner", "resumed",
        "task", "time", "touched",
    )  # fmt: skip

    def __init__(self, monitor: _Monitor, label: Optional[str], apart: bool = False) -> None:
        self.monitor, self.label = monitor, label
        self.owner, self.task = _get_ident(), _current_task()
        self.apart = apart  # whether each change is one of its own, with its own time,
        self.joined: Set[Tuple[_Log, int]] = set()  # but for these, which have that of the one before
        self.beside: Optional[Callable[[], Tuple[str, str]]] = None  # key and text that a journal keeps with it
        self.draft = _Draft({}, {}, {})
        self.resumed: List[Tuple[Any, ...]] = []  # variables taken by their first watch(), with the options before it
        self.touched: List[AlmaVar[Any]] = []  # not in the draft: a savepoint taken back must not lose them
        self.notices: Iterator[_Notice] = iter(())
        self.time = max(monitor.clock(), monitor.time + 1)  # until the commit gives the true one
        self.open = 0  # savepoints
        self.committed = False

    @property
    def over(self) -> bool:
        """Whether it has been committed or aborted."""
        return self.committed or not self.owner

    def is_mine(self) -> bool:
        """Tell whether the calling thread opened it, and the calling task if one did."""
        return self.owner == _get_ident() and (self.task is None or self.task is _current_task())

    def head(self, log: _Log) -> _Head:
        """Return the head of a log that the calling thread or task may see."""
        return self.draft.heads.get(log, log.head) if self.committed or self.is_mine() else log.head

    def put(self, var: AlmaVar[Any], head: _Head) -> None:
        """Take a variable's next head into the draft. The change is noted first: storing the head makes it one."""
        log, change = var._log, (var._log, head[0] - 1)
        if head[0] > self.head(log)[0]:
            self.draft.changes.pop(change, None)
            self.draft.changes[change] = var, var._listeners, self.monitor.depth()
        self._touch(var)
        self.draft.heads[log] = head

    def look_again(self, log: _Log) -> None:
        """Follow a log that has taken another opener."""
        if log in self.draft.heads:
            self.draft.heads[log] = log.seen(self.draft.heads[log])

    def first_change(self, log: _Log) -> int:
        """Return the index of the first record of a log that belongs to this transaction, or that will. O(changes)."""
        changes = list(self.draft.changes)
        return min((index for changed, index in changes if changed is log), default=self.head(log)[0])

    def bear(self, var: AlmaVar[Any], since: int, listeners: Tuple[Any, ...] = ()) -> None:
        """Take a new variable into the draft, whose records from index *since* on belong to this transaction."""
        log, depth = var._log, self.monitor.depth()
        count, _, layout, _ = log.head
        for index in range(since, count):
            layout.times[index - layout.shift] = self.time
            self.draft.changes[log, index] = var, listeners, depth
        self._touch(var)
        self.draft.heads[log] = log.head

    def _touch(self, var: AlmaVar[Any]) -> None:
        if var._transaction is not self:
            self.touched.append(var)
            var._transaction = self

    def entries(self, table: _Table) -> Dict[str, Any]:
        """Return the entries of a table that the calling thread or task may see."""
        return self.draft.tables.get(table, table.entries) if self.committed or self.is_mine() else table.entries

    def own(self, table: _Table) -> Dict[str, Any]:
        """Return the draft's entries of a table. O(entries) for the first change."""
        tables = self.draft.tables
        return tables[table] if table in tables else tables.setdefault(table, table.entries.copy())

    def commit(self) -> None:
        """Give all records one time and make the draft the truth, in one store."""
        time, notices = self.monitor.now(), []
        for (log, index), (var, listeners, depth) in list(self.draft.changes.items()):
            count, _, layout, _ = self.draft.heads[log]
            if index >= count:
                continue  # an append that was interrupted
            if self.apart and (log, index) not in self.joined:
                time = self.monitor.now()
            position = index - layout.shift
            layout.times[position] = time
            stored, label = layout.values[position], log.labels.get(index)
            if listeners and stored is not DELETED:
                notices.append((depth + 1, time, var, index, stored, label, listeners, iter(listeners)))
        self.time, self.notices = time, iter(notices)
        if self.monitor.journal is not None:
            self.monitor.journal.commit(self)
        self.committed = True

    def require_end(self) -> None:
        """Raise RuntimeError where blocks that were opened one in the other are not closed so, as by two coroutines."""
        if self.open or not self.is_mine():
            raise RuntimeError(
                "a transaction ended before one inside it, or in another thread or task: nothing changed"
            )

    def require_task(self) -> None:
        """Raise RuntimeError in another coroutine than that which opened it, if one did."""
        if not self.is_mine():
            raise RuntimeError(
                "another task of this thread is inside a transaction, which would take this change in:"
                " await nothing there, or use transact_async()"
            )

    def forget_resumed(self, kept: int) -> None:
        """Take the first watch() of variables back, but for so many of them."""
        for var, *before in reversed(self.resumed[kept:]):
            var._unresume(*before)
        del self.resumed[kept:]

    def finish(self, mark: Any = None) -> None:
        """Bring every variable touched to its head; may be interrupted and called again. Assumes the lock.

        *mark* is what the monitor's mark goes back to: within a running change, that one goes on.
        """
        monitor = self.monitor
        monitor.mark = _RUNNING
        for var in self.touched:
            log, start = var._log, var._log.head[0] - 1
            log.head = self.head(log)
            log.trim(log.head)
            var._transaction = None
            log.compress(log.head, start)
            if self.committed:
                var._retain()
            var._be_careful()
        if self.committed:
            for table, entries in self.draft.tables.items():
                table.entries = entries
            monitor.notices.extend(self.notices)  # one call, and an iterator: what was interrupted adds none twice
            if monitor.followers:
                for told in [None] if self.draft.tables else self.touched:
                    monitor.tell(told)
        else:
            self.forget_resumed(0)
        monitor.idle = None
        monitor.mark = mark


class AlmaRegistry:
    """Variables by name, under one lock and one clock.

    *clock* returns nanoseconds since 1970 UTC; a test may own it. *journal* is the path of a file that is opened as by
    journal(), with *durability* and *types*. Every method may be called from any thread.

    >>> registry = AlmaRegistry()
    >>> x, y = registry.watch("x", 0), registry.watch("y", 100)
    >>> registry.snapshot()
    {'x': 0, 'y': 100}
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int] = time_ns,
        journal: Optional[_Path] = None,
        durability: str = "full",
        types: _Types = (),
    ) -> None:
        if not callable(clock):
            raise TypeError(
                f"a clock is a function that returns whole nanoseconds, as time.time_ns does, not {clock!r}"
            )
        self._monitor = _Monitor(clock)
        self._vars = _Table(self._monitor, self, "variables")  # by name
        self._monitor.names = self._vars
        self._namespaces = _Table(self._monitor, self, "namespaces")
        if journal is not None:
            self.journal(journal, durability=durability, types=types)

    def _changeable(self, name: str) -> Dict[str, AlmaVar[Any]]:
        """Return the variables by name, of which *name* is to be changed. Assumes the lock; FrozenError once closed."""
        if self._monitor.idle is _CLOSED:
            raise FrozenError(name, closed=True)
        return self._vars.changeable()

    @overload
    def watch(
        self, name: str, initial_value: _T, *, deep_copy: bool = True,
        validators: Optional[Iterable[Validator[_T]]] = None,
        on_change: Optional[Iterable[Listener[_T]]] = None, middleware: Optional[Iterable[Middleware]] = None,
        keep_last: Optional[int] = None, keep_for: Union[timedelta, float, None] = None, trace: bool = False,
        schema: None = None,
        overwrite: bool = False, exist_ok: bool = False,
    ) -> AlmaVar[_T]: ...  # fmt: skip
    @overload
    def watch(
        self, name: str, initial_value: object, *, deep_copy: bool = True,
        validators: Optional[Iterable[Validator[_T]]] = None,
        on_change: Optional[Iterable[Listener[_T]]] = None, middleware: Optional[Iterable[Middleware]] = None,
        keep_last: Optional[int] = None, keep_for: Union[timedelta, float, None] = None, trace: bool = False,
        schema: Union[Schema[_T], Type[_T]],
        overwrite: bool = False, exist_ok: bool = False,
    ) -> AlmaVar[_T]: ...  # fmt: skip
    @overload
    def watch(
        self, name: str, initial_value: object, *, deep_copy: bool = True,
        validators: Optional[Iterable[Validator[Any]]] = None,
        on_change: Optional[Iterable[Listener[Any]]] = None, middleware: Optional[Iterable[Middleware]] = None,
        keep_last: Optional[int] = None, keep_for: Union[timedelta, float, None] = None, trace: bool = False,
        schema: object,
        overwrite: bool = False, exist_ok: bool = False,
    ) -> AlmaVar[Any]: ...  # fmt: skip
    def watch(
        self,
        name: str,
        initial_value: Any,
        *,
        deep_copy: bool = True,
        validators: Optional[Iterable[Validator[Any]]] = None,
        on_change: Optional[Iterable[Listener[Any]]] = None,
        middleware: Optional[Iterable[Middleware]] = None,
        keep_last: Optional[int] = None,
        keep_for: Union[timedelta, float, None] = None,
        trace: bool = False,
        schema: Any = None,
        overwrite: bool = False,
        exist_ok: bool = False,
    ) -> AlmaVar[Any]:
        """Make a variable and return it; the arguments are AlmaVar's.

        A name that is taken raises DuplicateNameError; with *exist_ok* the variable that bears it is returned as it
        is, with *overwrite* it is replaced and lives on without a name. The first watch of a namespace's key returns
        that variable with these guests added; *initial_value* is ignored. A name is any non-empty str without '@',
        else ValueError. FrozenError once closed; validators may refuse the initial value.
        """
        if not isinstance(name, str):
            raise TypeError(f"a variable's name is a str, not {name!r}")
        if "@" in name:
            raise ValueError(f"{name!r}: '@' is kept for branches; use another character")
        options = _options(deep_copy, validators, on_change, middleware, keep_last, keep_for, trace, schema)
        var: AlmaVar[Any] = self._monitor.at_once(self._watch, name, initial_value, options, overwrite, exist_ok)
        return var

    def _watch(
        self,
        name: str,
        value: Any,
        options: _Options,
        overwrite: bool = False,
        exist_ok: bool = False,
        origin: Optional[int] = None,
    ) -> AlmaVar[Any]:
        """Make a variable and name it.

        *origin* is given for a key, whose value is packed already, and -1 for one whose coming listeners hear of.
        """
        there: Optional[AlmaVar[Any]] = None if overwrite else self._there(name, options, exist_ok)
        if there is not None:
            return there
        var: AlmaVar[Any] = AlmaVar.__new__(AlmaVar)
        var._begin(self._monitor, name, value, options, origin is not None)
        there = None if overwrite else self._there(name, options, exist_ok)  # guests may have watched it meanwhile
        if there is not None:
            return there
        monitor, listeners = self._monitor, var._listeners if origin == -1 else ()
        names = self._changeable(name)
        if monitor.transaction is not None:
            monitor.transaction.bear(var, 0, listeners)
        elif listeners:
            _, stored, layout, _ = var._log.head
            notice = monitor.depth() + 1, layout.times[0], var, 0, stored, "initial", listeners, iter(listeners)
            monitor.notices.append(notice)
        var._resumed, var._origin = origin is not None, origin or 0
        names[name] = var
        monitor.tell()
        return var

    def _there(self, name: str, options: _Options, exist_ok: bool) -> Optional[AlmaVar[Any]]:
        """Return the variable that bears *name* if it may be had, None if there is none; else DuplicateNameError."""
        var: Optional[AlmaVar[Any]] = self._changeable(name).get(name)
        if var is not None and var._resumed:
            var._resume(options)
        elif var is not None and not exist_ok:
            raise DuplicateNameError(name)
        return var

    def namespace(
        self,
        name: str,
        initial: Optional[Mapping[str, Any]] = None,
        *,
        deep_copy: bool = True,
        validators: Optional[Iterable[Validator[Any]]] = None,
        on_change: Optional[Iterable[Listener[Any]]] = None,
        middleware: Optional[Iterable[Middleware]] = None,
        keep_last: Optional[int] = None,
        keep_for: Union[timedelta, float, None] = None,
        trace: bool = False,
        schema: Optional[Mapping[str, Any]] = None,
        exist_ok: bool = False,
    ) -> AlmaNamespace:
        """Make a dict whose keys are variables of this registry, named name.key, and return it.

        The options are those of each variable; *schema* is a dict of them by key, and other keys take any value.
        DuplicateNameError if there is a namespace of that name, unless *exist_ok*, which returns it as it is, or a
        variable that bears the name of an initial key; then nothing is made. RuntimeError inside a validator or an
        update function.
        """
        options = _options(deep_copy, validators, on_change, middleware, keep_last, keep_for, trace, schema, True)
        return _namespace(self, name, {} if initial is None else initial, options, exist_ok)

    def get_var(self, name: str) -> AlmaVar[Any]:
        """Return the variable of that name; UnknownNameError if there is none."""
        names: Dict[str, AlmaVar[Any]] = self._vars.current()
        try:
            return names[name]
        except KeyError:
            raise UnknownNameError(name, names.copy()) from None

    def all_vars(self) -> Dict[str, AlmaVar[Any]]:
        """Return the variables by name, in the order they were first watched, in a dict of the caller's own. O(n)."""
        return self._vars.current().copy()

    def __contains__(self, name: object) -> bool:
        return name in self._vars.current()

    def __len__(self) -> int:
        return len(self._vars.current())

    def __iter__(self) -> Iterator[str]:
        return iter(self.all_vars())

    def __bool__(self) -> bool:
        return True  # an empty registry is still one

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a registry can't be copied or pickled: it has a lock. Take snapshot(), or keep it with save()")

    def __repr__(self) -> str:
        return f"AlmaRegistry({', '.join(map(repr, self))})"

    def unregister(self, name: str) -> None:
        """Forget the name; the variable lives on for whoever holds it. UnknownNameError if there is none."""
        self._monitor.at_once(self._unregister, name)

    def _unregister(self, name: str) -> None:
        names = self._changeable(name)
        if name not in names:
            raise UnknownNameError(name, names)
        del names[name]
        self._monitor.tell()

    def snapshot(self, at: Optional[_When] = None) -> Dict[str, Any]:
        """Return the values of all variables by name, as one consistent cut: now, or as of a moment.

        *at* is an aware datetime or a timedelta (that long ago); a variable younger than that is absent. PrunedError
        if a value of that time is no longer kept. Holds the lock while it looks, not while it unpacks. O(variables).
        """
        cutoff = None if at is None else _cutoff(at, self._monitor)
        with self._monitor.lock:
            cut = _cut(self._vars.current(), cutoff)
        return {name: log.open(index, stored) for name, (log, index, stored) in cut.items() if stored is not DELETED}

    def restore(self, snapshot: Union[Mapping[str, Any], _When], label: Optional[str] = None) -> None:
        """Bring the variables back to the values of a snapshot or of a moment, in one transaction.

        Appends only where the value differs, labelled *label* or 'restore'; variables that the snapshot does not
        name, or that are younger than the moment, stay as they are. UnknownNameError if it names one that is not
        there; nothing is changed if any change is refused.
        """
        label = "restore" if _checked_label(label) is None else label
        with self.transaction():
            if isinstance(snapshot, Mapping):
                variables = [(self.get_var(name), value) for name, value in snapshot.items()]
                packed_values = [(var, var._take_in(value)) for var, value in variables]
            else:
                cut = _cut(self._vars.current(), _cutoff(snapshot, self._monitor))
                found = [(self.get_var(name), index, stored) for name, (_, index, stored) in cut.items()]
                packed_values = [(var, var._packed(index, stored)) for var, index, stored in found]
            for var, packed in packed_values:
                var._restore(packed, label)

    def undo(self, steps: int = 1) -> None:
        """Take the last transaction, or lone change, back that is not undone yet, over all variables as one step.

        Appends to each variable that it changed, branches included, and deletes keys that it added to a namespace;
        *steps* of them in one transaction. Making a variable or a namespace is not undone. RollbackError
        where nothing is left, PrunedError where what was before is no longer kept, FrozenError if any of the variables
        is frozen; then nothing is changed. O(variables).

        >>> registry = AlmaRegistry()
        >>> x, y = registry.watch("x", 0), registry.watch("y", 0)
        >>> with registry.transaction():
        ...     changed = x.set(1), y.set(1)
        >>> registry.undo()
        >>> registry.snapshot()
        {'x': 0, 'y': 0}
        """
        with self.transaction():
            for done in range(_whole("steps", steps, 1)):
                lines = [(var, var._time_to_undo()) for var in self._lines()]
                last = max((time for _, time in lines if time is not None), default=None)
                if last is None:
                    raise RollbackError("registry", steps, f"can't undo {steps}: only {done} changes are left to undo")
                for var in [var for var, time in lines if time == last]:
                    self._monitor.run(var._undo, var._steps_to_undo(last), var._origin)

    def redo(self, steps: int = 1) -> None:
        """Bring back what the last *steps* undos took back, over all variables.

        Only right after undo or redo: RollbackError where a change came between, or nothing is left; then nothing is
        changed. FrozenError if any of the variables is frozen. O(variables).
        """
        with self.transaction():
            for _ in range(_whole("steps", steps, 1)):
                lines = list(self._lines())
                since = max(var._undone_since() for var in lines) if lines else 0
                times = [(var, var._times_to_redo(since)) for var in lines]
                first = min((undone[0] for _, undone in times if undone), default=None)
                if first is None:
                    raise RollbackError("registry", steps, f"can't redo {steps}: not so many undos came just before")
                for var, undone in times:
                    if first in undone:
                        var.redo(undone.count(first))

    def _lines(self) -> Iterator[AlmaVar[Any]]:
        for var in self.all_vars().values():
            yield var
            yield from var.branches().values()

    @contextmanager
    def transaction(self, label: Optional[str] = None) -> Generator[None, None, None]:
        """Make all changes of a block or none: ``with registry.transaction():``.

        Any exception takes changes of values, names and freezing back, KeyboardInterrupt included; a nested block is
        a savepoint. Others see nothing before the end; listeners run after it; all records bear one time, and *label*
        where they have none. Holds the lock, so other threads wait. RuntimeError inside a validator or an update
        function, FrozenError once closed.
        """
        _checked_label(label)
        monitor = self._monitor
        if monitor.is_nested():
            raise RuntimeError("a transaction can't begin inside a validator or an update function")
        held = monitor.is_held()
        # An interrupt at the edge of the caller's block leaves this generator to be collected with the traceback,
        # and that lets go of the lock.
        try:
            with monitor.lock:
                monitor.settle()
                if monitor.idle is _CLOSED:
                    raise FrozenError("a transaction", closed=True)
                outer = monitor.transaction
                with _whole_or_not(monitor, label) if outer is None else _savepoint(outer, label):
                    yield
        except BaseException:
            if not held:
                monitor.let_go()
            raise
        if outer is None and monitor.notices:
            monitor.deliver(monitor.time)

    def transact_async(self, fn: Callable[[], _T], *, label: Optional[str] = None) -> Coroutine[Any, Any, _T]:
        """Run fn() in one transaction on a thread of the registry's own, and return what it returns; to be awaited.

        *fn* is a plain function that sets what it likes; what it raises is raised here, and nothing was changed. No
        lock is held over an await. TypeError for an async function, RuntimeError inside a transaction.
        """
        return _transact_async(self, fn, label)

    def changes(
        self, since: Optional[_When] = None, *, latest_only: bool = False
    ) -> _Changes[Tuple[AlmaVar[Any], ChangeRecord[Any]]]:
        """Return the records of all variables as (variable, record), in the order of time, as they come.

        As changes() of a variable, but *since* is no index; new variables are followed from their first record on,
        branches are not. Records of a transaction come one right after the other.
        """
        return _all_changes(self, since, latest_only)

    def freeze(self) -> None:
        """Freeze every variable, all at once. Raises what transaction() raises."""
        with self.transaction():
            for var in self.all_vars().values():
                var.freeze()

    def thaw(self) -> None:
        """Thaw every variable, all at once. Raises what transaction() raises."""
        with self.transaction():
            for var in self.all_vars().values():
                var.thaw()

    def save(self, path: _Path, *, format: Optional[str] = None, types: _Types = ()) -> None:
        """Write all variables, branches and namespaces, as they are at one moment, to a file, whole or not at all.

        The arguments are those of AlmaVar.save(), and so is what it raises.
        """
        _save(path, format, types, self._monitor, self._everything)

    def _everything(self) -> Tuple[Iterable[AlmaVar[Any]], Iterable[AlmaNamespace]]:
        return self._vars.current().values(), self._namespaces.current().values()

    def load(
        self, path: _Path, *, format: Optional[str] = None, types: _Types = (), trust: bool = False
    ) -> AlmaRegistry:
        """Take all variables, branches and namespaces of a file into this registry, and return the registry.

        All or none: DuplicateNameError for a name that is taken. The first watch() or namespace() of a name takes what
        was loaded, with its guests added, and ignores the initial value. The registry remembers *types* and uses them
        in save(). The arguments are those of AlmaVar.load(), and so is what it raises.
        """
        _load_all(self, path, format, types, trust)
        return self

    def flush(self) -> None:
        """Return when the listeners of every change so far have run. RuntimeError in a guest or a transaction."""
        self._monitor.flush()

    def close(self) -> None:
        """Wait for the listeners, then allow no change any more; what was kept can still be read.

        RuntimeError inside a guest or a transaction. Closing twice does no harm.
        """
        self.flush()
        for writer in list(self._monitor.writer.values()):
            writer.end()  # what has been handed to it is still done
        with self._monitor.lock:
            self._monitor.settle()
            self._monitor.idle = self._monitor.mark = _CLOSED
            self._monitor.tell()
            if self._monitor.journal is not None:
                self._monitor.journal.close()

    # -- to look at: handed over to the room Timeline

    @overload
    def to_html(self, path: None = None, *, title: Optional[str] = None) -> str: ...
    @overload
    def to_html(self, path: _Path, *, title: Optional[str] = None) -> None: ...
    def to_html(self, path: Optional[_Path] = None, *, title: Optional[str] = None) -> Optional[str]:
        """Return the past of all variables and branches as one HTML page, or write it to a file whole or not at all.

        They are shown as of one moment, which is what the slider moves. The rest is as for AlmaVar.to_html().
        """
        return _to_html(path, title, "registry", True, lambda: _pasts(self._monitor, self._named_lines))

    def timeline(self) -> Timeline:
        """Return a notebook widget that shows the past of all variables and branches; its slider is that of time.

        The rest is as for AlmaVar.timeline(). Its buttons restore, undo and redo.
        """
        return _widget(self, self._monitor, self._named_lines, "registry", "restore, undo, redo")

    def _named_lines(self) -> Dict[str, AlmaVar[Any]]:
        return {var.name: var for var in self._lines()}

    def _repr_html_(self) -> str:
        return _pictures("registry", self.all_vars())

    # -- the journal: handed over to the room of that name

    def journal(self, path: _Path, *, durability: str = "full", types: _Types = ()) -> None:
        """Keep every change in an SQLite file, from now on, before anybody sees it.

        The file is made if there is none. What it holds comes into this registry, resumed: the first watch of a name
        takes what is there. What this registry holds comes into the file. A name that is in both raises
        DuplicateNameError, and nothing is changed. *durability* is 'full': after a loss of power all is there that was
        acknowledged; or 'normal': after the end of the process. *types* are classes that values may be of. A change
        that can't be written raises JournalError and did not happen. JournalError if another registry writes to the
        file; FileFormatError for one that is damaged or no journal.
        """
        _attach(self, path, durability, types)

    def compact(self) -> None:
        """Give the space in the journal's file that pruned records left back. O(size of the file).

        RuntimeError without a journal, and inside a guest or a transaction; JournalError if the disk is too full.
        """
        _compact(self)

    def __enter__(self) -> AlmaRegistry:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _cut(variables: Dict[str, AlmaVar[Any]], cutoff: Optional[int]) -> Dict[str, Tuple[_Log, int, Any]]:
    """Return where the values of variables are stored, now or as of a time: log, index, stored. Assumes the lock."""
    while True:
        heads = [(name, var, var._head()) for name, var in variables.copy().items()]
        cut = {}
        for name, var, head in heads:
            log, index = var._log, head[0] - 1 if cutoff is None else var._log.index_at(head, cutoff)
            if index >= 0:
                cut[name] = log, index, head[1] if cutoff is None else log.stored(head, index)
        if all(var._head() is head for _, var, head in heads):  # else a signal handler has changed one meanwhile
            return cut


@contextmanager
def _whole_or_not(monitor: _Monitor, label: Optional[str], apart: bool = False) -> Generator[None, None, None]:
    """Make what a block does everybody's if it ends well, nobody's if it raises. Assumes the lock."""
    transaction, before = _Transaction(monitor, label, apart), monitor.mark
    try:
        monitor.idle = monitor.mark = transaction
        yield
        transaction.require_end()
        monitor.mark = _RUNNING
        transaction.commit()
        transaction.finish(before)
    except BaseException:
        if monitor.journal is not None and monitor.journal.pending is not None:
            monitor.journal.settle()  # which asks the file whether it was committed
        elif not transaction.committed:
            transaction.owner = 0  # aborted, in one store: in a method of its own an interrupt came before it
        transaction.finish(before)
        raise
    finally:
        monitor.catch_up()


@contextmanager
def _savepoint(transaction: _Transaction, label: Optional[str]) -> Generator[None, None, None]:
    """Take back what a nested block has done if it raises; its records bear its own label if it has one."""
    before, outer = transaction.draft, transaction.label
    transaction.draft, transaction.label = before.copy(), outer if label is None else label
    transaction.open, resumed = transaction.open + 1, len(transaction.resumed)
    try:
        yield
    except BaseException:
        transaction.draft = before
        transaction.forget_resumed(resumed)
        raise
    finally:
        transaction.label = outer
        transaction.open -= 1


# == Namespaces: a dict whose keys are variables ==============================
#
# Knows variables and their registry, which alone says which variables there are: a namespace only claims names, in
# the order of their insertion. A deleted key is a variable whose newest value is DELETED, so its past stays.


def _checked_key(key: Any) -> str:
    """Return a key of a namespace; TypeError or ValueError for what can't be one."""
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, not {key!r}")
    if not key or "@" in key:
        raise ValueError(f"a key has at least one character, and no '@', which is kept for branches: {key!r}")
    return key


class AlmaNamespace(MutableMapping[str, Any]):
    """A dict whose keys are variables: key 'debug' of the namespace 'settings' is the variable 'settings.debug'.

    Made by registry.namespace() or alma.namespace(). Reads and writes values; var() gives the variable behind a key.
    A deleted key keeps its past. Every method may be called from any thread.

    >>> settings = AlmaRegistry().namespace("settings", {"debug": True})
    >>> settings["level"] = 3
    >>> del settings["debug"]
    >>> dict(settings), settings.var("debug").rollback(0).get()
    ({'level': 3}, True)
    """

    __slots__ = (
        "__weakref__", "_flags", "_keys", "_listeners", "_monitor", "_name", "_options", "_pack", "_registry",
        "_resumed", "_vars",
    )  # fmt: skip

    def __init__(self, registry: AlmaRegistry, name: str, options: _Options) -> None:
        self._registry, self._name, self._options = registry, name, options
        self._monitor, self._vars = registry._monitor, registry._vars
        self._listeners = options.listeners
        self._pack: Callable[[Any], Any] = _pack if options.deep_copy else _share
        self._keys = _Table(self._monitor, self, "keys")  # full names by key
        self._flags = _Table(self._monitor, self, "flags")  # "frozen"
        self._keys.entries = OrderedDict()  # whose move_to_end can't be interrupted halfway
        self._resumed = False  # whether the first namespace() of its name is to take it

    @property
    def name(self) -> str:
        """The name it was given."""
        return self._name

    @property
    def is_frozen(self) -> bool:
        """Whether keys can be neither changed nor added."""
        return bool(self._flags.current())

    def _claimed(self) -> Dict[str, AlmaVar[Any]]:
        """Return the variables by key, deleted ones included."""
        variables = self._vars.current()
        found = [(key, variables.get(full)) for key, full in self._keys.current().copy().items()]
        return {key: var for key, var in found if var is not None}

    def _present(self) -> Dict[str, AlmaVar[Any]]:
        return {key: var for key, var in self._claimed().items() if var._head()[1] is not DELETED}

    def var(self, key: str) -> AlmaVar[Any]:
        """Return the variable behind a key, also of a deleted one; UnknownNameError if it never was."""
        try:
            return self._vars.current()[self._keys.current()[key]]  # type: ignore[no-any-return]
        except KeyError:
            names = self._keys.current().copy().values()
            raise UnknownNameError(f"{self._name}.{key}", names, makes=f"namespace[{key!r}] = value") from None

    # -- the dict

    def __getitem__(self, key: str) -> Any:
        return self.var(key).get()

    def __contains__(self, key: object) -> bool:
        full = self._keys.current().get(key) if isinstance(key, str) else None
        var = self._vars.current().get(full) if full else None
        return var is not None and var._head()[1] is not DELETED

    def __iter__(self) -> Iterator[str]:
        return iter(self._present())

    def __len__(self) -> int:
        return len(self._present())

    def __setitem__(self, key: str, value: Any) -> None:
        if self._monitor.idle is None:  # without current(): a set of a key costs 1.2 times a plain one instead of 1.55
            var = self._vars.entries.get(self._keys.entries.get(key, ""))
            if var is not None and var._log.head[1] is not DELETED and not var._traced:
                var.set(value)
                return
        var = self._vars.current().get(self._keys.current().get(key, ""))
        packed = self._packed(key, value) if var is None else var._take_in(value)  # now: the change may have to wait
        self._monitor.run(self._monitor.whole, self._put, _checked_key(key), packed, self._place(var))

    def _packed(self, key: str, value: Any) -> Any:
        """Return the packed value of a key that is new."""
        schema = (self._options.schema or {}).get(key)
        return (self._pack if schema is None else schema._before(self._pack))(value)

    def _put(self, key: str, packed: Any, label: _Label, origin: int = -1) -> None:
        """Set a key that may be new or deleted, which takes it to the end."""
        keys: Any = self._keys.changeable()
        full, known = f"{self._name}.{key}", key in keys
        var = self._vars.current().get(full)
        if var is not None and not known:
            raise DuplicateNameError(full, "it is no key of this namespace: unregister it, or choose another key")
        comes = var is None or var._head()[1] is DELETED
        if comes and self.is_frozen:
            raise FrozenError(full)
        keys.setdefault(key, full)  # before the change: an interrupt must leave no variable without its key
        try:
            if var is None:
                options = self._of_key(self._options, key)._replace(listeners=self._listeners)
                self._registry._watch(full, packed, options, origin=origin)
            else:
                var._set(packed, label, None)
            if comes:
                keys.move_to_end(key)
        except BaseException:
            if not known and full not in self._vars.current():
                keys.pop(key, None)
            raise

    @staticmethod
    def _of_key(options: _Options, key: str) -> _Options:
        """Return the options of one key."""
        return options._replace(schema=(options.schema or {}).get(key))

    def _place(self, var: Optional[AlmaVar[Any]]) -> _Label:
        """Return where a traced change was made: the nearest place outside this file and the mixins of dicts."""
        if not (self._options.traced if var is None else var._traced):
            return None
        frame = sys._getframe(2)
        while frame.f_back is not None and frame.f_globals.get("__name__") in (__name__, "collections.abc"):
            frame = frame.f_back
        return frame.f_code, frame.f_lineno

    def __delitem__(self, key: str) -> None:
        self._monitor.run(self._delete, key, self._place(self.var(key)))

    def _delete(self, key: str, label: _Label) -> None:
        var = self.var(key)
        head = var._writable()
        var._value(head)  # raises if it is deleted already
        var._append(head, DELETED, label)

    def items(self) -> ItemsView[str, Any]:
        """Return the keys and values of now. Takes no lock; snapshot() is a consistent cut."""
        return self._values().items()

    def values(self) -> ValuesView[Any]:
        """Return the values of now. Takes no lock; snapshot() is a consistent cut."""
        return self._values().values()

    def _values(self) -> Dict[str, Any]:
        values = {key: var._current() for key, var in self._claimed().items()}
        return {key: value for key, value in values.items() if value is not DELETED}

    def update(self, /, *args: Any, **kwargs: Any) -> None:
        """Set all keys of a mapping or of pairs, and of keyword arguments, in one transaction: all or nothing."""
        with self._registry.transaction():
            super().update(*args, **kwargs)

    def pop(self, key: str, *default: Any) -> Any:
        """Delete a key and return its value, or *default* if it is absent; UnknownNameError without one."""
        with self._registry.transaction():
            return super().pop(key, *default)

    def popitem(self) -> Tuple[str, Any]:
        """Delete the last key and return it with its value; KeyError if there is none."""
        with self._registry.transaction():
            present = list(self._present())
            if not present:
                raise KeyError(f"popitem(): {self._name!r} is empty")
            return present[-1], self.pop(present[-1])

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, set to *default* first if it is absent."""
        with self._registry.transaction():
            return super().setdefault(key, default)

    def clear(self) -> None:
        """Delete all keys, in one transaction."""
        with self._registry.transaction():
            for key in self._present():
                del self[key]

    # -- its past

    def snapshot(self, at: Optional[_When] = None) -> Dict[str, Any]:
        """Return the values by key, one consistent cut: now, or as of an aware datetime or so long ago.

        What was deleted or not there yet is absent. PrunedError if a value of that time is no longer kept. O(keys).
        """
        cutoff = None if at is None else _cutoff(at, self._monitor)
        with self._monitor.lock:
            cut = _cut(self._claimed(), cutoff)
        return {key: log.open(index, stored) for key, (log, index, stored) in cut.items() if stored is not DELETED}

    def history(self) -> List[Tuple[str, ChangeRecord[Any]]]:
        """Return the kept records of all keys, deleted ones included, as (key, record) in the order of time."""
        with self._monitor.lock:
            trails = [(key, var.history()) for key, var in self._claimed().items()]
        trail = [(key, record) for key, records in trails for record in records]
        return sorted(trail, key=lambda entry: entry[1]._time)

    def rollback(self, moment: _When, *, label: Optional[str] = None) -> AlmaNamespace:
        """Bring the whole namespace back to an aware datetime, or to so long ago, and return it.

        One transaction; appends where the value differs. Keys that were not there are deleted, deleted ones come
        back. PrunedError if a value of that time is no longer kept, FrozenError if a key that differs is frozen; then
        nothing is changed. O(keys).
        """
        ago = " ago" if isinstance(moment, timedelta) else ""
        note = f"rollback to {moment}{ago}" if _checked_label(label) is None else label
        with self._registry.transaction():
            claimed = self._claimed()
            cut = _cut(claimed, _cutoff(moment, self._monitor))
            for key, var in claimed.items():
                var._restore(var._packed(*cut[key][1:]) if key in cut else DELETED, note)
        return self

    # -- guests and freezing

    def add_listener(self, fn: Listener[Any]) -> AlmaNamespace:
        """Have *fn* called with the variable and the record of each change of a key, new keys included, not deletions.

        Returns the namespace.
        """
        self._monitor.run(self._set_listeners, _with, *map(_as_listener, _functions("listeners", [fn])))
        return self

    def remove_listener(self, fn: Listener[Any]) -> AlmaNamespace:
        """Call *fn* no longer; ValueError if it is not among the listeners. Returns the namespace."""
        self._monitor.run(self._set_listeners, _without, fn)
        return self

    def _set_listeners(self, change: Callable[..., Tuple[Any, ...]], fn: Any) -> None:
        self._listeners = change(self._listeners, fn)
        for var in self._claimed().values():
            if change is _with or fn in var._listeners:
                var._set_guests("_listeners", change, fn)

    def _resume(self, options: _Options) -> None:
        """Take the options of the first namespace() of one that was there before it, in its transaction."""
        own = self._options
        self._monitor.transaction.resumed.append((self, own, self._listeners, self._pack, True))
        for key, var in self._claimed().items():
            resumed, given = var._resumed, var._chain is not None and not var._lacks_middleware()
            its = self._of_key(options, key)
            var._resume(its._replace(middleware=()) if given else its)
            var._resumed = resumed  # it may still be watched by itself
        deep_copy, middleware = own.deep_copy and options.deep_copy, options.middleware or own.middleware
        listeners, validators = self._listeners + options.listeners, own.validators + options.validators
        keep, traced = options.keep or own.keep, options.traced or own.traced
        schemas = {**(own.schema or {}), **(options.schema or {})} or None
        merged = _Options(deep_copy, validators, listeners, middleware, keep, traced, schemas)
        self._unresume(merged, listeners, _pack if deep_copy else _share, False)

    def _unresume(self, *before: Any) -> None:
        """Take a first namespace() back."""
        self._options, self._listeners, self._pack, self._resumed = before

    def freeze(self) -> AlmaNamespace:
        """Forbid changes of all keys, and new keys: they raise FrozenError until thaw(). Returns the namespace."""
        return self._freeze(AlmaVar.freeze)

    def thaw(self) -> AlmaNamespace:
        """Allow changes of all keys, and new keys. Returns the namespace."""
        return self._freeze(AlmaVar.thaw)

    def _freeze(self, verb: Callable[[AlmaVar[Any]], object]) -> AlmaNamespace:
        with self._registry.transaction():
            flags = self._flags.changeable()
            flags.clear()
            if verb is AlmaVar.freeze:
                flags["frozen"] = True
            for var in self._claimed().values():
                verb(var)
        return self

    # -- to look at: handed over to the room Timeline

    @overload
    def to_html(self, path: None = None, *, title: Optional[str] = None) -> str: ...
    @overload
    def to_html(self, path: _Path, *, title: Optional[str] = None) -> None: ...
    def to_html(self, path: Optional[_Path] = None, *, title: Optional[str] = None) -> Optional[str]:
        """Return the past of all keys as one HTML page, or write it to a file whole or not at all.

        Deleted keys included. They are shown as of one moment, which is what the slider moves. The rest is as for
        AlmaVar.to_html().
        """
        return _to_html(path, title, self._name, True, lambda: _pasts(self._monitor, self._claimed))

    def timeline(self) -> Timeline:
        """Return a notebook widget that shows the past of all keys, deleted ones included; its slider is that of time.

        The rest is as for AlmaVar.timeline(). Its one button restores.
        """
        return _widget(self, self._monitor, self._claimed, self._name, "restore")

    def _repr_html_(self) -> str:
        return _pictures(self._name, self._present())

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"{self._name!r} can't be copied or pickled: it has a lock and guests. Take snapshot() instead")

    def __repr__(self) -> str:
        return f"AlmaNamespace({self._name!r}, {self.snapshot()!r})"


def _namespace(
    registry: AlmaRegistry, name: str, initial: Mapping[str, Any], options: _Options, exist_ok: bool
) -> AlmaNamespace:
    """Make a namespace with all its initial keys, or nothing."""
    if not isinstance(name, str):
        raise TypeError(f"a namespace's name is a str, not {name!r}")
    if not name or "@" in name:
        raise ValueError(f"a namespace's name has at least one character, and no '@', kept for branches: {name!r}")
    if not isinstance(initial, Mapping):
        raise TypeError(f"a namespace begins with a dict of its keys, not {initial!r}")
    with registry.transaction():
        namespaces = registry._namespaces.changeable()
        if name in namespaces:
            there: AlmaNamespace = namespaces[name]
            if there._resumed:
                there._resume(options)
            elif not exist_ok:
                raise DuplicateNameError(name, "namespace(..., exist_ok=True) returns it")
            return there
        made = AlmaNamespace(registry, name, options)
        for key, value in initial.items():
            registry._monitor.run(made._put, _checked_key(key), made._packed(key, value), made._place(None), 0)
        namespaces[name] = made
    return made


# == Codec: values to tagged JSON and back; guarded pickle ====================
#
# Knows nothing of variables or files. A value becomes a raw tree, which is what JSON can say, and that becomes text;
# from_json(to_json(x)) equals x in every part and its type. What is read may be a stranger's: reading runs nothing,
# takes time in proportion, and ends in a value or in one family of errors. Types that aren't named here need a name.

_DEPTH = 200  # levels of a value
_BRACKETS = 3 * _DEPTH + 40  # levels of text: no tag takes more than three for one of the value, and a file has its own
_SHALLOW, _STACK = 40, _BRACKETS + 60  # deeper than the one, the stack must have room for the other: 3.8 may crash
_PARTS = 20_000_000  # of a value, counted where it shares some: ten lists in one another can hold ten thousand million
_LEAST, _MOST = -(1 << 2_000), 1 << 2_000  # ints beyond are written in hex: Python may refuse more than 640 digits
_CROWD = 1_000  # keys with one hash: each is compared with all the others, and a stranger can make them so
_HARD = 1 << 17  # bits of a fraction: what it takes to cancel it grows with their square, here 12 ms

_PLAIN = {str, bool, type(None)}  # written as they are
_LEAVES = {*_PLAIN, int, float}  # read as they are
_ODD_FLOATS = {repr(value): value for value in map(float, ("nan", "inf", "-inf"))}
_FACTORIES: Dict[str, Any] = {
    kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, deque, *_CONTAINERS)
}


def _stack_left() -> int:
    """Return how many more calls Python allows here."""
    frame, used = sys._getframe(), 0
    while frame.f_back is not None:
        frame, used = frame.f_back, used + 1
    return sys.getrecursionlimit() - used


def _listed(raw: Any) -> List[Any]:
    """Return a raw tree that has to be a list."""
    if type(raw) is not list:
        raise ValueError("there is no list where one has to be")
    return raw


def _uncrowded(keys: Any) -> Any:
    """Return keys or members; _Unwritable if so many have one hash that a dict or set of them would take for ever."""
    if len(keys) > _CROWD and max(Counter(map(hash, keys)).values()) > _CROWD:
        raise _Unwritable(f"keys or members of which more than {_CROWD:,} have one hash", "keep them out")
    return keys


# Text. A raw tree is None, a bool, int, float, str, list of them, or dict by str.


@lru_cache(maxsize=None)
def _writer(plain: bool) -> Callable[[Any], str]:
    import json

    return json.JSONEncoder(ensure_ascii=plain, check_circular=False, allow_nan=False, separators=(",", ":")).encode


@lru_cache(maxsize=None)
def _reader(limited: bool) -> Callable[[str], Any]:
    """Return what reads JSON and refuses keys that stand twice, numbers too large and, unless limited, too long."""
    import json

    def once(pairs: List[Tuple[str, Any]]) -> Any:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return "".join(_listed(made["$str"])) if len(made) == 1 and "$str" in made else made

    def finite(text: str) -> float:
        value = float(text)
        if value - value != 0:
            raise ValueError(f"{text[:20]} is beyond what a float can hold")
        return value

    def short(text: str) -> int:
        if len(text) > 4_300:
            raise ValueError("a whole number has more than 4,300 digits")
        return int(text)

    whole = None if limited else short  # a call for each takes a third longer
    return json.JSONDecoder(object_pairs_hook=once, parse_constant=finite, parse_float=finite, parse_int=whole).decode


def _text(raw: Any) -> str:
    """Return the one text of a raw tree; _parse gives the tree back. It can be encoded in UTF-8."""
    if type(raw) is int and _LEAST < raw < _MOST:
        return repr(raw)
    text = _writer(False)(raw)
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates go as escapes
        text = _writer(True)(_apart(raw))
    return text


def _apart(raw: Any) -> Any:
    """Return a raw tree in which strings are cut to letters where JSON would take two surrogates for a pair."""
    if type(raw) is str:
        joined = raw.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return raw if joined == raw else {"$str": list(raw)}
    if type(raw) is list:
        return [_apart(part) for part in raw]
    if type(raw) is not dict:
        return raw
    pairs = [[_apart(key), _apart(part)] for key, part in raw.items()]
    return dict(pairs) if all(type(key) is str for key, _ in pairs) else {"$dict": pairs}


_NO_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_SIGNS = bytes.maketrans(b"[]{}", b"\x01\xff\x01\xff")


def _deeper(marks: bytes, than: int) -> bool:
    """Tell whether the brackets of a JSON text are nested more deeply. 10 ms for 100,000 rows."""
    if b"\\" in marks:
        import re

        marks = re.sub(rb"\\.", b"", marks, flags=re.DOTALL)
    marks = marks.translate(None, _NO_MARKS).replace(b'""', b"")
    marks = b"".join(marks.split(b'"')[::2]).translate(_SIGNS)  # without what stands in strings
    for _ in range(8):  # most are gone after these, and each is ten times as fast as counting
        marks = marks.replace(b"\x01\xff", b"")
    return any(map((than - 8).__lt__, accumulate(array("b", marks))))


def _parse(text: str, deepest: int = _BRACKETS) -> Any:
    """Return the raw tree of a JSON text; DamagedTextError where it has none, or one that no value has."""
    marks = str.encode(text, "utf-8", "surrogatepass")  # TypeError for what is no text
    if marks.count(b"[") + marks.count(b"{") > _SHALLOW and (
        _deeper(marks, deepest) or (_stack_left() < _STACK and _deeper(marks, _SHALLOW))
    ):
        raise DamagedTextError(f"it is nested more than {_DEPTH} levels deep, or than the stack allows here")
    most_digits = getattr(sys, "get_int_max_str_digits", int)()
    try:
        return _reader(0 < most_digits <= 4_300)(text)
    except (TypeError, ValueError) as error:
        raise DamagedTextError(str(error)) from None


# Values. A tag is an object of one key that begins with "$"; a dict that looks like one is written as its pairs.


class _Unwritable(ValueError):
    """Raised where a value has no form in a file; *steps* lead there from the whole, the last first."""

    def __init__(self, *why: str) -> None:
        super().__init__(*why)
        self.steps: List[Tuple[Any, Any, str]] = []  # what holds the part, under which key, and how that is shown


# How values of one type are written: its name, what is taken of a value, and what makes one of that again. A list is
# handed on as arguments.
_Form = Tuple[str, Callable[[Any], Any], Callable[..., Any]]


def _made(form: _Form, data: Any) -> Any:
    """Return what *data* makes, if it is what would be written of it."""
    _, take, make = form
    value = make(*data) if type(data) is list else make(data)
    if not _same(take(value), data):
        raise ValueError("it is not as Alma writes it")
    return value


def _of_clock(value: Any) -> Any:
    """Return what a datetime or time is made of: text alone where it is naive or in UTC."""
    if type(value.tzinfo).__module__.startswith("pydantic_core"):  # has an offset of its own kind where it read text
        value = value.replace(tzinfo=timezone(value.tzinfo.utcoffset(None)))
    if (value.tzinfo is None or value.tzinfo is timezone.utc) and not value.fold:
        return value.isoformat()
    return [value.replace(tzinfo=None).isoformat(), value.tzinfo, value.fold]


def _to_clock(kind: Any, text: str, *rest: Any) -> Any:
    made = kind.fromisoformat(text)
    return made.replace(tzinfo=rest[0], fold=rest[1]) if rest else made


def _bounded(*parts: int) -> List[int]:
    """Return the parts of a fraction; _Unwritable where cancelling it takes too long."""
    if max(part.bit_length() for part in parts) > _HARD:
        raise _Unwritable(f"a fraction of more than {_HARD:,} bits")
    return [*parts]


@lru_cache(maxsize=None)
def _standard() -> Dict[Any, _Form]:
    """Return the forms of standard types, by type and by tag. All that reading needs is imported here: 15 ms, once."""
    import decimal
    import fractions
    import ipaddress
    import pathlib
    import uuid
    from binascii import a2b_base64, b2a_base64

    def base64(value: Any) -> str:
        return b2a_base64(value, newline=False).decode()

    def of_uuid(value: uuid.UUID) -> Any:
        return str(value) if value.is_safe.value is None else [str(value), value.is_safe.value]

    by_str = [getattr(ipaddress, f"IPv{n}{what}") for n in (4, 6) for what in ("Address", "Network", "Interface")]
    by_str += [pathlib.PurePosixPath, pathlib.PureWindowsPath, type(pathlib.Path())]
    rows: Dict[Any, Tuple[Callable[[Any], Any], Callable[..., Any]]] = {
        int: (lambda value: None if _LEAST < value < _MOST else hex(value), lambda data: int(data, 16)),
        float: (repr, _ODD_FLOATS.__getitem__),
        bytes: (base64, a2b_base64),
        bytearray: (base64, lambda data: bytearray(a2b_base64(data))),
        complex: (lambda value: [value.real, value.imag], complex),
        range: (lambda value: [value.start, value.stop, value.step], range),
        type(...): (lambda value: None, lambda data: ...),
        _Deleted: (lambda value: None, lambda data: DELETED),
        date: (date.isoformat, date.fromisoformat),
        time: (_of_clock, partial(_to_clock, time)),
        datetime: (_of_clock, partial(_to_clock, datetime)),
        timedelta: (lambda value: [value.days, value.seconds, value.microseconds], timedelta),
        timezone: (lambda value: [*value.__getinitargs__()], timezone),
        decimal.Decimal: (lambda value: str(value).replace("e", "E"), lambda data: decimal.Decimal(data)),
        fractions.Fraction: (
            lambda value: _bounded(value.numerator, value.denominator),
            lambda *parts: fractions.Fraction(*_bounded(*parts)),
        ),
        uuid.UUID: (of_uuid, lambda text, safe=None: uuid.UUID(text, is_safe=uuid.SafeUUID(safe))),
        uuid.SafeUUID: (lambda value: value.value, lambda data: uuid.SafeUUID(data)),
        pathlib.PosixPath: (str, pathlib.PurePosixPath),  # the other system's paths can't be made here: pure ones can
        pathlib.WindowsPath: (str, pathlib.PureWindowsPath),
        **{kind: (str, kind) for kind in by_str},
    }
    if sys.version_info >= (3, 9):
        import zoneinfo

        rows[zoneinfo.ZoneInfo] = (lambda value: value.key, zoneinfo.ZoneInfo)
    names = {kind: kind.__name__.replace("_Deleted", "deleted") for kind in rows}
    return {key: (name, *rows[kind]) for kind, name in names.items() for key in (kind, f"${name}")}


# Types that the caller names. Each gives the data that stands for a value: a dict of its fields, or a member's name.


def _enum_form(name: str, kind: Any) -> _Form:
    flag = issubclass(kind, enum.Flag)

    def take(member: Any) -> Any:
        if kind.__members__.get(member.name) is member:
            return member.name
        if flag:
            return member.value
        raise _Unwritable(f"{member!r}, which is no member of its class")

    def make(data: Any) -> Any:
        by_value = flag and type(data) is int and data.bit_length() <= 1_024
        return kind(data) if by_value else kind.__members__[data]

    return name, take, make


def _defaults(kind: Any) -> Dict[str, Optional[Callable[[], Any]]]:
    """Return the fields of a class, each with what makes its default, which is MISSING where it may be unset."""
    if tuple in kind.__mro__:
        known = kind._field_defaults
        return {name: partial(known.get, name) if name in known else None for name in kind._fields}
    if not is_dataclass(kind):
        return {
            name: None if field.is_required() else partial(field.get_default, call_default_factory=True)
            for name, field in kind.model_fields.items()
        }
    made: Dict[str, Any] = {}
    for field in fields_of(kind):
        made[field.name] = partial(getattr, field, "default")
        if field.default_factory is not MISSING:
            made[field.name] = field.default_factory
        elif field.default is MISSING and field.init:
            made[field.name] = None
    return made


def _filled(fields: Dict[str, Optional[Callable[[], Any]]], data: Dict[str, Any]) -> Dict[str, Any]:
    """Return the parts of an object, by default where *data* has none; ValueError for one that no field is for."""
    if not data.keys() <= fields.keys():
        raise ValueError("these are not its fields")
    parts = {}
    for field, default in fields.items():
        if field in data:
            parts[field] = data[field]
        elif default is None:
            raise ValueError(f"the field {field!r} is missing")
        else:
            parts[field] = default()
    return {field: part for field, part in parts.items() if part is not MISSING}


# What a pydantic model has beside its fields, of which types, and under names that no field has.
_STATES = {"$set": set, "$extra": dict, "$private": dict}
_SLOTS = dict(zip(_STATES, ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")))


def _of_state(value: Any, data: Dict[str, Any]) -> Dict[str, Any]:
    """Return what a model has beside its fields, where it is not as usual."""
    usual: Dict[str, Any] = {"$set": set(data), "$extra": {}}
    state = value.__getstate__()
    more = {key: state.get(slot) for key, slot in _SLOTS.items()}
    return {key: part for key, part in more.items() if part is not None and part != usual.get(key)}


def _to_state(kind: Any, more: Dict[str, Any], given: Iterable[str]) -> Dict[str, Any]:
    if any(type(part) is not _STATES[key] for key, part in more.items()):
        raise ValueError("these are not its fields")
    private = {key: attribute.get_default() for key, attribute in kind.__private_attributes__.items()}
    extra: Any = {} if kind.model_config.get("extra") == "allow" else None
    state = {"$set": set(given), "$extra": extra, "$private": private or None, **more}
    return {slot: state[key] for key, slot in _SLOTS.items()}


def _object_form(name: str, kind: Any, model: bool) -> _Form:
    """Return how objects of fields are written: without running what makes or checks them."""
    fields = _defaults(kind)

    def take(value: Any) -> Dict[str, Any]:
        for key in getattr(value, "__dict__", fields).keys() - fields.keys():
            if not isinstance(getattr(kind, key, None), cached_property):  # which has only kept what it worked out
                raise _Unwritable(f"an object with {key!r} beside its fields")
        data = {field: getattr(value, field) for field in fields if hasattr(value, field)}
        return {**data, **_of_state(value, data)} if model else data

    def make(data: Any) -> Any:
        more = {key: data.pop(key) for key in _STATES if model and key in data}
        parts = _filled(fields, data)
        if issubclass(kind, tuple):
            return tuple.__new__(kind, parts.values())
        made = object.__new__(kind)
        for slot, part in {"__dict__": parts, **_to_state(kind, more, data)}.items() if model else parts.items():
            object.__setattr__(made, slot, part)
        return made

    return name, take, make


def _named_form(name: str, kind: Any) -> _Form:
    """Return how a type that a caller names is written; TypeError for what is none of the four kinds."""
    if isinstance(kind, type):
        if issubclass(kind, enum.Enum):
            return _enum_form(name, kind)
        model = issubclass(kind, getattr(sys.modules.get("pydantic"), "BaseModel", ()))
        named_tuple = issubclass(kind, tuple) and hasattr(kind, "_field_defaults")
        # Nothing but attributes: no items of a dict, no arguments of an error.
        bare = not any(isinstance(vars(base).get("__new__"), type(len)) for base in kind.__mro__[:-1])
        if model or named_tuple or (bare and is_dataclass(kind)):
            return _object_form(name, kind, model)
    raise TypeError(f"types= takes enums, dataclasses, named tuples and pydantic models, not {kind!r}")


def _named_kinds(types: _Types) -> Dict[str, Tuple[type, _Form]]:
    """Return the types that a caller names, each under its name; TypeError or ValueError where that can't be."""
    if isinstance(types, Mapping):
        pairs = list(types.items())
    else:
        pairs = [(getattr(kind, "__qualname__", "").rpartition("<locals>.")[2], kind) for kind in types]
    named: Dict[str, Tuple[type, _Form]] = {}
    for name, kind in pairs:
        if not isinstance(name, str) or named.get(name, (kind,))[0] is not kind:
            raise ValueError(f"two types are named {name!r}; types={{'one': A, 'other': B}} tells them apart")
        named[name] = kind, _named_form(name, kind)
    return named


class _Codec:
    """Turns values to raw trees and text, and back, with the types that a caller names.

    pickles=True writes a nested pickle of what has no other form; trust=True runs such pickles on the way back. With
    *forms* more classes are written, but not read.
    """

    def __init__(
        self,
        types: _Types = (),
        pickles: bool = False,
        trust: bool = False,
        forms: Optional[Dict[type, _Form]] = None,
    ) -> None:
        self._named, self._forms = _named_kinds(types), {} if forms is None else forms  # which may become more
        self._pickles, self._trust, self._parts = pickles, trust, 0
        self._known = dict(reversed([*self._named.values()]))  # of two names for one type the first is written

    # Writing. A value is met with the level on which it stands. Where one can't be written, those that hold it note on
    # the way out how it is reached.

    def encode(self, value: Any, path: str = "value") -> Any:
        """Return the raw tree of *value*; CodecError naming the part that has none."""
        self._parts = 0
        try:
            return self._raw(value, 0)
        except _Unwritable as error:
            why, steps = error.args, error.steps[::-1]
        above: Set[int] = set()
        for holder, key, how in steps:
            if id(holder) in above:
                why = "it holds itself", "keep it out"
                break
            above.add(id(holder))
            path += f".{key}" if how == "." else _shown_path((key,)) + how
        raise CodecError(path, *why)

    def text(self, value: Any) -> str:
        """Return the text of *value*."""
        return _text(self.encode(value))

    def _raw(self, value: Any, level: int) -> Any:
        kind = type(value)
        if kind in _PLAIN or (kind is int and _LEAST < value < _MOST) or (kind is float and value - value == 0):
            return value
        if level and not level % _SHALLOW and (level == _DEPTH or _stack_left() < 4 * (_DEPTH - level) + 60):
            raise _Unwritable(f"nested more than {_DEPTH} levels deep, or than the stack allows here", "keep it out")
        write = _WRITERS.get(kind)
        if write is None:
            return self._raw_object(value, level)
        self._parts += len(value)
        if self._parts > _PARTS:
            raise CodecError("value", f"more than {_PARTS:,} parts", "keep some of them out")
        return write(self, value, level)

    def _raws(self, values: Any, level: int) -> List[Any]:
        kinds = set(map(type, values))
        if _PLAIN.issuperset(kinds) or (kinds == {int} and min(values) > _LEAST and max(values) < _MOST):
            return list(values)
        raws: List[Any] = []
        try:
            for part in values:  # a loop, here and below: a comprehension would take one more level of the stack
                raws.append(part if type(part) in _PLAIN else self._raw(part, level + 1))
        except _Unwritable as error:
            error.steps.append((values, len(raws), ""))
            raise
        return raws

    def _raw_dict(self, value: Any, level: int) -> Any:
        if not _JUST_STR.issuperset(map(type, value)) or (len(value) == 1 and next(iter(value))[:1] == "$"):
            return {"$dict": self._raw_pairs(value, level)}
        raws, key = {}, ""
        try:
            for key, part in value.items():
                raws[key] = part if type(part) in _PLAIN else self._raw(part, level + 1)
        except _Unwritable as error:
            error.steps.append((value, key, ""))
            raise
        return raws

    def _raw_pairs(self, value: Any, level: int) -> List[Any]:
        raws: List[Any] = []
        for key, part in _uncrowded(value).items():
            pair: List[Any] = []
            try:
                pair.append(self._raw(key, level + 1))
                pair.append(self._raw(part, level + 1))
            except _Unwritable as error:
                error.steps.append((value, key, "" if pair else ", its key"))
                raise
            raws.append(pair)
        return raws

    def _raw_set(self, value: Any, level: int) -> Any:
        raws = self._raws(_uncrowded(value), level)
        alike = set(map(type, raws)) in ({str}, {int})  # in one order, so that equal sets have one text
        return {f"${type(value).__name__}": sorted(raws) if alike else sorted(raws, key=_text)}

    def _raw_defaultdict(self, value: Any, level: int) -> Any:
        factory = value.default_factory
        name: Any = getattr(factory, "__name__", None)
        if factory is not None and _FACTORIES.get(name) is not factory:
            raise _Unwritable(f"a defaultdict of {factory!r}")
        return {"$defaultdict": [name, *self._raw_pairs(value, level)]}

    def _raw_object(self, value: Any, level: int) -> Any:
        kind = type(value)
        named = self._known.get(kind) or self._forms.get(kind)
        form = named or _standard().get(kind)
        if form is None:
            return self._raw_opaque(value, level)
        name, take, _ = form
        try:
            data = self._raw(take(value), level)
        except _Unwritable as error:  # of what was taken from it, fields alone are known to the reader
            if named is None:
                error.steps.clear()
            elif error.steps:
                error.steps[-1] = value, error.steps[-1][1], "."
            raise
        return {"$object": [name, data]} if named else {f"${name}": data}

    def _raw_opaque(self, value: Any, level: int) -> Any:
        kind = type(value)
        if kind is Unresolved and (value.name != "pickle" or type(value.data) is not bytes):
            return {"$object": [value.name, self._raw(value.data, level)]}
        if kind is not Unresolved and not self._pickles:
            raise _Unwritable(f"a {kind.__qualname__}")
        try:
            packed = value.data if kind is Unresolved else pickle.dumps(value, 4)
        except Exception as error:
            raise _Unwritable(f"a {kind.__name__} ({type(error).__name__}: {error})") from None
        return {"$pickle": self._raw(packed, level)["$bytes"]}

    # Reading.

    def decode(self, raw: Any) -> Any:
        """Return the value of a raw tree, which may share parts with it; DamagedTextError where it has none."""
        try:
            return self._value(raw, 0)
        except (DamagedTextError, MemoryError):
            raise
        except Exception as error:  # made of what a stranger wrote, a value may fail in any way
            raise DamagedTextError(f"no value is written so: {type(error).__name__} {str(error)[:200]!a}") from error

    def value(self, text: str) -> Any:
        """Return the value of a text."""
        if '"$' in text or "\\u0024" in text:
            return self.decode(_parse(text))
        return _parse(text, _DEPTH)  # no tags: the raw tree is the value

    def _value(self, raw: Any, level: int) -> Any:
        kind = type(raw)
        if kind in _LEAVES:
            return raw
        if level == _DEPTH:  # that the stack has room for so many, _parse has made sure
            raise DamagedTextError(f"it is nested more than {_DEPTH} levels deep")
        if kind is dict:
            if len(raw) == 1:
                ((tag, data),) = raw.items()
                if tag[:1] == "$":
                    read = _READERS.get(tag)
                    if read is not None:
                        return read(self, data, level)
                    return _made(_standard()[tag], self._value(data, level))
            values = {}
            for key, part in raw.items():
                values[key] = part if type(part) in _LEAVES else self._value(part, level + 1)
            return values
        return self._values(raw, level)

    def _values(self, raws: Any, level: int) -> List[Any]:
        values = []
        for part in _listed(raws):
            values.append(part if type(part) in _LEAVES else self._value(part, level + 1))
        return values

    def _pairs(self, raws: Any, level: int) -> Any:
        keys, values = [], []
        for pair in _listed(raws):
            key, part = _listed(pair)
            keys.append(self._value(key, level + 1))
            values.append(self._value(part, level + 1))
        return _distinct(dict(zip(_uncrowded(keys), values)), keys)

    def _set(self, raws: Any, level: int) -> Any:
        members = self._values(raws, level)
        return _distinct(set(_uncrowded(members)), members)

    def _deque(self, data: Any, level: int) -> Any:
        made: Deque[Any] = deque(self._values(data[1:], level), data[0])
        if len(made) != len(data) - 1 or type(data[0]) is bool:
            raise ValueError("it holds more than it may")
        return made

    def _object(self, data: Any, level: int) -> Any:
        name, raw = _listed(data)
        inner = self._value(raw, level)
        if type(name) is not str or type(inner) not in (dict, str, int):
            raise ValueError("it is not as Alma writes it")
        if name not in self._named:
            return Unresolved(name, inner)
        return self._named[name][1][2](inner)

    def _pickle(self, data: Any, level: int) -> Any:
        packed = _made(_standard()["$bytes"], data)
        return pickle.loads(packed) if self._trust else Unresolved("pickle", packed)


def _distinct(made: Any, keys: List[Any]) -> Any:
    """Return the dict or set that was made of these keys or members, if none stood twice."""
    if len(made) != len(keys):
        raise ValueError("a key or member stands twice")
    return made


_JUST_STR = {str}

# Containers, and the rest that takes a codec: how they are written, and read.
_WRITERS: Dict[type, Callable[[_Codec, Any, int], Any]] = {
    list: _Codec._raws,
    dict: _Codec._raw_dict,
    tuple: lambda codec, value, level: {"$tuple": codec._raws(value, level)},
    set: _Codec._raw_set,
    frozenset: _Codec._raw_set,
    OrderedDict: lambda codec, value, level: {"$OrderedDict": codec._raw_pairs(value, level)},
    Counter: lambda codec, value, level: {"$Counter": codec._raw_pairs(value, level)},
    deque: lambda codec, value, level: {"$deque": [value.maxlen, *codec._raws(value, level)]},
    defaultdict: _Codec._raw_defaultdict,
}
_READERS: Dict[str, Callable[[_Codec, Any, int], Any]] = {
    "$dict": _Codec._pairs,
    "$tuple": lambda codec, data, level: tuple(codec._values(data, level)),
    "$set": _Codec._set,
    "$frozenset": lambda codec, data, level: frozenset(codec._set(data, level)),
    "$OrderedDict": lambda codec, data, level: OrderedDict(codec._pairs(data, level)),
    "$Counter": lambda codec, data, level: Counter(codec._pairs(data, level)),
    "$deque": _Codec._deque,
    "$defaultdict": lambda codec, data, level: defaultdict(
        None if data[0] is None else _FACTORIES[data[0]], codec._pairs(data[1:], level)
    ),
    "$object": _Codec._object,
    "$pickle": _Codec._pickle,
}


def to_json(value: Any, types: _Types = ()) -> str:
    """Return *value* as JSON text, of which from_json makes it again.

    Exact in value, type and order, for the types of the standard library that hold values. Enums, dataclasses, named
    tuples and pydantic models are written under the name that *types* gives them: a list of classes, each by its own
    name, or a dict of them. CodecError says where a part stands that can't be written. O(size), 0.1 us a number.

    >>> to_json({"size": (3, 4)})
    '{"size":{"$tuple":[3,4]}}'
    """
    return _Codec(types).text(value)


def from_json(text: Union[str, bytes], types: _Types = ()) -> Any:
    """Return the value that to_json wrote; safe with any text, in str or UTF-8.

    A class that *types* does not name comes as Unresolved. No class's own code runs, but for the defaults of fields
    that are missing. Concrete paths of another system come as pure ones. DamagedTextError for all else. O(size).

    >>> from_json('{"size":{"$tuple":[3,4]}}')
    {'size': (3, 4)}
    """
    if isinstance(text, (bytes, bytearray)):
        try:
            text = bytes(text).decode()
        except UnicodeDecodeError as error:
            raise DamagedTextError(f"it is not in UTF-8: {error}") from None
    if not isinstance(text, str):
        raise TypeError(f"JSON is a str or bytes, not a {type(text).__name__}")
    return _Codec(types).value(text)


# Pickles. Of the opcodes, only those that push data and those that fill lists with it; nothing that they make can be
# shared or hashed. The C unpickler runs only after each has been looked at, and then may name nothing.

_DATA = {
    "PROTO", "FRAME", "STOP", "MARK", "EMPTY_LIST", "APPEND", "APPENDS", "NONE", "NEWTRUE", "NEWFALSE", "BININT",
    "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip
_NAMES = {  # how what an opcode names is shown
    "GLOBAL": "{1}.{2}", "INST": "{1}.{2}", "STACK_GLOBAL": "{1}.{2}", "EXT1": "extension {0}", "EXT2": "extension {0}",
    "EXT4": "extension {0}", "PERSID": "persistent id {0}", "BINPERSID": "persistent id {0}",
}  # fmt: skip


class _DataUnpickler(pickle.Unpickler):
    """Names nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse."""
        raise pickle.UnpicklingError(f"{module}.{name} is no data")


def _write_pickle(tree: List[Any]) -> bytes:
    """Return a tree of lists and plain values as a pickle that _read_pickle reads."""
    chunks = io.BytesIO()
    pickler = pickle.Pickler(chunks, 4)
    pickler.fast = True  # no memo: the opcodes for it are among those that are refused
    pickler.dump(tree)
    return chunks.getvalue()


def _read_pickle(data: bytes, name: str) -> Any:
    """Return the lists and plain values of a pickle that holds nothing else. 0.5 us an opcode.

    UntrustedDataError with all that it names where it names anything; FileFormatError for whatever else is wrong.
    """
    mentioned: Dict[str, None] = {}
    try:
        refused = _look_through(data, mentioned)
        if not refused and not mentioned:
            made = _DataUnpickler(io.BytesIO(data)).load()
            if not _is_deeper(made):
                return made
            refused = "it is nested too deeply"
    except MemoryError:
        raise
    except Exception as error:  # the standard library promises no one family for damaged pickles
        refused = f"it is a damaged pickle ({ascii(str(error))[1:-1][:200]})"
    if mentioned:
        raise UntrustedDataError(name, mentioned)
    raise FileFormatError(name, f"{refused}; pickle.load() reads others, if you know who wrote it")


def _look_through(data: bytes, mentioned: Dict[str, None]) -> str:
    """Look at every opcode, note what they mention, and return why the pickle can't be loaded, or nothing."""
    from pickletools import genops

    strings, refused, end = deque(["", ""], 2), "", 0
    for number, (operation, argument, at) in enumerate(genops(data)):
        kind, end = operation.name, (at or 0) + 1
        if type(argument) is str:
            strings += argument.split(" ", 1) if kind in ("GLOBAL", "INST") else [argument]
        if kind in _NAMES and len(mentioned) < 100:
            mentioned[ascii(_NAMES[kind].format(argument, *strings)[:100])[1:-1]] = None
        elif kind not in _DATA or number > _PARTS:
            refused = refused or f"it is a pickle too large, or with {kind} {str(argument)[:100]!a}"
    return refused or ("something stands behind its end" if end != len(data) else "")


def _is_deeper(tree: Any) -> bool:
    """Tell whether lists are nested in a tree more deeply than values are; without going into each."""
    level = [tree]
    for _ in range(_DEPTH):
        level = [part for one in level if type(one) is list for part in one]
    return any(type(part) is list for part in level)


# == Files: save / load =======================================================
#
# Knows variables and the codec. A file holds lines, one for each variable and branch: a header, and its records in
# rows, each with the SHA-256 of the digest before it and its own text. What does not hold is never loaded. A file is
# written beside its place and put there whole, so there is the old one or the new one.


class _Written(NamedTuple):
    """A line as it stands in a file: the header, and its rows in columns."""

    header: Dict[str, Any]
    indices: List[int]
    times: List[int]
    labels: List[Optional[str]]
    facts: List[Any]  # raw
    values: List[Any]  # as the document says
    digests: bytes  # 32 for each row
    texts: Sequence[bytes] = ()  # what is sealed, where it is at hand

    @property
    def ahead(self) -> int:
        """How many rows stand before the gap that pruning leaves: the initial record's, unless it is shared."""
        return 0 if self.header["shares"] else 1

    @property
    def start(self) -> int:
        """The record with which the rows behind that go on if there is no gap."""
        return self.header["at"] + 1 if self.header["shares"] else 1


class _Document(NamedTuple):
    """What a file says; *text* and *value* make a value's canonical text, and the value, of what stands for it."""

    path: str
    lines: Dict[int, _Written]  # by number, a parent before its branches
    spaces: List[Dict[str, Any]]  # the headers of namespaces
    text: Callable[[Any], str]
    value: Callable[[Any], Any]
    codec: _Codec
    records: Optional[int] = None  # what the file says it should hold; None where it is written to
    head: Optional[str] = None
    seal: Optional[str] = None  # the digest over its bytes, where it should say one
    is_whole: bool = False  # whether that is right, so that those of the records are, too


def _seal(before: bytes, text: str) -> bytes:
    """Return the digest of a text that follows what *before* is the digest of."""
    return _seals(before, [text.encode()])


def _seals(before: bytes, texts: Iterable[bytes]) -> bytes:
    """Return the digests of texts, each of the digest before it and its own text. 0.4 us for a short one."""
    from hashlib import sha256

    digests = []
    for text in texts:
        before = sha256(before + text).digest()
        digests.append(before)
    return b"".join(digests)


def _one_by_one(digests: bytes) -> List[bytes]:
    """Return the digests that stand in a row."""
    return [digests[n : n + 32] for n in range(0, len(digests), 32)]


def _record_text(index: int, time: int, label: Optional[str], facts: Any, value: str) -> str:
    """Return the canonical text of a record from its raw facts and the text of its value.

    >>> _record_text(3, 5, "a", None, "[1,2]")
    '3,5,"a",null,[1,2]'
    """
    note = "null" if label is None else _text(label)
    return f"{index},{time},{note},{'null' if facts is None else _text(facts)},{value}"


def _row_texts(line: _Written, text: Callable[[Any], str]) -> List[bytes]:
    """Return the canonical texts of a line's records, in UTF-8."""
    return [_record_text(*row).encode() for row in zip(*line[1:5], _value_texts(line.values, text))]


def _value_texts(values: List[Any], text: Callable[[Any], str]) -> Iterable[str]:
    """Return the texts of values; of small ints at once, at 0.14 us instead of 0.25."""
    small = values and set(map(type, values)) == {int} and _LEAST < min(values) <= max(values) < _MOST
    return map(repr if small else text, values)


def _digest_at(lines: Mapping[int, _Written], number: int, index: int) -> bytes:
    """Return the digest of a record, which may be in a row that its line shares; that of nothing if no row is left."""
    line = lines[number]
    while line.header["shares"] and index <= line.header["at"]:
        line = lines[line.header["parent"]]
    position = bisect_left(line.indices, index)
    return line.digests[32 * position :][:32] if line.indices[position : position + 1] == [index] else b""


def _head_of(lines: Mapping[int, _Written], spaces: Iterable[Dict[str, Any]]) -> str:
    """Return the digest over all of a file, in hex: over the first and the last digest and the header of each line."""
    head = b""
    for line in lines.values():
        head = _seal(head, _seal(line.digests[:32] + line.digests[-32:], _text(line.header)).hex())
    for space in spaces:
        head = _seal(head, _text(space))
    return head.hex()


# Facts: what undo pushed and redo popped, and what a merge took in.


def _plain(codec: _Codec, stored: Any, name: str, index: int) -> Any:
    """Return the raw form of what is stored in a record; CodecError that says in which."""
    return codec.encode(_unpack(stored), f"{name!r}, record {index}: value")


def _packed_value(value: Any, pack: Callable[[Any], Any]) -> Any:
    """Return the stored form of a value from a file."""
    return value if value is DELETED else pack(value)


def _facts_raw(
    facts: Optional[_Facts], index: int, undone: Tuple[Any, ...], ids: Mapping[_Line, int], codec: _Codec
) -> Optional[Dict[str, Any]]:
    """Return the facts of a record as raw JSON, None if it has none that matter; *undone* is that of the one before."""
    if facts is None:
        return None
    raw: Dict[str, Any] = {}
    if facts.stands_for != index or facts.undone:
        pops, pushes = _steps_between(undone, facts.undone)
        raw = {"stands": facts.stands_for, "pop": pops, "push": pushes}
    if facts.merged is not None and facts.merged[0] in ids:
        line, taken, stored = facts.merged
        raw["merged"] = [ids[line], taken, _plain(codec, stored, "merged", taken)]
    return raw or None


def _facts_of(
    raw: Optional[Dict[str, Any]], index: int, undone: Tuple[Any, ...], lines: Mapping[int, _Line], codec: _Codec
) -> Optional[_Facts]:
    """Return the facts that _facts_raw() made *raw* of; ValueError, TypeError or KeyError for what can't be any."""
    if raw is None:
        return None
    stands, merged, after = raw.get("stands", index), raw.get("merged"), ()
    if "stands" in raw:
        after = _pushed(undone, raw["pop"], raw["push"])
    if merged is not None:
        number, taken, value = merged
        merged = lines[number], _whole("a record", taken, 0), _packed_value(codec.decode(value), _pack)
    if _whole("a record", stands, -1) > index:
        raise ValueError(f"no facts of record {index}")
    return _Facts(stands, after, merged)


def _steps_between(before: Tuple[Any, ...], after: Tuple[Any, ...]) -> Tuple[int, List[int]]:
    """Return how many to pop from one stack of undone changes, and what to push then, to have the other. O(steps)."""
    popped, pops = before, 0
    pushed, pushes = after, []
    while popped is not after and pushed is not before and (popped or pushed):  # a step of both at a time
        if popped:
            popped, pops = popped[1], pops + 1
        if pushed:
            pushes.append(pushed[0])
            pushed = pushed[1]
    if popped is after:
        return pops, []
    return (0 if pushed is before else pops), pushes[::-1]


def _pushed(stack: Tuple[Any, ...], pops: int, pushes: List[int]) -> Tuple[Any, ...]:
    """Return a stack of undone changes after so many pops, and these pushes."""
    for _ in range(_whole("pop", pops, 0)):
        stack = stack[1]
    for index in pushes:
        stack = _whole("a record", index, 0), stack
    return stack


# Headers.

_NONE = type(None)
_SHARED: Dict[str, Set[type]] = {"frozen": {bool}, "deep_copy": {bool}, "keep": {list, _NONE}, "trace": {bool}}
_SPACE: Dict[str, Set[type]] = {"name": {str}, "keys": {list}, **_SHARED}
_HEADER: Dict[str, Set[type]] = {
    "name": {str}, "parent": {int, _NONE}, "at": {int, _NONE}, "shares": {bool}, "first": {int}, "since": {int},
    **_SHARED, "origin": {int}, "encoded": {bool}, "bases": {list}, "anchor": {list, _NONE},
    "fork": {dict, list, str, int, float, bool, _NONE}, "retired": {bool, int},
}  # fmt: skip


def _header(
    var: AlmaVar[Any],
    head: _Head,
    ids: Mapping[_Line, int],
    codec: _Codec,
    parent: Optional[int] = None,
    shares: bool = False,
    anchor: Optional[List[Any]] = None,
    fork: Any = None,
    retired: bool = False,
    bases: Optional[Dict[Tuple[int, weakref.ref[_Line]], _Base]] = None,
) -> Dict[str, Any]:
    """Return the header of a variable's line, which *head* ends: all that is known of it but its records."""
    layout, log, known = head[2], var._log, []
    for (entry, reference), base in (log.bases.copy() if bases is None else bases).items():
        line = reference()
        if line is not None and line in ids:
            raw = _plain(codec, base.stored, var._name, base.taken)
            known.append([entry, ids[line], base.time, base.noted, base.taken, raw])
    at, keep = None if parent is None else var._forks[-1].at, None if var._keep is None else list(var._keep)
    return {
        "name": var._name, "parent": parent, "at": at, "shares": shares, "first": layout.first, "since": layout.since,
        "frozen": layout.frozen, "deep_copy": var._pack is _pack, "keep": keep, "trace": bool(var._traced),
        "origin": var._origin, "encoded": var._is_encoded(), "bases": sorted(known, key=lambda base: base[:2]),
        "anchor": anchor, "fork": fork, "retired": retired,
    }  # fmt: skip


def _space_header(space: AlmaNamespace) -> Dict[str, Any]:
    """Return the header of a namespace: all that is known of it but its variables."""
    deep_copy, _, _, _, keep, traced, _ = space._options
    return {
        "name": space._name, "keys": list(space._keys.current()), "frozen": space.is_frozen,
        "deep_copy": bool(deep_copy), "keep": None if keep is None else list(keep), "trace": bool(traced),
    }  # fmt: skip


def _check_header(raw: Any, kinds: Mapping[str, Set[type]], lines: Mapping[int, _Written]) -> None:
    """Raise one of _DAMAGES for a header that is none of these *kinds*; *lines* are those before it."""
    if type(raw) is not dict or list(raw) != list(kinds) or any(type(raw[key]) not in kinds[key] for key in kinds):
        raise ValueError("the entries of a header are others, or of other types")
    for limit in _Keep(*raw["keep"]) if raw["keep"] is not None else ():
        _whole("a limit", 0 if limit is None else limit, 0)
    for key in raw.get("keys", ()):
        _checked_key(key)
    if kinds is _SPACE:
        return
    name, parent, at = raw["name"], raw["parent"], raw["at"]
    is_branch = parent is not None and bool(_branch_name(name, lines[parent].header["name"]))
    if not name or not is_branch == (parent is not None) == (at is not None) or (raw["shares"] and not is_branch):
        raise ValueError(f"the header of {name!r} does not hold: name, parent, at or shares")
    _whole("first", raw["first"], 1)
    _whole("at", at or 0, 0)


def _branch_name(name: str, parent: str) -> str:
    """Return what a branch is called by its parent; empty if it is none of it."""
    return name[len(parent) + 1 :] if name.startswith(f"{parent}@") else ""


# What is written is taken at once, in a change of its own that changes nothing, and encoded after that.


class _Taken(NamedTuple):
    """A line as it was when it was taken."""

    var: AlmaVar[Any]
    parent: Optional[int]
    head: _Head
    times: List[int]
    stored: List[Any]
    labels: Dict[int, _Label]
    facts: Dict[int, _Facts]


def _family(var: AlmaVar[Any], parent: Optional[AlmaVar[Any]] = None) -> Iterator[Tuple[AlmaVar[Any], Any]]:
    """Yield a variable and the branches that left it, each with what it left."""
    yield var, parent
    for branch in var._branches.current().copy().values():
        yield from _family(branch, var)


def _take(monitor: _Monitor, variables: Iterable[AlmaVar[Any]]) -> List[_Taken]:
    """Return variables and their branches as they are now, one consistent cut. Assumes the lock; O(records)."""
    if monitor.transaction is not None:
        raise RuntimeError("a transaction is still open: save() after it, when it is known what became of it")
    taken, numbers = [], {}
    for number, (var, parent) in enumerate(pair for root in variables for pair in _family(root)):
        numbers[id(var)], head, log = number, var._head(), var._log
        times, stored = log.columns(head)
        rows = [head[2].times[0], *times], [head[2].values[0], *stored]
        taken.append(_Taken(var, numbers.get(id(parent)), head, *rows, log.labels.copy(), log.facts.copy()))
    return taken


def _document(path: str, taken: List[_Taken], spaces: List[Dict[str, Any]], codec: _Codec) -> _Document:
    """Return what to write of what was taken, values as text; CodecError for one that has none."""
    ids = {line.var._log.line: number for number, line in enumerate(taken)}
    lines: Dict[int, _Written] = {}
    for number in range(len(taken)):
        lines[number] = _written(number, taken, lines, ids, codec)
    count = sum(len(line.indices) for line in lines.values())
    return _Document(path, lines, spaces, str, codec.value, codec, count, _head_of(lines, spaces))


def _written(
    number: int, taken: List[_Taken], lines: Dict[int, _Written], ids: Mapping[_Line, int], codec: _Codec
) -> _Written:
    """Return a line to be written; a branch shares its parent's rows if that still keeps them."""
    var, parent, head, times, stored, labels, facts = taken[number]
    first, at, shares, before, last = head[2].first, var._forks[-1].at, False, b"", None
    indices, fork = [0, *range(first, head[0])], None
    if parent is not None and (at == 0 or taken[parent].head[2].first <= min(first, at)):
        shares, before, last = True, _digest_at(lines, parent, at), taken[parent].facts.get(at)
        own = bisect_right(indices, at)
        indices, times, stored = indices[own:], times[own:], stored[own:]
    elif parent is not None and 0 < at < first:  # the record that it left is in nobody's rows
        fork = _plain(codec, var._forks[-1].stored, var._name, at)
    has_gap, raws = first > (at + 1 if shares else 1), []
    for index in indices if facts else ():
        undone = last.undone if last and not (has_gap and index == first) else ()
        last = facts.get(index)
        raws.append(_facts_raw(last, index, undone, ids, codec))
    try:
        texts = list(_value_texts(stored, lambda kept: codec.text(_unpack(kept))))
    except CodecError:
        for index, kept in zip(indices, stored):
            _plain(codec, kept, var._name, index)  # which says where it stands
        raise
    notes = list(map(_label_text, map(labels.get, indices)))
    line = _Written({}, indices, times, notes, raws or [None] * len(indices), texts, b"")
    rows = _row_texts(line, str)
    digests = _seals(before, rows)
    anchor = [(before if shares else digests[:32]).hex(), []] if has_gap else None
    header = _header(var, head, ids, codec, parent, shares, anchor, fork)
    return line._replace(header=header, digests=digests, texts=rows)


# Reading. A document is looked through before anything is made of it: the shape of what it says, then each digest.

_DAMAGES = TypeError, ValueError, LookupError, OverflowError, RecursionError
_COLUMNS: Tuple[Set[type], ...] = {int}, {int}, {str, _NONE}, {dict, _NONE}


def _is_empty(column: List[Any]) -> bool:
    """Return whether a column says nothing of any record. 0.4 ms for 100,000, where asking each takes 4."""
    return column.count(None) == len(column)


@contextmanager
def _reading(path: str, *errors: Any) -> Generator[None, None, None]:
    """Make a FileFormatError of this file of whatever shows that it is damaged: _DAMAGES, and these errors."""
    try:
        yield
    except FileFormatError as error:
        if error.path == path:
            raise
        raise FileFormatError(path, error.reason) from error
    except (*_DAMAGES, *errors) as error:
        raise FileFormatError(path, f"is damaged, or no file of Alma: {error}") from error


def _checked(document: _Document) -> _Document:
    """Return a document that holds, with how many records there are and the digest over all; FileFormatError if not.

    Where the digest over its bytes holds, those of the records do, and are not computed.
    """
    path = document.path
    lines: Dict[int, _Written] = {}
    with _reading(path):
        for number, line in document.lines.items():
            _check_header(line.header, _HEADER, lines)
            _check_columns(line)
            lines[number] = line if document.is_whole else _held(line, lines, document)
        for space in document.spaces:
            _check_header(space, _SPACE, {})
    count = sum(len(line.indices) for line in lines.values())
    if document.records not in (None, count):
        raise FileFormatError(path, f"it holds {count} records where there were {document.records}")
    if document.is_whole:
        return document
    held = document._replace(lines=lines, records=count, head=_head_of(lines, document.spaces))
    if document.head not in (None, held.head):
        raise FileFormatError(path, "its header does not hold: a line or a namespace was changed, added or removed")
    if document.seal is not None and document.seal != _seal_of(_json_body(held)):
        raise FileFormatError(path, "the digest over all of it does not hold")
    return held


def _check_columns(line: _Written) -> None:
    """Raise ValueError where a record of a line has an index, time, label or facts of another type."""
    columns: Tuple[List[Any], ...] = line[1:5]
    for column, kinds in zip(columns, _COLUMNS):
        if not (_NONE in kinds and _is_empty(column)) and not kinds.issuperset(map(type, column)):
            raise ValueError(f"a record of {line.header['name']!r} is of other types")


def _held(line: _Written, lines: Mapping[int, _Written], document: _Document) -> _Written:
    """Return a line, of which each record holds, with what was sealed of it. 0.5 us a record."""
    header, before = line.header, b""
    if header["shares"]:
        before = _digest_at(lines, header["parent"], header["at"])
    line = line._replace(texts=_row_texts(line, document.text))
    index = _unsealed(line, before, line.texts)
    if header["shares"] and not before and header["anchor"] is None:
        index = line.start - 1  # the one that it goes on from is not there
    if index is not None:
        raise FileFormatError(document.path, f"{header['name']!r}: record {index} does not hold")
    return line


def _unsealed(line: _Written, before: bytes, texts: Sequence[bytes]) -> Optional[int]:
    """Return the index of the first record whose digest is not that of its text and what is before; None if all are."""
    ahead, first, anchor = line.ahead, line.start, line.header["anchor"]
    seals = _seals(before, texts[:ahead])
    before = seals or before
    if anchor is not None:
        first, before = max(first + 1, line.indices[ahead]), bytes.fromhex(anchor[0])
    seals += _seals(before, texts[ahead:])
    indices = [*range(ahead), *range(first, first + len(texts) - ahead)]
    if line.indices == indices and line.digests == seals:
        return None
    rows = zip(line.indices, indices, _one_by_one(line.digests), _one_by_one(seals))
    return next((index for index, right, digest, seal in rows if index != right or digest != seal), 0)


# Loading: what a document says becomes variables, of which nobody knows until all are made.


def _built(document: _Document, monitor: _Monitor) -> Dict[int, AlmaVar[Any]]:
    """Return the variables and branches of a document that holds, by number, resumed.

    FileFormatError for one that is damaged in a way that no digest shows.
    """
    lines = defaultdict(_Line, {number: _Line() for number in document.lines})  # others have been dropped
    pasts: Dict[int, List[List[Any]]] = {}
    made: Dict[int, AlmaVar[Any]] = {}
    for number in document.lines:
        with _reading(document.path):
            pasts[number] = _past(document, number, pasts, lines)
            made[number] = _variable(document, number, pasts[number], monitor, made, lines)
    return made


def _past(
    document: _Document, number: int, pasts: Mapping[int, List[List[Any]]], lines: Mapping[int, _Line]
) -> List[List[Any]]:
    """Return a variable's past, which may begin as its parent's: indices, times, labels, facts, and what is stored."""
    line = document.lines[number]
    header, shared = line.header, pasts.get(line.header["parent"], [])
    end = bisect_right(shared[0], header["at"]) if header["shares"] else 0
    facts, last = list(line.facts), shared[3][end - 1] if end else None
    for position, (index, raw) in enumerate(zip(line.indices, facts)) if any(facts) else ():
        undone = last.undone if last else ()
        if position == line.ahead and header["anchor"]:
            undone = _pushed((), 0, header["anchor"][1][::-1])
        last = facts[position] = _facts_of(raw, index, undone, lines, document.codec)
    own: List[List[Any]] = [line.indices, line.times, line.labels, facts, _stored(document, line)]
    return [column[:end] + rest for column, rest in zip(shared, own)] if end else own


def _stored(document: _Document, line: _Written) -> List[Any]:
    """Return the stored forms of a line's values; ValueError that names the record of one that can't be read."""
    if document.text is _text and _LEAVES.issuperset(map(type, line.values)):
        return line.values  # each stands for itself
    pack = _pack if line.header["deep_copy"] or line.header["encoded"] else _share
    stored: List[Any] = []
    try:
        for value in map(document.value, line.values):
            stored.append(_packed_value(value, pack))
    except _DAMAGES as error:
        raise ValueError(f"{line.header['name']!r}, record {line.indices[len(stored)]}: {error}") from error
    return stored


def _log_of(header: Dict[str, Any], past: List[List[Any]], opener: Optional[_Opener]) -> _Log:
    """Return the log of a line; ValueError where its records are not those that it should have."""
    first = header["first"]
    begin = bisect_left(past[0], first)
    indices, times, labels, facts, stored = (column[:1] + column[begin:] for column in past)
    if indices != [0, *range(first, indices[-1] + 1)] or sorted(times) != times:
        raise ValueError(f"records of {header['name']!r} are missing, or out of order")
    packed = _Pickled in set(map(type, stored))
    for position in range(1, len(stored)) if packed else ():
        if type(stored[position]) is _Pickled and stored[position - 1] == stored[position]:
            stored[position] = stored[position - 1]  # equal neighbours share one object
    layout = _Layout(stored, array("q", times), first - 1, first, header["since"], header["frozen"])
    log = _Log(header["name"], layout, _sparse(indices, labels), opener)
    log.facts = _sparse(indices, facts)
    log.merges = bool(header["bases"]) or any(known.merged for known in log.facts.values())
    if packed:
        log.compress(log.head, 0)
    return log


def _sparse(indices: List[int], column: List[Any]) -> Dict[int, Any]:
    """Return what a column says, by record, without the records of which it says nothing."""
    if _is_empty(column):
        return {}
    return {index: thing for index, thing in zip(indices, column) if thing is not None}


def _variable(
    document: _Document,
    number: int,
    past: List[List[Any]],
    monitor: _Monitor,
    made: Dict[int, AlmaVar[Any]],
    lines: Mapping[int, _Line],
) -> AlmaVar[Any]:
    """Return a variable of a document with its past."""
    var: AlmaVar[Any] = AlmaVar.__new__(AlmaVar)
    header, decode = document.lines[number].header, document.codec.decode
    name, parent, at = header["name"], header["parent"], header["at"] or 0
    middleware: Tuple[Middleware, ...] = (_NOT_GIVEN,) if header["encoded"] else ()
    var._own(monitor, name, _Options(header["deep_copy"], (), (), middleware, _keep_of(header), header["trace"]))
    var._log = log = _log_of(header, past, var._opener())
    log.line = lines[number]
    for entry, other, moment, noted, taken, raw in header["bases"]:
        base = _Base(moment, noted, taken, _packed_value(decode(raw), _pack))
        log.bases[entry, weakref.ref(lines[other])] = base
    position = bisect_left(past[0], at)
    there = past[0][position : position + 1] == [at]
    stored = past[4][position] if there else _packed_value(decode(header["fork"]), _pack)
    if parent is None:
        var._forks = (_Fork(log.line, at, stored),)
    else:
        var._forks = (*made[parent]._forks, _Fork(lines[parent], at, stored))
        branches = made[parent]._branches.entries
        if branches.setdefault(_branch_name(name, made[parent]._name), var) is not var:
            raise ValueError(f"there are two lines called {name!r}")
    var._origin, var._resumed = header["origin"], True
    var._be_careful()
    return var


def _keep_of(header: Dict[str, Any]) -> Optional[_Keep]:
    """Return the limits that a header says."""
    return None if header["keep"] is None else _Keep(*header["keep"])


def _adopt(document: _Document, registry: AlmaRegistry, retired: bool = True) -> Dict[int, AlmaVar[Any]]:
    """Take all variables and namespaces of a document into a registry, resumed; those overwritten too if *retired*.

    All or none: DuplicateNameError for a name that is taken. Raises what transaction() raises. Return the variables by
    number.
    """
    monitor = registry._monitor
    made = _built(document, monitor)
    with registry.transaction():
        for var in _roots(document, made, retired):
            if registry._changeable(var._name).setdefault(var._name, var) is not var:
                raise DuplicateNameError(var._name, "unregister that one, or load into another registry")
        for raw in document.spaces:
            space = _space(registry, raw)
            if registry._namespaces.changeable().setdefault(space._name, space) is not space:
                raise DuplicateNameError(space._name, "load into another registry")
        monitor.time = max(monitor.time, _newest(made))
    return made


def _roots(document: _Document, made: Mapping[int, AlmaVar[Any]], retired: bool) -> List[AlmaVar[Any]]:
    """Return the variables that are no branches, in their order: who overwrote another stands in its place.

    Where a name that was given to an overwritten one is that of another by now, the next that is free is given to it.
    """
    places: Dict[int, int] = {}
    roots = [(number, line.header) for number, line in document.lines.items() if line.header["parent"] is None]
    for number, header in roots:
        if type(header["retired"]) is int:  # whoever took its place
            places[header["retired"]] = places.get(number, number)
    taken = {header["name"] for _, header in roots if not header["retired"]}
    over = [(made[number], header["name"]) for number, header in roots if retired and header["retired"]]
    names = {name for _, name in over} | taken
    for var, name in over:
        if name in taken:
            old = name.rpartition("~")[0] or name
            new = next(new for new in (f"{old}~{n}" for n in range(1, 1 << 62)) if new not in names)
            names.add(new)
            for line, _ in list(_family(var)):
                line._name = line._log.name = new + line._name[len(name) :]
    roots.sort(key=lambda root: places.get(root[0], root[0]))
    return [made[number] for number, header in roots if retired or not header["retired"]]


def _newest(made: Mapping[int, AlmaVar[Any]]) -> int:
    """Return the time of the newest record of all."""
    return max((var._log.head[2].times[-1] for var in made.values()), default=-(1 << 63))


def _space(registry: AlmaRegistry, raw: Dict[str, Any]) -> AlmaNamespace:
    """Return a namespace from its header, resumed."""
    space = AlmaNamespace(registry, raw["name"], _Options(raw["deep_copy"], (), (), (), _keep_of(raw), raw["trace"]))
    space._keys.entries.update((key, f"{raw['name']}.{key}") for key in raw["keys"])
    space._flags.entries.update({"frozen": True} if raw["frozen"] else {})
    space._resumed = True
    return space


# SQLite: what a journal and a saved file have in common. Values are text; what has a lone surrogate is a blob.

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE lines(id INTEGER PRIMARY KEY, name TEXT, header TEXT NOT NULL, digest BLOB NOT NULL);
CREATE TABLE records(line INTEGER NOT NULL, idx INTEGER NOT NULL, time INTEGER NOT NULL, label TEXT, facts TEXT,
  value TEXT NOT NULL, digest BLOB NOT NULL, PRIMARY KEY(line, idx)) WITHOUT ROWID;
CREATE TABLE namespaces(id INTEGER PRIMARY KEY, name TEXT, header TEXT NOT NULL, digest BLOB NOT NULL);
CREATE TABLE keys(namespace INTEGER NOT NULL, key TEXT NOT NULL, position INTEGER NOT NULL, digest BLOB NOT NULL,
  PRIMARY KEY(namespace, key)) WITHOUT ROWID;
CREATE VIEW timeline AS SELECT lines.name AS name, idx, strftime('%Y-%m-%dT%H:%M:%S',
  (time - (time % 1000000000 + 1000000000) % 1000000000) / 1000000000, 'unixepoch')
  || printf('.%06d+00:00', (time % 1000000000 + 1000000000) % 1000000000 / 1000) AS at, label, value
  FROM records JOIN lines ON lines.id = records.line;
"""
_FORMAT = "alma 1"


def _column(text: str) -> Union[str, bytes]:
    """Return text as SQLite can hold it: what is no valid Unicode as a blob."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _from_column(thing: Union[str, bytes]) -> str:
    """Return the text that _column() made *thing* of."""
    return thing if isinstance(thing, str) else bytes.decode(thing, "utf-8", "surrogatepass")


def _key_seal(number: int, key: str, position: int) -> bytes:
    """Return the digest of the row of a namespace's key."""
    return _seal(b"", _text([number, key, position]))


def _header_row(number: int, header: Dict[str, Any]) -> Tuple[Any, ...]:
    """Return the row in which the header of a line or namespace stands."""
    text = _text(header)
    return number, _column(header["name"]), text, _seal(b"", text)


def _header_of(number: int, name: Any, text: str, digest: bytes) -> Dict[str, Any]:
    """Return the header of a row; ValueError where it does not hold."""
    raw: Dict[str, Any] = _parse(text)
    if digest != _seal(b"", text) or _from_column(name) != raw["name"]:
        raise ValueError(f"the header of {name!r} does not hold")
    return raw


def _guard(connection: Any, path: str, size: int) -> None:
    """Refuse a database that is not Alma's, or damaged; FileFormatError. Nothing of it is run.

    A stranger's may be made so that SQLite never ends: it may take so many steps as its *size* in bytes allows.
    """
    import sqlite3

    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "query_only=ON"):
        connection.execute(f"PRAGMA {pragma}")
    pulses = iter(range(1_000 + size // 100))
    connection.set_progress_handler(lambda: next(pulses, None) is None, 10_000)
    own = sqlite3.connect(":memory:")
    try:
        own.executescript(_SCHEMA)
        with _reading(path, sqlite3.Error):
            parts = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
            if connection.execute(parts).fetchall() != own.execute(parts).fetchall():
                raise FileFormatError(path, "is not of Alma: its tables are others, or something was added to them")
            problems = connection.execute("PRAGMA quick_check(1)").fetchall()
            if problems != [("ok",)]:
                raise FileFormatError(path, f"is damaged: {problems[0][0]}")
    finally:
        own.close()


def _require_format(connection: Any, path: str) -> Dict[str, Any]:
    """Return what a database says of itself; FileFormatError if that is not how this version writes them."""
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    if meta.get("format") != _FORMAT:
        raise FileFormatError(path, f"is of format {meta.get('format')!r}; this Alma reads {_FORMAT!r}")
    return meta


def _rows_document(connection: Any, path: str, codec: _Codec) -> _Document:
    """Return what a guarded database says; FileFormatError where it can't be read."""
    import sqlite3
    from itertools import groupby

    lines: Dict[int, _Written] = {}
    with _reading(path, sqlite3.Error):
        meta = _require_format(connection, path)
        for row in connection.execute("SELECT id, name, header, digest FROM lines ORDER BY id"):
            lines[row[0]] = _Written(_header_of(*row), [], [], [], [], [], b"")
        rows = connection.execute("SELECT line, idx, time, label, facts, value, digest FROM records ORDER BY line, idx")
        for number, group in groupby(rows, key=lambda row: row[0]):
            _, indices, times, labels, facts, values, digests = map(list, zip(*group))
            labels = [label if type(label) is not bytes else _from_column(label) for label in labels]
            facts = [raw if raw is None else _parse(raw) for raw in facts]
            if set(map(type, values)) != {str} or set(map(len, digests)) != {32}:
                raise ValueError(f"a value of line {number} is no text, or a digest none")
            lines[number] = _Written(lines[number].header, indices, times, labels, facts, values, b"".join(digests))
        rows = connection.execute("SELECT * FROM namespaces ORDER BY id")
        spaces = [_space_of(connection, path, row) for row in rows]
    return _Document(path, lines, spaces, str, codec.value, codec, meta.get("records"), meta.get("head"))


def _space_of(connection: Any, path: str, row: Tuple[Any, ...]) -> Dict[str, Any]:
    """Return the header of a namespace with its keys; FileFormatError where they do not hold."""
    keys, query = [], "SELECT key, position, digest FROM keys WHERE namespace = ? ORDER BY position"
    with _reading(path):
        raw = _header_of(*row)
        for key, position, seal in connection.execute(query, row[:1]):
            keys.append(_from_column(key))
            if seal != _key_seal(row[0], keys[-1], position):
                raise ValueError(f"key {keys[-1]!r} of namespace {raw['name']!r} does not hold")
    return {**raw, "keys": keys}


def _insert(connection: Any, document: _Document) -> None:
    """Write a document into an empty database with the schema, but for meta."""
    for number, line in document.lines.items():
        connection.execute("INSERT INTO lines VALUES(?, ?, ?, ?)", _header_row(number, line.header))
        labels = [note if note is None else _column(note) for note in line.labels]
        facts = [raw if raw is None else _text(raw) for raw in line.facts]
        rows = zip(repeat(number), line.indices, line.times, labels, facts, line.values, _one_by_one(line.digests))
        connection.executemany("INSERT INTO records VALUES(?, ?, ?, ?, ?, ?, ?)", rows)
    for number, space in enumerate(document.spaces):
        connection.execute("INSERT INTO namespaces VALUES(?, ?, ?, ?)", _header_row(number, {**space, "keys": []}))
        keys = [(number, _column(key), n, _key_seal(number, key, n)) for n, key in enumerate(space["keys"])]
        connection.executemany("INSERT INTO keys VALUES(?, ?, ?, ?)", keys)


def _write_database(path: str, document: _Document) -> None:
    """Write a database into an empty file."""
    import sqlite3

    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE"):  # it is put in its place whole
            connection.execute(f"PRAGMA {pragma}")
        connection.executescript(f"BEGIN;{_SCHEMA}")
        about = {"format": _FORMAT, "records": document.records, "head": document.head}
        connection.executemany("INSERT INTO meta VALUES(?, ?)", about.items())
        _insert(connection, document)
        connection.execute("COMMIT")
    finally:
        connection.close()


def _from_database(path: str, codec: _Codec, thorough: bool) -> _Document:
    with _opened(path) as connection:
        _guard(connection, path, os.path.getsize(path))
        return _rows_document(connection, path, codec)


_borrowed: Dict[Tuple[int, int], Tuple[Any, ...]] = {}  # files of the process that forked this one: pid, connections


def _refuse_borrowed(path: str) -> None:
    """Raise JournalError for a file that was open in the process that forked this one when it did.

    SQLite in here believes for ever that it holds what was locked then, so it would look after nothing.
    """
    there = os.stat(path) if _borrowed and os.path.exists(path) else None
    if there is not None and (there.st_dev, there.st_ino) in _borrowed:
        pid = _borrowed[there.st_dev, there.st_ino][0]
        reason = f"process {pid} had it open when it forked this one; close it before, or open it in a new interpreter"
        raise JournalError(path, reason)


@contextmanager
def _opened(path: str) -> Generator[Any, None, None]:
    """Hand out a connection that reads a database: of a copy, so that a stranger's stays untouched, unless it is live.

    All that is read belongs to one moment.
    """
    import shutil
    import sqlite3
    from pathlib import Path
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="alma-") as folder, _reading(path, sqlite3.Error):
        place, mode = os.path.abspath(path), "ro"
        if os.path.exists(f"{path}-shm"):  # somebody writes, and a copy of both files would be of two moments
            _refuse_borrowed(path)
        else:
            place, mode = os.path.join(folder, "copy.db"), "rw"
            for name in filter(os.path.exists, (path, f"{path}-wal")):
                shutil.copyfile(name, place + name[len(path) :])
        connection = sqlite3.connect(f"{Path(place).as_uri()}?mode={mode}", uri=True, isolation_level=None)
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()


# JSON and pickle: bytes to a document and back.

_OUTER = "alma", "records", "head", "namespaces", "lines"  # what a file holds, and a pickle in this order
_ROWS, _NEXT_ROW, _DIGESTS = b'"rows":[\n', b"],\n[", b'\n],"digests":[\n'  # no text holds a newline


def _json_body(document: _Document) -> bytes:
    """Return a JSON document with one record a line, but for its end. The same document gives the same bytes."""
    spaces = ",\n".join(map(_text, document.spaces))
    head = f'{{"alma":1,"records":{document.records},"head":"{document.head}","namespaces":[{spaces}],"lines":[\n'
    lines = []
    for line in document.lines.values():
        rows = b",\n".join([b"[%b]" % text for text in line.texts])
        digests = b'"%b"' % line.digests.hex("\n", 32).replace("\n", '",\n"').encode() if line.digests else b""
        lines.append(b'{"header":%b,%b%b%b%b\n]}' % (_text(line.header).encode(), _ROWS, rows, _DIGESTS, digests))
    return head.encode() + b",\n".join(lines) + b"]"


def _json_end(body: bytes) -> bytes:
    """Return how a JSON document ends: with the digest over what is before."""
    return b',\n"sha256":"%b"}\n' % _seal_of(body).encode()


def _seal_of(body: bytes) -> str:
    return _seals(b"", [body]).hex()


def _from_json(path: str, codec: _Codec, thorough: bool) -> _Document:
    data, lines = _bytes_of(path), {}
    place = -len(_json_end(b""))
    body, end = data[:place], data[place:]
    is_whole = not thorough and end == _json_end(body)
    raw = _parse((_shaved(body) + end if is_whole else data).decode())
    seal = str(raw.pop("sha256", "")) if type(raw) is dict else ""
    for number, line in enumerate(_entries(path, raw)):
        header, cells, digests = _fields(line, "header", "rows", "digests")
        if not is_whole:
            if set(map(len, cells)) - {5} or len(cells) != len(digests):
                raise ValueError("a row is not as it should be")
            cells = [cell for row in cells for cell in row]
        indices, times, labels, facts, values = (cells[place::5] for place in range(5))
        seals = b"".join(map(_from_hex, digests))
        lines[number] = _Written(header, indices, times, labels, facts, values, seals)
    about = raw["records"], raw["head"], seal, is_whole
    return _Document(path, lines, raw["namespaces"], _text, codec.decode, codec, *about)


def _shaved(body: bytes) -> bytes:
    """Return a JSON document without digests and the brackets of rows, which makes parsing take a third of the time."""
    parts: List[bytes] = []
    end, start = 0, body.find(_ROWS)
    while start >= 0:
        start += len(_ROWS)
        middle = body.index(_DIGESTS, start)
        parts += body[end:start], body[start + 1 : middle - 1].replace(_NEXT_ROW, b","), _DIGESTS
        end = body.index(b"]", middle + len(_DIGESTS))
        start = body.find(_ROWS, end)
    return b"".join([*parts, body[end:]])


def _from_hex(text: str) -> bytes:
    """Return what bytes.hex() made *text* of; ValueError if it made no such text."""
    made = bytes.fromhex(text)
    if made.hex() != text:
        raise ValueError(f"{text[:70]!r} is no digest as Alma writes it")
    return made


def _fields(raw: Any, *names: str) -> List[Any]:
    """Return what an object holds under these names; ValueError if it is none, or holds other things."""
    if type(raw) is not dict or list(raw) != list(names):
        raise ValueError(f"it should hold {', '.join(names)}, and nothing else")
    return list(raw.values())


def _entries(path: str, raw: Any) -> List[Any]:
    """Return the lines of a skeleton, when what is around them is as it should be."""
    if type(raw) is not dict or raw.get("alma") != 1:
        version = raw.get("alma") if type(raw) is dict else None
        raise FileFormatError(path, f"is no file of Alma, or of format {version!r}; this Alma reads format 1")
    _, records, head, spaces, lines = _fields(raw, *_OUTER)
    if list(map(type, (records, head, spaces, lines))) != [int, str, list, list]:
        raise ValueError("what stands at its beginning is of other types")
    return lines  # type: ignore[no-any-return]


_INLINE = {_NONE, bool, int, float, str, bytes}  # what stands in a pickle as it is; of other values, the text in a list


def _pickle_bytes(document: _Document, stored: List[List[Any]]) -> bytes:
    """Return the bytes of a pickle that holds lists of builtins only; *stored* are the values of each line."""
    lines = []
    for line, values in zip(document.lines.values(), stored):
        starts = [n for n, last in zip(line.indices, [None, *line.indices]) if last is None or n != last + 1]
        inline = [value if type(value) in _INLINE else [text] for value, text in zip(values, line.values)]
        spans = [
            [start, bisect_left(line.indices, end) - bisect_left(line.indices, start)]
            for start, end in zip(starts, [*starts[1:], _ANY_INDEX])
        ]
        facts = [[n, _text(raw)] for n, raw in zip(line.indices, line.facts) if raw is not None]
        labels = [[n, label] for n, label in zip(line.indices, line.labels) if label is not None]
        times = _int64s(array("q", line.times)).tobytes()
        lines.append([_text(line.header), spans, times, labels, facts, inline, line.digests])
    return _write_pickle([1, document.records, document.head, list(map(_text, document.spaces)), lines])


def _int64s(numbers: array[int]) -> array[int]:
    """Return numbers of this machine as little-endian ones, or the other way round."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _from_pickle(path: str, codec: _Codec, thorough: bool) -> _Document:
    made = _read_pickle(_bytes_of(path), path)
    raw: Any = dict(zip(_OUTER, made)) if type(made) is list and len(made) == len(_OUTER) else made
    lines = {}
    for number, line in enumerate(_entries(path, raw)):
        header, spans, times, labels, facts, values, digests = line
        size = len(values)
        if sum(length for _, length in spans) != size or len(times) != 8 * size or len(digests) != 32 * size:
            raise ValueError("its columns are not of one length")
        indices = [index for start, length in spans for index in range(start, start + length)]
        times = _int64s(array("q", times)).tolist()
        notes, known = list(map(dict(labels).get, indices)), list(map(dict(facts).get, indices))
        facts = [None if text is None else _parse(text) for text in known]
        lines[number] = _Written(_parse(header), indices, times, notes, facts, values, digests)

    def text(value: Any) -> str:
        written: str = value[0] if type(value) is list else codec.text(value)
        return written

    def opened(value: Any) -> Any:
        return codec.value(value[0]) if type(value) is list else value

    spaces = list(map(_parse, raw["namespaces"]))
    return _Document(path, lines, spaces, text, opened, codec, raw["records"], raw["head"])


_FORMATS = {
    **dict.fromkeys(("json",), "json"),
    **dict.fromkeys(("pickle", "pkl"), "pickle"),
    **dict.fromkeys(("db", "sqlite", "sqlite3"), "sqlite"),
}
_LOADERS = {"json": _from_json, "pickle": _from_pickle, "sqlite": _from_database}


def _format_of(path: str, given: Optional[str]) -> str:
    """Return the format of a file: the given one, else the one its suffix says; ValueError if it is none."""
    word = os.path.splitext(path)[1][1:].lower() if given is None else given
    if word not in _FORMATS:
        instead = f", not {word!r}" if word else "; this has none"
        raise ValueError(f"{path}: the suffix or format= says how it is written: {', '.join(_FORMATS)}{instead}")
    return _FORMATS[word]


def _require_database(path: str) -> None:
    """Raise ValueError for the path of a journal whose suffix says that it is a file of another format."""
    if _FORMATS.get(os.path.splitext(path)[1][1:].lower(), "sqlite") != "sqlite":
        raise ValueError(f"{path}: a journal is a SQLite file; name it .db, .sqlite or .sqlite3")


def _bytes_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _mode_of(path: str) -> int:
    """Return the mode of a file; OSError if it is no regular one: from a FIFO or a device one might read for ever."""
    import errno
    import stat

    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "is no regular file", path)
    return stat.S_IMODE(mode)


def _read(path: _Path, given: Optional[str], codec: _Codec, thorough: bool = False) -> _Document:
    """Return what a file says, if all of it holds; FileFormatError if not. If *thorough*, each digest is computed."""
    import gc

    name, collects = os.fsdecode(path), gc.isenabled()
    reader = _LOADERS[_format_of(name, given)]
    _mode_of(name)
    gc.disable()  # it would look at 100,000 lists again and again: 84 ms instead of 48
    try:
        with _reading(name):
            return _checked(reader(name, codec, thorough))
    finally:
        if collects:
            gc.enable()


# Writing: beside its place first, and then put there, so that whatever strikes leaves the old file or the new one.


def _temporary() -> str:
    """Return how the names of temporary files of this process begin; those of other machines are told apart."""
    from zlib import crc32

    node = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return f".alma-{crc32(node.encode()):08x}-{os.getpid()}-"


def _sweep(folder: str) -> None:
    """Remove the temporary files that processes of this machine have left there when they were killed."""
    own = _temporary().split("-")[:2]
    for name in os.listdir(folder) if os.name == "posix" else ():  # elsewhere, asking for a process may end it
        parts = name.split("-")
        if parts[:2] == own and name.endswith(".tmp") and parts[2].isdecimal():
            try:
                os.kill(int(parts[2]), 0)
            except ProcessLookupError:
                os.unlink(os.path.join(folder, name))
            except (PermissionError, OverflowError):
                pass  # it lives, as another user; or it is no process


def _mode_to_keep(path: str) -> Optional[int]:
    """Return the mode of the file that is to be replaced, None for a new one; OSError for what can't be replaced."""
    import errno

    folder = os.path.dirname(path)
    if not os.path.lexists(path):
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "there is no such folder", folder)
        return None
    for suffix in filter(lambda suffix: os.path.exists(path + suffix), ("-wal", "-shm", "-journal")):
        raise JournalError(path, f"is a live journal, or was left as one ({suffix} stands beside it): save elsewhere")
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return _mode_of(path)


@contextmanager
def _replacing(path: str) -> Generator[Tuple[int, str], None, None]:
    """Hand out a new file, open and empty, and put it in place of *path* when it is filled and on the disk.

    Where that fails it is gone, and what was there is as it was. A link is followed, and the mode kept.
    """
    target = os.path.realpath(path)
    folder, mode = os.path.dirname(target), _mode_to_keep(target)
    _sweep(folder)
    beside = os.path.join(folder, f"{_temporary()}{os.urandom(6).hex()}.tmp")
    try:
        file = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            if mode is not None:
                os.chmod(beside, mode)
            yield file, beside
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(beside, target)
    except BaseException:
        if os.path.exists(beside):
            os.unlink(beside)
        raise
    if os.name == "posix":  # elsewhere a folder can't be opened
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _write_beside(path: str, chunks: Iterable[bytes]) -> None:
    """Write a file whole or not at all."""
    data = b"".join(chunks)
    with _replacing(path) as (file, _):
        _write_all(file, data)


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


# What is called.


def _classes(types: _Types) -> Dict[str, type]:
    """Return the classes that are named, by name."""
    return {name: kind for name, (kind, _) in _named_kinds(types).items()}


def _save(
    path: _Path,
    given: Optional[str],
    types: _Types,
    monitor: _Monitor,
    what: Callable[[], Tuple[Iterable[AlmaVar[Any]], Iterable[AlmaNamespace]]],
) -> None:
    """Write variables and namespaces, as they are at one moment, to a file. Encodes all before it opens anything."""
    name = os.fsdecode(path)
    kind = _format_of(name, given)
    codec = _Codec({**monitor.types, **_classes(types)}, pickles=kind == "pickle", forms=monitor.forms)

    def take() -> Tuple[List[_Taken], List[Dict[str, Any]]]:
        variables, spaces = what()
        return _take(monitor, variables), list(map(_space_header, spaces))

    taken, headers = take() if monitor.is_nested() else monitor.run(take)
    document = _document(name, taken, headers, codec)
    if kind == "sqlite":
        with _replacing(name) as (_, beside):
            _write_database(beside, document)
    elif kind == "json":
        body = _json_body(document)
        _write_beside(name, [body, _json_end(body)])
    else:
        sizes = [len(line.indices) for line in document.lines.values()]
        stored = [line.stored[len(line.stored) - size :] for line, size in zip(taken, sizes)]
        _write_beside(name, [_pickle_bytes(document, stored)])


def _load_var(
    path: _Path, given: Optional[str], types: _Types, trust: bool, name: Optional[str], options: _Options
) -> AlmaVar[Any]:
    """Return a variable of a file, under a lock of its own."""
    known, monitor = _classes(types), _Monitor(time_ns)
    document = _read(path, given, _Codec(known, trust=trust))
    made = _built(document, monitor)
    if name is None:
        found = [made[number] for number, line in document.lines.items() if line.header["parent"] is None]
        if len(found) != 1:
            names = str([var._name for var in found])[:500]
            raise ValueError(f"{document.path} holds {len(found)} variables: name= says which: {names}")
    else:
        found = [var for var in made.values() if var._name == name]
        if not found:
            unknown = UnknownNameError(name, [var._name for var in made.values()], makes="save()")
            unknown.args = (f"{unknown} ({document.path} holds {_some_of(unknown.known)})",)
            raise unknown
    monitor.time, monitor.types = _newest(made), known
    found[0]._resume(options)
    return found[0]


def _some_of(names: Sequence[str]) -> str:
    """Return at most ten names, and how many more there are."""
    more = f" and {len(names) - 10:,} more" * (len(names) > 10)
    return (", ".join(map(repr, names[:10])) or "nothing") + more


def _load_all(registry: AlmaRegistry, path: _Path, given: Optional[str], types: _Types, trust: bool) -> None:
    """Take all of a file into a registry."""
    monitor, known = registry._monitor, _classes(types)
    _adopt(_read(path, given, _Codec({**monitor.types, **known}, trust=trust)), registry)
    monitor.types = {**monitor.types, **known}


def load(path: _Path, *, format: Optional[str] = None, types: _Types = (), trust: bool = False) -> AlmaRegistry:
    """Return a new registry with all variables, branches and namespaces of a file.

    The arguments are those of AlmaRegistry.load(), and so is what it raises.
    """
    return AlmaRegistry().load(path, format=format, types=types, trust=trust)


class Verdict(str):
    """What verify() found, in words: true if all holds, with *ok*, how many *records*, and the digest *head* of all."""

    ok: bool
    records: int
    head: str

    def __new__(cls, text: str, ok: bool = False, records: int = 0, head: str = "") -> Verdict:
        verdict = super().__new__(cls, text)
        verdict.ok, verdict.records, verdict.head = ok, records, head
        return verdict

    def __bool__(self) -> bool:
        return self.ok


def verify(path: _Path, *, format: Optional[str] = None, head: Optional[str] = None) -> Verdict:
    """Return whether every record of a file is as it was written: 'ok, 12 records', or what does not hold.

    Recomputes the digest of each record from the one before it and its own text; loads no value. *head* is a digest
    kept elsewhere, to be compared with that over all. Finds damage; a forger can compute digests as well, unless you
    keep the head. OSError if it can't be read, ValueError for a suffix that says no format. 3 us a record.
    """
    try:
        document = _read(path, format, _Codec(), thorough=True)
    except FileFormatError as error:
        return Verdict(error.reason)
    count, now = document.records or 0, document.head or ""
    if head is not None and head.strip().lower() != now:
        return Verdict(f"the digest over all is {now}, not {head}", False, count, now)
    return Verdict(f"ok, {count} records", True, count, now)


# == Journal: the live SQLite journal =========================================
#
# Knows variables, the codec and the rows of Files; SQLite does the writing. A change is in the file before memory
# shows it, a transaction wholly or not. What struck in between is settled by asking the file. One registry writes to
# a file, whoever wants reads it meanwhile. No connection is used, or closed, by a fork's child.


class _Entry:
    """What a journal knows of a line in its file.

    Up to record *at*, the rows of the line that it has left are its own too if there is one *shared*. *start* is the
    first of its own rows behind the gap, *anchor* what its header says of that. *newest* is how many records there are
    in the file, and the digest of the last; *known* what the header was made of.
    """

    __slots__ = ("anchor", "at", "known", "newest", "number", "parent", "shared", "start", "var")

    def __init__(self, number: int, var: AlmaVar[Any], parent: Optional[_Entry], shares: bool) -> None:
        self.number, self.var, self.at = number, var, var._forks[-1].at
        self.parent, self.shared = parent, parent if shares else None
        self.start = self.at + 1 if shares else 1
        self.anchor: Optional[List[Any]] = None
        self.newest: Tuple[int, bytes] = 0, b""
        self.known: Tuple[Any, ...] = ()

    def holder(self, index: int) -> _Entry:
        """Return the entry among whose rows that of a record is, if it is still there."""
        return self if self.shared is None or index > self.at else self.shared.holder(index)

    def has(self, index: int) -> bool:
        """Tell whether the row of a record is still there."""
        return index == 0 or index >= self.holder(index).start


class _Pending(NamedTuple):
    """A write that is under way, and how to bring memory up with it: kept until memory is."""

    query: Tuple[Any, ...]  # what to ask the file for,
    answer: Tuple[Any, ...]  # and the row that it returns if the write has been done
    undo: List[Tuple[Any, Any, Any]]  # how to take back what the journal has noted meanwhile
    var: Optional[AlmaVar[Any]] = None
    head: Optional[_Head] = None  # of the variable
    first: int = 0  # the oldest record it is to keep
    notices: Iterable[_Notice] = ()
    transaction: Optional[_Transaction] = None


_INSERT = "INSERT INTO records VALUES(?, ?, ?, ?, ?, ?, ?)"
_DIGEST = "SELECT digest FROM records WHERE line = ? AND idx = ?"
_COMMITS = "SELECT value FROM meta WHERE key = 'commits'"
_DURABILITY = {"full": "FULL", "normal": "NORMAL"}
_PRAGMAS = "mmap_size=0", "trusted_schema=OFF", "cell_size_check=ON"
_PASSING = "full", "locked", "readonly", "too big"  # what SQLite says of troubles after which it can go on


class _Journal:
    """The file of one registry, open for writing. Its methods assume the registry's lock."""

    def __init__(self, registry: AlmaRegistry, path: str, codec: _Codec) -> None:
        import hashlib
        import sqlite3

        self.registry, self.monitor, self.codec, self.path = registry, registry._monitor, codec, path
        self.sha256, self.errors, self.pid = hashlib.sha256, sqlite3.Error, os.getpid()
        self.pending: Optional[_Pending] = None
        self.using = threading.RLock()  # held where SQLite writes, and nothing else is waited for: fork() waits for it
        self.begun = False  # whether what the registry has is in the file
        self.behind = False  # whether names have changed within a write, by a signal handler or __del__
        self.reason: Optional[str] = None  # why nothing can be written any more
        self.entries: Dict[_Log, _Entry] = {}
        self.ids: Dict[_Line, int] = {}
        self.spaces: Dict[str, int] = {}  # the numbers of namespaces
        self.commits = self.lines = self.places = 0  # SQLite transactions, lines and places of keys numbered so far
        self.undo: List[Tuple[Any, Any, Any]] = []
        self.new: List[_Entry] = []  # lines of which the file has nothing yet
        self.coming: Dict[_Log, Tuple[_Head, Any]] = {}  # heads, and bases of merges, as pruning will leave them
        self.lock: Any = None
        self.connection: Any = None

    # -- opening and closing

    def open(self, durability: str) -> _Document:
        """Open the file, or make it, and return what it says; in the end release() is to be called, even if it fails.

        JournalError where that can't be done, FileFormatError where the file does not hold.
        """
        try:
            self.lock = _connection(f"{self.path}-lock", "rwc", timeout=0)
            self.lock.execute("BEGIN IMMEDIATE")  # not before it is stored, or an interrupt could leave it locked
            is_new = not _size(self.path)
            self.connection = _connection(self.path, "rwc" if is_new else "rw")
            self.cursor = self.connection.cursor()
            self.execute = self.cursor.execute
            if is_new:
                form = f"INSERT INTO meta VALUES('format', '{_FORMAT}')"
                self.connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}; {form}; COMMIT")
            for pragma in (f"synchronous={_DURABILITY[durability]}", *_PRAGMAS):
                self.execute(f"PRAGMA {pragma}")
            if self.execute("PRAGMA journal_mode=WAL").fetchone() != ("wal",):
                raise JournalError(self.path, "its file system can't do SQLite's write-ahead log")
            there = os.stat(self.path)
            self.file = there.st_dev, there.st_ino
            with closing(_connection(self.path, "ro")) as reader:
                _guard(reader, self.path, _size(self.path))
                return _checked(_rows_document(reader, self.path, self.codec))
        except self.errors as error:
            is_locked = self.connection is None and "locked" in str(error)
            reason = f"{_holding(self.path)} writes to it" if is_locked else str(error)
            raise JournalError(self.path, reason) from error

    def note(self, document: _Document, made: Mapping[int, AlmaVar[Any]]) -> None:
        """Know the lines of the file, of which *made* are the variables."""
        for number, var in made.items():
            line, header = document.lines[number], document.lines[number].header
            self.ids[var._log.line] = number
            if header["retired"]:
                continue
            parent = None if header["parent"] is None else self.entries[made[header["parent"]]._log]
            self.entries[var._log] = entry = _Entry(number, var, parent, header["shares"])
            if header["anchor"] is not None:
                entry.start, entry.anchor = line.indices[line.ahead], header["anchor"]
            digest = line.digests[-32:]
            if parent is not None and not digest:
                digest = _digest_at(document.lines, parent.number, entry.at)
            entry.newest, entry.known = (var._log.head[0], digest), self._known(entry)
        self.spaces = {_from_column(name): number for number, name in self._run("SELECT id, name FROM namespaces")}
        meta = dict(self._run("SELECT key, value FROM meta"))
        self.commits, self.lines = meta.get("commits", 0), max([meta.get("lines", 0), *document.lines])
        self.places = self._run("SELECT ifnull(max(position) + 1, 0) FROM keys")[0][0]

    def _begin(self) -> None:
        """Write that this process writes, and what the registry has that is not in the file."""
        self._set(self, "begun", True)
        self._run("DELETE FROM meta WHERE key IN ('records', 'head')")
        self._set_meta("writer", self.pid)
        self._compare_all()

    def close(self) -> None:
        """Write what the file should hold, move all into it, and let it go; JournalError if that can't be done."""
        if self.connection is None or self.pid != os.getpid():
            return
        try:
            if self.reason is None:
                self._transact(self._end)
                self._do(self._run, "PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.reason = "it has been closed"
            self.release()

    def _end(self) -> None:
        lines: Dict[int, _Written] = {}
        ends = "SELECT digest FROM records WHERE line = ? ORDER BY idx {} LIMIT 1"
        for number, text in self._run("SELECT id, header FROM lines ORDER BY id"):
            found = self._run(ends.format("ASC"), number) + self._run(ends.format("DESC"), number)
            lines[number] = _Written(_parse(text), [], [], [], [], [], b"".join(digest for (digest,) in found))
        rows = self._run("SELECT * FROM namespaces ORDER BY id")
        spaces = [_space_of(self.connection, self.path, row) for row in rows]
        self._set_meta("records", self._run("SELECT count(*) FROM records")[0][0])
        self._set_meta("head", _head_of(lines, spaces))
        self._run("DELETE FROM meta WHERE key = 'writer'")

    def release(self) -> None:
        """Close the connections, that which holds the lock last."""
        for connection in filter(None, (self.connection, self.lock)):
            connection.close()
        self.connection = self.lock = None

    def after_fork(self) -> None:
        """In a fork's child: use nothing of this any more, and keep it from being closed, even when Python ends."""
        self.pending, self.behind, self.reason = None, False, f"it belongs to process {self.pid}, which forked this one"
        if self.connection is None:
            return
        inherited = self.connection, self.cursor, self.lock  # to free a cursor would be to use its connection
        _borrowed[self.file] = self.pid, *inherited
        try:
            import ctypes

            for thing in inherited:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
        except ImportError:
            pass  # then it is closed when Python ends, and nothing is written after that

    def compact(self) -> None:
        """Give the space of what was pruned back to the system."""
        self._check()
        for statement in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
            self._do(self._run, statement)

    # -- what may fail, and what struck

    def _check(self) -> None:
        """Raise JournalError where nothing can be written: closed, broken, another process's, or no longer there."""
        if self.reason is None and self.pid != os.getpid():
            self.after_fork()
        if self.reason is not None:
            raise JournalError(self.path, self.reason)
        try:
            there = os.stat(self.path)  # SQLite would go on writing to a file that has been deleted: 1.5 us
        except OSError as error:
            raise JournalError(self.path, f"it is gone: {error.strerror}") from error
        if (there.st_dev, there.st_ino) != self.file:
            raise JournalError(self.path, "it is gone, and another file is in its place")

    def _do(self, step: Callable[..., Any], *args: Any) -> None:
        """Run step(*args), which uses SQLite.

        If that fails, take back what had been begun and raise JournalError; after an I/O error, write nothing any more.
        """
        try:
            with self.using:
                step(*args)
        except self.errors as error:
            message, passing = str(error), any(word in str(error) for word in _PASSING)
            try:
                self._roll_back()
            except self.errors as another:
                message, passing = str(another), False
            if not passing:
                self.reason = f"{message}; what it holds shows when it is opened anew"
                self.connection.close()
            self._drop()
            raise JournalError(self.path, message) from error

    def _roll_back(self) -> None:
        if self.connection.in_transaction:  # a full disk has rolled back by itself
            self.connection.execute("ROLLBACK")

    def settle(self) -> None:
        """Bring memory up to what the file has of a change that was interrupted, or take the change back."""
        self._undisturbed(self._do, self._settle)

    def catch_up(self) -> None:
        """Write the names that have changed within a write."""
        self._undisturbed(self._transact, self._compare_all)

    def _undisturbed(self, step: Callable[..., None], *args: Any) -> None:
        """Run step(*args) while a signal handler's change waits."""
        monitor, mark = self.monitor, self.monitor.mark
        try:
            monitor.mark = _RUNNING
            step(*args)
            monitor.mark = mark
        except BaseException:
            monitor.mark = mark
            raise

    def _settle(self) -> None:
        if self.pending is not None:
            self._roll_back()
            done = self.execute(*self.pending.query).fetchone() == self.pending.answer
            (self._finish if done else self._drop)()

    def _drop(self) -> None:
        """Take back what was noted of a change that is not in the file. May be interrupted and called again."""
        if self.pending is None:
            return
        for change in reversed(self.pending.undo):
            _put(*change)
        transaction = self.pending.transaction
        if transaction is not None and not transaction.committed:
            transaction.owner = 0
        self.pending = None

    def _finish(self) -> None:
        """Bring memory up to a change that is in the file. May be interrupted and called again."""
        assert self.pending is not None
        var, head, first, notices, transaction = self.pending[3:]
        if transaction is not None:
            transaction.committed = True
        if var is not None:
            log = var._log
            if head is not None and log.head[0] < head[0]:
                log.head = head
            self.monitor.notices.extend(notices)  # an iterator: what was interrupted adds none twice
            if first > log.head[2].first:
                log.prune(log.head, first)
        self.pending = None

    # -- writing

    def _run(self, statement: str, *args: Any) -> List[Any]:
        """Run an SQL statement, and return its rows."""
        return self.execute(statement, args).fetchall()  # type: ignore[no-any-return]

    def _set(self, thing: Any, name: Any, value: Any) -> None:
        """Set an attribute, or an entry of a dict (None for none), so that _drop() takes it back."""
        before = thing.get(name) if isinstance(thing, dict) else getattr(thing, name)
        self.undo.append((thing, name, before))
        _put(thing, name, value)

    def _set_meta(self, key: str, value: Any) -> None:
        self._run("INSERT OR REPLACE INTO meta VALUES(?, ?)", key, value)

    def _transact(self, step: Callable[..., None], *args: Any, **memory: Any) -> None:
        """Run step(*args), which writes, in one SQLite transaction, then bring *memory* up, as _Pending knows it."""
        self._check()
        self.undo, self.new, self.coming = [], [], {}
        self.pending = _Pending((_COMMITS,), (self.commits + 1,), self.undo, **memory)
        self._do(self._write_whole, step, args)
        self._finish()

    def _write_whole(self, step: Callable[..., None], args: Tuple[Any, ...]) -> None:
        self.execute("BEGIN IMMEDIATE")
        before = self.connection.total_changes
        step(*args)
        if self.connection.total_changes == before:
            self.execute("ROLLBACK")
            return
        self._set(self, "commits", self.commits + 1)
        self._set_meta("commits", self.commits)
        self.execute("COMMIT")

    # -- changes of one variable

    def record(self, var: AlmaVar[Any], head: _Head, notices: Iterable[_Notice]) -> None:
        """Write the record that has just been appended, then make *head* the variable's head."""
        entry = self.entries.get(var._log)
        if entry is None:  # it lives in memory only
            var._log.head = head
            self.monitor.notices.extend(notices)
            return
        count, stored, layout, _ = head
        first = layout.first if var._keep is None else _first_to_keep(head, var._keep, self.monitor.time)
        if first > layout.first:
            self._transact(self._record, entry, head, first, var=var, head=head, first=first, notices=notices)
            return
        self._check()
        row = self._row(entry.number, var._log, count - 1, layout.times[-1], stored, entry.newest[1])
        undo = [(entry, "newest", entry.newest)]
        self.pending = _Pending((_DIGEST, row[:2]), row[6:], undo, var, head, 0, notices)
        entry.newest = count, row[6]
        self._do(self.execute, _INSERT, row)  # a transaction of its own, in one call
        self._finish()

    def _record(self, entry: _Entry, head: _Head, first: int) -> None:
        self._add_rows(entry, head)
        self._prune(entry, head, first)

    def _row(self, number: int, log: _Log, index: int, time: int, stored: Any, before: bytes) -> Tuple[Any, ...]:
        """Return the row of a record, sealed; CodecError for a value that has no text."""
        value = self.codec.text(stored if type(stored) is int else _unpack(stored))
        label, facts = log.labels.get(index), log.facts.get(index)
        if label is None and facts is None:
            text = f"{index},{time},null,null,{value}"  # as _record_text() says, and 0.4 us faster
            return number, index, time, None, None, value, self.sha256(before + text.encode()).digest()
        note = _label_text(label)
        raw = facts and _facts_raw(facts, index, log.standing(index - 1).undone, self.ids, self.codec)
        seal = _seal(before, _record_text(index, time, note, raw, value))
        return number, index, time, note and _column(note), raw and _text(raw), value, seal

    def _add_rows(self, entry: _Entry, head: _Head) -> None:
        """Write the records of a line that are not in the file yet."""
        (count, digest), log, layout, rows = entry.newest, entry.var._log, head[2], []
        columns: Tuple[Iterable[Any], ...]
        if count:
            begin, end = count - layout.shift, head[0] - layout.shift
            columns = range(count, head[0]), layout.times[begin:end], layout.values[begin:end]
        else:
            times, values = log.columns(head)
            columns = [0, *range(layout.first, head[0])], [layout.times[0], *times], [layout.values[0], *values]
        if not count and entry.shared is not None:
            count, ((digest,),) = entry.at + 1, self._run(_DIGEST, entry.holder(entry.at).number, entry.at)
        before = digest
        for index, moment, stored in zip(*columns):
            if index >= count:
                rows.append(self._row(entry.number, log, index, moment, stored, digest))
                digest = rows[-1][6]
        if rows:
            self.connection.executemany(_INSERT, rows)
        if entry.anchor == []:
            entry.anchor = [(before or rows[0][6]).hex(), []]
        self._set(entry, "newest", (head[0], digest))

    def prune(self, var: AlmaVar[Any], first: int) -> None:
        """Remove the rows of a variable before record *first*, but for those that branches need."""
        entry = self.entries.get(var._log)
        if entry is None:
            var._log.prune(var._log.head, first)
        else:
            self._transact(self._prune, entry, var._log.head, first, var=var, first=first)

    def _prune(self, entry: _Entry, head: _Head, first: int) -> None:
        """Remove the rows that a line no longer needs when it keeps from *first* on, and write its header."""
        log, layout = entry.var._log, head[2]
        if first > layout.first:
            bases = log._bases(head, first) if log.merges else None
            since = layout.since if layout.first > 1 else layout.times[1]
            self.coming[log] = (head[0], head[1], layout.but(first=first, since=since), head[3]), bases
        self._sweep(entry)

    def _coming(self, var: AlmaVar[Any]) -> Tuple[_Head, Any]:
        """Return the head of a variable as pruning will leave it, and its bases of merges if they change."""
        return self.coming.get(var._log) or (var._head(), None)

    def _sweep(self, entry: _Entry) -> None:
        """Remove the rows that a line, and those it shares rows with, no longer need, and write what changed."""
        removed = self._remove_rows(entry)
        for var, _ in _family(entry.holder(0).var) if removed else ((entry.var, None),):  # whose fork may have gone
            if var._log in self.entries:
                self._write_header(self.entries[var._log])

    def _remove_rows(self, entry: _Entry) -> bool:
        """Remove the rows that a line, and those whose rows it shares, no longer need; tell whether there were any."""
        needed = self._needed(entry)
        removed = needed > entry.start
        if removed:
            self._set(entry, "anchor", self._anchor(entry, needed - 1))
            gone = "DELETE FROM records WHERE line = ? AND idx BETWEEN ? AND ?"
            self._run(gone, entry.number, entry.start, needed - 1)
            self._set(entry, "start", needed)
        return (entry.shared is not None and self._remove_rows(entry.shared)) or removed

    def _needed(self, entry: _Entry) -> int:
        """Return the oldest record whose row must stay for a line and for those that share it."""
        needed = self._coming(entry.var)[0][2].first
        for branch in entry.var._branches.current().values():
            below = self.entries.get(branch._log)
            if below is not None and below.shared is not None:
                its = self._needed(below)
                if its <= below.at or below.anchor is None:
                    needed = min(needed, its, below.at)
        return needed

    def _anchor(self, entry: _Entry, index: int) -> List[Any]:
        """Return the digest of a row in hex, and which changes were undone at that record, the top one first."""
        holder, undone = entry.holder(index), []
        if holder.anchor is not None:
            undone = holder.anchor[1][::-1]
        elif holder.shared is not None and holder.at:
            undone = self._anchor(holder.shared, holder.at)[1][::-1]
        query = "SELECT facts, digest FROM records WHERE line = ? AND idx BETWEEN ? AND ? ORDER BY idx"
        rows = self._run(query, holder.number, holder.start, index)
        for facts, _ in rows:
            raw = {} if facts is None else _parse(facts)
            del undone[len(undone) - raw["pop"] if "stands" in raw else 0 :]
            undone += raw.get("push", ())
        return [rows[-1][1].hex(), undone[::-1]]

    # -- headers

    def _known(self, entry: _Entry) -> Tuple[Any, ...]:
        """Return what a header is made of, as far as it can change."""
        var, layout = entry.var, self._coming(entry.var)[0][2]
        options = var._keep, var._pack is _pack, bool(var._traced), var._is_encoded()
        return layout.first, layout.since, layout.frozen, entry.start, entry.has(entry.at), *options

    def _write_header(self, entry: _Entry, **instead: Any) -> None:
        """Write the header of a line where it has changed, or with something else *instead* of what it says."""
        var, known, shares = entry.var, self._known(entry), entry.shared is not None
        if known == entry.known and not instead:
            return
        number = None if entry.parent is None else entry.parent.number
        fork = None if entry.has(entry.at) else _plain(self.codec, var._forks[-1].stored, var._name, entry.at)
        head, bases = self._coming(var)
        header = _header(var, head, self.ids, self.codec, number, shares, entry.anchor, fork, bases=bases)
        row = _header_row(entry.number, {**header, **instead})
        self._run("INSERT OR REPLACE INTO lines VALUES(?, ?, ?, ?)", *row)
        self._set(entry, "known", known)

    # -- transactions, and what changes the names

    def whole(self, step: Callable[..., Any], args: Tuple[Any, ...]) -> Any:
        """Run step(*args), which changes names, branches or flags, as a transaction of its own.

        Within a write, by a signal handler or __del__, it goes ahead in memory, and the file follows right after.
        """
        monitor = self.monitor
        if monitor.transaction is not None or monitor.idle is _CLOSED:
            return step(*args)
        if monitor.idle is not None or self.pending is not None:
            self.behind = True
            return step(*args)
        with _whole_or_not(monitor, None):
            return monitor._perform(step, args)

    def commit(self, transaction: _Transaction) -> None:
        """Write all that a transaction has changed; after that it is committed."""
        if self.begun:
            self._transact(self._commit, transaction, transaction=transaction)
        else:
            self._transact(self._begin, transaction=transaction)

    def _commit(self, transaction: _Transaction) -> None:
        tables = sorted(transaction.draft.tables.items(), key=lambda item: _KINDS.index(item[0].kind))
        changes = [(table, entries, *_difference(table.kind, table.entries, entries)) for table, entries in tables]
        for table, _, added, _ in changes:
            self._add(table, added)
        touched = [self.entries[var._log] for var in transaction.touched if var._log in self.entries]
        self._write_lines(touched)
        for entry in touched:
            head, keep = entry.var._head(), entry.var._keep
            self._prune(entry, head, 0 if keep is None else _first_to_keep(head, keep, transaction.time))
        for table, entries, _, removed in reversed(changes):
            self._take_out(table, removed, entries)
        for thing, *_ in transaction.resumed:  # its first watch() may have given it other options
            if isinstance(thing, AlmaNamespace):
                self._write_space(thing)
            elif thing._log in self.entries:
                self._write_header(self.entries[thing._log])
        if transaction.beside is not None:
            self._set_meta(*transaction.beside())

    def kept(self, key: str) -> Optional[str]:
        """Return the text that a transaction has left under a key, beside what it changed."""
        rows = self._run("SELECT value FROM meta WHERE key = ?", key)
        return rows[0][0] if rows else None

    def _compare_all(self) -> None:
        """Write what the registry has and the file has not, and remove what is over."""
        self._set(self, "behind", False)
        variables = self.registry._vars.current()
        there = {line._log for var in variables.values() for line, _ in _family(var)}
        for entry in sorted(self.entries.values(), key=lambda entry: entry.number):
            if entry.var._log not in there:  # a branch of one that is retired is by now no longer known
                (self._retire if entry.parent is None else self._remove)(entry.var)
        for var in variables.values():
            self._enter(var)
        self._write_lines()
        for space in self.registry._namespaces.current().values():
            number = self.spaces.get(space._name, -1)
            keys = self._run("SELECT key FROM keys WHERE namespace = ? ORDER BY position", number)
            self._write_space(space, _moved([_from_column(key) for (key,) in keys], space._keys.current()))

    def _add(self, table: _Table, added: Dict[str, Any]) -> None:
        """Enter what has come into a table."""
        parent = self.entries.get(table.owner._log) if table.kind == "branches" else None
        if table.kind == "variables" or parent is not None:
            for var in added.values():
                self._enter(var, parent)
        elif table.kind == "namespaces":
            for space in added.values():
                self._write_space(space, space._keys.current())
        elif table.kind == "keys":
            self._write_space(table.owner, added, header=False)
        elif table.kind == "flags":
            self._write_space(table.owner)

    def _enter(self, var: AlmaVar[Any], parent: Optional[_Entry] = None) -> None:
        """Give a line a number, and the branches of it that have none."""
        entry = self.entries.get(var._log)
        if entry is None:
            first, at = var._head()[2].first, var._forks[-1].at
            shares = parent is not None and (at == 0 or (first <= at and parent.has(first)))
            self._set(self, "lines", self.lines + 1)
            self._set_meta("lines", self.lines)
            entry = _Entry(self.lines, var, parent, shares)
            if first > entry.start:
                entry.start, entry.anchor = first, []  # the digest is known when the record before has been written
            self._set(self.entries, var._log, entry)
            self._set(self.ids, var._log.line, entry.number)
            self.new.append(entry)
        for branch in var._branches.current().values():
            self._enter(branch, entry)

    def _write_lines(self, touched: Iterable[_Entry] = ()) -> None:
        """Write the records that are new, and the headers of lines that are."""
        # a branch goes on from a row of its parent's, whose number is lower
        for entry in sorted({*self.new, *touched}, key=lambda entry: entry.number):
            self._add_rows(entry, entry.var._head())
        for entry in self.new:
            self._write_header(entry)

    def _take_out(self, table: _Table, removed: Dict[str, Any], now: Dict[str, Any]) -> None:
        """Remove what is no longer in a table; who stands in the place of a variable has taken it."""
        for branch in removed.values() if table.kind == "branches" else ():
            self._remove(branch)
        if table.kind == "variables" and removed:
            moved = set(_moved(list(table.entries), now))
            for name, var in removed.items():
                self._retire(var, self.entries.get(now[name]._log) if name in now and name not in moved else None)

    def _retire(self, var: AlmaVar[Any], heir: Optional[_Entry] = None) -> None:
        """Keep the life of a variable that is over, with its branches, as name~1 or the next that is free."""
        names = (f"{var._name}~{number}" for number in range(1, 1 << 62))
        name = next(name for name in names if not self._run("SELECT 1 FROM lines WHERE name = ?", _column(name)))
        for entry in self._forget(var):
            branch = entry.var._name[len(var._name) :]
            self._write_header(entry, name=name + branch, retired=heir.number if heir else True)

    def _remove(self, var: AlmaVar[Any]) -> None:
        """Remove a branch that has been dropped, and those that left it."""
        removed = self._forget(var)
        for entry in removed:
            self._run("DELETE FROM records WHERE line = ?", entry.number)
            self._run("DELETE FROM lines WHERE id = ?", entry.number)
            self._set(self.ids, entry.var._log.line, None)
        parent = removed[0].parent if removed else None
        if parent is not None and parent.var._log in self.entries:
            self._sweep(parent)

    def _forget(self, var: AlmaVar[Any]) -> List[_Entry]:
        """Return what is known of a variable and its branches, for the last time."""
        entries = [self.entries[line._log] for line, _ in _family(var) if line._log in self.entries]
        for entry in entries:
            self._set(self.entries, entry.var._log, None)
        return entries

    def _write_space(self, space: AlmaNamespace, keys: Iterable[str] = (), header: bool = True) -> None:
        """Write these keys of a namespace behind those that there are, and its header where that has changed."""
        if space._name not in self.spaces:
            self._set(self.spaces, space._name, len(self.spaces))
        number = self.spaces[space._name]
        for key in keys:
            seal = _key_seal(number, key, self.places)
            self._run("INSERT OR REPLACE INTO keys VALUES(?, ?, ?, ?)", number, _column(key), self.places, seal)
            self._set(self, "places", self.places + 1)
        if not header:
            return
        row = _header_row(number, {**_space_header(space), "keys": []})
        if self._run("SELECT header FROM namespaces WHERE id = ?", number) != [row[2:3]]:
            self._run("INSERT OR REPLACE INTO namespaces VALUES(?, ?, ?, ?)", *row)


_forking = threading.RLock()  # one thread forks at a time
_stopped = ExitStack()  # locks of journals, while one does


def _before_fork() -> None:
    """Wait until nobody is inside SQLite: what is locked there stays so in the child, whatever it opens (2 in 100)."""
    _forking.acquire()
    for monitor in _alive():
        if monitor.journal is not None:
            _stopped.enter_context(monitor.journal.using)


def _when_forked() -> None:
    _stopped.close()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_when_forked, after_in_child=_when_forked)


_KINDS = "namespaces", "variables", "branches", "keys", "flags"  # in the order in which they are written


def _put(thing: Any, name: Any, value: Any) -> None:
    """Set an attribute, or an entry of a dict: None for none."""
    if not isinstance(thing, dict):
        setattr(thing, name, value)
    elif value is None:
        thing.pop(name, None)
    else:
        thing[name] = value


def _difference(kind: str, old: Dict[str, Any], new: Dict[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Return what of a table is new, or has moved to its end, and what is no longer in it. O(entries), mostly in C."""
    from operator import is_

    names = list(new)
    if names[: len(old)] == list(old) and all(map(is_, old.values(), new.values())):
        return {name: new[name] for name in names[len(old) :]}, {}
    if kind == "keys":
        return {key: new[key] for key in _moved(list(old), new)}, {}
    added = {name: thing for name, thing in new.items() if old.get(name) is not thing}
    return added, {name: thing for name, thing in old.items() if new.get(name) is not thing}


def _moved(old: List[str], new: Iterable[str]) -> List[str]:
    """Return the names that are new, or have moved behind others, in their order: the first of them, and all after."""
    names, rest = list(new), iter(old)
    staying = sum(1 for _ in takewhile(lambda name: name in rest, names))  # `in` goes on where it has found the last
    return names[staying:]


def _size(path: str) -> int:
    """Return the size of a file, 0 if there is none."""
    return os.path.getsize(path) if os.path.exists(path) else 0


def _holding(path: str) -> str:
    """Return which process writes to a journal."""
    import sqlite3

    row = None
    try:
        with closing(_connection(path, "ro")) as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = 'writer'").fetchone()
    except sqlite3.Error:
        pass  # it is being made
    return f"process {row[0]}" if row else "another process"


def _connection(path: str, mode: str, timeout: float = 5) -> Any:
    """Return a connection to a file; no other thread uses it at the same time."""
    import sqlite3
    from pathlib import Path

    uri = f"{Path(path).as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)


def _alone(registry: AlmaRegistry, what: str, step: Callable[..., None], *args: Any) -> None:
    """Run step(registry, *args) under the lock; RuntimeError inside a change, FrozenError after close()."""
    monitor = registry._monitor
    if monitor.is_nested() or (monitor.is_held() and monitor.transaction is not None):
        raise RuntimeError(f"{what} inside a transaction, a validator or an update function")
    with monitor.lock:
        monitor.settle()
        if monitor.idle is _CLOSED:
            raise FrozenError("a journal", closed=True)
        step(registry, *args)


def _attach(registry: AlmaRegistry, path: Any, durability: str, types: Any) -> None:
    """Give a registry a journal: what is in the file comes into the registry, and the other way round."""
    if durability not in _DURABILITY:
        raise ValueError(f"durability is 'full' or 'normal', not {durability!r}")
    full, known = os.path.realpath(os.fsdecode(path)), _classes(types)
    _require_database(full)
    journal = _Journal(registry, full, _Codec({**registry._monitor.types, **known}, forms=registry._monitor.forms))
    _alone(registry, "a journal can't be opened", _attach_now, journal, durability, known)


def _attach_now(registry: AlmaRegistry, journal: _Journal, durability: str, known: Dict[str, type]) -> None:
    monitor = registry._monitor
    if monitor.journal is not None:
        raise RuntimeError(f"this registry has a journal already: {monitor.journal.path}")
    _refuse_borrowed(journal.path)
    _refuse_stranger(journal.path)
    transaction: Optional[_Transaction] = None
    try:
        document = journal.open(durability)
        with _whole_or_not(monitor, None):
            transaction = monitor.idle
            journal.note(document, _adopt(document, registry, retired=False))
            for var in registry._lines():
                var._careful = True
            monitor.journal, monitor.types = journal, {**monitor.types, **known}
    except BaseException:
        if transaction is None or not transaction.committed:
            monitor.journal = None
            journal.release()
        raise


def _refuse_stranger(path: str) -> None:
    """Raise FileFormatError for a file that is no journal, before anything is written beside it."""
    if _size(path):
        with _opened(path) as connection:
            _guard(connection, path, _size(path))
            _require_format(connection, path)


def _compact(registry: AlmaRegistry) -> None:
    """Give the space of what was pruned from a registry's journal back to the system."""
    _alone(registry, "compact() can't run", _compact_now)


def _compact_now(registry: AlmaRegistry) -> None:
    if registry._monitor.journal is None:
        raise RuntimeError("this registry has no journal: registry.journal(path) gives it one")
    registry._monitor._perform(registry._monitor.journal.compact, ())


_NEWER = """SELECT line, name, idx, time, label, value FROM lines CROSS JOIN records ON line = id AND idx > seen(id)
  ORDER BY time, line, idx"""  # asks once for each line what has been seen of it


def _tail(
    path: str, types: _Types = (), start: bool = False, pause: float = 0.2
) -> Iterator[Tuple[str, ChangeRecord[Any]]]:
    """Yield (name, record) of each change as it comes into a journal, in the order of time; *start* begins with all.

    Reads only, while another process writes. Waits so many seconds when there is nothing new, and never ends.
    """
    full = os.path.realpath(path)
    _require_database(path)
    _refuse_borrowed(full)
    with closing(_connection(full, "ro")) as connection:
        _guard(connection, path, os.path.getsize(path))
        connection.set_progress_handler(None, 0)
        newest = "SELECT line, max(idx) FROM records GROUP BY line"
        yield from _arriving(connection, {} if start else dict(connection.execute(newest)), _Codec(types), pause)


def _arriving(connection: Any, seen: Dict[int, int], codec: _Codec, pause: float) -> Iterator[Tuple[str, Any]]:
    """Yield (name, record) of what comes behind those *seen*, the newest index of each line; never end."""
    version = None
    connection.create_function("seen", 1, lambda line: seen.get(line, -1))
    while True:
        before, version = version, connection.execute("PRAGMA data_version").fetchone()
        if version == before:
            sleep(pause)
            continue
        for line, name, index, moment, label, value in connection.execute(_NEWER).fetchall():
            seen[line], note = index, label if label is None else _from_column(label)
            stored = _packed_value(codec.value(value), _pack)
            yield _from_column(name), _make_record(index, stored, moment, note)


# == Async: set_async, changes(), wait_for() ==================================
#
# Knows variables, registries and asyncio, which it imports where a loop runs or will. What is right never hangs on a
# lock of a loop: who read a value compares and sets, and who follows reads the log, so that whatever wakes it may do
# so too often. No coroutine waits for the disk: one thread makes the changes that a journal has to write.

_NEVER = -(1 << 63)  # a time before all records: with it deliver() waits for nobody
_SLICE = 1_000  # records that a follower takes at once, and changes that the writer does
_LINGER = 1.0  # seconds after which a writer that has nothing to do ends, so that its registry can go
_TRIES = 8  # tries of an update after which it is made under the lock, or a thread could go before it for ever


@lru_cache(maxsize=None)
def _asyncio() -> Any:
    import asyncio  # 60 ms; the statement again and again would take 0.2 us

    return asyncio


@lru_cache(maxsize=None)
def _context(what: str) -> Any:
    from contextvars import ContextVar

    return ContextVar(f"alma: {what}", default=None)


class _Within:
    """What tells a coroutine, and those that it started, that they are inside something, until that is *over*."""

    __slots__ = ("over", "what")

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        self.over = False
        _context(self.what).set(self)

    def __exit__(self, *exception: object) -> None:
        self.over = True


def _is_within(what: str) -> bool:
    within = _context(what).get()
    return within is not None and not within.over


# -- guests that are awaited


class _AsyncGuest:
    """An async function in the place of a plain one; equal to it, so that it can be removed."""

    __slots__ = ("fn",)

    def __init__(self, fn: Any) -> None:
        self.fn = fn

    def __eq__(self, other: object) -> bool:
        return bool(self.fn == (other.fn if isinstance(other, _AsyncGuest) else other))

    def __hash__(self) -> int:
        return hash(self.fn)

    def __repr__(self) -> str:
        return repr(self.fn)


class _AsyncValidator(_AsyncGuest):
    """Is awaited by the async verbs before the change; all others find that they can't."""

    __slots__ = ()

    def __call__(self, value: Any) -> None:
        raise TypeError(f"{self.fn!r} has to be awaited: use set_async, update_async or rollback_async")


def _async_validators(var: AlmaVar[Any]) -> Tuple[Any, ...]:
    return tuple(guest for guest in var._validators if type(guest) is _AsyncValidator)


class _AsyncListener(_AsyncGuest):
    """Is told from any thread, and runs on the loop that it was added on, one record after the other."""

    __slots__ = ("context", "loop", "queue", "task")

    def __init__(self, fn: Any) -> None:
        from contextvars import copy_context

        super().__init__(fn)
        try:
            self.loop = _asyncio().get_running_loop()
        except RuntimeError:
            raise RuntimeError(f"{fn!r} is async: add it inside a coroutine, on whose loop it is to run") from None
        self.context = copy_context()
        self.queue: Deque[Tuple[Any, Any]] = deque()  # variable and record, or None and a gate; of the loop's thread
        self.task: Any = None

    def __call__(self, var: AlmaVar[Any], record: ChangeRecord[Any]) -> None:
        try:
            self.loop.call_soon_threadsafe(self._take, (var, record), context=self.context)
        except RuntimeError:
            _report("listener %r of %r is dropped: its loop is closed", self.fn, var._name)
            var._monitor.run(var._set_guests, "_listeners", _less, self)

    def pass_through(self, gate: _Gate) -> None:
        """Open a gate when all that came before it has been heard."""
        try:
            self.loop.call_soon_threadsafe(self._take, (None, gate), context=self.context)
        except RuntimeError:
            gate()  # nothing will be heard any more

    def _take(self, notice: Tuple[Any, Any]) -> None:
        self.queue.append(notice)
        if self.task is None or self.task.done():  # an eager task ends first; one cancelled early has not begun
            self.task = self.loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._hear_all()
        except BaseException:  # cancelled, as at the end of asyncio.run()
            _report("listener %r was stopped; it is not told of %d more", self.fn, len(self.queue))
            raise
        finally:
            self.task = None
            self.queue.clear()  # which opens the gates

    async def _hear_all(self) -> None:
        while self.queue:
            await self._hear(*self.queue.popleft())

    async def _hear(self, var: Any, record: Any) -> None:
        if var is None:
            record()
            return
        try:
            with _Within("a listener"):
                await self.fn(var, record)
        except Exception:
            _report("listener %r of %r failed at record %d", self.fn, var._name, record.index)


def _less(guests: Tuple[Any, ...], guest: Any) -> Tuple[Any, ...]:
    """Return the guests but for one, and not one that is equal to it."""
    return tuple(other for other in guests if other is not guest)


class _Gate:
    """Opens for a coroutine that waits, from whatever thread; at the latest when nobody can open it any more."""

    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        self.loop = _asyncio().get_running_loop()
        self.future: Any = self.loop.create_future()

    def __call__(self) -> None:
        future, self.future = self.future, None
        if future is not None and not self.loop.is_closed():
            try:
                self.loop.call_soon_threadsafe(_settle, [(future, None)])
            except RuntimeError:
                pass  # it has just been closed, and nobody waits

    __del__ = __call__


def _settle(outcomes: Iterable[Tuple[Any, Any]]) -> None:
    for future, outcome in outcomes:
        if not future.done():
            future.set_result(outcome)


async def _turns(number: int) -> None:
    """Let the other coroutines go on so many times."""
    for _ in range(number):
        await _asyncio().sleep(0)


async def _heard(var: AlmaVar[Any]) -> None:
    """Return when the listeners have run, of all changes so far, and the other coroutines had a turn now and then.

    Inside a listener that is awaited not those that are awaited, which may wait for it; inside a plain one, none.
    """
    monitor = var._monitor
    if monitor.notices and not _is_busy():
        if monitor.journal is None:
            monitor.deliver(_NEVER)
        if monitor.notices:  # another thread is at it
            gate = _Gate()
            future, end = gate.future, (gate,)
            monitor.notices.append((0, monitor.time, None, -1, None, None, end, iter(end)))
            del gate, end
            if monitor.journal is None:
                monitor.deliver(_NEVER)
            else:
                await _by_writer(monitor, lambda: None, alone=True)
            await future
    if not _is_within("a listener"):
        for passing in [_passing(guest) for guest in var._listeners if type(guest) is _AsyncListener]:
            await _passed(*passing)
    if _is_turn(var) and monitor.idle is None:  # not inside a transaction, where others would be refused
        await _turns(1)


def _is_turn(var: AlmaVar[Any]) -> bool:
    """Tell whether who changes a variable without pause is to let others go on: every time would take 5 us."""
    return not var._log.head[0] & 63


def _passing(listener: _AsyncListener) -> Tuple[_AsyncListener, Any]:
    """Return a listener, and a future for the moment when it has heard what it has been told of."""
    gate = _Gate()
    future = gate.future
    listener.pass_through(gate)
    return listener, future


async def _passed(listener: _AsyncListener, future: Any) -> None:
    """Return when the future is set, or nobody runs the listener's loop, which does not say when it stops."""
    pause = None if listener.loop is future.get_loop() else _LINGER
    while not future.done() and listener.loop.is_running():
        await _asyncio().wait([future], timeout=pause)


# -- the thread that writes


class _Job:
    """What a coroutine has handed to the writer: it waits for the future, which gets (result, error)."""

    __slots__ = ("alone", "call", "future", "loop")

    def __init__(self, call: Callable[[], Any], alone: bool) -> None:
        self.call, self.alone = call, alone  # alone: not in one transaction with others
        self.loop = _asyncio().get_running_loop()
        self.future = self.loop.create_future()

    def outcome(self) -> Tuple[Any, Any]:
        sleep(0)  # or a loop's thread waits for the interpreter until all are done: 15 ms of 200
        try:
            return self.call(), None
        except BaseException as error:  # of any kind: it is raised where it is waited for
            return None, error


class _Writer:
    """A thread that does what coroutines of any loop hand to it; there while there is something to do."""

    __slots__ = ("jobs", "lingers", "monitor", "news", "thread")

    def __init__(self, monitor: _Monitor) -> None:
        self.monitor, self.news = monitor, threading.Condition()
        self.jobs: Deque[_Job] = deque()
        self.thread: Optional[threading.Thread] = None
        self.lingers = True

    def submit(self, job: _Job) -> None:
        """Have a job done; it can be withdrawn by cancelling its future until it is taken."""
        with self.news:
            if self.thread is None:
                thread = threading.Thread(target=self._run, name="alma writer", daemon=True)
                thread.start()
                self.thread = thread
            self.jobs.append(job)
            self.news.notify()

    def end(self) -> None:
        """Return when all that has been handed over is done, and the thread has ended."""
        with self.news:
            thread, self.lingers = self.thread, False
            self.news.notify()
        if thread is not None:
            thread.join()
        self.lingers = True

    def _run(self) -> None:
        for jobs in iter(self._taken, []):
            waiting = [job for job in jobs if not job.future.cancelled()]
            loops: Dict[Any, List[Tuple[Any, Any]]] = {}
            for job, outcome in zip(waiting, self._outcomes(waiting)):
                loops.setdefault(job.loop, []).append((job.future, outcome))
            for loop, outcomes in loops.items():
                try:
                    loop.call_soon_threadsafe(_settle, outcomes)
                except RuntimeError:
                    pass  # it is closed, and nobody waits
            del jobs, waiting, loops
            try:
                self.monitor.deliver(_NEVER)
            except BaseException:  # SystemExit; the thread has to go on
                _report("a listener tried to end the thread that writes")

    def _taken(self) -> List[_Job]:
        """Wait for jobs and return those to be done together; none at the end."""
        with self.news:
            self.news.wait_for(lambda: self.jobs or not self.lingers, _LINGER)
            jobs = list(islice(takewhile(lambda job: not job.alone, self.jobs), _SLICE)) or list(islice(self.jobs, 1))
            for _ in jobs:
                self.jobs.popleft()
            if not jobs:
                self.thread = None
            return jobs

    def _outcomes(self, jobs: List[_Job]) -> List[Tuple[Any, Any]]:
        """Do jobs, together if possible, and return what became of each."""
        if len(jobs) < 2:
            return [job.outcome() for job in jobs]
        try:
            return self._together(jobs)
        except JournalError as error:
            if "too big" not in error.reason:  # that is one value's fault
                return [(None, JournalError(error.path, error.reason)) for _ in jobs]
        except BaseException:  # what one of them has stored can't be written: find it by halves
            pass
        middle = len(jobs) // 2
        return self._outcomes(jobs[:middle]) + self._outcomes(jobs[middle:])

    def _together(self, jobs: List[_Job]) -> List[Tuple[Any, Any]]:
        monitor = self.monitor
        with monitor.lock:
            monitor.settle()
            if monitor.idle is _CLOSED:
                raise FrozenError("a journal", closed=True)
            with _whole_or_not(monitor, None, apart=True):
                return [job.outcome() for job in jobs]  # what is refused has changed nothing


def _is_writing(monitor: _Monitor) -> bool:
    """Tell whether this thread is the monitor's writer, which would wait for itself."""
    writer = monitor.writer.get(0)
    return writer is not None and writer.thread is threading.current_thread()


async def _by_writer(monitor: _Monitor, call: Callable[[], Any], alone: bool = False) -> Any:
    """Return what call() returns on the writer's thread."""
    job = _Job(call, alone)
    (monitor.writer.get(0) or monitor.writer.setdefault(0, _Writer(monitor))).submit(job)
    result, error = await job.future
    try:
        if error is not None:
            raise error
        return result
    finally:
        del error


# -- changing

_locks: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()  # by loop and line, while they are used


def _lock_of(var: AlmaVar[Any]) -> Any:
    """Return the lock by which the coroutines of the running loop change a variable one after the other."""
    key = _asyncio().get_running_loop(), var._log.line
    lock = _locks.get(key)
    if lock is None:
        lock = _locks[key] = _asyncio().Lock()
    return lock


async def _in_turn(var: AlmaVar[Any], work: Callable[[], Any], hold: bool = True) -> None:
    """Await work() when no other coroutine of this loop changes the variable; with *hold* none does meanwhile.

    Who is inside such work, or was started there, never waits: with locks that cross it would wait for ever.
    """
    if _is_within("a turn"):
        await work()
    elif hold:
        async with _lock_of(var):
            with _Within("a turn"):
                await work()
    else:
        if _locks:
            async with _lock_of(var):
                pass
        await work()
    await _heard(var)


async def _performed(var: AlmaVar[Any], step: Callable[..., Any], *args: Any) -> None:
    """Run step(*args) as one change, where the disk is waited for on the writer's thread."""
    monitor = var._monitor
    if monitor.journal is None or monitor.is_held() or _is_writing(monitor):
        monitor.commit(step, *args)
    else:
        await _by_writer(monitor, partial(monitor.commit, step, *args))


async def _compared(
    var: AlmaVar[Any],
    make: Callable[[_Head], Any],
    label: _Label,
    expect: Optional[int] = None,
    again: bool = False,
    step: Callable[[], Tuple[Any, ...]] = tuple,
) -> None:
    """Append what make(head) returns when it is awaited, if the head is still that one; else try again.

    After a while that hangs on chance: two that each change what the other has read would go on for ever in step.
    After _TRIES it is what step() returns, if that is something and nothing has to be awaited, that is performed.
    """
    for tries in range(1 << 62):
        await _turns(time_ns() // 100 % (1 << min(tries, 10)) if tries else 0)
        head, awaited = var._writable(expect), _async_validators(var)
        whole = step() if tries >= _TRIES and not awaited else ()
        if whole:
            return await _performed(var, *whole)
        packed = await make(head)
        for validator in awaited if packed is not DELETED else ():
            await validator.fn(_unpack(packed))
        try:
            await _performed(var, var._set, packed, label, head[0] - 1, again, awaited)
            return
        except StaleWriteError:
            if expect is not None or var._head()[0] == head[0]:  # not ours, but what a guest has raised
                raise


async def _set_async(var: AlmaVar[_T], value: _T, label: _Label, expect: Optional[int]) -> AlmaVar[_T]:
    monitor = var._monitor
    simple = monitor.journal is None and not monitor.notices and type(label) is not tuple
    if simple and not _locks and not (var._validators and _async_validators(var)):
        var.set(value, label=label, expect=expect)  # type: ignore[arg-type]
        if var._listeners or _is_turn(var):
            await _heard(var)
        return var
    stored = var._take_in(value)

    async def make(head: _Head) -> Any:
        return stored

    if _async_validators(var):
        await _in_turn(var, partial(_compared, var, make, label, expect))
    else:
        await _in_turn(var, partial(_performed, var, var._set, stored, label, expect), hold=False)
    return var


async def _update_async(var: AlmaVar[_T], fn: Callable[..., Any], args: Tuple[Any, ...], label: _Label) -> AlmaVar[_T]:
    step: Tuple[Any, ...] = ()

    async def make(head: _Head) -> Any:
        nonlocal step
        value = fn(var._value(head), *args)
        if _is_async(fn) or hasattr(value, "__await__"):
            return var._take_in(await value)
        step = var._update, fn, args, label
        return var._take_in(value)

    await _in_turn(var, partial(_compared, var, make, label, step=lambda: step))
    return var


async def _rollback_async(var: AlmaVar[_T], index: int, label: _Label) -> AlmaVar[_T]:
    async def make(head: _Head) -> Any:
        return var._packed(index, var._log.stored(head, var._log.kept(head, index)))

    if _async_validators(var):
        await _in_turn(var, partial(_compared, var, make, label, None, True))
    else:
        await _in_turn(var, partial(_performed, var, var._rollback, index, label), hold=False)
    return var


async def _transact_async(registry: AlmaRegistry, fn: Callable[[], _T], label: Optional[str]) -> _T:
    _functions("fn", [fn])
    if _is_async(fn):
        raise TypeError(f"{fn!r} is async, and a transaction can't be held over an await: hand in a plain function")
    monitor = registry._monitor
    if monitor.is_held():
        raise RuntimeError(
            "transact_async() inside a transaction or a change would wait for its end: use transaction()"
        )
    if _is_writing(monitor):
        return _transacted(registry, fn, label)
    return await _by_writer(monitor, partial(_transacted, registry, fn, label), alone=True)  # type: ignore[no-any-return]


def _transacted(registry: AlmaRegistry, fn: Callable[[], _T], label: Optional[str]) -> _T:
    with registry.transaction(label):
        result = fn()
        _refuse_coroutine(fn, result, "a transaction can't be held over an await")
        return result


# -- following


def _committed(var: AlmaVar[Any]) -> _Head:
    """Return the head that everybody sees: not the draft, even in the thread of an open transaction."""
    transaction, head = var._transaction, var._log.head
    return transaction.draft.heads.get(var._log, head) if transaction is not None and transaction.committed else head


def _public(table: _Table) -> Dict[str, Any]:
    """Return the entries of a table that everybody sees."""
    idle = table.monitor.idle
    is_draft = isinstance(idle, _Transaction) and idle.committed
    return idle.draft.tables.get(table, table.entries) if is_draft else table.entries


def _is_there(var: AlmaVar[Any]) -> bool:
    """Tell whether a variable, or branch, is still one of its registry; one without a registry is."""
    if var._monitor.names is None:
        return True
    root, *branches = var._name.split("@")
    there = _public(var._monitor.names).get(root)
    for branch in branches:
        there = None if there is None else _public(there._branches).get(branch)
    return there is var


class _Bell:
    """Wakes the coroutines of one loop that wait for news; is told of them from any thread."""

    __slots__ = ("loop", "monitor", "news", "rung", "sleepers")

    def __init__(self, monitor: _Monitor, loop: Any) -> None:
        self.monitor, self.loop = monitor, loop
        self.sleepers: Dict[Optional[_Log], Dict[Any, None]] = {}  # futures by the log waited for, None for any
        self.news: Dict[Optional[_Log], None] = {}
        self.rung = False

    def __call__(self, var: Optional[AlmaVar[Any]]) -> None:
        log = None if var is None else var._log
        if log is None or log in self.sleepers or None in self.sleepers:  # who lies down later looks once more
            self.news[log] = None
            if not self.rung:
                self.rung = True
                try:
                    self.loop.call_soon_threadsafe(self._ring)
                except RuntimeError:  # closed
                    self.monitor.followers.pop(self.loop, None)

    def _ring(self) -> None:
        self.rung = False  # first: news that come from here on ring again
        while self.news:
            log, _ = self.news.popitem()
            for key in list(self.sleepers) if log is None else (log, None):
                _settle((future, None) for future in list(self.sleepers.get(key, ())))

    @contextmanager
    def sleeper(self, log: Optional[_Log]) -> Generator[Any, None, None]:
        """Lie down: from here on news of the log set the future."""
        future = self.loop.create_future()
        self.sleepers.setdefault(log, {})[future] = None
        self.monitor.followers[self.loop] = self
        try:
            yield future
        finally:
            del self.sleepers[log][future]
            if not self.sleepers[log]:
                del self.sleepers[log]
            if not self.sleepers:
                self.monitor.followers.pop(self.loop, None)


class _Changes(AsyncIterator[_T]):
    """The records of variables as they come; `async for` takes them. Holds a place in each log, and no record waits.

    *variable* is the one that is followed, None for all of *names*.
    """

    def __init__(self, monitor: _Monitor, variable: Optional[AlmaVar[Any]], names: Optional[_Table], latest: bool):
        self.monitor, self.variable, self.names, self.latest = monitor, variable, names, latest
        self.places: Dict[_Log, Tuple[AlmaVar[Any], int]] = {}  # the index that comes next
        self.ready: Deque[Any] = deque()
        self.after = monitor.time  # of the records of variables that are new here
        self.ends = variable is not None and _is_there(variable)  # with its name; who has none goes on
        self.over = False

    async def __anext__(self) -> _T:
        if not self.ready:
            await self._fill()
        return self.ready.popleft()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """End; who waits for the next record gets none."""
        self.over = True
        self.ready.clear()
        self.monitor.tell()

    async def _fill(self) -> None:
        asyncio = _asyncio()
        await asyncio.sleep(0)  # a reader that never catches up lets others have their turn
        loop = asyncio.get_running_loop()
        while not self.read():
            bell: Any = self.monitor.followers.get(loop) or _Bell(self.monitor, loop)
            with bell.sleeper(None if self.variable is None else self.variable._log) as woken:
                if self.read():
                    return
                await woken

    def read(self) -> bool:
        """Take what is new, and tell whether there is something; StopAsyncIteration at the end."""
        variable = self.variable
        ended = self.monitor.idle is _CLOSED or (variable is not None and self.ends and not _is_there(variable))
        if self.over:
            raise StopAsyncIteration
        # Whatever was committed before what is seen now is seen when one looks again: so far there is no gap.
        there = {var._log for var in _public(self.names).values()} if self.names is not None else self.places.keys()
        gone = self.places.keys() - there
        times = [var._log.time(head, head[0] - 1) for var, place, head in self._heads() if head[0] > place]
        if times:
            self._take(max(times))
        for log in gone:
            var, place = self.places[log]
            if _committed(var)[0] <= place:
                del self.places[log]
        if ended and not self.ready:
            raise StopAsyncIteration
        return bool(self.ready)

    def there(self) -> Iterator[_T]:
        """Yield what there is, without waiting; StopAsyncIteration at the end."""
        while self.ready or self.read():
            yield self.ready.popleft()

    def _heads(self) -> List[Tuple[AlmaVar[Any], int, _Head]]:
        for var in () if self.names is None else list(_public(self.names).values()):
            if var._log not in self.places:
                self.places[var._log] = var, var._log.index_at(_committed(var), self.after) + 1
        return [(var, place, _committed(var)) for var, place in self.places.values()]

    def _take(self, newest: int) -> None:
        """Take the records up to a time, at most a slice of each variable, in the order of time."""
        heads = [entry for entry in self._heads() if entry[2][0] > entry[1]]
        if not self.latest:
            many = [entry for entry in heads if entry[2][0] - entry[1] > _SLICE]
            newest = min([newest, *(var._log.time(head, place + _SLICE - 1) for var, place, head in many)])
        found, places = [], {}
        for var, place, head in heads:
            stop = _stop(head, place, newest)
            if stop > place:
                records = var._log.part(head, stop - 1 if self.latest else place, stop)
                found.append((var, records))
                places[var._log] = var, stop
        self.places.update(places)  # all or none
        if self.variable is not None:
            self.ready.extend(records for _, part in found for records in part)
            return
        pairs = [(var, record) for var, part in found for record in part]
        self.ready.extend(sorted(pairs, key=lambda pair: pair[1]._time))


def _stop(head: _Head, place: int, newest: int) -> int:
    """Return the index before which the records from *place* on are not younger than a time, and have no gap."""
    count, _, layout, _ = head
    if place == 0 and layout.first > 1:
        return 1
    begin = max(place, layout.first) if place else 0
    return bisect_right(layout.times, newest, begin - layout.shift, count - layout.shift) + layout.shift


def _changes(var: AlmaVar[_T], since: Union[int, _When, None], latest: bool) -> _Changes[ChangeRecord[_T]]:
    head, log = _committed(var), var._log
    if since is None:
        place = head[0]
    elif isinstance(since, (datetime, timedelta)):
        place = log.index_at(head, _cutoff(since, var._monitor)) + 1
    else:
        place = _whole("since, if no moment,", since)
        if place != head[0]:  # the next one
            log.kept(head, place)
    changes: _Changes[ChangeRecord[_T]] = _Changes(var._monitor, var, None, latest)
    changes.places[log] = var, place
    return changes


def _all_changes(
    registry: AlmaRegistry, since: Optional[_When], latest: bool
) -> _Changes[Tuple[AlmaVar[Any], ChangeRecord[Any]]]:
    changes: _Changes[Tuple[AlmaVar[Any], ChangeRecord[Any]]]
    changes = _Changes(registry._monitor, None, registry._vars, latest)
    if since is not None:
        changes.after = _cutoff(since, registry._monitor)
        changes._heads()
    else:
        for var in list(_public(registry._vars).values()):
            changes.places[var._log] = var, _committed(var)[0]
    return changes


# -- waiting


def _test_of(wanted: Any) -> Callable[[ChangeRecord[Any]], Any]:
    """Return a function that tells whether a record has what is wanted: by a predicate, or a value equal to it."""
    if callable(wanted) and _is_async(wanted):
        raise TypeError(f"{wanted!r} is async: a predicate is a plain function; await what it needs in `async for`")

    def holds(record: ChangeRecord[Any]) -> Any:
        result = not _is_deletion(record) and wanted(_value_again(record))
        _refuse_coroutine(wanted, result, "a predicate is a plain function")
        return result

    return holds if callable(wanted) else lambda record: record.value == wanted


def _found(changes: _Changes[ChangeRecord[_T]], test: Callable[..., Any]) -> Optional[ChangeRecord[_T]]:
    """Return the first of the records there are that passes the test."""
    var: Any = changes.variable
    try:
        return next(filter(test, changes.there()), None)
    except StopAsyncIteration:
        if var._monitor.idle is _CLOSED:
            raise FrozenError(var._name, closed=True) from None
        raise UnknownNameError(var._name, _public(var._monitor.names)) from None


def _too_late(var: AlmaVar[Any], timeout: Optional[float]) -> str:
    return f"{var._name!r} was not what was waited for within {timeout} s"


async def _wait_for(var: AlmaVar[_T], wanted: Any, timeout: Optional[float]) -> ChangeRecord[_T]:
    test, changes = _test_of(wanted), _changes(var, _committed(var)[0] - 1, False)
    found = _found(changes, test)

    async def follow() -> ChangeRecord[_T]:
        record = None
        while record is None:
            try:
                await changes._fill()
            except StopAsyncIteration:
                pass  # which _found() says as an error
            record = _found(changes, test)
        return record

    if found is not None:
        return found
    if timeout is None:
        return await follow()
    asyncio = _asyncio()
    try:
        return await asyncio.wait_for(follow(), timeout)  # type: ignore[no-any-return]
    except asyncio.TimeoutError as error:
        if error.args:  # the predicate's own
            raise
        raise asyncio.TimeoutError(_too_late(var, timeout)) from None


def _awaited(
    changes: _Changes[ChangeRecord[_T]], test: Callable[..., Any], news: Any, deadline: Optional[float]
) -> ChangeRecord[_T]:
    found = _found(changes, test)
    while found is None:
        news.get(timeout=None if deadline is None else max(0, deadline - monotonic()))
        found = _found(changes, test)
    return found


def _wait(var: AlmaVar[_T], wanted: Any, timeout: Optional[float]) -> ChangeRecord[_T]:
    from queue import Empty, SimpleQueue

    if _is_busy():
        raise RuntimeError("wait() inside a guest or a transaction would keep the others from making it true")
    monitor, test, changes = var._monitor, _test_of(wanted), _changes(var, _committed(var)[0] - 1, False)
    news: Any = SimpleQueue()  # unlike an Event it can be set by a signal handler while this thread is at it
    deadline = None if timeout is None else monotonic() + timeout
    monitor.followers[news] = lambda told: news.put(None) if (told is None or told is var) and news.empty() else None
    try:
        return _awaited(changes, test, news, deadline)
    except Empty:
        raise TimeoutError(_too_late(var, timeout)) from None
    finally:
        del monitor.followers[news]


# == Types: AlmaVar[T], schemas ===============================================
#
# Knows variables and how the codec writes classes; pydantic says what a value has to be. A schema stands before the
# packing of each new value, from wherever it comes, and behind the unpacking of records that are older than itself:
# what is stored of those, and its digest, stay. Objects are validated by their fields, for they may have changed.


class Schema(Generic[_T]):
    """What each value of a variable is validated and coerced to: a *type*, as pydantic 2 understands it.

    A model, a dataclass, a TypedDict, ``List[int]``, ``Annotated[int, Field(gt=0)]``, a union. *strict* allows no
    coercion. *upgrade* makes what fits of a record that is older than the schema and does not fit: it is called with
    what is stored, models and dataclasses as dicts of their fields, each time that such a record is read.
    MissingDependencyError without the extra ``pydantic``.
    """

    __slots__ = ("_adapter", "_forms", "_makers", "_named", "_objects", "strict", "type", "upgrade")

    @overload
    def __init__(
        self, type: Type[_T], *, strict: bool = False, upgrade: Optional[Callable[[Any], object]] = None
    ) -> None: ...
    @overload
    def __init__(
        self: Schema[Any], type: object, *, strict: bool = False, upgrade: Optional[Callable[[Any], object]] = None
    ) -> None: ...
    def __init__(self, type: Any, *, strict: bool = False, upgrade: Optional[Callable[[Any], object]] = None) -> None:
        pydantic = _of_extra("pydantic", "pydantic")
        if not hasattr(pydantic, "TypeAdapter"):
            raise MissingDependencyError("pydantic 2", "pydantic")
        if upgrade is not None and not callable(upgrade):
            raise TypeError(f"upgrade is a function of what is stored, not {upgrade!r}")
        self.type, self.strict, self.upgrade = type, bool(strict), upgrade
        self._adapter = pydantic.TypeAdapter(type)
        self._forms = _forms_in(self._adapter.core_schema)
        names = Counter(name for name, _, _ in self._forms.values())
        self._named = {form[0]: kind for kind, form in self._forms.items() if names[form[0]] == 1}
        self._objects = any(not issubclass(kind, (enum.Enum, tuple)) for kind in self._forms)
        self._makers: Dict[Any, Optional[_Maker]] = {}

    def __repr__(self) -> str:
        return f"Schema({self.type!r}{', strict=True' * self.strict}{', upgrade=...' * (self.upgrade is not None)})"

    def _maker(self, kind: Any) -> Optional[_Maker]:
        """Return what makes objects of a class from their fields, None for a class whose objects it can't make."""
        if kind not in self._makers:
            base = sys.modules["pydantic"].BaseModel
            makes = issubclass(kind, base) or (issubclass(kind, (*self._forms,)) and _is_made_of_fields(kind))
            self._makers[kind] = _Maker(kind) if makes else None
        return self._makers[kind]

    # -- on the way in

    def _before(self, pack: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return what validates a value and packs what comes of it."""
        validate, strict, renewed = self._adapter.validate_python, self.strict or None, self._renewed
        if not self._objects:
            return lambda value: pack(validate(value, strict=strict))
        pack = _pack_model if pack is _pack else pack
        return lambda value: pack(validate(_replaced(value, renewed, {}), strict=strict))

    def _renewed(self, value: Any, inner: Callable[[Any], Any]) -> Any:
        """Return a model or dataclass validated anew: pydantic takes one as it is, whatever became of its fields."""
        if isinstance(value, tuple) and hasattr(value, "_fields"):  # a tuple is validated anew by pydantic itself
            return tuple.__new__(type(value), map(inner, value))
        maker = self._maker(type(value))
        return value if maker is None else maker.make(maker.parts(value, inner), self.strict or None)

    # -- on the way out, for records older than the schema

    def _behind(self, decode: Optional[_Opener], name: str, older: int) -> _Opener:
        """Return what opens the records of a variable, of which those before *older* meet the schema only now."""

        def opened(index: int, stored: Any) -> Any:
            value = _unpack(stored) if decode is None else decode(index, stored)
            closed = value is DELETED or (type(value) is Unresolved and value.name == "middleware")
            return value if index >= older or closed else self._fitted(value, name, index)

        return opened

    def _fitted(self, value: Any, name: str, index: int) -> Any:
        """Return what an old value is today; SchemaError where it does not fit, not even upgraded."""
        try:
            try:
                return self._adapter.validate_python(_replaced(value, self._revived, {}), strict=False)
            except Exception:  # a validator may make of it what it wants
                if self.upgrade is None:
                    raise
            return self._adapter.validate_python(self._upgraded(value), strict=False)
        except Exception as error:
            raise SchemaError(name, index, *self._misfit(error, value), self.upgrade is not None) from error

    def _misfit(self, error: Any, value: Any) -> Tuple[Tuple[Any, ...], str]:
        """Return where an old value does not fit, and why: as a whole, where it was a part that could not be made."""
        if not hasattr(error, "errors"):
            return (), f"{type(error).__name__}: {error}"
        found: List[Any] = error.errors(include_url=False)
        path, reason = found[0]["loc"], found[0]["msg"]
        try:
            self._adapter.validate_python(_replaced(value, self._as_plain, {}))
        except Exception as whole:
            found = getattr(whole, "errors", lambda **_: [])(include_url=False)
        places = [other["loc"] for other in found if other["msg"] == reason and other["loc"][-len(path) :] == path]
        return (places[0] if places else path), reason

    def _upgraded(self, value: Any) -> Any:
        """Return what the owner's function makes of an old value."""
        data: Any = self.upgrade(_unpack(_pack(_replaced(value, self._as_plain, {})))) if self.upgrade else value
        kind = self._named.get(value.name) if type(value) is Unresolved else type(value)
        maker = self._maker(kind) if kind is not None and type(data) is dict else None
        return data if maker is None else maker.make(data, False, loose=True)

    def _revived(self, value: Any, inner: Callable[[Any], Any]) -> Any:
        """Return the object that an Unresolved stands for, or one that was made without being validated."""
        name, data = self._written(value)
        kind = self._named.get(name)
        if type(data) is not dict:
            return self._member(kind, data, value)
        if kind is None:
            return self._as_plain(value, inner)
        maker, parts = self._maker(kind), {field: inner(part) for field, part in data.items()}
        return self._forms[kind][2](parts) if maker is None else maker.make(parts, False)

    def _as_plain(self, value: Any, inner: Callable[[Any], Any]) -> Any:
        """Return an object as a dict of its fields, and a member whose enum is not known as its name."""
        name, data = self._written(value)
        if type(data) is dict:
            extra = data.get("$extra") or {}
            return {field: inner(part) for field, part in {**data, **extra}.items() if field not in _STATES}
        return self._member(self._named.get(name), data, value if data is None or name == "pickle" else data)

    def _member(self, kind: Any, data: Any, otherwise: Any) -> Any:
        """Return the member of an enum of which the codec writes *data*."""
        if data is None or kind is None or not issubclass(kind, enum.Enum):
            return otherwise
        try:
            return self._forms[kind][2](data)
        except (KeyError, ValueError):  # it is gone
            return otherwise

    def _written(self, value: Any) -> Tuple[str, Any]:
        """Return the name of an object's class and what the codec writes of it; no data for what has no fields."""
        if type(value) is Unresolved:
            return value.name, value.data
        form = self._forms.get(type(value))
        return ("", None) if form is None or isinstance(value, enum.Enum) else (form[0], form[1](value))


class _Model:
    """A stored model: its class, and what its slots hold, as bytes, or where its fields are atoms, as their values.

    20 such fields take 2 us, and 350 bytes with a value that is new; copy.deepcopy 11 us and 1,790 bytes.
    """

    __slots__ = ("kind", "shape", "state")

    def __init__(self, kind: Any, shape: Optional[Tuple[Any, ...]], state: Any) -> None:
        self.kind, self.shape, self.state = kind, shape, state


_MODEL_SLOTS = "__dict__", *_SLOTS.values()
# What many models share: the names of their fields, those that were set, and whether there can be no others.
_shapes: Dict[Tuple[Any, ...], Tuple[Any, ...]] = {}


def _pack_model(value: Any) -> Any:
    """Return the stored form of a model, or of another value; SnapshotError if there is none."""
    kind: Any = type(value)
    if getattr(kind, "__deepcopy__", None) is not sys.modules["pydantic"].BaseModel.__deepcopy__:
        return _pack(value)
    fields, given, extra, private = state = tuple(getattr(value, slot) for slot in _MODEL_SLOTS)
    if private is None and not extra and _ATOMS.issuperset(map(type, fields.values())):
        if len(_shapes) > 1_000:
            _shapes.clear()
        shape = (*fields,), frozenset(given), extra is None
        return _Model(kind, _shapes.setdefault(shape, shape), (*fields.values(),))
    try:
        return _Model(kind, None, _pickled(state))
    except Exception:  # a part that bytes can't hold, or nothing can
        return _pack(value)


def _open_model(stored: _Model) -> Any:
    """Return the model, as its class's own copy would be."""
    if stored.shape is None:
        state = pickle.loads(stored.state)
    else:
        names, given, bare = stored.shape
        state = dict(zip(names, stored.state)), set(given), None if bare else {}, None
    made = object.__new__(stored.kind)
    for slot, part in zip(_MODEL_SLOTS, state):
        object.__setattr__(made, slot, part)
    return made


_OPEN[_Model] = _open_model


class _Maker:
    """Makes objects of one model or dataclass of their fields, as pydantic validates them."""

    __slots__ = ("defaults", "extra", "is_dataclass", "is_model", "is_root", "keys", "kind", "options", "validate")

    def __init__(self, kind: Any) -> None:
        pydantic = sys.modules["pydantic"]
        self.kind, self.is_model = kind, issubclass(kind, pydantic.BaseModel)
        self.is_root = issubclass(kind, pydantic.RootModel)
        self.is_dataclass = not self.is_model and is_dataclass(kind)
        adapter = pydantic.TypeAdapter(kind)
        self.validate = adapter.validator.validate_python
        known = getattr(kind, "model_fields" if self.is_model else "__pydantic_fields__", {})
        by_name = tuple(map(int, pydantic.VERSION.split(".")[:2])) >= (2, 11)
        self.options = {"by_name": True} if by_name else {}
        self.keys = {field: field if by_name else _alias(known.get(field), field) for field in _defaults(kind)}
        self.defaults = {field: getattr(known.get(field), "default", MISSING) for field in self.keys}
        if self.is_dataclass and not known:
            self.defaults = {field.name: field.default for field in fields_of(kind)}
        self.extra = self.is_model and getattr(kind, "model_config", {}).get("extra") == "allow"

    def parts(self, value: Any, inner: Callable[[Any], Any]) -> Dict[str, Any]:
        """Return the fields of an object, without defaults that nobody touched, which pydantic doesn't validate."""
        if not self.is_model:
            return self._touched({field: getattr(value, field, MISSING) for field in self.keys}, (), inner)
        fields, given = value.__dict__, value.__pydantic_fields_set__
        if fields.keys() == self.keys.keys() == given and _ATOMS.issuperset(map(type, fields.values())):
            parts: Dict[str, Any] = fields.copy()  # as most are: 1 us less for 20 fields
        else:
            parts = self._touched(fields, given, inner)
        state = {"$set": given, "$extra": value.__pydantic_extra__, "$private": value.__pydantic_private__}
        parts.update((key, part) for key, part in state.items() if part is not None)
        return parts

    def _touched(self, fields: Dict[str, Any], given: Any, inner: Callable[[Any], Any]) -> Dict[str, Any]:
        """Return the fields that were given or are no longer what they are by default."""
        found = [(field, fields.get(field, MISSING), default) for field, default in self.defaults.items()]
        return {
            field: inner(part)
            for field, part, default in found
            if part is not MISSING and (field in given or not _same(part, default))
        }

    def make(self, parts: Dict[str, Any], strict: Optional[bool], loose: bool = False) -> Any:
        """Return an object of fields by name, and of what a model has beside them; pydantic's error if it can't be.

        A field that there is none for is one, too, unless *loose* leaves that to the model.
        """
        state = {key: parts.pop(key) for key in _STATES if key in parts}
        parts.update(state.get("$extra") or {})
        if not self.keys.keys() >= parts.keys() and not (self.extra or loose):
            _refuse(self.kind.__name__, "extra_forbidden", parts.keys() - self.keys.keys())
        data: Any = parts
        if not self.options:
            data = {self.keys.get(field, field): part for field, part in parts.items()}
        options: Dict[str, Any] = {"strict": strict, **self.options}
        if self.is_dataclass:  # as its __init__ does, or strictness would allow no dict
            data = sys.modules["pydantic_core"].ArgsKwargs((), data)
            options["self_instance"] = object.__new__(self.kind)
        made = self.validate(data["root"] if self.is_root else data, **options)
        if self.is_model and isinstance(made, self.kind):
            for key in ("$set", "$private"):
                if key in state:
                    object.__setattr__(made, _SLOTS[key], state[key])
        return made


def _forms_in(core: Any) -> Dict[Any, _Form]:
    """Return how the codec writes each class that one of pydantic's core schemas mentions."""
    forms: Dict[Any, _Form] = {}
    left, seen = [core], set()
    while left:
        node = left.pop()
        if id(node) in seen or not isinstance(node, (Mapping, list, tuple)):
            continue
        seen.add(id(node))
        if not isinstance(node, Mapping):  # which may be one that is made when it is first looked at
            left.extend(node)
            continue
        left.extend(part for key, part in node.items() if key not in ("default", "expected", "metadata"))
        kind = node.get("cls") or node.get("function")
        if isinstance(kind, type) and kind not in forms:
            try:
                forms[kind] = next(iter(_named_kinds([kind]).values()))[1]
            except TypeError:
                pass  # one whose objects the codec can't write; saving one says so
    return forms


def _is_made_of_fields(kind: Any) -> bool:
    """Tell whether this is a dataclass whose objects can be made of all their fields, and of nothing else."""
    known = getattr(kind, "__dataclass_fields__", {}).values()
    hidden = any("INITVAR" in repr(getattr(field, "_field_type", "")) for field in known)
    return is_dataclass(kind) and not hidden and all(field.init for field in fields_of(kind))


def _alias(field: Any, name: str) -> str:
    """Return the key by which a validator that can't be told to go by name, as before pydantic 2.11, takes a field."""
    alias = getattr(field, "validation_alias", None) or getattr(field, "alias", None)
    return next((key for key in getattr(alias, "choices", (alias,)) if isinstance(key, str)), name)


def _refuse(title: str, kind: str, fields: Iterable[str]) -> None:
    """Raise pydantic's error about fields."""
    errors = [{"type": kind, "loc": (field,), "input": None} for field in sorted(fields)]
    raise sys.modules["pydantic_core"].ValidationError.from_exception_data(title, errors)


def _replaced(value: Any, leaf: Callable[[Any, Callable[[Any], Any]], Any], seen: Dict[int, Any]) -> Any:
    """Return a value with leaf(part, inner) for each part that is neither container nor atom; itself if all stay.

    inner() does the same with what is in a part. *seen* knows what became of the containers and parts so far.
    """
    kind = type(value)
    if kind in _ATOMS or kind is bytearray:
        return value
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = value
    if kind in _CONTAINERS:
        mapping = isinstance(value, dict)
        old = [*value, *value.values()] if mapping else [*value]
        if _ATOMS.issuperset(map(type, old)):
            return value
        new = [_replaced(part, leaf, seen) for part in old]
        if any(one is not other for one, other in zip(old, new)):
            seen[id(value)] = _refilled(value, new, mapping)
    else:
        seen[id(value)] = leaf(value, lambda part: _replaced(part, leaf, seen))
    return seen[id(value)]


def _refilled(value: Any, parts: List[Any], mapping: bool) -> Any:
    """Return a container like *value* of other parts: of a dict, the keys and then the values."""
    if type(value) is deque:
        return deque(parts, value.maxlen)
    if not mapping:
        return type(value)(parts)
    made = value.copy()
    made.clear()
    made.update(dict(zip(parts, parts[len(value) :])))
    return made


def _given_schema(given: Any, by_key: bool) -> Any:
    """Return the Schema of a variable, or those of a namespace by key; None for none. TypeError for what can't be."""
    if given is None or (given is Any and not by_key):
        return None
    if by_key:
        if not isinstance(given, Mapping):
            raise TypeError(
                f"a namespace's schema is a dict by key, such as {{'port': int}}, not {given!r};"
                " a model as a whole is for watch(name, value, schema=Model)"
            )
        return {_checked_key(key): schema for key, kind in given.items() if (schema := _given_schema(kind, False))}
    if isinstance(given, Mapping):
        raise TypeError(f"a variable's schema is one type, not {given!r}; one for each key is for namespace()")
    return given if isinstance(given, Schema) else Schema(given)


if not TYPE_CHECKING:
    _Alias, _options_of_alias = (
        (type(list[int]), {}) if sys.version_info >= (3, 9) else (type(List[int]), {"_root": True})
    )

    class _Typed(_Alias, **_options_of_alias):
        """AlmaVar[T], or a subclass, with all its variables filled in: what it makes has T for its schema."""

        def __call__(self, *args, **kwargs):
            return self.__origin__(*args, **{"schema": _argument(self.__origin__, self.__args__), **kwargs})

        def __getattribute__(self, name):  # a method would not be asked for: attributes are those of the class
            if name == "load":
                return partial(self.__origin__.load, schema=_argument(self.__origin__, self.__args__))
            return super().__getattribute__(name)

    def _argument(cls, args):
        """Return the T of the AlmaVar[T] that a class with these arguments is."""
        template = vars(cls).get("_template", _T)
        filled = dict(zip(cls.__parameters__, args))
        if isinstance(template, TypeVar):
            return filled[template]
        free = getattr(template, "__parameters__", ())
        return template[tuple(map(filled.get, free))] if free else template

    def _subscribed(cls, arguments):
        """Return what typing makes of AlmaVar[...], and of that a _Typed if no variable is left free."""
        alias = super(AlmaVar, cls).__class_getitem__(arguments)
        return alias if alias.__parameters__ else _Typed(cls, alias.__args__)

    def _declare(cls, **kwargs):
        """Note the T of a class derived from AlmaVar[T]."""
        super(AlmaVar, cls).__init_subclass__(**kwargs)
        for base in vars(cls).get("__orig_bases__", ()):
            origin = getattr(base, "__origin__", None)
            if isinstance(origin, type) and issubclass(origin, AlmaVar):
                cls._template = template = _argument(origin, base.__args__)
                free = isinstance(template, TypeVar) or getattr(template, "__parameters__", ())
                cls._declared = None if free else template

    AlmaVar.__class_getitem__, AlmaVar.__init_subclass__ = classmethod(_subscribed), classmethod(_declare)


# == Replay: replay, compare, bisect, export_test =============================
#
# Knows records and the owner's functions, and changes no variable. Runs a past through a function, each call with a
# value of its own: one run, two side by side, as few calls as a bisection needs, or a test file that holds the past.

_Source = Union[AlmaVar[_T], Iterable[ChangeRecord[_T]], _Path]


class Step(NamedTuple):
    """What a function made of one record: its result, or the exception that it raised (the result is None then)."""

    record: ChangeRecord[Any]
    result: Any
    error: Optional[Exception]


class Divergence(NamedTuple):
    """The first record of which two functions made something else: both steps, and the changes from old to new.

    Where an error is involved, *changes* is one replacement of what came out: a result or an exception.
    """

    record: ChangeRecord[Any]
    old: Step
    new: Step
    changes: List[Change]


def replay(source: _Source[_T], fn: Callable[[_T], object], *, speed: Optional[float] = None) -> Iterator[Step]:
    """Call *fn* with each value of the past, oldest first, and yield a Step for each.

    *source* is a variable or a list of records; what it holds now is replayed. *fn* runs when a step is asked for,
    and gets a value of its own. An Exception that it raises is the step's error, and the replay goes on. *speed=1.0*
    keeps the times between the records, 2.0 halves them, counted from the first step; a step that is late shortens
    the next wait. Deletions of a namespace's key are left out. Raises TypeError for another source, and TypeError or
    ValueError for a speed that is not a number
    above 0, before the first step.

    >>> [step.result for step in replay(AlmaVar("x", 1).set(2), lambda value: value * 10)]
    [10, 20]
    """
    _functions("fn", [fn])
    records = _records_of(source)
    return _steps(records, fn, [0.0] * len(records) if speed is None else _delays(records, speed))


def _records_of(source: _Source[_T]) -> List[ChangeRecord[_T]]:
    """Return the records that a source holds now, oldest first, but for deletions: guests are not told of those."""
    if isinstance(source, (str, os.PathLike)):
        source = AlmaVar.load(source)
    if not isinstance(source, Iterable) or isinstance(source, bytes):
        raise TypeError(f"what is replayed is a variable, its history(), a list of records or a file, not {source!r}")
    records = list(source)
    for record in records:
        if not isinstance(record, ChangeRecord):
            raise TypeError(f"what is replayed are records, not {record!r}")
    return [record for record in records if not _is_deletion(record)]


def _nanoseconds(record: ChangeRecord[Any]) -> int:
    """Return the time of any record in whole nanoseconds."""
    exact: Optional[int] = getattr(record, "_time", None)
    if exact is not None:
        return exact
    if not isinstance(record.timestamp, datetime) or record.timestamp.utcoffset() is None:
        raise TypeError(f"the timestamp of record {record.index} is an aware datetime, not {record.timestamp!r}")
    return (record.timestamp - _EPOCH) // _MICROSECOND * 1_000


def _delays(records: Sequence[ChangeRecord[Any]], speed: float) -> List[float]:
    """Return how many seconds after the first record each is due."""
    if not isinstance(speed, (int, float)) or isinstance(speed, bool):
        raise TypeError(f"speed is a number, not {speed!r}")
    if not speed > 0:
        raise ValueError(f"speed is above 0, not {speed}; leave it out to go on without waiting")
    times = [_nanoseconds(record) for record in records]
    return [(time - times[0]) / 1e9 / float(speed) for time in times]


def _steps(records: Sequence[ChangeRecord[_T]], fn: Callable[[_T], object], delays: Sequence[float]) -> Iterator[Step]:
    """Yield a step for each record, when it is asked for and not before it is due."""
    began = monotonic()
    for record, delay in zip(records, delays):
        while (wait := began + delay - monotonic()) > 0:
            sleep(min(wait, 86_400.0))  # a day at a time: longer ones it may refuse
        yield _step(record, fn)


def _step(record: ChangeRecord[_T], fn: Callable[[_T], object]) -> Step:
    """Return what *fn* makes of a value of its own."""
    try:
        return Step(record, fn(_own_value(record)), None)
    except Exception as error:
        return Step(record, None, error)


def _own_value(record: ChangeRecord[_T]) -> _T:
    """Return the value of a record, sharing nothing with what anybody else has; only deep_copy=False shares it."""
    value: _T = _value_again(record) if hasattr(record, "_time") else _unpack(_pack(record.value))
    return value


def compare_runs(
    source: _Source[_T], old_fn: Callable[[_T], object], new_fn: Callable[[_T], object]
) -> Optional[Divergence]:
    """Return the first record of which *old_fn* and *new_fn* make something else, or None if there is none.

    Each record's value is given to one and then to the other, until they differ. Results are the same if they are
    equal in every part and its type; NaN is NaN. Errors are the same if type and text are.

    >>> found = compare_runs(AlmaVar("x", 1).set(-2), abs, lambda value: value)
    >>> found.record.index, found.old.result, found.new.result
    (1, 2, -2)
    """
    _functions("old_fn and new_fn", [old_fn, new_fn])
    for record in _records_of(source):
        old, new = _step(record, old_fn), _step(record, new_fn)
        changes = _changes_between(old, new)
        if changes:
            return Divergence(record, old, new, changes)
    return None


def _changes_between(old: Step, new: Step) -> List[Change]:
    """Return what has changed from one function's outcome to the other's."""
    if old.error is None and new.error is None:
        return compare_values(old.result, new.result)
    if type(old.error) is type(new.error) and str(old.error) == str(new.error):
        return []
    before, after = (step.result if step.error is None else step.error for step in (old, new))
    return [Change("replace", (), before, after)]


def _bisect(var: AlmaVar[_T], predicate: Callable[[_T], object], verify: bool) -> Optional[ChangeRecord[_T]]:
    """Return the first kept record for which *predicate* holds, supposing that it holds from there on."""
    records = _records_of(var)
    if verify:
        return _first_of_all(var.name, records, [bool(predicate(_own_value(record))) for record in records])
    low, high = 0, len(records) - 1
    if not predicate(_own_value(records[high])):
        return None
    while low < high:
        middle = (low + high) // 2
        if predicate(_own_value(records[middle])):
            high = middle
        else:
            low = middle + 1
    return records[high]


def _first_of_all(name: str, records: List[ChangeRecord[_T]], answers: List[bool]) -> Optional[ChangeRecord[_T]]:
    """Return the record of the first answer that is true; ValueError where one behind it is false."""
    if True not in answers:
        return None
    first = answers.index(True)
    relapses = [record.index for record, answer in zip(records[first:], answers[first:]) if not answer]
    if relapses:
        raise ValueError(
            f"the predicate is true for record {records[first].index} of {name!r} but false again for"
            f" {str(relapses[:20])[1:-1]}{', ...' * (len(relapses) > 20)}; a bisection needs one that stays true"
        )
    return records[first]


_TEST_FILE = '''\
"""Hold {target} to what it made of these records.

Written by alma.export_test. If a change is meant, export again and read the difference.
"""

{imports}

# Index, time, label and value of each record, and what came out.
CASES = {cases}


@pytest.mark.parametrize("index, time, label, value, outcome", CASES, ids=[f"record {{case[0]}}" for case in CASES])
def test_{name}_does_what_it_did(index, time, label, value, outcome):
    cause = None
    try:
        now = {{"result": TARGET(copy.deepcopy(value))}}
    except Exception as error:
        kind, cause = type(error), error
        now = {{"error": f"{{kind.__module__}}.{{kind.__qualname__}}", "text": str(error)}}
    changes = alma.compare_values(outcome, now)
    if changes:
        report = [f"record {{index}}, label {{label!r}}, {{time}}", f"value: {{value!r}}"]
        for op, path, old, new in changes:
            where = "".join(f"[{{step!r}}]" for step in path)
            report.append(f"{{op}} outcome{{where}}: {{old!r}} -> {{new!r}}")
        raise AssertionError("\\n".join(report)) from cause
'''


def export_test(source: _Source[Any], path: _Path, target: str) -> int:
    """Write a pytest file that holds *target* to what it makes of each record today; return the number of tests.

    *target* is ``"package.module:function"`` or ``"module:Class.method"``; it is imported and called here, once for
    each record. The file has one test for each record, with index, time, label, value, and result or error as Python
    literals; it needs pytest, alma and the target. The same records and results give the same bytes. What stands in
    two places of a value is written twice. Raises
    ValueError for a target of another form or no record at all, ImportError or AttributeError if there is no such
    target, and CodecError for a value or result that has no literal: builtin and standard values have one. Then
    nothing is written.
    """
    records = _records_of(source)
    fn = _imported(target, "a target is 'package.module:function' or 'module:Class.method'")
    _functions("target", [fn])
    if not records:
        raise ValueError("there is no record to export")
    modules = {"alma", "copy", "pytest"}
    cases = _bracketed("[", [_case(record, fn, modules) for record in records], "]")
    module, _, name = target.partition(":")
    first, dot, rest = name.partition(".")
    lines = [f"import {used}" for used in sorted(modules)]
    lines += [f"from {module} import {first} as TARGET"] + [f"\nTARGET = TARGET.{rest}"] * bool(dot)
    names = {"target": target, "imports": "\n".join(lines), "cases": cases, "name": name.replace(".", "_")}
    _write_beside(os.fsdecode(path), [_TEST_FILE.format(**names).encode()])
    return len(records)


def _imported(target: str, rule: str) -> Any:
    """Return what "module:name" leads to; ValueError with the *rule* for a target of another form."""
    from functools import reduce
    from importlib import import_module
    from keyword import iskeyword

    module, _, name = str(target).partition(":")
    steps = [*module.split("."), *name.split(".")]
    if module == "__main__" or any(iskeyword(step) or not step.isidentifier() for step in steps):
        raise ValueError(f"{rule}, not {target!r}")
    return reduce(getattr, name.split("."), import_module(module))


def _case(record: ChangeRecord[_T], fn: Callable[[_T], object], modules: Set[str]) -> str:
    """Return the literal of a record and of what *fn* makes of its value."""
    time = _moment(_nanoseconds(record)).isoformat(timespec="microseconds")
    parts = {"index": record.index, "time": time, "label": record.label, "value": record.value}
    where = f"record {record.index}: "
    literals = [_literal(part, where + name, modules) for name, part in parts.items()]  # before fn can change one
    step = _step(record, fn)
    outcome, kind = {"result": step.result}, type(step.error)
    if step.error is not None:
        outcome = {"error": f"{kind.__module__}.{kind.__qualname__}", "text": str(step.error)}
    return _bracketed("(", [*literals, _literal(outcome, where + "outcome", modules)], ")")


# Literals are ours: pprint writes a set in the order of its hashes, which another process has not, and inf as a name.
# What they name is reached through its module, so no name of the target's can hide it.

_LINE = 88  # up to here a container stands on one line
_MOST_NESTED = 30  # containers in one another; the parser of Python 3.8 reads 94 lists or 47 deques
_REMEDY = "a test can hold builtin and standard values"


def _literal(value: Any, where: str, modules: Set[str], within: Tuple[int, ...] = ()) -> str:
    """Return Python that makes *value* again, and note the modules it names; CodecError if there is none."""
    kind = type(value)
    if kind not in _CONTAINERS or kind is bytearray:
        return _atom_literal(value, where, modules)
    if id(value) in within or len(within) == _MOST_NESTED or getattr(value, "__dict__", None):
        reason = f"it contains itself, bears attributes, or is inside {_MOST_NESTED} containers"
        raise CodecError(where, reason, _REMEDY)

    def inner(part: Any, step: str) -> str:
        return _literal(part, where + step, modules, (*within, id(value)))

    if isinstance(value, dict):
        text = _bracketed("{", [f"{inner(key, ' (a key)')}: {inner(value[key], f'[{key!r}]')}" for key in value], "}")
    elif isinstance(value, (set, frozenset)):
        text = _bracketed("{", sorted(inner(part, " (a member)") for part in value), "}")
    else:
        parts = [inner(part, f"[{number}]") for number, part in enumerate(value)]
        text = _bracketed("(", parts, ")") if kind is tuple else _bracketed("[", parts, "]")
    return text if kind in (dict, list, tuple) or (kind is set and value) else _made_from(text, value, where, modules)


def _made_from(text: str, value: Any, where: str, modules: Set[str]) -> str:
    """Return the literal of a container that is made from another one, given as *text*."""
    import builtins

    kind = type(value)
    if kind is deque:
        text += f", maxlen={value.maxlen}"
    elif kind is defaultdict:
        factory = getattr(value.default_factory, "__name__", "None")
        if getattr(builtins, factory, None) is not value.default_factory:
            raise CodecError(where, f"a defaultdict of {factory}, which is no builtin", _REMEDY)
        text = f"{factory}, {text}"
    elif kind is set or kind is frozenset:
        return f"{kind.__name__}({text})"
    modules.add("collections")
    return f"collections.{kind.__name__}({text})"


def _bracketed(begin: str, parts: List[str], end: str) -> str:
    """Return literals within brackets: on one line where that fits, else each on lines of its own."""
    from textwrap import indent

    flat = begin + ", ".join(parts) + "," * (begin == "(" and len(parts) == 1) + end
    broken = "\n" in flat or len(flat) > _LINE
    return begin + "\n" + indent(",\n".join(parts), "    ") + ",\n" + end if broken else flat


def _atom_literal(value: Any, where: str, modules: Set[str]) -> str:
    """Return the literal of what is no container."""
    kind = type(value)
    if isinstance(value, enum.Enum) or not (kind is bytearray or _is_atom(value)):
        raise CodecError(where, f"a {kind.__module__}.{kind.__qualname__}", _REMEDY)
    if kind is complex:
        return f"complex({_atom_literal(value.real, where, modules)}, {_atom_literal(value.imag, where, modules)})"
    if kind is float and value - value != 0:
        return f"float('{value}')"
    if kind is int and value.bit_length() > 2_000:  # Python may refuse that many decimals
        return hex(value)
    text, module = repr(value), str(kind.__module__).partition(".")[0]  # 3.13 has moved its paths
    if module == "builtins":
        return text
    modules.add(module)
    if module == "pathlib" and not text.startswith("Pure"):
        text = text[text.index("Path") :]  # no PosixPath can be made on Windows
    return text if module == "datetime" else f"{module}.{text}"


# == Sync: Redis / Valkey, WebSocket ==========================================
#
# Knows registries, the codec and the journal's place for a cursor. A change is made here first and then travels; the
# log is the outbox. The bus alone orders, so all replicas end with the same values. What comes from a bus is a
# stranger's text. Nothing here ever waits in set(), or fails in it.


class _Away(Exception):
    """Raised by a bus that can't be reached now."""


class _Untrusted(_Away):
    """Raised by a bus whose certificate we can't trust: a mistake when we begin, and later on an outage."""


class _Refused(Exception):
    """Raised by a bus that will never have us: a wrong password or token."""


class _Lost(Exception):
    """Raised by a bus that has entries which we'll never get from it: only its state can help."""


class _Sent(NamedTuple):
    """An entry on its way: its number in its origin, its text, and for the state a text for each variable in it."""

    seq: int
    text: str
    pieces: Sequence[Tuple[str, str, str]]  # name, kind, text of an entry with this change alone


_Numbered = Tuple[Optional[int], Sequence[str], str]  # number (None: a stranger's), names of refused offers, text


class _Topic:
    """What a bus keeps of a topic, in memory. Whoever owns it sees to it that one thread uses it at a time."""

    def __init__(self, backlog: int) -> None:
        import uuid

        self.epoch = uuid.uuid4().hex  # another one has other numbers
        self.count = 0  # the number of the newest entry; they begin with 1
        self.backlog: Deque[_Numbered] = deque(maxlen=backlog)
        self.newest: Dict[str, str] = {}  # by name, the text of an entry with its newest change alone
        self.origins: OrderedDict[str, int] = OrderedDict()  # the last sequence of each

    def take(self, origin: str, entries: Iterable[_Sent]) -> List[str]:
        """Order entries and keep them; return "ok", "seen" or "gap" for each, and take none after a gap."""
        answers = []
        for entry in entries:
            last = self.origins.get(origin, -1)
            answers.append("seen" if entry.seq <= last else "ok" if entry.seq == last + 1 else "gap")
            if answers[-1] == "gap":
                break
            if answers[-1] == "ok":
                self._put(origin, entry)
        return answers

    def _put(self, origin: str, entry: _Sent) -> None:
        refused = [name for name, kind, _ in entry.pieces if kind == "offer" and name in self.newest]
        self.newest.update((name, text) for name, _, text in entry.pieces if name not in refused)
        self.count += 1
        self.backlog.append((self.count, refused, entry.text))
        self.origins[origin] = entry.seq
        self.origins.move_to_end(origin)
        if len(self.origins) > _ORIGINS:
            self.origins.popitem(last=False)

    def state(self, origins: Iterable[str]) -> Tuple[str, int, Dict[str, int], Dict[str, str]]:
        """Return the epoch, the number of the newest entry, the last sequence of those origins, and the state."""
        return (
            self.epoch,
            self.count,
            {one: self.origins[one] for one in origins if one in self.origins},
            {**self.newest},
        )

    def since(self, number: int) -> List[_Numbered]:
        """Return the entries after that number, at most a slice of them; _Lost if some are no longer kept."""
        behind = self.count - number
        if not 0 <= behind <= len(self.backlog):
            raise _Lost(f"the bus is at entry {self.count} and keeps {len(self.backlog)}; we are at {number}")
        start = len(self.backlog) - behind
        return list(islice(self.backlog, start, start + _SLICE))


_ORIGINS = 10_000  # whose last sequence is known
_PATIENCE = 1.0  # seconds that a read waits for news, so that silence is known from death


class _MemoryBus:
    """A bus within this process, for tests: its topics live as long as the process."""

    topics: ClassVar[Dict[Tuple[str, str], Tuple[Any, _Topic]]] = {}

    def __init__(self, url: str, topic: str, token: Optional[str], keep: int) -> None:
        self.news, self.topic = self.topics.setdefault((url, topic), (threading.Condition(), _Topic(keep)))
        self.closed = False

    def send(self, origin: str, entries: Sequence[_Sent]) -> List[str]:
        """Have entries ordered; see _Topic.take()."""
        with self.news:
            answers = self.topic.take(origin, entries)
            self.news.notify_all()
            return answers

    def state(self, origins: Iterable[str]) -> Tuple[str, int, Dict[str, int], Dict[str, str]]:
        """Return where the topic is now, as one cut; see _Topic.state()."""
        with self.news:
            return self.topic.state(origins)

    def read(self, cursor: str, number: int) -> Tuple[str, List[_Numbered]]:
        """Return the entries after that number; none if none come for a second."""
        with self.news:
            if cursor != self.topic.epoch:
                raise _Lost("the bus is another one")
            self.news.wait_for(lambda: self.closed or self.topic.count != number, _PATIENCE)
            return cursor, [] if self.closed else self.topic.since(number)

    def close(self) -> None:
        """Wake who reads."""
        with self.news:
            self.closed = True
            self.news.notify_all()


# One call of this orders a batch: what _Topic.take() does. KEYS: stream, newest, count, the origin's last sequence.
# ARGV: length of the stream, channel; then for each entry sequence, text, how many pieces, and of each piece name,
# kind and text, which is empty where it is that of the entry.
_SEND = """
local last, answers, i = tonumber(redis.call('GET', KEYS[4]) or -1), {}, 3
while i <= #ARGV do
  local seq, text, first = tonumber(ARGV[i]), ARGV[i + 1], i + 3
  i = first + 3 * tonumber(ARGV[i + 2])
  if seq <= last then
    answers[#answers + 1] = 'seen'
  elseif seq > last + 1 then
    answers[#answers + 1] = 'gap'
    break
  else
    local refused = {}
    for j = first, i - 1, 3 do
      if ARGV[j + 1] == 'offer' and redis.call('HEXISTS', KEYS[2], ARGV[j]) == 1 then
        refused[#refused + 1] = ARGV[j]
      else
        redis.call('HSET', KEYS[2], ARGV[j], ARGV[j + 2] == '' and text or ARGV[j + 2])
      end
    end
    local n = redis.call('INCR', KEYS[3])
    local names = #refused > 0 and cjson.encode(refused) or '[]'
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'n', n, 'r', names, 'm', text)
    redis.call('PUBLISH', ARGV[2], text)
    last = seq
    answers[#answers + 1] = 'ok'
  end
end
if last >= 0 then redis.call('SET', KEYS[4], last, 'EX', 2592000) end
return answers
"""

# Where the topic is: id and number of the newest entry; with a cursor whether entries follow it, else the state, and
# the last sequences of origins. KEYS: stream, newest, count, the origins' last sequences.
_LOOK = """
local info, id = redis.pcall('XINFO', 'STREAM', KEYS[1]), '0-0'
for i = 1, #info - 1, 2 do
  if info[i] == 'last-generated-id' then id = info[i + 1] end
end
local found = {id, redis.call('GET', KEYS[3]) or '0'}
if ARGV[1] then
  found[3] = redis.call('XREAD', 'COUNT', 1, 'STREAMS', KEYS[1], ARGV[1]) and 1 or 0
  return found
end
local lasts = {}
for i = 4, #KEYS do
  lasts[i - 3] = redis.call('GET', KEYS[i]) or '-1'
end
found[3], found[4] = lasts, redis.call('HGETALL', KEYS[2])
return found
"""


def _away(reason: str, error: Any) -> _Away:
    """Return what to raise for an error that kept us from reaching a bus."""
    from ssl import SSLCertVerificationError

    while error is not None and not isinstance(error, SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return _Away(reason) if error is None else _Untrusted(reason)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _address(url: str) -> str:
    """Return where a url leads, without who we are there: it is for messages."""
    import re

    return re.sub(r"(?s)(?<=://).*@|\?.*", "", url)


_HOPELESS = "WRONGTYPE", "DB index", "Client names", "unknown command"  # in what a Redis says that will never do it


class _Wire:
    """A connection to Redis, used by one thread."""

    def __init__(self, pool: Any) -> None:
        self.errors, self.pool = _of_extra("redis", "redis.exceptions"), pool
        self.connection: Any = None
        self.closed = False

    def ask(self, *command: Any) -> Any:
        """Return the answer to a command; _Away or _Refused where there is none, an error of the script as it is."""
        try:
            if self.closed:
                raise ConnectionError("it is closed")
            self.connection = self.connection or self.pool.make_connection()
            self.connection.send_command(*command)
            return self.connection.read_response()
        except self.errors.NoScriptError:
            raise
        except Exception as error:
            raise self._trouble(error) from error

    def _trouble(self, error: Exception) -> Exception:
        """Let go of the connection, and return what an error means."""
        errors, connection, self.connection = self.errors, self.connection, None
        reason = f"{type(error).__name__}: {error}"
        if connection is not None and not self.closed:
            connection.disconnect()
        for_good = errors.AuthenticationError, errors.AuthorizationError, errors.NoPermissionError
        said = str(error) if isinstance(error, errors.ResponseError) else ""
        if isinstance(error, for_good) or any(words in said for words in _HOPELESS):
            return _Refused(reason)
        if self.closed or isinstance(error, (errors.RedisError, OSError)):
            return _away(reason, error)
        return error

    def run(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        """Return what a script returns, which is sent only where the server has it not."""
        from hashlib import sha1

        rest = len(keys), *keys, *arguments
        try:
            return self.ask("EVALSHA", sha1(script.encode()).hexdigest(), *rest)
        except self.errors.NoScriptError:
            return self.ask("EVAL", script, *rest)

    def close(self) -> None:
        """Have who waits for an answer come back, by shutting the connection down under it."""
        self.closed, connection = True, self.connection
        if connection is not None:
            connection.disconnect()


def _check_redis_url(url: str) -> None:
    """Raise ValueError for what redis-py would take for another place, or take to be set as we can't work with."""
    import re
    from urllib.parse import parse_qsl, urlsplit

    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True)
        if parts.scheme == "unix":
            fits = not parts.hostname and len(parts.path) > 1
        else:
            fits = parts.port != 0 and re.fullmatch("/?[0-9]*", parts.path) is not None
    except ValueError:  # which would say a part of a password that is not quoted
        fits, options = False, []
    if not fits or "#" in url:
        raise ValueError(
            f"{_address(url)!r} is no place of a Redis: redis://USER:PASSWORD@HOST:PORT/DATABASE or unix:///PATH, with "
            "a / ? # or @ in a password as %2F %3F %23 %40"
        )
    for name, value in options:
        if not value or not (name in ("client_name", "db") or name.startswith("ssl_")):
            raise ValueError(
                f"the url of a Redis has the options db, client_name and those of TLS, ssl_..., not {name!r}"
            )
        if name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
            open(value, "rb").close()  # or it would be said when we connect, without its name


class _RedisBus:
    """A topic in Redis or Valkey: a stream orders and keeps the entries, a hash the state."""

    def __init__(self, url: str, topic: str, token: Optional[str], keep: int) -> None:
        redis = _of_extra("redis", "redis")
        _check_redis_url(url)
        retry = _of_extra("redis", "redis.retry").Retry(_of_extra("redis", "redis.backoff").NoBackoff(), 0)
        settings = {"socket_timeout": 3, "socket_connect_timeout": 3, "retry": retry, "protocol": 2}
        if url.startswith("rediss:") and "ssl_cert_reqs=none" not in url:
            settings["ssl_check_hostname"] = True  # redis-py before 6 would take anybody's certificate
        self.wires = [_Wire(redis.ConnectionPool.from_url(url, **settings)) for _ in range(2)]
        try:
            self.wires[0].pool.make_connection()  # which connects to nothing yet
        except (TypeError, redis.RedisError) as error:
            raise ValueError(f"the url of a Redis has an option that it can't have: {error}") from None
        self.sender, self.reader = self.wires
        self.stream, self.keep = f"alma:{{{topic}}}", keep
        self.keys = self.stream, f"{self.stream}:newest", f"{self.stream}:count"

    def _of_origin(self, origin: str) -> str:
        return f"{self.stream}:origin:{origin}"

    def send(self, origin: str, entries: Sequence[_Sent]) -> List[str]:
        """Have entries ordered, by one call of the script; see _Topic.take()."""
        arguments: List[Any] = [self.keep, self.stream]
        for seq, text, pieces in entries:
            arguments += (seq, text, len(pieces))
            for name, kind, part in pieces:
                arguments += (_bytes(name), kind, "" if part is text else part)
        answers = self.sender.run(_SEND, (*self.keys, self._of_origin(origin)), *arguments)
        return [answer.decode() for answer in answers]

    def state(self, origins: Iterable[str]) -> Tuple[str, int, Dict[str, int], Dict[str, str]]:
        """Return where the topic is now, as one cut; see _Topic.state()."""
        asked = list(origins)
        cursor, count, lasts, pairs = self.reader.run(_LOOK, (*self.keys, *map(self._of_origin, asked)))
        texts = (pair.decode("utf-8", "surrogatepass") for pair in pairs)
        known = {origin: int(last) for origin, last in zip(asked, lasts) if int(last) >= 0}
        return cursor.decode(), int(count), known, dict(zip(texts, texts))

    def read(self, cursor: str, number: int) -> Tuple[str, List[_Numbered]]:
        """Return the entries after a cursor, which has that number; none if none come for a second."""
        wait = "XREAD", "COUNT", _SLICE, "BLOCK", int(_PATIENCE * 1_000), "STREAMS", self.stream, cursor
        answer = self.reader.ask(*wait)
        if not answer:
            self._look(cursor, number)
            return cursor, []
        entries = [self._entry(fields) for _, fields in answer[0][1]]
        for found, _, _ in entries:
            if found is not None:
                if found != number + 1:
                    raise _Lost(f"after entry {number} of the bus comes {found}")
                number = found
        return answer[0][1][-1][0].decode(), entries

    def _look(self, cursor: str, number: int) -> None:
        """Raise _Lost if nothing comes because what should come is gone."""
        newest, count, more = self.reader.run(_LOOK, self.keys, cursor)
        if not more and (newest.decode(), int(count)) != (cursor, number):
            raise _Lost(f"the bus is at {newest.decode()}, entry {int(count)}, we are at {cursor}, entry {number}")

    @staticmethod
    def _entry(fields: Any) -> _Numbered:
        """Return an entry of the stream; a stranger's has no number."""
        import json

        found = dict(zip(fields[::2], fields[1::2])) if fields else {}
        text = found.get(b"m", b"").decode("utf-8", "replace")
        try:
            names = found[b"r"].decode("utf-8", "surrogatepass")
            return int(found[b"n"]), () if names == "[]" else json.loads(names), text
        except (KeyError, ValueError):
            return None, (), text or repr(found)

    def close(self) -> None:
        """Close the connections; who waits for an answer gets none."""
        for wire in self.wires:
            wire.close()


# which bus an url means: made of the url, the topic, the token and how many entries to keep; connects when first used
_BUSES: Dict[str, Callable[[str, str, Optional[str], int], Any]] = {
    "redis": _RedisBus,
    "rediss": _RedisBus,
    "unix": _RedisBus,
    "memory": _MemoryBus,
}


def _bus_of(url: str, topic: str, token: Optional[str], keep: int) -> Any:
    """Return the bus that an url means; ValueError for one that means none."""
    scheme = url.partition("://")[0] if isinstance(url, str) and "://" in url else ""
    if scheme not in _BUSES:
        known = ", ".join(f"{scheme}://" for scheme in _BUSES)
        raise ValueError(f"a bus is reached by {known}, not by {_address(url) if scheme else url!r}")
    if token is not None and scheme not in ("ws", "wss"):
        raise ValueError("token= is what a hub asks for, by ws:// or wss://; a Redis finds its password in the url")
    return _BUSES[scheme](url, topic, token, keep)


# -- entries: what travels, as text


_LARGEST = 1 << 20  # bytes of an entry
_BEGINNING = '{"mac":"'  # how each begins, so that what is signed is found by slicing


class _Change(NamedTuple):
    """What an entry says of one variable."""

    name: str
    kind: str  # set, offer, deletion
    value: Any  # none of a deletion
    label: Optional[str]
    space: Optional[str]  # the namespace of which it is a key
    encoded: bool  # whether the value is what decoding middleware stored


class _Arrival(NamedTuple):
    """An entry that came, with its number at the bus; with the reason where nothing can be made of it."""

    number: Optional[int]
    text: str
    origin: str = ""
    seq: int = -1
    time: int = 0
    sender: str = ""
    changes: Sequence[_Change] = ()
    damage: Optional[str] = None


class _Segment:
    """An origin, for what was made up to a time (None: from then on): how many entries left, how many came back."""

    __slots__ = ("back", "left", "origin", "until")

    def __init__(self, origin: str, left: int = 0, until: Optional[int] = None) -> None:
        self.origin, self.left, self.back, self.until = origin, left, left, until


class _Departure:
    """Changes of one time on their way, in parts (name, kind, text); sealed as the next entry of a segment."""

    __slots__ = ("origin", "parts", "segment", "sent", "time")

    def __init__(self, time: int, parts: List[Tuple[str, str, str]]) -> None:
        self.time, self.parts = time, parts
        self.segment, self.origin, self.sent = _Segment(""), "", _Sent(-1, "", ())


def _checked_secret(secret: Union[str, bytes, None]) -> Optional[bytes]:
    """Return a secret as bytes; ValueError for an empty one, which everybody knows, and for what is no text at all."""
    if secret is None or (isinstance(secret, (str, bytes)) and secret):
        return secret.encode() if isinstance(secret, str) else secret
    raise ValueError("a secret is a str or bytes of at least one character; without secret= nothing is signed")


class _Seal:
    """Makes entries of changes, and reads those of others; signs and checks them where there is a secret."""

    def __init__(self, codec: _Codec, secret: Union[str, bytes, None]) -> None:
        import hmac
        import socket

        self.codec, self.secret, self.hmac = codec, _checked_secret(secret), hmac
        self.sender = _text(f"{socket.gethostname()}:{os.getpid()}")

    def _mac(self, body: str) -> str:
        return "" if self.secret is None else self.hmac.new(self.secret, body.encode(), "sha256").hexdigest()

    def _entry(self, origin: str, seq: int, time: int, changes: Iterable[str]) -> str:
        begin = f'{{"origin":"{origin}","seq":{seq},"from":{self.sender},"time":{time},"changes":['
        body = f"{begin}{','.join(changes)}]}}"
        return f'{_BEGINNING}{self._mac(body)}","entry":{body}}}'

    def seal(self, departure: _Departure, segment: _Segment) -> None:
        """Make a departure the next entry of a segment, and of each variable's last change a piece for the state."""
        time, parts, origin, seq = departure.time, departure.parts, segment.origin, segment.left
        text = self._entry(origin, seq, time, [part for _, _, part in parts])
        last = {name: (kind, part) for name, kind, part in parts}
        pieces = [
            (name, kind, text if len(parts) == 1 else self._entry(origin, seq, time, [part]))
            for name, (kind, part) in last.items()
        ]
        if len(text) > _LARGEST or len(text.encode()) > _LARGEST:
            raise CodecError("value", f"more than {_LARGEST:,} bytes", "keep it smaller")
        departure.segment, departure.origin, departure.sent = segment, origin, _Sent(seq, text, pieces)
        segment.left += 1

    def part(self, trail: _Trail, record: ChangeRecord[Any], kind: str) -> Tuple[str, str, str]:
        """Return the name, kind and text of a change; CodecError for a value that has none."""
        name, more, encoded = trail.var._name, "", trail.var._is_encoded()
        if _is_deletion(record):
            kind = "deletion"
        else:
            value = _unpack(record._stored) if encoded else record.value
            more = f',"value":{_text(self.codec.encode(value, f"{name!r}, record {record.index}: value"))}'
        if trail.space is not None:
            more += f',"space":{_text(trail.space._name)}'
        if encoded:
            more += ',"encoded":true'
        label = "null" if record.label is None else _text(record.label)
        return name, kind, f'{{"name":{_text(name)},"kind":"{kind}"{more},"label":{label}}}'

    def read(self, number: Optional[int], refused: Sequence[str], text: str) -> _Arrival:
        """Return what an entry says, without the offers that were refused; it may be a stranger's."""
        try:
            if len(text) > _LARGEST:
                raise ValueError(f"it is larger than {_LARGEST:,} bytes")
            return self._read(number, refused, text)
        except Exception as error:  # whatever a stranger may have written
            return _Arrival(number, text, damage=str(error) or type(error).__name__)

    def _read(self, number: Optional[int], refused: Sequence[str], text: str) -> _Arrival:
        raw = _parse(self._body(text))
        origin, seq, sender, time, changes = (raw[name] for name in ("origin", "seq", "from", "time", "changes"))
        if number is None or not (type(origin) is type(sender) is str and type(seq) is type(time) is int):
            raise ValueError("it is no entry of Alma's")
        read = [self._change(change) for change in _listed(changes)]
        kept = [change for change in read if not (change.kind == "offer" and change.name in refused)]
        return _Arrival(number, text, origin, seq, time, sender, kept)

    def _body(self, text: str) -> str:
        """Return the text of the entry that a message holds; ValueError if it was not signed with our secret."""
        start = len(_BEGINNING)
        mac, mark, _ = text[start : start + 80].partition('","entry":')
        if not text.startswith(_BEGINNING) or not mark or not text.endswith("}"):
            raise ValueError("it is no entry of Alma's")
        body = text[start + len(mac) + len(mark) : -1]
        if self.secret is not None and not self.hmac.compare_digest(_bytes(mac), _bytes(self._mac(body))):
            raise ValueError("it is not signed with our secret; all links of a topic need the same secret=")
        return body

    def _change(self, raw: Any) -> _Change:
        name, kind, label = raw["name"], raw["kind"], raw.get("label")
        space, encoded = raw.get("space"), raw.get("encoded", False)
        plain = name and type(name) is str and type(label) in (str, type(None))
        if not plain or kind not in _CHANGE_KINDS or not _is_key_of(name, space):
            raise ValueError("a change in it is none that Alma knows")
        value = DELETED if kind == "deletion" else self.codec.decode(raw["value"])
        return _Change(name, kind, value, label, space, encoded)


_CHANGE_KINDS = "set", "offer", "deletion"


def _is_key_of(name: str, space: Any) -> bool:
    """Tell whether a name can be that of a key of a namespace; of none, it can."""
    if space is None:
        return True
    known = type(space) is str and space and "@" not in name
    return bool(known) and name.startswith(f"{space}.") and len(name) > len(space) + 1


# -- what a link knows of its variables


class _Trail:
    """What a link knows of the log of a variable: which of its records have to travel, and what becomes of others'."""

    __slots__ = ("again", "due", "local", "log", "offer", "ours", "place", "sent", "space", "theirs", "var")

    def __init__(self, var: AlmaVar[Any], space: Optional[AlmaNamespace], place: int, offer: int) -> None:
        self.var, self.log, self.space = var, var._log, space
        self.place = place  # the records before it have been looked at
        self.offer = offer  # the record that counts only where the bus has nothing of that name; -1 for none
        self.due: Deque[List[int]] = deque()  # ranges of records that have to travel
        self.local = _NEVER  # when the newest change was made here that has to travel, or had to
        self.sent = _NEVER  # the same of those that are on their way
        self.ours = self.theirs = -1  # the newest record of a change made here, and of one made elsewhere
        self.again = False  # whether its value is on its way once more, as the bus has lost it

    def look(self, count: int, arrived: AbstractSet[int]) -> None:
        """Note the records up to *count* that were made here."""
        if arrived:
            for index in range(self.place, count):
                if index not in arrived:
                    self._note(index, index + 1)
        elif count > self.place:
            self._note(self.place, count)
        self.place = count

    def _note(self, start: int, stop: int) -> None:
        if self.due and self.due[-1][1] == start:
            self.due[-1][1] = stop
        else:
            self.due.append([start, stop])
        if stop - 1 != self.offer:
            self.ours, self.local = stop - 1, self.log.time(self.log.head, stop - 1)

    def oldest(self) -> int:
        """Return a time that no record which has to travel is older than."""
        head, start = self.log.head, self.due[0][0]
        return self.log.time(head, start and min(max(start, head[2].first), head[0] - 1))

    def take(self, until: int, most: int) -> List[Tuple[int, int]]:
        """Take (time, index) of what has to travel first, up to a time: at most so many."""
        (start, stop), layout = self.due[0], self.log.head[2]
        stop, shift = (stop, layout.shift) if start else (1, 0)
        times, first = layout.times, start - shift
        end = min(bisect_right(times, until, first, stop - shift), first + most)
        self.due[0][0] = end + shift
        if self.due[0][0] == self.due[0][1]:
            self.due.popleft()
        return [(times[position], position + shift) for position in range(first, end)]

    def clip(self) -> int:
        """Forget what has to travel and has been pruned, but for the newest value; return how many that were."""
        first, gone = self.log.head[2].first, 0
        if first == 1:
            return 0
        kept: Deque[List[int]] = deque()
        for start, stop in self.due:
            if start == 0:
                kept.append([0, 1])
            gone += max(0, min(first, stop) - max(start, 1))
            if stop > max(start, first):
                kept.append([max(start, first), stop])
        self.due = kept
        if gone and self.ours >= first and not (kept and kept[-1][1] > self.ours):
            kept.append([self.ours, self.ours + 1])  # what has been appended again
        return gone

    def records(self, indices: List[int]) -> List[ChangeRecord[Any]]:
        """Return records by their indices, which rise."""
        head, later = self.log.head, [index for index in indices if index]
        found = self.log.part(head, later[0], later[-1] + 1) if later else []
        found = found if later == indices else [*self.log.part(head, 0, 1), *found]
        wanted = set(indices)
        return [record for record in found if record.index in wanted]


_PLAIN_OPTIONS = _Options(True, (), (), (), None, False)
_Key = Tuple[AlmaNamespace, str]


class _Scope:
    """Which variables a link is about: all of a registry, the keys of a namespace, or some that were chosen."""

    def __init__(self, what: Any) -> None:
        self.registry: Optional[AlmaRegistry] = what if isinstance(what, AlmaRegistry) else None
        self.space: Optional[AlmaNamespace] = what if isinstance(what, AlmaNamespace) else None
        self.chosen: Optional[Dict[str, AlmaVar[Any]]] = None
        if self.space is not None:
            self.registry = self.space._registry
        if self.registry is None:
            self.chosen = self._choose(
                list(what) if isinstance(what, Iterable) and not isinstance(what, AlmaVar) else [what]
            )
        owner: Any = self.registry or next(iter((self.chosen or {}).values()))
        self.monitor: _Monitor = owner._monitor

    @staticmethod
    def _choose(variables: List[Any]) -> Dict[str, AlmaVar[Any]]:
        chosen = {var._name: var for var in variables if isinstance(var, AlmaVar)}
        if not variables or len(chosen) != len(variables) or len({var._monitor for var in variables}) > 1:
            raise TypeError("sync() takes a registry, a namespace, a variable, or a list of variables of one registry")
        return chosen

    def _holds(self, name: str) -> bool:
        return "@" not in name and (self.space is None or name.startswith(f"{self.space._name}."))

    def variables(self) -> List[AlmaVar[Any]]:
        """Return the variables there are."""
        if self.registry is None:
            return list((self.chosen or {}).values())
        names = _public(self.registry._vars)
        return [var for name, var in list(names.items()) if self.space is None or self.key(name)]

    def find(self, name: str) -> Optional[AlmaVar[Any]]:
        """Return the variable of that name, as this thread may see it."""
        if self.registry is None:
            return (self.chosen or {}).get(name)
        return self.registry._vars.current().get(name) if self._holds(name) else None

    def may_make(self, name: str) -> bool:
        """Tell whether a name that is not known is to become a variable."""
        return self.registry is not None and self._holds(name)

    def key(self, name: str) -> Optional[_Key]:
        """Return the namespace, and the key of it, that a name is claimed by."""
        if self.registry is None and self.monitor.names is None:
            return None
        spaces = (self.registry or self.monitor.names.owner)._namespaces.current()  # type: ignore[union-attr]
        found = self._within(name, spaces)
        return found if found is not None and found[1] in found[0]._keys.current() else None

    def _within(self, name: str, spaces: Mapping[str, AlmaNamespace]) -> Optional[_Key]:
        """Return the namespace whose key a name would be."""
        parts = name.split(".")
        for n in range(1, len(parts)):
            space = spaces.get(".".join(parts[:n]))
            if space is not None and name[len(space._name) + 1 :]:
                return space, name[len(space._name) + 1 :]
        return None

    def place(self, name: str, claimed: Optional[str]) -> Optional[_Key]:
        """Return the namespace and key that a new name belongs to, made if the sender says that there is one."""
        assert self.registry is not None
        spaces = self.registry._namespaces
        if claimed is not None and claimed not in spaces.current():
            made = AlmaNamespace(self.registry, claimed, _PLAIN_OPTIONS)
            made._resumed = True
            spaces.changeable()[claimed] = made
        return self._within(name, spaces.current())


# -- what comes from elsewhere


class _Outcome:
    """What became of entries that were taken together: nothing of it counts before they are committed."""

    def __init__(self) -> None:
        self.arrived: Dict[_Log, Set[int]] = {}  # records that the link has appended, which don't travel
        self.theirs: Dict[_Log, int] = {}  # the newest of them that stands for a change made elsewhere,
        self.again: Dict[_Log, int] = {}  # and for one made here
        self.ours: Dict[str, _Change] = {}  # changes made here that the bus has ordered last of all
        self.letters: List[Tuple[str, str, Optional[str]]] = []  # dead ones: why, text, the variable that refused
        self.heard: Dict[str, int] = {}
        self.number: Optional[int] = None
        self.received = self.duplicates = 0

    def note(self, var: AlmaVar[Any], which: Dict[_Log, int]) -> None:
        """Note that a variable's newest record is the link's."""
        index = var._head()[0] - 1
        self.arrived.setdefault(var._log, set()).add(index)
        which[var._log] = index


class _Replica:
    """The variables of a link, and how changes from elsewhere come into them. All assumes the registry's lock.

    What is in force in the end, by what came last in the order of the bus:
                        nothing of ours on its way    one of ours is
       another's        that                          ours, appended again
       ours             ours, appended again if another's was appended after it
    """

    def __init__(self, scope: _Scope) -> None:
        self.scope, self.monitor = scope, scope.monitor
        self.trails: Dict[_Log, _Trail] = {}
        self.due: List[Tuple[int, int, _Trail]] = []  # a heap by time of those with records that have to travel
        self.strays: List[_Trail] = []  # variables that came with a past, as from a file
        self.met: Set[str] = set()
        self.told: Set[_Log] = set()  # those that may have new records
        self.renamed = True  # any may
        self.after = self.echoed = self.monitor.time  # of the last look; of what the bus has told us of our own
        self.arrived: List[int] = []  # times of the link's records younger than that
        self.sent = _NEVER  # of the newest record that is on its way
        self.heard: OrderedDict[str, int] = OrderedDict()  # the last sequence of each origin
        self.owns: Dict[str, bool] = {}  # our origins: whether they are of this opening
        self.segments: List[_Segment] = []  # of what is made here, the last one of what is made from now on
        self.extra = self.own()  # of values that the bus should have and has not

    def begin(self, echoed: int, arrived: Iterable[int]) -> bool:
        """Meet the variables; what is younger than *echoed* and did not arrive has to travel.

        Return whether all of that is known: retention may have pruned some.
        """
        known, times = True, set(arrived)
        self.echoed, self.arrived = echoed, sorted(times)
        for var in self.scope.variables():
            head, layout = var._log.head, var._log.head[2]
            position = bisect_right(layout.times, echoed, 0, head[0] - layout.shift)
            start = position + layout.shift if position > 1 else position
            known = known and (layout.first == 1 or start >= layout.first)
            trail = self._meet(var, start, 0 if start == 0 else -1)
            came = {index for index in range(start, head[0]) if times and self._time(trail, index) in times}
            self._look_at(trail, came)
        self.renamed, self.after = False, self.monitor.now()  # younger than what a file may bring
        return known

    def own(self) -> _Segment:
        """Return a segment with a new origin."""
        import uuid

        segment = _Segment(uuid.uuid4().hex)
        self.owns[segment.origin] = True
        return segment

    @staticmethod
    def _time(trail: _Trail, index: int) -> int:
        return trail.log.time(trail.log.head, index)

    def _meet(self, var: AlmaVar[Any], place: int, offer: int) -> _Trail:
        key = self.scope.key(var._name)
        trail = self.trails[var._log] = _Trail(var, None if key is None else key[0], place, offer)
        self.met.add(var._name)
        return trail

    def look(self, arrived: Optional[Mapping[_Log, AbstractSet[int]]] = None) -> None:
        """Note which records have been made since the last look; those that the link made are given."""
        logs, self.told = self.told, set()
        if self.renamed:
            self._meet_new()
            logs = set(self.trails)
        for log in logs:
            trail = self.trails.get(log)
            if trail is not None and log.head[0] > trail.place:
                self._look_at(trail, (arrived or {}).get(log, _NOTHING))
        self.after = self.monitor.time

    def _look_at(self, trail: _Trail, arrived: AbstractSet[int]) -> None:
        was_due = bool(trail.due)
        trail.look(trail.log.head[0], arrived)
        if not was_due:
            self._line_up(trail)

    def _line_up(self, trail: _Trail) -> None:
        from heapq import heappush

        if trail.due:
            heappush(self.due, (trail.oldest(), id(trail), trail))

    def take_due(self, most: int) -> Tuple[List[Tuple[int, _Trail, ChangeRecord[Any]]], Dict[_Trail, int]]:
        """Take what has to travel first: *most*, and all of the last time; and tell how many of which were pruned."""
        from heapq import heappop

        taken: List[Tuple[int, _Trail, int]] = []
        gone: Dict[_Trail, int] = {}
        while self.due and (len(taken) < most or self.due[0][0] == taken[-1][0]):
            trail = heappop(self.due)[2]
            gone[trail] = gone.get(trail, 0) + trail.clip()
            if trail.due:
                until = self.due[0][0] if self.due else self.monitor.time
                taken += ((time, trail, index) for time, index in trail.take(until, max(1, most - len(taken))))
            self._line_up(trail)
        indices: Dict[_Trail, List[int]] = {}
        for _, trail, index in taken:
            indices.setdefault(trail, []).append(index)
        records = {trail: iter(trail.records(of_trail)) for trail, of_trail in indices.items()}
        return [(time, trail, next(records[trail])) for time, trail, _ in taken], gone

    def _meet_new(self) -> None:
        self.renamed, there = False, set()
        for var in self.scope.variables():
            log = var._log
            there.add(log)
            if log not in self.trails:
                begun = log.head[2].times[0] > self.after
                trail = self._meet(var, 0 if begun else log.head[0], 0 if begun and var._name not in self.met else -1)
                if not begun:
                    self.strays.append(trail)
        for log in [log for log, trail in self.trails.items() if log not in there and not trail.due]:
            del self.trails[log]

    def is_pending(self, trail: _Trail) -> bool:
        """Tell whether a change made here is on its way, or has to be, so that the bus will order it last."""
        return trail.local > self.echoed or trail.again

    def open_segments(self) -> List[_Segment]:
        """Return the segments of which not all has come back yet, and the current one."""
        return [one for one in self.segments if one.until is None or one.until > self.echoed]

    def is_quiet(self) -> bool:
        """Tell whether nothing is on its way, or has to be."""
        return not self.due and self.sent <= self.echoed

    def take(self, arrivals: Iterable[_Arrival]) -> _Outcome:
        """Append what entries say, within a transaction."""
        outcome = _Outcome()
        for arrival in arrivals:
            if arrival.damage is not None:
                outcome.letters.append((arrival.damage, arrival.text, None))
            elif arrival.seq <= outcome.heard.get(arrival.origin, self.heard.get(arrival.origin, -1)):
                outcome.duplicates += 1
            else:
                outcome.heard[arrival.origin] = arrival.seq
                self._take(arrival, outcome)
            outcome.number = outcome.number if arrival.number is None else arrival.number
        for log in outcome.theirs:
            self._win(log, outcome)
        return outcome

    def _take(self, arrival: _Arrival, outcome: _Outcome) -> None:
        if self._is_ours(arrival):
            for change in arrival.changes:
                outcome.ours[change.name] = change
                var = self.scope.find(change.name)
                if arrival.origin == self.extra.origin and var is not None and var._log in self.trails:
                    self.trails[var._log].again = False
            for segment in (*self.segments, self.extra):
                if segment.origin == arrival.origin:
                    segment.back = arrival.seq + 1
                    self.echoed = max(self.echoed, _NEVER if segment is self.extra else arrival.time)
            return
        outcome.received += 1
        try:
            if len(arrival.changes) == 1:
                self._put(arrival.changes[0], arrival, outcome)
            else:
                self._put_all(arrival, outcome)
        except Exception as error:  # a validator may raise anything
            name = arrival.changes[0].name if len(arrival.changes) == 1 else None
            outcome.letters.append((f"{type(error).__name__}: {error}", arrival.text, name or "several"))

    def _is_ours(self, arrival: _Arrival) -> bool:
        """Tell whether an entry is of our own making, and is still here: a journal may be an old copy."""
        is_fresh = self.owns.get(arrival.origin)
        if is_fresh is not False:
            return is_fresh is True
        found = self.scope.find(arrival.changes[0].name) if arrival.changes else None
        times = () if found is None else found._log.head[2].times
        return (
            found is None
            or found._log.head[2].first > 1
            or arrival.time in times[bisect_left(times, arrival.time) :][:1]
        )

    def _put_all(self, arrival: _Arrival, outcome: _Outcome) -> None:
        """Append the changes of a transaction, all or none, with one time."""
        transaction, part = self.monitor.transaction, _Outcome()
        with _savepoint(transaction, None):
            for change in arrival.changes:
                self._put(change, arrival, part)
        records = [(log, index) for log, indices in part.arrived.items() for index in sorted(indices)]
        transaction.joined.update(records[1:])
        for log, index in records:
            outcome.arrived.setdefault(log, set()).add(index)
        outcome.theirs.update(part.theirs)
        for change in arrival.changes:
            outcome.ours.pop(change.name, None)

    def _put(self, change: _Change, arrival: _Arrival, outcome: _Outcome) -> None:
        label = change.label or f"from {arrival.sender}"
        var = self.monitor._perform(self.append, (change, label))
        outcome.ours.pop(change.name, None)
        if var is not None:
            outcome.note(var, outcome.theirs)

    def _win(self, log: _Log, outcome: _Outcome) -> None:
        """Append ours again where the bus has ordered it after another's, or will."""
        trail, label = self.trails.get(log), "ours again"
        if trail is None:
            return
        try:
            change = outcome.ours.get(trail.var._name)
            if self.is_pending(trail):
                self.monitor._perform(self._bring_back, (trail.var, trail.ours, label))
            elif change is not None:
                self.monitor._perform(self.append, (change, label))
            else:
                return
            outcome.note(trail.var, outcome.again)
        except Exception as error:
            outcome.letters.append((f"{type(error).__name__}: {error}", label, trail.var._name))

    @staticmethod
    def _bring_back(var: AlmaVar[Any], index: int, label: str) -> None:
        var._bring_back(var._writable(), index, label)

    def settle(self, outcome: _Outcome) -> None:
        """Have an outcome count that has been committed."""
        self.look(outcome.arrived)
        for log, index in outcome.theirs.items():
            if log in self.trails:
                self.trails[log].theirs = index
        for log, index in outcome.again.items():
            self.trails[log].ours = index
        for origin, seq in outcome.heard.items():
            self.heard[origin] = seq
            self.heard.move_to_end(origin)
        while len(self.heard) > _ORIGINS:
            self.heard.popitem(last=False)
        self.arrived += self.times(outcome)

    def times(self, outcome: _Outcome) -> List[int]:
        """Return when the records were made that the link has appended."""
        return sorted(log.time(log.head, index) for log, indices in outcome.arrived.items() for index in indices)

    def take_state(self, arrivals: Iterable[_Arrival], forgot: bool) -> _Outcome:
        """Append what the bus says is in force, within a transaction; where it *forgot* ours, not over that."""
        outcome = _Outcome()
        for arrival in arrivals:
            if arrival.damage is not None:
                outcome.letters.append((arrival.damage, arrival.text, None))
            for change in arrival.changes:
                var = self.scope.find(change.name)
                trail = None if var is None else self.trails.get(var._log)
                if trail is None or not (self.is_pending(trail) or (forgot and trail.ours > trail.theirs)):
                    self._put_state(change, arrival, outcome)
        return outcome

    def _put_state(self, change: _Change, arrival: _Arrival, outcome: _Outcome) -> None:
        try:
            var = self.scope.find(change.name)
            if var is None or not self._says(var, change):
                self._put(change, arrival, outcome)
        except Exception as error:  # a validator may raise anything
            outcome.letters.append((f"{type(error).__name__}: {error}", arrival.text, change.name))

    # -- one change

    def append(self, change: _Change, label: str) -> Optional[AlmaVar[Any]]:
        """Append a change by the way of every verb; return the variable, None where there is nothing to do."""
        var = self.scope.find(change.name)
        if var is None:
            return self._make(change, label) if self.scope.may_make(change.name) else None
        if change.kind == "offer" and self._says(var, change):
            return None
        key = self.scope.key(change.name)
        if change.kind == "deletion":
            if key is None:
                raise ValueError("it deletes what is no key of a namespace here")
            var._append(var._writable(), DELETED, label)
        elif change.encoded and var._lacks_middleware():
            var._append(var._writable(), _pack(change.value), label)
        elif key is not None and var._head()[1] is DELETED:
            key[0]._put(key[1], self._stored(var, change), label)
        else:
            var._set(self._stored(var, change), label, None)
        return var

    def differs(self, trail: _Trail, change: _Change) -> bool:
        """Tell whether a variable has another value than a change says."""
        try:
            return not self._says(trail.var, change)
        except Exception:  # whatever a guest may raise
            return True

    def _says(self, var: AlmaVar[Any], change: _Change) -> bool:
        """Tell whether a variable has the value of a change."""
        if change.kind == "deletion" or var._head()[1] is DELETED:
            return change.kind == "deletion" and var._head()[1] is DELETED
        if change.encoded and var._lacks_middleware():
            return _same(_unpack(var._head()[1]), change.value)
        return _same(_unpack(self._stored(var, change)), var._current())

    @staticmethod
    def _stored(var: AlmaVar[Any], change: _Change) -> Any:
        """Return the packed value of a change, as the variable takes it in."""
        value = change.value
        if change.encoded:
            if not var._is_encoded():
                raise ValueError("its value has gone through middleware that is not given here")
            value = var._chain.open(var._head()[0], _pack(value))  # type: ignore[union-attr]
        elif var._schema is not None:
            value = _replaced(value, var._schema._revived, {})
        return var._take_in(value)

    def _make(self, change: _Change, label: str) -> Optional[AlmaVar[Any]]:
        """Make the variable that a change is of, resumed."""
        registry, key = self.scope.registry, self.scope.place(change.name, change.space)
        if registry is None or change.kind == "deletion":
            return None
        if key is None:
            var = registry._watch(change.name, _pack(change.value), _PLAIN_OPTIONS, origin=0)
        else:
            var = self._make_key(change, *key)
        if change.encoded and not var._is_encoded():
            var._chain = _Chain(var._name, (_NOT_GIVEN,), var._pack)
            var._log.reopen(var._opener())
            self.monitor.transaction.look_again(var._log)
            var._be_careful()
        if change.kind != "offer" or change.label is not None:
            var._log.labels[0] = label
        return var

    def _make_key(self, change: _Change, space: AlmaNamespace, key: str) -> AlmaVar[Any]:
        value, middleware = change.value, space._options.middleware
        if change.encoded and not space._resumed:
            chain = _Chain(change.name, middleware, _pack)
            if not chain.decoders:
                raise ValueError("its value has gone through middleware that is not given here")
            value = chain.open(0, _pack(value))
        space._put(_checked_key(key), space._packed(key, value), None)
        return space.var(key)


_NOTHING: AbstractSet[int] = frozenset()


# -- links


class SyncEvent(NamedTuple):
    """What a link tells of itself: a kind, one sentence that says why, and the variable it is about, if one.

    *kind* is 'live', 'lagging', 'resync', 'lost', 'dead letter', 'differs', 'pruned', 'unsent', 'failed' or 'closed'.
    """

    kind: str
    text: str
    name: Optional[str] = None


_COUNTS = "sent", "received", "duplicates", "dead_letters"


class SyncStatus(str):
    """How a link is, in a word: 'live', 'lagging', 'resyncing', 'closed' or 'failed'; and its figures.

    *age* is seconds since the last word from the bus, None before the first; *sent*, *received*, *duplicates* and
    *dead_letters* count entries.
    """

    state: str
    age: Optional[float]
    sent: int
    received: int
    duplicates: int
    dead_letters: int

    def __new__(cls, state: str, age: Optional[float] = None, **counts: int) -> SyncStatus:
        status = super().__new__(cls, state)
        status.__dict__.update(dict.fromkeys(_COUNTS, 0), state=state, age=age, **counts)
        return status


_ROLES: Tuple[str, ...] = "sender", "receiver"
_GRAVE = "failed", "lost", "dead letter", "differs", "pruned", "unsent"  # events that somebody has to hear of
_SOONEST, _LATEST = 0.05, 60.0  # seconds between attempts to reach a bus, from the first to the longest
_SILENCE = 4.0  # seconds without a word from the bus after which a link is no longer live
_DEAD = 100  # dead ones that are kept
_TOGETHER = 200  # entries that are taken under one hold of the lock: 1.2 ms for ints
_LOAD = 500  # entries that travel at once


class SyncLink:
    """What keeps variables the same as those of other processes on a topic of a bus; made by sync().

    Local changes never wait for it. Two threads of its own send and receive until close(), or until the registry is
    closed; they don't keep the process alive. ``with`` closes it. In a fork's child it is closed.
    """

    def __init__(self, scope: _Scope, bus: Any, seal: _Seal, url: str, topic: str) -> None:
        from queue import SimpleQueue

        self._scope, self._bus, self._seal, self._url, self._topic = scope, bus, seal, url, topic
        self._address = _address(url)
        self._monitor, self._pid = scope.monitor, os.getpid()
        self._bell: Any = SimpleQueue()  # may be rung by a signal handler
        self._rung = False
        self._taking = False  # whether what is told of is of the link's own making
        self._gate = threading.Lock()  # held while entries are on the way, so that a resync finds nothing half sent
        self._news = threading.Condition()  # what follows has changed
        self._known = threading.Event()  # whether what the topic had at first is here
        self._hurry = {role: threading.Event() for role in _ROLES}
        self._pauses = dict.fromkeys(_ROLES, 0.0)
        self._troubles: Dict[str, str] = {}  # by role: why it does not get through
        self._end: Optional[Tuple[str, str]] = None  # closed or failed, and why
        self._lost: Optional[str] = "it is new here"  # why the state has to be asked for
        self._opened = self._told_live = False
        self._word: Optional[float] = None
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._letters: Deque[Tuple[str, str]] = deque(maxlen=_DEAD)
        self._listeners: Tuple[Any, ...] = ()
        self._untold: Deque[SyncEvent] = deque(maxlen=_DEAD)
        self._queue: Deque[_Departure] = deque()  # sealed, and not yet known to be ordered
        self._wanted: Deque[Tuple[_Trail, ChangeRecord[Any], str]] = deque()  # what the bus should have and doesn't
        self._settled = _NEVER  # all of ours up to that time is ordered
        self._cursor, self._at, self._number = "", 0, 0  # where we read; its number; that of what was taken last
        self._written = 0.0  # when the cursor went into the journal
        self._key = f"sync:{topic}"  # under which
        self._goal: Optional[int] = None  # the entry that we have to have read to be up to date
        self._deadline: Optional[float] = None  # of what is left to do once the registry is closed
        with self._monitor.lock:
            self._monitor.settle()
            self._begin()
            self._monitor.followers[self] = self._hear

    # -- what others ask

    @property
    def topic(self) -> str:
        """The topic it was given."""
        return self._topic

    @property
    def origin(self) -> str:
        """What the changes made here are known by, from this opening on."""
        return self._replica.segments[-1].origin

    @property
    def status(self) -> SyncStatus:
        """How it is now."""
        age = None if self._word is None else monotonic() - self._word
        return SyncStatus(self._state(age), age, **self._counts)

    def _state(self, age: Optional[float]) -> str:
        if self._pid != os.getpid():
            return "closed"
        if self._end is not None:
            return self._end[0]
        if self._troubles or age is None or age > _SILENCE:
            return "lagging"
        return "live" if self._lost is None else "resyncing"

    @property
    def dead_letters(self) -> List[Tuple[str, str]]:
        """The last entries that could not be taken or sent, oldest first: why, and their text, or the name."""
        return list(self._letters)

    def on_event(self, fn: Callable[[SyncEvent], object]) -> SyncLink:
        """Have *fn* called with each event, on the link's threads, and return the link.

        The first to be given hears of those so far as well.
        """
        if _is_async(fn):
            raise TypeError(f"{fn!r} is async: an event is told of by a plain call")
        self._listeners += _functions("listeners", [fn])
        self._hurry["sender"].set()
        self._ring()
        return self

    def flush(self, timeout: Optional[float] = None) -> None:
        """Return when all that was changed here so far has been ordered by the bus, or is a dead letter.

        TimeoutError after so many seconds; SyncError if the link is closed or has failed before; RuntimeError inside a
        guest or a transaction.
        """
        if _is_busy() or threading.current_thread() in self._threads:
            raise RuntimeError("flush() waits for other threads: call it outside of guests and transactions")
        with self._monitor.lock:
            target = self._monitor.time
        if self._is_open() and not self._wait_until(target, timeout):
            raise TimeoutError(f"not all was ordered by {self._address} within {timeout} s")
        if self._settled < target:
            why = f"is {self._end[0]}: {self._end[1]}" if self._end else f"belongs to process {self._pid}"
            raise SyncError(self._address, f"the link {why}")

    def _wait_until(self, target: int, timeout: Optional[float]) -> bool:
        def is_over() -> bool:
            return self._settled >= target or self._end is not None

        self._ring()
        with self._news:
            return self._news.wait_for(is_over, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Send what is unsent, for at most so many seconds, and end. Closing twice does no harm."""
        if self._pid != os.getpid():
            return
        may_wait = not _is_busy() and threading.current_thread() not in self._threads
        if may_wait and self._end is None:
            self._wait_until(self._monitor.time, timeout)
            self._write_down()
        self._finish("closed", "close() was called")
        for thread in self._threads if may_wait else ():
            thread.join(timeout)

    def __enter__(self) -> SyncLink:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SyncLink({self._address!r}, topic={self._topic!r}, {self.status})"

    # -- telling

    def _tell(self, kind: str, text: str, name: Optional[str] = None) -> None:
        self._untold.append(SyncEvent(kind, text, name))
        if kind in _GRAVE and not self._listeners:  # or it would be lost in silence
            _warn("%r: %s: %s", self, kind, text)
        self._tell_all()

    def _tell_all(self) -> None:
        while self._listeners and self._untold:
            event = self._untold.popleft()
            for listener in self._listeners:
                try:
                    listener(event)
                except Exception:
                    _report("listener %r of a link failed", listener)

    def _bury(self, reason: str, text: str, name: Optional[str] = None) -> None:
        """Keep what can't be taken or sent as a dead letter, and say so."""
        self._counts["dead_letters"] += 1
        self._letters.append((reason, text[:10_000]))
        self._tell("dead letter", reason, name)

    def _finish(self, state: str, reason: str) -> None:
        """End; the first reason counts."""
        with self._news:
            if self._end is not None:
                return
            self._end = state, reason
            self._news.notify_all()
        self._monitor.followers.pop(self, None)
        for event in (self._known, *self._hurry.values()):
            event.set()
        self._bell.put(None)
        self._bus.close()
        with self._monitor.lock:
            self._replica.look()
        if self._queue or self._wanted or self._replica.due:
            self._tell("unsent", "what was changed here last has not reached the bus")
        self._tell(state, reason)

    def _hear(self, var: Optional[AlmaVar[Any]]) -> None:
        """Note what has changed, as a follower of the registry, and wake who sends."""
        if var is None:
            self._replica.renamed = True
        else:
            self._replica.told.add(var._log)
        if not self._taking:
            self._ring()

    def _ring(self) -> None:
        """Wake who sends."""
        if not self._rung:
            self._rung = True
            self._bell.put(None)
        if self._monitor.idle is _CLOSED:
            self._hurry["sender"].set()

    # -- both threads

    def _is_open(self) -> bool:
        return self._end is None and self._pid == os.getpid()

    def _open(self, wait: float) -> None:
        """Start, and wait for the state; SyncError if the bus refuses us."""
        try:
            self._start()
            self._known.wait(wait)
        except BaseException:
            self._finish("closed", "it was interrupted while it opened")
            raise
        if self._end is not None and self._end[0] == "failed":
            raise SyncError(self._address, self._end[1])

    def _start(self) -> None:
        steps = self._send, self._receive
        self._threads = [
            threading.Thread(target=self._work, args=(role, step), name=f"alma sync, {role}", daemon=True)
            for role, step in zip(_ROLES, steps)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, role: str, step: Callable[[], None]) -> None:
        try:
            self._work_on(role, step)
        except BaseException as error:
            _report("a thread of %r failed", self)
            self._finish("failed", f"{type(error).__name__}: {error}")

    def _work_on(self, role: str, step: Callable[[], None]) -> None:
        while self._end is None and not self._is_left(role):
            self._attempt(role, step)

    def _is_left(self, role: str) -> bool:
        """Tell whether there is nothing more to do as the registry is closed; what is unsent is sent for 5 s."""
        if self._monitor.idle is not _CLOSED:
            return False
        self._deadline = self._deadline or monotonic() + 5
        if role == "sender" and (monotonic() > self._deadline or self._settled >= self._monitor.time):
            self._finish("closed", "its registry is closed")
        return role == "receiver"

    def _attempt(self, role: str, step: Callable[[], None]) -> None:
        """Take a step; wait after one that failed for a reason that may pass."""
        try:
            step()
            self._got_through(role)
        except (_Away, JournalError) as error:
            if isinstance(error, _Untrusted) and self._word is None:
                self._finish("failed", str(error))
            elif self._end is None:
                self._pause(role, str(error))
        except _Refused as error:
            self._finish("failed", str(error))
        except _Lost as error:
            self._lost = str(error)
        except FrozenError as error:
            if not error.closed:
                raise

    def _pause(self, role: str, reason: str) -> None:
        import random

        self._stumble(role, reason)
        pause = min(_LATEST if self._deadline is None else 1.0, 2 * self._pauses[role] or _SOONEST)
        self._pauses[role] = pause
        self._hurry[role].wait(pause * random.uniform(0.5, 1.0))
        self._hurry[role].clear()

    def _stumble(self, role: str, reason: str) -> None:
        is_new, self._told_live = not self._troubles, False
        self._troubles[role] = reason
        if is_new:
            self._tell("lagging", reason)

    def _got_through(self, role: str) -> None:
        if self._pauses[role]:
            self._pauses[role] = 0.0
            for other in _ROLES:
                if other != role:
                    self._hurry[other].set()
        self._troubles.pop(role, None)
        if not self._told_live and not self._troubles and self._lost is None and self._end is None:
            self._told_live = True
            self._tell("live", "the bus is heard, and hears us")

    # -- the thread that sends

    def _send(self) -> None:
        """Send what there is, or wait for it."""
        self._tell_all()  # what was told before there was a listener
        if self._lost is None and self._send_some():
            return
        try:
            self._bell.get(timeout=_PATIENCE if self._deadline is None else _SOONEST)
        except Exception:  # queue.Empty, which would have to be imported
            self._mind_silence()
        self._rung = False  # first: what comes from here on rings again

    def _mind_silence(self) -> None:
        if self._word is not None and monotonic() - self._word > _SILENCE and "receiver" not in self._troubles:
            self._stumble("receiver", f"for {_SILENCE:g} s nothing from the bus has been taken")

    def _send_some(self) -> bool:
        """Send what is ready; tell whether there was something."""
        with self._gate:
            if self._lost is not None:
                return False
            horizon = self._fill()
            batch = self._batch()
            if batch:
                origin = batch[0].origin
                self._acknowledge(batch, self._bus.send(origin, [departure.sent for departure in batch]))
            with self._news:
                self._settled = max(self._settled, self._queue[0].time - 1 if self._queue else horizon)
                self._news.notify_all()
        return bool(self._queue or self._replica.due or self._wanted)

    def _batch(self) -> List[_Departure]:
        """Return the departures to send next: of one origin, and not too many bytes."""
        batch: List[_Departure] = []
        size = 0
        for departure in islice(self._queue, _LOAD):
            size += len(departure.sent.text)
            if batch and (departure.origin != batch[0].origin or size > _LARGEST):
                break
            batch.append(departure)
        return batch

    def _acknowledge(self, batch: List[_Departure], answers: List[str]) -> None:
        for answer in answers:
            if answer == "gap":
                self._lost = "the bus does not know what it has had of us"
                return
            self._queue.popleft()
            self._counts["sent"] += 1

    def _fill(self) -> int:
        """Make departures of what has to travel; return the time up to which there is nothing more of it."""
        if len(self._queue) >= _LOAD:
            return _NEVER
        with self._monitor.lock:
            self._monitor.settle()
            self._replica.look()
            for trail in self._replica.strays:
                self._want(trail, "offer")
            self._replica.strays.clear()
            wanted = list(islice(self._wanted, _LOAD))
            records, gone = self._replica.take_due(_LOAD)
            horizon = records[-1][0] if records and self._replica.due else self._monitor.time
        for trail in filter(gone.get, gone):
            self._tell("pruned", f"{gone[trail]} records were pruned before they could be sent", trail.var._name)
        for trail, record, kind in wanted:
            self._depart(self._replica.extra, record._time, [(trail, record, kind)])
            self._wanted.popleft()  # last: while it waits or is on its way, a journal keeps no place
        groups: Dict[int, List[Any]] = {}
        for made, trail, record in records:
            groups.setdefault(made, []).append((trail, record, "offer" if record.index == trail.offer else "set"))
        for made, group in groups.items():
            self._depart(self._segment(made), made, group)
        return _NEVER if self._wanted else horizon

    def _want(self, trail: _Trail, kind: str) -> None:
        """Have the bus told the newest value of a variable."""
        record = trail.log.record(trail.log.head, trail.log.head[0] - 1)
        if record is not None and not (kind == "offer" and _is_deletion(record)):
            self._wanted.append((trail, record, kind))
            trail.again = trail.again or kind == "set"

    def _segment(self, time: int) -> _Segment:
        """Return the segment of what was made at a time."""
        return next(segment for segment in self._replica.segments if segment.until is None or time <= segment.until)

    def _depart(self, segment: _Segment, time: int, group: List[Tuple[_Trail, ChangeRecord[Any], str]]) -> None:
        """Queue changes of one time as an entry; a dead letter where they have no form, or one that is too large."""
        last = {trail: position for position, (trail, _, _) in enumerate(group)}
        try:
            parts = [
                self._seal.part(trail, record, kind)
                for position, (trail, record, kind) in enumerate(group)
                if kind != "offer" or last[trail] == position
            ]
            departure = _Departure(time, parts)
            self._seal.seal(departure, segment)
        except CodecError as error:
            self._give_up([trail for trail, _, _ in group], time, str(error))
            return
        self._queue.append(departure)
        if segment is not self._replica.extra:
            self._replica.sent = time
            for trail, _, kind in group:
                trail.sent = trail.sent if kind == "offer" else time

    def _give_up(self, trails: List[_Trail], time: int, reason: str) -> None:
        """Keep changes here alone."""
        with self._monitor.lock:
            for trail in trails:
                trail.local, trail.again = trail.sent if trail.local == time else trail.local, False
        names = sorted({trail.var._name for trail in trails})
        self._bury(f"not sent: {reason}", ", ".join(names), names[0] if len(names) == 1 else None)
        for name in names:
            self._tell("differs", f"what it was set to has not been sent: {reason}", name)

    # -- the thread that receives

    def _receive(self) -> None:
        """Take what comes, or wait for it."""
        if self._lost is not None:
            self._resync(self._lost)
        if self._goal is None:  # the journal said where to go on
            self._goal, self._word = self._bus.state(())[1], monotonic()
        if self._number >= (self._goal or 0):
            self._known.set()
        cursor, entries = self._bus.read(self._cursor, self._at)
        self._word = monotonic()
        numbers = [number for number, _, _ in entries if number is not None]
        if entries:
            kept = [entry for entry in entries if entry[0] is None or entry[0] > self._number]
            self._counts["duplicates"] += len(entries) - len(kept)
            arrivals = [self._seal.read(number, refused, text) for number, refused, text in kept]
            for start in range(0, len(arrivals), _TOGETHER):
                self._take(arrivals[start : start + _TOGETHER])
        self._cursor, self._at = cursor, numbers[-1] if numbers else self._at
        if entries and self._monitor.journal is not None and monotonic() - self._written > _PATIENCE:
            self._write_down()

    def _take(self, arrivals: List[_Arrival]) -> None:
        """Take entries, all in one transaction; one by one where a value of theirs keeps it from being written."""
        try:
            self._commit(partial(self._replica.take, arrivals))
        except (CodecError, JournalError) as error:
            if isinstance(error, JournalError) and "too big" not in error.reason:
                raise
            if len(arrivals) > 1:
                for arrival in arrivals:
                    self._take([arrival])
                return
            self._number = arrivals[0].number or self._number
            self._bury(str(error), arrivals[0].text)

    def _commit(self, step: Callable[[], _Outcome]) -> None:
        """Run a step that appends what came from elsewhere, all or nothing, and tell of it."""
        monitor, replica = self._monitor, self._replica
        with monitor.lock:
            monitor.settle()
            if monitor.idle is _CLOSED:
                raise FrozenError("a link", closed=True)
            replica.look()
            if replica.is_quiet():
                self._begin_anew()
            try:
                self._taking = True
                with _whole_or_not(monitor, None, apart=True):
                    outcome = step()
                    if outcome.arrived:  # else it can wait
                        monitor.idle.beside = partial(self._memo, outcome)
            finally:
                self._taking = False
            replica.settle(outcome)
            if replica.due or replica.strays:
                self._ring()
            self._number = self._number if outcome.number is None else outcome.number
            self._counts["received"] += outcome.received
            self._counts["duplicates"] += outcome.duplicates
        self._follow_up(outcome)

    def _follow_up(self, outcome: _Outcome) -> None:
        for reason, text, name in outcome.letters:
            self._bury(reason, text, name)
            if name is not None:
                self._tell("differs", f"a value from another process was refused here: {reason}", name)
        try:
            self._monitor.deliver(_NEVER)
        except BaseException:  # SystemExit; the thread has to go on
            _report("a listener tried to end a thread of %r", self)

    def _begin_anew(self) -> None:
        """Note that all of ours has come back."""
        self._replica.echoed, self._replica.arrived = self._monitor.time, []

    # -- where we are in the topic, kept in the journal

    def _begin(self) -> None:
        """Go on where the journal says that we were, or begin."""
        self._replica = replica = _Replica(self._scope)
        journal = self._monitor.journal
        text = None if journal is None else journal.kept(self._key)
        kept: Dict[str, Any] = {} if text is None else _parse(text)
        known = replica.begin(kept.get("echoed", self._monitor.time), kept.get("arrived", ()))
        if known:  # else it can't be told which of an origin's entries is which
            replica.segments = [_Segment(*segment) for segment in kept.get("segments", ())]
        for segment in replica.segments[-1:]:
            segment.until = self._monitor.time
        replica.segments.append(replica.own())
        replica.owns = {**dict.fromkeys(kept.get("origins", ()), False), **replica.owns}
        if "cursor" in kept:
            self._cursor, self._at, self._number = kept["cursor"], kept["at"], kept["number"]
            self._lost = None
        self._write_down()

    def _memo(self, outcome: Optional[_Outcome] = None) -> Tuple[str, str]:
        """Return the key and the text under which the journal keeps where we are, once an outcome counts."""
        replica = self._replica
        arrived = replica.arrived + ([] if outcome is None else replica.times(outcome))
        number = self._number if outcome is None or outcome.number is None else outcome.number
        facts: Dict[str, Any] = {
            "echoed": replica.echoed,
            "segments": [[one.origin, one.back, one.until] for one in replica.open_segments()],
            "origins": list(replica.owns)[-_OWN_ORIGINS:],
            "arrived": [time for time in arrived if time > replica.echoed],
        }
        sent_again = not self._wanted and replica.extra.back == replica.extra.left
        if self._lost is None and sent_again:  # else the state has to be asked for once more
            facts.update(cursor=self._cursor, at=self._at, number=number)
        return self._key, _text(facts)

    def _write_down(self) -> None:
        """Write where we are into the journal, if there is one."""
        self._written, monitor = monotonic(), self._monitor
        with monitor.lock:
            monitor.settle()
            if monitor.journal is not None and monitor.idle is not _CLOSED:
                self._replica.look()
                if self._replica.is_quiet():
                    self._begin_anew()
                with _whole_or_not(monitor, None):
                    monitor.idle.beside = self._memo

    # -- starting from the state

    def _resync(self, reason: str) -> None:
        """Take the state of the bus, and let it know what it has not."""
        with self._gate:
            replica = self._replica
            asked = [segment.origin for segment in (*replica.segments, replica.extra)]
            cursor, number, lasts, state = self._bus.state(asked)
            if self._opened:
                self._tell("resync", reason)
            forgot = self._compare(lasts)
            if forgot:
                self._tell("lost", f"the bus has lost what it had of us: {reason}; what is in force here is sent again")
            arrivals = [self._seal.read(0, (), text) for text in state.values()]
            for start in range(0, len(arrivals), _TOGETHER):
                self._commit(partial(replica.take_state, arrivals[start : start + _TOGETHER], forgot))
            self._fill_up({change.name: change for arrival in arrivals for change in arrival.changes}, forgot)
            self._cursor, self._at, self._number, self._goal = cursor, number, number, number
            self._lost, self._opened = None, True
            self._write_down()
        self._word = monotonic()
        self._ring()

    def _compare(self, lasts: Mapping[str, int]) -> bool:
        """Note which of our entries the bus has; tell whether it has lost some, which gives us new origins."""
        replica = self._replica
        with self._monitor.lock:
            self._monitor.settle()
            replica.look()
            unseen = [
                one
                for one in self._queue
                if one.segment is not replica.extra and one.sent.seq > lasts.get(one.origin, -1)
            ]
            replica.echoed = max(replica.echoed, unseen[0].time - 1 if unseen else replica.sent)
            for segment in replica.segments:
                segment.back = segment.left - sum(one.segment is segment for one in unseen)
            forgot = any(lasts.get(one.origin, -1) + 1 < one.back for one in replica.open_segments())
            replica.segments = [replica.own()] if forgot else replica.segments
            replica.extra = replica.own()
            self._wanted.clear()
            for trail in replica.trails.values():
                trail.again = False
        for departure in unseen if forgot else ():
            self._seal.seal(departure, replica.segments[0])
        self._queue = deque(unseen)
        return forgot

    def _fill_up(self, said: Mapping[str, _Change], forgot: bool) -> None:
        """Have the bus told what it has not, of what the state says."""
        replica = self._replica
        with self._monitor.lock:
            self._monitor.settle()
            replica.look()
            for trail in replica.trails.values():
                change, ours = said.get(trail.var._name), forgot and trail.ours > trail.theirs
                if (
                    not trail.due
                    and not replica.is_pending(trail)
                    and (change is None or (ours and replica.differs(trail, change)))
                ):
                    self._want(trail, "set" if ours else "offer")


_OWN_ORIGINS = 20  # that a journal remembers
_links: Set[weakref.ref[SyncLink]] = set()


def _links_after_fork() -> None:
    _MemoryBus.topics.clear()
    for link in [reference() for reference in _links.copy()]:
        if link is not None:
            link._monitor.followers.pop(link, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_links_after_fork)


def sync(
    what: Union[AlmaRegistry, AlmaNamespace, AlmaVar[Any], Iterable[AlmaVar[Any]]],
    url: str,
    *,
    topic: str = "alma",
    secret: Union[str, bytes, None] = None,
    token: Optional[str] = None,
    types: _Types = (),
    wait: float = 5.0,
    keep: int = 100_000,
) -> SyncLink:
    """Keep variables the same as those of other processes on a topic, and return the link that does it.

    *what* is a registry, a namespace, a variable or a list of variables of one registry; branches travel where a list
    names them. *url* says where the bus is: redis:// rediss:// unix:// memory://, the last within this process. The
    last writer in the order of the bus wins. What the topic has comes first; unknown names become variables, which the
    first watch() of the name takes. *secret* signs what is sent and refuses what is not signed so, *token* is shown to
    a hub, *types* are the classes that values may be of, *keep* is about how many entries the bus keeps. Waits at most
    *wait* seconds for the topic's state; without a bus the link is 'lagging' and goes on trying. SyncError if the bus
    refuses us, ValueError for another url, or a topic or secret that can't be one, MissingDependencyError without the
    extra.

    >>> here, there = AlmaRegistry(), AlmaRegistry()
    >>> score = here.watch("score", 1)
    >>> with sync(here, "memory://example") as link, sync(there, "memory://example"):
    ...     link.flush()
    ...     there.watch("score", 0).wait(2 if score.set(2) else None).label[:5]
    'from '
    """
    if _is_busy():
        raise RuntimeError("sync() waits for a bus: call it outside of guests and transactions")
    if not isinstance(wait, (int, float)) or not 0 <= wait <= threading.TIMEOUT_MAX:
        raise ValueError(f"wait= is for how many seconds at most to wait for the topic's values, not {wait!r}")
    if not isinstance(topic, str) or not topic or set("{}\r\n") & set(topic):
        raise ValueError(f"a topic is a str of at least one character, without braces, not {topic!r}")
    scope = _Scope(what)
    open_links = [link for link in (reference() for reference in _links.copy()) if link is not None and link._is_open()]
    if any(link._monitor is scope.monitor and (link._url, link._topic) == (url, topic) for link in open_links):
        raise ValueError(
            f"these variables are on the topic {topic!r} of {_address(url)} already: close() that link first"
        )
    bus = _bus_of(url, topic, token, _whole("keep", keep, 1))
    codec = _Codec({**scope.monitor.types, **_classes(types)}, forms=scope.monitor.forms)
    link = SyncLink(scope, bus, _Seal(codec, secret), url, topic)
    _links.add(weakref.ref(link, _links.discard))
    link._open(wait)
    return link


# -- over WebSocket
#
# A message is a line of JSON, and then the texts that it is about, a line each: they travel as they are. A client that
# says "send" gets "answers"; one that says "follow" gets the "state", unless it says where it is, and from then on
# "news", which are a beat when there are none.

_LARGEST_MESSAGE = 1 << 24  # bytes: the largest entry may be of 20,000 variables, with a text of 300 for each
_PORTION = 1 << 17  # characters of a message, where one entry is not more: it gets through slow lines, too
_MOST_TEXTS = 1 << 16
_LONGEST_TOPIC = 200
_LARGEST_BACKLOG, _LARGEST_STATE = 1 << 26, 1 << 28  # characters of a topic
_HALF_OPEN = 256  # connections that are not let in yet; with one more, the oldest goes. 100 come at once
_MOMENT, _BEAT = 0.05, 1.0  # seconds
_GRACE = 5.0  # seconds for a handshake, a first word, and for a message to get through
_DEAF = 3.5  # seconds without a beat after which a client takes the hub to be away
_SILENT = 20.0  # seconds after which a client is asked whether it is there, and in which it has to answer
_QUIET = 60.0  # seconds in which a hub says once that it has turned somebody away, and why
_LEAVING, _POLICY, _TOO_BIG, _FAULT, _LATER, _RESYNC = 1001, 1008, 1009, 1011, 1013, 4001  # codes of a close
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}


class _Full(Exception):
    """Raised by a hub that has no room for more."""


class _Unfit(Exception):
    """Raised where a message is none that a hub understands."""


_CODES: Dict[Any, int] = {_Full: _LATER, _Lost: _RESYNC, _Unfit: _POLICY}


class _Asked(NamedTuple):
    """What a client wants of a hub: to send entries to a topic, or to follow it."""

    topic: str
    origin: str = ""
    entries: Optional[List[_Sent]] = None  # None where it follows
    origins: Sequence[str] = ()
    place: Optional[Tuple[str, int]] = None  # epoch and number; without them it begins with the state


def _message(head: Dict[str, Any], texts: Iterable[str] = ()) -> str:
    return "\n".join([_text(head), *texts])


def _split(message: Any) -> Tuple[Dict[str, Any], List[str]]:
    """Return the head of a message and the texts behind it; TypeError or ValueError for what is none."""
    if not isinstance(message, str) or message.count("\n") > _MOST_TEXTS:
        raise ValueError(f"a message is text, and has at most {_MOST_TEXTS:,} lines")
    line, *texts = message.split("\n")
    head = _parse(line)
    if type(head) is not dict:
        raise ValueError("a message begins with an object")
    return head, texts


def _portions(given: Iterable[Tuple[_T, Sequence[str]]]) -> Iterator[List[_T]]:
    """Yield things, each given with its texts, in lists of a size that gets through quickly."""
    portion: List[_T] = []
    size = 0
    for thing, texts in given:
        length = sum(map(len, texts)) + 100 * len(texts)
        if portion and (size + length > _PORTION or len(portion) == _SLICE):
            yield portion
            portion, size = [], 0
        portion.append(thing)
        size += length
    if portion:
        yield portion


def _texts_of(entry: _Sent) -> List[str]:
    """Return the texts that a message has for an entry: its own, and those of its pieces that are others."""
    return [entry.text, *(text for _, _, text in entry.pieces if text != entry.text)]


def _sending(topic: str, origin: str, entries: Iterable[_Sent]) -> str:
    heads = [[it.seq, [[name, kind, text != it.text] for name, kind, text in it.pieces]] for it in entries]
    texts = (text for entry in entries for text in _texts_of(entry))
    return _message({"send": topic, "origin": origin, "entries": heads}, texts)


def _request(message: Any) -> _Asked:
    """Return what a message asks for; _Unfit for one that can't be understood, or says what is not so."""
    try:
        head, texts = _split(message)
        topic = head["send" if "send" in head else "follow"]
        if type(topic) is not str or not 0 < len(topic) <= _LONGEST_TOPIC:
            raise ValueError(f"a topic is a text of at most {_LONGEST_TOPIC} characters")
        if "send" in head:
            origin = str(head["origin"])
            return _Asked(topic, origin, _entries_sent(origin, head["entries"], iter(texts)))
        place = (str(head["epoch"]), _whole("n", head["n"], 0)) if "epoch" in head else None
        return _Asked(topic, origins=[str(one) for one in head.get("origins", ())], place=place)
    except (LookupError, TypeError, ValueError) as error:
        raise _Unfit(f"not understood: {type(error).__name__}: {error}") from None


def _entries_sent(origin: str, heads: Any, texts: Iterator[str]) -> List[_Sent]:
    made = []
    for seq, pieces in heads:
        text = next(texts, "")
        made.append(_Sent(seq, text, [(name, kind, next(texts, "") if own else text) for name, kind, own in pieces]))
        _check_pieces(made[-1], origin)
    if next(texts, None) is not None:
        raise ValueError("there are more texts than the message says")
    return made


def _check_pieces(entry: _Sent, origin: str) -> None:
    """Raise ValueError unless each piece is one of the changes in an entry, alone in its own text."""
    said = _changes_said(entry.text, origin, entry.seq)
    all_said = set(said)  # there may be twenty thousand
    for name, kind, text in entry.pieces:
        alone = said if text is entry.text else _changes_said(text, origin, entry.seq)
        if type(name) is not str or alone != [(name, kind)] or (name, kind) not in all_said:
            raise ValueError("an entry is of other changes than its message says")


def _changes_said(text: str, origin: str, seq: Any) -> List[Tuple[Any, Any]]:
    """Return names and kinds of the changes in the text of an entry, which has to be of that origin and number."""
    if len(text) > _LARGEST:
        raise ValueError(f"an entry has more than {_LARGEST:,} characters")
    entry = _parse(text)["entry"]
    if _whole("seq", seq, 0) >= 1 << 53 or (entry["origin"], entry["seq"]) != (origin, seq):
        raise ValueError("an entry is of another origin or number than its message says")
    return [(change["name"], change["kind"]) for change in entry["changes"]]


class _Followed:
    """A topic of a hub, and the bells of those who follow it. What one of them is told is made for all."""

    __slots__ = ("backlog", "bells", "size", "state", "told", "topic")

    def __init__(self, backlog: int) -> None:
        self.topic, self.backlog = _Topic(sys.maxsize), backlog  # it is cut here: by its size, too
        self.bells: Set[Any] = set()
        self.size = self.state = 0  # characters of the backlog, and of the newest state
        self.told = (-1, -1, "")  # behind which entry, up to which, the message

    def take(self, origin: str, entries: List[_Sent]) -> List[str]:
        """Order entries, keep them, and wake the followers."""
        if self.state > _LARGEST_STATE:
            raise _Full(f"the state of this topic has over {_LARGEST_STATE:,} characters")
        names = {name for entry in entries for name, _, _ in entry.pieces}
        before, self.state = self.topic.count, self.state - self._length(names)
        answers = self.topic.take(origin, entries)
        self.state += self._length(names)
        backlog = self.topic.backlog
        self.size += sum(len(text) for _, _, text in islice(reversed(backlog), self.topic.count - before))
        while len(backlog) > self.backlog or self.size > _LARGEST_BACKLOG:
            self.size -= len(backlog.popleft()[2])
        for bell in self.bells:
            bell.set()
        return answers

    def _length(self, names: Iterable[str]) -> int:
        return sum(len(self.topic.newest.get(name, "")) for name in names)

    def news(self, number: int) -> Tuple[int, str]:
        """Return the number up to which a message tells what came after an entry, and the message."""
        if self.told[0] != number or self.told[1] == number:
            entries = next(_portions((it, it[2:]) for it in self.topic.since(number)), [])
            head = {"news": [[each, refused] for each, refused, _ in entries], "n": number + len(entries)}
            self.told = number, number + len(entries), _message(head, (text for _, _, text in entries))
        return self.told[1:]

    def opening(self, origins: Iterable[str]) -> Tuple[int, Iterator[str]]:
        """Return the number of the newest entry, and the messages that tell the state after it."""
        epoch, number, known, newest = self.topic.state(origins)
        portions: List[List[str]] = list(_portions((name, [name, text]) for name, text in newest.items())) or [[]]
        head = {"epoch": epoch, "n": number, "origins": known}
        return number, (
            _message({**head, "state": names, "more": at < len(portions)}, map(newest.__getitem__, names))
            for at, names in enumerate(portions, 1)
        )


class _Client:
    """One connection of a hub. It is answered here; what it follows is sent to it by a task of its own."""

    __slots__ = ("bell", "followed", "follower", "hub", "socket")

    def __init__(self, hub: Hub, socket: Any) -> None:
        self.hub, self.socket, self.bell = hub, socket, _asyncio().Event()
        self.followed: Optional[_Followed] = None

    async def serve(self) -> None:
        """Answer until the client has gone, or has to go."""
        try:
            await self.or_dismiss(self.converse)
        finally:
            if self.followed is not None:
                self.followed.bells.discard(self.bell)
                self.follower.cancel()

    async def or_dismiss(self, work: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Await *work*; what ends it closes the connection, and is the reason."""
        code, reason = _LATER, "too slow, or silent"
        try:
            await work(*args)
        except _of_extra("websocket", "websockets.exceptions").ConnectionClosed:
            return
        except _asyncio().TimeoutError:
            pass
        except (_Full, _Lost, _Unfit) as error:
            code, reason = _CODES[type(error)], str(error)
        except Exception:
            _report("a hub could not serve a client")
            code, reason = _FAULT, "the hub failed"
        await self.dismiss(code, reason)

    async def dismiss(self, code: int, reason: str) -> None:
        """Close the connection; who does not take the reason in time goes without it."""
        closing = self.socket.close(code, reason.encode("utf-8", "replace")[:120].decode("utf-8", "ignore"))
        try:
            await _asyncio().wait([_asyncio().ensure_future(closing)], timeout=_BEAT)
        finally:
            self.socket.transport.abort()

    async def say(self, message: str) -> None:
        await _asyncio().wait_for(self.socket.send(message), _GRACE)

    async def converse(self) -> None:
        if len(self.hub._clients) > self.hub._most_clients:
            raise _Full(f"the hub has {self.hub._most_clients} clients")
        await self.answer(_request(await _asyncio().wait_for(self.socket.recv(), _GRACE)))
        async for message in self.socket:
            await self.answer(_request(message))

    async def answer(self, asked: _Asked) -> None:
        followed = self.hub._followed(asked.topic)
        if asked.entries is not None:
            await self.say(_message({"answers": followed.take(asked.origin, asked.entries)}))
        elif self.followed is not None:
            raise _Unfit("a connection follows one topic")
        else:
            self.followed = followed
            followed.bells.add(self.bell)  # now: a topic without one may be forgotten
            self.follower = _asyncio().ensure_future(self.or_dismiss(self.follow, followed, asked))

    async def follow(self, followed: _Followed, asked: _Asked) -> None:
        """Send what comes, as fast as this client takes it, until it is gone."""
        number = await self.begin(followed, asked)
        while True:
            self.bell.clear()
            number, message = followed.news(number)
            await self.say(message)
            if number == followed.topic.count:
                await self.rung()

    async def rung(self) -> None:
        """Return when something has come, or a beat is due."""
        try:
            await _asyncio().wait_for(self.bell.wait(), _BEAT)
        except _asyncio().TimeoutError:
            pass

    async def begin(self, followed: _Followed, asked: _Asked) -> int:
        """Return the number of the entry behind which the client is, after telling it the state if need be."""
        if asked.place is None:
            number, messages = followed.opening(asked.origins)
            for message in messages:
                await self.say(message)
            return number
        if asked.place[0] != followed.topic.epoch:
            raise _Lost("the hub was started anew, and has nothing of what it had")
        return asked.place[1]


class Hub:
    """A bus for those without Redis: orders what links send, keeps it in memory, passes it on over WebSocket.

    An async context manager, that listens at *host* and *port* within its block; port 0 is a free one, and `port` says
    which. Each client has to know the *token*, which a hub that others than this machine can reach must have. Pages
    have to be of one of *origins*. *names* are those under which it is reached besides its address and *host*, as
    behind a reverse proxy, whose part TLS is. Of each topic it keeps the newest state and the last *backlog* entries.
    So many *clients* and *topics* are let in; a link is two clients. ValueError for a token or an origin that is none.
    OSError where it can't listen. Needs the extra websocket.

    >>> Hub("0.0.0.0")
    Traceback (most recent call last):
        ...
    ValueError: others can reach '0.0.0.0': give the hub a token (token=, --token-file), by secrets.token_urlsafe()
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8765,
        *,
        token: Optional[str] = None,
        origins: Iterable[str] = (),
        names: Iterable[str] = (),
        backlog: int = 10_000,
        clients: int = 500,
        topics: int = 100,
    ) -> None:
        if token is None and not _is_loopback(host):
            raise ValueError(
                f"others can reach {host!r}: give the hub a token (token=, --token-file), by secrets.token_urlsafe()"
            )
        self.host, self.port = host, _whole("port", port, 0)
        self._token, self._origins = _checked_token(token), {_checked_origin(origin) for origin in origins}
        self._names = {_checked_host(name) for name in names}
        self._backlog = _whole("backlog", backlog, 1)
        self._most_clients, self._most_topics = _whole("clients", clients, 1), _whole("topics", topics, 1)

    async def __aenter__(self) -> Hub:
        from socket import gaierror

        self._topics: Dict[str, _Followed] = {}
        self._clients: Set[_Client] = set()
        self._half_open: Dict[Any, None] = {}
        self._turned_away: Dict[str, Tuple[float, int]] = {}  # by reason: when it was last said, how many since
        try:
            self._server = await self._listen()
        except gaierror as error:
            raise gaierror(error.errno, f"{self.host}: {error.strerror}") from None
        _lengthen_queues(self._server.sockets)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _listen(self) -> Any:
        server = _of_extra("websocket", "websockets.asyncio.server")
        return await server.serve(
            self._serve,
            self.host or None,
            self.port,
            process_request=self._admit,
            select_subprotocol=lambda _, offered: "alma" if "alma" in offered else None,
            create_connection=partial(self._meet, server.ServerConnection),
            server_header=None,
            compression=None,
            open_timeout=_GRACE,
            close_timeout=_BEAT,
            ping_interval=_SILENT,
            ping_timeout=_SILENT,
            max_size=_LARGEST_MESSAGE,
            max_queue=2,
            logger=_silent_logger(),
        )

    async def __aexit__(self, *exception: object) -> None:
        self._server.close(close_connections=False)  # it would give no reason
        await _asyncio().gather(*(client.dismiss(_LEAVING, "the hub ends") for client in self._clients))
        ended = _asyncio().ensure_future(self._server.wait_closed())
        while not ended.done():
            for connection in list(self._half_open):
                self._hang_up(connection)
            for client in self._clients:  # some may just have been let in
                client.socket.transport.abort()
            await _asyncio().wait([ended], timeout=_MOMENT)

    def _meet(self, kind: Any, *args: Any, **options: Any) -> Any:
        """Make a connection. Only so many that ask for nothing are kept, the newest of them."""
        connection = kind(*args, **options)
        self._half_open[connection] = None
        if len(self._half_open) > _HALF_OPEN:
            self._hang_up(next(iter(self._half_open)))
        return connection

    def _hang_up(self, connection: Any) -> None:
        transport = getattr(connection, "transport", None)
        if transport is not None:  # else the loop has yet to turn: it is one of the newest
            del self._half_open[connection]
            transport.abort()

    def _admit(self, connection: Any, request: Any) -> Any:
        """Return the answer to a request that is turned away, or None."""
        fault = self._fault(request, connection.local_address)
        if fault is None:
            self._half_open.pop(connection, None)  # who is turned away stays among them: it may be slow to go
            return None
        status, reason, what = fault
        self._say_once(reason, f"{(connection.remote_address or '?')[0]}: {reason}{what}")
        return connection.respond(status, f"{reason}\n")

    def _fault(self, request: Any, address: Any) -> Optional[Tuple[int, str, str]]:
        """Return for which status and reason a request is turned away, and what the log is told besides."""
        hosts, origins = map(request.headers.get_all, ("Host", "Origin"))
        if "?" in request.path:
            return 400, "The address of a hub has no query: a token travels in a header.", ""
        if len(hosts) != 1 or not self._is_called(hosts[0], *address[:2]):
            return 403, "This Host is none of the hub's names.", f" {hosts!a:.200}"
        if origins and (len(origins) > 1 or origins[0].lower() not in self._origins):
            return 403, "Pages of this Origin are not let in.", f" {origins!a:.200}"
        if self._token is not None and not any(_is_same(self._token, one) for one in _tokens_in(request.headers)):
            return 401, "The token is missing or wrong.", ""
        return None

    def _say_once(self, reason: str, text: str) -> None:
        """Log who was turned away, for each reason once in a while: strangers could fill a log."""
        said, since = self._turned_away.get(reason, (-_QUIET, 0))
        if monotonic() - said < _QUIET:
            self._turned_away[reason] = said, since + 1
            return
        self._turned_away[reason] = monotonic(), 0
        _warn("a hub turned away %s%s", text, f" (as it did {since:,} others since it last said so)" * (since > 0))

    def _is_called(self, host: str, address: str, port: int) -> bool:
        """Tell whether a Host is this hub: a page may have come under a name of its own, and had that lead here."""
        name, asked = _host_and_port(host)
        own, ip = {address if ":" not in address else f"[{address}]"}, _ip(address)
        if ip is not None and ip.is_loopback:
            own |= _LOOPBACK
        if self.host and _ip(self.host) is None:
            own.add(self.host.lower())
        return name in self._names or (name in own and asked == port)

    async def _serve(self, connection: Any) -> None:
        client = _Client(self, connection)
        self._clients.add(client)
        try:
            await client.serve()
        finally:
            self._clients.discard(client)

    def _followed(self, topic: str) -> _Followed:
        """Return a topic, made if there is none; _Full where others are in use."""
        if topic not in self._topics and len(self._topics) >= self._most_topics:
            unused = (name for name, it in self._topics.items() if not it.topic.count and not it.bells)
            if self._topics.pop(next(unused, ""), None) is None:
                raise _Full(f"the hub has {self._most_topics} topics")
        return self._topics.get(topic) or self._topics.setdefault(topic, _Followed(self._backlog))


def _ip(text: str) -> Any:
    """Return the address that a text is, or None."""
    from ipaddress import ip_address

    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    ip = _ip(host)
    return host.lower() == "localhost" or (ip is not None and bool(ip.is_loopback))


def _host_and_port(host: str) -> Tuple[str, int]:
    """Return what a Host says in lower case; an empty name for one that is damaged."""
    import re

    found = re.fullmatch(r"([^\s:\[\]]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?", host.lower())
    return (found[1], int(found[2] or 80)) if found else ("", 0)


def _checked_host(name: str) -> str:
    if not _host_and_port(name)[0] or _host_and_port(name)[0] != name.lower():
        raise ValueError(f"a name of a hub is like hub.example.com, not {name!r}")
    return name.lower()


def _checked_origin(origin: str) -> str:
    import re

    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#]+", origin.lower()):
        raise ValueError(f"an origin is like https://example.com, without a path, not {origin!r}")
    return origin.lower()


def _checked_token(token: Optional[str]) -> Optional[str]:
    import re

    if token is not None and not re.fullmatch(r"[A-Za-z0-9._~-]+", token):
        raise ValueError("a token is of letters, digits, - . _ and ~, such as secrets.token_urlsafe() makes")
    return token


def _tokens_in(headers: Any) -> List[str]:
    """Return the tokens of a request: browsers can't set headers, but name subprotocols."""
    bearers = [value[7:] for value in headers.get_all("Authorization") if value[:7].lower() == "bearer "]
    offered = ",".join(headers.get_all("Sec-WebSocket-Protocol")).replace(" ", "").split(",")
    return bearers + [name[11:] for name in offered if name.startswith("alma.token.")]


def _is_same(token: str, given: str) -> bool:
    from hmac import compare_digest

    return compare_digest(token.encode(), given.encode("utf-8", "surrogateescape"))


def _lengthen_queues(plugs: Iterable[Any]) -> None:
    """Have the system hold more callers than are taken at once: one that it drops comes again after a second."""
    from socket import fromfd

    for plug in plugs:
        with fromfd(plug.fileno(), plug.family, plug.type) as same:
            same.listen(1_024)


def _silent_logger() -> Any:
    import logging

    return logging.Logger("alma hub", logging.CRITICAL + 1)  # strangers could fill a log; what fails here is reported


class _Socket:
    """A connection to a hub, which one thread uses; any may cut it."""

    def __init__(self, host: str, port: int, url: str, token: Optional[str]) -> None:
        from socket import create_connection

        client = _of_extra("websocket", "websockets.sync.client")
        raw = create_connection((host, port), timeout=_GRACE)  # by ourselves: no proxy, no redirection
        self.socket = client.connect(
            url,
            sock=raw,
            compression=None,
            open_timeout=_GRACE,
            close_timeout=_BEAT,
            max_size=_LARGEST_MESSAGE,
            additional_headers={"Authorization": f"Bearer {token}"} if token else {},
        ).__enter__()
        self.heard = monotonic()
        self.place: Any = None  # epoch and number up to which it has been read

    def hear(self, timeout: float) -> Tuple[Dict[str, Any], List[str]]:
        """Return the next message; TimeoutError if none comes in time."""
        message = _split(self.socket.recv(timeout))
        self.heard = monotonic()
        return message

    def cut(self) -> None:
        """End it, whoever is waiting in it."""
        try:
            self.socket.socket.shutdown(2)  # first: to send a farewell would wait for what can't be sent
        except OSError:
            pass  # it has ended by itself
        self.socket.close()


class _SocketBus:
    """The bus that a hub is, for a link: a connection to send with, and one to follow with."""

    def __init__(self, url: str, topic: str, token: Optional[str], keep: int) -> None:
        from urllib.parse import urlsplit

        _of_extra("websocket", "websockets")
        parts = urlsplit(url)
        if parts.query or parts.fragment or "@" in parts.netloc or not parts.hostname:
            raise ValueError("the address of a hub is like ws://127.0.0.1:8765; token= takes the token")
        self.url, self.topic, self.token = url, topic, _checked_token(token)
        self.host, self.port = parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)
        self.gate = threading.Lock()  # guards the two below
        self.wires: Dict[str, _Socket] = {}
        self.closed = False

    def send(self, origin: str, entries: Sequence[_Sent]) -> List[str]:
        """Have entries ordered; return "ok", "seen" or "gap" for each, and nothing for those after a gap."""
        answers: List[str] = []
        for portion in _portions((entry, _texts_of(entry)) for entry in entries):
            if "gap" in answers:
                break
            with self._wire("send") as wire:
                wire.socket.send(_sending(self.topic, origin, portion))
                said = wire.hear(6 * _GRACE)[0]  # what was sent may take its time, and read() notices a hub that hangs
                answers += map(str, _listed(said["answers"]))
        return answers

    def state(self, origins: Sequence[str]) -> Tuple[str, int, Dict[str, int], Dict[str, str]]:
        """Return where a topic is, the last sequence of those of our origins that it knows, and its newest state."""
        self._drop("follow")
        with self._wire("follow") as wire:
            wire.socket.send(_message({"follow": self.topic, "origins": list(origins)}))
            head, newest = self._whole_state(wire)
            wire.place = head["epoch"], head["n"]
            return head["epoch"], head["n"], {str(one): int(seq) for one, seq in head["origins"].items()}, newest

    def _whole_state(self, wire: _Socket) -> Tuple[Dict[str, Any], Dict[str, str]]:
        messages = [wire.hear(_GRACE)]
        while messages[-1][0]["more"]:
            messages.append(wire.hear(_GRACE))
        return messages[-1][0], {
            str(name): text for head, texts in messages for name, text in zip(_listed(head["state"]), texts)
        }

    def read(self, cursor: str, number: int) -> Tuple[str, List[_Numbered]]:
        """Return the cursor and what came after it, or nothing after about a second."""
        if self._place() != (cursor, number):
            self._drop("follow")
        with self._wire("follow") as wire:
            if wire.place is None:
                wire.socket.send(_message({"follow": self.topic, "epoch": cursor, "n": number}))
                wire.place = cursor, number
            return cursor, self._news(wire, number)

    def _news(self, wire: _Socket, number: int) -> List[_Numbered]:
        try:
            head, texts = wire.hear(_BEAT)
        except TimeoutError:
            if monotonic() - wire.heard > _DEAF:
                self._drop("send")  # who sends may wait for ever
                raise _Away(f"no word from the hub for {_DEAF} s") from None
            return []
        numbers = [each for each, _ in head["news"]]
        if numbers != list(range(number + 1, number + 1 + len(texts))) or head["n"] != number + len(texts):
            raise _Lost(f"after entry {number} the hub tells of {len(texts)} up to {head['n']}")
        wire.place = wire.place[0], head["n"]
        return [(each, [str(name) for name in refused], text) for (each, refused), text in zip(head["news"], texts)]

    def close(self) -> None:
        """End both connections; whoever uses one finds the hub away."""
        with self.gate:
            self.closed = True
        self._drop("send")
        self._drop("follow")

    def _place(self) -> Any:
        with self.gate:
            return self.wires["follow"].place if "follow" in self.wires else None

    def _drop(self, use: str) -> None:
        with self.gate:
            wire = self.wires.pop(use, None)
        if wire is not None:
            wire.cut()

    @contextmanager
    def _wire(self, use: str) -> Generator[_Socket, None, None]:
        """Give a connection for a use; whatever fails there ends it, and is one of a bus's errors."""
        try:
            yield self._opened(use)
        except BaseException as error:
            self._drop(use)
            if not isinstance(error, Exception):
                raise
            raise self._meaning(error) from error

    def _opened(self, use: str) -> _Socket:
        with self.gate:
            known = self.wires.get(use)
        wire = known or _Socket(self.host, self.port, self.url, self.token)
        with self.gate:
            if not self.closed:
                self.wires[use] = wire
                return wire
        wire.cut()
        raise _Away("it is closed")

    def _meaning(self, error: Any) -> Any:
        """Return what an error means to a link."""
        errors = _of_extra("websocket", "websockets.exceptions")
        if isinstance(error, errors.ConnectionClosed) and error.rcvd is not None:
            kind = {_RESYNC: _Lost, _POLICY: _Refused, _TOO_BIG: _Refused}.get(error.rcvd.code, _Away)
            return kind(error.rcvd.reason or f"the hub has closed the connection ({error.rcvd.code})")
        if isinstance(error, errors.InvalidStatus):
            response = error.response
            reason = (response.body or b"").decode("utf-8", "replace").strip()[:200]
            kind = _Refused if response.status_code in (400, 401, 403) else _Away
            return kind(reason or f"HTTP status {response.status_code}")
        if isinstance(error, (errors.WebSocketException, OSError, EOFError)):
            return _away(str(error) or type(error).__name__, error)
        if isinstance(error, (LookupError, TypeError, ValueError)):
            return _Away(f"no hub answers there: {type(error).__name__}: {error}")
        return error


_BUSES.update(ws=_SocketBus, wss=_SocketBus)
# == Timeline: HTML page, notebook widget =====================================
#
# Knows records, and draws them: a value becomes a tree that JSON holds, and each further one the changes to the last.
# One view, in JavaScript, serves page and notebook. Nothing that a value says runs or reaches the network: it goes in
# as text, and the page's own policy allows this view and nothing else. _repr_html_ is a still picture, without script.

_LONGEST_TEXT = 2_000  # characters of a value, name or label that are looked at to show it
_DEEPEST_SHOWN = 100
_MOST_SHOWN = 5_000  # parts of a value that are drawn
_MOST_OF_ONE = 1_000  # parts of one container
_MOST_TEXT = 200_000  # characters of a value; further texts are cut to 40
_PAGE_SIZE = 16_000_000  # characters of all records together, were each drawn whole
_FEWEST_RECORDS, _MOST_RECORDS = 100, 10_000  # of a variable on a page, whatever their size


def _escaped(text: str, encoding: str = "utf-8", escape: Callable[[str], str] = ascii) -> str:
    """Return text in which each character that is not printable, or not of the encoding, is escaped."""

    def shown(text: str) -> bool:
        return text.isprintable() and text.encode(encoding, "ignore").decode(encoding) == text

    return text if shown(text) else "".join(c if shown(c) else escape(c)[1:-1] for c in text)


def _value(record: ChangeRecord[Any]) -> Any:
    """Return a record's value, or the error that stands in its way: it is shown instead."""
    try:
        return record.value
    except AlmaError as error:
        return error


def _pieces(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield what repr(value) would say, piece by piece: who reads on decides how much of it is made."""
    kind, fields = type(value), _field_names(value)
    if depth == _DEEPEST_SHOWN or not (fields or (value and (kind in _PARTED or kind is deque))):
        yield _short_repr(value) if depth < _DEEPEST_SHOWN else "..."
        return
    begin, end = "()" if kind is tuple or fields else "[]" if kind in (list, deque) else "{}"
    if kind not in (dict, list, tuple, set):
        begin, end = (kind.__name__ + begin, end) if fields else (f"{kind.__name__}({begin}", f"{end})")
    in_order = kind in _BY_MEMBER and {*map(type, value)} == {str}
    for number, part in enumerate(fields or (sorted(value) if in_order else value)):
        yield ", " if number else begin
        if fields:
            yield f"{part}=" * (kind is not Unresolved)
            part = getattr(value, part, DELETED)
        elif kind in _BY_KEY:
            yield from _pieces(part, depth + 1)
            yield ": "
            part = value[part]
        yield from _pieces(part, depth + 1)
    yield "," * (kind is tuple and len(value) == 1) + end


def _field_names(value: Any) -> Tuple[str, ...]:
    """Return the names of the fields of a dataclass, namedtuple, pydantic model or Unresolved; none of others."""
    if type(value) is Unresolved:
        return ("name", "data")
    if is_dataclass(type(value)):
        return tuple(field.name for field in fields_of(type(value)))
    asked = (getattr(type(value), name, None) for name in ("_fields", "model_fields"))
    return next((tuple(names) for names in asked if isinstance(names, (dict, tuple))), ())


def _short_repr(value: Any) -> str:
    """Return the repr of what has no parts, cut before it is made where it could be long."""
    if type(value) in (str, bytes, bytearray):
        return repr(value[:_LONGEST_TEXT]) + "..." * (len(value) > _LONGEST_TEXT)
    if type(value) is int and value.bit_length() > 2_000:  # Python may refuse that many decimals
        return f"{hex(value >> (value.bit_length() - 400))}... ({value.bit_length()} bits)"
    try:
        text = f"<{value}>" if isinstance(value, AlmaError) else repr(value)
    except Exception:  # of a class that --types or --trust let in; or a Fraction of too many digits
        text = f"<{type(value).__name__}>"
    return text[:_LONGEST_TEXT]


def _brief(value: Any, most: int = _LONGEST_TEXT) -> str:
    """Return repr(value), or its beginning, a little more than *most* characters."""
    text = ""
    for piece in _pieces(value):
        if len(text) > most:
            return text + "..."
        text += piece
    return text


# -- drawing: what the view is told


_SIMPLE = frozenset((str, int, float, bool, bytes, type(None)))
_AROUND: Dict[type, str] = {list: "[]", tuple: "()", dict: "{}"}  # of other containers, behind their name


class _Drawing:
    """Draws a value as a tree: a text, [kind, part, ...] or {"": kind, key: part, ...}, no larger than is looked at.

    A kind ends in the brackets around the parts: "{}", "deque[]", "Point()". A key begins with ":" in a dict, "." where
    it is a field, and "*" where it is a member of a set, whose part is 0.
    """

    def __init__(self) -> None:
        self.parts, self.characters = _MOST_SHOWN, _MOST_TEXT
        self._within: Set[int] = set()  # the containers around

    def draw(self, value: Any) -> Any:
        """Return the tree of a value."""
        kind = type(value)
        if kind in _SIMPLE:  # four in five; asking them for fields takes longer than their text
            return self.text(value)
        names = () if kind in _PARTED else _field_names(value)
        if not names and kind not in _PARTED and kind is not deque:
            return self.text(value)
        if id(value) in self._within or len(self._within) == _DEEPEST_SHOWN - 2:
            return "..."
        self._within.add(id(value))
        try:
            return self._container(value, names)
        finally:
            self._within.remove(id(value))

    def _container(self, value: Any, names: Tuple[str, ...]) -> Any:
        kind, size = type(value), len(names or value)
        most = min(size, self.parts, _MOST_OF_ONE)
        self.parts -= most
        rest = [f"... and {size - most:,} more"] * (most < size)
        if not names and kind not in _BY_KEY and kind not in _BY_MEMBER:
            return [_AROUND.get(kind, f"{kind.__name__}[]"), *map(self.draw, islice(value, most)), *rest]
        parts: Iterable[Tuple[str, Any]]
        if names:
            parts = [(f".{_clean(name)}", self.draw(_field(value, name))) for name in names[:most]]
        elif kind in _BY_KEY:
            parts = [(f":{_key_text(key)}", self.draw(value[key])) for key in islice(value, most)]
        else:
            parts = [(key, 0) for key in sorted(f"*{_key_text(part)}" for part in islice(value, most))]
        tree: Dict[str, Any] = {"": _AROUND.get(kind, f"{_clean(kind.__name__)}{'()' if names else '{}'}")}
        for key, part in [*parts, *((f"*{text}", 0) for text in rest)]:
            tree[f"{key} ({len(tree)})" if key in tree else key] = part
        return tree

    def text(self, value: Any) -> str:
        """Return the text of what has no parts."""
        most = _LONGEST_TEXT if self.characters > _LONGEST_TEXT else max(40, self.characters)
        if type(value) not in (str, bytes, bytearray):
            text = _short_repr(value)[: most + 2]
        elif len(value) <= most:
            text = repr(value)
        else:
            text = f"{value[:most]!r}... and {len(value) - most:,} more"
        self.characters -= len(text)
        return _clean(text)


def _key_text(key: Any) -> str:
    """Return the text of a key or a member of a set, which has no parts of its own."""
    return _clean(repr(key) if type(key) is str and len(key) <= 200 else _brief(key, 200))


def _clean(text: str) -> str:
    """Return text, cut, in which all but what is printable and the ends of lines is escaped."""
    text = text if len(text) <= 2 * _LONGEST_TEXT else text[: 2 * _LONGEST_TEXT] + "..."
    return text if text.isascii() and text.isprintable() else "\n".join(map(_escaped, text.split("\n")))


def _field(value: Any, name: str) -> Any:
    """Return a field of a value; what stands in its place if it can't be read."""
    try:
        return getattr(value, name, DELETED)
    except Exception as error:  # a property of the owner's
        return error


def _as_float(value: Any) -> Optional[float]:
    """Return the finite number that a value is, be it a Decimal or an array's scalar; None if it is none."""
    kind = type(value)
    if kind is bool or not hasattr(kind, "__float__") or hasattr(kind, "__len__"):
        return None
    try:
        number = float(value)
    except Exception:  # of a class of the owner's; or it is too large
        return None
    return number if abs(number) < float("inf") else None


class _Track:
    """What the view is told of one variable: columns, to which records are added; a value as changes to the last."""

    def __init__(self, name: str, number: int = 0) -> None:
        self.name, self.number = _clean(name), number  # two names may look the same
        self.count = self.pruned = self.shown = 0
        self.last = -1  # the index of the newest record that was added
        self.most = _MOST_RECORDS
        self.each = 40  # characters of a record, were it drawn whole
        self.whole = True
        self._tree: Any = None
        self._begin()

    def _begin(self) -> None:
        self.index: List[int] = []
        self.time: List[float] = []
        self.steps: List[Any] = []
        self.labels: Dict[int, str] = {}
        self.floats: Dict[int, float] = {}

    def add(self, record: ChangeRecord[Any]) -> None:
        """Add a record. O(size of its value)."""
        value, at = _value(record), len(self.index)
        tree = _Drawing().draw(value)
        self.index.append(record.index)
        self.time.append(_nanoseconds(record) / 1e6)
        self.steps.append(tree if type(tree) is str else _told_step(compare_values({"": self._tree}, {"": tree})))
        if record.label is not None:
            self.labels[at] = _clean(record.label)
        number = _as_float(value)
        if number is not None and type(value) not in (int, float):  # whose text says it to JavaScript as well
            self.floats[at] = number
        self._tree, self.last = tree, record.index
        self.shown += 1

    def take(self) -> Dict[str, Any]:
        """Return what was added since the last time; places of labels and floats count from its first record."""
        names = "name", "number", "whole", "count", "pruned", "index", "time", "steps", "labels", "floats"
        columns = {name: getattr(self, name) for name in names}
        columns["note"] = self._note()
        self.whole = False
        self._begin()
        return columns

    def _note(self) -> str:
        """Return what is to be said of the records that are not shown."""
        gone = f"Records 1 to {self.pruned} are no longer kept. " * (self.pruned > 0)
        return gone + f"{self.shown} of {self.count} records are shown." * (self.shown < self.count)


_SIGN_OF = {"add": "+", "remove": "−", "replace": "~"}


def _told_step(changes: Iterable[Change], depth: int = 0) -> List[Any]:
    """Return changes part by part: [key, sign, new, old], where the sign "•" says that *new* is such a list itself."""
    step: List[Any] = []
    for (key, is_within), some in groupby(changes, lambda change: (change.path[depth], len(change.path) > depth + 1)):
        if is_within:
            step.append([key, "•", _told_step(some, depth + 1)])
        else:
            step += [[key, _SIGN_OF[change.op], change.new, *[change.old] * (change.op != "add")] for change in some]
    return step


def _track(name: str, records: Sequence[ChangeRecord[Any]], size: int, number: int = 0) -> _Track:
    """Return the track of a variable's records: of all, or of evenly chosen ones that fit into *size*."""
    from json import dumps

    last = len(records) - 1
    some = [records[last * i // 7] for i in range(8)]
    track = _Track(name, number)
    track.each = sum(40 + len(dumps(_Drawing().draw(_value(record)))) for record in some) // 8
    track.most = max(_FEWEST_RECORDS, min(_MOST_RECORDS, size // track.each))
    track.count = len(records)
    if last and records[1].index > 1:
        track.pruned = records[1].index - 1
    for record in _thinned(records, track.most):
        track.add(record)
    return track


def _thinned(records: Sequence[ChangeRecord[Any]], most: int) -> Sequence[ChangeRecord[Any]]:
    """Return at most so many records: the first, the last, those with a label if that leaves half, others evenly."""
    last = len(records) - 1
    if last < most:
        return records
    noted = [place for place, record in enumerate(records) if record.label is not None]
    noted = noted if len(noted) <= most // 2 else []
    rest = most - len(noted)
    return [records[place] for place in sorted({*noted, *(last * i // (rest - 1) for i in range(rest))})]


# -- the view
#
# almaView(root, model) draws into an element and returns a function that ends it. The model is anywidget's, of which
# it uses get, set, save_changes, send, on and off:
#
#     get("data")                {title, many, markup, timelines, next}, asked for once: a _Track's take() for each
#                                variable; *many* says that it is a namespace or registry, even of one
#     "index"                    the record shown, where the newest not after it is; either side sets it, and the view
#                                follows change:index. None is the newest. Not if many
#     "moment"                   the same if many: milliseconds since 1970
#     get("actions")             texts of the buttons that the host offers, such as "restore", "undo", "redo"; with
#                                "branch here" comes a field for a name. None on a page
#     send({action, index or moment, name})
#                                a button was pressed
#     "news", "news0" to "news99"
#                                records have come: the number of the newest message from *next* on, and the messages
#                                {number, whole, timelines}: what take() returned of variables, known or new by theirs
#     send({action: "again"})    some messages were missed: one of the whole is asked for
#     msg:custom {said, error}   what became of the button that was pressed last: a text, shown from now on
#
# Who looks at the newest record goes on to do so; others stay where they are. A page offers get() alone.
#
# A value is a tree as _Drawing draws it, and shown as a list that unfolds. A step, which leads from one to the next, is
# a text in place of the whole, or a list as _told_step returns it; what it changes is marked with a sign, a colour, and
# a word for those who see neither. The slider goes over stops: records of a lone variable, or the moments at which one
# of several changed. In the script "at" counts a track's records from 0, and "place" and "stop" count stops.

_VIEW_HTML = """\
<div class=panel>
  <p></p>
  <input type=range min=0 aria-label={trait}>
  <div class=bar><button value=Home aria-label=first>«</button><button value=ArrowLeft aria-label=back>‹</button>\
<button value=" " class=play>Play</button><button value=ArrowRight aria-label=forward>›</button>\
<button value=End aria-label=last>»</button><select aria-label=speed>{speeds}</select>\
<select aria-label="go to a label"></select><input placeholder=name aria-label="name of the branch"></div>
  <p role=alert></p>
</div>
<{box}>
  <{top}><{head}></{head}><div class=value></div><div class=facts></div>
    <div class=chart><svg viewBox="0 0 1000 100" preserveAspectRatio=none aria-hidden=true><path /></svg>
      <div class=high></div><div class=low></div><div class=cursor></div><div class=dot></div><div class=marks></div>
    </div>
  </{top}>
  <div class=body></div>
</{box}>
"""

_VIEW_CSS = """\
body.alma { max-width: 1080px; margin: 0 auto; padding: clamp(14px, 4vw, 40px); }
.alma { --dim: light-dark(#57606a, #a3adb8); --line: light-dark(#2c5fc4, #86b4ff); --rule: 1px solid #8886;
  color: CanvasText; background: Canvas; font: 13px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums;
  :is([data-jp-theme-light=false], [data-vscode-theme-kind$=dark], .dark, [theme=dark]) & { color-scheme: dark; }
  * { box-sizing: border-box; margin: 0; overflow-wrap: anywhere; } h2 { display: inline; font-size: 16px; }
  .facts, p { color: var(--dim); min-height: 1.5em; } mark { padding: 1px 8px; margin-right: 8px; }
  code, summary > .value, li > b { font: 13px/1.65 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
  code, .value { white-space: pre-wrap; } header > .value { font-size: clamp(20px, 4vw, 34px); line-height: 1.3; }
  .chart { position: relative; height: 30px; margin: 20px 8px 6px; border-bottom: var(--rule); }
  header > .line { height: clamp(120px, 24vh, 220px); } svg { width: 100%; height: 100%; overflow: visible; }
  path { fill: none; stroke: var(--line); stroke-width: 1.7; vector-effect: non-scaling-stroke; }
  .chart > *, .marks > * { position: absolute; color: var(--dim); font: 11px/1 system-ui; pointer-events: none; }
  .high { top: -5px; } .low { bottom: 3px; } .marks { inset: -15px 0 auto; } .cursor, .dot { left: var(--at); }
  .cursor { inset-block: -6px 0; border-left: 1px solid; } .dot { margin: -5px; border: 5px solid; border-radius: 5px; }
  .marks > * { translate: -50%; padding: 6px 3px; border: 0; pointer-events: auto; background: var(--sign); }
  .panel { position: sticky; top: 0; z-index: 1; padding: 4px 0 12px; background: inherit; accent-color: var(--line); }
  .bar { display: flex; flex-wrap: wrap; gap: 8px; } .bar > * { height: 32px; min-width: 34px; max-width: 150px;
    padding: 0 9px; border: var(--rule); border-radius: 7px; font: inherit; color: inherit; background: #8882; }
  button, summary, .chart { cursor: pointer; } div > details:has(> .body) { border-top: var(--rule); padding: 12px 0; }
  p:empty, [open] > summary > .value, :not([value$=here]) + [placeholder], .panel:has(+ :empty) { display: none; }
  ul { list-style: none; padding: 0; } li { position: relative; padding-left: 22px; }
  .short { content-visibility: auto; contain-intrinsic-height: 1.65em; } [type=range] { width: 100%; height: 26px; }
  li > b { position: absolute; left: 6px; } li > i { position: absolute; clip-path: inset(50%); }
  .added { --sign: #0a5; } .removed, del, .wrong { --sign: #e44; } .changed, .replaced, mark, .marks { --sign: #e90; }
  .added, .removed, .replaced, mark { background: color-mix(in srgb, var(--sign) 14%, Canvas); border-radius: 4px; }
  b, mark, del, .wrong { color: color-mix(in srgb, var(--sign) 45%, CanvasText); } code > span { color: var(--dim); }
  [title=initial] { display: none; } .play { min-width: 74px; color: Canvas; background: var(--line); } }
"""

_VIEW_JS = """\
function almaView(root, model) {
  const {title, many, markup, timelines, next} = model.get("data"), actions = model.get("actions") ?? [];
  const fill = (element, ...parts) => { element.append(...parts); return element; };  // what is said goes in as text
  const make = (kind, facts, ...parts) => fill(Object.assign(document.createElement(kind), facts), ...parts);
  const apply = (node, changes) => {  // to a copy, which shares all that does not change
    const isList = Array.isArray(node), copy = isList ? [...node] : {...node};
    for (const [key, sign, told] of changes) {
      if (sign === "−") isList ? copy.splice(key, 1) : delete copy[key];
      else if (sign === "+" && isList) copy.splice(key, 0, told);
      else copy[key] = sign === "•" ? apply(copy[key], told) : told;
    }
    return copy;
  };
  const count = changes => changes.reduce((sum, [, sign, told]) => sum + (sign === "•" ? count(told) : 1), 0);
  const name = key => /^[:.]/.test(key) ? `${key.slice(1)}: ` : key > 0 ? `${key - 1}: ` : "";
  const partsOf = node => Object.entries(node).slice(1).map(([key, part]) => [key, part === 0 ? key.slice(1) : part]);
  const around = (node, text) => (node[0] ?? node[""]).replace(/.$/, end => text + end);  // "[]", "{}", "Point()"
  const textOf = node => typeof node === "string" ? node : around(node, partsOf(node).map(([key, part]) =>
    `${Array.isArray(node) ? "" : name(key)}${textOf(part)}`).join(", "));
  const brief = (node, most, text = textOf(node)) => text.length > most ? `${text.slice(0, most)}…` : text;
  const words = {"+": "added", "−": "removed", "~": "replaced", "•": "changed", "": ""};
  const isShort = element => element.matches("code") && element.textContent.length < 40;  // on one line most likely
  const item = (sign, part) => make("li", {className: words[sign] + (isShort(part) ? " short" : "")},
    make("b", {ariaHidden: "true"}, sign), make("i", {}, `${words[sign]} `), part);
  const code = (key, ...parts) => make("code", {}, make("span", {}, name(key)), ...parts);
  const gone = (node, key) => make("del", {}, brief(node === 0 ? key.slice(1) : node, 200));
  const row = (track, key, node, [sign = "", told, old] = [], path = "", isFew = true) => {
    const was = sign === "•" ? told.find(([key]) => !key)?.[3] : old;  // its kind, or the whole
    const text = code(key, ...(was === undefined ? [] : [gone(was), " → "])), at = `${path}\t${key}`;
    if (typeof node === "string") return item(sign, fill(text, node));
    const parts = partsOf(node), few = parts.length <= 12;
    const open = track.open[at] ?? (sign === "•" || !path || (few && isFew));
    const onclick = () => { track.open[at] = !open; show(track, true); return false; };  // in every record
    const changes = open && sign === "•" ? told : [], lost = changes.filter(([, sign]) => sign === "−");
    const marks = Object.fromEntries(changes.map(([key, ...change]) => [key, change[0] === "−" ? [] : change]));
    const rows = open ? parts.map(([key, part]) => row(track, key, part, marks[key], at, few)) : [];
    lost.forEach(([key, sign, , old], more) =>  // of a list: where it was
      rows.splice(key > 0 ? key - 1 + more : rows.length, 0, item(sign, code(key, gone(old, key)))));
    fill(text, make("span", {}, open ? around(node, ` ${parts.length} `) : brief(node, 90)));
    return item(sign, make("details", {open}, make("summary", {onclick, id: at}, text), make("ul", {}, ...rows)));
  };
  const [panel, blank] = new DOMParser().parseFromString(markup, "text/html").body.children;
  const [moment, slider, bar, answer] = panel.children, [, , toggle, , , speed, labels, field] = bar.children;
  const [trait, column] = many ? ["moment", "time"] : ["index", "index"], list = make("div", {}), tracks = new Map();
  let stops = [], stop = 0, frame = 0, timer = 0, untold = false, due = next, isLost = false;
  const last = () => stops.length - 1, share = at => at / Math.max(1, last());
  const before = (column, value) => column.findLastIndex(each => each <= value);
  const when = ms => {  // local time and age
    const local = new Date(ms - new Date(ms).getTimezoneOffset() * 6e4).toISOString(), age = (Date.now() - ms) / 1e3;
    const [n, unit] = [[86400, "days"], [3600, "hours"], [60, "minutes"]].find(([n]) => age >= 2 * n) ?? [1, "seconds"];
    return `${local.slice(0, -1).replace("T", " ")} · ${Math.max(0, Math.floor(age / n))} ${unit} ago`;
  };
  const go = (to, tell = true) => {  // once a frame is drawn where it is by then
    [stop, untold, frame] = [Math.max(0, Math.min(last(), to)), untold || tell, frame || requestAnimationFrame(draw)];
  };
  const play = on => {
    clearInterval(timer);
    if (on && stop >= last()) go(0);
    timer = on && setInterval(() => stop < last() && root.isConnected ? go(stop + 1) : play(false), 1e3 / speed.value);
    toggle.textContent = on ? "Pause" : "Play";
  };
  const move = to => { play(false); go(to); return false; };
  const send = action => model.send({action, [trait]: stops[stop], name: field.value});
  const keys = {" ": () => play(!timer), Home: () => move(0), ArrowLeft: () => move(stop - 1),
    ArrowRight: () => move(stop + 1), End: () => move(last())};
  root.onkeydown = event => {
    const others = `select, [placeholder]${event.key === " " ? ", button, summary" : ""}`;
    const isOthers = event.ctrlKey || event.metaKey || event.altKey || event.target.closest(others);
    if (event.key in keys && !isOthers) { event.preventDefault(); keys[event.key](); }
  };
  bar.onclick = ({target}) => target.matches("button") && (keys[target.value] ?? send)(target.value);
  speed.onchange = () => timer && play(true);
  slider.oninput = labels.onchange = ({target}) => target.value && move(+target.value);
  field.before(...actions.map(value => make("button", {value}, value)));
  const begin = (number, name) => {
    const box = blank.cloneNode(true), find = part => box.querySelector(part), track = {name, box, find, open: {}};
    find("h1, h2").append(name), list.append(box);
    box.ontoggle = () => show(track, true);
    find(".chart").onclick = ({target, offsetX: x}) => move(target.to ?? Math.round(x / target.clientWidth * last()));
    return tracks.set(number, track).get(number);
  };
  const add = ({number, name, labels, floats, steps, index, time, whole, ...rest}) => {  // to a track, or a new one
    const track = tracks.get(number) ?? begin(number, name);
    if (whole) Object.assign(track, {index: [], time: [], steps: [], trees: [], numbers: [], labels: {}});
    for (const at in labels) track.labels[track.trees.length + +at] = labels[at];
    steps.forEach((told, at) => {
      const was = track.trees.at(-1), step = Array.isArray(told) ? told : told === was ? [] : [["", "~", told, was]];
      track.steps.push(step), track.trees.push(apply({"": was}, step)[""]);
      track.numbers.push(floats[at] ?? Number(track.trees.at(-1) || NaN));  // NaN of what has parts
    });
    Object.assign(track, rest, {shown: null, index: track.index.concat(index), time: track.time.concat(time)});
  };
  const paint = (track, placeOf) => {  // a line of numbers, or bars that grow with what has changed
    const {steps, numbers, labels, find} = track, places = track[column].map(value => placeOf.get(value));
    const good = numbers.filter(Number.isFinite), isLine = 2 * good.length > steps.length;
    const low = Math.min(...good), high = Math.max(...good), span = high / 2 - low / 2;  // of halves: never infinite
    const bounds = isLine && !many ? [high, low] : ["", ""];
    const scale = n => Number.isFinite(n) ? Math.round(960 - 920 * (span ? (n / 2 - low / 2) / span : 0.5)) / 10 : NaN;
    const height = at => isLine ? scale(numbers[at]) : 84 - 12 * Math.min(6, Math.log2(1 + count(steps[at])));
    const line = places.map((place, at) => {
      const x = Math.round(1e4 * share(place)) / 10, y = height(at), isOn = isLine && at && height(at - 1) >= 0;
      return (isOn ? `H${x}` : y >= 0 ? `M${x} ${isLine ? y : 100}` : "") + (y >= 0 ? `V${y}` : "");
    });
    find("path").setAttribute("d", line.join("") + (isLine && height(numbers.length - 1) >= 0 ? "H1000" : ""));
    find(".chart").classList.toggle("line", isLine);
    [find(".high").textContent, find(".low").textContent] = bounds.map(n => n && +n.toPrecision(6));
    find(".marks").replaceChildren(...Object.entries(labels).slice(-500).map(([at, title]) =>  // keys have the list
      make("button", {title, to: places[at], tabIndex: -1, style: `left: ${100 * share(places[at])}%`})));
    Object.assign(track, {places, scale});
  };
  const arrange = () => {  // after records have come
    const atEnd = stop >= last(), was = stops[stop], all = [...tracks.values()];
    stops = [...new Set(all.flatMap(track => track[column]))].sort((one, other) => one - other);
    const placeOf = new Map(stops.map((value, place) => [value, place]));
    for (const track of all) paint(track, placeOf);
    const every = all.flatMap(({name, labels, places}) => Object.entries(labels).map(([at, text]) =>
      [places[at], many ? `${name}: ${text}` : text]));
    const newest = every.sort(([one], [other]) => one - other).slice(-500), first = ["", `labels: ${every.length}`];
    labels.replaceChildren(...[first, ...newest].map(([value, text]) => make("option", {value}, text)));
    go(atEnd ? last() : before(stops, was), atEnd);
  };
  const show = (track, again) => {
    const {box, find, trees, steps, index, time, numbers, note, pruned, labels} = track;
    const at = before(track[column], stops[stop]), now = trees[at] ?? "not there yet";
    if (at === track.shown && !again) return;
    track.shown = at;
    const changes = at < 1 ? [] : steps[at];
    const lost = index[at] > pruned ? "" : " · no longer kept";
    const since = at < 1 ? "" : `${lost} · changes since record ${index[at - 1]}: ${count(changes)}`;
    const facts = at < 0 ? "" : `record ${index[at]} of ${index[0]} to ${index.at(-1)} · ${when(time[at])}${since}`;
    find(".value").textContent = many || typeof now === "string" ? brief(now, 300) : "";
    find(".facts").replaceChildren(...(labels[at] ? [make("mark", {}, labels[at])] : []), facts);
    find(".dot").style = Number.isFinite(numbers[at]) ? `top: ${track.scale(numbers[at])}%` : "display: none";
    if (many && !box.open) return;
    const active = root.getRootNode().activeElement, held = box.contains(active) && active.id;
    find(".body").replaceChildren(make("ul", {}, row(track, "", now, changes[0]?.slice(1))), make("p", {}, note));
    if (held) (find(`#${CSS.escape(held)}`) ?? slider).focus({preventScroll: true});
  };
  const draw = () => {
    frame = 0;
    if (last() < 0) return;
    tracks.forEach(track => show(track));
    labels.value = stop, labels.selectedIndex = Math.max(0, labels.selectedIndex);  // the title, if need be
    moment.textContent = many ? when(stops[stop]) : "";
    const said = many ? [moment] : list.querySelectorAll("header > .value:not(:empty), header > .facts");
    Object.assign(slider, {max: last(), value: stop, ariaValueText: [...said].map(it => it.textContent).join(", ")});
    root.style.setProperty("--at", `${100 * share(stop)}%`);
    if (untold) { untold = false; model.set?.(trait, stops[stop]); model.save_changes?.(); }
  };
  const follow = () => go(before(stops, model.get(trait) ?? Infinity), false);
  const take = () => {  // what has come; the whole if some of it was missed
    for (const newest = model.get("news"); due <= newest; due++) {
      const news = model.get(`news${due % 100}`), isNext = news?.number === due && (news.whole || !isLost);
      if (isNext) news.timelines.forEach(add);
      else if (!isLost) model.send({action: "again"});
      isLost = !isNext;
    }
    arrange();
  };
  const say = ({said, error}) => { [answer.textContent, answer.className] = [error || said, error ? "wrong" : ""]; };
  const heard = Object.entries({[`change:${trait}`]: follow, "change:news": take, "msg:custom": say});
  root.classList.add("alma");
  root.addEventListener("focusin", ({target}) => { target.dataset.lmSuppressShortcuts = ""; });  // or Jupyter's act
  timelines.forEach(add);
  root.append(...(many ? [make("h1", {}, title), panel] : []), list);
  if (!many) list.querySelector(".body").before(panel);
  take();
  if (model.get(trait) != null) follow();
  heard.forEach(([name, hear]) => model.on?.(name, hear));
  return () => { play(false); heard.forEach(([name, hear]) => model.off(name, hear)); };
}
"""

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src {script}; style-src {style}; \
base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="Alma {version}">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<noscript>The past of {title} is in this page, and JavaScript is needed to see it.</noscript>
<script type="application/json" id="data">{data}</script>
<script>{js}</script>
</body>
</html>
"""

_PAGE_JS = """\
almaView(document.body, {get: name => JSON.parse(document.getElementById(name)?.textContent ?? "null")});
"""


def _view_data(title: str, many: bool, timelines: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """Return what a view begins with."""
    names = {"box": "details", "top": "summary", "head": "h2", "trait": "moment"}
    if not many:
        names = {"box": "section", "top": "header", "head": "h1", "trait": "index"}
    speeds = "".join(f"<option value={times}>{times} a second</option>" for times in (2, 5, 20, 60, 250))
    markup = _VIEW_HTML.format(speeds=speeds, **names)
    return {"title": _clean(title), "many": many, "markup": markup, "timelines": timelines}


def _page(title: str, many: bool, pasts: Sequence[Tuple[str, Sequence[ChangeRecord[Any]]]]) -> str:
    """Return the page that shows the records of variables."""
    import html
    from base64 import b64encode
    from hashlib import sha256
    from json import dumps

    def source(text: str) -> str:
        return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"

    size = _PAGE_SIZE // max(1, len(pasts))
    timelines = [_track(name, records, size, number).take() for number, (name, records) in enumerate(pasts)]
    title += ": no variables" * (not pasts)
    data = dumps(_view_data(title, many, timelines), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # so that nothing in it ends the script element
        data = data.replace(character, f"\\u{ord(character):04x}")
    css, js = _VIEW_CSS, _VIEW_JS + _PAGE_JS
    facts = {"css": css, "js": js, "style": source(css), "script": source(js), "data": data}
    return _PAGE.format(title=html.escape(_clean(title)), version=__version__, **facts)


def _to_html(path: Optional[_Path], title: Optional[str], name: str, many: bool, pasts: Any) -> Optional[str]:
    """Return the page of what pasts() returns, or write it to a file whole or not at all."""
    if not isinstance(title, (str, type(None))):
        raise TypeError(f"a title is a str, not {title!r}")
    page = _page(name if title is None else title, many, pasts())
    if path is None:
        return page
    _write_beside(os.fsdecode(path), [page.encode()])
    return None


def _pasts(monitor: _Monitor, variables: Callable[[], Mapping[str, AlmaVar[Any]]]) -> Any:
    """Return names and records of variables, all of one moment."""
    with monitor.lock:
        return [(name, var.history()) for name, var in variables().items()]


# -- the widget
#
# The state of its model holds *data*, made whenever the state is asked for; and beside it the latest hundred messages
# of what has come since, news0 to news99, with *news*, the number of the newest. So a view that is drawn only after
# some have come, because the kernel is busy or the script is still on its way, begins with the same as the others; who
# has missed one asks for the whole. Only these go out on a thread of our own: ipykernel's and marimo's comms send from
# any, while the loop of the kernel stands still as long as a cell runs. Traits are changed in the kernel's thread.

_NEWS_KEPT = 100
_MOST_NEWS, _NEWS_SIZE = 100, 100_000  # records of a variable, characters of all of them, in one message
_PAUSE = 0.1  # seconds between messages
_NEWS_RATE = 500_000  # characters a second; above twice that Jupyter drops messages

_WIDGET_JS = """\
export default {render: ({model, el}) => almaView(el, model)};
"""


class _Feed:
    """Tells a widget's view what comes: from a thread of its own, which changes wake, and not more often than it sees.

    *only* is the variable that is followed, None for all that variables() returns by name.
    """

    def __init__(
        self,
        title: str,
        monitor: _Monitor,
        variables: Callable[[], Mapping[str, AlmaVar[Any]]],
        only: Optional[AlmaVar[Any]] = None,
    ) -> None:
        from queue import SimpleQueue

        self.title, self.monitor, self.variables, self.only = _clean(title), monitor, variables, only
        self.lock = threading.RLock()  # of what follows; whoever wants the monitor's as well takes it second
        self.tracks: Dict[_Log, _Track] = {}
        self.numbers: Dict[_Log, int] = {}
        self.number = 0  # of the newest message
        self.bell: Any = SimpleQueue()  # unlike an Event it can be rung by a signal handler while its thread is at it
        self.ended = threading.Event()

    def __call__(self, told: Optional[AlmaVar[Any]]) -> None:
        if (told is None or self.only is None or told is self.only) and self.bell.empty():
            self.bell.put(None)

    def begin(self, send: Callable[[Dict[str, Any]], None]) -> None:
        """Follow the variables from here on, until end()."""
        self.monitor.followers[self] = self
        self(None)  # for what has come since the widget was made
        threading.Thread(target=self._serve, args=(send,), name=f"timeline of {self.title}", daemon=True).start()

    def end(self) -> None:
        """Follow no more. Takes no lock, for the thread may be at it, and waits for nothing."""
        self.monitor.followers.pop(self, None)
        self.ended.set()
        self.bell.put(None)

    def _serve(self, send: Callable[[Dict[str, Any]], None]) -> None:
        from json import dumps

        pause = 0.0
        while not self.ended.wait(pause):
            self.bell.get()
            with self.lock:
                news = {} if self.ended.is_set() else self.news()
                send(news)
            pause = max(_PAUSE, len(dumps(news)) / _NEWS_RATE)

    def data(self, send: Callable[[Dict[str, Any]], None]) -> Dict[str, Any]:
        """Return the whole, for a new view; what has come until then is sent to those that are there."""
        with self.lock:
            with self.monitor.lock:
                news = self.news() if self.tracks else {}
                pasts = self._pasts()
            if news:
                send(news)
            timelines = self._whole(pasts)
            return {**_view_data(self.title, self.only is None, timelines), "next": self.number + 1}

    def again(self, send: Callable[[Dict[str, Any]], None]) -> None:
        """Send the whole to all views."""
        with self.lock:
            with self.monitor.lock:
                pasts = self._pasts()
            send(self._message(self._whole(pasts), True))

    def _pasts(self) -> List[Tuple[str, _Log, List[ChangeRecord[Any]]]]:
        """Return the records of all variables. Assumes the monitor's lock."""
        return [(name, var._log, _seen(var)) for name, var in self.variables().items()]

    def _whole(self, pasts: Sequence[Tuple[str, _Log, List[ChangeRecord[Any]]]]) -> List[Dict[str, Any]]:
        self.tracks = {}
        return [self._begun(name, log, records, _PAGE_SIZE // len(pasts)) for name, log, records in pasts]

    def _begun(self, name: str, log: _Log, records: Sequence[ChangeRecord[Any]], size: int) -> Dict[str, Any]:
        number = self.numbers.setdefault(log, len(self.numbers))
        self.tracks[log] = _track(name, records, size, number)
        return self.tracks[log].take()

    def news(self) -> Dict[str, Any]:
        """Return what has come since the last time as a change of the widget's state; nothing if nothing has."""
        come = [(name, var) for name, var in self.variables().items() if self._is_behind(var)]
        parts = [self._part(name, var, _NEWS_SIZE // len(come)) for name, var in come]
        return self._message(parts, False) if parts else {}

    def _message(self, timelines: List[Dict[str, Any]], whole: bool) -> Dict[str, Any]:
        self.number += 1
        news = {"number": self.number, "whole": whole, "timelines": timelines}
        return {f"news{self.number % _NEWS_KEPT}": news, "news": self.number}  # in this order: marimo tells one by one

    def _is_behind(self, var: AlmaVar[Any]) -> bool:
        track = self.tracks.get(var._log)
        return track is None or _committed(var)[0] > track.last + 1

    def _part(self, name: str, var: AlmaVar[Any], size: int) -> Dict[str, Any]:
        log, head, track = var._log, _committed(var), self.tracks.get(var._log)
        if track is None or track.shown > 2 * track.most:  # thinned anew, lest it grows as long as somebody looks
            return self._begun(name, log, _seen(var), _PAGE_SIZE // max(1, len(self.tracks)))
        for record in _since(log, head, track.last + 1, max(1, min(_MOST_NEWS, size // track.each))):
            track.add(record)
        track.pruned = head[2].first - 1
        track.count = head[0] - track.pruned
        return track.take()


def _seen(var: AlmaVar[Any]) -> List[ChangeRecord[Any]]:
    """Return the kept records that everybody sees."""
    records = None
    while records is None:
        records = var._log.records(_committed(var))
    return records


def _since(log: _Log, head: _Head, start: int, most: int) -> List[ChangeRecord[Any]]:
    """Return the kept records from an index on; of more than *most*, those with a label and evenly chosen ones."""
    begin, last = max(start, head[2].first), head[0] - 1
    chosen: Iterable[int] = range(begin, last + 1)
    if last - begin >= most:
        noted = [index for index in log.labels.copy() if begin <= index <= last][-most:]
        chosen = sorted({*noted, *(last - (last - begin) * place // most for place in range(most))})
    return [record for record in (log.record(head, index) for index in chosen) if record is not None]


class Timeline:
    """The widget that timeline() makes: the past of a variable, namespace or registry in a notebook, live.

    An anywidget, so it is shown where a cell ends with it. *index* is that of the record shown, None for the newest;
    setting it moves the slider, and the slider sets it. For a namespace or registry *moment* does the same, in
    milliseconds since 1970. close() detaches it from what it shows, and it is to be called in the kernel's thread,
    as all here.
    """

    index: Optional[int]
    moment: Optional[float]
    set_state: Callable[[Dict[str, Any]], None]
    _feed: _Feed
    _owner: Any

    @property
    def record(self) -> Any:
        """The record that is shown; of a namespace or registry a dict of them by name, without what is younger.

        RollbackError for what never was, PrunedError for what is no longer kept.
        """
        if self._feed.only is not None:
            return self._owner.last_change() if self.index is None else self._owner.at(self.index)
        return {name: var.at(self._when()) for name, var in self._there()}

    def restore(self) -> None:
        """Bring the values back that are shown, by new records; raises what rollback() or restore() of it raises."""
        if self._feed.only is not None:
            self._owner.rollback(self.record.index)
        elif isinstance(self._owner, AlmaNamespace):
            self._owner.rollback(self._when())
        else:
            self._owner.restore(self._when())

    def undo(self) -> None:
        """Take the last change of the variable or registry back."""
        self._able("undo").undo()

    def redo(self) -> None:
        """Bring back what undo() took back."""
        self._able("redo").redo()

    def branch_here(self, name: str) -> AlmaVar[Any]:
        """Return a new branch of the variable that leaves it at the record shown."""
        branch: AlmaVar[Any] = self._able("branch").branch(name, at=self.record.index)
        return branch

    def _able(self, verb: str) -> Any:
        if not hasattr(self._owner, verb):
            raise TypeError(f"{type(self._owner).__name__} has no {verb}()")
        return self._owner

    def _when(self) -> datetime:
        """Return the moment that is shown; a float of milliseconds is right to the 250th nanosecond."""
        return _moment(self._feed.monitor.time if self.moment is None else round(self.moment * 1e6) + 250)

    def _there(self) -> Iterator[Tuple[str, AlmaVar[Any]]]:
        """Yield the variables that are older than the moment."""
        for name, var in self._feed.variables().items():
            if var.at(0).timestamp <= self._when():
                yield name, var

    def _answer(self, message: Mapping[str, Any]) -> Dict[str, str]:
        """Do what a button says, where its view is, and return what is to be shown of it."""
        try:
            # Jupyter may still hold back what the slider said before, as long as the kernel is busy
            self.set_state({trait: message[trait] for trait in ("index", "moment") if trait in message})
            if message["action"] == "branch here":
                return {"said": f"made the branch {self.branch_here(message['name'])._name!r}"}
            _VERBS[message["action"]](self)
        except Exception as error:  # a refusal of the variable's, or of a guest of its owner's
            return {"error": _clean(f"{type(error).__name__}: {error}")}
        return {"said": ""}


_VERBS: Dict[str, Callable[[Timeline], None]] = {
    "restore": Timeline.restore,
    "undo": Timeline.undo,
    "redo": Timeline.redo,
}


@lru_cache(maxsize=None)
def _widget_class() -> Any:
    """Return the class of the widgets, which is made when one is first asked for."""
    base, traits = _of_extra("jupyter", "anywidget").AnyWidget, _of_extra("jupyter", "traitlets")

    class Widget(Timeline, base):  # type: ignore[misc, valid-type]
        __doc__ = Timeline.__doc__
        _esm, _css = _VIEW_JS + _WIDGET_JS, _VIEW_CSS
        data = traits.Dict().tag(sync=True, to_json=lambda _, widget: widget._feed.data(widget._change))
        actions = traits.List().tag(sync=True)
        index = traits.Int(None, allow_none=True, min=0).tag(sync=True)
        moment = traits.Float(None, allow_none=True).tag(sync=True)

        @traits.validate("index")  # type: ignore[untyped-decorator]
        def _checked(self, proposal: Any) -> Any:
            newest = self._feed.only and self._feed.only.last_change().index
            if None not in (newest, proposal["value"]) and proposal["value"] > newest:
                raise RollbackError(self._feed.title, proposal["value"], f"has no record {proposal['value']}")
            return proposal["value"]

        def __init__(self, owner: Any, feed: _Feed, actions: List[str]) -> None:
            self._owner, self._feed = owner, feed
            super().__init__(**{"actions": actions})  # the widget's
            self.on_msg(self._hear)
            feed.begin(self._change)

        def _change(self, state: Dict[str, Any]) -> None:
            """Tell the views of a change of state, if there is one; close where their side is gone, as marimo does."""
            if self.comm is None or getattr(self.comm, "_closed", False):
                self.close()
            elif state:
                self.comm.send({"method": "update", "state": state, "buffer_paths": []})

        def _hear(self, _: Any, message: Any, __: Any) -> None:
            if message["action"] == "again":
                self._feed.again(self._change)
            else:
                self.send(self._answer(message))

        def close(self) -> None:
            self._feed.end()
            super().close()

        def _repr_mimebundle_(self, **options: Any) -> Any:
            data, facts = super()._repr_mimebundle_(**options)
            return {**data, "text/html": self._owner._repr_html_()}, facts  # a still picture, where nothing runs

    Widget.__name__ = Widget.__qualname__ = "Timeline"
    return Widget


def _widget(owner: Any, monitor: _Monitor, variables: Any, title: str, actions: str) -> Timeline:
    """Return a widget that shows the variables that variables() returns by name, or *owner* if it is the only one."""
    if _is_busy():
        raise RuntimeError("timeline() inside a guest or a transaction would show what may never be")
    widget_class, only = _widget_class(), owner if isinstance(owner, AlmaVar) else None
    widget: Timeline = widget_class(owner, _Feed(title, monitor, variables, only), actions.split(", "))
    return widget


# -- the still picture


def _picture(var: AlmaVar[Any]) -> str:
    """Return a variable as HTML: its name, its value, and a line of its numbers or its last records."""
    last = var.last_change()
    line = _sparkline(_evenly(var, 60))
    about = f"{_counted(len(var), 'record')}, the last of {last.timestamp:%Y-%m-%d %H:%M:%S} UTC"
    newest = [] if line else _some_records(var, range(max(0, last.index - 3), last.index + 1))[::-1]
    return _framed(f"<b>{_as_html(var.name)}</b> {_value_html(last, 600)} {line}", about, map(_record_row, newest))


def _pictures(title: str, variables: Mapping[str, AlmaVar[Any]]) -> str:
    """Return variables as HTML: a row for each, with its value."""
    rows = []
    for name, var in islice(variables.items(), 50):
        value, count = _value_cell(var.last_change()), _counted(len(var), "record")
        rows.append((f"<b>{_as_html(name)}</b>", value, count, _sparkline(_evenly(var, 60))))
    more = f", of which {len(rows)} are shown" * (len(rows) < len(variables))
    return _framed(f"<b>{_as_html(title)}</b>", _counted(len(variables), "variable") + more, rows)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _framed(head: str, about: str, rows: Iterable[Sequence[str]]) -> str:
    cell = '<td style="text-align: left; vertical-align: top; padding: 1px 14px 1px 0; white-space: nowrap">'
    body = "".join(f"<tr>{''.join(f'{cell}{text}</td>' for text in row)}</tr>" for row in rows)
    table = f'<table style="border-collapse: collapse; margin-top: 4px">{body}</table>' if body else ""
    return f'<div style="line-height: 1.5"><div>{head}</div><small>{about}</small>{table}</div>'


def _as_html(text: str, most: int = 80) -> str:
    import html

    return html.escape(_clean(text if len(text) <= most else text[:most] + "..."))


def _value_html(record: ChangeRecord[Any], most: int, style: str = "") -> str:
    text = _as_html(_brief(_value(record), most), most)
    return f'<code style="white-space: pre-wrap; overflow-wrap: anywhere{style}">{text}</code>'


def _value_cell(record: ChangeRecord[Any]) -> str:
    style = "; display: inline-block; min-width: 20ch"  # or a long one is as narrow as a letter
    return _value_html(record, 120, style)


def _record_row(record: ChangeRecord[Any]) -> Sequence[str]:
    label = f'<span style="white-space: normal">{_as_html(record.label or "")}</span>'
    return f"{record.index}", f"{record.timestamp:%H:%M:%S}", label, _value_cell(record)


def _some_records(var: AlmaVar[Any], places: Iterable[int]) -> List[ChangeRecord[Any]]:
    """Return those of a variable's records that are kept, the initial one first. O(places)."""
    records = []
    for index in sorted({0, *places}):
        try:
            records.append(var.at(index))
        except PrunedError:  # or it is meanwhile
            continue
    return records


def _evenly(var: AlmaVar[Any], most: int) -> List[ChangeRecord[Any]]:
    """Return at most so many of a variable's records and the initial one, evenly chosen, the newest last."""
    last, span = var.last_change().index, max(len(var) - 2, 0)
    return _some_records(var, (last - span * i // (most - 1) for i in range(most)))


def _sparkline(records: Sequence[ChangeRecord[Any]]) -> str:
    """Return numbers as a line; nothing where a value is no number."""
    numbers = [number for number in map(_as_float, map(_value, records)) if number is not None]
    if len(numbers) < 2 or len(numbers) < len(records):
        return ""
    low, high, width = min(numbers) / 4, max(numbers) / 4, 120 / (len(numbers) - 1)  # a quarter: no span is infinite
    heights = [13 if low == high else 23 - 20 * ((number / 4 - low) / (high - low)) for number in numbers]
    points = " ".join(f"{place * width:.1f},{height:.1f}" for place, height in enumerate(heights))
    line = f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    return f'<svg width="122" height="26" viewBox="-1 0 122 26" aria-hidden="true">{line}</svg>'


# == Defaults: the default registry and the module-level functions ============
#
# One registry for those who need no other. The functions are its bound methods, so they do what its methods do and
# nothing else.

_registry = AlmaRegistry()

all_vars = _registry.all_vars
changes = _registry.changes
flush = _registry.flush
get_var = _registry.get_var
journal = _registry.journal
namespace = _registry.namespace
redo = _registry.redo
restore = _registry.restore
save = _registry.save
snapshot = _registry.snapshot
transact_async = _registry.transact_async
transaction = _registry.transaction
undo = _registry.undo
unregister = _registry.unregister
watch = _registry.watch


def __dir__() -> List[str]:
    return __all__


def get_registry() -> AlmaRegistry:
    """Return the default registry, to which alma.watch and the other functions belong."""
    return _registry


# == Command line: main(argv=None) -> int =====================================
#
# Uses what any program may use. Each command returns the lines to print; a _Screen makes them. What a file holds gets
# into a line through its clean() only, so that it can't drive a terminal, and is walked no further than it is shown.
# Exit codes: 0, 1 if it could not (one line on stderr says why), 2 for wrong usage, 130 after Ctrl-C.

_MOST_LINES = 200  # of one value shown whole
_MOST_PARTS = 1 << 20  # of values that are compared when asked to: counting them takes 1 s
_FEW_PARTS = 5_000  # of values that are compared in passing

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
# A table has a word for each column: the side its cells stand on, how readily it gives way to others, its style.
_CHANGES = "<1yellow <1bold <1red <1 <1green"


class _Screen:
    """What is known of where the output goes: its width, encoding and colours, and the zone to tell times in."""

    def __init__(self, color: str, utc: bool) -> None:
        from shutil import get_terminal_size

        self.width = max(get_terminal_size().columns or 80, 40)  # 3.8 says 0 on some terminals
        self.encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        asked, terminal = os.environ.get("FORCE_COLOR"), sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        by_itself = not os.environ.get("NO_COLOR") and bool(asked or terminal)
        self.colored = {"always": True, "never": False}.get(color, by_itself)
        self.zone = timezone.utc if utc else None
        self.now = _moment(time_ns())
        self.bars, self.dots = "▁▂▃▄▅▆▇█", "…"
        if self.clean(self.bars + self.dots) != self.bars + self.dots:
            self.bars, self.dots = "_.-=+*%#", "..."

    def clean(self, text: str) -> str:
        """Return text, cut, in which whatever is no printable character stands as Python would escape it."""
        return _escaped(text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "...", self.encoding)

    def paint(self, text: str, style: str) -> str:
        """Return clean text in a style, which may be none."""
        return f"\033[{_STYLES[style]}m{text}\033[0m" if self.colored and style and text else text

    def line(self, text: str, style: str = "") -> str:
        """Return any text as one line of the screen."""
        return next(self.table("<1" + style, [(text,)]))

    def prose(self, text: str) -> Iterator[str]:
        """Yield the lines of clean text, each wrapped to the screen and as far in as it begins."""
        from textwrap import wrap

        for line in text.split("\n"):
            indent = " " * (len(line) - len(line.lstrip()))
            yield from wrap(line, self.width, subsequent_indent=indent, break_long_words=False) or [""]

    def fit(self, text: str, width: int) -> str:
        """Return clean text cut to so many columns of the terminal."""
        if _columns(text) <= width:
            return text
        text = text[:width]
        while text and _columns(text + self.dots) > width:
            text = text[:-1]
        return (text + self.dots)[:width]

    def table(self, layout: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
        """Yield rows as lines; the widest columns give way until all fits. What is empty throughout is left out."""
        columns, cells = layout.split(), [[self.clean(cell) for cell in row] for row in rows]
        widths = [max(map(_columns, column)) for column in zip(*cells)]
        while sum(widths) + 2 * (len(widths) - widths.count(0) - 1) > self.width:
            widths[max(range(len(widths)), key=lambda at: widths[at] * int(columns[at][1]))] -= 1
        for row in cells:
            yield "  ".join(self._cell(*cell) for cell in zip(columns, row, widths) if cell[2]).rstrip()

    def _cell(self, column: str, text: str, width: int) -> str:
        text = self.fit(text, width)
        blank, text = " " * (width - _columns(text)), self.paint(text, column[2:])
        return blank + text if column[0] == ">" else text + blank

    def by_day(self, rows: Iterable[Tuple[Optional[ChangeRecord[Any]], ChangeRecord[Any], str]]) -> Iterator[str]:
        """Yield the lines of records, each with the one before it, and say where records or days lie between."""
        day = ""
        for last, record, line in rows:
            if last is not None and last.index + 1 < record.index:
                yield self.line(f"... {last.index + 1} to {record.index - 1} are no longer kept", "dim")
            time = self.time(record)
            if day != f"{time[:10]} {time[26:]}":
                day = f"{time[:10]} {time[26:]}"
                yield self.paint(day, "dim")
            yield line

    def time(self, record: ChangeRecord[Any], separator: str = " ") -> str:
        """Return when a record was made, in the zone asked for, with its offset."""
        return record.timestamp.astimezone(self.zone).isoformat(separator, "microseconds")

    def age(self, record: ChangeRecord[Any]) -> str:
        """Return how long ago a record was made, in the largest unit."""
        seconds = (self.now - record.timestamp).total_seconds()
        units = ("y", 31_557_600), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)
        return next((f"{int(seconds / size)}{unit}" for unit, size in units if abs(seconds) >= size), "0s")

    def sparkline(self, records: Sequence[ChangeRecord[Any]]) -> str:
        """Return numbers as a row of at most 16 bars, evenly chosen; nothing where a value is no number."""
        last = len(records) - 1
        values = [_value(record) for record in (records if last < 16 else [records[last * i // 15] for i in range(16)])]
        if last < 1 or not all(type(value) in (int, float) and abs(value) < 1e300 for value in values):
            return ""
        low, span = min(values), (max(values) - min(values)) or 1
        return "".join(self.bars[int((value - low) / span * 7)] for value in values)


def _columns(text: str) -> int:
    """Return how many columns of a terminal a clean text takes."""
    from unicodedata import category, east_asian_width

    wide = (0 if category(c) in ("Mn", "Me") else 1 + (east_asian_width(c) in "WF") for c in text)
    return len(text) if text.isascii() else sum(wide)


def _shown(record: ChangeRecord[Any]) -> str:
    """Return a record's value for a column of its own: whole numbers in groups of three."""
    value = _value(record)
    return f"{value:,}" if type(value) is int and value.bit_length() < 2_000 else _brief(value)


def _layout(value: Any, width: int, before: str = "", after: str = "") -> Iterator[str]:
    """Yield a value as lines: one where it fits, else a line for each part."""
    text, kind = before + _brief(value) + after, type(value)
    if len(text) <= width or kind not in (dict, list) or not value or len(before) > width // 2:
        yield text
        return
    indent, (begin, end) = " " * (len(before) - len(before.lstrip())), "{}" if kind is dict else "[]"
    yield before + begin
    for part in value:
        key, item = (f"{_brief(part, 200)}: ", value[part]) if kind is dict else ("", part)
        yield from _layout(item, width, f"{indent}  {key}", ",")
    yield indent + end + after


def _subscripts(path: Sequence[Any]) -> str:
    """Return a path as it is written in Python, long keys cut."""
    return "".join(f"[{_brief(step, 200)}]" for step in path) or "the whole"


def _shown_change(change: Change) -> Tuple[str, ...]:
    """Return a change as cells: its sign, the path, the old value, an arrow, the new one."""
    old, new = "" if change.op == "add" else _brief(change.old), "" if change.op == "remove" else _brief(change.new)
    mark = {"add": "+", "remove": "-"}.get(change.op, "~")
    return mark, _subscripts(change.path), old, "->" * bool(old and new), new


def _changed(before: Optional[ChangeRecord[Any]], after: ChangeRecord[Any]) -> str:
    """Return in a few words what a record changed; nothing where its value says it all, or is too large."""
    old, new = (DELETED if record is None else _value(record) for record in (before, after))
    if {type(old), type(new)} <= {int, float} and max(abs(old), abs(new)) < 1e15:
        return f"{new - old:+,}" if type(new - old) is int else f"{new - old:+.6g}"
    if not (_is_small(old, _FEW_PARTS) and _is_small(new, _FEW_PARTS)):
        return ""
    changes = [change for change in compare_values(old, new) if change.path][:20]
    if len(changes) == 1:
        return " ".join(filter(None, _shown_change(changes[0])[changes[0].op == "replace" :]))
    return ", ".join("".join(_shown_change(change)[:2]) for change in changes)


def _is_small(value: Any, most: int) -> bool:
    """Tell whether a value has no more than so many parts, each counted wherever it stands."""
    return next(islice(_pieces(value), most, None), None) is None


def _whole_value(record: ChangeRecord[Any]) -> Any:
    """Return a record's value; ValueError if it is too large to be compared."""
    if _is_small(record.value, _MOST_PARTS):
        return record.value
    raise ValueError(f"record {record.index} is too large to look into: over {_MOST_PARTS:,} parts")


# -- what the commands share


def _asked_types(names: Sequence[str]) -> List[Any]:
    """Import the classes that the command line names."""
    here = os.getcwd()
    sys.path.append(here)  # at the end: nothing there can stand in for a module of Python's
    try:
        return [_imported(name, "--types takes module:Class") for name in names]
    finally:
        sys.path.remove(here)


def _require_file(path: str) -> None:
    """Raise OSError or ValueError where there is nothing to read: SQLite and the parsers would say it less well."""
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    if os.path.isdir(path):
        raise ValueError(f"{path}: is a folder; name a file in it")
    if not size and os.path.isfile(path):
        raise ValueError(f"{path}: is empty; nothing was ever saved in it")


def _loaded(args: Any) -> AlmaRegistry:
    return load(args.file, types=args.types, trust=args.trust)


def _lines_of(registry: AlmaRegistry) -> Dict[str, AlmaVar[Any]]:
    """Return variables and branches by name."""
    lines: Dict[str, AlmaVar[Any]] = {}
    for name, var in registry.all_vars().items():
        lines.update({name: var, **{branch.name: branch for branch in var.branches().values()}})
    return lines


def _named(args: Any) -> AlmaVar[Any]:
    """Return the variable or branch that the command line names."""
    lines = _lines_of(_loaded(args))
    if args.name not in lines:
        raise ValueError(f"{args.file} holds no {args.name!r}, but {_some_of(list(lines))}")
    return lines[args.name]


def _asked(text: Optional[str], var: AlmaVar[Any], zone: Optional[timezone]) -> ChangeRecord[Any]:
    """Return the record that a text names: by index, by a label that is there, or by time, local without an offset."""
    if text is None:
        return var.last_change()
    if text.lstrip("-").isdecimal():
        return var.at(int(text))
    day = var.last_change().timestamp.astimezone(zone).date()
    for written in (text, f"{day} {text}") if all(record.label != text for record in var) else ():
        try:  # a time alone is of the day of the newest record
            moment = datetime.fromisoformat(written.replace("Z", "+00:00"))
        except ValueError:
            continue
        return var.at(moment if moment.tzinfo else moment.replace(tzinfo=zone).astimezone(zone))
    return var.at(text)


def _path_of(text: Optional[str], value: Any) -> Tuple[Any, ...]:
    """Return the path that a text names in a value.

    >>> _path_of("db.0.port", {"db": [{"port": 1}]}), _path_of("['db'][0]", {}), _path_of("('db', 0)", {})
    (('db', 0, 'port'), ('db', 0), ('db', 0))
    """
    if text and text[0] in "[(":
        import ast

        try:
            return tuple(ast.literal_eval(text.replace("][", ", ") if text[0] == "[" else text))
        except (SyntaxError, TypeError, ValueError):
            raise ValueError(f"a path is written as db.port, ['db']['port'] or ('db', 'port'), not {text!r}") from None
    path: Tuple[Any, ...] = ()
    for step in text.split(".") if text else ():
        there = _part_at(value, path)
        path += (int(step) if step.isdecimal() and not (isinstance(there, dict) and step in there) else step,)
    return path


def _entry(screen: _Screen, name: str, record: ChangeRecord[Any]) -> Dict[str, Any]:
    """Return a record as it stands in JSON; where middleware is needed for its value, the error says so."""
    value, time = _value(record), screen.time(record, "T")
    held = {"error": str(value)} if isinstance(value, AlmaError) else {"value": value}
    return {"name": name, "index": record.index, "time": time, "label": record.label, **held}


def _json(screen: _Screen, args: Any, facts: Any) -> str:
    """Return facts as printable JSON, those of a list in a line each."""
    from json import dumps

    if isinstance(facts, list):
        return "[" + ",\n".join(_json(screen, args, each) for each in facts) + "]"
    return _escaped(to_json(facts, args.types), screen.encoding, dumps)


# -- the commands: each returns the lines to print


def _inspect(screen: _Screen, args: Any) -> Iterator[str]:
    """Show the variables of a file, or the past of one, newest last."""
    if args.name is None:
        return _overview(screen, args)
    var = _named(args)
    records = var.history() if args.at is None else [_asked(args.at, var, screen.zone)]
    limit = (0 if args.json else 20) if args.limit is None else args.limit
    if args.json:
        return iter([_json(screen, args, [_entry(screen, var.name, record) for record in records[-limit:]])])
    return _timeline(screen, var, limit) if args.at is None else _whole_record(screen, var, records[0])


def _overview(screen: _Screen, args: Any) -> Iterator[str]:
    """Yield a row for each variable, as it is or as of then."""
    rows: List[Tuple[str, ...]] = [("variable", "records", "changed", "branches", "", "value")]
    facts: List[Dict[str, Any]] = []
    for name, var in _loaded(args).all_vars().items():
        try:
            record = _asked(args.at, var, screen.zone)
        except RollbackError as error:  # it is younger, or has no such record
            rows.append((name, "", "", "", "", "(pruned)" if isinstance(error, PrunedError) else "-"))
            facts.append({"name": name, "error": str(error)})
            continue
        past, branches = [each for each in var if each.index <= record.index], list(var.branches())
        about = screen.age(record), ", ".join(branches), screen.sparkline(past), _shown(record)
        rows.append((name, f"{len(past):,}", *about))
        facts.append({**_entry(screen, name, record), "records": len(past), "branches": branches})
    if args.at is not None and not any("index" in each for each in facts):
        raise ValueError(f"{args.file}: no variable has a record at {args.at!r}; without --at, all are shown")
    most = args.limit or len(facts)
    if args.json:
        yield _json(screen, args, facts[:most])
        return
    yield from screen.table("<1bold >1 >1dim <2dim <1cyan <1", rows[: most + 1])
    if most < len(facts):
        yield f"... {len(facts) - most:,} more"


def _timeline(screen: _Screen, var: AlmaVar[Any], limit: int) -> Iterator[str]:
    """Yield a variable's past, newest last: a line for each record, and one where the day or the offset changes."""
    records, branches = var.history(), ", ".join(var.branches())
    shown = records[-limit:]
    before = [None, *records][-len(shown) - 1 : -1]
    notes = [f"{len(records):,} records", "frozen" * var.is_frozen, f"branches: {branches}" * bool(branches)]
    yield from screen.table("<1bold <1 <1cyan", [(var.name, ", ".join(filter(None, notes)), screen.sparkline(records))])
    if len(shown) < len(records):
        yield screen.line(f"... {len(records) - len(shown):,} earlier; --limit 0 shows all", "dim")
    rows = [
        (f"{it.index}", screen.time(it)[11:26], screen.age(it), it.label or "", _shown(it), _changed(last, it))
        for last, it in zip(before, shown)
    ]
    yield from screen.by_day(zip(before, shown, screen.table(">4bold <4dim >4dim <5cyan <9 <4yellow", rows)))


def _whole_record(screen: _Screen, var: AlmaVar[Any], record: ChangeRecord[Any]) -> Iterator[str]:
    """Yield all that there is to say of one record."""
    yield screen.line(f"{var.name}, record {record.index}", "bold")
    yield from screen.prose(f"time   {screen.time(record)}, {screen.age(record)} ago")
    if record.label is not None:
        yield f"label  {screen.clean(record.label)}"
    lines = list(islice(_layout(_value(record), screen.width, "value  "), _MOST_LINES + 1))
    yield from map(screen.clean, lines[:_MOST_LINES])
    if len(lines) > _MOST_LINES:
        yield "... --json shows all"
    before = [each for each in var if each.index == record.index - 1]
    if before and _changed(before[0], record):
        yield screen.line(f"changed since record {record.index - 1}", "dim")
        yield from screen.table(_CHANGES, map(_shown_change, compare_values(before[0].value, record.value)))


def _diff(screen: _Screen, args: Any) -> Iterator[str]:
    """Show what changed from record A to record B, each an index, a time or a label."""
    var = _named(args)
    records = [_asked(text, var, screen.zone) for text in (args.a, args.b)]
    changes = compare_values(*map(_whole_value, records))
    if args.json:
        yield _json(screen, args, [{**change._asdict(), "path": list(change.path)} for change in changes])
        return
    for sign, record in zip("-+", records):
        yield screen.line(f"{sign} record {record.index}  {screen.time(record)}  {record.label or ''}".rstrip(), "dim")
    yield from screen.table(_CHANGES, map(_shown_change, changes)) if changes else ["no difference"]


def _blame(screen: _Screen, args: Any) -> Iterator[str]:
    """Show which record last changed each part; PATH is db.port or ['db']['port']."""
    var = _named(args)
    _whole_value(var.last_change())
    value = var.get()
    path = _path_of(args.path, value)
    found = var.blame(path)
    records = found if isinstance(found, dict) else {path: found}
    blamed = [(path, by, _part_at(value, path)) for path, by in records.items()]
    if args.json:
        facts = [{**_entry(screen, var.name, by), "path": list(path), "value": part} for path, by, part in blamed]
        return iter([_json(screen, args, facts)])
    rows = [("part", "record", "changed", "label", "value")]
    rows += [
        (_subscripts(path), f"{by.index}", screen.age(by), by.label or "", _brief(part)) for path, by, part in blamed
    ]
    return screen.table("<1bold >1 >1dim <1cyan <1", rows)


def _verify(screen: _Screen, args: Any) -> Iterator[str]:
    """Check every record against its digest."""
    verdict = verify(args.file, head=args.head)
    if args.json:
        yield _json(screen, args, {"ok": verdict.ok, "records": verdict.records, "head": verdict.head})
    if not verdict.ok:
        raise FileFormatError(args.file, verdict)
    yield from [] if args.json else [screen.clean(verdict), f"head {verdict.head}"]


def _export(screen: _Screen, args: Any) -> Iterator[str]:
    """Write a file anew as .json, .pickle or .db, its records as .csv, or a page to look at as .html."""
    registry = _loaded(args)
    lines = _lines_of(registry)
    suffix = os.path.splitext(args.out)[1][1:].lower()
    if suffix not in (*_FORMATS, "csv", "html", "htm"):
        raise ValueError(f"{args.out}: the suffix says what to write: {', '.join(_FORMATS)}, csv or html")
    if suffix == "csv":
        _write_beside(args.out, [_csv(screen, lines, args.types)])
    elif suffix in ("html", "htm"):
        registry.to_html(args.out, title=os.path.basename(args.file) if args.title is None else args.title)
    else:
        registry.save(args.out)
    yield screen.line(f"{args.out}: {len(lines)} variables and branches, {sum(map(len, lines.values())):,} records")


def _csv(screen: _Screen, lines: Dict[str, AlmaVar[Any]], types: Any) -> bytes:
    """Return the records of variables and branches as CSV, with values as JSON.

    No cell holds control characters, and none but a number begins as a formula would, which spreadsheets run: a name
    or label that does stands behind an apostrophe.
    """
    import csv
    from json import dumps

    def cell(text: str) -> str:
        return "'" * text.startswith(("=", "+", "-", "@")) + _escaped(text)

    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(("name", "index", "time", "label", "value"))
    for name, var in lines.items():
        for record in var:
            value = _escaped(to_json(record.value, types), escape=dumps)
            writer.writerow((cell(name), record.index, screen.time(record), cell(record.label or ""), value))
    return file.getvalue().encode()


def _follow(screen: _Screen, args: Any) -> Iterator[str]:
    """Print each change of a journal as it is made."""
    news = ((name, record) for name, record in _tail(args.file, args.types) if args.name in (None, name))
    if args.json:
        return (_json(screen, args, _entry(screen, name, record)) for name, record in news)

    def line(name: str, record: ChangeRecord[Any]) -> str:
        row = screen.time(record)[11:26], name, f"{record.index}", record.label or "", _shown(record)
        return next(screen.table("<1dim <1bold >1 <2cyan <2", [row]))

    return screen.by_day((None, record, line(name, record)) for name, record in news)


def _open_demo(screen: _Screen, args: Any) -> Iterator[str]:
    """Watch real variables of this process change, and look back; kept in FILE, alma-demo.db by default."""
    path = args.file or "alma-demo.db"
    with AlmaRegistry(journal=path) as registry:
        if set(registry) - {"memory", "config"}:
            raise ValueError(f"{path} holds other variables than the demo's: give it a file of its own, alma demo FILE")
        yield from _demo(screen, registry, screen.clean(path))
        yield f"  alma inspect {screen.clean(path)} memory"  # never wrapped: it is to be copied


def _demo(screen: _Screen, registry: AlmaRegistry, path: str) -> Iterator[str]:
    """Watch this process's memory and a config it edits, have a change refused, look back; go on if there is a past."""
    rows: List[List[int]] = []

    def build(_: AlmaVar[Dict[str, Any]], record: ChangeRecord[Dict[str, Any]]) -> None:
        rows[:] = ([number] for number in range(record.value["rows"] if record.value["keep"] else 0))
        memory.set(sys.getallocatedblocks(), label=f"config at record {record.index}")

    def not_negative(value: int) -> None:
        if value < 0:
            raise ValueError(f"{value} is negative")

    known = {name: len(var) for name, var in registry.all_vars().items()}
    memory = registry.watch("memory", sys.getallocatedblocks(), validators=[not_negative])
    config = registry.watch("config", {"rows": 10_000, "keep": True}, trace=True, on_change=[build])
    goes_on = ", and go on from the " + " and ".join(f"{count} records of {name}" for name, count in known.items())
    yield from screen.prose(
        "Two variables of this process: how many blocks of memory it uses, and a config.\n"
        "A listener builds as many rows as the config says, and measures again.\n"
        f"They are kept in the file {path}{goes_on * bool(known)}."
    )
    for count in (20_000, 40_000):
        with config.edit() as draft:
            draft.update(rows=count, keep=True)
    config.update(lambda current: {**current, "keep": False})
    registry.flush()
    for var in (memory, config):
        yield ""
        yield from _timeline(screen, var, 8)
    yield from _look_back(screen, registry, known.get("memory", 1))


def _look_back(screen: _Screen, registry: AlmaRegistry, first: int) -> Iterator[str]:
    """Have a change refused, find the cause of the highest record from *first* on, and roll back."""
    memory, config = map(registry.get_var, ("memory", "config"))
    refused = ""
    try:
        with registry.transaction("a bad idea"):
            config.set({"rows": 0, "keep": True})
            memory.set(-1)
    except ValueError as error:
        refused = f"ValueError: {error}; rows is still {config.get()['rows']:,}"
    peak = max(memory.history()[first:], key=lambda record: record.value)
    cause = config.at(peak.timestamp)
    config.rollback(0, label="back to the start")
    yield from screen.prose(
        f"\nA validator refuses what can't be, and nothing changes:\n  {refused}\n"
        f"\nMemory was highest at record {peak.index}, {peak.value:,} blocks. What did the config say then?\n"
        f"  {cause.value}, since {cause.label}\n"
        "\nSo the config is rolled back. Nothing is lost by that: it is one more record."
    )
    yield from _timeline(screen, config, 2)
    yield from screen.prose(
        f"\nAfter undo() it says\n  {config.undo().get()}\n"
        "\nRun it again, and it goes on from there. Meanwhile, look into the file:"
    )


def _bus(screen: _Screen, args: Any) -> Iterator[str]:
    """Run a hub, through which links over ws:// keep variables alike, until it is stopped."""
    from signal import SIGINT

    token = None
    if args.token_file is not None:
        with open(args.token_file, encoding="utf-8") as file:
            token = file.read().strip()
    hub = Hub(args.host, args.port, token=token, origins=args.origin, names=args.name)
    if _asyncio().run(_until_stopped(hub, screen)) == SIGINT:
        raise KeyboardInterrupt
    return iter([])


async def _until_stopped(hub: Hub, screen: _Screen) -> int:
    """Run a hub until a signal comes, and return its number."""
    from signal import SIGINT, SIGTERM

    loop = _asyncio().get_running_loop()
    stopped = loop.create_future()
    for number in (SIGINT, SIGTERM):
        try:
            loop.add_signal_handler(number, _settle, [(stopped, number)])
        except (NotImplementedError, RuntimeError):
            pass  # on Windows, or on another thread than the main one
    async with hub:
        host = f"[{hub.host}]" if ":" in hub.host else hub.host
        print(screen.clean(f"ws://{host}:{hub.port} is open; Ctrl-C closes it"), flush=True)
        return int(await stopped)


_OPTIONS: Dict[str, Dict[str, Any]] = {
    "--at": {"metavar": "INDEX|TIME|LABEL", "help": "show one record whole; without NAME, all variables as of then"},
    "--limit": {"metavar": "N", "type": int, "help": "show the newest N, 0 for all (default: 20; in JSON, all)"},
    "--head": {"metavar": "HEX", "help": "compare with the head that it had, kept elsewhere"},
    "--host": {"metavar": "HOST", "default": "127.0.0.1", "help": "listen here (default: 127.0.0.1)"},
    "--port": {"metavar": "PORT", "type": int, "default": 8765, "help": "default: 8765; 0 for any that is free"},
    "--token-file": {"metavar": "FILE", "help": "holds the token that clients need; a must beyond this machine"},
    "--origin": {"metavar": "URL", "action": "append", "default": [], "help": "let in pages of this origin"},
    "--name": {"metavar": "NAME", "action": "append", "default": [], "help": "a name of the hub behind a proxy"},
    "--json": {"action": "store_true", "help": "print JSON, with values as alma.to_json writes them"},
    "--title": {"metavar": "TEXT", "help": "what is written above the page (default: the file's name)"},
    "--types": {"metavar": "MODULE:CLASS", "action": "append", "default": [], "help": "import a class of values"},
    "--trust": {"action": "store_true", "help": "unpickle what is pickled in a file: it may run any code"},
    "--utc": {"action": "store_true", "help": "show and read times in UTC instead of the local zone"},
    "--color": {"choices": ["auto", "always", "never"], "default": "auto", "help": "default: auto, on a terminal"},
}
_COMMANDS: Dict[str, Callable[..., Iterator[str]]] = {
    "inspect FILE [NAME] --at --limit --json --types --trust": _inspect,
    "diff FILE NAME A B --json --types --trust": _diff,
    "blame FILE NAME [PATH] --json --types --trust": _blame,
    "verify FILE --head --json": _verify,
    "export FILE OUT --title --types --trust": _export,
    "follow FILE [NAME] --json --types": _follow,
    "bus --host --port --token-file --origin --name": _bus,
    "demo [FILE]": _open_demo,
}


def _arguments(argv: Optional[Sequence[str]]) -> Any:
    """Return what the command line asks for."""
    from argparse import ArgumentParser

    about = "Variables that remember where they came from."
    parser = ArgumentParser(prog="alma", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"alma {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for usage, run in _COMMANDS.items():
        name, *words = f"{usage} --utc --color".split()
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__, allow_abbrev=False)
        for word in words:
            known, optional = word.strip("[]"), "?" if word.startswith("[") else None
            command.add_argument(known.lower(), **_OPTIONS.get(word, {"metavar": known, "nargs": optional}))
        command.set_defaults(run=run, types=[])
    args, strange = parser.parse_known_args(argv)
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(map(repr, strange))}")
    if (getattr(args, "limit", None) or 0) < 0:
        parser.error(f"--limit takes how many to show, from 1 up, or 0 for all; not {args.limit}")
    return args


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command ``alma`` with *argv*, by default the process's own, and return its exit code."""
    try:
        args = _arguments(argv)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    screen = _Screen(args.color, args.utc)
    try:
        args.types = _asked_types(args.types)
        if args.run not in (_bus, _open_demo):
            _require_file(args.file)
        for line in args.run(screen, args):
            print(line, flush=True)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _complain(screen, error)
    return 0


def _complain(screen: _Screen, error: Exception) -> int:
    """Say in one line what went wrong, unless it is that the reader has left; return the exit code."""
    if isinstance(error, BrokenPipeError):
        return 0
    text = str(error) if isinstance(error, (AlmaError, OSError, ValueError)) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    print(f"alma: {screen.clean(text)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
