from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.server.admission.connections import SEEN_OFF_LIMIT, SHARED, TOGETHER, Connections


def test_a_client_has_as_many_as_it_may_have() -> None:
    connections = Connections(2)
    assert connections.take("a") == "a"
    assert connections.take("a") == "a"
    assert connections.take("a") is None
    assert connections.take("b") == "b"
    assert connections.refused == 1
    connections.give_back("a")
    assert connections.take("a") == "a"


def test_without_a_limit_they_are_counted_all_the_same() -> None:
    connections = Connections()
    for _ in range(1000):
        assert connections.take("a") == "a"
    assert connections.held("a") == 1000
    assert connections.held("b") == 0
    connections.limit = 5
    assert connections.take("a") is None


def test_a_client_that_holds_nothing_is_forgotten() -> None:
    connections = Connections(2)
    for number in range(100):
        key = connections.take(f"c{number}")
        assert key is not None
        connections.give_back(key)
    assert len(connections) == 0


def test_a_full_table_counts_new_clients_together_and_pushes_nobody_out() -> None:
    connections = Connections(1, clients=2)
    assert connections.take("a") == "a"
    assert connections.take("b") == "b"
    assert connections.take("c") == TOGETHER
    assert connections.take("c") == TOGETHER
    assert connections.take("a") is None
    assert connections.crowded == 2
    assert len(connections) == 3
    for _ in range(SHARED - 2):
        assert connections.take("d") == TOGETHER
    assert connections.take("e") is None
    connections.give_back(TOGETHER)
    assert connections.take("e") == TOGETHER
    connections.give_back("a")
    for _ in range(SHARED):
        connections.give_back(TOGETHER)
    assert connections.take("c") == "c"


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3), st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=60))
def test_no_table_grows_and_no_count_is_wrong(limit: int, steps: list[tuple[str, bool]]) -> None:
    connections = Connections(limit, clients=4)
    held: list[str] = []
    for key, leave in steps:
        if leave and held:
            connections.give_back(held.pop(0))
        else:
            taken = connections.take(key)
            if taken is not None:
                held.append(taken)
        for name in set(held):
            assert connections.held(name) == held.count(name)
            if limit and name != TOGETHER:
                assert held.count(name) <= limit
        assert len(connections) == len(set(held)) <= 5
    for key in held:
        connections.give_back(key)
    assert len(connections) == 0


def test_only_so_many_refused_connections_are_seen_off_at_a_time() -> None:
    connections = Connections(1)
    assert [connections.see_off() for _ in range(SEEN_OFF_LIMIT + 2)] == [True] * SEEN_OFF_LIMIT + [False] * 2
    connections.seen_off()
    assert connections.see_off()
    assert not connections.see_off()
    for _ in range(SEEN_OFF_LIMIT):
        connections.seen_off()
    assert connections.leaving == 0
