import pytest

from holdfast.core.errors import ConfigError
from holdfast.server.admission.patterns import Headers, parse_pattern
from holdfast.server.admission.routes import HOSTS_REMEMBERED, ROUTES_LIMIT, RouteTable


def table(*texts: str) -> RouteTable[str]:
    return RouteTable((parse_pattern(text), text) for text in texts)


def test_text_goes_before_a_placeholder_and_that_before_the_rest() -> None:
    routes = table("*", "/{path...}", "/a/{path...}", "/a/{x}", "/a/b", "/a")
    assert routes.match("GET", "/a/b") == "/a/b"
    assert routes.match("GET", "/a/c") == "/a/{x}"
    assert routes.match("GET", "/a/b/c") == "/a/{path...}"
    assert routes.match("GET", "/a") == "/a"
    assert routes.match("GET", "/") == "/{path...}"
    assert routes.match("OPTIONS", "*") == "*"


def test_the_first_segment_that_differs_decides() -> None:
    routes = table("/a/{x}/{y}", "/{z}/b/c", "/a/{path...}")
    assert routes.match("GET", "/a/b/c") == "/a/{x}/{y}"
    assert routes.match("GET", "/x/b/c") == "/{z}/b/c"
    assert routes.match("GET", "/a/b/c/d") == "/a/{path...}"


def test_what_fits_further_down_only_is_found_again() -> None:
    routes = table("/a/b/c", "/a/{x}/d", "/{y}/b/e", "/{z...}")
    assert routes.match("GET", "/a/b/d") == "/a/{x}/d"
    assert routes.match("GET", "/a/b/e") == "/{y}/b/e"
    assert routes.match("GET", "/a/b/f") == "/{z...}"


def test_the_order_in_which_they_are_written_says_nothing() -> None:
    texts = ["/a/{x}", "/a/b", "POST /a/b", "/{p...}"]
    for routes in (table(*texts), table(*reversed(texts))):
        assert routes.match("POST", "/a/b") == "POST /a/b"
        assert routes.match("GET", "/a/b") == "/a/b"


def test_the_path_goes_before_the_method() -> None:
    routes = table("/a/b", "POST /a/{x}")
    assert routes.match("POST", "/a/b") == "/a/b"


def test_a_route_for_other_methods_does_not_hide_one_that_is_less_specific() -> None:
    routes = table("POST /a/b", "/a/{x}", "DELETE *")
    assert routes.match("GET", "/a/b") == "/a/{x}"
    assert routes.match("DELETE", "/elsewhere") == "DELETE *"
    assert routes.match("GET", "/elsewhere") is None


def test_a_head_is_a_get_unless_a_route_names_it() -> None:
    routes = table("GET /a", "/a", "GET /b", "HEAD /b", "/c")
    assert routes.match("HEAD", "/a") == "GET /a"
    assert routes.match("HEAD", "/b") == "HEAD /b"
    assert routes.match("GET", "/b") == "GET /b"
    assert routes.match("HEAD", "/c") == "/c"
    assert routes.match("PUT", "/a") == "/a"


def test_the_rest_may_be_nothing() -> None:
    routes = table("GET /static/{path...}")
    for path in ("/static", "/static/", "/static/a", "/static/a/b/"):
        assert routes.match("GET", path) == "GET /static/{path...}"
    assert routes.match("GET", "/statics") is None


def test_empty_segments_do_not_lead_around_a_route() -> None:
    routes = table("POST /orders", "/orders/{id}", "/")
    for path in ("/orders", "/orders/", "//orders", "///orders//"):
        assert routes.match("POST", path) == "POST /orders"
    assert routes.match("GET", "/orders//7") == "/orders/{id}"
    assert routes.match("GET", "//") == "/"
    assert routes.match("GET", "/") == "/"


def test_the_decoded_path_is_what_counts() -> None:
    # The app gets "/a/b" for "/a%2Fb", and routes by it.
    routes = table("/a/{x}", "/a/b")
    assert routes.match("GET", "/a/b") == "/a/b"
    assert routes.match("GET", "/a/%62") == "/a/{x}"  # from "/a/%2562": the app does not decode twice either


def test_dots_and_capitals_are_as_they_are() -> None:
    routes = table("/admin", "/public/{path...}")
    assert routes.match("GET", "/public/../admin") == "/public/{path...}"
    assert routes.match("GET", "/./admin") is None
    assert routes.match("GET", "/Admin") is None


def test_what_is_no_path_fits_anything_only() -> None:
    assert table("/{path...}").match("OPTIONS", "*") is None
    assert table("/{path...}").match("GET", "") is None
    assert table("OPTIONS *").match("OPTIONS", "*") == "OPTIONS *"


