"""Where secrets come from, and that they stay where they are used."""

import json
import traceback

import pytest

from lightkeeper.adapters.credentials import ANONYMOUS, Secret, credentials_of
from lightkeeper.domain.errors import Invalid, LightkeeperError, Refused


@pytest.fixture
def write(tmp_path, monkeypatch):
    file = tmp_path / "credentials"
    monkeypatch.setenv("LIGHTKEEPER_CREDENTIALS", str(file))

    def write(text, mode=0o600):
        file.write_text(text)
        file.chmod(mode)
        return file

    return write


def test_without_file_or_entry_a_storage_is_used_anonymously(write, monkeypatch):
    assert credentials_of("x") == ANONYMOUS
    for text in ("", "other: {user: ada, password: x}"):
        write(text)
        assert credentials_of("x") == ANONYMOUS
    monkeypatch.delenv("LIGHTKEEPER_CREDENTIALS")
    assert credentials_of("other") == ANONYMOUS


def test_yaml_and_json_say_the_same(write):
    entry = {"access_key": "key-canary", "secret_key": "s3cret-canary", "ca": "/ca.pem"}
    write(json.dumps({"x": entry}))
    from_json = credentials_of("x")
    write("x:\n  access_key: key-canary\n  secret_key: s3cret-canary\n  ca: /ca.pem\n")
    assert credentials_of("x") == from_json
    assert from_json.secret_key.reveal() == "s3cret-canary"
    assert from_json.identifying


def test_a_changed_file_is_read_again(write):
    write("x: {user: ada, password: a}")
    assert credentials_of("x").password == Secret("a")
    write("x: {user: ada, password: bb}")
    assert credentials_of("x").password == Secret("bb")


def test_nothing_secret_is_shown(write):
    write("x: {user: ada, password: s3cret-canary}\ny: {access_key: key-canary, secret_key: s3cret-canary}")
    for name in "xy":
        found = credentials_of(name)
        assert "canary" not in f"{found!r} {found} {found.password!r} {found.secret_key}"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o644])
def test_a_file_that_others_may_read_is_refused(write, mode):
    file = write("x: {user: ada, password: s3cret-canary}", mode)
    with pytest.raises(Refused, match="others may read the credentials") as caught:
        credentials_of("x")
    assert caught.value.hint == f"chmod 600 {file}"


@pytest.mark.parametrize(
    "text",
    [
        "x: {user: ada, password: s3cret-canary",
        "x: s3cret-canary",
        "- s3cret-canary",
        "s3cret-canary",
        "x: {pasword: s3cret-canary}",
        "x: {user: ada}",
        "x: {user: ada, password: 5}",
        "x: {password: s3cret-canary}",
        "x: {access_key: key-canary}",
        "x: {certificate: /c.pem}",
        "x: {token_file: s3cret-canary}",
        "x: {token_file: /t, user: ada, password: s3cret-canary}",
        "x: !!python/object/apply:os.system ['echo s3cret-canary']",
        "1: {}",
        "a: &a [s3cret-canary, *a, *b]",
        "x: \x00s3cret-canary",
    ],
)
def test_a_file_that_does_not_say_what_it_must_is_refused_without_telling_it(write, text):
    write(text)
    with pytest.raises(Invalid) as caught:
        credentials_of("x")
    frames = [
        frame
        for frame, _ in traceback.walk_tb(caught.value.__traceback__)
        if "credentials.py" in frame.f_code.co_filename
    ]
    assert "canary" not in str([frame.f_locals for frame in frames if "test_" not in frame.f_code.co_filename])
    shown = caught.value.message + caught.value.hint + "".join(traceback.format_exception(caught.value))
    assert "canary" not in shown.replace(text, "")


def test_a_token_is_read_from_its_file_each_time(write, tmp_path):
    token = tmp_path / "token"
    token.write_text("t0ken-canary\n")
    token.chmod(0o600)
    write(f"x: {{token_file: {token}}}")
    assert credentials_of("x").token() == Secret("t0ken-canary")
    token.write_text("second")
    assert credentials_of("x").token().reveal() == "second"
    token.unlink()
    with pytest.raises(LightkeeperError, match="token file"):
        credentials_of("x").token()
