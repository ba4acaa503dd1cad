"""Pickles read as data: nothing that they name is imported, made or called.

A pickle is a program for a small machine, which may call anything that can be imported. Here the
machine has no such step: where a pickle calls a class, a `Made` says so, with what the class was
given. Names that the reader does not know are refused. What remains are numbers, words, lists and
dictionaries, in memory and time that are bounded by the length of the pickle.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

from megaprune.errors import InputError
from megaprune.weights.untrusted import named, shown

PICKLE_BYTES = 256 << 20
"""How long a pickle may be; that of the largest models' checkpoints have some tens of MB."""

_STEPS = 16_000_000
"""How many steps it may have: some 10 s, and 1 GB. The largest models' have a third of that."""


class Name(NamedTuple):
    """A class or function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


STORAGE = Name("torch.serialization", "persistent_load")
"""What `torch.save` writes where the elements of a tensor lie; its state is that place."""

_DICTIONARIES = {
    Name("collections", "OrderedDict"),
    Name("collections", "Counter"),
}


class Made:
    """An object that a pickle would make: what is called for it, with what, and its state."""

    __slots__ = ("args", "maker", "state")

    def __init__(self, maker: Name, args: Any, state: Any = None):
        self.maker, self.args, self.state = maker, args, state

    def __repr__(self) -> str:
        return f"<{self.maker}>"


class RefusedName(InputError):
    """A pickle names a class or function that is not known."""


class _Reader(pickle._Unpickler):
    """Python's own machine, without the steps that call, import or change anything else.

    Left out are, besides those, the steps of old protocols, those that neither pickle nor
    torch.save write for these files, and those that make large numbers.
    """

    def __init__(self, data: bytes, known: Callable[[Name], bool]):
        super().__init__(io.BytesIO(data))
        self._known = known

    def load(self) -> Any:
        """Run the machine, for a bounded number of steps."""
        self._unframer = pickle._Unframer(self._file_read, self._file_readline)  # type: ignore[attr-defined]
        self.read, self.readline = self._unframer.read, self._unframer.readline
        self.metastack: list[Any] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        read, steps = self.read, _MACHINE
        try:
            for _ in range(_STEPS):
                step = read(1)
                if step not in steps:
                    raise pickle.UnpicklingError(f"unexpected step {step!r}")
                steps[step](self)
        except pickle._Stop as stop:  # type: ignore[attr-defined]
            return stop.value
        raise pickle.UnpicklingError(f"more than {_STEPS} steps")

    def find_class(self, module: str, name: str) -> Name:
        """Return the name of a class or function; it is not looked for."""
        reference = Name(module, name)
        if not self._known(reference):
            raise RefusedName(named(str(reference)))
        return reference

    def _call(self, maker: Any, args: Any) -> Any:
        if not isinstance(maker, Name):
            raise pickle.UnpicklingError(f"calls {shown(maker)}")
        return {} if maker in _DICTIONARIES and not args else Made(maker, args)

    def _popped(self) -> list[Any]:
        items: list[Any] = self.pop_mark()  # type: ignore[attr-defined]
        return items

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def _newobj_ex(self) -> None:
        options = self.stack.pop()
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], (args, options))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Made):
            target.state = state
        elif not isinstance(target, dict):  # what else hangs on an OrderedDict does not matter
            raise pickle.UnpicklingError(f"gives {shown(target)} a state")

    def _persistent(self) -> None:
        self.stack[-1] = Made(STORAGE, (), self.stack[-1])

    def _put_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Made):
            return  # entries of an object of the trainer's own, which are not asked for
        if not isinstance(target, dict):
            raise pickle.UnpicklingError(f"puts entries into {shown(target)}")
        for key in items[::2]:
            if not _is_plain_key(key):
                raise pickle.UnpicklingError(f"has a key that is a {type(key).__name__}")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _set_item(self) -> None:
        value = self.stack.pop()
        self._put_items([self.stack.pop(), value])

    def _set_items(self) -> None:
        self._put_items(self._popped())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Made):
            return
        if not isinstance(target, list):
            raise pickle.UnpicklingError(f"appends to {shown(target)}")
        target.extend(items)

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _appends(self) -> None:
        self._extend(self._popped())

    def _empty_list(self) -> None:
        self.append([])

    def _frozenset(self) -> None:
        self.append(self._popped())


def _is_plain_key(key: Any) -> bool:
    """Hashing anything nested could take for ever."""
    plain = (str, int, float, bytes, Name, Made, type(None))
    if type(key) is tuple:
        return len(key) < 100 and all(isinstance(part, plain) for part in key)
    return isinstance(key, plain)


_AS_THEY_ARE = (
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE", "BINPUT", "LONG_BINPUT",
    "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES",
    "BINBYTES8", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "GLOBAL",
    "STACK_GLOBAL",
)  # fmt: skip
"""Steps that only move data about, and GLOBAL, which asks `find_class`."""


def _machine() -> dict[bytes, Callable[[Any], None]]:
    inherited: dict[int, Any] = _Reader.dispatch
    return {
        **{getattr(pickle, name): inherited[getattr(pickle, name)[0]] for name in _AS_THEY_ARE},
        pickle.EMPTY_LIST: _Reader._empty_list,
        pickle.EMPTY_SET: _Reader._empty_list,
        pickle.FROZENSET: _Reader._frozenset,
        pickle.APPEND: _Reader._append,
        pickle.APPENDS: _Reader._appends,
        pickle.ADDITEMS: _Reader._appends,
        pickle.SETITEM: _Reader._set_item,
        pickle.SETITEMS: _Reader._set_items,
        pickle.REDUCE: _Reader._reduce,
        pickle.NEWOBJ: _Reader._reduce,
        pickle.NEWOBJ_EX: _Reader._newobj_ex,
        pickle.BUILD: _Reader._build,
        pickle.BINPERSID: _Reader._persistent,
    }


_MACHINE = _machine()


def read_pickle(data: bytes, where: str, known: Callable[[Name], bool]) -> Any:
    """Read a pickle as data.

    Args:
        where: names it in errors.
        known: says whether a class or function may be named in it.

    Raises:
        InputError: it is damaged, too large, or names what is not known.
    """
    if len(data) > PICKLE_BYTES:
        raise InputError(f"{where} has {len(data)} bytes; expected at most {PICKLE_BYTES}")
    try:
        return _Reader(data, known).load()
    except RefusedName as error:
        raise InputError(
            f"{where} names {error}, which neither Megatron-core nor torch writes there: nothing "
            f"of it was run. Where `megaprune convert` is told to --trust the folder, such objects "
            f"are passed over"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"{where} cannot be read: it is damaged, or no pickle of torch's "
            f"({type(error).__name__}: {shown(str(error))})"
        ) from error
