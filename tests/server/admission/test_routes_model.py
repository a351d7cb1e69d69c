"""The table beside a matcher that asks each route, and compares what fits pair by pair, as the rules are written."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from holdfast.core.errors import ConfigError
from holdfast.server.admission.patterns import Headers, Pattern, parse_pattern
from holdfast.server.admission.routes import RouteTable

SEGMENTS = ("a", "b", "c")
METHODS = ("GET", "HEAD", "POST")
HOSTS = ("", "x.org", "*.org", "*.x.org")


def fits(pattern: Pattern, method: str, path: str, host: str, headers: Headers) -> bool:
    text = pattern.text.split()[-1]
    if pattern.host and not (host.endswith(pattern.host[1:]) if pattern.host[0] == "*" else host == pattern.host):
        return False
    if pattern.methods and method not in pattern.methods and not (method == "HEAD" and "GET" in pattern.methods):
        return False
    for name, value in pattern.headers:
        given_values = [found for other, found in headers if other == name]
        if not given_values or (value is not None and given_values[0] != value):
            return False
    if text == "*":
        return True
    wanted = [part for part in text.split("/") if part]
    parts = [part for part in path.split("/") if part]
    for number, part in enumerate(wanted):
        if part.endswith("...}"):
            return True
        if number >= len(parts) or (not part.startswith("{") and part != parts[number]):
            return False
    return len(parts) == len(wanted)


def beats(one: Pattern, other: Pattern, method: str) -> bool:
    """Whether ``one`` goes before ``other``, when both fit."""
    hosts = [(2 if p.host and p.host[0] != "*" else 1 if p.host else 0, len(p.host)) for p in (one, other)]
    if hosts[0] != hosts[1]:
        return hosts[0] > hosts[1]
    texts = [p.text.split()[-1] for p in (one, other)]
    if "*" in texts and texts[0] != texts[1]:
        return texts[1] == "*"
    split = [[part for part in text.split("/") if part] for text in texts]
    for left, right in zip(*split, strict=False):
        kinds = [2 if not p.startswith("{") else 0 if p.endswith("...}") else 1 for p in (left, right)]
        if kinds[0] != kinds[1]:
            return kinds[0] > kinds[1]
        if kinds[0] == 0:
            break
    else:
        if len(split[0]) != len(split[1]):  # only a rest that is nothing can be there in one and not in the other
            return len(split[0]) < len(split[1])
    named = [0 if not p.methods else 2 if method in p.methods else 1 for p in (one, other)]
    if named[0] != named[1]:
        return named[0] > named[1]
    asked = [(len(p.headers), len([v for _, v in p.headers if v is not None])) for p in (one, other)]
    return asked[0] > asked[1]


def best(patterns: Sequence[Pattern], method: str, path: str, host: str, headers: Headers) -> list[Pattern]:
    fitting = [p for p in patterns if fits(p, method, path, host, headers)]
    return [p for p in fitting if not any(beats(other, p, method) for other in fitting if other is not p)]


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    parts = draw(st.lists(st.sampled_from((*SEGMENTS, "{}", "{}")), max_size=4))
    path = "/" + "/".join(part if part != "{}" else f"{{p{n}}}" for n, part in enumerate(parts))
    if draw(st.booleans()):
        path = path.rstrip("/") + "/{rest...}"
    if draw(st.integers(0, 9)) == 0:
        path = "*"
    methods = draw(st.lists(st.sampled_from(METHODS), max_size=2, unique=True))
    headers = draw(st.dictionaries(st.sampled_from(("x", "y")), st.sampled_from(("1", "2", "*")), max_size=2))
    host = draw(st.sampled_from(HOSTS))
    return parse_pattern(f"{'|'.join(methods)} {path}".strip(), host, headers)


requests = st.tuples(
    st.sampled_from((*METHODS, "PUT")),
    st.lists(st.sampled_from((*SEGMENTS, "", "z")), max_size=6).map(lambda parts: "/" + "/".join(parts)),
    st.sampled_from(("x.org", "y.x.org", "y.org", "org", "")),
    st.lists(st.tuples(st.sampled_from((b"x", b"y")), st.sampled_from((b"1", b"2", b"3"))), max_size=3),
)


def built(listed: Sequence[Pattern]) -> RouteTable[Pattern]:
    """A table of those that it takes, one after the other."""
    taken: list[Pattern] = []
    for pattern in listed:
        try:
            RouteTable([(other, other) for other in (*taken, pattern)])
        except ConfigError:
            continue
        taken.append(pattern)
    return RouteTable([(pattern, pattern) for pattern in taken])


@settings(max_examples=examples(120), deadline=None)
@given(st.lists(patterns(), max_size=10), st.lists(requests, min_size=1, max_size=12))
def test_the_table_finds_what_asking_each_route_finds(
    listed: list[Pattern], asked: list[tuple[str, str, str, list[tuple[bytes, bytes]]]]
) -> None:
    table = built(listed)
    for method, path, host, headers in asked:
        wanted = best(table.patterns, method, path, host, headers)
        assert len(wanted) <= 1, "two routes that the table should have refused"
        found = table.match(method, path, host, headers)
        assert found is (wanted[0] if wanted else None)
        taken = [reason.pattern for reason in table.explain(method, path, host, headers) if reason.taken]
        assert taken == wanted


@settings(max_examples=examples(120), deadline=None)
@given(patterns(), patterns(), st.lists(requests, min_size=1, max_size=12))
def test_what_is_refused_is_ambiguous_for_some_request(
    one: Pattern, other: Pattern, asked: list[tuple[str, str, str, list[tuple[bytes, bytes]]]]
) -> None:
    try:
        RouteTable([(one, 1), (other, 2)])
    except ConfigError:
        # A request that is made to fit both: then neither goes before the other.
        parts = [part if part[0] != "{" else "q" for part in one.text.split()[-1].split("/") if part and part != "*"]
        path = "/" + "/".join("q" if part.endswith("...}") else part for part in parts)
        host = one.host.replace("*", "any")
        wanted = dict(one.headers)
        for name, value in other.headers:
            wanted[name] = wanted.get(name) or value
        headers = [(name, value or b"1") for name, value in wanted.items()]
        methods = (one.methods & other.methods) or {"PUT"}
        for method in methods:
            assert len(best([one, other], method, path, host, headers)) == 2
    else:
        for request in asked:
            assert len(best([one, other], *request)) <= 1


@settings(max_examples=examples(200), deadline=None)
@given(st.text(alphabet="/a.%{}~\\\x00é", max_size=200), st.text(max_size=40))
def test_no_path_and_no_host_make_it_fail(path: str, host: str) -> None:
    table = built([parse_pattern(text) for text in ("/a/{b}/a", "/a", "/{c...}", "/a/a/{d...}")])
    found = table.match("GET", path, host)
    assert (found is not None) == path.startswith("/")
