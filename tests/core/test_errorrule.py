from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.codes import Code
from holdfast.core.errorrule import RULES_LIMIT, ErrorRule, read_rules, reason_of, rule_of
from holdfast.core.errors import ConfigError, RateLimited
from holdfast.core.failure import MESSAGE_LIMIT, REASON, REASON_LIMIT

SHOP = "shop.errors:OutOfStock"


def mistake(rules: Any) -> str:
    read, mistakes = read_rules(rules, "holdfast.toml [errors]")
    assert read == {}
    assert len(mistakes) == 1
    return str(mistakes[0])


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("failed_precondition", ErrorRule(Code.FAILED_PRECONDITION)),
        ("Failed_Precondition", ErrorRule(Code.FAILED_PRECONDITION)),
        (Code.NOT_FOUND, ErrorRule(Code.NOT_FOUND)),
        (409, ErrorRule(Code.ABORTED, status=409)),
        (422, ErrorRule(Code.INVALID_ARGUMENT, status=422)),
        ({"status": 404}, ErrorRule(Code.NOT_FOUND, status=404)),
        ({"code": "aborted", "status": 412, "tell": True}, ErrorRule(Code.ABORTED, status=412, tell=True)),
        (
            {"code": "aborted", "reason": "STALE", "message": "Read it again.", "tell": False},
            ErrorRule(Code.ABORTED, reason="STALE", message="Read it again."),
        ),
        ({"status": 400, "message": "x" * MESSAGE_LIMIT}, ErrorRule(Code.INVALID_ARGUMENT, "", "x" * 1000, 400)),
        ({"status": 599, "reason": "A" * REASON_LIMIT}, ErrorRule(Code.INTERNAL, "A" * 63, status=599)),
        (ErrorRule(Code.ABORTED, reason="STALE"), ErrorRule(Code.ABORTED, reason="STALE")),
    ],
)
def test_a_rule_is_a_code_a_status_or_a_table(value: Any, rule: ErrorRule) -> None:
    assert rule_of(value, "x") == rule


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (
            {SHOP: "faild_precondition"},
            f"\"{SHOP}\": got 'faild_precondition', expected the code of an error; did you mean failed_precondition?",
        ),
        (
            {SHOP: {"code": "not found"}},
            f"\"{SHOP}\".code: got 'not found', expected the code of an error; did you mean",
        ),
        ({SHOP: "zzz"}, f"\"{SHOP}\": got 'zzz', expected the code of an error; there are cancelled, unknown, inv"),
        ({SHOP: "ok"}, f"\"{SHOP}\": got 'ok', expected the code of an error"),
        ({SHOP: {"code": 409}}, f'"{SHOP}".code: got 409, expected the code of an error; write status = 409'),
        ({SHOP: 200}, f'"{SHOP}": got 200, expected an error status, 400 to 599'),
        ({SHOP: 399}, f'"{SHOP}": got 399, expected an error status, 400 to 599'),
        ({SHOP: {"status": 600}}, f'"{SHOP}".status: got 600, expected an error status, 400 to 599'),
        ({SHOP: {"status": "404"}}, f"\"{SHOP}\".status: got '404', expected an error status, 400 to 599"),
        ({SHOP: {"status": True}}, f'"{SHOP}".status: got True, expected an error status, 400 to 599'),
        ({SHOP: True}, f'"{SHOP}": got True, expected a code such as failed_precondition, a status'),
        ({SHOP: 4.5}, f'"{SHOP}": got 4.5, expected a code such as failed_precondition, a status'),
        ({SHOP: {}}, f'"{SHOP}": expected a table with a code or a status'),
        (
            {SHOP: {"code": "aborted", "resaon": "A"}},
            f'"{SHOP}".resaon: expected the name of a setting; did you mean reason?',
        ),
        (
            {SHOP: {"code": "aborted", "x": 1}},
            f'"{SHOP}".x: expected the name of a setting; there are code, reason, message, status, tell',
        ),
        (
            {SHOP: {"code": "aborted", "reason": "out of-stock"}},
            f"\"{SHOP}\".reason: got 'out of-stock', expected at most 63 of A-Z, 0-9 and _, such as OUT_OF_STOCK; "
            "did you mean OUT_OF_STOCK?",
        ),
        ({SHOP: {"code": "aborted", "reason": ""}}, f"\"{SHOP}\".reason: got '', expected at most 63"),
        ({SHOP: {"code": "aborted", "reason": 5}}, f'"{SHOP}".reason: got 5, expected at most 63'),
        ({SHOP: {"code": "aborted", "reason": "A" * 64}}, f"\"{SHOP}\".reason: got '{'A' * 64}', expected at most 63"),
        ({SHOP: {"code": "aborted", "message": ""}}, f"\"{SHOP}\".message: got '', expected a text of 1 to 1000"),
        (
            {SHOP: {"code": "aborted", "message": "x" * (MESSAGE_LIMIT + 1)}},
            f'"{SHOP}".message: got \'xxxxx',
        ),
        ({SHOP: {"code": "aborted", "tell": "yes"}}, f"\"{SHOP}\".tell: got 'yes', expected true or false"),
        (
            {"Exception": {"code": "internal", "tell": True}},
            '"Exception".tell: got True, expected false, for its texts may hold secrets',
        ),
        (
            {BaseException: ErrorRule(Code.INTERNAL, tell=True)},
            "BaseException.tell: got True, expected false, for its texts may hold secrets",
        ),
        (
            {"shop.errors.OutOfStock": "aborted"},
            '"shop.errors.OutOfStock": expected the name of an exception, such as shop.errors:OutOfStock; '
            "did you mean shop.errors:OutOfStock?",
        ),
        (
            {"KeyEror": "aborted"},
            '"KeyEror": expected the name of an exception, such as shop.errors:OutOfStock; did you',
        ),
        ({"len": "aborted"}, '"len": expected the name of an exception'),
        ({"Qqqqq": "aborted"}, "such as shop.errors:OutOfStock; write its module before it"),
        ({"": "aborted"}, '"": expected the name of an exception'),
        ({"a:b:c": "aborted"}, '"a:b:c": expected the name of an exception'),
        ({"a-b:C": "aborted"}, '"a-b:C": expected the name of an exception'),
        ({"a:" + "b" * 500: "aborted"}, "expected the name of an exception"),
        ({5: "aborted"}, "errors: got 5, expected an exception class or its name"),
        ({int: "aborted"}, "errors: got <class 'int'>, expected an exception class or its name"),
        (["aborted"], "errors: got ['aborted'], expected a table of exceptions"),
        ({f"a:B{number}": 404 for number in range(RULES_LIMIT + 1)}, "errors: got 1001, expected at most 1000 rules"),
    ],
)
def test_a_mistake_says_where_what_and_what_to_do(rules: Any, said: str) -> None:
    text = mistake(rules)
    assert text.startswith("holdfast.toml [errors] ")
    assert said in text
    assert "\n" not in text


