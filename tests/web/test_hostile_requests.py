"""Requests that no client of ours sends: each is refused in our words, and nothing happens."""

import pytest
from fastapi.testclient import TestClient
from tests.conftest import World

from lightkeeper.api import make_api

A = "/ctao/a/one"
RULE = '{"name": "r", "query": "level = 0", "copies": 1, %s}'
DATASET = '{"name": "d", "query": "level = 0", %s}'


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("rules", RULE % '"lifetime": 1e308'),
        ("rules", RULE % '"lifetime": Infinity'),
        ("rules", RULE % '"lifetime": NaN'),
        ("rules", RULE % '"min_distance": NaN'),
        ("rules", RULE % '"media": "\\ud800"'),
        ("datasets", DATASET % '"description": "\\ud800"'),
        ("datasets", DATASET % '"description": "\\u0000"'),
        ("datasets/freeze", '{"name": "d", "dry_run": true}'),
        ("datasets/split", '{"name": "d", "fractions": "1E+999999999"}'),
        ("find", '{"query": {"file": [], "op": "="}}'),
        ("find", '{"query": "", "limit": 1e400}'),
        ("metadata", '{"name": "k", "type": "int", "unit": "\\ud800"}'),
        ("files/corrupted", '{"names": ["/ctao/a/one"], "why": "\\ud800"}'),
        ("files/metadata", '{"names": ["/ctao/a/one"], "set": {"number": %s}}' % ("[" * 900 + "]" * 900)),
        ("files/metadata", '{"names": ["/ctao/a/one"], "set": {"number": NaN}}'),
    ],
)
def test_a_hostile_request_is_invalid_and_changes_nothing(world: World, path: str, body: str):
    world.register(A)
    api = TestClient(make_api(world.ctx, "secret"), raise_server_exceptions=False)
    headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
    answer = api.post(f"/api/v1/{path}", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
    assert world.value("SELECT count(*) FROM dataset") == world.value("SELECT count(*) FROM history") == 0
    assert world.value("SELECT count(*) FROM policy") == 2
