"""One document for many cases."""

import pytest

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.variants import variants

DOCUMENT = "array_layout: $layout\nparticle: ${particle}\noptions: $(rm) $layouts $other\n"


def test_there_is_a_production_for_each_combination_named_after_its_values():
    made = variants("p6", DOCUMENT, {"layout": ["Alpha", "Beta", "Gamma"], "particle": ["gamma", "proton"]})
    assert [variant.name for variant in made] == [
        "p6_Alpha_gamma", "p6_Alpha_proton", "p6_Beta_gamma", "p6_Beta_proton", "p6_Gamma_gamma", "p6_Gamma_proton",
    ]  # fmt: skip
    assert made[0].document == "array_layout: Alpha\nparticle: gamma\noptions: $(rm) $layouts $other\n"


def test_without_values_the_document_stays_as_it_is():
    (only,) = variants("p", DOCUMENT, {})
    assert (only.name, only.document) == ("p", DOCUMENT)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"lay": ["A"]}, "the document does not say $lay"),
        ({"layout": []}, "$layout needs values, each once"),
        ({"layout": ["A", "A"]}, "$layout needs values, each once"),
        ({"layout": ["A\nCommon: x"]}, "cannot be a value"),
        ({"layout": ["{a: b}"]}, "cannot be a value"),
        ({"(.*)": ["A"]}, "cannot stand for values"),
        (
            {"layout": [f"a{n}" for n in range(40)], "particle": [f"b{n}" for n in range(40)]},
            "these are 1600 productions",
        ),
    ],
)
def test_values_that_would_change_the_shape_of_a_document_are_refused(values, told):
    with pytest.raises(Invalid) as caught:
        variants("p", DOCUMENT, values)
    assert told in caught.value.message
