"""Makes one function out of neighbouring policies, so that a policy costs two calls and no frame of its own.

A frame is cheap in sync code; a coroutine costs as much as a whole gate. So the text of the function is written
once for each shape (which fragments, sync or async, what is inside) and compiled; what the policies do is passed
in as parameters. A gate with an exit and one without, around a user's function, are::

    def run(call):
        token0 = enter0(call)
        try:
            enter1(call)
            try:
                kwargs = call.kwargs
                result = call.fn(*call.args, **kwargs) if kwargs else call.fn(*call.args)
            except BaseException as error:
                call.now = now()
                call.verdict = of_error(error, call)
                raise
            if type(result) is coroutine:
                raise misused(call, result)
            call.verdict = OK
        except BaseException:
            exit0(call, token0)
            raise
        exit0(call, token0)
        return result

An *entry* is the same with the making of the call in front: what a decorated function becomes. It is made for
the pipeline as it is at that moment; once the pipeline has changed it takes the long way.
"""

import linecache
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from inspect import isawaitable
from types import CodeType, CoroutineType
from typing import Any, Final, NamedTuple, TypeAlias
from zlib import crc32

from holdfast.core.call import FAILED, OK, Call
from holdfast.core.classify import Classifier
from holdfast.core.clock import Clock
from holdfast.core.context import current_deadline
from holdfast.core.inline import inline

FRAGMENTS_LIMIT: Final = 8
"""Fragments in one function: Python nests 20 blocks at most, and a loop is two."""
SHAPES_LIMIT: Final = 1024
"""Compiled shapes that are kept."""
INDENT: Final = "    "
_SHOWN: Final[deque[str]] = deque()  # the latest SHAPES_LIMIT: linecache has no limit of its own


class Around(NamedTuple):
    """Something before and something after what is inside.

    ``enter`` returns a token or refuses by raising; with ``waits`` in async code it is awaited. ``exit`` gets the
    token back. ``failed``, if there is one, is called instead of ``exit`` when an exception passes, and may return
    another to raise in its place. ``release`` stands for an ``exit`` that needs the token only, perhaps a C function.
    """

    enter: Callable[[Call], Any]
    exit: Callable[[Call, Any], None] | None = None
    failed: Callable[[Call, Any, BaseException], BaseException | None] | None = None
    release: Callable[[Any], None] | None = None
    waits: bool = False


class Again(NamedTuple):
    """Runs what is inside, perhaps more than once.

    ``tally`` is an object with ``edge`` and ``count``: a call that begins before ``edge`` counts it up; one that
    begins later, and every call where there is no tally, is told to ``begin`` if that is given. ``after_error``
    (for each ``Exception``) and ``after_result`` (for each result that was classified as a failure) return the
    seconds until the next attempt, or None to end with what there is. They get the call, the outcome, and what is
    known of this loop: its attempts so far, when the first one began, and the delay before this one, None for the
    first. ``call.attempt`` also counts those of other loops further in and out. ``sleep`` waits that long; in async
    code it is awaited. ``recovered`` is told of a call that ends well after more than one attempt.
    """

    after_error: Callable[[Call, Exception, int, float, float | None], float | None]
    after_result: Callable[[Call, Any, int, float, float | None], float | None]
    sleep: Callable[[Call, float], Awaitable[None] | None]
    tally: Any = None
    begin: Callable[[Call], None] | None = None
    recovered: Callable[[Call], None] | None = None


RAISE: Final = object()
"""What ``Instead.after_error`` returns when nothing is to stand in for the error."""


class Instead(NamedTuple):
    """Puts another result in place of an error, or of a result that will not do.

    ``after_error`` (for each ``Exception``) and ``after_result`` (for each result that was classified as a failure)
    return the result to go on with, in async code an awaitable of it. ``after_error`` returns ``RAISE`` to let
    the error go on. ``keep`` is told each good result of the dependency itself.
    """

    after_error: Callable[[Call, Exception], Any]
    after_result: Callable[[Call, Any], Any] | None = None
    keep: Callable[[Call, Any], None] | None = None


