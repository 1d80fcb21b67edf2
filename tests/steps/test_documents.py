"""Documents are read in a process that can open nothing and is ended when it does not come back."""

import pytest
from tests.steps import odd_readers

from lightkeeper.domain.errors import Invalid, NotFound
from lightkeeper.steps.documents import MAX_DOCUMENT, Helper, read_document
from lightkeeper.testing.observatory import PlainObservatory


@pytest.fixture(scope="module")
def helper():
    helper = Helper(seconds=3, memory=1 << 30)
    yield helper
    helper.end()


def dataset(name):
    raise NotFound(f"there is no dataset '{name}'")


def read(helper, observatory, document="", sandbox=None, dataset=dataset):
    return helper.plan(observatory, document, sandbox or {}, dataset)


def test_a_reader_can_open_no_file_and_no_connection(helper):
    assert "Too many open files" in read(helper, odd_readers.ReadsFiles()).campaign
    assert "Too many open files" in read(helper, odd_readers.Connects()).campaign


@pytest.mark.parametrize("observatory", [odd_readers.Grows(), odd_readers.NeverEnds(), odd_readers.Dies()])
def test_a_reader_that_does_not_come_back_is_ended_and_the_next_document_is_read(helper, observatory):
    with pytest.raises(Invalid) as caught:
        read(helper, observatory)
    assert caught.value.message == "the document could not be read within 3 seconds and 1024 MB"
    assert read(helper, PlainObservatory(), '{"steps": [{"group_size": 2}]}').steps[0].group_size == 2


def test_a_reader_sees_no_secret_of_the_program_that_started_it(helper, monkeypatch):
    monkeypatch.setenv("LIGHTKEEPER_SECRET", "light")
    helper.end()
    assert "LIGHTKEEPER_SECRET" not in read(helper, odd_readers.TellsEnvironment()).campaign


def test_a_reader_is_handed_what_lies_beside_and_asks_for_datasets(helper):
    told = read(helper, odd_readers.Asks(), sandbox={"beside.txt": b"light"}, dataset=lambda name: {"name": name})
    assert told.campaign == "light {'name': 'D'}"
    with pytest.raises(NotFound, match="there is no dataset 'D'"):
        read(helper, odd_readers.Asks(), sandbox={"beside.txt": b"light"})
    with pytest.raises(NotFound, match="there is no file"):
        read(helper, odd_readers.Asks())


def test_a_plan_comes_back_as_it_was(helper):
    step = read(helper, odd_readers.Asks(), sandbox={"beside.txt": b""}, dataset=lambda _: {}).steps[0]
    assert (step.tags, step.feeders, step.companions, step.files) == (("a",), (), (), ())


def test_a_document_beyond_measure_is_not_even_handed_on():
    with pytest.raises(Invalid, match="1000001 characters"):
        read_document(PlainObservatory(), "x" * (MAX_DOCUMENT + 1), {}, dataset)


def test_many_documents_are_read_by_one_helper(helper):
    for n in range(1, 21):
        document = '{"steps": [' + ",".join(['{"group_size": 1}'] * n) + "]}"
        assert len(read(helper, PlainObservatory(), document).steps) == n


def test_templates_are_read_there_too(helper):
    assert "dark" in helper.campaign(PlainObservatory(), "dark", "plain")["all.json"]
    with pytest.raises(Invalid, match="there is no campaign of kind 'plane'"):
        helper.campaign(PlainObservatory(), "dark", "plane")