def test_all_mistakes_are_told_and_the_rest_is_read() -> None:
    rules, mistakes = read_rules({"a:B": "aborted", "a:C": "?", "a:D": 9, "KeyError": 404}, "[errors]")
    assert list(rules) == ["a:B", "KeyError"]
    assert [mistake.path for mistake in mistakes] == ['"a:C"', '"a:D"']


def test_a_rule_without_a_reason_takes_it_from_the_name_of_its_class() -> None:
    rules, mistakes = read_rules(
        {
            SHOP: "aborted",
            "a:b.Inner": 404,
            RateLimited: 429,
            "KeyError": 404,
            KeyError: 404,
            "a:C": {"status": 404, "reason": "NO_C"},
        },
        "[errors]",
    )
    assert not mistakes
    reasons = {name: rule.reason for name, rule in rules.items()}
    # The names of Python's own classes say nothing to a client.
    assert reasons == {
        SHOP: "OUT_OF_STOCK",
        "a:b.Inner": "INNER",
        RateLimited: "RATE_LIMITED",
        "KeyError": "",
        KeyError: "",
        "a:C": "NO_C",
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("OutOfStock", "OUT_OF_STOCK"),
        ("OutOfStockError", "OUT_OF_STOCK"),
        ("HTTPException", "HTTP"),
        ("HTTPError", "HTTP"),
        ("BadHTTPHeader2Error", "BAD_HTTP_HEADER2"),
        ("snake_case_error", "SNAKE_CASE_ERROR"),
        ("_Private", "PRIVATE"),
        ("Error", "ERROR"),
        ("ErrorException", "ERROR"),
        ("E", ""),
        ("Ärger", ""),
        ("2Much", ""),
        ("A" * 70, "A" * 63),
        ("A" * 62 + "_B" * 5, "A" * 62),
    ],
)
def test_the_reason_of_a_class_name(name: str, reason: str) -> None:
    assert reason_of(name) == reason


@given(name=st.text())
def test_a_reason_from_any_name_has_the_form_of_one(name: str) -> None:
    reason = reason_of(name)
    assert reason == "" or (REASON.fullmatch(reason) and len(reason) <= REASON_LIMIT)


def test_a_function_is_for_code_only_and_is_kept_as_it_is() -> None:
    assert read_rules({KeyError: len}, "x") == ({KeyError: len}, [])


def test_a_rule_is_checked_like_a_failure() -> None:
    with pytest.raises(ValueError, match="no code"):
        ErrorRule(Code.OK)
    with pytest.raises(ValueError, match="is no reason"):
        ErrorRule(Code.ABORTED, reason="no")
    with pytest.raises(ValueError, match="not an error status"):
        ErrorRule(Code.ABORTED, status=99)


def test_a_mistake_in_code_is_a_config_error_too() -> None:
    with pytest.raises(ConfigError, match=r"^x: got 'abort', expected the code of an error; did you mean aborted\?$"):
        rule_of("abort", "x")
