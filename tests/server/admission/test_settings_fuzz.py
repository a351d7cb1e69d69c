"""Whatever a file holds: it is read, or refused with a message that says where."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from holdfast.core.errors import ConfigError
from holdfast.server.admission.admission import Admission
from holdfast.server.admission.settings import AdmissionSettings, RouteSettings, read_admission, read_routes

KINDS = ("rate_limit", "throttle", "breaker", "bulkhead", "timeout", "retry", "concurrency", "policies", "zzz")
NAMES = (*RouteSettings.__struct_fields__, *AdmissionSettings.__struct_fields__, *KINDS, "rate", "limit", "key")

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(("5/s", "1s", "*", "/a/{b}", "GET /a", "client", "header:x", "unix", "10.0.0.0/8", "critical")),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
routes = st.lists(
    st.one_of(
        values,
        st.fixed_dictionaries(
            {"match": st.sampled_from(("/a", "GET /a", "/{x}", "*", "POST /a/{y...}"))},
            optional={name: values for name in RouteSettings.__struct_fields__ if name != "match"},
        ),
    ),
    max_size=3,
)


@settings(max_examples=examples(200), deadline=None)
@given(values, st.one_of(values, routes))
def test_settings_are_read_or_refused(admission: Any, listed: Any) -> None:
    read, mistake = attempt(read_admission, admission)
    assert mistake.startswith("x.toml admission") or read is not None
    found, mistake = attempt(read_routes, listed)
    assert mistake.startswith("x.toml routes") or found is not None
    if found is not None:
        Admission(read or AdmissionSettings(), found)


def attempt(reader: Callable[[Any, str], Any], data: Any) -> tuple[Any, str]:
    """What ``reader`` makes of ``data``, or the message of its refusal."""
    try:
        return reader(data, "x.toml"), ""
    except ConfigError as error:
        return None, str(error)
