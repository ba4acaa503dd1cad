"""Look up names of the engines in what is installed, in a process of its own.

    python engine_names.py NAME...    prints those that are not there, one a line

vLLM changes the process that imports it, which a test's own process must not be.
"""

import ast
import importlib
import inspect
import sys
import textwrap


def is_there(name):
    """Whether a dotted name can be imported, or is an attribute that a class gives its objects."""
    words = name.split(".")
    for length in range(len(words), 0, -1):
        try:
            value = importlib.import_module(".".join(words[:length]))
        except ModuleNotFoundError:
            continue
        for word in words[length:-1]:
            value = getattr(value, word)
        last = words[-1]
        if length == len(words) or hasattr(value, last):
            return True
        return inspect.isclass(value) and any(last in given(c) for c in value.__mro__[:-1])
    return False


def given(kind):
    """Names of the attributes that a class annotates, or that its methods set on `self`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    names = set(vars(kind).get("__annotations__", {}))
    for node in ast.walk(tree):
        of_self = isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self"
        if of_self and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


if __name__ == "__main__":
    missing = [name for name in sys.argv[1:] if not is_there(name)]
    print("\n".join(f"missing: {name}" for name in missing))