def test_a_host_goes_before_the_path() -> None:
    routes = RouteTable(
        [
            (parse_pattern("/a"), "any"),
            (parse_pattern("/{path...}", "*.example.org"), "below"),
            (parse_pattern("/{path...}", "*.shop.example.org"), "further below"),
            (parse_pattern("/b", "shop.example.org"), "exact"),
        ]
    )
    assert routes.match("GET", "/a", "elsewhere.org") == "any"
    assert routes.match("GET", "/a", "x.example.org") == "below"
    assert routes.match("GET", "/a", "X.Example.ORG:8000") == "below"
    assert routes.match("GET", "/a", "shop.example.org") == "below"
    assert routes.match("GET", "/a", "x.y.shop.example.org.") == "further below"
    assert routes.match("GET", "/b", "shop.example.org") == "exact"
    assert routes.match("GET", "/a", "example.org") == "any"
    assert routes.match("GET", "/b", "example.org") is None
    assert routes.match("GET", "/b", "") is None


def test_hosts_of_any_number_and_length_take_no_more_memory() -> None:
    routes = RouteTable([(parse_pattern("/", "*.example.org"), "x")])
    for number in range(HOSTS_REMEMBERED * 3):
        assert routes.match("GET", "/", f"h{number}.example.org") == "x"
        assert routes.match("GET", "/", "." * 10_000 + f"{number}.example.org") is None
    assert 0 < len(routes._known) <= HOSTS_REMEMBERED
    assert routes.match("GET", "/", "H.example.org") == "x"
    assert "H.example.org" in routes._known


def test_headers_narrow_a_route() -> None:
    routes = RouteTable(
        [
            (parse_pattern("/a"), "plain"),
            (parse_pattern("/a", headers={"x-v": "*"}), "any version"),
            (parse_pattern("/a", headers={"x-v": "2"}), "version 2"),
            (parse_pattern("/a", headers={"x-v": "3"}), "version 3"),
            (parse_pattern("/a", headers={"x-v": "2", "x-w": "*"}), "both"),
        ]
    )
    cases: list[tuple[Headers, str]] = [
        ([], "plain"),
        ([(b"x-w", b"1")], "plain"),
        ([(b"x-v", b"1")], "any version"),
        ([(b"x-v", b"2")], "version 2"),
        ([(b"x-v", b"3")], "version 3"),
        ([(b"x-v", b"3"), (b"x-v", b"2")], "version 3"),
        ([(b"x-w", b""), (b"x-v", b"2")], "both"),
    ]
    for headers, wanted in cases:
        assert routes.match("GET", "/a", "", headers) == wanted


def test_a_method_goes_before_headers() -> None:
    routes = RouteTable(
        [(parse_pattern("POST /a"), "method"), (parse_pattern("/a", headers={"x": "1", "y": "1"}), "headers")]
    )
    assert routes.match("POST", "/a", "", [(b"x", b"1"), (b"y", b"1")]) == "method"
    assert routes.match("GET", "/a", "", [(b"x", b"1"), (b"y", b"1")]) == "headers"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/a/{b}", "/a/{c}"),
        ("GET /a", "GET|POST /a"),
        ("GET|HEAD /a", "HEAD /a"),
        ("/a/{b...}", "/a/{c...}"),
        ("GET *", "GET|PUT *"),
    ],
)
def test_routes_that_cannot_be_told_apart_are_refused_with_both_names(one: str, other: str) -> None:
    with pytest.raises(ConfigError) as caught:
        table("/first", one, other)
    assert caught.value.path == "routes[2].match"
    assert f"{other} and {one} are equally specific" in str(caught.value)


def test_the_same_route_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"routes\[1\]\.match: got 'GET /a', expected each route once"):
        table("GET /a", "GET /a")


def test_headers_that_may_come_together_are_ambiguous() -> None:
    with pytest.raises(ConfigError, match="equally specific"):
        RouteTable([(parse_pattern("/", headers={"x": "1"}), 1), (parse_pattern("/", headers={"y": "1"}), 2)])
    with pytest.raises(ConfigError, match="equally specific"):
        RouteTable([(parse_pattern("/", headers={"x": "*"}), 1), (parse_pattern("/", headers={"y": "*"}), 2)])


