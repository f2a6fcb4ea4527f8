"""Findings stand on a page only beside the data that they were written for, or with a warning."""

import pytest
from vaco.errors import UserError
from vaco_lab.findings import advice, findings, stamp_of

ROWS = [
    {"algorithm": "vaco", "seed": 0, "final_return": 1.5, "seconds": 3.0, "evaluation_seconds": 1},
    {"algorithm": "ppo", "seed": 0, "final_return": 2.5, "seconds": 4.0, "evaluation_seconds": 1},
]
OTHER = stamp_of([ROWS[0], {**ROWS[1], "final_return": 2.6}])
STAMP = stamp_of(ROWS)


@pytest.fixture
def said(tmp_path):
    """Writes findings and returns what the page says of them."""

    def write(text):
        path = tmp_path / "lag.md"
        path.write_text(text)
        return "\n".join(findings(path, STAMP)), advice(path, STAMP)

    return write


def test_a_stamp_is_of_what_came_out_and_not_of_how_long_it_took():
    assert STAMP.rows == 2
    assert stamp_of([{**ROWS[1], "seconds": 9.0, "evaluation_seconds": 7}, ROWS[0]]) == STAMP
    assert OTHER.digest != STAMP.digest
    assert stamp_of(ROWS[:1]) != STAMP


def test_findings_of_these_data_stand_there_as_they_are(said):
    page, told = said(f"{STAMP}\n\nPPO **wins**.\n")
    assert page == "PPO **wins**."
    assert "written for these rows" in told


def test_findings_of_other_data_are_called_that(said):
    page, told = said(f"{OTHER}\nPPO wins.\n")
    first, _, rest = page.partition("\n")
    assert first.startswith("**The text below was written for other data:** 2 runs")
    assert OTHER.digest in first
    assert STAMP.digest in first
    assert rest.strip() == "PPO wins."
    assert told.endswith(f"written for other rows; the first line for these rows is {STAMP}")


def test_findings_without_a_stamp_are_not_believed_either(said):
    page, told = said("PPO wins.")
    assert page.startswith("**The text below does not say which data it was written for.**")
    assert "PPO wins." in page
    assert str(STAMP) in told


def test_without_findings_nothing_is_said_but_to_their_author(tmp_path):
    path = tmp_path / "lag.md"
    assert list(findings(path, STAMP)) == []
    assert advice(path, STAMP) == (
        f"findings: {path}, not there yet; the first line for these rows is {STAMP}"
    )


def test_findings_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "lag.md"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"lag\.md.*cannot be read.*UTF-8"):
        list(findings(path, STAMP))
