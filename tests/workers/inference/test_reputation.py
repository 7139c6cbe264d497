"""What a server's answers say of it: chance counts, poison does not."""

from __future__ import annotations

from workers.inference.reputation import FEWEST, MOST, Reputation


def test_a_server_that_never_failed_is_believed_soon() -> None:
    reputation = Reputation()
    before = reputation.tries
    for _ in range(1000):
        reputation.succeeded(b"", 1)
    assert FEWEST == reputation.tries < before


def test_the_more_a_server_fails_by_chance_the_more_tries_an_item_has() -> None:
    often, mostly = Reputation(), Reputation()
    for _ in range(1000):
        often.succeeded(b"", 1)
        often.succeeded(b"", 2)
        mostly.succeeded(b"", 20)
    assert 10 <= often.tries < mostly.tries == MOST
