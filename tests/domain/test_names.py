"""Names are parsed once, at the edge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.domain.names import Fixity, Lfn, parse_lfn, scope_of, split_lfn


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("relative/name", "must be absolute"),
        ("", "must be absolute"),
        ("/", "part ''"),
        ("/vo//x", "part ''"),
        ("/vo/../etc/passwd", "part '..'"),
        ("/vo/./x", "part '.'"),
        ("/vo/.hidden", "part '.hidden'"),
        ("/vo/a b", "part 'a b'"),
        ("/vo/a\nb", r"part 'a\\nb'"),
        ("/vo/é", "part 'é'"),
        ("/vo/x/", "part ''"),
        ("/" + "a" * 250, "251 characters"),
    ],
)
def test_a_name_that_is_not_one_is_refused_with_the_part_that_is_wrong(text: str, part: str):
    with pytest.raises(Invalid, match=part):
        parse_lfn(text)


def test_a_name_of_the_field_is_accepted():
    assert parse_lfn("/ctao/acada/DL0/LSTN-01/TEL001_x.fits.fz") == "/ctao/acada/DL0/LSTN-01/TEL001_x.fits.fz"
    assert split_lfn(Lfn("/a/b/c")) == ("/a/b", "c")


@given(st.text())
def test_whatever_passes_stays_below_the_root(text: str):
    try:
        lfn = parse_lfn("/" + text)
    except Invalid:
        return
    assert ".." not in lfn.split("/")
    assert lfn.isascii()
    assert lfn.isprintable()
    assert parse_lfn(lfn) == lfn


@pytest.mark.parametrize(
    ("lfn", "scope"),
    [("/ctao/acada/DL0/x", "acada"), ("/ctao/user/maria/x", "user.maria"), ("/ctao/x", "root"), ("/x", "root")],
)
def test_the_scope_follows_from_the_name(lfn: str, scope: str):
    assert scope_of(Lfn(lfn)) == scope


@given(st.binary(max_size=50))
def test_adler32_keeps_its_leading_zeros(content: bytes):
    assert len(fixity_of([content]).adler32) == 8


def test_an_adler32_that_begins_with_zeros_is_found():
    assert fixity_of([b"\0"]).adler32 == "00010001"


@pytest.mark.parametrize("adler32", ["1", "ABCDEF01", "0x123456", "123456789"])
def test_a_checksum_in_another_form_is_refused(adler32: str):
    with pytest.raises(Invalid, match="not a fixity"):
        Fixity(1, "0" * 64, adler32)
