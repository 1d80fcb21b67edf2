"""The graph of a production is drawn as text, for Graphviz, and as a picture."""

from xml.etree import ElementTree

from lightkeeper.domain.graph import Node, as_dot, as_svg, as_text

NODES = [
    Node(1, "Process", "Completed", share=1.0, told="200 of 200 files"),
    Node(2, "Merge", "Active", (1,), 0.999, "119 of 120 files", 1),
    Node(3, "Train <b>", "Active", (2, 1), 0.0, "0 of 4 files"),
    Node(10, "Merge again", "New", (1,)),
    Node(11, "Other", "Stopped", share=0.5),
]


def test_children_stand_below_their_parents_with_how_far_they_are():
    assert as_text(NODES).splitlines() == [
        "1 Process                       ██████████ 100 %  Completed  200 of 200 files",
        "├─ 2 Merge                      █████████░  99 %  Active  119 of 120 files, 1 failed",
        "│  └─ 3 Train <b> (and step 1)  ░░░░░░░░░░   0 %  Active  0 of 4 files",
        "└─ 10 Merge again               New",
        "11 Other                        █████░░░░░  50 %  Stopped",
    ]


def test_ten_and_more_steps_keep_their_order():
    nodes = [Node(n, f"s{n}", "New", (n - 1,) if n > 1 else ()) for n in range(1, 13)]
    assert [line.strip("└─ ").split()[0] for line in as_text(nodes).splitlines()] == [str(n) for n in range(1, 13)]


def test_what_is_not_whole_is_never_said_to_be():
    assert "100 %" not in as_text([Node(1, "a", "Active", share=0.9999)])


def test_graphviz_is_told_of_every_step_and_link_and_names_cannot_break_out():
    told = as_dot('p"; x [', NODES)
    assert told.startswith('digraph "p\\"; x [" {')
    assert "s1 -> s2;" in told and "s2 -> s3;" in told and "s1 -> s3;" in told
    assert told.count("label=") == len(NODES)


def test_the_picture_is_xml_with_a_box_for_every_step_and_nothing_that_runs():
    root = ElementTree.fromstring(as_svg("<script>", NODES))  # noqa: S314
    name = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{name}title").text == "<script>"
    assert len(root.findall(f"{name}text")) == 3 * len(NODES)
    assert len(root.findall(f"{name}path")) == 4
    assert not root.findall(f".//{name}script")


def test_boxes_of_the_picture_never_cover_each_other():
    nodes = [Node(n, f"s{n}", "New", (max(1, n // 3),) if n > 1 else ()) for n in range(1, 40)]
    root = ElementTree.fromstring(as_svg("p", nodes))  # noqa: S314
    places = [(box.get("x"), box.get("y")) for box in root.findall("{http://www.w3.org/2000/svg}rect")]
    assert len(set(places)) == len(nodes)