def test_what_no_request_can_be_is_not_ambiguous() -> None:
    table("GET /a", "POST /a", "HEAD /a", "/a", "/a/{b}", "/a/b", "/a/{b...}")
    RouteTable([(parse_pattern("/", headers={"x": "1"}), 1), (parse_pattern("/", headers={"x": "2"}), 2)])
    RouteTable([(parse_pattern("/", "a.org"), 1), (parse_pattern("/", "*.a.org"), 2), (parse_pattern("/"), 3)])
    RouteTable([(parse_pattern("GET /", headers={"x": "1"}), 1), (parse_pattern("POST /", headers={"y": "1"}), 2)])


def test_the_number_of_routes_is_bounded() -> None:
    with pytest.raises(ConfigError, match=f"at most {ROUTES_LIMIT} routes"):
        table(*(f"/a{number}" for number in range(ROUTES_LIMIT + 1)))
    assert len(table(*(f"/a{number}" for number in range(ROUTES_LIMIT))).patterns) == ROUTES_LIMIT


def test_an_empty_table_matches_nothing() -> None:
    assert table().match("GET", "/a/b/c") is None
    assert table().explain("GET", "/") == []


def test_it_explains_which_route_is_taken_and_why_not_the_others() -> None:
    routes = RouteTable(
        [
            (parse_pattern("*"), 0),
            (parse_pattern("/a/{x}"), 1),
            (parse_pattern("POST /a/b"), 2),
            (parse_pattern("/a/b"), 3),
            (parse_pattern("/b"), 4),
            (parse_pattern("/a/b", "x.org"), 5),
            (parse_pattern("/a/b", headers={"x-v": "2"}), 6),
            (parse_pattern("/a/b", headers={"x-v": "*", "x-w": "*"}), 7),
        ]
    )
    assert {(reason.fits, reason.taken, reason.why) for reason in routes.explain("GET", "/a/b")} == {
        (True, True, "the most specific that fits"),
        (True, False, "/a/b has the more specific path"),
        (False, False, "the method is not POST"),
        (False, False, "the path is another one"),
        (False, False, "the header x-v is not 2"),
        (False, False, "the header x-v is not *"),
        (False, False, "the host is not x.org"),
    }
    first = routes.explain("GET", "/a/b", "X.org", [(b"x-v", b"2")])[0]
    assert (first.pattern.host, first.taken) == ("x.org", True)
    why = {reason.pattern.text: reason.why for reason in routes.explain("POST", "/a/b", "", [(b"x-v", b"2")])}
    assert why["POST /a/b"] == "the most specific that fits"
    assert why["/a/{x}"] == "POST /a/b has the more specific path"
    assert "POST /a/b has the more specific method" in [
        reason.why for reason in routes.explain("POST", "/a/b", "", [(b"x-v", b"2")])
    ]


def test_what_it_explains_is_what_it_takes() -> None:
    listed = [
        parse_pattern("*"),
        parse_pattern("/{path...}"),
        parse_pattern("/a/{path...}"),
        parse_pattern("/"),
        parse_pattern("/a"),
        parse_pattern("/{path...}", "*.x.org"),
        parse_pattern("/{path...}", "a.x.org"),
    ]
    for patterns in (listed, listed[::-1]):
        routes = RouteTable([(pattern, pattern) for pattern in patterns])
        for path, host in (
            ("/", ""),
            ("/a", ""),
            ("/a/b", ""),
            ("/b", ""),
            ("*", ""),
            ("/", "a.x.org"),
            ("/", "b.x.org"),
        ):
            taken = [reason.pattern for reason in routes.explain("GET", path, host) if reason.taken]
            assert taken == [routes.match("GET", path, host)]


def test_a_path_of_any_depth_takes_no_longer_than_its_length() -> None:
    # Each of these nodes could be tried again for each segment, if what failed were not left behind.
    texts = ["/" + "/".join(f"{{x{n}}}" if mask >> n & 1 else "a" for n in range(8)) + "/end" for mask in range(256)]
    routes = table(*texts)
    visits = 0

    class Counted(str):
        __slots__ = ()

        def __hash__(self) -> int:
            nonlocal visits
            visits += 1
            return super().__hash__()

    trie = routes._any
    assert trie.find([Counted("a")] * 8 + ["no"], "GET", ()) is None
    assert visits <= 2**8
    assert routes.match("GET", "/a" * 8 + "/end") == texts[0]
    assert routes.match("GET", "/a" * 30_000) is None


@pytest.mark.parametrize("path", ["/orders\n", "/orders/\n", "//orders\n"])
def test_a_newline_at_the_end_passes_no_route_by(path: str) -> None:
    pattern = parse_pattern("/orders")
    assert RouteTable([(pattern, "here")]).match("GET", path) == "here"
    assert pattern.has_path(path)
    assert RouteTable([(pattern, "here")]).match("GET", "/orders\n\n") is None, "nor would a router take it"