Fragment: TypeAlias = Around | Again | Instead


class Invocation(NamedTuple):
    """The innermost step: call the user's function, classify the attempt, and stamp the end of one that raised.

    ``timed``: stamp the end of every attempt.
    """

    classifier: Classifier
    now: Callable[[], float]
    timed: bool = False


class Version:
    """One state of a pipeline, ``current`` until it is folded anew."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current = True


class Entry(NamedTuple):
    """What a decorated function needs to make its calls. Once ``version`` is past, ``long_way`` is called instead."""

    fn: Callable[..., Any]
    operation: str
    clock: Clock
    version: Version
    long_way: Callable[..., Any]


class _Form(NamedTuple):
    """What the text of a fragment depends on.

    ``enter`` and ``exit``: what is written in place of calling them, and ``variables`` what they set.
    """

    kind: type[Fragment]
    parts: tuple[str, ...]
    waits: bool = False
    enter: tuple[str, ...] | None = None
    exit: tuple[str, ...] | None = None
    variables: tuple[str, ...] = ()


class _Shape(NamedTuple):
    fragments: tuple[_Form, ...]
    parameters: tuple[str, ...]
    asynchronous: bool
    timed: bool


def _misused(call: Call, coroutine: "CoroutineType[Any, Any, Any]") -> TypeError:
    coroutine.close()
    name = getattr(call.fn, "__qualname__", repr(call.fn))
    return TypeError(f"{name} returned a coroutine, whose work has not begun; use acall(), or decorate the async def")


def _unawaitable(result: Any) -> bool:
    """Whether the function has returned (``RAISE`` stands for nothing yet) what cannot be awaited."""
    return result is not RAISE and not isawaitable(result)


def _not_async(call: Call) -> TypeError:
    name = getattr(call.fn, "__qualname__", repr(call.fn))
    return TypeError(f"{name} returned nothing to await; use call(), or give acall() an async def")


ALWAYS: Final = {
    "OK": OK,
    "FAILED": FAILED,
    "RAISE": RAISE,
    "Call": Call,
    "coroutine": CoroutineType,
    "misused": _misused,
    "unawaitable": _unawaitable,
    "not_async": _not_async,
}
"""Names that every text may use."""


def fuse(fragments: Sequence[Fragment], inner: Any, *, asynchronous: bool, entry: Entry | None = None) -> Any:
    """A handler that runs ``inner`` (a handler, or an ``Invocation``) inside ``fragments``, the first one outermost.

    With ``entry`` it is a function with the parameters of ``entry.fn`` instead.
    """
    while len(fragments) > FRAGMENTS_LIMIT:
        inner = _filled(fragments[-FRAGMENTS_LIMIT:], inner, asynchronous, None)
        fragments = fragments[:-FRAGMENTS_LIMIT]
    return _filled(fragments, inner, asynchronous, entry)


def _filled(fragments: Sequence[Fragment], inner: Any, asynchronous: bool, entry: Entry | None) -> Any:
    parameters: dict[str, Any] = {}
    forms = []
    for number, fragment in enumerate(fragments):
        form, needed = _formed(fragment, number, asynchronous)
        forms.append(form)
        parameters |= needed
    if isinstance(inner, Invocation):
        parameters |= {"now": inner.now, "of_error": inner.classifier.of_error}
        if inner.classifier.failed is not None:
            parameters["of_result"] = inner.classifier.of_result
    else:
        parameters["inner"] = inner
    if entry is not None:
        parameters |= {**entry._asdict(), "now": entry.clock.now, "deadline": current_deadline}
    shape = _Shape(tuple(forms), tuple(parameters), asynchronous, isinstance(inner, Invocation) and inner.timed)
    try:
        code = _compiled(shape)
    except SyntaxError:  # Python nests blocks and indents lines so far only: then methods are called
        bare = [form._replace(enter=None, exit=None, variables=()) for form in forms]
        code = _compiled(shape._replace(fragments=tuple(bare)))
    # Globals of its own: what a function closes over is copied into its frame at each call.
    namespace = {**ALWAYS, **parameters}
    exec(code, namespace)  # noqa: S102 - our own text, there is no input in it
    run = namespace.pop("run")
    # Code of its own: the interpreter specialises code for what it has met, and others of this shape meet others.
    run.__code__ = run.__code__.replace()
    return run


def _formed(fragment: Fragment, number: int, asynchronous: bool) -> tuple[_Form, dict[str, Any]]:
    """The form of a fragment, and the values of the names in its text."""
    present = {name: part for name, part in fragment._asdict().items() if part is not None and name != "waits"}
    values = {f"{name}{number}": part for name, part in present.items()}
    form = _Form(type(fragment), tuple(present))
    if isinstance(fragment, Around):
        waits = fragment.waits and asynchronous
        form = form._replace(waits=waits)
        token = f"token{number}" if len(present) > 1 else ""
        enter = inline(fragment.enter, (f"gate{number}", "call"), token, f"{number}", asynchronous=waits)
        if enter is not None:
            form = form._replace(enter=enter.lines, variables=enter.variables)
            values |= enter.values
        if fragment.exit is not None:
            leave = inline(fragment.exit, (f"left{number}", "call", token), "", f"{number}x")
            if leave is not None:
                form = form._replace(exit=leave.lines, variables=max(form.variables, leave.variables, key=len))
                values |= leave.values
    return form, values


@lru_cache(SHAPES_LIMIT)
def _compiled(shape: _Shape) -> CodeType:
    wait = "await " if shape.asynchronous else ""
    body = _core(shape, wait)
    for number, form in reversed(tuple(enumerate(shape.fragments))):
        if form.kind is Around:
            body = _around(body, number, form)
        elif form.kind is Again:
            body = _again(body, number, form.parts, wait, _set_inside(shape, number))
        else:
            body = _instead(body, number, form.parts, wait)
    define = "async def" if shape.asynchronous else "def"
    if "fn" in shape.parameters:
        lines = [
            f"{define} run(*args, **kwargs):",
            "    if not version.current:",
            f"        return {wait}long_way(*args, **kwargs)",
            "    call = Call(fn, args, kwargs, operation, clock, now(), deadline())",
        ]
    else:
        lines = [f"{define} run(call):"]
    lines += [*_indented(body), "    return result"]
    text = "\n".join(lines) + "\n"
    # A name in angle brackets that linecache knows: tracebacks and debuggers show the lines.
    name = f"<holdfast {'async ' if shape.asynchronous else ''}pipeline {crc32(text.encode()):08x}>"
    if name not in _SHOWN:
        _SHOWN.append(name)
        if len(_SHOWN) > SHAPES_LIMIT:
            linecache.cache.pop(_SHOWN.popleft(), None)
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    return compile(text, name, "exec")


def _set_inside(shape: _Shape, number: int) -> tuple[str, ...]:
    inner = tuple(enumerate(shape.fragments))[number + 1 :]
    tokens = (f"token{place}" for place, form in inner if form.kind is Around and len(form.parts) > 1)
    return (*tokens, *max((form.variables for _, form in inner), key=len, default=()))


def _core(shape: _Shape, wait: str) -> list[str]:
    if "inner" in shape.parameters:
        return [f"result = {wait}inner(call)"]
    judged = "of_result" in shape.parameters
    entry = "fn" in shape.parameters
    taken = [] if entry else ["    kwargs = call.kwargs"]
    fn, args = ("fn", "args") if entry else ("call.fn", "call.args")
    ended = ["call.now = now()"] if shape.timed or judged else []
    not_async = [
        "    if type(error) is TypeError and error.__traceback__.tb_next is None and unawaitable(result):",
        "        raise not_async(call) from None",
    ]
    return [
        *(["result = RAISE"] if wait else []),
        "try:",
        *taken,
        # Passing an empty dict on costs as much as the call itself.
        f"    result = {fn}(*{args}, **kwargs) if kwargs else {fn}(*{args})",
        *(["    result = await result"] if wait else []),
        *(["    verdict = of_result(result)"] if judged else []),
        "except BaseException as error:",
        *(not_async if wait else []),
        "    call.now = now()",
        "    call.verdict = of_error(error, call)",
        "    raise",
        *([] if wait else ["if type(result) is coroutine:", "    raise misused(call, result)"]),
        *ended,
        f"call.verdict = {'verdict' if judged else 'OK'}",
    ]


def _around(body: list[str], number: int, form: _Form) -> list[str]:
    parts = form.parts
    token = f"token{number}"
    taken = f"{token} = " if len(parts) > 1 else ""
    enter = [f"{taken}{'await ' if form.waits else ''}enter{number}(call)"] if form.enter is None else form.enter
    if parts == ("enter",):
        return [*enter, *body]
    after = [f"exit{number}(call, token{number})"] if "exit" in parts else []
    after += [f"release{number}(token{number})"] if "release" in parts else []
    caught = ["except BaseException:", *_indented(after), "    raise"]
    if "failed" in parts:
        # The traceback keeps this frame, so the frame must keep neither the token (it may hold the task, which holds
        # the exception) nor the other exception: only the garbage collector would free them.
        caught = [
            "except BaseException as error:",
            f"    {token} = failed{number}(call, {token}, error)",
            "    try:",
            f"        if {token} is None:",
            "            raise",
            f"        raise {token} from error",
            "    finally:",
            f"        del {token}",
        ]
    if form.variables:
        caught.insert(1, f"    {' = '.join(form.variables)} = None")  # they may hold the task, too
    return [*enter, "try:", *_indented(body), *caught, *(after if form.exit is None else form.exit)]


def _again(body: list[str], number: int, parts: tuple[str, ...], wait: str, inside: tuple[str, ...]) -> list[str]:
    begin = [f"begin{number}(call)"] if "begin" in parts else []
    if "tally" in parts:
        begin = [f"if began{number} < tally{number}.edge:", f"    tally{number}.count += 1", "else:", *_indented(begin)]
    told = f"tries{number}, began{number}, delay{number}"
    recovered = [f"if delay{number} is not None:", f"    recovered{number}(call)"] if "recovered" in parts else []
    return [
        f"began{number} = call.now",
        *begin,
        f"tries{number} = 1",
        f"delay{number} = None",
        "while True:",
        "    try:",
        *_indented(_indented(body)),
        "    except Exception as error:",
        f"        delay{number} = after_error{number}(call, error, {told})",
        f"        if delay{number} is None:",
        "            raise",
        "    else:",
        "        if call.verdict is not FAILED:",
        *_indented(_indented(_indented(recovered))),
        "            break",
        f"        delay{number} = after_result{number}(call, result, {told})",
        f"        if delay{number} is None:",
        "            break",
        *([f"    {' = '.join(inside)} = None"] if inside else []),  # as in _around
        f"    {wait}sleep{number}(call, delay{number})",
        "    call.again()",
        f"    tries{number} += 1",
    ]


def _instead(body: list[str], number: int, parts: tuple[str, ...], wait: str) -> list[str]:
    after = []
    if "after_result" in parts:
        after += ["if call.verdict is FAILED:", f"    result = {wait}after_result{number}(call, result)"]
    if "keep" in parts:
        after += ["if call.verdict is OK:", f"    keep{number}(call, result)"]
    return [
        "try:",
        *_indented(body),
        "except Exception as error:",
        f"    result = {wait}after_error{number}(call, error)",
        "    if result is RAISE:",
        "        raise",
        *(["else:", *_indented(after)] if after else []),
    ]


def _indented(lines: list[str]) -> list[str]:
    return [INDENT + line for line in lines]
