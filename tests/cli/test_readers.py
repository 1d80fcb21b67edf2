"""Who may only read sees what the operator sees; who is not answered at once asks again."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.conftest import SilentLog

from lightkeeper.client import Client
from lightkeeper.domain.errors import Refused, Unavailable
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    with Instance(Settings(home=tmp_path, port=0), work=False, log=SilentLog()) as instance:
        yield instance


@pytest.mark.feature("S0-042")
def test_a_second_user_lists_and_dumps_a_dataset_and_cannot_change_it(instance: Instance):
    token = (instance.settings.home / "run" / "operator.token").read_text()
    with Client(instance.url, token) as operator, Client(instance.url, "") as reader:
        lfns = [f"/ctao/v/file{n}" for n in range(3)]
        operator.register(({"lfn": lfn, "meta": {"data_level": 1}} for lfn in lfns), virtual=True)
        operator.create_dataset("/ctao/ones", "data_level = 1")
        assert reader.datasets() == operator.datasets()
        assert list(reader.dataset_names("ones")) == lfns
        assert reader.dataset("ones")["files"] == 3
        with pytest.raises(Refused):
            reader.remove_dataset("ones")


class _Late(BaseHTTPRequestHandler):
    """A server that has no answer twice, and then one."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.asked < 3:
            status = 503
            body: object = {"error": {"code": "unavailable", "message": "the database starts", "hint": ""}}
        else:
            status, body = 200, {"status": "ok", "version": "x"}
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.feature("S0-090")
def test_a_server_that_answers_late_is_asked_again_and_one_that_is_not_there_is_told():
    _Late.asked = 0
    with HTTPServer(("127.0.0.1", 0), _Late) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with Client(url, "") as client:
            assert client.health()["status"] == "ok"
        server.shutdown()
    assert _Late.asked == 3
    with Client(url, "") as client, pytest.raises(Unavailable, match="does not answer") as caught:
        client.health()
    assert "is it running?" in caught.value.hint
