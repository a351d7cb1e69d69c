import pytest

from holdfast.core.errors import ConfigError
from holdfast.server.admission.patterns import (
    HEADERS_LIMIT,
    HOST_LIMIT,
    METHODS_LIMIT,
    NAME_LIMIT,
    PATTERN_LIMIT,
    SEGMENTS_LIMIT,
    Pattern,
    parse_pattern,
    plain_host,
)


def test_a_pattern_is_methods_and_a_path() -> None:
    pattern = parse_pattern("GET|POST /orders/{id}/items/{rest...}")
    assert pattern.methods == {"GET", "POST"}
    assert pattern.segments == ("orders", None, "items")
    assert pattern.rest
    assert not pattern.anywhere


def test_a_pattern_without_methods_is_for_all() -> None:
    assert parse_pattern("/health") == Pattern("/health", frozenset(), ("health",))
    assert parse_pattern("/") == Pattern("/")
    assert parse_pattern("*") == Pattern("*", anywhere=True)
    assert parse_pattern("  GET   /a ").text == "GET /a"


def test_get_brings_head_along_but_is_not_named_for_it() -> None:
    pattern = parse_pattern("GET /a")
    assert [pattern.naming(method) for method in ("GET", "HEAD", "POST")] == [3, 2, 0]
    assert parse_pattern("GET|HEAD /a").naming("HEAD") == 3
    assert parse_pattern("/a").naming("POST") == 1
    assert parse_pattern("HEAD /a").naming("GET") == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a method and a path"),
        ("GET /a /b", "a method and a path"),
        (3, "a pattern"),
        ("orders", "begins with /"),
        ("GET orders", "begins with /"),
        ("get /orders", "write GET"),
        ("GET|get /orders", "methods in capitals"),
        ("GET,POST /orders", "several are written GET|POST"),
        ("GET| /orders", "methods in capitals"),
        ("GET|GET /orders", "each method once"),
        ("|".join(["A" * (n + 1) for n in range(METHODS_LIMIT + 1)]) + " /a", f"at most {METHODS_LIMIT} methods"),
        ("/orders?x=1", "queries are not looked at"),
        ("/orders#x", "without ? and #"),
        ("/caf%C3%A9", "write the character in place of its %-form"),
        ("/orders/", "/orders/{path...} all that is below it too"),
        ("//", "/{path...} all that is below it too"),
        ("/a//b", "one slash"),
        ("/a/{id}.json", "{id}.json is neither"),
        ("/a/{id:int}", "{id:int} is neither"),
        ("/a/{}", "{} is neither"),
        ("/a/b}", "b} is neither"),
        ("/a/{id}/{id}", "id is there twice"),
        ("/a/{rest...}/b", "nothing behind {rest...}"),
        ("/" + "/".join("a" * (SEGMENTS_LIMIT + 1)), f"at most {SEGMENTS_LIMIT} segments"),
        ("/{" + "a" * (NAME_LIMIT + 1) + "}", f"at most {NAME_LIMIT} characters"),
        ("/" + "a" * PATTERN_LIMIT, f"at most {PATTERN_LIMIT} characters"),
    ],
)
def test_a_pattern_that_cannot_be_is_refused_with_advice(text: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_pattern(text, where="routes[2].match")
    assert caught.value.path == "routes[2].match"
    assert says in str(caught.value)


def test_what_is_just_within_the_limits_is_taken() -> None:
    assert len(parse_pattern("/" + "/".join("a" * SEGMENTS_LIMIT)).segments) == SEGMENTS_LIMIT
    assert parse_pattern("/{" + "a" * NAME_LIMIT + "}").segments == (None,)
    assert len(parse_pattern("/" + "a" * (PATTERN_LIMIT - 1)).text) == PATTERN_LIMIT
    methods = "|".join(["A" * (n + 1) for n in range(METHODS_LIMIT)])
    assert len(parse_pattern(f"{methods} /a").methods) == METHODS_LIMIT


def test_a_percent_sign_that_encodes_nothing_is_a_character() -> None:
    assert parse_pattern("/100%").segments == ("100%",)


def test_hosts_are_names_without_a_port() -> None:
    assert parse_pattern("/", "Shop.Example.ORG.").host == "shop.example.org"
    assert parse_pattern("/", "*.example.org").host == "*.example.org"
    assert parse_pattern("/", "[2001:DB8::1]").host == "[2001:db8::1]"
    for wrong in ("a:80", "*", "a.*.org", "*a.org", "a b", ".org", "a..b", "http://a", "x" * (HOST_LIMIT + 1)):
        with pytest.raises(ConfigError, match="a name such as") as caught:
            parse_pattern("/", wrong, where="routes[0].match")
        assert caught.value.path == "routes[0].host"
    longest = "x" * HOST_LIMIT
    assert parse_pattern("/", longest).host == longest
    with pytest.raises(ConfigError, match="the name of a host"):
        parse_pattern("/", 3)  # type: ignore[arg-type]


def test_headers_are_names_and_values_in_ascii() -> None:
    pattern = parse_pattern("/", headers={"X-Version": "2", "x-debug": "*"})
    assert pattern.headers == ((b"x-debug", None), (b"x-version", b"2"))
    assert pattern.demand == (2, 1)
    assert len(parse_pattern("/", headers={f"x{n}": "1" for n in range(HEADERS_LIMIT)}).headers) == HEADERS_LIMIT
    wrong = ({"x y": "1"}, {3: "1"}, {"x": 1}, {"x": "é"}, {"x": "a\nb"}, {"x": " a"}, {"x": "1", "X": "2"})
    for headers in (*wrong, {f"x{n}": "1" for n in range(HEADERS_LIMIT + 1)}, "x"):
        with pytest.raises(ConfigError) as caught:
            parse_pattern("/", headers=headers, where="routes[0].match")  # type: ignore[arg-type]
        assert caught.value.path.startswith("routes[0].headers")


def test_a_host_is_compared_without_case_port_and_trailing_dot() -> None:
    assert plain_host("Shop.Example.org:8080") == "shop.example.org"
    assert plain_host("shop.example.org.") == "shop.example.org"
    assert plain_host("shop.example.org.:80") == "shop.example.org"
    assert plain_host("[::1]:80") == "[::1]"
    assert plain_host("[::1") == ""
    assert plain_host("") == ""
    assert plain_host("a" * HOST_LIMIT + ".:65535") == "a" * HOST_LIMIT
    assert plain_host("a" * 1000) == ""


def test_the_plain_matcher_goes_by_the_same_rules() -> None:
    assert parse_pattern("*").has_path("*")
    assert parse_pattern("*").has_path("/a")
    assert not parse_pattern("/{rest...}").has_path("*")
    assert not parse_pattern("/{rest...}").has_path("")
    assert parse_pattern("/{rest...}").has_path("/")
    assert parse_pattern("/a/{x}").has_path("//a/b/")
    assert not parse_pattern("/a/{x}").has_path("/a")
    assert not parse_pattern("/a").has_path("/a/b")


def test_a_wildcard_host_is_for_all_names_below_it_and_not_for_itself() -> None:
    pattern = parse_pattern("/", "*.example.org")
    assert pattern.has_host("a.example.org")
    assert pattern.has_host("a.b.example.org")
    assert not pattern.has_host("example.org")
    assert not pattern.has_host("badexample.org")
    assert parse_pattern("/").has_host("")


def test_it_says_what_it_is() -> None:
    pattern = parse_pattern("GET /a", "a.org", {"x": "1", "y": "*"})
    assert str(pattern) == "GET /a (host a.org, x: 1, y: *)"
    assert str(parse_pattern("GET /a")) == "GET /a"
